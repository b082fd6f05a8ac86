"""What the nets learn from and are tested on: CIFAR-10 on the device; ImageNet by worker processes."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from common.data import cifar, imagenet, standin
from common.data.images import (
    CENTRE,
    EIGENVALUES,
    EIGENVECTORS,
    FIVE,
    MEAN,
    crop,
    draw_colours,
    draw_crops,
    normalised,
    pixels,
    random_crop,
    resize,
    views,
    windows,
)  # fmt: skip
from common.data.workers import Reader
from common.run import Run

# Sec. 4.2: "4 pixels are padded on each side, and a 32x32 crop is randomly sampled from the padded image or its [...] flip"
PAD = 4
SCALES = (224, 256, 384, 480, 640)  # Sec. 3.4: shorter sides of tests, for crops of 224


class Tests(NamedTuple):
    """Images that a net is tested on."""

    n: int
    kinds: tuple[str, ...]  # ways to look at an image, the first of them during training
    errors: tuple[str, ...]  # names, by the kind: of the likeliest answer, and of the five likeliest where these count
    batches: Callable[[str], Iterator[tuple[list[Tensor], Tensor]]]  # kind -> this process's: views (b k, 3, H, W), labels (b,)


class Data(NamedTuple):
    """A data set as `train` goes through it."""

    n: int  # training images
    reader: Reader | None  # of these; None: they are on the device
    shown: Callable[[int, Any], tuple[Tensor, Tensor]]  # step, what is drawn or read for it -> images (b, 3, H, W), labels (b,)
    tests: Tests


def cifar10(run: Run) -> Data:
    """CIFAR-10 on the run's device, where crops, flips and the mean are taken, a batch at a time (Sec. 4.2)."""
    made_up, B = run.config.data == "made-up", run.config.batch_size
    if made_up:
        data = cifar.CIFAR(*standin.images(256, 0), *standin.images(100, 1), sha256="")
    else:
        run.on_main(lambda: cifar.fetch(run.data_dir))
        data = cifar.load(run.data_dir)
    n, n_test = len(data.train_labels), len(data.test_labels)
    run.describe_data(name="cifar10", sha256=data.sha256, train=n, test=n_test, stand_in=made_up)
    mean = data.train_images.double().mean(0).to(run.device, torch.get_default_dtype())  # "the per-pixel mean subtracted"
    images, labels, test_images, test_labels = (
        t.to(run.device) for t in (data.train_images, data.train_labels, data.test_images, data.test_labels)
    )
    crops, mean_crops = windows(images, PAD), windows(mean, PAD)

    def shown(step: int, index: Tensor) -> tuple[Tensor, Tensor]:
        draws = draw_crops(B, 2 * PAD + 1, run.seed, step)[run.share(B)]
        index, draws = (t.to(run.device, non_blocking=True) for t in (index, draws))
        return crop(crops, mean_crops, index, draws), labels[index]

    def batches(kind: str) -> Iterator[tuple[list[Tensor], Tensor]]:
        mine = run.share(n_test)
        for some, their_labels in zip(test_images[mine].split(500), test_labels[mine].split(500), strict=True):
            yield [normalised(some, mean)], their_labels

    return Data(n, None, shown, Tests(n_test, ("single view",), ("test_error",), batches))


def imagenet_2012(run: Run) -> Data:
    """ImageNet (Sec. 3.4): workers decode, resize, crop and flip; colours and the mean are taken on the device."""
    config, B, mean = run.config, run.config.batch_size, 255 * torch.tensor(MEAN, device=run.device)
    test, data = (imagenet.load(run.data_dir, split).told_apart(run.config.classes) for split in ("val", "train"))
    run.describe_data(
        name="imagenet", sha256=data.sha256, test_sha256=test.sha256, train=len(data), test=len(test),
        stand_in=not (data.official and test.official),
    )  # fmt: skip
    tests = validation(run, test, config.crop)
    values, vectors = torch.tensor(EIGENVALUES), torch.tensor(EIGENVECTORS)

    def sample(index: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return random_crop(data.image(index), config.sides, config.crop, generator), data.labels[index]

    def shown(step: int, read: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        colours = draw_colours(B, config.colour, values, vectors, run.seed, step)[run.share(B)]
        colours = colours.to(run.device, non_blocking=True)
        return normalised(read[0], mean - 255 * colours[:, None, None]), read[1]

    return Data(len(data), run.reader(sample), shown, tests)


def validation(run: Run, data: imagenet.ImageNet, crop: int, scale: Tensor | float = 255) -> Tests:
    """ImageNet's validation set, read by worker processes: "the standard 10-crop testing", or whole images at several scales."""
    kinds, sizes = ("1crop", "10crop", "multiscale"), (250, 25, 1)  # images in a batch: at a scale they have different shapes
    n, mean = len(data), 255 * torch.tensor(MEAN, device=run.device)

    def sample(index: int, _: torch.Generator) -> tuple[Tensor, ...]:
        """From n on ten crops, from 2 n on all scales: (k, H, W, 3), ..., ()."""
        image, label = data.image(index % n), data.labels[index % n]
        if index >= 2 * n:
            return (*(pixels(resize(image, round(side * crop / 224)))[None] for side in SCALES), label)
        crops = views(resize(image, round(crop * 8 / 7)), crop, CENTRE if index < n else FIVE)
        return crops[:1] if index < n else crops, label

    reader = run.reader(sample)

    def batches(kind: str) -> Iterator[tuple[list[Tensor], Tensor]]:
        i = kinds.index(kind)
        for *several, labels in run.examples(reader, n, sizes[i], first=i * n):
            yield [normalised(images.flatten(0, 1), mean, scale) for images in several], labels

    return Tests(n, kinds, ("top1_error_{}", "top5_error_{}"), batches)


def evaluate(run: Run, model: nn.Module, tests: Tests, kind: str) -> dict[str, float]:
    """Errors over the test set in %: of the answer, and of the five most likely ones. The scores of several views are averaged.

    At several scales (Table 4) in "fully-convolutional form": the last layer is linear, so that averaging over places before it,
    as the model does at any size, or after it is the same.
    """
    hits = []
    with run.evaluating(model) as net:
        for several, labels in tests.batches(kind):
            scores = [net(x).to(x.dtype).softmax(1).unflatten(0, (len(labels), -1)).mean(1) for x in several]
            hits.append((mean := torch.stack(scores).mean(0)).topk(min(5, mean.shape[1])).indices == labels[:, None])  # (b, 5)
    hits = run.gather(torch.cat(hits), tests.n)
    right = (100 * each.double().mean().item() for each in (hits[:, 0], hits.any(1)))
    return {name.format(kind): 100 - each for name, each in zip(tests.errors, right, strict=False)}
