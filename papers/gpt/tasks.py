"""The paper's tasks beside GLUE's: inference (SNLI), and questions and stories with answers to choose from (RACE, Story Cloze)."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from common.data.fetch import GET
from common.data.glue import TASKS, Labelled, Row, labelled
from common.data.hub import Hub
from common.data.rows import lines, shard_rows
from common.errors import BadInput

SHARDS = {"train": "train", "dev": "validation", "test": "test"}  # split -> what the hub calls it
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

    From snli_1.0_<split>.jsonl in data_dir/snli_1.0 or data_dir/snli; else the hub's data_dir/snli/plain_text/*.parquet. Pairs
    that the annotators did not agree on are left out, in every split.

    Args:
        split: train, dev or test.

    Raises:
        BadInput: it is not there, incomplete or damaged; says what was looked for, and what to do.
    """
    hub, [places] = of_snli(data_dir, split)
    return labelled("SNLI", hub.files(places), snli_rows, hub.advice, classes=3, training=split == "train")


def fetch_snli(data_dir: Path) -> None:
    """Download the hub's shards into data_dir/snli, unless all splits are there in either layout. Raises BadInput: see Hub."""
    hub, places = of_snli(data_dir, *SHARDS)
    hub.fetch(data_dir, places)


def of_snli(data_dir: Path, *splits: str) -> tuple[Hub, list[list[Path]]]:
    to, revision = data_dir / "snli", "cdb5c3d5eed6ead6e5a341c8e56e669bb666725b"
    hub = Hub("SNLI", "stanfordnlp/snli", revision, "plain_text/*", to, "snli_1.0_*.jsonl of snli_1.0.zip")
    own = {split: [data_dir / folder / f"snli_1.0_{split}.jsonl" for folder in ("snli_1.0", "snli")] for split in splits}
    return hub, [[*own[split], to / "plain_text" / f"{SHARDS[split]}-*.parquet"] for split in splits]


def snli_rows(path: Path) -> Iterator[Row]:
    if path.suffix == ".parquet":
        for *texts, label in shard_rows(path, ["premise", "hypothesis", "label"]):
            yield None if label == -1 else texts, label
    else:
        for row in map(json.loads, lines(path)):
            label, texts = row["gold_label"], [row["sentence1"], row["sentence2"]]
            yield None if label == "-" else texts, SNLI_CLASSES.index(label) if label in SNLI_CLASSES else label


def race(data_dir: Path, split: str, level: str) -> Labelled:
    """Questions about articles: the texts are article, question and answers A to D, the label is which. `fetch_race` downloads it.

    From <split>/<level>/*.txt in data_dir/RACE or data_dir/race; else the hub's <level>/*.parquet there. An empty question or
    answer is a text like others: only an article may not be empty.

    Args:
        split: train, dev or test.
        level: middle or high.

    Raises:
        BadInput: it is not there, incomplete or damaged; says what was looked for, and what to do.
    """
    hub, [places] = of_race(data_dir, (split, level))
    paths = sorted(hub.files(places), key=lambda path: (len(path.stem), path.stem))  # 9.txt before 10.txt
    return labelled("RACE", paths, race_rows, hub.advice, classes=4, training=split == "train", needed=1)


def fetch_race(data_dir: Path) -> None:
    """Download the hub's shards into data_dir/race, unless all splits of both levels are there in either layout.

    Raises:
        BadInput: see Hub.
    """
    hub, places = of_race(data_dir, *((split, level) for split in SHARDS for level in LEVELS))
    hub.fetch(data_dir, places)


def of_race(data_dir: Path, *parts: tuple[str, str]) -> tuple[Hub, list[list[Path]]]:
    to, files = data_dir / "race", "the folders train, dev and test of RACE.tar.gz"
    pattern, revision = "[mh]*/*-of-*.parquet", "2fec9fd81f1dc971569a9b729c43f2f0e6436637"  # middle and high, not all
    own = [[data_dir / name / split / level / "*.txt" for name in ("RACE", "race")] for split, level in parts]
    shards = [to / level / f"{SHARDS[split]}-*.parquet" for split, level in parts]
    return Hub("RACE", "ehovy/race", revision, pattern, to, files), [[*a, b] for a, b in zip(own, shards, strict=True)]


def race_rows(path: Path) -> Iterator[Row]:
    if path.suffix == ".parquet":
        rows = shard_rows(path, ["article", "question", "options", "answer"])
    else:
        whole = json.loads(path.read_bytes())
        asked = zip(whole["questions"], whole["options"], whole["answers"], strict=True)
        rows = ((whole["article"], *each) for each in asked)
    for number, (article, question, options, answer) in enumerate(rows, 1):
        if len(options) != 4 or not all(isinstance(text, str) for text in (question, *options)):
            raise ValueError(f"question {number:,} has not four answers")
        yield (article, question, *options), LETTERS.get(answer, answer)


def story_cloze(data_dir: Path, split: str) -> Labelled:
    """Stories and two endings: the texts are the first four sentences as one, and the endings; the label is which one is right.

    From the files of 2016 in data_dir/storycloze, which their authors send on request. Train and dev are parts of the validation
    file, the same as in the code of Radford et al. (2018).

    Args:
        split: train (1,497), dev (374) or test (1,871).

    Raises:
        BadInput: it is not there, or damaged; says what was looked for, and what to do.
    """
    path = (data_dir / "storycloze" / STORIES["test" if split == "test" else "dev"]).absolute()
    advice = GET.format("from its authors (cs.rochester.edu/nlp/rocstories)")
    if not path.exists():
        raise BadInput(f"Story Cloze: there is no {path}: {advice}")
    rows = lambda path: story_rows(path, split)
    return labelled("Story Cloze", [path], rows, advice, classes=2, training=split == "train")


def story_rows(path: Path, split: str) -> list[Row]:
    rows = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), 1):
            if None in row or None in row.values():
                raise ValueError(f"row {number:,} has too many columns, or too few")
            texts = (" ".join(row[column] for column in STORY), *(row[column] for column in ENDINGS))
            rows.append((texts, int(row["AnswerRightEnding"]) - 1))
    if split == "test":
        return rows
    from sklearn.model_selection import train_test_split

    if len(rows) != BOTH:
        raise ValueError(f"it holds {len(rows):,} stories, not {BOTH:,}")
    return train_test_split(rows, **PARTS)[split == "dev"]
