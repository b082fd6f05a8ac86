"""What the nets are shown: CIFAR-10 on the device; ILSVRC by worker processes, with its mean image and its colours' components."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from common.data import cifar, folders, imagenet, standin
from common.data.images import BILINEAR, crop, draw_colours, draw_crops, pixels, windows
from common.data.kept import kept
from common.data.order import mix, shuffled
from common.data.workers import Reader
from common.errors import BadInput
from common.run import Run

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE, CROP = 256, 224  # Sec. 2, Sec. 4.1: 33 x 33 places; the text counts 32 x 32 ("a factor of 2048")
CLASSES = 1000
IN_2010 = {"train": 1_261_406, "test": 150_000}  # images; remembered, not from the paper


class Tests(NamedTuple):
    """Images that a net is tested on."""

    n: int
    kinds: tuple[str, ...]  # ways to look at an image, the first of them during training
    errors: tuple[str, ...]  # names, by the kind: of the likeliest answer, and of the five likeliest where these count
    batches: Callable[[str], Iterator[tuple[Tensor, Tensor]]]  # kind -> this process's: views (b k, 3, H, W), labels (b,)


class Data(NamedTuple):
    """A data set as `train` goes through it."""

    n: int  # training images
    draw: Callable[[int], Tensor]  # step -> the numbers of the global batch
    steps: int
    passes: Callable[[float], float]  # updates -> passes through the training set so far
    reader: Reader | None  # of the images; None: they are on the device
    shown: Callable[[int, Any], tuple[Tensor, Tensor]]  # step, what is drawn or read for it -> images (b, 3, H, W), labels (b,)
    tests: Tests


def cifar10(run: Run) -> Data:
    """CIFAR-10 on the run's device, raw pixels less the mean image: whole, or crops less its centre, as in their code."""
    config, B, made_up = run.config, run.config.batch_size, run.config.data == "made-up"
    if made_up:
        data = cifar.CIFAR(*standin.images(128, 0), *standin.images(20, 1), sha256="")
    else:
        run.on_main(lambda: cifar.fetch(run.data_dir))
        data = cifar.load(run.data_dir)
    images, labels, test_images, test_labels = data.train_images, data.train_labels, data.test_images, data.test_labels
    fifth = len(images) - len(images) // 5
    if config.held_out:
        images, labels, test_images, test_labels = images[:fifth], labels[:fifth], images[fifth:], labels[fifth:]
    n, n_test, part = len(images), len(test_labels), min(fifth, len(images))
    run.describe_data(
        name="cifar10" + ", held out: 10,000 of the training images" * config.held_out, sha256=data.sha256,
        train=n, test=n_test, stand_in=made_up,
    )  # fmt: skip
    mean = images.double().mean(0).to(run.device, torch.get_default_dtype())
    images, labels, test_images, test_labels = (t.to(run.device) for t in (images, labels, test_images, test_labels))
    size = 24 if config.crops else 32
    places, border = 33 - size, (32 - size) // 2
    crops, mean = windows(images, 0, size), windows(mean, 0, size)[border, border].expand(places, places, 3, size, size)

    before = config.first * part // B  # updates from four fifths alone
    first, whole = shuffled(part, B, run.seed), shuffled(n, B, mix(run.seed, "whole") if before else run.seed)

    def draw(step: int) -> Tensor:
        return first(step) if step < before else whole(step - before)

    def passes(step: float) -> float:
        return step * B / part if step < before else config.first + (step - before) * B / n

    def shown(step: int, index: Tensor) -> tuple[Tensor, Tensor]:
        draws = draw_crops(B, places, run.seed, step)[run.share(B)]
        if not config.crops:
            draws[:, 2] = 0  # nor flips
        index, draws = (t.to(run.device, non_blocking=True) for t in (index, draws))
        return crop(crops, mean, index, draws, scale=1), labels[index]

    def batches(kind: str) -> Iterator[tuple[Tensor, Tensor]]:
        mine = run.share(n_test)
        for some, their_labels in zip(test_images[mine].split(250), test_labels[mine].split(250), strict=True):
            yield views(windows(some, 0, size), mean, kind), their_labels

    test = "held_out_error" if config.held_out else "test_error"
    tests = Tests(n_test, *((("1view", "10view"), (test + "_{}",)) if config.crops else (("whole",), (test,))), batches)
    return Data(n, draw, before + (config.epochs - config.first) * n // B, passes, None, shown, tests)


def views(crops: Tensor, mean: Tensor, kind: str) -> Tensor:
    """The centre, or Sec. 4.1's ten patches, less the mean: (b, places, places, 3, H, W) -> (b k, 3, H, W)."""
    last = crops.shape[1] - 1
    at = [(0, 0), (0, last), (last // 2, last // 2), (last, 0), (last, last)] if kind == "10view" else [(last // 2, last // 2)]
    some = torch.stack([crops[:, top, left] - mean[top, left] for top, left in at], 1)  # (b, k, 3, H, W)
    some = torch.cat([some, some.flip(4)], 1) if kind == "10view" else some
    return some.flatten(0, 1).contiguous(memory_format=torch.channels_last)


def ilsvrc(run: Run) -> Data:
    """ILSVRC: workers decode and resize; crops, flips, colours and the mean image are taken on the device (Sec. 2, 4.1)."""
    config, B = run.config, run.config.batch_size
    data, test = load(run.data_dir, config.year, config.classes)
    run.describe_data(
        name=f"ilsvrc-{config.year}", sha256=data.sha256, test_sha256=test.sha256, train=len(data.labels), test=len(test.labels),
        stand_in=not (data.official and test.official),
    )  # fmt: skip
    found, n = statistics(run, data), len(data.labels)
    mean, deviations, components = (t.to(torch.get_default_dtype()) for t in found)
    means, places = means_of(mean.to(run.device), config.authors), SIDE - CROP + 1
    scale = 1 + config.colour if config.authors else 1.0
    reader = run.reader(lambda index, generator: (square(data.image(index)), data.labels[index]))
    tests = validation(run, test, means)

    def passes(step: float) -> float:
        return step * B / n

    def shown(step: int, read: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        mine = run.share(B)
        draws = draw_crops(B, places, run.seed, step)[mine].to(run.device, non_blocking=True)
        colours = draw_colours(B, config.colour_at(passes(step)), deviations, components, run.seed, step)[mine]
        every = torch.arange(len(draws), device=run.device)
        images = crop(windows(read[0], 0, CROP), means, every, draws, scale=1)
        return (images + colours.to(run.device, non_blocking=True)[:, :, None, None]) / scale, read[1]

    return Data(n, shuffled(n, B, run.seed), config.epochs * n // B, passes, reader, shown, tests)


def means_of(mean: Tensor, authors: bool) -> Tensor:
    """What crops lose at each place: of the mean image what is there; by their code, of any crop its centre."""
    means, middle = windows(mean, 0, CROP), (SIDE - CROP) // 2
    return means[middle, middle].expand(means.shape) if authors else means


def validation(run: Run, data: Any, means: Tensor) -> Tests:
    """Squares read by worker processes; "ten patches", or the centre alone. means: what to take away at each place."""
    n, size = len(data.labels), SIDE + 1 - len(means)
    reader = run.reader(lambda index, generator: (square(data.image(index)), data.labels[index]))

    def batches(kind: str) -> Iterator[tuple[Tensor, Tensor]]:
        for squares, labels in run.examples(reader, n, 25 if kind == "10view" else 250):
            yield views(windows(squares, 0, size), means, kind), labels

    return Tests(n, ("1view", "10view"), ("top1_error_{}", "top5_error_{}"), batches)


class Set(NamedTuple):
    """One split of ILSVRC."""

    image: Callable[[int], "Image"]
    labels: Tensor
    sha256: str
    official: bool  # as many images and classes as the official split has


def load(data_dir: Path, year: Literal[2010, 2012], outputs: int = CLASSES) -> tuple[Set, Set]:
    """The training set and the one that the paper tests on: of 2012 the validation set, of 2010 the test set.

    Raises:
        BadInput: a split is not there, or incomplete, or has more classes than the nets have outputs.
    """
    sets, names = [], ("train", "val") if year == 2012 else ("train", "test")
    for name in names:
        if year == 2012:
            data = imagenet.load(data_dir, name).told_apart(outputs)
            classes, official = data.classes, data.official
        else:
            data = folders.load(data_dir / "imagenet-2010" / name, "ILSVRC-2010")
            classes, official = len(data.classes), (len(data), len(data.classes)) == (IN_2010[name], CLASSES)
        if not 0 < classes <= outputs:
            raise BadInput(f"ILSVRC-{year}: {classes:,} classes in {data_dir}: {name} needs a folder for each, {outputs:,} at most")
        sets.append(Set(data.image, data.labels, data.sha256, official))
    return sets[0], sets[1]


def square(image: "Image") -> Tensor:
    """Sec. 2: "rescaled the image such that the shorter side was of length 256, and then cropped out the central 256x256 patch"."""
    (width, height), short = image.size, min(image.size)
    left, top = (width - short) / 2, (height - short) / 2
    return pixels(image.resize((SIDE, SIDE), BILINEAR, box=(left, top, left + short, top + short)))  # (256, 256, 3), uint8


class Statistics(NamedTuple):
    """Of all training images."""

    mean: Tensor  # (256, 256, 3): "we subtracted the mean activity over the training set from each pixel"
    deviations: Tensor  # (3,): along the principal components of their colours, the greatest first
    components: Tensor  # (3, 3): p1, p2, p3 as columns


def colour_statistics(images: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Of the covariance of all pixels of a set, in units of 255: eigenvalues (3,), the greatest first, and p1, p2, p3 (3, 3).

    images: (..., 3) each, uint8: images of different sizes, or batches of them.
    """
    sums, n = torch.zeros(4, 3, dtype=torch.float64), 0
    for some in images:
        x = some.reshape(-1, 3).double() / 255
        sums, n = sums + torch.cat([x.T @ x, x.sum(0)[None]]).cpu(), n + len(x)
    mean = sums[3] / n
    values, vectors = torch.linalg.eigh(sums[:3] / n - mean.outer(mean))
    vectors = vectors * vectors[vectors.abs().argmax(0), [0, 1, 2]].sign()  # of the two of each length the one that points up
    return values.flip(0).float(), vectors.flip(1).float()


def statistics(run: Run, data: Set) -> Statistics:
    """From one pass through the training set, which is made once and kept beside it. Raises BadInput: as `kept` does."""
    n, total = len(data.labels), torch.zeros(SIDE, SIDE, 3, dtype=torch.float64)

    def make(folder: Path) -> None:
        run.say(f"the mean image and the colours of {n:,} training images: one pass through them, once for all runs")
        reader = Reader(lambda index, generator: (square(data.image(index)),))

        def squares() -> Iterator[Tensor]:
            for (some,) in reader.read([(i, 0) for i in range(n)[at : at + 100]] for at in range(0, n, 100)):
                total.add_(some.double().sum(0))
                yield some

        values, components = colour_statistics(squares())
        reader.close()
        found = {"mean": (total / n).float(), "deviations": 255 * values.clamp(min=0).sqrt(), "components": components}
        torch.save(found, folder / "statistics.pt")

    facts = {"sha256": data.sha256, "side": SIDE, "resized": "the central square, bilinear"}
    place = run.on_main(lambda: kept([run.data_dir], "alexnet-statistics", facts, make))
    return Statistics(**torch.load(place / "statistics.pt", weights_only=True))
