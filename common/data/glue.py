"""The tasks of GLUE, downloaded where they are missing.

A row of a tsv file ends at a newline character only and is split at tabs: quotes are text.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from math import isfinite
from pathlib import Path

from common.data.labelled import HIDDEN, Hub, Labelled, Row, collect, find, shard_rows
from common.data.parallel import is_shard, lines_of
from common.errors import BadInput

GLUE_HUB = "nyu-mll/glue"  # a data set of Hugging Face
GLUE_REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"


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
