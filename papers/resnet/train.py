"""ResNet on CIFAR-10 (Sec. 4.2).

python -m papers.resnet.train cifar10-resnet20            # Table 6: 8.75 %; 1.5 hours on two CPU cores
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common import track
from common.claims import Claim, Experiment, at_least_one, positive
from common.data import cifar
from common.run import Run, reproduce
from papers.resnet.images import crop, draw_crops, made_up, normalised, pad
from papers.resnet.model import CifarResNet


@dataclass(frozen=True)
class Config:
    """Hyper-parameters that Sec. 3.4 and 4.2 both have."""

    batch_size: int
    """Images for one update, on all processes together."""
    steps: int
    """Updates."""
    drops: tuple[int, ...]
    """The rate is divided by 10 after so many updates."""
    evaluate_every: int
    """Updates between two looks at the test set."""
    lr: float = 0.1
    """Learning rate at the start."""
    momentum: float = 0.9
    weight_decay: float = 1e-4
    """Of all weights, those of batch norm among them (the paper names no exception)."""

    def __post_init__(self) -> None:
        positive(self, "lr")
        at_least_one(self, "batch_size", "steps", "evaluate_every")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"--momentum must be in [0, 1), got {self.momentum}")
        if not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"--weight-decay must not be negative, got {self.weight_decay}")


@dataclass(frozen=True)
class Cifar(Config):
    """Hyper-parameters of Sec. 4.2."""

    depth: int = 20
    """6n + 2 layers."""
    residual: bool = True
    """Without shortcuts it is the plain net."""
    batch_size: int = 128
    steps: int = 64_000
    drops: tuple[int, ...] = (32_000, 48_000)
    evaluate_every: int = 1_000
    warm_up: int = 0
    """Updates at a tenth of the rate first (for 110 layers)."""
    data: Literal["cifar10", "made-up"] = "cifar10"
    """made-up: stand-in images, for tests."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth < 8 or (self.depth - 2) % 6:
            raise ValueError(f"--depth must be 6n + 2 (8, 14, 20, ...), got {self.depth}")
        if self.warm_up < 0:
            raise ValueError(f"--warm-up must not be negative, got {self.warm_up}")

    def lr_at(self, step: int) -> float:
        if step < self.warm_up:
            return self.lr / 10  # "we use 0.01 to warm up the training [...] and then go back to 0.1"
        return self.lr / 10 ** sum(step >= drop for drop in self.drops)


BF16 = {"cpu": "bf16", "cuda": "bf16"}
FIGURES = ("errors", "layer-responses")


def table_6(depth: int, test_error: float, cost: str, tolerance: float, why: str, warm_up: int = 0) -> Experiment[Cifar]:
    claim = Claim("test_error", test_error, "%", f"Table 6, ResNet, {depth} layers", True, tolerance, why)
    return Experiment(
        Cifar(depth=depth, warm_up=warm_up), kind="paper", source="Sec. 4.2, Table 6, Fig. 6 middle", cap="64,000 updates",
        cost=cost, claims=[claim], figures=FIGURES, precision=BF16,
    )  # fmt: skip


def plain(depth: int, cost: str) -> Experiment[Cifar]:
    why = "the figure's curve cannot be read from the copy at hand; it lies below the top of the axis"
    claim = Claim("test_error", 20, "%", f"Fig. 6 left, plain-{depth}: the top of its axis", True, 0, why)
    return Experiment(
        Cifar(depth=depth, residual=False), kind="paper", source="Sec. 4.2, Fig. 6 left", cap="64,000 updates",
        cost=cost, claims=[claim], figures=FIGURES, precision=BF16,
    )  # fmt: skip


ONE_RUN = "twice the standard deviation that Table 6 gives for 110 layers, the only one it gives: this row is one run"
FIVE_RUNS = "the standard deviation of the paper's five runs"

EXPERIMENTS = {
    "cifar10-resnet20": table_6(20, 8.75, "1.5 h on two CPU cores", 0.32, ONE_RUN),
    "cifar10-resnet32": table_6(32, 7.51, "2.5 h on two CPU cores", 0.32, ONE_RUN),
    "cifar10-resnet44": table_6(44, 7.17, "3.5 h on two CPU cores", 0.32, ONE_RUN),
    "cifar10-resnet56": table_6(56, 6.97, "4.5 h on two CPU cores", 0.32, ONE_RUN),
    "cifar10-resnet110": table_6(110, 6.61, "9 h on two CPU cores", 0.16, FIVE_RUNS, warm_up=400),
    "cifar10-plain20": plain(20, "1.5 h on two CPU cores"),
    "cifar10-plain32": plain(32, "2.5 h on two CPU cores"),
    "cifar10-plain44": plain(44, "3.5 h on two CPU cores"),
    "cifar10-plain56": plain(56, "4.5 h on two CPU cores"),
    "smoke": Experiment(
        Cifar(depth=8, batch_size=32, steps=40, drops=(20, 30), evaluate_every=20, data="made-up"), kind="smoke",
        source="Sec. 4.2", cap="40 updates", cost="5 s", log_every=10, checkpoint_every=0, precision=BF16,
    ),
}  # fmt: skip


class Cifar10:
    """CIFAR-10 on the run's device; crops, flips and the mean are taken there, a batch at a time."""

    def __init__(self, run: Run[Cifar]) -> None:
        if run.config.data == "made-up":
            data = cifar.CIFAR10(*made_up(256, 0), *made_up(100, 1), sha256="")
        else:
            data = cifar.load(run.data_dir)
        run.describe_data(
            name="cifar10", sha256=data.sha256, train=len(data.train_images), test=len(data.test_images),
            stand_in=run.config.data == "made-up",
        )  # fmt: skip
        self.run = run
        mean = data.train_images.double().mean(0).float()  # (32, 32, 3): "the per-pixel mean subtracted"
        self.mean, self.padded_mean = mean.to(run.device), pad(mean).to(run.device)
        self.padded, self.labels = pad(data.train_images).to(run.device), data.train_labels.to(run.device)
        self.test_images, self.test_labels = data.test_images.to(run.device), data.test_labels.to(run.device)

    def batches(self) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
        """(step, (images (B, 3, 32, 32), labels (B,))): this process's share of each batch."""
        run, B = self.run, self.run.config.batch_size
        for step, (padded, labels) in run.batches((self.padded, self.labels), B, steps=run.config.steps):
            draws = draw_crops(B, run.seed, step)[run.share(B)].to(run.device, non_blocking=True)
            yield step, (crop(padded, self.padded_mean, draws), labels)

    def test_batches(self, size: int = 500) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of the test set, the single view of each original image."""
        mine = self.run.share(len(self.test_labels))
        for images, labels in zip(self.test_images[mine].split(size), self.test_labels[mine].split(size), strict=True):
            yield normalised(images, self.mean), labels


def train(run: Run[Config]) -> dict[str, float]:
    config = run.config
    data = Cifar10(run)
    model = CifarResNet(config.depth, config.residual).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), config.lr, momentum=config.momentum, weight_decay=config.weight_decay, fused=True
    )
    model, optimizer = run.prepare(model=model, optimizer=optimizer)
    net = run.compile(model)
    for step, batch in data.batches():
        for group in optimizer.param_groups:
            group["lr"] = config.lr_at(step)
        for (images, labels), weight in run.micro_batches(batch):
            with run.autocast():
                logits = net(images)  # (B, classes)
            loss = F.cross_entropy(logits.float(), labels)
            run.backward(loss * weight)
            run.log(train_loss=loss * weight, train_error=100 * weight * (logits.argmax(1) != labels).float().mean())
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % config.evaluate_every == 0:
            run.report(test_error=error(evaluate(run, model, data)))

    responses = layer_responses(run, model, data)
    draw_errors(run)
    draw_responses(run, responses)
    return {"test_error": error(evaluate(run, model, data)), "response_std": responses.mean().item()}


def error(wrong: Tensor) -> float:
    """In %."""
    return 100 * wrong.double().mean().item()


def evaluate(run: Run[Config], model: nn.Module, data: Cifar10) -> Tensor:
    """Whether the net is wrong about each test image: (n,), bool."""
    with run.evaluating(model) as net:
        wrong = torch.cat([net(images).argmax(1) != labels for images, labels in data.test_batches()])
    return run.gather(wrong, len(data.test_labels))


def layer_responses(run: Run[Config], model: nn.Module, data: Cifar10) -> Tensor:
    """Fig. 7: standard deviation of the outputs of each 3x3 layer, after batch norm, before ReLU or addition: (layers,)."""
    with run.evaluating(model) as net:
        moments: dict[nn.Module, Tensor] = {}  # layer -> sums of 1, y, y^2

        def count(layer: nn.Module, inputs: tuple[Tensor], y: Tensor) -> None:
            y = y.double()
            moments[layer] = moments.get(layer, 0) + torch.stack([torch.ones_like(y).sum(), y.sum(), y.square().sum()])

        hooks = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        for images, _ in data.test_batches():
            net(images)
        for hook in hooks:
            hook.remove()
    n, sums, squares = run.accelerator.reduce(torch.stack(list(moments.values())), "sum").T  # in the order of the layers
    return (squares / n - (sums / n).square()).sqrt().cpu()


def draw_errors(run: Run[Config]) -> None:
    """One curve of Figure 6: training error (dashed) and test error (bold) against updates."""
    from matplotlib.figure import Figure

    if not run.main:
        return
    rows = track.read(run.dir / "metrics.jsonl")
    figure = Figure(figsize=(5, 3.5))
    axes = figure.add_subplot()
    for name, style in (("train_error", {"linestyle": "--", "linewidth": 0.8}), ("test_error", {"linewidth": 1.6})):
        points = [(row["step"], row[name]) for row in rows if name in row]
        axes.plot(*zip(*points, strict=True), color="C0", label=f"{name.replace('_', ' ')}: {points[-1][1]:.2f} %", **style)
    for claim in run.experiment.claims:
        axes.axhline(claim.value, color="black", linewidth=0.8, linestyle=":", label=f"paper: {claim.value} %")
    axes.set(xlabel="updates", ylabel="error, %", ylim=(0, 20), title=f"{run.name}, seed {run.seed}")
    axes.legend(fontsize="small")
    run.save_figure(figure, "errors")


def draw_responses(run: Run[Config], responses: Tensor) -> None:
    """Figure 7 for one net: in the order of the layers, and sorted."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4.5))
    for axes, values, order in zip(
        figure.subplots(2, 1), (responses, responses.sort(descending=True).values), ("original", "sorted by magnitude"), strict=True
    ):
        axes.plot(range(1, len(values) + 1), values, label=run.name)
        axes.set(xlabel=f"layer index ({order})", ylabel="std", ylim=(0, None))
        axes.legend(fontsize="small")
    figure.tight_layout()
    run.save_figure(figure, "layer-responses")


if __name__ == "__main__":
    reproduce(EXPERIMENTS, train)
