"""Sec. 3.2 and 4.1: the network learns a task of GLUE. The experiments are in train.py."""

import copy
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common import directory
from common.data import standin
from common.data.glue import write_submission
from common.data.order import shuffled
from common.options import at_least_one, fraction, positive
from common.run import Run
from common.weights import fingerprint, refused
from papers.bert import pretrained, tasks, vocabulary
from papers.bert.adam import Adam, adamw
from papers.bert.model import Bert, Classifier, Pretraining, rate
from papers.bert.pretrain import Pretrain
from papers.bert.tasks import TASKS, Examples, Task, answers, examples, predictions, scores

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Finetuning:
    """Hyper-parameters of Sec. 4.1 and Appendix A.3; the defaults are the paper's, or its code's where it says nothing."""

    task: Literal["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "made-up"]
    """made-up: stand-in sentences, for tests."""
    weights: str = "google-bert/bert-base-uncased"
    """Pre-trained ones: OWNER/NAME of the Hugging Face hub, to be downloaded; a folder, or the name of one in DATA_DIR/weights; the
    directory of a run of ours. made-up: random ones, for tests."""
    rates: tuple[float, ...] = (5e-5, 4e-5, 3e-5, 2e-5)
    """The highest rates (Sec. 4.1). A network learns with each; that of the best score on the dev set answers the test set."""
    batch_size: int = 32
    """Examples in an update, on all processes together (Sec. 4.1)."""
    epochs: float = 3
    """(Sec. 4.1)"""
    warmup: float = 0.1
    """The share of the updates in which the rate rises; run_classifier.py's."""
    dropout: float = 0.1
    """"Always kept at 0.1" (Appendix A.3)."""
    weight_decay: float = 0.01
    """As in pre-training."""
    context: int = 128
    """Tokens of a sequence, at most; run_classifier.py's."""
    optimizer: Literal["authors", "adamw"] = "authors"
    """authors: Adam without bias correction, epsilon 1e-6. adamw: torch's, with it, epsilon 1e-8."""
    reference: bool = False
    """Whether transformers' network learns beside ours, with the same batches and dropout."""

    def __post_init__(self) -> None:
        positive(self, "epochs")
        at_least_one(self, "batch_size")
        fraction(self, "dropout", "weight_decay", "warmup")
        if self.context < 8:
            raise ValueError(f"--context must be at least 8, got {self.context}")
        if not self.rates or not all(0 < each < 1 for each in self.rates) or len({*self.rates}) != len(self.rates):
            raise ValueError(f"--rates must be different rates in (0, 1), got {' '.join(map(str, self.rates))}")
        if self.reference and (len(self.rates) > 1 or self.weights == "made-up"):
            raise ValueError("--reference is for one of --rates, and for weights that transformers can read")


def finetune(run: Run[Finetuning]) -> dict[str, float]:
    """Sec. 3.2: all weights learn, from the pre-trained ones on, to give the task's answers."""
    config, task = run.config, TASKS[run.config.task]
    bert, tokenizer, about = source(run)
    splits = read(run, task, tokenizer, min(config.context, bert.context), about)
    train = splits["train"]
    names = [f"_lr{each:g}" if len(config.rates) > 1 else "" for each in config.rates]
    objects = {}
    for name in names:
        run.seed_all("model")  # the new layer is the same in all
        objects[f"model{name}"] = Classifier(copy.deepcopy(bert), task.classes, config.dropout)
    if config.reference:
        objects["model_transformers"] = Reference(run, objects["model"], task.classes)
        names.append("_transformers")
    make = Adam if config.optimizer == "authors" else adamw
    objects |= {key.replace("model", "optimizer"): make(model, 1.0, config.weight_decay) for key, model in objects.items()}
    prepared = run.prepare(**objects)
    models, optimizers = prepared[: len(names)], prepared[len(names) :]
    peaks = [*config.rates, *config.rates[: config.reference]]
    steps = max(1, int(len(train) / config.batch_size * config.epochs))
    for step, rows in run.indices(shuffled(len(train), config.batch_size, run.seed), steps=steps):
        batch, values = train.batch(rows), []
        for name, peak, model, optimizer in zip(names, peaks, models, optimizers, strict=True):
            run.seed_all(step, run.rank)  # the same dropout in all
            for group in optimizer.param_groups:
                group["lr"] = rate(step, steps, peak, int(config.warmup * steps))
            for piece, weight in run.micro_batches(batch, model, of=config.batch_size, width=batch[0].shape[1]):
                tokens, segments, real, labels = piece
                with run.autocast():
                    logits = model(tokens, segments, real)
                value = loss(logits, labels)
                run.backward(value * weight)
                run.log(**{f"train_loss{name}": value.detach() * weight})
                values.append(value.detach() * weight)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        if config.reference:
            run.log(loss_difference=(sum(values[: len(values) // 2]) - sum(values[len(values) // 2 :])).abs())
    metrics, dev = {}, {}
    for name, model in zip(names, models, strict=True):
        metrics |= measure(run, task, model, name, splits)
        dev[name] = sum(metrics[f"{split}_{task.scores[0]}{name}"] for split in task.splits if split.startswith("dev"))
    best = max(names[: len(config.rates)], key=dev.get)
    if len(config.rates) > 1:  # of the dev set, too, on which it was chosen: so do Tables 5 and 6
        chosen = {f"{split}_{score}": metrics[f"{split}_{score}{best}"] for split in task.splits for score in task.scores}
        metrics |= {"chosen_lr": config.rates[names.index(best)]} | chosen
    for split in task.hidden:
        found = answers(predictions(run, models[names.index(best)], splits[split], task.classes)).tolist()
        run.on_main(functools.partial(write_submission, run.dir / "submission", config.task, found, split))
    if config.reference:
        lines = run.curves("step", "loss_difference")
        metrics["loss_difference_50"] = max(y for x, y in zip(*lines.values(), strict=True) if x <= 50)
    return metrics


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sec. 4.1: the mean of -log P of the label; of a score the squared error, which the paper does not say."""
    logits = logits.to(torch.get_default_dtype())
    return F.mse_loss(logits[:, 0], labels) if labels.is_floating_point() else F.cross_entropy(logits, labels)


def measure(run: Run[Finetuning], task: Task, model: nn.Module, name: str, splits: dict[str, Examples]) -> dict[str, float]:
    """The task's scores of a network on each split whose labels are known, in %."""
    metrics = {}
    for split in task.splits:
        found = answers(predictions(run, model, splits[split], task.classes))
        of = scores(task.scores, splits[split].labels.cpu(), found)
        metrics |= {f"{split}_{score}{name}": value for score, value in of.items()}
    return metrics


class Reference(nn.Module):
    """transformers' BertForSequenceClassification from the same weights, with the same new layer, called as ours."""

    def __init__(self, run: Run[Finetuning], ours: Classifier, classes: int) -> None:
        from transformers import BertForSequenceClassification

        super().__init__()
        p = run.config.dropout
        how = {"num_labels": classes, "attn_implementation": "eager", "hidden_dropout_prob": p, "attention_probs_dropout_prob": p}
        place = pretrained.folder(run.config.weights, run.data_dir)
        self.net = BertForSequenceClassification.from_pretrained(place, **how).to(torch.get_default_dtype())
        self.net.classifier.load_state_dict(ours.W.state_dict())
        self.train()  # what was loaded is not

    def forward(self, tokens: Tensor, segments: Tensor, real: Tensor) -> Tensor:
        return self.net(tokens, attention_mask=real.long(), token_type_ids=segments).logits


# What it starts from.


def source(run: Run[Any]) -> "tuple[Bert, Tokenizer, dict[str, Any]]":
    """The pre-trained encoder, its vocabulary, and what the record says of it. Raises BadInput: there is none, or it is damaged."""
    weights, dropout = run.config.weights, run.config.dropout
    if weights == "made-up":
        tokenizer = vocabulary.learn(standin.text(4000).splitlines(), 120)
        return Bert(tokenizer.get_vocab_size(), L=2, D=16, h=2, positions=64, dropout=dropout), tokenizer, {"weights": "made up"}
    if (Path(weights) / "checkpoint").is_dir():
        return from_run(Path(weights), dropout, run.say)
    model, tokenizer = pretrained.load(weights, run.on_main(lambda: pretrained.folder(weights, run.data_dir)), dropout)
    bert = getattr(model, "bert", model)
    return bert, tokenizer, {"weights": weights, "weights_sha256": fingerprint(bert)}


def from_run(folder: Path, dropout: float, say: Any) -> "tuple[Bert, Tokenizer, dict[str, Any]]":
    """The encoder of a finished run of pre-training. Raises BadInput: it is none, not finished, or damaged."""
    about, config, learned = directory.learned(folder, "bert", Pretrain, ended=True, say=say)
    with refused(str(folder), "make it anew, or name another with --weights"):
        numbers = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
        tokenizer = vocabulary.word_pieces(numbers["pieces"], numbers["lower"])
        sizes = {"L": config.layers, "D": config.width, "h": config.heads, "positions": config.context}
        model = Pretraining(Bert(tokenizer.get_vocab_size(), dropout=dropout, **sizes))
        model.load_state_dict(learned["model"])
    about = f"{about['experiment']}, seed {about['seed']}, commit {about['commit']}"
    return model.bert, tokenizer, {"weights": about, "weights_sha256": fingerprint(model.bert)}


def read(run: Run[Finetuning], task: Task, tokenizer: "Tokenizer", context: int, about: dict[str, Any]) -> dict[str, Examples]:
    """The splits of a task, on the run's device; and `describe_data`.

    Raises:
        BadInput: the data cannot be had, or read; says which, where, and what to do.
    """
    name = run.config.task
    run.on_main(lambda: tasks.fetch(name, run.data_dir))
    known = ("train", *task.splits)
    texts = {split: tasks.read(name, run.data_dir, split) for split in (*known, *(s for s in task.hidden if s not in known))}
    left = {"left_out": texts["train"].left_out} if texts["train"].left_out else {}
    sizes = {"train": len(texts["train"]), "test": sum(len(texts[split]) for split in task.splits)}
    digest = ",".join(texts[split].sha256 for split in known)
    run.describe_data(name=f"{name}, {', '.join(task.splits)}", sha256=digest, stand_in=name == "made-up", **sizes, **left, **about)
    return {split: examples(data, tokenizer, context, task.classes, run.device) for split, data in texts.items()}
