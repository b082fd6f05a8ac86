"""What the nets are shown: Shapeset without end, MNIST, CIFAR-10, each with examples to choose the rate on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.data import cifar, mnist
from common.data.order import mix, shuffled
from common.run import Run
from papers.glorot.shapeset import CLASSES, SIZE, shapeset

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """draw: step -> the numbers of the global batch.    batch: (step, numbers of this process) -> x (B, n_0), y (B,)."""

    inputs: int
    classes: int
    draw: Callable[[int], Tensor]
    batch: Callable[[int, Tensor], Pair]
    validation: Pair
    test: Pair


def load(run: Run[Any]) -> Task:
    """On the run's device."""
    return endless(run) if run.config.data == "shapeset" else finite(run)


def endless(run: Run[Any]) -> Task:
    """Shapeset: every batch is new, made of the seed and the step."""
    config, B = run.config, run.config.batch_size
    run.describe_data(
        name="Shapeset-3x2, made anew", generator="papers/glorot/shapeset.py", seed=run.seed, train="drawn for every update",
        test=config.test, stand_in=False,
    )  # fmt: skip
    there = lambda pair: (pair[0].to(run.device, torch.get_default_dtype()), pair[1].to(run.device))

    def batch(step: int, index: Tensor) -> Pair:
        x, y = shapeset(B, mix(run.seed, "train", step))
        return there((x[index - step * B], y[index - step * B]))

    sets = (there(shapeset(n, mix(run.seed, part))) for part, n in (("validation", config.validation), ("test", config.test)))
    return Task(SIZE**2, CLASSES, lambda step: torch.arange(step * B, (step + 1) * B), batch, *sets)


def finite(run: Run[Any]) -> Task:
    """MNIST or CIFAR-10, the last `validation` training images kept to choose on; pixels from 0 to 1, or centred and scaled."""
    config = run.config
    source = {"mnist": mnist, "cifar10": cifar}[config.data]
    run.on_main(lambda: source.fetch(run.data_dir))
    found = source.load(run.data_dir)
    images, labels = found.train_images.flatten(1), found.train_labels
    n = len(images) - config.validation
    run.describe_data(
        name=f"{config.data}, {config.validation:,} training images for validation", sha256=found.sha256, train=n,
        test=len(found.test_images), stand_in=False,
    )  # fmt: skip
    mean, std = 0.0, 1.0
    if config.center:
        some = images[:n].float() / 255
        mean, std = some.mean().item(), some.std().item()
    prepared = lambda x: (x.to(torch.get_default_dtype()) / 255 - mean) / std
    learned, known = images[:n].to(run.device), labels[:n].to(run.device)

    def batch(step: int, index: Tensor) -> Pair:
        index = index.to(run.device)
        return prepared(learned[index]), known[index]

    there = lambda x, y: (prepared(x.flatten(1)).to(run.device), y.to(run.device))
    sets = there(images[n:], labels[n:]), there(found.test_images, found.test_labels)
    return Task(images.shape[1], 10, shuffled(n, config.batch_size, run.seed), batch, *sets)
