"""Learning from an error at every step: the loops of experiments 1 (Sec. 5.1) and 2a and 2b (Sec. 5.2).

1, the embedded Reber grammar: a fixed training set; `Grammar`, `learn_grammar`. 2a and 2b: recall the first of p + 1 symbols, and
predict all that can be predicted on the way; `Recall`, `learn_recall`.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from common.data.order import mix
from common.options import at_least_one, positive
from common.run import Run
from papers.lstm.model import LSTM, Biased, InputGateNet, squared_error
from papers.lstm.readings import LastErrorNet, SelfRecurrentNet, Shortcuts, cut, learn_step_by_step, units
from papers.lstm.tasks import SYMBOLS, Strings, reber_sets, recall
from papers.lstm.trials import draw_solved, outputs_of, report_solved, solved_metrics

LOOK_STRINGS, LOOK = 50, 100  # training strings of 1, sequences of 2a and 2b between two looks at the criterion
PARTS = slice(0, 12), slice(12, 40), slice(40, 100), slice(100, None)  # strings that are looked at together
BLOCK = 100  # presentations of each trial that are drawn at once
CHUNK = 25  # test sequences of each trial that go through the net at once, in 2a and 2b


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
        name="embedded Reber grammar, generated", generator="papers/lstm/tasks.py", seed=run.seed,
        train=config.sets * config.strings, test=config.sets * config.strings, stand_in=False,
    )  # fmt: skip
    train, every = reber_sets(config.sets, config.strings, config.distinct, run.seed)
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

        if (step + 1) % LOOK_STRINGS == 0:
            strict, argmax = learning.clone(), learning.clone()
            for few in PARTS:  # most nets are wrong on the first few strings
                left = argmax.nonzero().flatten()
                if len(left):
                    verdicts = predictions(run, model, every_x[:, few], legal[:, few], pair, left)
                    for so_far, by_string in zip((strict, argmax), verdicts, strict=True):
                        so_far[left] &= by_string.all((1, 2))
            solved.mark(step + 1, strict, argmax)
        if run.log_step:
            error = (wanted - y.detach()).abs().mean()
            run.report(train_error=error.item())
            report_solved(run, solved.after, solved.counted)

    strict, _ = predictions(run, model, every_x, legal, pair, torch.arange(N, device=run.device))  # (N, M, T)
    draw_solved(run, ours=solved.after)
    return grammar_metrics(solved, strict, every, pair)


def predictions(run: Run[Grammar], model: LSTM, x: Tensor, legal: Tensor, pair: Tensor, trials: Tensor) -> tuple[Tensor, Tensor]:
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


def grammar_metrics(solved: Solved, strict: Tensor, every: list[Strings], pair: Tensor) -> dict[str, float]:
    """Success by both readings, and what the trials that are not solved get wrong: the second T or P, which needs the long lag."""
    done = solved.after >= 0
    argmax = solved_metrics(solved.after_argmax, "_argmax")
    found = solved_metrics(solved.after) | {name: argmax[name] for name in ("success_rate_argmax", "sequences_argmax")}
    length = torch.stack([part.length for part in every]).to(strict.device)[pair]  # (N, M)
    wrong = ~strict[~done]  # (failed trials, M, T)
    recall = wrong.gather(2, length[~done][..., None] - 2)  # the last prediction but one
    return found | {"wrong_on_recall": 100 * (recall.sum() / wrong.sum()).item()}


@dataclass(frozen=True)
class Recall:
    """Hyper-parameters, Sec. 5.2 and Table 10."""

    p: int = 100
    """Steps from the first symbol to its recall; there are p + 1 symbols."""
    regular: bool = True
    """What lies between is always the same (2a), or random (2b)."""
    net: Literal["lstm", "self-recurrent"] = "lstm"
    """A memory cell with an input gate, or the net that RTRL and BPTT train in Table 2."""
    trials: int = 18
    """Independent nets for each learning rate."""
    lr: tuple[float, ...] = (1.0,)
    """Learning rates, side by side."""
    init: float = 0.2
    """Initial weights are uniform in [-init, init]."""
    cell_after: int | None = None
    """Training sequences until the cell and its gate are added; None: when the error stops decreasing (Sec. 5.2a)."""
    correct_within: float = 0.25
    """The absolute error of every output must be below: at every step (2a), at the end (2b)."""
    max_sequences: int = 40_000
    """Cap: a trial that is not solved by then has failed (ours; the paper's is 5,000,000)."""
    test_sequences: int = 10_000
    """Fresh sequences that must all be right (2b; in 2a there are but two)."""
    gate: float = 0.0
    """Added to the initial weights into the input gate, which has no bias."""
    last_error: Literal["none", "cell", "all"] = "none"
    """What learns from the error at the last step only: nothing (Sec. 5.2), the cell, or all weights."""

    def __post_init__(self) -> None:
        at_least_one(self, "trials", "max_sequences", "test_sequences")
        positive(self, "init", "correct_within")
        if self.p < 2:
            raise ValueError(f"--p must be at least 2, got {self.p}")
        if not self.lr or min(self.lr) <= 0:
            raise ValueError("--lr needs positive numbers")
        if self.net != "lstm" and (self.gate or self.last_error == "cell"):
            raise ValueError(f"--net {self.net} has no cell and no gate: --gate and --last-error cell do not apply")


class Progress(nn.Module):
    """Of each trial: when it was solved, and when its cell was added, -1 for not yet; its loss since the last look and before."""

    def __init__(self, trials: int, grown: bool) -> None:
        super().__init__()
        self.register_buffer("after", torch.full((trials,), -1))
        self.register_buffer("cell", torch.full((trials,), 0 if grown else -1))
        self.register_buffer("loss", torch.zeros(trials))
        self.register_buffer("before", torch.full((trials,), torch.inf))
        self.register_buffer("counted", torch.tensor(-1))  # solved trials at the last line

    def grow(self, sequences: int, cell_after: int | None) -> None:
        """At a look: add the cell where the loss is no longer 1 % lower than before, or where it is time."""
        due = self.loss > 0.99 * self.before if cell_after is None else torch.full_like(self.loss, sequences) >= cell_after
        self.cell = torch.where((self.cell < 0) & due, sequences, self.cell)
        self.before, self.loss = self.loss, torch.zeros_like(self.loss)


def update_of(model: nn.Module, lr: Tensor, last: bool) -> Callable[..., Tensor]:
    """The update of all trials by one sequence each, lr (N,) for each; torch.compile takes it as a whole: ten times as fast.

    last: nothing learns from an error but the last.
    """
    weights = list(model.parameters())
    torch._dynamo.config.trace_autograd_ops = True  # the gradient too

    def update(sequence: Tensor, unsolved: Tensor, *grown: Tensor) -> Tensor:
        """(N, 1, p + 1, p + 1), (N,) bool, `grown_cells` -> the loss of each trial before the update: (N,)."""
        y = model(sequence[:, :, :-1], *grown)  # (N, 1, p, p + 1)
        error = squared_error(sequence[:, :, 1:], y)  # (N, 1, p)
        loss = error[:, :, -1:].sum((1, 2)) if last else error.sum((1, 2))  # (N,)
        gradient = torch.autograd.grad((loss * lr * unsolved).sum(), weights)  # a solved trial's is zero
        with torch.no_grad():
            for w, change in zip(weights, gradient, strict=True):
                w.sub_(change)
        return loss.detach()

    return update


def learn_recall(run: Run[Recall]) -> dict[str, float]:
    config, N = run.config, run.config.trials * len(run.config.lr)
    run.describe_data(
        name=f"{config.p} steps, {'regular' if config.regular else 'random'}, generated", generator="papers/lstm/tasks.py",
        seed=run.seed, train="drawn for every update", test=config.test_sequences, stand_in=False,
    )  # fmt: skip
    symbols = config.p + 1
    nets = {"lstm": LastErrorNet if config.last_error == "cell" else InputGateNet, "self-recurrent": SelfRecurrentNet}
    model = nets[config.net](N, symbols, symbols, init=config.init)
    if config.gate:
        model.input_weight.data[:, 0] += config.gate
    lr = torch.tensor(config.lr, device=run.device).repeat_interleave(config.trials)  # (N,)
    grown = config.net != "lstm" or config.cell_after == 0
    model, progress = run.prepare(model=model, progress=Progress(N, grown))
    update = run.compile(update_of(model, lr, config.last_error == "all"))
    one_hot = torch.eye(symbols, device=run.device)
    block, block_number = None, -1

    for step in run.steps(config.max_sequences, samples=N):
        if step // BLOCK != block_number:
            block_number = step // BLOCK
            block = draw(run, (BLOCK, N, 1), "train", block_number)
        sequence = one_hot[block[step % BLOCK]]  # (N, 1, p + 1, p + 1)
        loss = update(sequence, progress.after < 0, *grown_cells(config, progress))  # (N,)
        progress.loss += loss

        if (step + 1) % LOOK == 0:
            solved = faultless(run, model, progress, one_hot)
            progress.after = torch.where((progress.after < 0) & solved, step + 1, progress.after)
            progress.grow(step + 1, config.cell_after)
        run.log(train_error=loss.mean() / config.p)
        if run.log_step:
            report_solved(run, progress.after, progress.counted)

    after = progress.after
    found, by_rate = {}, {}
    for i, rate in enumerate(config.lr):
        mine = after[i * config.trials : (i + 1) * config.trials]
        found |= solved_metrics(mine, "" if len(config.lr) == 1 else f"_lr{rate:g}")
        by_rate["ours" if len(config.lr) == 1 else f"rate_{rate:g}"] = mine
    draw_solved(run, **by_rate)
    for slower, faster in itertools.pairwise(f"{rate:g}" for rate in config.lr):
        found[f"sequences_lr{slower}_less_lr{faster}"] = found[f"sequences_lr{slower}"] - found[f"sequences_lr{faster}"]
    if not grown:
        found |= {"cell_added": progress.cell[progress.cell >= 0].double().mean().item()}
    return found


def draw(run: Run[Recall], shape: tuple[int, ...], *what: str | int) -> Tensor:
    """Sequences that follow from the seed and from what they are for: (..., p + 1), indices."""
    generator = torch.Generator().manual_seed(mix(run.seed, *what))
    return recall(run.config.p, run.config.regular, shape, generator).to(run.device)


def grown_cells(config: Recall, progress: Progress) -> tuple[Tensor, ...]:
    """For `InputGateNet`: the trials whose cell has been added."""
    return (progress.cell >= 0,) if config.net == "lstm" else ()


def faultless(run: Run[Recall], model: nn.Module, progress: Progress, one_hot: Tensor) -> Tensor:
    """Trials without a mistake: (N,), bool. 2a: on both sequences, at every step. 2b: on all test sequences, at their ends."""
    config = run.config
    N = len(progress.after)
    solved = progress.after < 0
    with run.evaluating(model) as net:
        for start in range(0, 2 if config.regular else config.test_sequences, CHUNK):
            if config.regular:
                x_or_y = torch.arange(config.p - 1, config.p + 1, device=run.device)[:, None]
                a = torch.arange(config.p - 1, device=run.device).expand(2, -1)
                index = torch.cat([x_or_y, a, x_or_y], 1).expand(N, 2, -1)
            else:
                index = draw(run, (N, CHUNK), "test", start)
            sequence = one_hot[index]  # (N, M, p + 1, p + 1)
            error = (sequence[:, :, 1:] - net(sequence[:, :, :-1], *grown_cells(config, progress))).abs()
            wrong = error >= config.correct_within
            solved = solved & ~(wrong if config.regular else wrong[:, :, -1]).flatten(1).any(1)
            if not solved.any():
                break
    return solved
