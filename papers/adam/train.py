"""Adam (2015): how fast the training cost falls, each optimiser at its best stepsize; and where Adam fails.

    make reproduce-adam                              # Fig. 1, MNIST: minutes on one CPU core
    make reproduce-adam EXPERIMENT=reddi             # Adam goes to the worst point; seconds
    python -m papers.adam.train figure1-mnist --seed 1

Every optimiser learns at every stepsize of the grid, side by side from the same batches; reported is the training cost at the
stepsize with the least at the end, as the paper shows it. At the end a run prints, for each claim, the paper's value, ours and
the verdict.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from common import figures
from common.claims import Claim, Experiment
from common.command import reproduce
from common.data import mnist, standin
from common.data.order import shuffled
from common.options import at_least_one
from common.run import Run
from papers.adam.model import METHODS, Softmax, inverse_sqrt
from papers.adam.worst import Counterexample, lose

PASSES = (1, 2, 5, 10, 20, 45)  # after which the training cost is measured


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of Sec. 6.1."""

    methods: tuple[str, ...] = ("adagrad", "nesterov", "adam")
    alphas: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    """Of each method (the paper's grid is not given)."""
    decayed: tuple[str, ...] = ("adagrad", "nesterov", "adam")
    """Whose stepsize is divided by sqrt(t)."""
    passes: int = 45
    batch_size: int = 128
    data: Literal["mnist", "made-up"] = "mnist"
    """made-up: stand-in digits, for tests."""

    def __post_init__(self) -> None:
        at_least_one(self, "passes", "batch_size")
        if unknown := {*self.methods, *self.decayed} - {*METHODS}:
            raise ValueError(f"--methods: there is no {', '.join(sorted(unknown))}, only {', '.join(METHODS)}")
        if not self.methods or not self.alphas or not all(0 < alpha < math.inf for alpha in self.alphas):
            raise ValueError(f"--methods and --alphas need one each, and stepsizes are positive, got {self.alphas}")


class Nets(nn.Module):
    """A net for each method and stepsize."""

    def __init__(self, methods: tuple[str, ...], stepsizes: int, inputs: int) -> None:
        super().__init__()
        self.of = nn.ModuleDict({method: Softmax(stepsizes, inputs) for method in methods})

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, D) -> logits (methods * stepsizes, B, K)."""
        return torch.cat([net(x) for net in self.of.values()])


def train(run: Run[Any]) -> dict[str, float]:
    if isinstance(run.config, Counterexample):
        return lose(run)  # worst.py: one number
    return learn(run)


def learn(run: Run[Config]) -> dict[str, float]:
    config, B = run.config, run.config.batch_size
    images, labels = data(run)  # (n, D), (n,)
    nets, alphas = Nets(config.methods, len(config.alphas), images.shape[1]), torch.tensor(config.alphas, device=run.device)
    made = {method: METHODS[method](nets.of[method].parameters()) for method in config.methods}
    nets, *optimizers = run.prepare(nets=nets, **made)
    updates = len(images) // B  # of a pass

    for step, index in run.indices(shuffled(len(images), B, run.seed), steps=config.passes * updates):
        for method, optimizer in zip(config.methods, optimizers, strict=True):
            for group in optimizer.param_groups:
                group["alpha"] = alphas * (inverse_sqrt(step + 1) if method in config.decayed else 1)
        for (x, y), weight in run.micro_batches((images[index], labels[index]), nets, of=B):
            cost = costs(nets(x), y)  # (T,)
            run.backward(cost.sum() * weight)
            run.log(train_loss=cost.detach().mean() * weight)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        passed, rest = divmod(step + 1, updates)
        if not rest and passed in (*PASSES, config.passes):
            run.report(**{"pass": passed}, **whole(run, nets, images, labels))
    draw(run)
    return chosen(run, whole(run, nets, images, labels))


def costs(logits: Tensor, y: Tensor) -> Tensor:
    """-log P(y | x), a mean over the batch for each net: (T, B, K), (B,) -> (T,)."""
    return cross_entropy(logits.transpose(1, 2), y.expand(len(logits), -1), reduction="none").mean(1)


def data(run: Run[Config]) -> tuple[Tensor, Tensor]:
    """The training images as pixels from 0 to 1, and their labels, on the run's device. The figures show no other cost."""
    if made_up := run.config.data == "made-up":
        pictures, labels = standin.images(256, 0, size=8)
        images, digest = pictures[..., 0], {"generator": "common/data/standin.py", "seed": 0}
    else:
        run.on_main(lambda: mnist.fetch(run.data_dir))
        digits = mnist.load(run.data_dir)
        images, labels, digest = digits.train_images, digits.train_labels, {"sha256": digits.sha256}
    run.describe_data(name="mnist", train=len(images), test=0, stand_in=made_up, **digest)
    return images.flatten(1).to(run.device, torch.get_default_dtype()) / 255, labels.to(run.device)


def whole(run: Run[Config], nets: Nets, images: Tensor, labels: Tensor) -> dict[str, float]:
    """The cost of each net over all training images, `cost_<method>_<alpha>`."""
    mine = run.share(len(images))
    with run.evaluating(nets) as bare:
        found = [
            cross_entropy(bare(x).transpose(1, 2), y.expand(len(run.config.methods) * len(run.config.alphas), -1), reduction="none")
            for x, y in zip(images[mine].split(2000), labels[mine].split(2000), strict=True)
        ]  # (T, B) each
    means = run.gather(torch.cat(found, 1).T, len(images)).double().mean(0)
    names = (f"cost_{method}_{alpha:g}" for method in run.config.methods for alpha in run.config.alphas)
    return dict(zip(names, means.tolist(), strict=True))


def chosen(run: Run[Config], last: dict[str, float]) -> dict[str, float]:
    """Of each method the cost at its best stepsize, after some passes, and how methods differ."""
    config, found = run.config, dict[str, float]()
    least = {method: min(config.alphas, key=lambda alpha: last[f"cost_{method}_{alpha:g}"]) for method in config.methods}
    for method, alpha in least.items():
        curve = run.curves("pass", f"cost_{method}_{alpha:g}")
        found[f"alpha_{method}"] = alpha
        for passed, cost in zip(*curve.values(), strict=True):
            found[f"cost_{method}_pass{passed:g}"] = cost
    for first, second in (("adagrad", "adam"), ("adagrad", "nesterov"), ("nesterov", "adam")):
        if {first, second} <= {*least}:
            for passed in (each for each in PASSES if each <= config.passes):
                pair = [found[f"cost_{method}_pass{passed}"] for method in (first, second)]
                found[f"{first}_less_{second}_pass{passed}"] = pair[0] - pair[1]
    return found


def draw(run: Run[Config]) -> None:
    """Fig. 1: training cost against passes, each method at its best stepsize."""
    lines = {}
    for method in run.config.methods:
        curves = [run.curves("pass", f"cost_{method}_{alpha:g}") for alpha in run.config.alphas]
        best = min(curves, key=lambda curve: [*curve.values()][1][-1])
        lines[f"{method}, {next(name for name in best if name != 'pass').rpartition('_')[2]}"] = (*best.values(), ".-")
    axes = {"xlabel": "passes over the training set", "ylabel": "training cost, nats", "title": f"{run.name}, seed {run.seed}"}
    run.save_figure(figures.curves(lines, {}, **axes), "costs")


def ahead(first: str, second: str, passed: int) -> Claim:
    why = "the sign is what is claimed, of the cost over all training images; 0.001 nats, half a percent of it, is taken for equal"
    return Claim(f"{first}_less_{second}_pass{passed}", 0, "nats", f"Fig. 1, left: {second} is ahead", why=why, noise=0.001)


FIGURE_1 = [
    ahead("adagrad", "adam", 1), ahead("adagrad", "adam", 10), ahead("adagrad", "nesterov", 10), ahead("adagrad", "adam", 45),
    Claim(
        "nesterov_less_adam_pass45", 0, "nats", "Fig. 1, left: about equal", tolerance=0.01, either_way=True,
        why="a choice: a fiftieth of the figure's height, below which two of its lines are one",
    ),
]  # fmt: skip


def ends(method: str, x: float, source: str) -> Claim:
    why = "a tenth of the way from the middle to the end"
    return Claim(f"x_{method}", x, "", source, tolerance=0.1, why=why, either_way=True)


REDDI = [
    ends("adam", 1.0, "Reddi et al., Theorem 1: the worst point"),
    ends("amsgrad", -1.0, "Reddi et al., Fig. 1: the best point"),
    Claim("regret_adam", 2 / 3, "", "Reddi et al., Fig. 1: does not fall", tolerance=0.05, either_way=True,
          why="computed, not printed: at +1 it pays (c - 2) / 3 - (2 - c) / 3 a step, and less on the way there"),
    Claim("regret_amsgrad", 0, "", "Reddi et al., Fig. 1: falls to 0", lower_is_better=True, tolerance=0.05,
          why="a choice: it goes as 1 / sqrt(t) with a factor that depends on alpha"),
]  # fmt: skip
COST = "6 min on one CPU core"
RUN = {"cap": "45 passes", "cost": COST, "figures": ("costs",), "log_every": 468}

EXPERIMENTS = {
    "figure1-mnist": Experiment(Config(), kind="paper", source="Fig. 1, left", claims=FIGURE_1, **RUN),
    "figure1-mnist-constant": Experiment(
        replace(Config(), decayed=()), kind="reading", source="Fig. 1, left", note="no stepsize is divided by sqrt(t)", **RUN
    ),
    "figure1-mnist-adagrad-constant": Experiment(
        replace(Config(), decayed=("nesterov", "adam")), kind="reading", source="Fig. 1, left",
        note="AdaGrad, which has 1 / sqrt(t) in itself, is not divided by it again", **RUN,
    ),
    "reddi": Experiment(
        Counterexample(), kind="paper", source="Reddi et al. 2018, Sec. 3", cap="30,000 updates", cost="1 min on one CPU core",
        claims=REDDI, figures=("points",), log_every=100, precision={"cpu": "fp64", "cuda": "fp64"}, per_sample=True,
    ),
    "smoke": Experiment(
        Config(alphas=(0.01, 0.1), passes=5, batch_size=32, data="made-up"), kind="smoke", source="Fig. 1", cap="5 passes",
        cost="1 s", log_every=4, checkpoint_every=0,
    ),
    "smoke-reddi": Experiment(
        Counterexample(updates=40), kind="smoke", source="Reddi et al. 2018, Sec. 3", cap="40 updates", cost="1 s", log_every=10,
        checkpoint_every=0, per_sample=True,
    ),
}  # fmt: skip

if __name__ == "__main__":
    reproduce(EXPERIMENTS, train)
