"""Labelled texts beside GLUE's: inference (SNLI), and questions and stories with answers to choose from (RACE, Story Cloze)."""

import csv
import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

from common.data.files import content
from common.data.glue import TASKS
from common.data.labelled import Hub, Labelled, Row, collect, find, shard_rows
from common.data.parallel import WITHOUT, is_shard, lines_of
from common.errors import BadInput

SHARDS = {"train": "train", "dev": "validation", "test": "test"}  # split -> what Hugging Face calls it
SNLI_CLASSES = TASKS["mnli"].classes
LEVELS = ("middle", "high")
LETTERS = {"A": 0, "B": 1, "C": 2, "D": 3}
STORIES = {
    "dev": "cloze_test_val__spring2016 - cloze_test_ALL_val.csv",  # train and dev are parts of it
    "test": "cloze_test_test__spring2016 - cloze_test_ALL_test.csv",
}
STORY = tuple(f"InputSentence{i}" for i in (1, 2, 3, 4))
ENDINGS = ("RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2")
BOTH, PARTS = 1871, {"test_size": 374, "random_state": 3535999445}  # datasets.py of openai/finetune-transformer-lm


def snli(data_dir: Path, split: str) -> Labelled:
    """Premises and hypotheses: entailment 0, neutral 1, contradiction 2. Nothing is downloaded: `fetch_snli` does that.

    From snli_1.0_<split>.jsonl in data_dir/snli_1.0 or data_dir/snli; else Hugging Face's data_dir/snli/plain_text/*.parquet. Pairs
    that the annotators did not agree on are left out, in every split.

    Args:
        split: train, dev or test.

    Raises:
        BadInput: it is not there, incomplete or damaged; says what was looked for, and what to do.
    """
    known("SNLI", split, SHARDS)
    hub = snli_hub(data_dir)
    files = find("SNLI", snli_places(data_dir, split), hub.help)
    if is_shard(files[0]):
        columns = {"premise": str, "hypothesis": str, "label": int}
        found = shard_rows("SNLI", files, columns, hub.help)
        rows = ((where, None if label == -1 else texts, label) for where, (*texts, label) in found)
    else:
        rows = snli_rows(files[0], hub.help)
    return collect("SNLI", files, rows, hub.help, width=2, classes=3, training=split == "train")


def fetch_snli(data_dir: Path) -> None:
    """Download Hugging Face's shards into data_dir/snli, unless all splits are there in either layout.

    For the main process only; several runs may do it at once. Killed at any moment it leaves whole shards, or none.

    Raises:
        BadInput: they cannot be had; the folder cannot be written or read.
    """
    snli_hub(data_dir).fetch(data_dir, *(snli_places(data_dir, split) for split in SHARDS))


def snli_hub(data_dir: Path) -> Hub:
    revision = "cdb5c3d5eed6ead6e5a341c8e56e669bb666725b"
    return Hub("SNLI", "stanfordnlp/snli", revision, "plain_text/*", data_dir / "snli", "snli_1.0_*.jsonl of snli_1.0.zip")


def snli_places(data_dir: Path, split: str) -> list[Path]:
    own = [data_dir / folder / f"snli_1.0_{split}.jsonl" for folder in ("snli_1.0", "snli")]
    return [*own, data_dir / "snli/plain_text" / f"{SHARDS[split]}-*.parquet"]


def snli_rows(path: Path, help_line: str) -> Iterator[Row]:
    for number, line in enumerate(lines_of(path, "SNLI"), 1):
        where = f"{path.absolute()}: line {number:,}"
        try:
            row = json.loads(line)
            label, texts = row["gold_label"], [row["sentence1"], row["sentence2"]]
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"SNLI: {where} is no JSON object of gold_label, sentence1 and sentence2: {help_line}") from error
        yield where, None if label == "-" else texts, SNLI_CLASSES.index(label) if label in SNLI_CLASSES else label


def race(data_dir: Path, split: str, level: str) -> Labelled:
    """Questions about articles: the texts are article, question and answers A to D, the label is which. `fetch_race` downloads it.

    From <split>/<level>/*.txt in data_dir/RACE or data_dir/race; else Hugging Face's <level>/*.parquet there. An empty question or
    answer is a text like others: only an article may not be empty.

    Args:
        split: train, dev or test.
        level: middle or high.

    Raises:
        BadInput: it is not there, incomplete or damaged; says what was looked for, and what to do.
    """
    known("RACE", split, SHARDS)
    known("RACE", level, LEVELS, "level")
    hub = race_hub(data_dir)
    files = find("RACE", race_places(data_dir, split, level), hub.help)
    if is_shard(files[0]):
        columns = {"article": str, "question": str, "options": list, "answer": str}
        found = shard_rows("RACE", files, columns, hub.help)
        rows = ((where, (one, two, *(options or ())), LETTERS.get(x, x)) for where, (one, two, options, x) in found)
    else:
        files.sort(key=lambda path: (len(path.stem), path.stem))  # 9.txt before 10.txt
        rows = race_rows(files, hub.help)
    return collect("RACE", files, rows, hub.help, width=6, classes=4, training=split == "train", needed=1)


def fetch_race(data_dir: Path) -> None:
    """Download Hugging Face's shards into data_dir/race, unless all splits of both levels are there in either layout.

    For the main process only; several runs may do it at once. Killed at any moment it leaves whole shards, or none.

    Raises:
        BadInput: they cannot be had; the folder cannot be written or read.
    """
    race_hub(data_dir).fetch(data_dir, *(race_places(data_dir, split, level) for split in SHARDS for level in LEVELS))


def race_hub(data_dir: Path) -> Hub:
    revision = "2fec9fd81f1dc971569a9b729c43f2f0e6436637"
    files = "the folders train, dev and test of RACE.tar.gz"
    return Hub("RACE", "ehovy/race", revision, "[mh]*/*-of-*.parquet", data_dir / "race", files)  # middle and high, not all


def race_places(data_dir: Path, split: str, level: str) -> list[Path]:
    folders = [data_dir / name for name in ("RACE", "race")]
    own = [folder / split / level / "*.txt" for folder in folders]
    return own + [folder / level / f"{SHARDS[split]}-*.parquet" for folder in folders[::-1]]


def race_rows(paths: list[Path], help_line: str) -> Iterator[Row]:
    for path in paths:
        try:
            whole = json.loads(content(path, "RACE"))
            article, parts = whole["article"], (whole["questions"], whole["options"], whole["answers"])
            asked = [(question, tuple(options), LETTERS.get(x, x)) for question, options, x in zip(*parts, strict=True)]
        except (ValueError, KeyError, TypeError) as error:
            wrong = "is no JSON object of an article and as many questions as options and answers"
            raise BadInput(f"RACE: {path.absolute()} {wrong}: {help_line}") from error
        for number, (question, options, label) in enumerate(asked, 1):
            yield f"{path.absolute()}: question {number}", (article, question, *options), label


def story_cloze(data_dir: Path, split: str) -> Labelled:
    """Stories and two endings: the texts are the first four sentences as one, and the endings; the label is which one is right.

    From the files of 2016 in data_dir/storycloze, which their authors send on request. Train and dev are parts of the validation
    file, the same as in the code of Radford et al. (2018).

    Args:
        split: train (1,497), dev (374) or test (1,871).

    Raises:
        BadInput: it is not there, or damaged; says what was looked for, and what to do.
    """
    known("Story Cloze", split, SHARDS)
    folder, file = (data_dir / "storycloze").absolute(), STORIES["test" if split == "test" else "dev"]
    help_line = (
        f'ask its authors for "{file}" (cs.rochester.edu/nlp/rocstories) and put it into {folder}, or name another folder with '
        f"--data-dir; without it runs {WITHOUT}"
    )
    files = find("Story Cloze", [folder / file], help_line)
    rows = list(story_rows(files[0], help_line))
    if split != "test":
        from sklearn.model_selection import train_test_split

        if len(rows) != BOTH:
            raise BadInput(f"Story Cloze: {files[0]} holds {len(rows):,} stories, not {BOTH:,}: another version; {help_line}")
        rows = train_test_split(rows, **PARTS)[split == "dev"]
    return collect("Story Cloze", files, rows, help_line, width=3, classes=2, training=split == "train")


def story_rows(path: Path, help_line: str) -> Iterator[Row]:
    try:
        reader = csv.DictReader(StringIO((content(path, "Story Cloze") or b"").decode("utf-8-sig"), newline=""))
        wanted = (*STORY, *ENDINGS, "AnswerRightEnding")
        if not set(wanted) <= set(reader.fieldnames or ()):
            have = ", ".join(reader.fieldnames or ("none",))
            raise BadInput(f"Story Cloze: {path} has columns {have}, not {', '.join(wanted)}: {help_line}")
        for row in reader:
            where = f"{path}: line {reader.line_num:,}"
            if None in row or None in row.values():
                raise BadInput(f"Story Cloze: {where} has not {len(reader.fieldnames)} columns: {help_line}")
            answer = row["AnswerRightEnding"]
            texts = (" ".join(row[column] for column in STORY), *(row[column] for column in ENDINGS))
            yield where, texts, int(answer) - 1 if answer in ("1", "2") else answer
    except UnicodeDecodeError as error:
        raise BadInput(f"Story Cloze: {path} is not UTF-8 (byte {error.start + 1}: {error.reason}): {help_line}") from error
    except csv.Error as error:
        raise BadInput(f"Story Cloze: {path}: line {reader.line_num:,} is no csv ({error}): {help_line}") from error


def known(name: str, given: str, wanted: object, what: str = "split") -> None:
    """Raises BadInput: there is no such split or level."""
    if given not in wanted:
        raise BadInput(f"{name}: no {what} {given}: name one of {', '.join(wanted)}")
