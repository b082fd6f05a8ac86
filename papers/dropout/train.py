"""Dropout (2014): nets that fit their training images too well, with what keeps them from it.

    make reproduce-dropout                                        # Table 9, a million updates of each net: for a GPU
    make reproduce-dropout EXPERIMENT=table9-20 SEEDS="0 1 2"     # its nets, 20 epochs, one CPU core
    make reproduce-dropout EXPERIMENT=ridge                       # Sec. 9.1, exact; seconds
    torchrun --nproc-per-node 8 -m papers.dropout.train table9    # 8 GPUs; the batch of 100 is shared out
    make reproduce-dropout GPUS=8 NODES=2 NODE_RANK=0 MASTER=first-host   # on the first of two machines, NODE_RANK=1 on the other

All nets of an experiment learn side by side from the same batches. At the end a run prints, for each claim, the paper's value, ours
and the verdict. Fig. 8 is in sparse.py, Sec. 9.1 in ridge.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from common.claims import Claim, Experiment
from common.command import reproduce
from common.data.order import mix, shuffled
from common.options import at_least_one, positive
from common.processes import bare
from common.run import Run
from papers.dropout import pictures
from papers.dropout.claims import FIGURE_11, GAINS, REPORT, TABLE_2, TABLE_9, TABLE_10, active, figure_9, figure_10, key, table
from papers.dropout.model import Net, bernoulli, gaussian, l1, max_norm_, monte_carlo, sparsity
from papers.dropout.nets import Nets, digits, gathered, masks
from papers.dropout.ridge import Ridge, regress
from papers.dropout.sparse import Autoencoder, encode

PARTS = ("plain", "l2", "l1", "sparsity", "max-norm", "dropout", "hidden", "gaussian", "logistic")  # of a row's name
NOISY = {"dropout", "hidden", "gaussian"}
AVERAGES = (1, 2, 5, 10, 20, 50, 100)  # of Fig. 11: thinned nets that are averaged


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of Table 9's nets; the optimizer's are those of the authors' example, as the paper has none."""

    rows: tuple[str, ...] = ("l2", "max-norm", "dropout+max-norm")
    """plain, or of l2, l1, sparsity, max-norm, dropout, gaussian (noise in its place), hidden (its inputs kept), logistic."""
    hidden: tuple[int, ...] = (1024, 1024, 2048)
    """Units of each layer."""
    p_input: float = 0.8
    """With which an input is kept."""
    p_hidden: float = 0.5
    """With which a hidden unit is kept."""
    vary: Literal["nothing", "p", "p-and-width", "images"] = "nothing"
    """A net of each row for each of these: p_hidden; the same with width / p units; training images."""
    values: tuple[float, ...] = ()
    updates: int = 1_000_000
    """Rates and momentum change as in the authors' million, whatever their number."""
    batch_size: int = 100
    recipe: Literal["2014", "2012"] = "2014"
    """That of the authors' example, or that of arXiv:1207.0580: its rates, its momentum, a gradient times 1 - momentum."""
    rate: float = 1.0
    """In the beginning, where units are dropped; and of all rows in the 2012 recipe."""
    rate_norm: float = 1.0
    """The same of max-norm without dropout."""
    rate_plain: float = 0.01
    """Of the other rows."""
    halved: int = 10_000
    """Updates after which rate_plain is halved."""
    momentum: float = 0.99
    """In the end, with rate; with rate_plain 0.9 from the first update on."""
    c: float = 3.0
    """Max-norm."""
    init: float = 2.0
    """Of the variance of initial weights, which is this over E r^2 n_in; with 2 signals keep their size."""
    l2: float = 0.001
    """lambda of lambda / 2 ||w||^2; weights, not biases."""
    l2_noisy: float = 0.0001
    """The same where units are dropped."""
    l1: float = 1e-6
    """Of |w|, in the last fifth of the updates."""
    sparsity: float = 0.001
    rho: float = 0.1
    """The mean activation that sparsity asks for."""
    images: int = 60_000
    """To learn from, the first ones."""
    validation: int = 0
    """Held out, the last ones; where there are any, early stopping is reported too."""
    looks: int = 20
    """At validation and test errors, in equal intervals."""
    averaged: int = 0
    """Thinned nets that Monte Carlo averages, of the last row (Fig. 11)."""
    data: Literal["mnist", "made-up"] = "mnist"
    """made-up: stand-in digits, for tests."""

    def __post_init__(self) -> None:
        at_least_one(self, "updates", "batch_size", "images", "looks", "halved")
        positive(self, "rate", "rate_norm", "rate_plain", "c", "init")
        for row in self.rows:
            if unknown := {*row.split("+")} - {*PARTS}:
                raise ValueError(f"--rows: {row} has {', '.join(sorted(unknown))}, which is none of {', '.join(PARTS)}")
        if not self.rows or len({*self.rows}) < len(self.rows):
            raise ValueError(f"--rows must be different ones, got {self.rows}")
        if (self.vary == "nothing") != (not self.values):
            raise ValueError("--vary and --values go together")
        kept = (self.p_input, self.p_hidden, *(self.values if self.vary.startswith("p") else ()))
        if not all(0 < p <= 1 for p in kept):
            raise ValueError(f"--p-input, --p-hidden, --values: a unit is kept with a probability in (0, 1], got {kept}")
        if not 0 <= self.validation <= 60_000 - self.images:
            raise ValueError(f"--images {self.images} and --validation {self.validation}: MNIST has 60,000 training images")
        if self.vary == "images" and not all(n >= 1 and self.images % n == 0 for n in self.values):
            raise ValueError(f"--values: each has to divide --images {self.images}, got {self.values}")
        if self.averaged and "dropout" not in self.rows[-1]:
            raise ValueError("--averaged: the last of --rows has no masks to be drawn")

    def nets(self) -> list[tuple[str, float | None]]:
        """Row and value of each net, side by side."""
        return [(row, value) for row in self.rows for value in self.values or (None,)]

    def keys(self) -> list[str]:
        """The ends of their metrics' names."""
        ends = {"nothing": "", "images": "_images{:g}"}.get(self.vary, "_p{:g}")
        return [key(row) + ends.format(value) for row, value in self.nets()]

    def new(self, inputs: int, row: str, value: float | None) -> Net:
        parts, hidden, p = {*row.split("+")}, self.hidden, self.p_hidden
        if self.vary.startswith("p"):
            p = value
            if self.vary == "p-and-width":
                hidden = tuple(round(n / p) for n in hidden)
        kept = [p if l else 1 if "hidden" in parts else self.p_input for l in range(len(hidden) + 1)]
        return Net(
            [inputs, *hidden, 10], kept if parts & NOISY else [1] * len(kept), gaussian if "gaussian" in parts else bernoulli,
            torch.sigmoid if "logistic" in parts else torch.relu, self.init,
        )  # fmt: skip

    def pace(self, row: str, step: int) -> tuple[float, float]:
        """Rate and momentum, functions of the step: v <- mu v + g, w <- w - rate v."""
        t = step / self.updates * 1_000_000
        if self.recipe == "2012":  # 3,000 epochs, the momentum's rise over 500
            epoch = t / 1_000_000 * 3000
            mu = 0.5 + (self.momentum - 0.5) * min(1, epoch / 500)
            return self.rate * 0.998**epoch * (1 - mu), mu
        parts = {*row.split("+")}
        if parts & NOISY or "max-norm" in parts:
            rate = self.rate if parts & NOISY else self.rate_norm
            return rate / (1 + t / 10_000), self.momentum - (self.momentum - 0.5) * math.exp(-t / 100_000)
        return self.rate_plain * 0.5 ** (step // self.halved), 0.9

    def decay(self, row: str) -> float:
        return 0.0 if "l2" not in row else self.l2_noisy if {*row.split("+")} & NOISY else self.l2


def train(run: Run[Any]) -> dict[str, float]:
    kinds = {Ridge: regress, Autoencoder: encode}  # ridge.py, sparse.py
    return kinds.get(type(run.config), learn)(run)


def learn(run: Run[Config]) -> dict[str, float]:
    config, B = run.config, run.config.batch_size
    images, labels, *kept_out = digits(run, config.images, config.validation)
    rows, keys = [row for row, _ in config.nets()], config.keys()
    nets = Nets([config.new(images.shape[1], *each) for each in config.nets()])
    optimizer = torch.optim.SGD(groups(config, nets), lr=1.0, fused=True)
    nets, optimizer = run.prepare(nets=nets, optimizer=optimizer)
    due = {config.updates * (look + 1) // config.looks for look in range(config.looks)}

    for step, index in run.indices(shuffled(len(images), B, run.seed), steps=config.updates):
        for net, row in enumerate(rows):
            for group in optimizer.param_groups[2 * net : 2 * net + 2]:
                group["lr"], group["momentum"] = config.pace(row, step)
        for (i, *r), weight in run.micro_batches((index.to(run.device), *masks(run, nets, step)), nets, of=B):
            seen = [i % int(n) if config.vary == "images" else i for _, n in config.nets()]
            logits = nets([images[each] for each in seen], *r)  # (T, B, K)
            losses = torch.stack([cross_entropy(own, labels[each]) for own, each in zip(logits, seen, strict=True)])
            run.backward((losses.sum() + penalties(config, bare(nets), images[i], step)) * weight)
            run.log(**{f"train_loss_{name}": loss * weight for name, loss in zip(keys, losses.detach(), strict=True)})
        optimizer.step()
        optimizer.zero_grad()
        for net, row in zip(bare(nets), rows, strict=True):
            for W in net.W if "max-norm" in row else ():
                max_norm_(W, config.c)
        if step + 1 in due:
            run.report(updates=step + 1, **look(run, nets, *kept_out))

    found = look(run, nets, *kept_out)
    pictures.draw_errors(run, keys)
    if config.vary != "nothing":
        errors = [[found[f"test_error_{name}"] for name in keys if name.startswith(key(row) + "_")] for row in config.rows]
        pictures.draw_values(run, config.rows, config.vary, config.values, errors)
    if config.validation:
        found |= stopped(run, keys)
    if config.averaged:
        found |= averages(run, nets, *kept_out[2:])
    return found | differences(config, found)


def groups(config: Config, nets: Nets) -> list[dict[str, Any]]:
    """Of each net two, its weights, which may decay, and its biases, which do not."""
    found = []
    for net, (row, _) in zip(nets, config.nets(), strict=True):
        found += [{"params": [*net.W], "weight_decay": config.decay(row)}, {"params": [*net.b]}]
    return found


def penalties(config: Config, nets: Nets, x: Tensor, step: int) -> Tensor | float:
    """What Table 9's other rows add to the cost."""
    total = 0.0
    for net, (row, _) in zip(nets, config.nets(), strict=True):
        if "l1" in row and step >= 0.8 * config.updates:
            total = total + config.l1 * l1(net)
        if "sparsity" in row:
            total = total + config.sparsity * sparsity(net.layers(x)[1:-1], config.rho)
    return total


def error(run: Run[Config], nets: nn.Module, x: Tensor, y: Tensor) -> list[float]:
    """Wrong answers of each net, its weights scaled, %."""
    answers = gathered(run, nets, x, lambda net, part: net(part).argmax(1))
    return (100 * (answers != y).double().mean(1)).tolist()


def look(run: Run[Config], nets: nn.Module, *kept_out: Tensor) -> dict[str, float]:
    parts = {"test": kept_out[2:]} | ({"validation": kept_out[:2]} if run.config.validation else {})
    return {
        f"{part}_error_{name}": value
        for part, (x, y) in parts.items()
        for name, value in zip(run.config.keys(), error(run, nets, x, y), strict=True)
    }


def stopped(run: Run[Config], keys: Sequence[str]) -> dict[str, float]:
    """Early stopping: the test error at that of the looks which has the least validation error."""
    found = {}
    for name in keys:
        validation, test = run.curves(f"validation_error_{name}", f"test_error_{name}").values()
        found[f"test_error_{name}_stopped"] = test[min(range(len(test)), key=validation.__getitem__)]
    return found


def averages(run: Run[Config], nets: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Fig. 11: test errors of averages over k thinned nets, means over as many sets of k as there are."""
    n, net = run.config.averaged, bare(nets)[-1:]
    thinned = []
    for k in range(n):
        generator = torch.Generator(run.device).manual_seed(mix(run.seed, "averaged", run.rank, k))
        thinned.append(gathered(run, net, x, lambda net, part, generator=generator: monte_carlo(net, part, generator))[0])
    probabilities = torch.stack(thinned)  # (n, N, K)
    sizes = [k for k in AVERAGES if k <= n]
    errors = []
    for k in sizes:
        means = torch.stack([each.mean(0) for each in probabilities[: n // k * k].split(k)])
        errors.append(100 * (means.argmax(2) != y).double().mean().item())
    scaled = error(run, net, x, y)[0]
    pictures.draw_averages(run, sizes, errors, scaled)
    found = {f"monte_carlo_error_k{k}": value for k, value in zip(sizes, errors, strict=True)}
    return found | {f"monte_carlo_less_scaling_k{k}": value - scaled for k, value in zip(sizes, errors, strict=True)}


def differences(config: Config, found: dict[str, float]) -> dict[str, float]:
    """What a row gains over another; and of Fig. 9 how far its ends are above its middle, p from 0.4 to 0.8; %."""
    gained, errors = {}, dict(zip(config.nets(), (found[f"test_error_{name}"] for name in config.keys()), strict=True))  # noqa: SIM118
    for first, second in GAINS:
        for value in config.values or (None,):
            if {(first, value), (second, value)} <= {*errors}:
                end = "" if value is None else f"_{config.vary}{value:g}"
                gained[f"{key(second)}_gain_over_{key(first)}{end}"] = errors[first, value] - errors[second, value]
    middle = [value for (_, p), value in errors.items() if config.vary.startswith("p") and 0.4 <= p <= 0.8]
    if middle:
        gained["spread_of_middle"] = max(middle) - min(middle)
        for p in (min(config.values), max(config.values)):
            gained[f"p{p:g}_less_middle"] = errors[config.rows[0], p] - sum(middle) / len(middle)
    return gained


def of(config: Config, kind: Any, source: str, cost: str, claims: list[Claim], **more: Any) -> Experiment[Config]:
    figures = ["errors", *["values"] * (config.vary != "nothing"), *["averages"] * (config.averaged > 0)]
    return Experiment(
        config, kind=kind, source=source, cap=f"{config.updates:,} updates of each net", cost=cost, claims=claims,
        **{"figures": figures, "log_every": 100 if kind == "scaled" else 1000, **more},
    )  # fmt: skip


def sparse(config: Autoencoder, kind: Any, **more: Any) -> Experiment[Autoencoder]:
    why = "the sign is what is claimed; 0.01 is a choice: the standard error over 10,000 images is less"
    more_active = Claim("plain_is_more_active", 0, "", "Fig. 8: less active with dropout", why=why, noise=0.01)
    return Experiment(
        config, kind=kind, source="Fig. 8", cap=f"{config.updates:,} updates", cost="6 min on one CPU core",
        claims=[active("plain", 2.0), active("dropout", 0.7), more_active], figures=("activations",), **more,
    )  # fmt: skip


SHORT = {"momentum": 0.95, "rate_norm": 0.3, "rate_plain": 0.1, "halved": 2000, "init": 1.0, "looks": 10}  # README.md, Deviations
HALF = (512, 512, 1024)
SIZES = (100.0, 500.0, 1000.0, 5000.0, 10_000.0, 50_000.0)
PS = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
OFF = "from updates timed; not run"
FIG_9 = Config(rows=("hidden+max-norm",), vary="p", values=PS, hidden=(2048,) * 3)
FIG_10 = Config(rows=("max-norm", "dropout+max-norm"), vary="images", values=SIZES, images=50_000)
PAIR = Config(rows=tuple(REPORT), hidden=(800, 800), recipe="2012", c=round(math.sqrt(15), 3), updates=1_800_000)

EXPERIMENTS = {
    "table9": of(
        Config(rows=tuple(TABLE_9), averaged=100), "paper", "Table 9, Fig. 11", f"4 days on one CPU core, {OFF}",
        table("Table 9", TABLE_9, tuple(TABLE_9)) + FIGURE_11,
    ),
    "table9-20": of(
        Config(updates=12_000, averaged=100, **SHORT), "scaled", "Table 9, Fig. 11", "1 h on one CPU core",
        table("Table 9", TABLE_9, Config.rows, 1.6) + FIGURE_11, note="scaled: 20 epochs, three rows; App. B.1's momentum",
    ),
    "table9-half": of(
        Config(
            rows=("plain", "dropout", *TABLE_9, "gaussian+max-norm"), hidden=HALF, images=50_000, validation=10_000,
            updates=6000, **SHORT,
        ),
        "scaled", "Table 9", "40 min on one CPU core", table("Table 9", TABLE_9, tuple(TABLE_9), 2.0),
        note="scaled: half of the units, 50,000 images, 12 epochs; with early stopping on the others",
    ),
    "table2-3x1024": of(
        Config(rows=tuple(TABLE_2), hidden=(1024,) * 3, momentum=0.95, c=2.0), "paper", "Table 2, Fig. 4, 3 x 1024",
        f"2 days on one CPU core, {OFF}", table("Table 2", TABLE_2, tuple(TABLE_2)),
    ),
    "2012-pair": of(
        PAIR, "paper", "arXiv:1207.0580", f"2 days on one CPU core, {OFF}", table("Hinton et al. 2012", REPORT, PAIR.rows),
    ),
    "2012-pair-20": of(
        replace(PAIR, updates=12_000, init=1.0, looks=10), "scaled", "arXiv:1207.0580", "25 min on one CPU core",
        table("Hinton et al. 2012", REPORT, PAIR.rows, 2.0), note="scaled: 20 epochs where the report has 3,000",
    ),
    "figure8": sparse(Autoencoder(), "paper"),
    "figure8-logistic": sparse(Autoencoder(loss="cross-entropy"), "reading", note="logistic outputs, cross-entropy"),
    "figure9a": of(FIG_9, "paper", "Fig. 9a", f"9 days on one CPU core, {OFF}", figure_9("a", 2.7)),
    "figure9a-quarter": of(
        replace(FIG_9, hidden=(512,) * 3, updates=3000, **SHORT), "scaled", "Fig. 9a", "8 min on one CPU core", figure_9("a", 2.7),
        note="scaled: a quarter of the units, 3,000 updates",
    ),
    "figure9b": of(
        replace(FIG_9, vary="p-and-width", hidden=(256, 256, 512)), "paper", "Fig. 9b", f"6 days on one CPU core, {OFF}",
        figure_9("b", 1.7),
    ),
    "figure9b-quarter": of(
        replace(FIG_9, vary="p-and-width", hidden=(64, 64, 128), updates=3000, **SHORT), "scaled", "Fig. 9b",
        "3 min on one CPU core", figure_9("b", 1.7), note="scaled: a quarter of the units, 3,000 updates",
    ),
    "figure10": of(FIG_10, "paper", "Fig. 10", f"8 days on one CPU core, {OFF}", figure_10()),
    "figure10-half": of(
        replace(FIG_10, hidden=HALF, updates=3000, **SHORT), "scaled", "Fig. 10", "25 min on one CPU core", figure_10(),
        note="scaled: half of the units, 3,000 updates",
    ),
    "table10": of(
        Config(rows=tuple(TABLE_10), hidden=(1024,) * 2, momentum=0.95, c=2.0), "paper", "Table 10, MNIST",
        f"14 h on one CPU core, {OFF}", table("Table 10", TABLE_10, tuple(TABLE_10)),
    ),
    "ridge": Experiment(
        Ridge(), kind="paper", source="Sec. 9.1", cap="40,000 updates", cost="30 s on one CPU core", log_every=400, per_sample=True,
        precision={"cpu": "fp64", "cuda": "fp64"},
        claims=[
            Claim("ridge_distance", 0, "", "Sec. 9.1: dropout is ridge regression", True, 0.02,
                  "a choice: what finitely many masks leave; least squares is about 0.4 away"),
            Claim("ridge_is_nearer", 0, "", "Sec. 9.1: and not least squares", noise=0.02, why="the sign is what is claimed"),
        ],
    ),
    "smoke": Experiment(
        Config(
            rows=("l2+l1", "max-norm", "dropout+max-norm"), hidden=(16, 16), updates=24, batch_size=10, rate=0.1, rate_plain=0.1,
            looks=4, data="made-up",
        ),
        kind="smoke", source="Table 9", cap="24 updates", cost="1 s", log_every=2, checkpoint_every=0,
    ),
    "smoke-sparse": Experiment(
        Autoencoder(hidden=8, updates=20, batch_size=10, data="made-up"), kind="smoke", source="Fig. 8", cap="20 updates",
        cost="1 s", log_every=2, checkpoint_every=0,
    ),
    "smoke-ridge": Experiment(
        Ridge(updates=40), kind="smoke", source="Sec. 9.1", cap="40 updates", cost="1 s", log_every=4, checkpoint_every=0,
        per_sample=True,
    ),
}  # fmt: skip

if __name__ == "__main__":
    reproduce(EXPERIMENTS, train)
