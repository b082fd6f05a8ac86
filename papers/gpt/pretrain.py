"""Sec. 3.1: the language model learns from a corpus. The experiments are in train.py."""

import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common import figures
from common.files import write_atomic
from common.options import at_least_one, fraction, positive
from common.run import Run
from papers.gpt import corpus
from papers.gpt.corpus import Corpus, Settings
from papers.gpt.model import GPT, LSTM, language_model_loss, pretraining_rate, sample


@dataclass(frozen=True)
class Pretraining:
    """Hyper-parameters of Sec. 4.1; the defaults are the paper's."""

    corpus: Literal["bookscorpus", "wikitext-2", "tinyshakespeare", "made-up"] = "bookscorpus"
    """made-up: stand-in text, for tests."""
    tokens: str = "openai-gpt"
    """The paper's byte-pair encoding: openai-gpt, downloaded, or a folder that holds its files; bytes: a byte-level one, learned
    from the corpus; characters."""
    vocabulary: int = 40_478
    """Of an encoding that is learned from the corpus: its tokens, at most."""
    network: Literal["transformer", "lstm"] = "transformer"
    """lstm: that of Table 5."""
    n_layer: int = 12
    """Blocks (Sec. 4.1)."""
    n_head: int = 12
    """Attention heads (Sec. 4.1)."""
    width: int = 768
    """Of the states; four times as wide inside of the feed-forward networks (Sec. 4.1)."""
    units: int = 2048
    """Of the LSTM (Sec. 5)."""
    context: int = 512
    """Tokens of a sequence (Sec. 4.1)."""
    dropout: float = 0.1
    """Of embeddings, attention weights and residuals (Sec. 4.1)."""
    batch_size: int = 64
    """Sequences in an update, on all processes together (Sec. 4.1)."""
    epochs: float = 100
    """So many times the tokens of the corpus (Sec. 4.1)."""
    steps: int | None = None
    """Updates, in place of epochs."""
    lr: float = 2.5e-4
    """The highest rate (Sec. 4.1)."""
    last_lr: float = 0.0
    """The rate at the end (Sec. 4.1)."""
    warmup: int = 2000
    """Updates in which the rate rises (Sec. 4.1)."""
    weight_decay: float = 0.01
    """w of the "modified L2 regularization", on all weights but biases and gains (Sec. 4.1)."""
    beta2: float = 0.999
    """Of Adam; the paper does not say, its authors' code does."""
    clip: float = 1.0
    """Longest gradient; the paper does not say, its authors' code does."""
    evaluate_every: int = 10_000
    """Updates between two looks at the held-out text."""

    def __post_init__(self) -> None:
        positive(self, "epochs", "lr", "clip")
        at_least_one(self, "vocabulary", "n_layer", "n_head", "width", "units", "batch_size", "warmup", "evaluate_every")
        fraction(self, "dropout", "beta2")
        if self.steps is not None:
            at_least_one(self, "steps")
        if self.context < 2:
            raise ValueError(f"--context must be at least 2, got {self.context}")
        if self.width % self.n_head:
            raise ValueError(f"--width {self.width} cannot be divided among --n-head {self.n_head} heads")
        if not 0 <= self.last_lr <= self.lr:
            raise ValueError(f"--last-lr must be in [0, --lr], got {self.last_lr}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"--weight-decay must not be negative, got {self.weight_decay}")

    def net(self, V: int) -> GPT | LSTM:
        if self.network == "lstm":
            return LSTM(V, units=self.units, D=self.width, context=self.context, dropout=self.dropout)
        return GPT(V, n_layer=self.n_layer, n_head=self.n_head, D=self.width, context=self.context, dropout=self.dropout)


def pretrain(run: Run[Pretraining]) -> dict[str, float]:
    """Sec. 3.1: maximise Eq. (1)."""
    config = run.config
    settings = Settings(config.corpus, config.tokens, config.vocabulary)
    text, about = corpus.load(settings, run.data_dir, spare=run.dir, context=config.context, on_main=run.on_main)
    run.describe_data(**about)
    run.on_main(lambda: write_atomic(run.dir / "vocabulary.json", text.tokenizer.to_str().encode()))  # for fine-tuning
    T, V, n = config.context, text.tokenizer.get_vocab_size(), len(text.splits["train"])
    steps = config.steps or math.ceil(config.epochs * n / (config.batch_size * T))
    model = config.net(V)
    optimizer = adam(model, config.lr, config.weight_decay, config.beta2)
    model, optimizer = run.prepare(model=model, optimizer=optimizer)
    net, loss_of = run.compile(model) if run.device.type == "cuda" else model, run.compile(loss)
    size, epochs = sum(p.numel() for p in model.parameters()), steps * config.batch_size * T / n
    run.say(f"{size:,} parameters, V = {V:,}; {n:,} tokens, {epochs:.1f} epochs of them in {steps:,} updates")
    draw = functools.partial(text.sampled, seed=run.seed, batch_size=config.batch_size, T=T)
    for step, starts in run.indices(draw, steps=steps):
        for group in optimizer.param_groups:
            group["lr"] = pretraining_rate(step, steps, config.lr, config.warmup, config.last_lr)
        windows = text.windows(starts, T)  # (b, T + 1)
        for (tokens,), weight in run.micro_batches((on(run.device, windows),), model, of=config.batch_size, width=T):
            with run.autocast():
                logits = net(tokens[:, :-1])  # (b, T, V)
            piece = loss_of(logits, tokens[:, 1:])
            run.backward(piece * weight)
            run.log(train_loss=piece * weight)
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % config.evaluate_every == 0:
            run.report(val_loss=heldout_loss(run, model, text, "val"), lr=optimizer.param_groups[0]["lr"])
    metrics = {"parameters": size / 1e6} | heldout(run, model, text, T)
    write_samples(run, model, text)
    draw_losses(run)
    if config.network == "transformer":
        draw_attention(run, model, text)
    return metrics


def adam(model: nn.Module, lr: float, weight_decay: float, beta2: float = 0.999) -> torch.optim.AdamW:
    """Sec. 4.1: "modified L2 regularization [...] on all non bias or gain weights", that is, decay apart from the gradient."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr, betas=(0.9, beta2), eps=1e-8, fused=True)


def loss(logits: Tensor, following: Tensor) -> Tensor:
    """In a function of its own to be compiled: as it is, it takes a third of an update's time on a CPU."""
    return language_model_loss(logits.to(torch.get_default_dtype()), following)


def on(device: torch.device, tensor: Tensor) -> Tensor:
    """The tensor on the device, without waiting for what is under way there."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


# Evaluation.


def heldout(run: Run[Any], model: nn.Module, text: Corpus, T: int) -> dict[str, float]:
    """Loss and perplexity of every split but train, and by word where the tokens say all of the text."""
    metrics = {}
    for split in [name for name in text.splits if name != "train"]:
        nats, n = heldout_loss(run, model, text, split, T), len(text.splits[split]) - 1
        metrics |= {f"{split}_loss": nats, f"{split}_ppl": math.exp(nats)}
        if split in text.words:
            metrics[f"{split}_ppl_by_word"] = math.exp(nats * n / (text.words[split] - 1))
    return metrics


def heldout_loss(run: Run[Any], model: nn.Module, text: Corpus, split: str, T: int | None = None) -> float:
    """The mean of -log P of every token of a split but the first, in nats, the text cut into windows of T tokens, none overlapping.

    What is left at the end is counted in a window that overlaps the one before.
    """
    T, n = T or run.config.context, len(text.splits[split]) - 1
    starts = torch.arange(0, n, T).clamp(max=n - T)
    counted = torch.full((len(starts),), T)
    counted[-1] = n - T * (len(starts) - 1)  # its last tokens only
    at_once = run.options.micro_batch or (8192 if run.device.type == "cuda" else 1024)  # tokens; of a CPU's caches
    mine, size = torch.arange(len(starts))[run.share(len(starts))], max(1, at_once // T)
    nats = torch.zeros(len(mine), dtype=torch.float64, device=run.device)  # of each window
    with run.evaluating(model) as net:
        for at in range(0, len(mine), size):
            rows = mine[at : at + size]
            tokens = on(run.device, text.windows(starts[rows], T, split))
            logits = net(tokens[:, :-1]).to(torch.get_default_dtype())
            each = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(-1, T)  # (b, T)
            new = torch.arange(T, device=run.device) >= T - counted[rows].to(run.device)[:, None]
            nats[at : at + size] = (each * new).double().sum(1)
    return run.gather(nats, len(starts)).sum().item() / n


def write_samples(run: Run[Pretraining], model: nn.Module, text: Corpus, n: int = 300) -> None:
    """Three continuations of the beginning of the held-out text, in samples.txt of the run's directory."""
    beginning = torch.from_numpy(text.splits["val"][: min(16, run.config.context - 1)].astype("int64"))
    run.seed_all("samples")
    with run.evaluating(model) as net:
        found = sample(net, beginning.expand(3, -1).to(run.device), n, temperature=0.8, top_k=200)
    texts = [text.tokenizer.decode(tokens) for tokens in found.tolist()]
    if run.main:
        (run.dir / "samples.txt").write_text("\n\n-----\n\n".join(texts) + "\n", encoding="utf-8")
        run.say(f"a sample, its first {len(beginning)} tokens given:\n{texts[0]}\n")


# Figures.


def draw_losses(run: Run[Pretraining]) -> None:
    """Losses on the batches and on the held-out text, and what they are compared with."""
    claims = [claim for claim in run.experiment.claims if claim.metric in ("val_loss", "val_ppl")]
    levels = {claim.source: claim.value if claim.metric == "val_loss" else math.log(claim.value) for claim in claims}
    lines = {name: run.curves("step", f"{name}_loss").values() for name in ("train", "val")}
    figure = figures.curves(
        {"train loss": (*lines["train"], "-"), "val loss": (*lines["val"], "o-")},
        {f"{source}: {value:.4g}": value for source, value in levels.items()},
        xlabel="updates", ylabel="nats a token", title=f"{run.name}, seed {run.seed}",
    )  # fmt: skip
    run.save_figure(figure, "losses")


def draw_attention(run: Run[Pretraining], model: nn.Module, text: Corpus, n: int = 24) -> None:
    """What each layer looks at in the beginning of the held-out text, mean over its heads."""
    tokens = text.splits["val"][: min(n, run.config.context)].tolist()
    seen: list[Tensor] = []
    with run.evaluating(model) as net:
        hooks = [
            attention.register_forward_pre_hook(lambda module, inputs: seen.append(module.weights(*module.heads(inputs[0])[:2])))
            for attention in (block.attention for block in net.blocks)
        ]
        net(torch.tensor([tokens], device=run.device))
        for hook in hooks:
            hook.remove()
    words = [repr(text.tokenizer.decode([token]))[1:-1] for token in tokens]
    panels = [(weights[0].mean(0), words, words, f"layer {i}") for i, weights in enumerate(seen, 1)]
    run.save_figure(figures.attention(panels), "attention")
