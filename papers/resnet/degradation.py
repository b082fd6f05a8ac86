"""Degradation (Secs. 1 and 4.2, Figs. 1 and 6): plain and residual nets of two depths, side by side on the same batches.

What one net of a kind gains on the other by being deeper is less noisy so than between runs: all see the same images at the same
updates, and only their initial weights differ.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from common import figures
from common.claims import Claim
from common.data.order import shuffled
from common.run import Run
from papers.resnet.data import Tests, cifar10, evaluate
from papers.resnet.model import CifarResNet
from papers.resnet.recipe import Config


@dataclass(frozen=True)
class Degradation(Config):
    """Hyper-parameters of Sec. 4.2, for a quarter of its updates."""

    depths: tuple[int, int] = (20, 56)
    """6n + 2 layers each."""
    batch_size: int = 128
    steps: int = 16_000
    drops: tuple[int, ...] = (8_000, 12_000)
    evaluate_every: int = 1_000
    data: Literal["cifar10", "made-up"] = "cifar10"
    """made-up: stand-in images, for tests."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(depth < 8 or (depth - 2) % 6 for depth in self.depths) or len({*self.depths}) < 2:
            raise ValueError(f"--depths must be two of 6n + 2 (8, 14, 20, ...), got {self.depths}")

    def networks(self) -> dict[str, nn.Module]:
        return {f"{kind}{depth}": CifarResNet(depth, kind == "residual") for kind in KINDS for depth in self.depths}


KINDS = ("plain", "residual")
LAST = 0.9  # training errors are means over the updates from there on: those of Fig. 6 at its right end


def side_by_side(run: Run[Degradation]) -> dict[str, float]:
    config, B = run.config, run.config.batch_size
    torch.backends.cudnn.benchmark = True  # all batches have one shape
    data, models = cifar10(run), {name: net.to(memory_format=torch.channels_last) for name, net in config.networks().items()}
    optimizers = {
        f"{name}_optimizer": torch.optim.SGD(
            net.parameters(), config.lr, momentum=config.momentum, weight_decay=config.weight_decay, fused=True
        )
        for name, net in models.items()
    }  # fmt: skip
    prepared = run.prepare(**models, **optimizers)
    models, optimizers = (dict(zip(models, each, strict=True)) for each in (prepared[: len(models)], prepared[len(models) :]))
    nets, draw = {name: run.compile(model) for name, model in models.items()}, shuffled(data.n, B, run.seed)
    for step, index in run.indices(draw, steps=config.steps):
        batch = data.shown(step, index)
        for name, model in models.items():
            for group in optimizers[name].param_groups:
                group["lr"] = config.lr_at(step)
            for (images, labels), weight in run.micro_batches(batch, model, of=B):
                with run.autocast():
                    logits = nets[name](images)  # (b, classes)
                loss = F.cross_entropy(logits.to(images.dtype), labels)
                run.backward(loss * weight)
                wrong = 100 * weight * (logits.argmax(1) != labels).float().mean()
                run.log(**{f"{name}_train_loss": loss * weight, f"{name}_train_error": wrong})
            optimizers[name].step()
            optimizers[name].zero_grad()
        if (step + 1) % config.evaluate_every == 0:
            run.report(**tested(run, models, data.tests), lr=config.lr_at(step))

    metrics = tested(run, models, data.tests)
    for name in models:
        x, y = run.curves("step", f"{name}_train_error").values()
        last = [error for step, error in zip(x, y, strict=True) if step > LAST * config.steps]
        metrics[f"{name}_train_error"] = sum(last) / len(last)
    draw_figure_6(run)
    shallow, deep = sorted(config.depths)
    for kind in KINDS:
        for part in ("train", "test"):
            metrics[f"{kind}_{part}_gain"] = metrics[f"{kind}{shallow}_{part}_error"] - metrics[f"{kind}{deep}_{part}_error"]
    return metrics


def tested(run: Run[Degradation], models: dict[str, nn.Module], tests: Tests) -> dict[str, float]:
    return {f"{name}_test_error": evaluate(run, model, tests, tests.kinds[0])["test_error"] for name, model in models.items()}


def draw_figure_6(run: Run[Degradation]) -> None:
    """Of each kind of net: training error (thin) and test error (bold) against updates."""
    for kind in KINDS:
        lines = {}
        for colour, depth in enumerate(run.config.depths):
            for part, style in (("train", "--"), ("test", "-")):
                x, y = run.curves("step", f"{kind}{depth}_{part}_error").values()
                lines |= {f"{kind}-{depth}, {part}: {y[-1]:.2f} %": (x, y, f"C{colour}{style}")} if y else {}
        title = f"{run.name}, seed {run.seed}"
        run.save_figure(figures.curves(lines, {}, xlabel="updates", ylabel="error, %", ylim=(0, 20), title=title), kind)


SIGN = "the paper's words, judged by their sign"
CLAIMS = [
    Claim(
        "plain_train_gain", 0, "points", 'Sec. 4.2, Fig. 6: plain nets "exhibit higher training error when going deeper"', True,
        noise=0.3, why=SIGN + "; noise: a choice, several times what the counts of the last updates vary by",
    ),
    Claim(
        "residual_test_gain", 0, "points", "Table 6: 8.75 and 6.97 %, 1.78 points after four times the updates",
        noise=0.3, why=SIGN + "; noise: two nets differ on some 900 of 10,000 images, whose root is 30",
    ),
]  # fmt: skip
