"""GLUE (Sec. 4.1) as the network takes it: "[CLS] A [SEP] B [SEP]", and how a task is scored."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from common.data import standin
from common.data.fetch import GET
from common.data.glue import TASKS as GLUE
from common.data.glue import Labelled, Row, fetch_glue, glue, labelled
from common.data.ragged import Ragged, by_length, ragged
from common.data.rows import lines
from common.errors import BadInput
from common.run import Run

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Task:
    """A task of Table 1: its scores as the table has them, the first one being the task's."""

    scores: tuple[str, ...]
    classes: int  # 1: a score
    splits: tuple[str, ...] = ("dev",)  # whose labels are known, besides train
    hidden: tuple[str, ...] = ("test",)  # splits whose labels only GLUE's server knows
    read: Callable[[Path, str], Labelled] | None = None  # of data_dir and split, where it is not GLUE's


def stsb(data_dir: Path, split: str) -> Labelled:
    """STS-B; of its test split the scores that the benchmark has published, GLUE/STS-B/original/sts-test.tsv."""
    if split != "test":
        return glue(data_dir, "stsb", split)
    path, advice = data_dir / "glue/STS-B/original/sts-test.tsv", GET.format("from GLUE's STS-B.zip")
    if not path.exists():
        raise BadInput(f"STS-B: there is no {path.absolute()}: {advice}")
    return labelled("STS-B", [path], sts_rows, advice, classes=0, training=False)


def sts_rows(path: Path) -> Iterator[Row]:
    for number, cells in enumerate((line.split("\t") for line in lines(path)), 1):
        if len(cells) < 7:
            raise ValueError(f"row {number:,} has {len(cells)} columns, not 7 or more")
        yield cells[5:7], float(cells[4])


def made_up(data_dir: Path, split: str) -> Labelled:
    """Two stand-in sentences, and whether they begin with the same letter."""
    texts = standin.text(6_000).splitlines()[: 96 if split == "train" else 40]
    pairs = list(zip(texts, texts[1:] + texts[:1], strict=True))
    return Labelled(pairs, [int(one[0] == two[0]) for one, two in pairs], "made up")


TASKS = {
    "cola": Task(("matthews", "accuracy"), 2),
    "sst2": Task(("accuracy",), 2),
    "mrpc": Task(("f1", "accuracy"), 2),
    "stsb": Task(("spearman", "pearson"), 1, ("dev", "test"), read=stsb),
    "qqp": Task(("f1", "accuracy"), 2),
    "mnli": Task(("accuracy",), 3, ("dev_matched", "dev_mismatched"), ("test_matched", "test_mismatched")),
    "qnli": Task(("accuracy",), 2),
    "rte": Task(("accuracy",), 2),
    "made-up": Task(("accuracy",), 2, hidden=(), read=made_up),
}


def read(name: str, data_dir: Path, split: str) -> Labelled:
    """A split of a task. Raises BadInput: it is not there, or damaged; says which, where, and what to do."""
    return (TASKS[name].read or (lambda data_dir, split: glue(data_dir, name, split)))(data_dir, split)


def fetch(name: str, data_dir: Path) -> None:
    """Download GLUE's shards where a task's files are not there. Raises BadInput: they cannot be had."""
    if name in GLUE:
        fetch_glue(data_dir, name)


@dataclass(frozen=True)
class Examples:
    """Examples of a task as the network takes them, their tokens on a run's device."""

    sequences: Ragged
    firsts: Tensor  # (n,) how many tokens of each are [CLS] A [SEP]; the others are in segment 1
    labels: Tensor  # (n,), int64, or of a score the default floating type; zeros where they are hidden

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tokens, segments, which are no padding (B, T) each, no longer than needed, and labels (B,); rows (B,) on the CPU."""
        tokens = self.sequences.padded(rows)  # [PAD] is 0
        device = tokens.device
        lengths, rows = self.sequences.lengths[rows].to(device, non_blocking=True), rows.to(device, non_blocking=True)
        places = torch.arange(tokens.shape[1], device=device)
        segments = (places >= self.firsts[rows][:, None]) & (real := places < lengths[:, None])
        return tokens, segments.long(), real, self.labels[rows]


def examples(data: Labelled, tokenizer: "Tokenizer", context: int, classes: int, device: torch.device) -> Examples:
    """Labelled texts as the network takes them, no longer than `context`."""
    texts = tokenizer.encode_batch([text for each in data.texts for text in each], add_special_tokens=False)
    ids = iter(texts)
    packed = [pack([next(ids).ids for _ in each], tokenizer, context) for each in data.texts]
    dtype = torch.get_default_dtype() if classes == 1 else torch.int64
    labels = torch.zeros(len(data), dtype=dtype) if data.labels is None else torch.tensor(data.labels, dtype=dtype)
    firsts = torch.tensor([first for _, first in packed])
    return Examples(ragged(tokens for tokens, _ in packed).to(device), firsts.to(device), labels.to(device))


def pack(parts: Sequence[list[int]], tokenizer: "Tokenizer", context: int) -> tuple[list[int], int]:
    """[CLS] A [SEP], or [CLS] A [SEP] B [SEP], and how many tokens the first part is.

    What is too long loses its last token until it is not, the longer one of a pair first, B of two alike: as the authors' code.
    """
    cls, sep = (tokenizer.token_to_id(special) for special in ("[CLS]", "[SEP]"))
    a, b = list(parts[0]), list(parts[1]) if len(parts) > 1 else None
    while len(a) + len(b or ()) > context - (2 if b is None else 3):
        (a if b is None or len(a) > len(b) else b).pop()
    return [cls, *a, sep, *([] if b is None else [*b, sep])], len(a) + 2


def predictions(run: Run[Any], model: nn.Module, data: Examples, width: int) -> Tensor:
    """What the model says of all examples, on the CPU: (n, width)."""
    mine = torch.arange(len(data))[run.share(len(data))]
    found = torch.zeros(len(mine), width)
    with run.evaluating(model) as net:
        for at in by_length(data.sequences.lengths[mine], run.options.micro_batch or 4096):
            found[at] = net(*data.batch(mine[at])[:3]).to(found)
    return run.gather(found.to(run.device), len(data)).cpu()


def answers(logits: Tensor) -> Tensor:
    """The likeliest class, or the score (n,)."""
    return logits[:, 0] if logits.shape[1] == 1 else logits.argmax(1)


def scores(names: Sequence[str], labels: Tensor, found: Tensor) -> dict[str, float]:
    """Of the answers (n,) to the labels (n,), in %: the scores of these names. A correlation with constant answers is 0."""
    return {name: 100 * score(name, labels.numpy(), found.numpy()) for name in names}


def score(name: str, labels: Any, found: Any) -> float:
    if name == "accuracy":
        return float((labels == found).mean())
    if name in ("f1", "matthews"):
        from sklearn.metrics import f1_score, matthews_corrcoef

        return float(f1_score(labels, found, zero_division=0) if name == "f1" else matthews_corrcoef(labels, found))
    from scipy.stats import pearsonr, spearmanr

    if (found == found[0]).all():
        return 0.0
    return float({"pearson": pearsonr, "spearman": spearmanr}[name](labels, found).statistic)
