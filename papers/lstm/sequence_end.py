"""Learning from an error at the end of each sequence (experiments 2c and 3-6): the loop, its stopping rules, its test."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from common.data.order import mix
from common.options import at_least_one, positive
from common.run import Run
from papers.lstm.model import LSTM, Biased, squared_error
from papers.lstm.readings import cut, units
from papers.lstm.tasks import TASKS, Sequences, Task
from papers.lstm.trials import SOLVED, draw_solved, outputs_of, report_solved, solved_metrics

LOOK = 1000  # updates between two looks at a criterion on test sequences, each of which costs as much as a hundred updates
BLOCK = 100  # sequences of each trial that are drawn at once
CHUNK = 256  # test sequences of each trial that go through the net at once
FIGURES = (SOLVED, "cell-states")


@dataclass(frozen=True)
class Config:
    """Hyper-parameters, Tables 10 and 11 unless another place is named."""

    task: str = "temporal-order-6a"
    """Which sequences (tasks.py)."""
    trials: int = 20
    """Independent nets, each with its own weights and sequences (Table 9)."""
    blocks: int = 2
    """Memory cell blocks."""
    cells: int = 2
    """Cells in each block."""
    output_bias: bool = True
    """Output units have a bias weight ("all non-input units biased")."""
    input_gate_bias: tuple[float, ...] | None = (-2.0, -4.0)
    """Initial bias of the input gate, for each block; None: random as all weights."""
    output_gate_bias: tuple[float, ...] | None = None
    """Initial bias of the output gate, for each block; None: random as all weights."""
    init: float = 0.1
    """Initial weights are uniform in [-init, init]."""
    lr: float = 0.5
    """Learning rate, constant; one update after every sequence."""
    criterion: Literal["recent", "test"] = "recent"
    """When a trial is solved: "recent", ST3 of Table 11; "test", the rule of Sec. 5.3."""
    window: int = 2000
    """The most recent training sequences (recent), or test sequences (test), that must all be correct."""
    correct_within: float = 0.3
    """A sequence is correct if the absolute error of every output is below."""
    mean_error: float = 0.1
    """The average error over the window must be below, too."""
    max_sequences: int = 200_000
    """Cap: a trial that is not solved by then has failed (ours; the paper states none for these experiments)."""
    test_sequences: int = 2560
    """Fresh sequences for the final test of each trial."""
    biased: Biased = "all"
    """Hidden units with a bias weight."""
    recurrent: bool = True
    """Hidden units see each other; else recurrent weights are zero and stay so."""
    recurrent_into: Literal["all", "gates"] = "all"
    """Hidden units that see the hidden units (Sec. 4: all); a cell that does not sees the input units (and its bias)."""
    g_range: float = 2.0
    """g is in [-range, range] (Eq. 5; 1 in the legend of Table 10)."""
    h_range: float = 1.0
    """h is in [-range, range] (Eq. 4; 2 in the legend of Table 10)."""
    start: float = 0.0
    """Activations of hidden units before a sequence (Sec. 5; 0.5 in the authors' later simulator)."""
    allowed: tuple[int, ...] = (0,)
    """How many of the window may be wrong; several numbers are several stopping rules, the strictest last."""
    below: tuple[float, ...] | None = None
    """What the average error must be below, for each rule; outputs are in [0, 1], so that 1 asks for nothing. None: mean_error."""

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"--task must be one of {', '.join(TASKS)}, got {self.task}")
        at_least_one(self, "trials", "blocks", "cells", "window", "max_sequences", "test_sequences")
        positive(self, "lr", "init", "correct_within", "mean_error", "g_range", "h_range")
        for name in ("input_gate_bias", "output_gate_bias"):
            if getattr(self, name) is not None and len(getattr(self, name)) != self.blocks:
                raise ValueError(f"--{name.replace('_', '-')} needs one number for each of the {self.blocks} blocks")
        if not self.allowed or len(self.allowed) != len(self.below or [self.mean_error]):
            raise ValueError("--allowed and --below need one number for each stopping rule")

    def network(self) -> LSTM:
        task = TASKS[self.task]
        return LSTM(
            self.trials, task.inputs, task.outputs, self.blocks, self.cells, output_bias=self.output_bias, init=self.init,
            input_gate_bias=self.input_gate_bias, output_gate_bias=self.output_gate_bias, biased=self.biased,
            ranges=(self.g_range, self.h_range), start=self.start,
        )  # fmt: skip

    def rules(self) -> list[tuple[int, float]]:
        """For each stopping rule how many of the window may be wrong, and what the average error must be below."""
        return list(zip(self.allowed, self.below or [self.mean_error], strict=True))


class Solved(nn.Module):
    """Which trials have met each of the R stopping rules, and what they were then worth.

    A trial learns until it meets the last rule, the strictest.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.within = config.correct_within
        allowed, below = zip(*config.rules(), strict=True)
        R, N = len(allowed), config.trials
        self.register_buffer("allowed", torch.tensor(allowed)[:, None])  # (R, 1)
        self.register_buffer("below", torch.tensor(below)[:, None])  # (R, 1)
        self.register_buffer("after", torch.full((R, N), -1))  # training sequences, -1 for not yet
        self.register_buffer("tests", torch.zeros(3, R, N))  # wrong test sequences, mean absolute and mean squared error
        self.register_buffer("counted", torch.tensor(-1))  # solved trials at the last line
        self.register_buffer("errors", torch.full((config.window, N), torch.inf))  # of the most recent sequences, a ring
        self.register_buffer("wrong", torch.ones(config.window, N, dtype=torch.bool))

    def open(self) -> Tensor:
        """The trials that are still learning: (N,), bool."""
        return self.after[-1] < 0

    def remember(self, sequences: int, error: Tensor) -> None:
        """The absolute errors of every trial's output units on the training sequence just learnt: (N, K)."""
        at = (sequences - 1) % len(self.errors)
        self.errors[at] = error.mean(1)
        self.wrong[at] = (error >= self.within).any(1)

    def recent(self) -> tuple[Tensor, Tensor]:
        """Of the most recent training sequences of every trial, how many were wrong, and the mean error: (N,), (N,)."""
        return self.wrong.sum(0), self.errors.mean(0)

    def mark(self, sequences: int, wrong: Tensor, mean: Tensor) -> Tensor:
        """Which rules are met for the first time, from counts and errors (N,) over the window: (R, N)."""
        now = (self.after < 0) & (wrong <= self.allowed) & (mean < self.below)
        self.after = torch.where(now, sequences, self.after)
        return now

    def keep(self, now: Tensor, tests: tuple[Tensor, ...]) -> None:
        """The results of the test, (N,) each, for those that met a rule now (R, N)."""
        self.tests = torch.where(now, torch.stack(tests)[:, None].to(self.tests), self.tests)

    def metrics(self, rule: int, config: Config) -> dict[str, float]:
        """Means over the trials that met a rule."""
        done = self.after[rule] >= 0
        wrong, error, square = self.tests[:, rule, done].double()
        metrics = solved_metrics(self.after[rule])
        if len(wrong):
            metrics |= {"wrong_max": wrong.max().item()}
        if config.criterion == "recent":
            metrics |= {f"wrong_of_{config.test_sequences}": wrong.mean().item()}
        else:
            metrics |= {"wrong_fraction": wrong.mean().item() / config.test_sequences}
        return metrics | {"test_error": error.mean().item(), "test_mse": square.mean().item()}


def learn(run: Run[Config]) -> dict[str, float]:
    config, task = run.config, TASKS[run.config.task]
    run.describe_data(
        name=f"{config.task}, generated", generator="papers/lstm/tasks.py", seed=run.seed, train="fresh for every update",
        test=config.test_sequences, stand_in=False,
    )  # fmt: skip

    model = config.network()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.numel()], lr=config.lr, fused=True)
    model, optimizer, solved = run.prepare(model=model, optimizer=optimizer, solved=Solved(config))
    if not config.recurrent:
        cut(model.recurrent_weight, units(model, gates=0, cells=0))
    if config.recurrent_into == "gates":
        cut(model.recurrent_weight, units(model, gates=1, cells=0)[:, None])
    rules = len(solved.after)
    block, block_number = None, -1

    for step in run.steps(config.max_sequences, samples=config.trials):
        if step // BLOCK != block_number:
            block_number = step // BLOCK
            block = draw(run, task, (BLOCK, config.trials, 1), "train", block_number)
            longest = (block.last.amax((1, 2)) + 1).tolist()
        sequence = block[step % BLOCK]  # one for each trial
        x = sequence.x[:, :, : longest[step % BLOCK]]

        learning = solved.open()
        with run.autocast():
            y = model(x, sequence.last)  # (N, 1, K)
            loss = (squared_error(sequence.target, y).squeeze(1) * learning).sum()  # a solved trial's gradient is zero
        run.backward(loss)
        optimizer.step()
        optimizer.zero_grad()

        error = (sequence.target - y.detach()).abs().squeeze(1)  # (N, K)
        look = (step + 1) % LOOK == 0
        if config.criterion == "recent":
            solved.remember(step + 1, error)
            if rules == 1 or look:
                now = solved.mark(step + 1, *solved.recent())
        elif look:
            wrong, mean, _ = evaluate(run, config, model, config.window, "criterion", solved)
            now = solved.mark(step + 1, wrong, mean)
        if rules > 1 and look and now[:-1].any():
            solved.keep(now, evaluate(run, config, model, config.test_sequences, "test"))
        run.log(train_error=(error.mean(1) * learning).sum() / learning.sum().clamp(min=1))
        if run.log_step:
            report_solved(run, solved.after[-1], solved.counted)

    after = solved.after[-1]
    last = torch.arange(rules, device=run.device)[:, None] == rules - 1
    solved.keep(last & (after >= 0), evaluate(run, config, model, config.test_sequences, "test"))
    draw_solved(run, ours=after)
    draw_states(run, model, task, trial=int((after >= 0).int().argmax()))
    first = {f"first_{name}": value for name, value in solved.metrics(0, config).items()} if rules > 1 else {}
    return solved.metrics(-1, config) | first


def draw(run: Run, task: Task, shape: tuple[int, ...], *what: str | int) -> Sequences:
    """Sequences that follow from the seed and from what they are for."""
    return task.draw(shape, torch.Generator().manual_seed(mix(run.seed, *what))).to(run.device)


def evaluate(
    run: Run, config: Config, model: LSTM, n: int, what: str, solved: Solved | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Every trial on n sequences of its own: how many are wrong, mean absolute and mean squared error, (N,) each.

    solved: look only at trials that are still learning, and at each only until it can meet no rule any more. The errors of the
    others mean nothing, and they have n wrong.
    """
    N, task = config.trials, TASKS[config.task]
    left = torch.arange(N, device=run.device) if solved is None else solved.open().nonzero().flatten()
    wrong, errors, squares = torch.zeros(3, N, device=run.device)
    with run.evaluating(model) as net:
        for start in range(0, n, CHUNK):
            sequences = draw(run, task, (N, min(CHUNK, n - start)), what, start)[left]
            error = (sequences.truth - outputs_of(left, net, sequences.x, sequences.last)).abs()  # (left, M, K)
            wrong[left] += (error >= config.correct_within).any(-1).sum(1)
            errors[left] += error.mean(-1).sum(1)
            squares[left] += error.square().mean(-1).sum(1)
            if solved is not None:
                left = left[wrong[left] <= solved.allowed.max()]
                if not len(left):
                    break
    if solved is not None:
        wrong = torch.full_like(wrong, n).index_copy(0, left, wrong[left])
    return wrong, errors / n, squares / n


def draw_states(run: Run[Config], model: LSTM, task: Task, trial: int) -> None:
    """What one trial's blocks do over one test sequence: the gates open at the relevant elements, the state holds in between."""
    from matplotlib.figure import Figure

    sequences = draw(run, task, (run.config.trials, 1), "figure")
    with torch.no_grad():
        y_in, y_out, s = (v[trial, 0].cpu() for v in model.states(sequences.x))  # (T, B, 1), (T, B, 1), (T, B, S)
    end = int(sequences.last[trial, 0]) + 1
    x = sequences.x[trial, 0, :end].cpu()
    if x.dim() == 1:  # symbols
        x = nn.functional.one_hot(x, task.inputs)
    figure = Figure(figsize=(7, 6))
    axes = figure.subplots(4, sharex=True)
    if task.inputs <= 2:  # numbers
        axes[0].plot(x, linewidth=0.8)
    else:  # one-hot
        axes[0].plot(x.argmax(1), ".", markersize=3)
        if hasattr(task, "symbols"):
            axes[0].set_yticks(range(task.inputs), list(task.symbols), fontsize="xx-small")
    panels = ((y_in, "input gate"), (y_out, "output gate"), (s, "cell state"))
    for axis, (values, name) in zip(axes[1:], panels, strict=True):
        for block in range(values.shape[1]):
            for cell in range(values.shape[2]):
                label = f"block {block + 1}" if cell == 0 else None
                axis.plot(values[:end, block, cell], color=f"C{block}", linestyle="-:"[cell % 2], linewidth=1, label=label)
        axis.set_ylabel(name)
    axes[0].set(ylabel="input", title=f"{run.name}: one sequence through a trained net")
    axes[1].legend(fontsize="x-small", loc="upper right")
    axes[3].set_xlabel("time step")
    run.save_figure(figure, FIGURES[1])
