"""Glorot & Bengio (2010): why deep nets were hard to train, and how to begin; He et al. (2015), where rectifiers need more.

    make reproduce-glorot                                  # signals and gradients before training: seconds on one CPU core
    make reproduce-glorot EXPERIMENT=mnist-5x200           # the effect of the initial weights, in 10,000 updates
    make reproduce-glorot EXPERIMENT=he-30                 # 30 layers: He's weights learn, "Xavier" stalls
    python -m papers.glorot.train mnist-5x200 --seed 1     # the same without make

All nets of an experiment learn side by side from the same batches, each model at several rates; reported is the test error at the
rate with the least error on validation data. At the end a run prints, for each claim, the paper's value, ours and the verdict.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from common.claims import Claim, Experiment
from common.command import reproduce
from common.options import at_least_one, fraction
from common.run import Run
from papers.glorot import pictures
from papers.glorot.data import load
from papers.glorot.model import Nets, activations, cost
from papers.glorot.statistics import Statistics, look

INITS = {"": "standard", "n": "normalized", "torch": "torch", "he": "he", "xavier": "xavier"}  # what a model's name ends in
GAINS = (("softsign", "softsign-n"), ("tanh", "tanh-n"), ("tanh-torch", "tanh-n"), ("relu-xavier", "relu-he"))
WATCHED = 300  # fixed test examples (Sec. 3.1)


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of Secs. 2.2 and 2.3, unless another place is named."""

    data: Literal["shapeset", "mnist", "cifar10"] = "mnist"
    models: tuple[str, ...] = ("softsign", "softsign-n", "tanh", "tanh-n", "sigmoid")
    """Activation, and initialization: standard (nothing), n, torch, he, xavier."""
    rates: tuple[float, ...] = (0.01, 0.03, 0.1)
    """Of each model (the paper's grid is not given)."""
    depth: int = 5
    """Hidden layers."""
    width: int = 1000
    """Units in each."""
    updates: int = 5_000_000
    batch_size: int = 10
    momentum: float = 0.0
    """Not in Glorot & Bengio; 0.9 in He et al."""
    center: bool = False
    """Inputs less their mean, over their standard deviation, that of the training set's pixels."""
    watch_every: int = 0
    """Updates between two looks at the activations of 300 fixed examples (Sec. 3); 0: none."""
    validation: int = 10_000
    """Examples to choose the rate on."""
    test: int = 10_000
    """Test examples of Shapeset; of others those that there are."""

    def __post_init__(self) -> None:
        at_least_one(self, "depth", "width", "updates", "batch_size", "validation", "test")
        fraction(self, "momentum")
        if self.data != "shapeset" and self.validation >= 50_000:
            raise ValueError(f"--validation {self.validation}: there are 50,000 training images or a few more")
        if not self.rates or not all(0 < rate < math.inf for rate in self.rates):
            raise ValueError(f"--rates must be positive, got {self.rates}")
        for model in self.models:
            activation, _, init = model.partition("-")
            if activation not in ("softsign", "tanh", "sigmoid", "relu") or init not in INITS:
                raise ValueError(f"--models: no '{model}'; an activation, and one of -n, -torch, -he, -xavier or nothing")
        if not self.models or len({*self.models}) < len(self.models):
            raise ValueError(f"--models must be different ones, got {self.models}")
        if self.watch_every < 0:
            raise ValueError(f"--watch-every must not be negative, got {self.watch_every}")

    def nets(self) -> list[tuple[str, float]]:
        """Model and rate of each net, side by side."""
        return [(model, rate) for model in self.models for rate in self.rates]

    def keys(self) -> list[str]:
        """The ends of their metrics' names."""
        return [f"{key(model)}_lr{rate:g}" if len(self.rates) > 1 else key(model) for model, rate in self.nets()]

    def kinds(self) -> list[tuple[str, str]]:
        return [(model.partition("-")[0], INITS[model.partition("-")[2]]) for model, _ in self.nets()]


def train(run: Run[Any]) -> dict[str, float]:
    if isinstance(run.config, Statistics):
        return look(run)  # statistics.py: before training
    return learn(run)


def learn(run: Run[Config]) -> dict[str, float]:
    config, B = run.config, run.config.batch_size
    task = load(run)
    nets = Nets([task.inputs, *[config.width] * config.depth, task.classes], config.kinds())
    optimizer = torch.optim.SGD(nets.parameters(), lr=1.0, momentum=config.momentum, fused=True)
    nets, optimizer = run.prepare(nets=nets, optimizer=optimizer)
    rates = torch.tensor([rate for _, rate in config.nets()], device=run.device)  # (T,)

    for step, index in run.indices(task.draw, steps=config.updates):
        costs = 0
        for (x, y), weight in run.micro_batches(task.batch(step, index), nets, of=B):
            C = cost(nets(x), y)  # (T,)
            run.backward((rates * C).sum() * weight)  # theta <- theta - rate g, each net its own
            costs = costs + C.detach() * weight
        run.log(**dict(zip((f"cost_{name}" for name in config.keys()), costs, strict=True)))  # noqa: SIM118
        optimizer.step()
        optimizer.zero_grad()
        if run.log_step:
            run.report(updates=step + 1)
        if config.watch_every and (step + 1) % config.watch_every == 0:
            with run.evaluating(nets) as bare:
                report_activations(run, bare, task.test[0][:WATCHED])

    errors = {part: error(run, nets, *getattr(task, part)) for part in ("validation", "test")}
    pictures.draw_losses(run, config.keys())
    if config.watch_every:
        with run.evaluating(nets) as bare:
            pictures.draw_course(run, config.keys(), config.depth)
            pictures.draw_ends(run, config.keys(), bare.layers(task.test[0][:WATCHED])[1][1:])
    return chosen(config, **errors)


def report_activations(run: Run[Config], nets: Nets, x: Tensor) -> None:
    found = activations(nets, x)
    for net, name in enumerate(run.config.keys()):
        what = "mean" if name.startswith("sigmoid") else "std"
        run.report(updates=run.step + 1, **{f"{what}_{name}_layer{i}": v for i, v in enumerate(found[what][net].tolist(), 1)})


def error(run: Run[Config], nets: Nets, x: Tensor, y: Tensor) -> list[float]:
    """Wrong answers of each net, %."""
    n = len(x)
    mine = run.share(n)
    with run.evaluating(nets) as bare:
        wrong = [bare(part).argmax(2) != label for part, label in zip(x[mine].split(500), y[mine].split(500), strict=True)]
    return (100 * run.gather(torch.cat(wrong, 1).T, n).double().mean(0)).tolist()


def key(model: str) -> str:
    return model.replace("-", "_")


def chosen(config: Config, validation: list[float], test: list[float]) -> dict[str, float]:
    """Of each model the test error at the rate that validation prefers, that rate, and what initialization gains."""
    found: dict[str, float] = {}
    for model in config.models:
        mine = [i for i, (other, _) in enumerate(config.nets()) if other == model]
        best = min(mine, key=lambda i: validation[i])
        found |= {f"test_error_{key(model)}": test[best], f"rate_{key(model)}": config.nets()[best][1]}
        found |= {f"validation_error_{config.keys()[i]}": validation[i] for i in mine if len(config.rates) > 1}
    for plain, better in GAINS:
        if {plain, better} <= {*config.models}:
            found[f"{key(better)}_gain_over_{key(plain)}"] = found[f"test_error_{key(plain)}"] - found[f"test_error_{key(better)}"]
    return found


TABLE_1 = {  # test error, %, 5 hidden layers
    "shapeset": {"softsign": 16.27, "softsign-n": 16.06, "tanh": 27.15, "tanh-n": 15.60, "sigmoid": 82.61},
    "mnist": {"softsign": 1.64, "softsign-n": 1.72, "tanh": 1.76, "tanh-n": 1.64, "sigmoid": 2.21},
    "cifar10": {"softsign": 55.78, "softsign-n": 53.8, "tanh": 55.9, "tanh-n": 52.92, "sigmoid": 57.28},
}


def off(p: float, n: int = 10_000) -> float:
    """The standard error of a difference of two error rates near p %, each on n examples."""
    return math.sqrt(2 * p * (100 - p) / n)


def table_1(data: str, *near: float) -> list[Claim]:
    """A column of Table 1, and what the normalized initialization gains. near: the rates at which gains are judged."""
    claims, column = [], TABLE_1[data]
    for model, error in column.items():
        why = "two standard errors of a difference of two error rates on 10,000 examples; the paper gives no spread"
        claims.append(
            Claim(
                f"test_error_{key(model)}", error, "%", "Table 1", True, round(2 * off(error), 2), why, either_way="-n" not in model
            )
        )
    for plain, better in GAINS[:2]:
        if plain == "softsign" and column[plain] - column[better] < 2 * off(column[better]):
            continue  # the paper has no difference there, or the reverse
        noise = round(off(*(near or (column[better],))), 2)
        why = f"the sign is what is claimed; {noise} is the standard error of a difference of two such rates on 10,000 examples"
        claims.append(Claim(f"{key(better)}_gain_over_{key(plain)}", 0, "%", "Table 1", why=why, noise=noise))
    return claims


def sec_4(metric: str, value: float, tolerance: float, where: str, why: str) -> Claim:
    return Claim(metric, value, "", where, tolerance=tolerance, why=why, either_way=True)


def level(metric: str, where: str, noise: float = 0.02) -> Claim:
    why = "the sign is what is claimed: what shrinks from layer to layer under standard weights shrinks less under normalized ones"
    return Claim(metric, 0, "", where, why=why, noise=noise)


ONE = "half of its last printed digit"
SEC_4 = [
    sec_4("jacobian_standard", 0.5, 0.05, "Sec. 4.2.1: about 0.5", ONE),
    sec_4("jacobian_normalized", 0.8, 0.05, "Sec. 4.2.1: about 0.8", ONE),
    sec_4("weight_gradient_ratio_standard", 1, 0.25, "Eq. 14, Fig. 8: level", "a choice; the signals shrink tenfold"),
    level("activation_gain", "Fig. 6"), level("gradient_gain", "Fig. 7"),
]  # fmt: skip
HE = (
    "22 layers, Fig. 2 of He et al.: both converge", "30 layers, Fig. 3 of He et al.: Xavier stalls",
)  # fmt: skip
SMALL = Config(width=200, updates=10_000)
FP32 = {"log_every": 250}


def of(config: Config, kind: str, source: str, cost: str, *claims: Claim, **more: Any) -> Experiment[Config]:
    return Experiment(
        config, kind=kind, source=source, cap=f"{config.updates:,} updates", cost=cost, claims=claims,
        **{"figures": ("costs",), **FP32, **more},
    )  # fmt: skip


def he(depth: int, source: str) -> Experiment[Config]:
    config = Config(
        models=("relu-he", "relu-xavier"), rates=(0.001, 0.003, 0.01), depth=depth - 1, width=128, updates=1500, batch_size=64,
        momentum=0.9, center=True,
    )  # fmt: skip
    why = "the sign is what is claimed; 0.5 is the standard error of a difference of two error rates near 10 % on 10,000 examples"
    claim = Claim("relu_he_gain_over_relu_xavier", 0, "%", source, why=why, noise=0.5)
    note = f"scaled: {depth} layers of weights, 128 units each, fully connected, MNIST, 1,500 updates"
    return of(config, "scaled", source, "3 min on one CPU core", claim, note=note, log_every=50)


EXPERIMENTS = {
    "init-statistics": Experiment(
        Statistics(), kind="paper", source="Secs. 4.2, Figs. 6 to 8", cap="3 draws", cost="30 s on one CPU core", claims=SEC_4,
        figures=("activations", "gradients"), log_every=1,
    ),
    **{
        f"{data}-table-1": of(
            Config(data=data), "paper", "Table 1", f"{days} days on one CPU core, from updates timed; not run",
            *table_1(data), log_every=10_000,
        )
        for data, days in (("shapeset", 30), ("mnist", 30), ("cifar10", 75))
    },
    "mnist-5x200": of(
        SMALL, "scaled", "Table 1, MNIST", "6 min on one CPU core", *table_1("mnist", 4.0),
        note="scaled: 200 units a layer, 10,000 updates (two passes)",
    ),
    "mnist-5x200-torch": of(
        replace(SMALL, models=("tanh", "tanh-torch", "tanh-n")), "reading", "Table 1, MNIST", "4 min on one CPU core",
        note="mnist-5x200 with nn.Linear's default weights and biases: Eq. 1's range, for biases too",
    ),
    "mnist-5x1000": of(
        Config(updates=10_000, rates=(0.03, 0.1)), "scaled", "Table 1, MNIST", "40 min on one CPU core",
        *table_1("mnist", 4.0), note="scaled: 10,000 updates (two passes)",
    ),
    "cifar10-5x1000": of(
        Config(data="cifar10", updates=6_000, rates=(0.03, 0.1)), "scaled", "Table 1, CIFAR-10",
        "40 min on one CPU core", *table_1("cifar10"), note="scaled: 6,000 updates (a pass and a half)",
    ),
    "shapeset": of(
        Config(data="shapeset", width=300, updates=3000, rates=(0.1,), watch_every=50, validation=1000, test=2000), "scaled",
        "Figs. 2 to 4", "3 min on one CPU core", figures=("course", "ends"),
        note="scaled: 300 units a layer, 3,000 updates, one rate; the activations while nets learn",
    ),
    "he-22": he(22, HE[0]),
    "he-30": he(30, HE[1]),
    "smoke": Experiment(
        Config("shapeset", ("tanh", "sigmoid"), (0.1, 0.2), 2, 8, 24, validation=20, test=40), kind="smoke",
        source="Table 1", cap="24 updates", cost="1 s", log_every=4, checkpoint_every=0,
    ),
    "smoke-statistics": Experiment(
        Statistics(width=8, examples=10, draws=2), kind="smoke", source="Sec. 4.2", cap="2 draws", cost="1 s", log_every=1,
        checkpoint_every=0,
    ),
}  # fmt: skip

if __name__ == "__main__":
    reproduce(EXPERIMENTS, train)
