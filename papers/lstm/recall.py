"""Experiments 2a and 2b (Sec. 5.2): recall the first of p + 1 symbols, and predict all that can be predicted on the way."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from common.data.order import mix
from common.options import at_least_one, positive
from common.run import Run
from papers.lstm.baseline import SelfRecurrentNet
from papers.lstm.model import InputGateNet, squared_error
from papers.lstm.readings import LastErrorNet
from papers.lstm.strings import recall
from papers.lstm.trials import draw_solved, report_solved, solved_metrics

LOOK = 100  # training sequences between two looks at the criterion
BLOCK = 100  # sequences of each trial that are drawn at once
CHUNK = 25  # test sequences of each trial that go through the net at once


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


def learning(model: nn.Module, lr: Tensor, last: bool) -> Callable[..., Tensor]:
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
        name=f"{config.p} steps, {'regular' if config.regular else 'random'}, generated", generator="papers/lstm/strings.py",
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
    update = run.compile(learning(model, lr, config.last_error == "all"))
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
            solved = right(run, model, progress, one_hot)
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


def right(run: Run[Recall], model: nn.Module, progress: Progress, one_hot: Tensor) -> Tensor:
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
