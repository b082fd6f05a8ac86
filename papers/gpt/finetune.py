"""Sec. 3.2 and 3.3: a pre-trained network learns a task. The experiments are in train.py."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common import directory
from common.data import standin
from common.data.glue import Labelled, fetch_glue, glue, write_submission
from common.data.order import shuffled
from common.data.ragged import Ragged, by_length, ragged
from common.errors import BadInput
from common.options import at_least_one, fraction, positive
from common.run import Run
from common.weights import fingerprint, refused
from papers.gpt import vocabulary
from papers.gpt.model import GPT, LSTM, Classifier, auxiliary_loss, combined_loss, finetuning_rate, inputs
from papers.gpt.pretrain import Pretraining, adam
from papers.gpt.pretrained import load
from papers.gpt.tasks import fetch_race, fetch_snli, race, snli, story_cloze
from papers.gpt.vocabulary import fetch

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Task:
    """How a task is put to the network (Fig. 1), and how it is scored (Sec. 4.2)."""

    form: str  # as `inputs` has it
    score: str
    classes: int  # 1: a score; of a choice: the answers
    splits: tuple[str, ...]  # that are scored, by the names of the data set
    read: Callable[[Path, str], Labelled]
    fetch: Callable[[Path], None] = lambda data_dir: None
    hidden: tuple[str, ...] = ()  # splits whose answers only GLUE's server knows


def of_glue(name: str, form: str, score: str, classes: int, splits: tuple[str, ...] = ("dev",)) -> Task:
    hidden = tuple(split.replace("dev", "test") for split in splits)
    read, fetch = functools.partial(from_glue, name), functools.partial(fetch_glue, task=name)
    return Task(form, score, classes, splits, read, fetch, hidden)


def from_glue(name: str, data_dir: Path, split: str) -> Labelled:
    return glue(data_dir, name, split)


def read_race(data_dir: Path, split: str) -> Labelled:
    """train: both levels together; test_middle or test_high. The question goes on after the article (Sec. 3.3: [z; q])."""
    name, _, level = split.partition("_")
    parts = [race(data_dir, name, each) for each in ([level] if level else ["middle", "high"])]
    texts = [(article, f" {question}", *answers) for part in parts for article, question, *answers in part.texts]
    labels = [label for part in parts for label in part.labels]
    return Labelled(texts, labels, ",".join(part.sha256 for part in parts), sum(part.left_out for part in parts))


def read_story_cloze(data_dir: Path, split: str) -> Labelled:
    """A story and its endings, with no question between them."""
    data = story_cloze(data_dir, split)
    return dataclasses.replace(data, texts=[(story, "", *endings) for story, *endings in data.texts])


def made_up(data_dir: Path, split: str) -> Labelled:
    """Two stand-in sentences, and whether they begin with the same letter."""
    lines = standin.text(12_000).splitlines()[: 256 if split == "train" else 40]
    pairs = list(zip(lines, lines[1:] + lines[:1], strict=True))
    return Labelled(pairs, [int(one[0] == two[0]) for one, two in pairs], "made up")


TASKS = {
    "cola": of_glue("cola", "classification", "matthews", 2),
    "sst2": of_glue("sst2", "classification", "accuracy", 2),
    "mrpc": of_glue("mrpc", "similarity", "f1", 2),
    "stsb": of_glue("stsb", "similarity", "pearson", 1),
    "qqp": of_glue("qqp", "similarity", "f1", 2),
    "mnli": of_glue("mnli", "entailment", "accuracy", 3, ("dev_matched", "dev_mismatched")),
    "qnli": of_glue("qnli", "entailment", "accuracy", 2),
    "rte": of_glue("rte", "entailment", "accuracy", 2),
    "snli": Task("entailment", "accuracy", 3, ("dev", "test"), snli, fetch_snli),
    "race": Task("choice", "accuracy", 4, ("test_middle", "test_high"), read_race, fetch_race),
    "storycloze": Task("choice", "accuracy", 2, ("dev", "test"), read_story_cloze),
    "made-up": Task("similarity", "accuracy", 2, ("dev",), made_up),
}


@dataclass(frozen=True)
class Finetuning:
    """Hyper-parameters of Sec. 4.1, Fine-tuning details; the defaults are the paper's."""

    task: Literal[
        "cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "snli", "race", "storycloze", "made-up"
    ]  # fmt: skip
    """made-up: stand-in sentences, for tests."""
    weights: str = "openai-gpt"
    """Pre-trained ones: openai-gpt, downloaded; a folder that holds its files; the directory of a run of ours; or the name of an
    experiment of ours, whose run with seed 0 lies in OUT. made-up: random ones, for tests."""
    transferred: tuple[int, ...] = ()
    """How much of them to start from, each in a network of its own (Fig. 2): 0 nothing, 1 the embeddings, 1 + n those and the n
    lowest blocks. None given: everything."""
    auxiliary: float = 0.5
    """lambda of Eq. (5) (Sec. 4.1); 0: no auxiliary objective."""
    batch_size: int = 32
    """Examples in an update, on all processes together (Sec. 4.1)."""
    epochs: int = 3
    """(Sec. 4.1)"""
    lr: float = 6.25e-5
    """The highest rate (Sec. 4.1)."""
    warmup: float = 0.002
    """The share of the training in which the rate rises (Sec. 4.1)."""
    dropout: float = 0.1
    """Of embeddings, attention weights and residuals: "we reuse the hyperparameter settings from unsupervised pre-training"."""
    classifier_dropout: float = 0.1
    """Of the state that is classified (Sec. 4.1)."""
    weight_decay: float = 0.01
    """As in pre-training."""
    clip: float = 1.0
    """Longest gradient; the paper does not say, its authors' code does."""
    context: int = 512
    """Tokens of a sequence, at most; no more than the network was pre-trained with."""

    def __post_init__(self) -> None:
        positive(self, "lr", "warmup", "clip")
        at_least_one(self, "batch_size", "epochs")
        fraction(self, "dropout", "classifier_dropout", "weight_decay", "warmup")
        if self.context < 8:
            raise ValueError(f"--context must be at least 8, got {self.context}")
        if not 0 <= self.auxiliary < float("inf"):
            raise ValueError(f"--auxiliary must not be negative, got {self.auxiliary}")
        if min(self.transferred, default=0) < 0 or len({*self.transferred}) != len(self.transferred):
            raise ValueError(f"--transferred must be different counts, none negative, got {' '.join(map(str, self.transferred))}")


@dataclass(frozen=True)
class Examples:
    """Examples of a task as the network takes them."""

    sequences: Ragged  # K to an example
    K: int
    labels: Tensor  # (n,), int64, or of a score the default floating type; zeros where they are hidden

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, K, T), lengths of the sequences (B, K) and labels (B,) of the examples of these numbers (B,), on the CPU."""
        each = (rows[:, None] * self.K + torch.arange(self.K)).flatten()
        tokens = self.sequences.padded(each, pad=0).unflatten(0, (-1, self.K))
        lengths = self.sequences.lengths[each].view(-1, self.K)
        device = tokens.device
        return tokens, lengths.to(device, non_blocking=True), self.labels[rows.to(device, non_blocking=True)]


def finetune(run: Run[Finetuning]) -> dict[str, float]:
    """Sec. 3.2: maximise Eq. (5)."""
    config, task = run.config, TASKS[run.config.task]
    source, tokenizer, about = pretrained(run)
    splits = examples(run, task, tokenizer, len(source.embedding.weight), min(config.context, source.context), about)
    train = splits["train"]
    parts, models, optimizers = sorted(config.transferred) or [everything(source)], {}, {}
    names = [name_of(part, source) if len(parts) > 1 else "" for part in parts]
    for part, name in zip(parts, names, strict=True):
        run.seed_all("model")  # what is not transferred is random, and the same in all
        body = transfer(source, part, config.dropout)
        model = Classifier(body, task.classes, choice=task.form == "choice", dropout=config.classifier_dropout)
        models[f"model{name}"], optimizers[f"optimizer{name}"] = model, adam(model, config.lr, config.weight_decay)
    prepared = run.prepare(**models, **optimizers)
    models, optimizers = prepared[: len(parts)], prepared[len(parts) :]
    loss_of = run.compile(loss, dynamic=True)
    in_epoch = max(1, len(train) // config.batch_size)  # what is left over moves into the next one
    steps = config.epochs * in_epoch
    for step, rows in run.indices(shuffled(len(train), config.batch_size, run.seed), steps=steps):
        batch = train.batch(rows)
        width = batch[0].shape[1] * batch[0].shape[2]
        for name, model, optimizer in zip(names, models, optimizers, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = finetuning_rate(step, steps, config.lr, config.warmup)
            for (tokens, lengths, labels), weight in run.micro_batches(batch, model, of=config.batch_size, width=width):
                with run.autocast():
                    logits, next_tokens = model(tokens, lengths, config.auxiliary > 0)
                piece = loss_of(logits, labels, next_tokens, tokens, lengths, config.auxiliary)
                run.backward(piece * weight)
                run.log(**{f"train_loss{name}": piece * weight})
            nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimizer.step()
            optimizer.zero_grad()
        if (step + 1) % in_epoch == 0:
            run.report(**measure(run, task, models, names, splits), epoch=(step + 1) // in_epoch)
    metrics = measure(run, task, models, names, splits)
    for split in task.hidden:
        answers = answer(task, predictions(run, models[-1], splits[split])).tolist()
        run.on_main(functools.partial(write_submission, run.dir / "submission", config.task, answers, split))
    if len(parts) > 1:
        draw_transfer(run, task, names, metrics)
    return metrics


def loss(logits: Tensor, labels: Tensor, next_tokens: Tensor | None, tokens: Tensor, lengths: Tensor, weight: float) -> Tensor:
    """Eq. (5): L_3 = L_2 + lambda L_1, mean over examples. Of a score L_2 is the squared error; the paper does not say."""
    logits = logits.to(torch.get_default_dtype())
    supervised = F.mse_loss(logits[:, 0], labels) if labels.is_floating_point() else F.cross_entropy(logits, labels)
    if next_tokens is None:
        return supervised
    return combined_loss(supervised, auxiliary_loss(next_tokens.to(logits.dtype), tokens, lengths).mean(), weight)


# Pre-trained networks.


def everything(source: GPT | LSTM) -> int:
    return 1 + len(source.blocks) if isinstance(source, GPT) else 1


def name_of(part: int, source: GPT | LSTM) -> str:
    """As it ends the names of metrics."""
    if isinstance(source, LSTM) and part:
        return "_everything"
    return {0: "_nothing", 1: "_embeddings"}.get(part, f"_{part - 1}_layers")


def pretrained(run: Run[Finetuning]) -> tuple[GPT | LSTM, "Tokenizer", dict[str, Any]]:
    """The network to start from, its vocabulary, and what the record says of it.

    Raises:
        BadInput: there is none, or it cannot be read; says which, and what to do.
    """
    weights = run.config.weights
    named = run.options.out / run.paper / weights / "seed0"
    if weights == "made-up":
        tokenizer = vocabulary.learn("bytes", 300, {"train": lambda: iter([standin.text(4000)])})
        net = GPT(tokenizer.get_vocab_size(), n_layer=2, n_head=2, D=16, context=32)
        return net, tokenizer, {"weights": "made up"}
    for folder in (Path(weights), named):
        if (folder / "checkpoint").is_dir():
            return from_run(folder, run.say)
    if weights != "openai-gpt" and "/" not in weights and not Path(weights).exists():
        how = f"`make reproduce-{run.paper} EXPERIMENT={weights} OUT={run.options.out}`, if it is one of ours"
        raise BadInput(f"no pre-trained network in {named}: make it with {how}, or name another with --weights")
    net, tokenizer = load(weights, run.on_main(lambda: fetch(weights, run.data_dir / "weights")))
    return net, tokenizer, {"weights": weights, "weights_sha256": fingerprint(net)}


def from_run(folder: Path, say: Callable[[str], None]) -> tuple[GPT | LSTM, "Tokenizer", dict[str, Any]]:
    """The network of a finished run of pre-training. Raises BadInput: it is none, not finished, or damaged."""
    about, config, learned = directory.learned(folder, "gpt", Pretraining, ended=True, say=say)
    with refused(str(folder), "make it anew, or name another with --weights"):
        tokenizer = vocabulary.load(folder / "vocabulary.json")
        net = config.net(tokenizer.get_vocab_size())
        net.load_state_dict(learned["model"])
    about = f"{about['experiment']}, seed {about['seed']}, commit {about['commit']}"
    return net, tokenizer, {"weights": about, "weights_sha256": fingerprint(net)}


def transfer(source: GPT | LSTM, part: int, dropout: float) -> GPT | LSTM:
    """A network like the pre-trained one, of which it has so much, from below; the rest is random (Sec. 5, Fig. 2)."""
    V, D = source.embedding.weight.shape
    if isinstance(source, LSTM):
        body = LSTM(V, units=source.lstm.hidden_size, D=D, context=source.context, dropout=dropout)
        taken = ["embedding", "lstm", "out"]
    else:
        h = source.blocks[0].attention.h
        body = GPT(V, n_layer=len(source.blocks), n_head=h, D=D, context=source.context, dropout=dropout)
        taken = ["embedding", "positions", *(f"blocks.{i}" for i in range(part - 1))]
    if part > everything(source):
        raise BadInput(f"--transferred {part}: there is {everything(source)} at most (the embeddings, and each block)")
    for name in taken if part else ():
        body.get_submodule(name).load_state_dict(source.get_submodule(name).state_dict())
    return body


def examples(
    run: Run[Finetuning], task: Task, tokenizer: "Tokenizer", V: int, context: int, about: dict[str, Any]
) -> dict[str, Examples]:
    """The splits of a task, on the run's device; and `describe_data`.

    Raises:
        BadInput: the data cannot be had, or read; says which, where, and what to do.
    """
    run.on_main(lambda: task.fetch(run.data_dir))
    read = {split: task.read(run.data_dir, split) for split in ("train", *task.splits, *task.hidden)}
    splits = {}
    for split, data in read.items():
        texts = tokenizer.encode_batch([text for each in data.texts for text in each], add_special_tokens=False)
        ids, sequences = iter(texts), []
        for each in data.texts:
            sequences += inputs([next(ids).ids for _ in each], task.form, V, context)
        dtype = torch.get_default_dtype() if task.classes == 1 else torch.int64
        labels = torch.zeros(len(data), dtype=dtype) if data.labels is None else torch.tensor(data.labels, dtype=dtype)
        splits[split] = Examples(ragged(sequences).to(run.device), len(sequences) // len(data), labels.to(run.device))
    about = {**about, **({"left_out": read["train"].left_out} if read["train"].left_out else {})}
    sizes = {"train": len(read["train"]), "test": sum(len(read[split]) for split in task.splits)}
    digest, stand_in = ",".join(read[split].sha256 for split in ("train", *task.splits)), run.config.task == "made-up"
    run.describe_data(name=f"{run.config.task}, {', '.join(task.splits)}", sha256=digest, stand_in=stand_in, **sizes, **about)
    return splits


# Evaluation, Sec. 4.2.


def measure(
    run: Run[Finetuning], task: Task, models: tuple[nn.Module, ...], names: list[str], splits: dict[str, Examples]
) -> dict[str, float]:
    """The task's score of each network on each split, and on all splits of a kind together; in %."""
    metrics = {}
    for name, model in zip(names, models, strict=True):
        pooled: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for split in task.splits:
            pair = splits[split].labels.cpu(), answer(task, predictions(run, model, splits[split]))
            for each in dict.fromkeys((split, split.partition("_")[0])):
                pooled.setdefault(each, []).append(pair)
        for split, pairs in pooled.items():
            labels, answers = (torch.cat(each).numpy() for each in zip(*pairs, strict=True))
            metrics |= {f"{split}_{score}{name}": value for score, value in scores(task.score, labels, answers).items()}
            key = f"{split}_{task.score}"
            if task.score in ("accuracy", "f1") and task.form != "choice":  # of a constant a correlation is 0
                constant = max(scores(task.score, labels, labels * 0 + each)[task.score] for each in range(task.classes))
                metrics[f"{key}_above_constant{name}"] = metrics[f"{key}{name}"] - constant
            for less, gain in (("_nothing", "_gain"), ("_embeddings", "_gain_over_embeddings")):
                if name == names[-1] and less in names[:-1]:
                    metrics[f"{key}{gain}"] = metrics[f"{key}{name}"] - metrics[f"{key}{less}"]
    return metrics


def scores(name: str, labels: Any, answers: Any) -> dict[str, float]:
    """Of the answers (n,) to the labels (n,), in %: the score of this name, and accuracy beside F1. Of constant answers 0."""
    from scipy.stats import pearsonr
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    if name == "pearson":
        return {name: 100 * float(pearsonr(labels, answers).statistic) if len({*answers.tolist()}) > 1 else 0.0}
    found = {"matthews": matthews_corrcoef, "f1": functools.partial(f1_score, zero_division=0), "accuracy": accuracy_score}
    return {each: 100 * float(found[each](labels, answers)) for each in dict.fromkeys((name, *["accuracy"] * (name == "f1")))}


def predictions(run: Run[Finetuning], model: nn.Module, data: Examples) -> Tensor:
    """The logits of all examples, on the CPU: (n, C)."""
    mine = torch.arange(len(data))[run.share(len(data))]
    longest = data.sequences.lengths.view(-1, data.K).max(1).values * data.K
    found = torch.zeros(len(mine), data.K if TASKS[run.config.task].form == "choice" else TASKS[run.config.task].classes)
    with run.evaluating(model) as net:
        for at in by_length(longest[mine], run.options.micro_batch or 8192):
            tokens, lengths, _ = data.batch(mine[at])
            found[at] = net(tokens, lengths, False)[0].to(found)
    return run.gather(found.to(run.device), len(data)).cpu()


def answer(task: Task, logits: Tensor) -> Tensor:
    """The likeliest class, or the score (n,)."""
    return logits[:, 0] if task.classes == 1 else logits.argmax(1)


def draw_transfer(run: Run[Finetuning], task: Task, names: list[str], metrics: dict[str, float]) -> None:
    """As Fig. 2, left: the score by how much of the pre-trained network is taken."""
    from matplotlib.figure import Figure

    axes = (figure := Figure(figsize=(5, 3.5))).add_subplot()
    for split in task.splits:
        axes.plot([metrics[f"{split}_{task.score}{name}"] for name in names], "o-", label=split)
    axes.set_xticks(range(len(names)), [name[1:].replace("_", " ") for name in names], rotation=30, ha="right")
    axes.set(xlabel="taken from pre-training", ylabel=f"{task.score}, %", title=f"{run.name}, seed {run.seed}")
    axes.legend()
    run.save_figure(figure, "transfer")
