"""The tasks of GLUE, downloaded where they are missing; and labelled texts, as others may have them.

A row of a tsv file ends at a newline character only and is split at tabs: quotes are text.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from common.data.fetch import sha256
from common.data.hub import Hub
from common.data.rows import is_text, lines, reading, shard_rows

HIDDEN = -1
Row = tuple[Sequence[str] | None, object]  # an example's texts, None: to be left out; its label


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

    GLUE's own files: CoLA/train.tsv and so on. Where a split has none, the hub's shards: cola/train-*.parquet and so on.

    Args:
        task: a key of TASKS.
        split: one of its splits.

    Raises:
        BadInput: it is not there, incomplete or damaged; says what was looked for, and what to do.
    """
    (hub, [places]), kind = of_glue(data_dir, task, [split]), TASKS[task]
    columns, hidden, training = (*(kind.columns or kind.texts), "label"), split.startswith("test"), split == "train"

    def rows(path: Path) -> Iterable[Row]:
        if path.suffix == ".tsv":
            return tsv_rows(path, kind, hidden=hidden)
        return ((texts, label) for *texts, label in shard_rows(path, columns))

    return labelled("GLUE", hub.files(places), rows, hub.advice, classes=len(kind.classes), training=training, hidden=hidden)


def fetch_glue(data_dir: Path, task: str) -> None:
    """Download the hub's shards of a task, unless its train and dev splits are there in either layout. Raises BadInput: see Hub."""
    hub, places = of_glue(data_dir, task, [split for split in TASKS[task].splits if not split.startswith("test")])
    hub.fetch(data_dir, places)


def of_glue(data_dir: Path, task: str, splits: Sequence[str]) -> tuple[Hub, list[list[Path]]]:
    """The places of these splits."""
    to, own = data_dir / "glue", TASKS[task].folder
    hub = Hub("GLUE", "nyu-mll/glue", "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c", f"{task}/*", to, f"GLUE's own {own}/*.tsv")
    shards = {split: f"{split.replace('dev', 'validation')}-*.parquet" for split in splits}
    return hub, [[to / own / f"{split}.tsv", to / task / f"{split}.tsv", to / task / shards[split]] for split in splits]


def tsv_rows(path: Path, task: Task, *, hidden: bool) -> Iterator[Row]:
    """Raises ValueError: columns or a score are not the task's; what `lines` raises."""
    rows = (line.split("\t") for line in lines(path))
    header = task.bare if task.bare and not hidden else [cell.removeprefix("\ufeff") for cell in next(rows)]
    texts, label = [header.index(column) for column in task.texts], None if hidden else header.index(task.label)
    numbers = {name if task.named else str(i): i for i, name in enumerate(task.classes)}
    for number, cells in enumerate(rows, 1):
        if len(cells) == len(header):
            answer = HIDDEN if hidden else cells[label]
            yield [cells[i] for i in texts], numbers.get(answer, answer) if hidden or numbers else float(answer)
        elif task.cut and not hidden:
            yield None, None
        else:
            raise ValueError(f"row {number:,} has {len(cells)} columns, not {len(header)}: a tab in a text?")


def labelled(
    name: str, paths: Sequence[Path], rows: Callable[[Path], Iterable[Row]], advice: str, *, classes: int, training: bool,
    hidden: bool = False, needed: int | None = None,
) -> Labelled:  # fmt: skip
    """The examples among the rows of files.

    Args:
        rows: of a file; their ValueErrors and the like say what is wrong with it.
        classes: how many; 0: the labels are scores from 0 to 5.
        training: leave out rows with an empty text, and count them. Elsewhere they are refused.
        hidden: labels may be.
        needed: how many of the texts, from the first, may not be empty; None: all.

    Raises:
        BadInput: a row has an empty text, or no such label; there is none; says which.
    """
    texts, labels, left_out = [], [], 0
    for path in paths:
        with reading(name, path, advice):
            for number, (some, label) in enumerate(rows(path), 1):
                empty = some is None or not all(map(is_text, some[:needed]))
                if some is None or (empty and training):
                    left_out += 1
                    continue
                known = isinstance(label, int | float) and (label in range(classes) if classes else 0 <= label <= 5)
                if empty or not (known or (hidden and label == HIDDEN)):
                    wanted = f"a class number below {classes}" if classes else "a score from 0 to 5"
                    raise ValueError(f"row {number:,} has {'an empty text' if empty else f'the label {label}, not {wanted}'}")
                texts.append(tuple(some))
                labels.append(label if classes else round(label, 3))  # as the tsv files have it; shards have 32 bits
            if not texts:
                raise ValueError("there is no example")
    return Labelled(texts, None if HIDDEN in labels else labels, sha256(*paths, name=name), left_out)


def write_submission(path: Path, task: str, predictions: Sequence[int | float], split: str = "test") -> None:
    """The file that GLUE's server takes, CoLA.tsv and so on, in the folder `path`: a row to an example, in the test split's order.

    Args:
        predictions: class numbers; of stsb scores, which are clipped to [0, 5].
        split: of mnli test_matched (MNLI-m.tsv) or test_mismatched (MNLI-mm.tsv).

    Raises:
        ValueError: a prediction is no class, or not finite.
    """
    kind, rows = TASKS[task], ["index\tprediction"]
    for i, prediction in enumerate(predictions):
        if not (prediction in range(len(kind.classes)) if kind.classes else isfinite(prediction)):
            raise ValueError(f"prediction {i} of {task} is {prediction}")
        number = int(prediction) if kind.classes else f"{min(max(float(prediction), 0.0), 5.0):.3f}"
        rows.append(f"{i}\t{kind.classes[number] if kind.named else number}")
    path.mkdir(parents=True, exist_ok=True)
    (path / f"{kind.folder}{SUBMISSION[split]}").write_text("\n".join(rows) + "\n", encoding="utf-8")
