"""Labelled texts: the tasks of GLUE, downloaded where they are missing; and what the readers of other labelled texts share.

A row of a tsv file ends at a newline character only and is split at tabs: quotes are text.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import filter as matching
from itertools import chain
from math import isfinite
from pathlib import Path

from common.data.files import from_hub
from common.data.parallel import WITHOUT, announced, is_shard, is_text, lines_of, sha256_of
from common.errors import BadInput

GLUE_HUB = "nyu-mll/glue"  # a data set of Hugging Face
GLUE_REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"  # its main since January 2024
HIDDEN = -1
Row = tuple[str, Sequence[str] | None, object]  # where it stands; its texts, None: to be left out; its label, HIDDEN among them


@dataclass(frozen=True)
class Labelled:
    """Examples of a task: each a few texts, and the answer."""

    texts: list[tuple[str, ...]]  # as many texts to an example as the task has
    labels: list[int] | list[float] | None  # class number, or score (STS-B); None: hidden, as on GLUE's test sets
    sha256: str  # of the files as they lie there, in order
    left_out: int = 0  # rows that are no examples: broken, unlabelled, or, only in a training split, with an empty text

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Hub:
    """A data set of Hugging Face, or the official files instead."""

    name: str  # for messages and hidden files
    repository: str
    revision: str
    pattern: str  # of the files
    to: Path  # where these keep their paths, and the official ones go
    official: str

    @property
    def help(self) -> str:
        return (
            f"get it with `hf download {self.repository} --repo-type dataset --revision {self.revision} --include "
            f'"{self.pattern}" --local-dir {self.to.absolute()}`, or put {self.official} there, or name another folder with '
            f"--data-dir; without it runs {WITHOUT}"
        )

    def fetch(self, data_dir: Path, *splits: Sequence[Path]) -> None:
        """Download it, unless each split is whole in one of its places. Raises BadInput: see `from_hub`."""
        from_hub(
            data_dir, self.to, name=self.name, repository=self.repository, revision=self.revision, patterns=[self.pattern],
            lacks=lambda: not all(whole(find(self.name, places)) for places in splits),
            wanted=" or ".join(str(places[0].absolute()) for places in splits), advice=self.help, without=WITHOUT,
        )  # fmt: skip


@dataclass(frozen=True)
class Task:
    """A task of GLUE. Its key in TASKS is the name of its shards' folder."""

    folder: str  # in GLUE's own layout; the submission is called so too
    texts: tuple[str, ...]  # columns of the tsv files
    label: str
    classes: tuple[str, ...] = ()  # in the order of their numbers; none: a score from 0 to 5
    named: bool = False  # tsv files and submissions say a class's name, not its number
    columns: tuple[str, ...] = ()  # the texts' in shards, where they are called otherwise
    bare: tuple[str, ...] = ()  # columns of the train and dev files that have no header
    cut: bool = False  # the official train and dev files have rows that a newline cuts in two
    splits: tuple[str, ...] = ("train", "dev", "test")


PAIR, ENTAILED = ("sentence1", "sentence2"), ("entailment", "not_entailment")
TASKS = {
    "cola": Task("CoLA", ("sentence",), "label", ("unacceptable", "acceptable"), bare=("source", "label", "star", "sentence")),
    "sst2": Task("SST-2", ("sentence",), "label", ("negative", "positive")),
    "mrpc": Task("MRPC", ("#1 String", "#2 String"), "Quality", ("not_equivalent", "equivalent"), columns=PAIR),
    "stsb": Task("STS-B", PAIR, "score"),
    "qqp": Task("QQP", ("question1", "question2"), "is_duplicate", ("not_duplicate", "duplicate"), cut=True),
    "mnli": Task(
        "MNLI", PAIR, "gold_label", ("entailment", "neutral", "contradiction"), named=True, columns=("premise", "hypothesis"),
        splits=("train", "dev_matched", "dev_mismatched", "test_matched", "test_mismatched"),
    ),
    "qnli": Task("QNLI", ("question", "sentence"), "label", ENTAILED, named=True),
    "rte": Task("RTE", PAIR, "label", ENTAILED, named=True),
}  # fmt: skip
SUBMISSION = {"test": ".tsv", "test_matched": "-m.tsv", "test_mismatched": "-mm.tsv"}


def glue(data_dir: Path, task: str, split: str) -> Labelled:
    """A split of a task from data_dir/glue. Nothing is downloaded: `fetch_glue` does that.

    GLUE's own files: CoLA/train.tsv and so on. Where a split has none, Hugging Face's shards: cola/train-*.parquet and so on.

    Args:
        task: cola, sst2, mrpc, stsb, qqp, mnli, qnli or rte.
        split: train, dev or test; of mnli train, dev_matched, dev_mismatched, test_matched or test_mismatched.

    Raises:
        BadInput: it is not there, incomplete or damaged; says what was looked for, and what to do.
    """
    kind, hub, hidden = task_of(task, split), hub_of(data_dir, task), split.startswith("test")
    files = find("GLUE", glue_places(data_dir, task, split), hub.help)
    if is_shard(files[0]):
        columns = dict.fromkeys(kind.columns or kind.texts, str) | {"label": int if kind.classes else float}
        rows = ((where, texts, label) for where, (*texts, label) in shard_rows("GLUE", files, columns, hub.help))
    else:
        rows = tsv_rows(files[0], kind, hub.help, labelled=not hidden)
    rules = {"width": len(kind.texts), "classes": len(kind.classes), "training": split == "train", "hidden": hidden}
    return collect("GLUE", files, rows, hub.help, **rules)


def fetch_glue(data_dir: Path, task: str) -> None:
    """Download Hugging Face's shards of a task into data_dir/glue/<task>, unless its train and dev splits are there in any layout.

    For the main process only; several runs may do it at once. Killed at any moment it leaves whole shards, or none.

    Raises:
        BadInput: they cannot be had; the folder cannot be written or read.
    """
    splits = [split for split in task_of(task).splits if not split.startswith("test")]
    hub_of(data_dir, task).fetch(data_dir, *(glue_places(data_dir, task, split) for split in splits))


def write_submission(path: Path, task: str, predictions: Sequence[int | float], split: str = "test") -> None:
    """The file that GLUE's server takes, CoLA.tsv and so on, in the folder `path`: a row to an example, in the test split's order.

    Args:
        predictions: class numbers; of stsb scores, which are clipped to [0, 5].
        split: of mnli test_matched (MNLI-m.tsv) or test_mismatched (MNLI-mm.tsv).

    Raises:
        BadInput: there is no such task or test split; the file cannot be written.
        ValueError: a prediction is no class, or not finite.
    """
    kind = task_of(task, split)
    if split not in SUBMISSION:
        raise BadInput(f"GLUE: {split} of {task} is not submitted: name {' or '.join(set(kind.splits) & set(SUBMISSION))}")
    rows = ["index\tprediction"]
    for i, prediction in enumerate(predictions):
        if not (prediction in range(len(kind.classes)) if kind.classes else isfinite(prediction)):
            raise ValueError(f"prediction {i} of {task} is {prediction}")
        number = int(prediction) if kind.classes else f"{min(max(float(prediction), 0.0), 5.0):.3f}"
        rows.append(f"{i}\t{kind.classes[int(prediction)] if kind.named else number}")
    to = path / f"{kind.folder}{SUBMISSION[split]}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        to.write_text("\n".join(rows) + "\n")
    except OSError as error:
        raise BadInput(f"GLUE: cannot write {to.absolute()}: {error.strerror}") from error


def task_of(task: str, split: str | None = None) -> Task:
    """Raises BadInput: there is no such task, or it has no such split."""
    if task not in TASKS:
        raise BadInput(f"GLUE: no task {task}: name one of {', '.join(TASKS)}")
    if split not in (None, *TASKS[task].splits):
        raise BadInput(f"GLUE: no {split} split of {task}: name one of {', '.join(TASKS[task].splits)}")
    return TASKS[task]


def glue_places(data_dir: Path, task: str, split: str) -> list[Path]:
    own, hub = data_dir / "glue" / TASKS[task].folder, data_dir / "glue" / task
    shards = f"{split.replace('dev', 'validation')}-*.parquet"
    return [own / f"{split}.tsv", hub / f"{split}.tsv", hub / shards, own / shards]


def hub_of(data_dir: Path, task: str) -> Hub:
    return Hub("GLUE", GLUE_HUB, GLUE_REVISION, f"{task}/*", data_dir / "glue", f"GLUE's own {TASKS[task].folder}/*.tsv")


def find(name: str, places: Sequence[Path], help_line: str | None = None) -> list[Path]:
    """The files of the first place, a folder and a pattern of names, that has any. Raises BadInput: none has, and a help_line."""
    for place in places:
        try:
            found = matching(os.listdir(place.parent), place.name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise BadInput(f"{name}: cannot read {place.parent.absolute()}: {error.strerror}") from error
        if found:
            return [place.parent / file for file in sorted(found)]
    if help_line:
        raise BadInput(f"{name}: there is no {', no '.join(str(place.absolute()) for place in places)}: {help_line}")
    return []


def whole(files: Sequence[Path]) -> bool:
    """Whether a split is there; if its shards say how many there are, all of one such set."""
    names = {path.name for path in files}
    said = announced(names)
    return bool(files) and (not said or any(every <= names for _, every in said))


def tsv_rows(path: Path, task: Task, help_line: str, *, labelled: bool) -> Iterator[Row]:
    """Raises BadInput: columns or a label are not the task's; what `lines_of` raises."""
    there, lines = path.absolute(), lines_of(path, "GLUE")
    first = next(lines).removeprefix("\ufeff")
    bare = labelled and task.bare
    header = task.bare if bare else first.split("\t")
    if not {*task.texts, *([task.label] if labelled else [])} <= set(header):
        wanted = ", ".join((*task.texts, task.label) if labelled else task.texts)
        raise BadInput(f"GLUE: {there}: line 1 names the columns {', '.join(header)}, not {wanted}: {help_line}")
    texts, label = [header.index(column) for column in task.texts], header.index(task.label) if task.label in header else None
    numbers = {name if task.named else str(i): i for i, name in enumerate(task.classes)}
    for number, line in enumerate(chain([first], lines) if bare else lines, 1 if bare else 2):
        cells, where = line.split("\t"), f"{there}: line {number:,}"
        if len(cells) == len(header):
            value = HIDDEN if label is None else numbers.get(cells[label], cells[label])
            with suppress(ValueError):
                value = value if numbers else float(value)
            yield where, [cells[i] for i in texts], value
        elif labelled and task.cut:
            yield where, None, None
        else:
            raise BadInput(f"GLUE: {where} has {len(cells)} columns, not {len(header)} (a tab in a text?): {help_line}")


def shard_rows(name: str, paths: Sequence[Path], columns: Mapping[str, type], help_line: str) -> Iterator[tuple[str, tuple]]:
    """Where each row of Hugging Face's shards stands, and its values in the columns, name -> str, int, float or list.

    Raises:
        BadInput: a shard is missing or damaged, or lacks such columns.
    """
    from pyarrow import ArrowException, types
    from pyarrow.parquet import ParquetFile

    fits = {str: types.is_string, int: types.is_integer, float: types.is_floating, list: types.is_list}
    folder, names = paths[0].parent.absolute(), {path.name for path in paths}
    for what, every in announced(names):
        if names != every:
            odd = "; ".join(f"{word} {min(some)}" for word, some in (("no", every - names), ("but", names - every)) if some)
            raise BadInput(f"{name}: {folder} holds {len(names & every)} of {len(every)} {what} shards ({odd}): {help_line}")
    for path in (folder / path.name for path in paths):
        try:
            with ParquetFile(path) as file:
                there = {field.name: field.type for field in file.schema_arrow}
                if not all(column in there and fits[kind](there[column]) for column, kind in columns.items()):
                    have = ", ".join(f"{column} ({kind})" for column, kind in there.items())
                    want = ", ".join(f"{column} ({kind.__name__})" for column, kind in columns.items())
                    raise BadInput(f"{name}: {path} has columns {have}, not {want}: {help_line}")
                values = [file.read([column]).column(0).to_pylist() for column in columns]
        except (OSError, ArrowException, UnicodeDecodeError) as error:
            raise BadInput(f"{name}: {path} is damaged ({' '.join(str(error).split())}): delete it and {help_line}") from error
        yield from ((f"{path}: row {row:,}", cells) for row, cells in enumerate(zip(*values, strict=True), 1))


def collect(
    name: str, files: Sequence[Path], rows: Iterable[Row], help_line: str, *, width: int, classes: int, training: bool,
    hidden: bool = False, needed: int | None = None,
) -> Labelled:  # fmt: skip
    """The examples among the rows of files.

    Args:
        width: texts to an example.
        classes: how many; 0: the labels are scores from 0 to 5.
        training: leave out rows with an empty text, and count them. Elsewhere they are refused.
        hidden: all labels may be.
        needed: how many of the texts, from the first, may not be empty; None: all.

    Raises:
        BadInput: a row has not these texts and such a label; there is none; says where.
    """
    texts, labels, left_out = [], [], 0
    wanted = f"a class number below {classes}" if classes else "a score from 0 to 5"
    for where, some, label in rows:
        sound = some is not None and len(some) == width and all(isinstance(text, str) for text in some)
        full = sound and all(is_text(text) for text in some[:needed])
        if some is None or (training and sound and not full):
            left_out += 1
            continue
        known = isinstance(label, int | float) and (label in range(classes) if classes else 0 <= label <= 5)
        if not full or not (known or (hidden and label == HIDDEN)):
            fault = f"the label {label}, not {wanted}" if full else "an empty text" if sound else f"not {width} texts"
            raise BadInput(f"{name}: {where} has {fault}: {help_line}")
        texts.append(tuple(some))
        labels.append(label if classes else round(label, 3))  # as the tsv files have it; shards have 32 bits
    if not texts:
        raise BadInput(f"{name}: no example in {files[0].absolute()}{' and the others' * (len(files) > 1)}: {help_line}")
    if HIDDEN in labels and set(labels) != {HIDDEN}:
        raise BadInput(f"{name}: some labels in {files[0].absolute()} are hidden and some are not: {help_line}")
    return Labelled(texts, None if HIDDEN in labels else labels, sha256_of(files, name), left_out)
