"""Learning the embedded Reber grammar (experiment 1, Sec. 5.1): an error at every step, and a fixed training set."""

from dataclasses import dataclass
from random import Random
from typing import Literal

import torch
from torch import Tensor, nn

from common.data.order import mix
from common.options import at_least_one, positive
from common.run import Run
from papers.lstm.model import LSTM, Biased, squared_error
from papers.lstm.readings import Shortcuts, cut, learn_step_by_step, units
from papers.lstm.strings import SYMBOLS, Strings, encode, reber_set
from papers.lstm.trials import draw_solved, outputs_of, report_solved, solved_metrics

LOOK = 50  # training strings between two looks at the criterion
PARTS = slice(0, 12), slice(12, 40), slice(40, 100), slice(100, None)  # strings that are looked at together
BLOCK = 100  # presentations of each trial that are drawn at once


@dataclass(frozen=True)
class Grammar:
    """Hyper-parameters, Sec. 5.1 and Table 10."""

    sets: int = 3
    """Independent pairs of a training and a test set."""
    trials: int = 30
    """Independent nets, as many on each pair."""
    strings: int = 256
    """Strings in a training set, and in a test set."""
    blocks: int = 3
    """Memory cell blocks."""
    cells: int = 2
    """Cells in each block."""
    output_gate_bias: tuple[float, ...] = (-1.0, -2.0, -3.0)
    """Initial bias of the output gate, for each block."""
    init: float = 0.2
    """Initial weights are uniform in [-init, init]."""
    lr: float = 0.5
    """Learning rate, constant."""
    max_sequences: int = 200_000
    """Cap: a trial that is not solved by then has failed (ours)."""
    update: Literal["string", "step"] = "string"
    """When the weights change (readings: the paper says neither)."""
    biased: Biased = "gates"
    """Hidden units with a bias weight."""
    output_bias: bool = False
    """Output units have a bias weight."""
    sources: Literal["all", "cells"] = "all"
    """Hidden units that other hidden units see (Sec. 4: all, gates too)."""
    g_range: float = 2.0
    """g is in [-range, range] (Eq. 5; 1 in the legend of Table 10)."""
    h_range: float = 1.0
    """h is in [-range, range] (Eq. 4; 2 in the legend of Table 10)."""
    start: float = 0.0
    """Activations of hidden units before a string (Sec. 5; 0.5 in the authors' later simulator)."""
    distinct: bool = False
    """No string is twice in a training set, nor in a test set."""
    shortcuts: bool = False
    """Input units feed the output units, too."""
    recurrent_into: Literal["all", "gates"] = "all"
    """Hidden units that see the hidden units (Sec. 4: all); a cell that does not sees the input units (and its bias)."""

    def __post_init__(self) -> None:
        at_least_one(self, "sets", "trials", "strings", "blocks", "cells", "max_sequences")
        positive(self, "init", "lr", "g_range", "h_range")
        if self.trials % self.sets:
            raise ValueError(f"--trials must be a multiple of --sets, got {self.trials} and {self.sets}")
        if len(self.output_gate_bias) != self.blocks:
            raise ValueError(f"--output-gate-bias needs one number for each of the {self.blocks} blocks")


class Solved(nn.Module):
    """After how many training strings each trial met the paper's criterion, and its weaker reading: (N,), -1 for not yet."""

    def __init__(self, trials: int) -> None:
        super().__init__()
        self.register_buffer("after", torch.full((trials,), -1))
        self.register_buffer("after_argmax", torch.full((trials,), -1))
        self.register_buffer("counted", torch.tensor(-1))  # solved trials at the last line

    def open(self) -> Tensor:
        """The trials that are still learning: (N,), bool."""
        return self.after < 0

    def mark(self, strings: int, strict: Tensor, argmax: Tensor) -> None:
        """strict, argmax: (N,), bool, whether every prediction is right."""
        self.after = torch.where((self.after < 0) & strict, strings, self.after)
        self.after_argmax = torch.where((self.after_argmax < 0) & argmax, strings, self.after_argmax)


def learn_grammar(run: Run[Grammar]) -> dict[str, float]:
    config, N = run.config, run.config.trials
    run.describe_data(
        name="embedded Reber grammar, generated", generator="papers/lstm/strings.py", seed=run.seed,
        train=config.sets * config.strings, test=config.sets * config.strings, stand_in=False,
    )  # fmt: skip
    train, every = sets(config, run.seed)
    x = torch.stack([part.x for part in train]).to(run.device)  # (sets, strings, T, 7)
    target = torch.stack([part.target for part in train]).to(run.device)
    lengths = torch.stack([part.length for part in train])  # (sets, strings), on the CPU
    every_x = torch.stack([part.x for part in every]).to(run.device)  # (sets, M, T, 7), both sets of a pair
    legal = torch.stack([part.legal for part in every]).to(run.device)
    pair = torch.arange(N, device=run.device) // (N // config.sets)  # of each trial

    model = (Shortcuts if config.shortcuts else LSTM)(
        N, len(SYMBOLS), len(SYMBOLS), config.blocks, config.cells, biased=config.biased, output_bias=config.output_bias,
        init=config.init, output_gate_bias=config.output_gate_bias, ranges=(config.g_range, config.h_range), start=config.start,
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr, fused=True)
    model, optimizer, solved = run.prepare(model=model, optimizer=optimizer, solved=Solved(N))
    if config.sources == "cells":
        cut(model.recurrent_weight, units(model, gates=0, cells=1))
    if config.recurrent_into == "gates":
        cut(model.recurrent_weight, units(model, gates=1, cells=0)[:, None])
    block_number = -1

    for step in run.steps(config.max_sequences, samples=N):
        if step // BLOCK != block_number:
            block_number = step // BLOCK
            generator = torch.Generator().manual_seed(mix(run.seed, "train", block_number))
            choice = torch.randint(config.strings, (BLOCK, N), generator=generator)
            length = lengths[pair.cpu(), choice]  # (BLOCK, N)
            longest = length.amax(1).tolist()
            length = length.to(run.device)
        at, T = step % BLOCK, longest[step % BLOCK]
        string, wanted = x[pair, choice[at], :T], target[pair, choice[at], :T]  # (N, T, 7)
        learning = solved.open()
        if config.update == "step":
            y = learn_step_by_step(model, string, wanted, length[at], config.lr, learning)
        else:
            with run.autocast():
                y = model(string[:, None]).squeeze(1)  # (N, T, 7)
                inside = torch.arange(T, device=run.device) < length[at][:, None]
                loss = (squared_error(wanted, y) * inside * learning[:, None]).sum()  # a solved trial's gradient is zero
            run.backward(loss)
            optimizer.step()
            optimizer.zero_grad()

        if (step + 1) % LOOK == 0:
            strict, argmax = learning.clone(), learning.clone()
            for few in PARTS:  # most nets are wrong on the first few strings
                left = argmax.nonzero().flatten()
                if len(left):
                    verdicts = right(run, model, every_x[:, few], legal[:, few], pair, left)
                    for so_far, by_string in zip((strict, argmax), verdicts, strict=True):
                        so_far[left] &= by_string.all((1, 2))
            solved.mark(step + 1, strict, argmax)
        if run.log_step:
            error = (wanted - y.detach()).abs().mean()
            run.report(train_error=error.item())
            report_solved(run, solved.after, solved.counted)

    strict, _ = right(run, model, every_x, legal, pair, torch.arange(N, device=run.device))  # (N, M, T)
    draw_solved(run, ours=solved.after)
    return metrics(solved, strict, every, pair)


def sets(config: Grammar, seed: int) -> tuple[list[Strings], list[Strings]]:
    """The training sets, and for each pair all its different strings, those of the test set too."""
    train, every, pairs = [], [], []
    for number in range(config.sets):
        random = Random(mix(seed, "strings", number))
        learnt = reber_set(config.strings, random, config.distinct, {})
        unseen = reber_set(config.strings, random, config.distinct, dict(learnt))
        pairs.append((learnt, list(dict(learnt + unseen).items())))
    T = max(len(string) - 1 for _, all_of_pair in pairs for string, _ in all_of_pair)
    M = max(len(all_of_pair) for _, all_of_pair in pairs)
    for learnt, all_of_pair in pairs:
        train.append(encode(learnt, T))
        every.append(encode(all_of_pair + all_of_pair[:1] * (M - len(all_of_pair)), T))  # as many in each: the first again
    return train, every


def right(run: Run[Grammar], model: LSTM, x: Tensor, legal: Tensor, pair: Tensor, trials: Tensor) -> tuple[Tensor, Tensor]:
    """Which predictions of some trials on the strings of their pairs are right: (trials, M, T) each; padding is right.

    The first as in Sec. 5.1: the units of all symbols that may follow are more active than all others. The second is weaker: the
    most active unit is of one that may follow.
    """
    with run.evaluating(model) as net:
        y = outputs_of(trials, net, x[pair[trials]])  # (trials, M, T, 7)
    legal = legal[pair[trials]]
    other = y.masked_fill(legal, -1).amax(-1)
    outside = ~legal.any(-1)
    return (y.masked_fill(~legal, 2).amin(-1) > other) | outside, (y.masked_fill(~legal, -1).amax(-1) > other) | outside


def metrics(solved: Solved, strict: Tensor, every: list[Strings], pair: Tensor) -> dict[str, float]:
    """Success by both readings, and what the trials that are not solved get wrong: the second T or P, which needs the long lag."""
    done = solved.after >= 0
    argmax = solved_metrics(solved.after_argmax, "_argmax")
    found = solved_metrics(solved.after) | {name: argmax[name] for name in ("success_rate_argmax", "sequences_argmax")}
    length = torch.stack([part.length for part in every]).to(strict.device)[pair]  # (N, M)
    wrong = ~strict[~done]  # (failed trials, M, T)
    recall = wrong.gather(2, length[~done][..., None] - 2)  # the last prediction but one
    return found | {"wrong_on_recall": 100 * (recall.sum() / wrong.sum()).item()}
