"""What the nets are shown: CIFAR-10 on the device; ImageNet by worker processes, in training crops, in tests whole images."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.data import cifar, imagenet, standin
from common.data.images import (
    CENTRE,
    EIGENVALUES,
    EIGENVECTORS,
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

PAD = 4  # of CIFAR-10, as in ResNet's recipe
GRID = tuple((i / 4, j / 4) for i in range(5) for j in range(5))  # Sec. 3.2: "50 crops per scale (5x5 regular grid with 2 flips)"


class Tests(NamedTuple):
    """Images that a net is tested on."""

    labels: Tensor  # of this process's share of them
    n: int  # of all
    errors: tuple[str, ...]  # names, by the kind: of the likeliest answer, and of the five likeliest where these count
    batches: Callable[[str], Iterator[tuple[list[Tensor], int]]]  # kind -> views (b k, 3, H, W) at each scale, how many images b


class Data(NamedTuple):
    """A data set as `train` goes through it."""

    n: int  # training images
    reader: Reader | None  # of these; None: they are on the device
    shown: Callable[[int, Any], tuple[Tensor, Tensor]]  # step, what is drawn or read for it -> images (b, 3, H, W), labels (b,)
    tests: Tests


def cifar10(run: Run) -> Data:
    """CIFAR-10 on the run's device: padded, cropped and flipped; raw pixels less the mean RGB, as the authors have them."""
    config, B, made_up = run.config, run.config.batch_size, run.config.data == "made-up"
    if made_up:
        data = cifar.CIFAR(*standin.images(256, 0), *standin.images(100, 1), sha256="")
    else:
        run.on_main(lambda: cifar.fetch(run.data_dir))
        data = cifar.load(run.data_dir)
    images, labels, test_images, test_labels = data.train_images, data.train_labels, data.test_images, data.test_labels
    if config.held_out:
        part = len(images) - len(images) // 5
        images, labels, test_images, test_labels = images[:part], labels[:part], images[part:], labels[part:]
    n, n_test = len(labels), len(test_labels)
    run.describe_data(
        name="cifar10" + ", held out: 10,000 of the training images" * config.held_out, sha256=data.sha256,
        train=n, test=n_test, stand_in=made_up,
    )  # fmt: skip
    dtype, mine = torch.get_default_dtype(), run.share(n_test)
    mean = images.double().mean((0, 1, 2)).to(run.device, dtype)  # (3,)
    scale = images.double().std((0, 1, 2)).to(run.device, dtype) if config.compare == "batch-norm" else torch.ones_like(mean)
    images, labels, test_images, test_labels = (t.to(run.device) for t in (images, labels, test_images[mine], test_labels[mine]))
    crops, means = windows(images, PAD), windows(mean.expand(32, 32, 3), PAD)

    def shown(step: int, index: Tensor) -> tuple[Tensor, Tensor]:
        draws = draw_crops(B, 2 * PAD + 1, run.seed, step)[run.share(B)]
        index, draws = (t.to(run.device, non_blocking=True) for t in (index, draws))
        return crop(crops, means, index, draws, scale[:, None, None]), labels[index]

    def batches(kind: str) -> Iterator[tuple[list[Tensor], int]]:
        for some in test_images.split(500):
            yield [normalised(some, mean, scale)], len(some)

    error = "held_out_error" if config.held_out else "test_error"
    return Data(n, None, shown, Tests(test_labels, n_test, (error,), batches))


def imagenet_2012(run: Run, start: dict[str, str]) -> Data:
    """ImageNet (Sec. 3.1): workers decode, resize, crop and flip; colours and the mean RGB are taken on the device.

    start: what the record says of the weights that the net begins with.
    """
    config, B, mean = run.config, run.config.batch_size, 255 * torch.tensor(MEAN, device=run.device)
    test, data = (imagenet.load(run.data_dir, split).told_apart(run.config.classes) for split in ("val", "train"))
    run.describe_data(
        name="imagenet", sha256=data.sha256, test_sha256=test.sha256, train=len(data), test=len(test),
        stand_in=not (data.official and test.official), **start,
    )  # fmt: skip
    tests = validation(run, test, config.crop, config.test_sides)
    values, vectors = torch.tensor(EIGENVALUES), torch.tensor(EIGENVECTORS)

    def sample(index: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return random_crop(data.image(index), config.sides, config.crop, generator), data.labels[index]

    def shown(step: int, read: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        colours = 255 * draw_colours(B, 0.1, values, vectors, run.seed, step)[run.share(B)]
        colours = colours.to(run.device, non_blocking=True)
        return normalised(read[0], mean - colours[:, None, None], 1), read[1]

    return Data(len(data), run.reader(sample), shown, tests)


KINDS = ("1crop", "dense", "multiscale", "150crop")  # ways to look at an image, the first of them during training
DENSE = KINDS[1:3]


def validation(
    run: Run, data: imagenet.ImageNet, crop: int, sides: tuple[int, int, int], mean: Tensor | None = None, scale: Tensor | float = 1
) -> Tests:
    """ImageNet's validation set, read by worker processes.

    1crop: the centre, of an image whose shorter side is 8/7 of it. dense: the whole image and its flip, its shorter side the
    middle one of `sides`; multiscale: at all three. 150crop: at each of the three 25 places and their flips.
    """
    n, mean = len(data), 255 * torch.tensor(MEAN, device=run.device) if mean is None else mean

    def sample(index: int, _: torch.Generator) -> tuple[Tensor, ...]:
        """From n k on as kind k has it: (views, H, W, 3) at each scale."""
        kind, image = KINDS[index // n], data.image(index % n)
        if kind == "1crop":
            return (views(resize(image, round(crop * 8 / 7)), crop, CENTRE)[:1],)
        found = []
        for side in sides[1:2] if kind == "dense" else sides:
            resized = resize(image, side)
            whole = pixels(resized)
            found.append(views(resized, crop, GRID) if kind == "150crop" else torch.stack([whole, whole.flip(1)]))
        return tuple(found)

    reader = run.reader(sample)

    def batches(kind: str) -> Iterator[tuple[list[Tensor], int]]:
        i = KINDS.index(kind)
        for several in run.examples(reader, n, 250 if kind == "1crop" else 1, first=i * n):  # whole images differ in shape
            yield [normalised(images.flatten(0, 1), mean, scale) for images in several], len(several[0])

    return Tests(data.labels[run.share(n)].to(run.device), n, ("top1_error_{}", "top5_error_{}"), batches)
