"""Adam (2015): how fast the training cost falls, each optimiser at its best stepsize; and where Adam fails.

    make reproduce-adam                              # Fig. 1, MNIST: minutes on one CPU core
    make reproduce-adam EXPERIMENT=reddi             # Adam goes to the worst point; a minute, no data
    python -m papers.adam.train figure1-mnist --seed 1

Every optimiser learns at every stepsize of the grid, side by side from the same batches; reported is the cost at the stepsize with
the least at the end, as the paper shows it. At the end a run prints, for each claim, the paper's value, ours and the verdict.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal, NamedTuple

import torch

from common.claims import Claim, Experiment
from common.command import reproduce
from common.data.order import shuffled
from common.options import at_least_one, fraction
from common.run import Run
from papers.adam import correction, decay, model, paths
from papers.adam.data import Examples, load
from papers.adam.findings import compared, judged
from papers.adam.model import METHODS, Softmax
from papers.adam.nets import MLP, VAE, Side, bounded
from papers.adam.paths import Surfaces
from papers.adam.worst import Counterexample, lose

SCHEDULES: dict[str, Callable[[int, int], float]] = {  # of update t of so many
    "constant": lambda t, total: 1.0,
    "sqrt": lambda t, total: model.inverse_sqrt(t),
    "cosine": model.cosine,
    "drops": model.drops,
    "restarts": lambda t, total: model.restarts(t, math.ceil(total / 15)),  # 1 + 2 + 4 + 8 cycles
}


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of Sec. 6."""

    net: Literal["softmax", "mlp", "vae"] = "softmax"
    hidden: tuple[int, ...] = (1000, 1000)
    """Units in each hidden layer of mlp."""
    methods: tuple[str, ...] = ("adagrad", "nesterov", "adam")
    """Each with what is not the default: "adam b2=0.99"; "adagrad scale=10" has a grid that is ten times as high."""
    schedules: tuple[str, ...] = ("sqrt",)
    """What the stepsize is multiplied by: constant, sqrt (1 / sqrt(t)), cosine, drops, restarts; each method with each of them."""
    alphas: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    """Of each method (the paper's grid is not given)."""
    decays: tuple[float, ...] = (0.0,)
    """Of the weights, each with each stepsize: AdamW's decay, and for other methods the constant of L2."""
    dropout: float = 0.0
    """Of words, of mlp's hidden units."""
    passes: int = 45
    measured: tuple[int, ...] = (1, 2, 5, 10, 20, 45)
    """After which passes, besides the last."""
    batch_size: int = 128
    train_size: int = 60_000
    """The first images of MNIST's training set."""
    judged: Literal["training", "held-out"] = "training"
    """What chooses: the cost on what was trained on, or the error on images held out, the last of MNIST's training set."""
    data: Literal["mnist", "sst2", "made-up"] = "mnist"
    """made-up: stand-in digits, for tests."""

    def __post_init__(self) -> None:
        at_least_one(self, "passes", "batch_size", "train_size")
        fraction(self, "dropout")
        for text in self.methods:
            settings_of(text)
        if unknown := {*self.schedules} - {*SCHEDULES}:
            raise ValueError(f"--schedules: there is no {', '.join(sorted(unknown))}, only {', '.join(SCHEDULES)}")
        if not (self.methods and self.schedules and self.alphas and self.decays):
            raise ValueError("--methods, --schedules, --alphas and --decays need one each")
        if not all(0 < alpha < math.inf for alpha in self.alphas) or not all(0 <= each < math.inf for each in self.decays):
            raise ValueError(f"--alphas are positive, --decays not negative, got {self.alphas} and {self.decays}")
        if self.judged == "held-out" and (self.train_size > 50_000 or self.data == "sst2" or self.net == "vae"):
            raise ValueError("--judged held-out is for classes of MNIST, with a --train-size of 50,000 at most")


class Group(NamedTuple):
    """The nets of one method and schedule."""

    label: str  # what tells it from the others
    method: str
    schedule: str
    settings: dict[str, float]
    alphas: tuple[float, ...]


def settings_of(text: str) -> tuple[str, dict[str, float]]:
    """ "adam b2=0.99" -> "adam", {"b2": 0.99}. Raises ValueError: there is no such method, or it has no such setting."""
    method, *pairs = text.split() or [""]
    known = ["scale", *METHODS[method].defaults_of()] if method in METHODS else []
    try:
        settings = {name: float(value) for name, value in (pair.split("=") for pair in pairs)}
    except ValueError:
        settings = {text: math.nan}
    if not known or not settings.keys() <= {*known}:
        raise ValueError(f"--methods: there is no {text!r}, only {' '.join(known and [method, *known]) or ', '.join(METHODS)}")
    return method, settings


def groups(config: Config) -> list[Group]:
    found = []
    for text, schedule in product(config.methods, config.schedules):
        method, settings = settings_of(text)
        scale = settings.pop("scale", 1.0)
        named = [method, *(f"{name}={value:g}" for name, value in settings.items())] if len(config.methods) > 1 else []
        label = "-".join([*named, *([schedule] if len(config.schedules) > 1 else [])]) or method
        found.append(Group(label, method, schedule, settings, tuple(scale * alpha for alpha in config.alphas)))
    return found


def train(run: Run[Any]) -> dict[str, float]:
    if isinstance(run.config, Counterexample):
        return lose(run)  # worst.py: one number
    if isinstance(run.config, Surfaces):
        return paths.walk(run)  # paths.py: two numbers
    return learn(run)


def learn(run: Run[Config]) -> dict[str, float]:
    config, B, methods = run.config, run.config.batch_size, groups(run.config)
    data = load(run)
    updates = len(data.x) // B  # of a pass
    total = config.passes * updates
    grid = torch.cartesian_prod(torch.arange(len(config.alphas)), torch.arange(len(config.decays))).view(-1, 2).T
    alphas = [torch.tensor(group.alphas, device=run.device)[grid[0]] for group in methods]  # (T,) each
    decays = torch.tensor(config.decays, device=run.device)[grid[1]]  # (T,)
    l2 = torch.cat([decays * (group.method != "adamw") for group in methods]) if any(config.decays) else None
    nets = Side(len(methods), net(config, grid.shape[1], data), data.vocabulary)
    made = [METHODS[group.method](each.parameters(), **group.settings) for group, each in zip(methods, nets.of, strict=True)]
    nets, *optimizers = run.prepare(nets=nets, **{group.label: each for group, each in zip(methods, made, strict=True)})

    for step, index in run.indices(shuffled(len(data.x), B, run.seed), steps=total):
        for group, alpha, optimizer in zip(methods, alphas, optimizers, strict=True):
            eta = SCHEDULES[group.schedule](step + 1, total)
            now = {"alpha": alpha, "decay": decays, "eta": eta} if group.method == "adamw" else {"alpha": eta * alpha}
            optimizer.param_groups[0].update(now)
        for (x, y), weight in run.micro_batches((data.x[index], data.y[index]), nets, of=B):
            cost = nets(x, y, config.dropout, l2).mean(1)  # (methods * T,)
            run.backward(cost.sum() * weight)
            run.log(train_loss=bounded(cost.detach()).mean() * weight)
        if config.net == "vae":
            for theta in nets.parameters():
                theta.grad.nan_to_num_(0, 0, 0)  # of nets that have gone astray
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        passed, rest = divmod(step + 1, updates)
        if not rest and passed in (*config.measured, config.passes):
            run.report(**{"pass": passed}, **judged(run, nets, data, methods))
    if config.net == "vae":
        return correction.gained(run, methods)
    found = compared(run, nets, data, methods)
    return found | decay.slopes(run, methods) if len(config.decays) > 1 else found


def net(config: Config, nets: int, data: Examples) -> Softmax | MLP | VAE:
    if config.net == "softmax":
        return Softmax(nets, data.inputs, data.classes)
    return MLP(nets, data.inputs, config.hidden, data.classes) if config.net == "mlp" else VAE(nets, data.inputs)


NOISE = {  # unit -> a difference that shows nothing
    "nats": (0.001, "0.001 nats, half a percent of the cost, is taken for none"),
    "points": (0.15, "0.15 points, 15 of 10,000 images, is within noise"),
}


def ahead(first: str, second: str, after: str, source: str, unit: str = "nats") -> Claim:
    noise, none = NOISE[unit]
    why = f"the sign is what is claimed; a difference below {none}"
    return Claim(f"{first}_less_{second}_{after}", 0, unit, f"{source}: {second} is ahead", why=why, noise=noise)


def first_step(setting: str, size: float) -> Claim:
    source, why = "Sec. 6.4: initial steps that are too large", "computed, not printed: (1 - b1) / sqrt(1 - b2)"
    return Claim(f"first_step_{setting}", size, "stepsizes", source, tolerance=0.01, why=why, either_way=True)


LEFT, RIGHT = "Fig. 1, left", "Fig. 1, right"
FIGURE_1 = [
    ahead("adagrad", "adam", "pass1", LEFT), ahead("adagrad", "adam", "pass10", LEFT), ahead("adagrad", "nesterov", "pass10", LEFT),
    ahead("adagrad", "adam", "pass45", LEFT),
    Claim(
        "nesterov_less_adam_pass45", 0, "nats", f"{LEFT}: about equal", tolerance=0.01, either_way=True,
        why="a choice: a fiftieth of the figure's height, below which two of its lines are one",
    ),
]  # fmt: skip
FIGURE_1_RIGHT = [
    ahead("nesterov", "adagrad", "pass10", RIGHT), ahead("nesterov", "adam", "pass10", RIGHT),
    ahead("nesterov", "adagrad", "pass20", RIGHT),
    Claim("adagrad_less_adam_pass20", 0, "nats", f"{RIGHT}: about equal", tolerance=0.01, either_way=True,
          why="a choice, as in Fig. 1, left"),
]  # fmt: skip
FIGURE_2 = [ahead(method, "adam", "pass5", "Fig. 2(a)") for method in ("adagrad", "rmsprop", "nesterov", "adadelta")]
FIGURE_4 = [
    Claim("least_gain", 0, "nats", "Fig. 4: nowhere worse", tolerance=1, why="a choice, for the noise of one sample of z"),
    Claim("gain_b1=0.9-b2=0.9999_pass1", 0, "nats", "Fig. 4: b2 near 1 needs it", noise=0.5, why="the sign is what is claimed"),
    first_step("uncorrected-b1=0-b2=0.99", 10), first_step("uncorrected-b1=0-b2=0.999", 31.623),
    first_step("uncorrected-b1=0-b2=0.9999", 100), first_step("adam-b1=0-b2=0.9999", 1),
]  # fmt: skip
ADAMW = [
    ahead("adam", "adamw", "test", "AdamW, Fig. 2", "points"),
    Claim("less_diagonal", 0, "", "AdamW, Fig. 2: the best decay depends less on the stepsize", noise=0.05,
          why="the sign is what is claimed; half a decade of decay at one stepsize of five moves a slope by 0.1"),
]  # fmt: skip
SGDR = [
    *(ahead("drops", "restarts", after, "SGDR, Fig. 1", "points") for after in ("pass3", "pass7")),
    Claim("drops_less_cosine_test", 0, "points", "SGDR, Table 1: no worse", tolerance=0.15,
          why="15 of 10,000 images; the paper's own difference is 0.27 points of CIFAR-10"),
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
COSTS = {"figures": ("costs",), "log_every": 468}
SMALL = Config(
    net="mlp", hidden=(100,), methods=("adam", "adamw"), schedules=("cosine",), alphas=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    decays=(1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1), passes=50, measured=(10, 20), train_size=5000,
    judged="held-out",
)  # fmt: skip
DIGITS = "MNIST in place of CIFAR-10, a multilayer perceptron in place of "

EXPERIMENTS = {
    "figure1-mnist": Experiment(
        Config(), kind="paper", source=LEFT, cap="45 passes", cost="3 min on one CPU core", claims=FIGURE_1, **COSTS
    ),
    "figure1-mnist-schedules": Experiment(
        Config(schedules=("sqrt", "constant")), kind="reading", source=LEFT, cap="45 passes", cost="6 min on one CPU core",
        note="each method with stepsizes that are divided by sqrt(t), and with constant ones", **COSTS,
    ),
    "figure1-sst2": Experiment(
        Config(methods=("nesterov", "rmsprop", "adagrad", "adam"), alphas=(0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0), dropout=0.5,
               passes=20, measured=(1, 2, 5, 10), data="sst2"),
        kind="scaled", source=RIGHT, cap="20 passes", cost="15 min on one CPU core", claims=FIGURE_1_RIGHT,
        note="the phrases of SST-2, of nine words, in place of IMDB's reviews; 20 passes in place of 160", **COSTS,
    ),
    "figure2-dropout": Experiment(
        Config(net="mlp", methods=("adagrad scale=10", "rmsprop scale=0.3", "nesterov scale=30", "adadelta scale=1000", "adam"),
               schedules=("constant",), alphas=(0.0003, 0.001, 0.003), dropout=0.5, passes=5, measured=(1, 2, 3, 4)),
        kind="scaled", source="Fig. 2(a)", cap="5 passes", cost="25 min on one CPU core", claims=FIGURE_2,
        note="5 passes in place of 200, three stepsizes for each method", figures=("costs",), log_every=26,
    ),
    "figure4": Experiment(
        Config(net="vae", methods=correction.PAIRS, schedules=("constant",), alphas=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2), passes=2,
               measured=(1,)),
        kind="scaled", source="Fig. 4", cap="2 passes", cost="25 min on one CPU core", claims=FIGURE_4, figures=("correction",),
        log_every=13, note="after 1 and 2 passes in place of 10 and 100, five stepsizes",
    ),
    "adamw": Experiment(
        SMALL, kind="scaled", source="AdamW, Fig. 2", cap="50 passes", cost="8 min on one CPU core", claims=ADAMW,
        figures=("costs", "grid"), log_every=39, note=DIGITS + "Shake-Shake nets; 5,000 images for 50 passes",
    ),
    "sgdr": Experiment(
        replace(SMALL, hidden=(300,), methods=("momentum",), schedules=("drops", "cosine", "restarts"),
                alphas=(0.01, 0.03, 0.1, 0.3), decays=(5e-4,), passes=15, measured=(1, 3, 7), train_size=50_000),
        kind="scaled", source="SGDR, Table 1", cap="15 passes", cost="6 min on one CPU core", claims=SGDR, figures=("costs",),
        log_every=390, note=DIGITS + "wide residual nets; cycles of 1, 2, 4 and 8 passes",
    ),
    "reddi": Experiment(
        Counterexample(), kind="paper", source="Reddi et al. 2018, Sec. 3", cap="30,000 updates", cost="1 min on one CPU core",
        claims=REDDI, figures=("points",), log_every=100, precision={"cpu": "fp64", "cuda": "fp64"}, per_sample=True,
    ),
    "paths": Experiment(
        Surfaces(), kind="scaled", source="Sec. 5", cap="320 updates", cost="1 min on one CPU core",
        figures=("paths",), log_every=10,
        note="not in the paper: the ways of seven methods over two surfaces, to look at", per_sample=True,
    ),
    "smoke": Experiment(
        Config(alphas=(0.01, 0.1), passes=5, batch_size=32, data="made-up"), kind="smoke", source="Fig. 1", cap="5 passes",
        cost="1 s", log_every=4, checkpoint_every=0,
    ),
    "smoke-mlp": Experiment(
        Config(net="mlp", hidden=(16, 16), methods=("momentum", "adamw"), schedules=("cosine", "restarts"), alphas=(0.01, 0.1),
               decays=(1e-4, 1e-3), passes=3, batch_size=32, judged="held-out", train_size=256, data="made-up"),
        kind="smoke", source="Fig. 2", cap="3 passes", cost="1 s", log_every=4, checkpoint_every=0,
    ),
    "smoke-reddi": Experiment(
        Counterexample(updates=40), kind="smoke", source="Reddi et al. 2018, Sec. 3", cap="40 updates", cost="1 s", log_every=10,
        checkpoint_every=0, per_sample=True,
    ),
}  # fmt: skip

if __name__ == "__main__":
    reproduce(EXPERIMENTS, train)
