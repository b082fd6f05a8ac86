"""Sec. 3.1: pre-training with both tasks. The experiments are in train.py."""

import functools
import json
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
from papers.bert.adam import Adam
from papers.bert.corpus import Corpus
from papers.bert.model import Bert, Pretraining, count, masked, rate


@dataclass(frozen=True)
class Pretrain:
    """Hyper-parameters of Sec. 3 and Appendix A.2; the defaults are BERT-base's."""

    corpus: Literal["books-wiki", "wikitext-2", "made-up"] = "books-wiki"
    """books-wiki: BooksCorpus and Wikipedia, files of DATA_DIR/books-wiki. made-up: stand-in text, for tests."""
    vocabulary: str = "google-bert/bert-base-uncased"
    """The official word pieces, downloaded, or of a folder; a number: so many are learned from the corpus, at most."""
    layers: int = 12
    """L."""
    width: int = 768
    """H."""
    heads: int = 12
    """A."""
    dropout: float = 0.1
    """"A dropout probability of 0.1 on all layers" (Appendix A.2)."""
    batch_size: int = 256
    """Sequences in an update, on all processes together (Appendix A.2)."""
    steps: int = 1_000_000
    """Updates (Appendix A.2)."""
    context: int = 512
    """Tokens of a sequence (Appendix A.2)."""
    short: int = 128
    """Tokens of a sequence at first (Appendix A.2)."""
    short_share: float = 0.9
    """Of the updates that have short sequences (Appendix A.2)."""
    lr: float = 1e-4
    """The highest rate (Appendix A.2)."""
    warmup: int = 10_000
    """Updates in which the rate rises (Appendix A.2)."""
    weight_decay: float = 0.01
    """Of matrices and embeddings (Appendix A.2)."""
    kinds: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Of the tokens chosen, those that become [MASK], stay as they are, become any token (Table 8)."""
    next_sentence: bool = True
    """Whether the second task is learned, too (Table 5)."""
    evaluate_every: int = 50_000
    """Updates between two looks at the held-out text."""

    def __post_init__(self) -> None:
        positive(self, "lr")
        at_least_one(self, "layers", "heads", "width", "batch_size", "steps", "warmup", "evaluate_every")
        fraction(self, "dropout", "weight_decay")
        if self.width % self.heads:
            raise ValueError(f"--width {self.width} cannot be divided among --heads {self.heads}")
        if not 8 <= self.short <= self.context:
            raise ValueError(f"--short must be at least 8, and no more than --context, got {self.short}")
        if not 0 <= self.short_share <= 1:
            raise ValueError(f"--short-share must be in [0, 1], got {self.short_share}")
        if min(self.kinds) < 0 or abs(sum(self.kinds) - 1) > 1e-6:
            raise ValueError(f"--kinds must be three shares of 1, got {' '.join(map(str, self.kinds))}")

    def context_at(self, step: int) -> int:
        return self.short if step < self.short_share * self.steps else self.context


def pretrain(run: Run[Pretrain], load: Any) -> dict[str, float]:
    """Appendix A.2: "the sum of the mean masked LM likelihood and the mean next sentence prediction likelihood"."""
    config = run.config
    text, about = load(run)
    run.describe_data(**about)
    pieces = {"pieces": text.tokenizer.get_vocab(), "lower": text.tokenizer.normalizer.lowercase}
    run.on_main(lambda: write_atomic(run.dir / "vocabulary.json", json.dumps(pieces).encode()))  # for fine-tuning
    V = text.tokenizer.get_vocab_size()
    bert = Bert(V, L=config.layers, D=config.width, h=config.heads, positions=config.context, dropout=config.dropout)
    model = Pretraining(bert)
    model, optimizer = run.prepare(model=model, optimizer=Adam(model, config.lr, config.weight_decay))
    run.say(f"{count(model):,} parameters, V = {V:,}; {about['train']}")
    draw = functools.partial(numbers, batch_size=config.batch_size)
    for step, rows in run.indices(draw, steps=config.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, config.steps, config.lr, config.warmup)
        batch = hidden(text, pairs(run, text, "train", rows, run.seed, config.context_at(step)), config.kinds)
        for piece, weight in run.micro_batches(batch, model, count=how_many, width=batch[0].shape[1]):
            tokens, segments, real, chosen, targets, follows = piece
            with run.autocast():
                words, following = model(tokens, segments, real, chosen)
            masked_loss, next_loss = losses(words, targets[chosen], following, follows)
            share = len(tokens) * run.processes / config.batch_size
            run.backward(masked_loss * weight + next_loss * share * config.next_sentence)
            run.log(masked_loss=masked_loss.detach() * weight, next_loss=next_loss.detach() * share)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # as the authors' code; the paper does not say
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % config.evaluate_every == 0:
            run.report(**heldout(run, model, text, "test", config.context), lr=optimizer.param_groups[0]["lr"])
    metrics = {"parameters": count(model) / 1e6} | heldout(run, model, text, "test", config.context)
    draw_losses(run)
    return metrics


def numbers(step: int, batch_size: int) -> Tensor:
    """Those of a step's pairs: no pair comes twice."""
    return torch.arange(step * batch_size, (step + 1) * batch_size)


def pairs(run: Run[Any], text: Corpus, split: str, rows: Tensor, seed: int, T: int) -> tuple[Tensor, ...]:
    """Corpus.batch on the run's device, without waiting for what is under way there."""
    batch, gpu = text.batch(split, rows, seed, T), run.device.type == "cuda"
    return tuple(each.pin_memory().to(run.device, non_blocking=True) if gpu else each for each in batch)


def hidden(text: Corpus, batch: tuple[Tensor, ...], kinds: tuple[float, float, float]) -> tuple[Tensor, ...]:
    """Pairs, some of their tokens hidden: tokens, segments, real, chosen, the tokens before; 0 where B follows A."""
    tokens, segments, real, able, follows, u = batch
    mask, V = text.tokenizer.token_to_id("[MASK]"), text.tokenizer.get_vocab_size()
    most = math.ceil(0.15 * tokens.shape[1])  # max_predictions_per_seq: 20 of 128, 77 of 512
    some, chosen = masked(tokens, able, u.unbind(1), mask=mask, V=V, most=most, kinds=kinds)
    return some, segments, real, chosen, tokens, follows


def how_many(tokens: Tensor, segments: Tensor, real: Tensor, chosen: Tensor, targets: Tensor, follows: Tensor) -> Tensor:
    return chosen.sum()


def losses(words: Tensor, targets: Tensor, following: Tensor, follows: Tensor) -> tuple[Tensor, Tensor]:
    """Of both tasks: the mean of -log P over masked tokens, and over pairs, in nats."""
    dtype = torch.get_default_dtype()
    return F.cross_entropy(words.to(dtype), targets), F.cross_entropy(following.to(dtype), follows)


# Evaluation.


def heldout(run: Run[Any], model: nn.Module, text: Corpus, split: str, T: int, n: int = 1000) -> dict[str, float]:
    """Of n pairs of a split, the same in all runs, with the paper's masks: how often each task is solved, in %, and exp(loss)."""
    mine = torch.arange(n)[run.share(n)]
    found = torch.zeros(len(mine), 4, dtype=torch.float64, device=run.device)  # of each pair: masked, nats, right; next right
    with run.evaluating(model) as net:
        for some in torch.arange(len(mine)).split(max(1, (run.options.micro_batch or 4096) // T)):
            batch = hidden(text, pairs(run, text, split, mine[some], 0, T), (0.8, 0.1, 0.1))
            tokens, segments, real, chosen, targets, follows = batch
            words, following = net(tokens, segments, real, chosen)
            of, wanted = chosen.nonzero()[:, 0], targets[chosen]
            nats = F.cross_entropy(words.to(torch.get_default_dtype()), wanted, reduction="none")
            right = words.argmax(1) == wanted
            sums = torch.zeros(len(some), 3, dtype=torch.float64, device=run.device)
            sums.index_add_(0, of, torch.stack([torch.ones_like(nats), nats, right], 1).double())
            found[some] = torch.cat([sums, (following.argmax(1) == follows)[:, None].double()], 1)
    masks, nats, right, after = run.gather(found, n).sum(0).tolist()
    return {
        f"{split}_masked_accuracy": 100 * right / masks, f"{split}_masked_ppl": math.exp(nats / masks),
        f"{split}_next_accuracy": 100 * after / n,
    }  # fmt: skip


def draw_losses(run: Run[Pretrain]) -> None:
    lines = {name: (*run.curves("step", f"{name}_loss").values(), "-") for name in ("masked", "next")}
    figure = figures.curves(lines, {}, xlabel="updates", ylabel="nats", title=f"{run.name}, seed {run.seed}")
    run.save_figure(figure, "losses")
