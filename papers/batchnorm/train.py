"""Batch normalization (2015): the net of Fig. 1 with and without it, at many rates and scales of weights; and other norms.

    make reproduce-batchnorm                               # Fig. 1: MNIST, three layers of sigmoids
    make reproduce-batchnorm EXPERIMENT=rates              # which rates and initial weights a net bears
    make reproduce-batchnorm EXPERIMENT=small-batches      # group norm's comparison, on CIFAR-10
    python -m papers.batchnorm.train figure1 --seed 1      # the same without make

All nets of a run learn side by side from the same batches; reported is the test accuracy of each kind at the rate and the scale of
its initial weights with the best accuracy on validation images. At the end a run prints, for each claim, the paper's value, ours
and the verdict.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from common.claims import Claim, Experiment
from common.command import reproduce
from common.data import mnist, standin
from common.data.order import mix, shuffled
from common.options import at_least_one
from common.run import Run
from papers.batchnorm import pictures
from papers.batchnorm.model import DENSE, Nets, population
from papers.batchnorm.small_batches import SmallBatches, compare

PAIRS = (("bn", "plain"), ("ln", "plain"), ("ln", "bn"))  # the first less the second is reported
LEARNED = 90.0  # % right on validation images: what counts as a net that learns
WATCHED, COLLECTED = 1000, 500  # test images whose signals are watched; batches of the population statistics


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of Sec. 4.1, unless another place is named."""

    norms: tuple[str, ...] = ("plain", "bn")
    """plain, bn, ln."""
    rates: tuple[float, ...] = (0.1, 1.0, 3.0, 10.0)
    """Of each norm (the paper's is not given)."""
    scales: tuple[float, ...] = (0.1, 0.3)
    """Standard deviations of the initial weights, of each norm and rate (the paper's is not given: "small")."""
    depth: int = 3
    """Hidden layers."""
    width: int = 100
    """Units in each."""
    activation: Literal["sigmoid", "relu"] = "sigmoid"
    optimizer: Literal["sgd", "adam"] = "sgd"
    """adam: in layer norm's comparison, which needs one rate."""
    steps: int = 50_000
    batch_size: int = 60
    evaluate_every: int = 1000
    validation: int = 10_000
    """Training images kept to choose the rate and the scale on."""
    data: Literal["binary", "grey", "made-up"] = "binary"
    """MNIST with pixels 0 and 1, or from 0 to 1; made-up: stand-in digits, for tests."""

    def __post_init__(self) -> None:
        at_least_one(self, "depth", "width", "steps", "batch_size", "evaluate_every", "validation")
        if not self.norms or {*self.norms} - {*DENSE}:
            raise ValueError(f"--norms must be of {', '.join(DENSE)}, got {' '.join(self.norms)}")
        for name in ("rates", "scales"):
            if not getattr(self, name) or not all(0 < value < math.inf for value in getattr(self, name)):
                raise ValueError(f"--{name} must be positive, got {getattr(self, name)}")
        if self.optimizer == "adam" and len(self.rates) > 1:
            raise ValueError(f"--optimizer adam takes one of --rates, got {self.rates}")
        if self.validation >= 50_000:
            raise ValueError(f"--validation {self.validation}: there are 60,000 training images")

    def settings(self) -> list[tuple[float, float]]:
        """Rate and scale of each of a norm's nets, side by side."""
        return [*itertools.product(self.rates, self.scales)]

    def keys(self, norm: str) -> list[str]:
        """The ends of their metrics' names."""
        return [f"{norm}_lr{rate:g}_scale{scale:g}" for rate, scale in self.settings()]


class Watched(nn.Module):
    """Fig. 1(b, c): the least and the largest median so far of each unit of the last hidden layer, (2, T, n) of each norm."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        for norm in config.norms:
            start = torch.tensor([math.inf, -math.inf])[:, None, None]
            self.register_buffer(norm, start.repeat(1, len(config.settings()), config.width))

    def look(self, norm: str, signals: Tensor) -> Tensor:
        """The 15th, 50th and 85th percentiles of the first unit, (3, T), from what goes into the layer's sigmoids, (T, B, n)."""
        found = signals.quantile(torch.tensor([0.15, 0.5, 0.85]).to(signals), dim=1)
        low, high = self.get_buffer(norm)
        torch.minimum(low, found[1], out=low)
        torch.maximum(high, found[1], out=high)
        return found[:, :, 0]

    def ranges(self, norm: str) -> Tensor:
        """The mean over units, (T,)."""
        low, high = self.get_buffer(norm)
        return (high - low).mean(1)


def train(run: Run[Any]) -> dict[str, float]:
    if isinstance(run.config, SmallBatches):
        return compare(run)  # small_batches.py
    return learn(run)


def learn(run: Run[Config]) -> dict[str, float]:
    config, B = run.config, run.config.batch_size
    images, labels, held = data(run)
    sizes = (images.shape[1], *[config.width] * config.depth, 10)
    start = lambda: torch.Generator().manual_seed(mix(run.seed, "weights"))  # for every norm the same
    scales = [scale for _, scale in config.settings()]
    nets = Stacks({norm: Nets(norm, scales, sizes, config.activation, start()) for norm in config.norms})
    adam = config.optimizer == "adam"  # which does not mind how large gradients are
    make, rate = (torch.optim.Adam, config.rates[0]) if adam else (torch.optim.SGD, 1.0)
    optimizer = make(nets.parameters(), rate, fused=True)
    nets, optimizer, watched = run.prepare(nets=nets, optimizer=optimizer, watched=Watched(config))
    rates = torch.tensor([rate for rate, _ in config.settings()], device=run.device).repeat(len(config.norms))  # (norms T,)

    for step, index in run.indices(shuffled(len(images), B, run.seed), steps=config.steps):
        index = index.to(run.device)
        for (x, y), weight in run.micro_batches((images[index], labels[index]), nets, of=B):
            costs = cross_entropy(nets(x).transpose(1, 2), y.expand(len(rates), -1), reduction="none").mean(1)
            run.backward((costs if adam else rates * costs).sum() * weight)  # theta <- theta - rate g, each net its own
            by_norm = costs.detach().view(len(config.norms), -1).mean(1) * weight
            run.log(**{f"train_loss_{norm}": cost for norm, cost in zip(config.norms, by_norm, strict=True)})
        optimizer.step()
        optimizer.zero_grad()
        last = step + 1 == config.steps
        if last or (step + 1) % config.evaluate_every == 0:
            found = accuracies(run, nets, held)
            with run.evaluating(nets) as bare:
                for norm, stack in bare.of.items():
                    seen = watched.look(norm, stack.layers(held["test"][0][:WATCHED])[-2])
                    found |= named(config, norm, p15=seen[0], p50=seen[1], p85=seen[2])
            run.report(updates=step + 1, **found)
        if last:  # Algorithm 2 comes after training
            draw = shuffled(len(images), B, mix(run.seed, "population"))
            with run.evaluating(nets) as bare:
                population(bare, (images[draw(k).to(run.device)] for k in range(min(COLLECTED, config.steps))))
    found = chosen(run, accuracies(run, nets, held), watched)
    best = [key(config, norm, found) for norm in config.norms]
    others = {key(config, norm, found, other) for norm in config.norms for other in config.norms} - {*best}
    pictures.draw_course(run, best, sorted(others))
    return found


class Stacks(nn.Module):
    """The nets of each norm."""

    def __init__(self, of: dict[str, Nets]) -> None:
        super().__init__()
        self.of = nn.ModuleDict(of)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, n_0) -> logits (norms T, B, classes)."""
        return torch.cat([stack(x) for stack in self.of.values()])


def data(run: Run[Config]) -> tuple[Tensor, Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """Images and labels to learn from, and those held from training: validation and test; on the run's device."""
    config = run.config
    if made_up := config.data == "made-up":
        (first, known), (last, asked) = standin.images(256, 0, size=8), standin.images(128, 1, size=8)
        first, last, digest = first[..., 0], last[..., 0], {"generator": "common/data/standin.py", "seed": 0}
    else:
        run.on_main(lambda: mnist.fetch(run.data_dir))
        digits = mnist.load(run.data_dir)
        first, known, last, asked = digits.train_images, digits.train_labels, digits.test_images, digits.test_labels
        digest = {"sha256": digits.sha256}
    n = len(first) - config.validation
    run.describe_data(
        name=f"mnist, {config.validation:,} training images for validation", train=n, test=len(last), stand_in=made_up, **digest
    )
    shown = lambda x: ((x > 127) if config.data == "binary" else x / 255).flatten(1).to(run.device, torch.get_default_dtype())
    known, asked = known.to(run.device), asked.to(run.device)
    return shown(first[:n]), known[:n], {"validation": (shown(first[n:]), known[n:]), "test": (shown(last), asked)}


def accuracies(run: Run[Config], nets: Stacks, held: dict[str, tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Of each net the right answers, %: `validation_accuracy_<net>`, `test_accuracy_<net>`."""
    found = {}
    for part, (x, y) in held.items():
        mine = run.share(len(x))
        with run.evaluating(nets) as bare:
            right = [bare(a).argmax(2) == b for a, b in zip(x[mine].split(1000), y[mine].split(1000), strict=True)]
        means = 100 * run.gather(torch.cat(right, 1).T, len(x)).double().mean(0).view(len(run.config.norms), -1)
        for norm, values in zip(run.config.norms, means, strict=True):
            found |= named(run.config, norm, **{f"{part}_accuracy": values})
    return found


def named(config: Config, norm: str, **values: Tensor) -> dict[str, float]:
    """`<name>_<net>` of each net of a norm."""
    return {f"{name}_{end}": v for name, each in values.items() for end, v in zip(config.keys(norm), each.tolist(), strict=True)}


def key(config: Config, norm: str, found: dict[str, float], of: str = "") -> str:
    """The net of a norm that has the rate and the scale chosen for it, or for another."""
    return config.keys(norm)[config.settings().index((found[f"rate_{of or norm}"], found[f"scale_{of or norm}"]))]


def chosen(run: Run[Config], end: dict[str, float], watched: Watched) -> dict[str, float]:
    """Each norm at its best setting on validation, how pairs of norms differ there and at each other's best, what learned."""
    config, found = run.config, dict[str, float]()
    for norm in config.norms:
        validation = [end[f"validation_accuracy_{each}"] for each in config.keys(norm)]
        best = max(range(len(validation)), key=lambda i: validation[i])
        found |= dict(zip((f"rate_{norm}", f"scale_{norm}"), config.settings()[best], strict=True))
        found |= {f"test_accuracy_{norm}": end[f"test_accuracy_{config.keys(norm)[best]}"]}
        found[f"median_range_{norm}"] = watched.ranges(norm)[best].item()
        found |= {f"learned_{norm}": 100 * sum(value >= LEARNED for value in validation) / len(validation)}
        found |= {f"validation_accuracy_{each}": value for each, value in zip(config.keys(norm), validation, strict=True)}
    if "bn" in config.norms:  # the last line of the log has the accuracy under running averages
        there = run.curves("updates", name := f"test_accuracy_{key(config, 'bn', found)}")
        found["population_less_running_bn"] = end[name] - there[name][-1]
    for a, b in (pair for pair in PAIRS if {*pair} <= {*config.norms}):
        found[f"learned_{a}_less_{b}"] = found[f"learned_{a}"] - found[f"learned_{b}"]
        where = {"": (key(config, a, found), key(config, b, found))}
        if len(config.settings()) > 1:
            where |= {f"_best_of_{norm}": (key(config, a, found, norm), key(config, b, found, norm)) for norm in (a, b)}
        for name, pair in where.items():
            for step, values in courses(run, end, *pair):
                found[f"{a}_less_{b}{name}_step{step}"] = values[0] - values[1]
            ours, other = (watched.ranges(norm)[config.keys(norm).index(net)] for norm, net in zip((a, b), pair, strict=True))
            found[f"median_range_{b}_less_{a}{name}"] = (other - ours).item()
    return found


def courses(run: Run[Config], end: dict[str, float], *nets: str) -> Iterator[tuple[int, list[float]]]:
    """Test accuracies of these nets at a fiftieth, a tenth, a fifth and all of the steps; in the end, of the final statistics."""
    names = [f"test_accuracy_{net}" for net in nets]
    curves = run.curves("updates", *names)
    for at in (run.config.steps // part for part in (50, 10, 5)):
        if at in curves["updates"]:
            yield at, [curves[name][curves["updates"].index(at)] for name in names]
    yield run.config.steps, [end[name] for name in names]


def off(p: float, n: int = 10_000) -> float:
    """The standard error of a difference of two rates near p %, each on n examples."""
    return round(math.sqrt(2 * p * (100 - p) / n), 2)


def ahead(metric: str, near: float, source: str, unit: str = "%") -> Claim:
    """The paper says or shows which is better; near: the accuracy at which the difference is measured."""
    why = f"the sign is what is claimed; {off(near)} is the standard error of a difference near {near:g} % on 10,000 images"
    return Claim(metric, 0, unit, source, why=why, noise=off(near))


def figure_1(where: str, what: str) -> list[Claim]:
    early, late = (f"Fig. 1(a), {each}: {what}" for each in ("trains faster", "ends higher"))
    return [ahead(f"bn_less_plain{where}_step1000", 94, early), ahead(f"bn_less_plain{where}_step50000", 98, late)]


FIGURE_1 = [
    *figure_1("_best_of_bn", "same rate, batch norm's best"), *figure_1("_best_of_plain", "same rate, the plain net's best"),
    *figure_1("", "each at its best"),
    *(
        Claim(f"median_range_plain_less_bn{where}", 0, "", f"Fig. 1(b, c): {what}", why="the sign is what is claimed")
        for where, what in (("_best_of_bn", "same rate, batch norm's best"), ("", "each at its best"))
    ),
]  # fmt: skip
RATES = [
    Claim(
        "learned_bn_less_plain",
        0,
        "%",
        "Sec. 3.3",
        why="the sign is what is claimed, of the share of settings at which a net learns",
    )
]
FIGURE_6 = [(1, 97.5), (10, 98.5)]  # a tenth of the updates, all: accuracy near


def figure_6(batch: int, steps: int) -> list[Claim]:
    """Layer norm is the fastest, and at batches of 4 batch norm is the worse for them."""
    source, found = f"Fig. 6 of Ba et al., batches of {batch}", []
    for tenths, near in FIGURE_6:
        step = steps * tenths // 10
        found += [ahead(f"ln_less_{other}_step{step}", near, source) for other in ("bn", "plain")]
    return found


def table_2() -> list[Claim]:
    """Wu and He's ResNet-50 on ImageNet: error, %."""
    bn, gn = {32: 23.6, 4: 27.3, 2: 34.7}, {32: 24.1, 4: 24.2, 2: 24.1}
    source, why = "Table 2 of Wu and He", "theirs are of ImageNet; the sign is what can be compared"
    claim = lambda metric, value, **more: Claim(metric, round(value, 1), "%", source, why=why, noise=off(40), **more)
    return [
        *(claim(f"bn_less_gn_{size}", bn[size] - gn[size], either_way=True) for size in (32, 4, 2)),
        *(claim(f"bn_rise_{size}", bn[size] - bn[32]) for size in (4, 2)),
        Claim("gn_rise_2", 0.0, "%", source, lower_is_better=True, tolerance=off(40), why="flat: within the error of a difference"),
    ]  # fmt: skip


def fig_6(batch: int, steps: int, passes: int, cost: str) -> Experiment[Config]:
    config = Config(
        norms=("plain", "bn", "ln"), rates=(0.001,), scales=(0.05,), depth=2, width=1000, activation="relu", optimizer="adam",
        steps=steps, batch_size=batch, evaluate_every=steps // 10, validation=5000, data="grey",
    )  # fmt: skip
    times = f"{passes} pass{'es' * (passes > 1)}"
    return Experiment(
        config, kind="scaled", source=f"Fig. 6 of Ba et al., batches of {batch}", cap=times, cost=cost,
        claims=figure_6(batch, steps), note=f"scaled: {times} of 60", figures=("course",), log_every=steps // 50,
    )  # fmt: skip


EXPERIMENTS = {
    "figure1": Experiment(
        Config(), kind="paper", source="Fig. 1", cap="50,000 updates", cost="27 min on one CPU core", claims=FIGURE_1,
        figures=("course",), log_every=500,
    ),
    "rates": Experiment(
        Config(rates=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0), scales=(0.01, 0.1, 0.3, 1.0), steps=5000, evaluate_every=500),
        kind="scaled", source="Sec. 3.3", cap="5,000 updates", cost="8 min on one CPU core", claims=RATES, log_every=100,
        note="scaled: the net of Fig. 1, 5,000 updates, where the paper has ImageNet", figures=("course",),
    ),
    "depth": Experiment(
        Config(depth=8, steps=10_000, evaluate_every=1000), kind="scaled", source="Fig. 3, sigmoid",
        cap="10,000 updates", cost="5 min on one CPU core", log_every=200, figures=("course",),
        note="scaled: eight layers of 100 sigmoids, MNIST, where the paper has Inception, ImageNet: 69.8 % with, 0.1 % without",
        claims=[ahead("bn_less_plain_step10000", 97, "Fig. 3, BN-x5-Sigmoid: learns, and without does not")],
    ),
    "layer-norm-128": fig_6(128, 4300, 10, "12 min on one CPU core"),
    "layer-norm-4": fig_6(4, 13_750, 1, "12 min on one CPU core"),
    "small-batches": Experiment(
        SmallBatches(), kind="scaled", source="Table 2 of Wu and He", cap="1 pass", cost="20 min on one CPU core",
        claims=table_2(), note="scaled: a net of six convolutions, 16 to 64 channels, CIFAR-10, one pass", log_every=25,
        per_sample=True,
    ),
    "smoke": Experiment(
        Config(("plain", "bn"), (0.1, 1.0), (0.1,), 2, 8, steps=24, batch_size=16, evaluate_every=8, validation=64, data="made-up"),
        kind="smoke", source="Fig. 1", cap="24 updates", cost="1 s", log_every=4, checkpoint_every=0,
    ),
    "smoke-small-batches": Experiment(
        SmallBatches(("bn-8", "bn-4", "gn-4"), 160, data="made-up"), kind="smoke", source="Table 2 of Wu and He", cap="20 updates",
        cost="1 s", log_every=4, checkpoint_every=0, per_sample=True,
    ),
}  # fmt: skip

if __name__ == "__main__":
    reproduce(EXPERIMENTS, train)
