"""Reddi et al. (2018), Sec. 3: a problem of one number on which Adam goes to the worst point, and AMSGrad does not."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common import figures
from common.options import at_least_one, positive
from common.run import Run
from papers.adam.model import METHODS, inverse_sqrt

PERIOD = 3


@dataclass(frozen=True)
class Counterexample:
    """Hyper-parameters of Sec. 3 of Reddi et al."""

    methods: tuple[str, ...] = ("adam", "amsgrad", "sgd", "adagrad")
    c: float = 3.0
    """f_t(x) = c x at t = 1, 4, 7, ..., else -x; the best point of [-1, 1] is -1."""
    alpha: float = 0.1
    """Divided by sqrt(t); AdaGrad has that in itself."""
    updates: int = 30_000

    def __post_init__(self) -> None:
        positive(self, "alpha")
        at_least_one(self, "updates")
        if self.c <= 2:
            raise ValueError(f"--c must be above 2, else -1 is not the best point, got {self.c}")
        if unknown := {*self.methods} - {*METHODS}:
            raise ValueError(f"--methods: there is no {', '.join(sorted(unknown))}, only {', '.join(METHODS)}")


class Points(nn.Module):
    """Where each method stands, and what it has paid so far, more than the best point."""

    def __init__(self, methods: tuple[str, ...]) -> None:
        super().__init__()
        self.x = nn.ParameterDict({method: nn.Parameter(torch.zeros(())) for method in methods})
        self.register_buffer("regret", torch.zeros(len(methods)))

    def forward(self, slope: float) -> Tensor:
        """f_t at each method's point: (methods,)."""
        return slope * torch.stack([*self.x.values()])


def lose(run: Run[Counterexample]) -> dict[str, float]:
    """The regret a step, and where the methods end."""
    config = run.config
    run.describe_data(
        name="Reddi et al.'s online problem", generator="papers/adam/worst.py", seed=run.seed, train=config.updates, test=0,
        stand_in=False,
    )  # fmt: skip
    points = Points(config.methods)
    settings = {name: {"b1": 0.0, "b2": 1 / (1 + config.c**2)} for name in ("adam", "amsgrad")}
    made = {name: METHODS[name]([points.x[name]], config.alpha, **settings.get(name, {})) for name in config.methods}
    points, *optimizers = run.prepare(points=points, **made)

    for step in run.steps(config.updates):
        slope = config.c if step % PERIOD == 0 else -1.0
        paid = points(slope)
        run.backward(paid.sum())
        points.regret += paid.detach() + slope  # f_t(x) - f_t(-1)
        for name, optimizer in zip(config.methods, optimizers, strict=True):
            for group in optimizer.param_groups:
                group["alpha"] = config.alpha * (1 if name == "adagrad" else inverse_sqrt(step + 1))
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            for x in points.x.values():
                x.clamp_(-1, 1)
        if run.log_step:
            run.report(updates=step + 1, **state(points, step + 1))
    draw(run)
    return state(points, config.updates)


def state(points: Points, steps: int) -> dict[str, float]:
    found = {f"x_{name}": x.item() for name, x in points.x.items()}
    return found | {f"regret_{name}": value / steps for name, value in zip(points.x, points.regret.tolist(), strict=True)}


def draw(run: Run[Counterexample]) -> None:
    """Their Fig. 1: the points as they move."""
    found = run.curves("updates", *(f"x_{name}" for name in run.config.methods))
    lines = {name: (found["updates"], found[f"x_{name}"], "-") for name in run.config.methods}
    axes = {"xlabel": "updates", "ylabel": "x", "title": f"{run.name}: the best point is -1", "xscale": "log"}
    run.save_figure(figures.curves(lines, {}, **axes), "points")
