"""Sec. 5.1, Appendix C: nets that are pre-trained in different ways, then fine-tuned alike. The experiments are in train.py."""

import functools
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from common.data.order import mix, permuted
from common.data.ragged import Ragged
from common.options import at_least_one, fraction, positive
from common.processes import bare
from common.run import Run
from papers.bert import corpus, tasks
from papers.bert.adam import Adam
from papers.bert.finetune import loss
from papers.bert.model import Bert, Classifier, Pretraining, count, initialise, rate
from papers.bert.pretrain import heldout, hidden, how_many, losses, numbers, pairs
from papers.bert.tasks import TASKS, Examples, answers, examples, predictions

NETS = {  # name -> shares of MASK, SAME and RND, whether it learns which sentence follows, whether it sees only what is before
    "full": ((0.8, 0.1, 0.1), True, False),
    "no_nsp": ((0.8, 0.1, 0.1), False, False),
    "ltr": ((0.0, 1.0, 0.0), False, True),  # "LTR & No NSP": a left-to-right language model
    "mask": ((1.0, 0.0, 0.0), True, False),  # 100 / 0 / 0 of Table 8
}
TESTED = ("sst2", "mrpc")


@dataclass(frozen=True)
class Ablation:
    """What all nets have in common."""

    corpus: Literal["wikitext-2", "made-up"] = "wikitext-2"
    vocabulary: int = 4096
    """Word pieces, learned from the corpus, at most."""
    layers: int = 4
    width: int = 128
    heads: int = 4
    dropout: float = 0.1
    context: int = 64
    """Tokens of a sequence, in fine-tuning, too."""
    batch_size: int = 32
    """Sequences or examples in an update, on all processes together."""
    steps: int = 3000
    """Updates of pre-training."""
    looks: int = 3
    """How often in that, evenly, all nets are fine-tuned as they are then (Fig. 5)."""
    lr: float = 1e-3
    """The highest rate of pre-training."""
    warmup: int = 300
    """Updates in which it rises."""
    examples: int = 5000
    """Of a task's training set, at most."""
    epochs: int = 3
    """Of fine-tuning."""
    tuning_lr: float = 2.5e-4
    """The highest rate of fine-tuning, a quarter of the other."""
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        positive(self, "lr", "tuning_lr")
        at_least_one(self, "vocabulary", "layers", "width", "heads", "batch_size", "looks", "warmup", "examples", "epochs")
        fraction(self, "dropout", "weight_decay")
        if self.width % self.heads:
            raise ValueError(f"--width {self.width} cannot be divided among --heads {self.heads}")
        if self.steps < self.looks or self.steps % self.looks:
            raise ValueError(f"--steps {self.steps} cannot be divided among --looks {self.looks}")


def ablate(run: Run[Ablation]) -> dict[str, float]:
    """Equal updates of pre-training on the same pairs, and at each look equal updates of fine-tuning on the same examples."""
    config = run.config
    text, about = corpus.load(config.corpus, config.vocabulary, run.data_dir, spare=run.dir, on_main=run.on_main)
    data = {name: read(run, name, text, about) for name in tested(config)}
    run.describe_data(**about)
    V, nets, objects = text.tokenizer.get_vocab_size(), {}, {}
    for name, (_, _, causal) in NETS.items():
        run.seed_all("model")  # the same at first
        sizes = {"L": config.layers, "D": config.width, "h": config.heads, "positions": config.context}
        make = functools.partial(Bert, V, dropout=config.dropout, causal=causal, **sizes)
        nets[name] = objects[f"{name}_pretraining"] = Pretraining(make())
        objects |= {f"{name}_{task}": Classifier(make(), TASKS[task].classes, config.dropout) for task in data}
    objects |= {f"{key}_adam": Adam(net, 1.0, config.weight_decay) for key, net in objects.items()}
    objects = dict(zip(objects, run.prepare(**objects), strict=True))
    updates = {"pretraining": config.steps // config.looks}
    updates |= {task: config.epochs * (len(train) // config.batch_size) for task, (train, _) in data.items()}
    run.say(f"{count(nets['full']):,} parameters each; {config.looks} times {updates} updates of {len(NETS)} nets")

    def draw(step: int) -> Tensor:
        kind, at, look = where(step, updates)
        if kind == "pretraining":
            return numbers(at + look * updates[kind], config.batch_size)
        return permuted(len(data[kind][0]), mix(run.seed, kind), at * config.batch_size, (at + 1) * config.batch_size)

    for step, rows in run.indices(draw, steps=config.looks * sum(updates.values())):
        kind, at, look = where(step, updates)
        done = at + look * updates[kind]
        if kind == "pretraining":
            lr, whole = (
                rate(done, config.steps, config.lr, config.warmup),
                pairs(run, text, "train", rows, run.seed, config.context),
            )
        else:
            lr, batch = rate(at, updates[kind], config.tuning_lr, updates[kind] // 10), data[kind][0].batch(rows)
        for name, (kinds, follow, causal) in NETS.items():
            model, optimizer = objects[f"{name}_{kind}"], objects[f"{name}_{kind}_adam"]
            if kind == "pretraining":
                batch = hidden(text, whole, kinds)
                batch = following(batch) if causal else batch
                weights = {"count": how_many}
            else:
                weights = {"of": config.batch_size}
                if at == 0:
                    begin(run, bare(model), bare(objects[f"{name}_pretraining"]), optimizer)
            run.seed_all(step, run.rank)
            for group in optimizer.param_groups:
                group["lr"] = lr
            for piece, weight in run.micro_batches(batch, model, width=batch[0].shape[1], **weights):
                with run.autocast():
                    found = model(*piece[: 4 if kind == "pretraining" else 3])
                if kind == "pretraining":
                    chosen, targets, follows = piece[3:]
                    words, after = losses(found[0], targets[chosen], found[1], follows)
                    share = len(follows) * run.processes / config.batch_size
                    run.backward(words * weight + after * share * follow)
                    run.log(**{f"{name}_loss": words.detach() * weight})
                else:
                    value = loss(found, piece[3])
                    run.backward(value * weight)
                    run.log(**{f"{name}_{kind}_loss": value.detach() * weight})
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        if kind != "pretraining" and at + 1 == updates[kind]:
            rightly = {name: right(run, objects[f"{name}_{kind}"], data[kind][1]) for name in NETS}
            run.report(**compared(rightly, kind), pretraining_steps=(look + 1) * updates["pretraining"])
    metrics = {}
    for kind, (_, dev) in data.items():
        metrics |= compared({name: right(run, objects[f"{name}_{kind}"], dev) for name in NETS}, kind)
    for name in (name for name, (*_, causal) in NETS.items() if not causal):
        found = heldout(run, objects[f"{name}_pretraining"], text, "test", config.context)
        metrics |= {f"{key}_{name}": value for key, value in found.items() if "next" not in key or NETS[name][1]}
    draw_figure_5(run, tested(config))
    return metrics


def where(step: int, updates: dict[str, int]) -> tuple[str, int, int]:
    """What an update is of, its number in that, and the number of the look."""
    look, at = divmod(step, sum(updates.values()))
    for kind, n in updates.items():
        if at < n:
            return kind, at, look
        at -= n
    raise AssertionError


def following(batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The same sequences, nothing hidden, where the next token is wanted of every token but the last."""
    _, segments, real, _, tokens, follows = batch
    chosen = real & real.roll(-1, 1)
    chosen[:, -1] = False
    return tokens, segments, real, chosen, tokens.roll(-1, 1), follows


def begin(run: Run[Ablation], model: Classifier, net: Pretraining, optimizer: Adam) -> None:
    """Fine-tuning starts from the net as it is, with a new layer, the same for all."""
    model.bert.load_state_dict(net.bert.state_dict())
    run.seed_all("head")
    initialise(model.W)
    optimizer.state.clear()


def tested(config: Ablation) -> tuple[str, ...]:
    return ("made-up",) if config.corpus == "made-up" else TESTED


def read(run: Run[Ablation], name: str, text: corpus.Corpus, about: dict[str, Any]) -> tuple[Examples, Examples]:
    """A task's train and dev splits, the first one shortened; what they are is added to `about`."""
    run.on_main(lambda: tasks.fetch(name, run.data_dir))
    splits = []
    for split in ("train", "dev"):
        data = tasks.read(name, run.data_dir, split)
        about[f"{name}_{split}_sha256"] = data.sha256
        whole = examples(data, text.tokenizer, run.config.context, TASKS[name].classes, run.device)
        keep = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))[: run.config.examples].sort().values
        splits.append(some(whole, keep) if split == "train" and len(keep) < len(whole) else whole)
        about[f"{name}_{split}"] = len(splits[-1])
    return splits[0], splits[1]


def some(data: Examples, keep: Tensor) -> Examples:
    chosen = torch.zeros(len(data), dtype=torch.bool)
    chosen[keep] = True
    where = keep.to(data.labels.device)
    sequences = Ragged(data.sequences.tokens.cpu(), data.sequences.lengths).subset(chosen)
    return Examples(sequences.to(data.labels.device), data.firsts[where], data.labels[where])


def right(run: Run[Ablation], model: nn.Module, data: Examples) -> Tensor:
    """Whether each example is answered rightly (n,), as numbers."""
    return (answers(predictions(run, model, data, bare(model).W.out_features)) == data.labels.cpu()).double()


def compared(rightly: dict[str, Tensor], task: str) -> dict[str, float]:
    """Accuracies, and how much better the full net is than each other, with the standard error on these examples, in %."""
    metrics = {f"{task}_accuracy_{name}": 100 * each.mean().item() for name, each in rightly.items()}
    for name, each in list(rightly.items())[1:]:
        difference = rightly["full"] - each
        metrics[f"{task}_full_less_{name}"] = 100 * difference.mean().item()
        metrics[f"{task}_full_less_{name}_error"] = 100 * (difference.std(correction=0) / len(difference) ** 0.5).item()
    return metrics


def draw_figure_5(run: Run[Ablation], names: tuple[str, ...]) -> None:
    """As Fig. 5: accuracy after fine-tuning by updates of pre-training."""
    from matplotlib.figure import Figure

    panels = (figure := Figure(figsize=(4.5 * len(names), 3.5))).subplots(1, len(names), squeeze=False)[0]
    for axes, task in zip(panels, names, strict=True):
        for name in NETS:
            axes.plot(*run.curves("pretraining_steps", f"{task}_accuracy_{name}").values(), "o-", label=name.replace("_", " "))
        axes.set(xlabel="updates of pre-training", ylabel=f"{task}, dev accuracy, %", title=f"{run.name}, seed {run.seed}")
        axes.legend()
    run.save_figure(figure, "figure5")
