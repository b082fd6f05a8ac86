"""What the nets learn from: CIFAR on the run's device, small as it is or zoomed; ImageNet, Pets and Flowers by worker processes."""

import hashlib
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from common.data import cifar, imagenet, standin
from common.data.images import area_crop, crop, draw_crops, windows
from common.data.order import mix, permuted, shuffled
from common.data.workers import Reader
from common.errors import BadInput
from common.run import Run
from papers.vit.evaluation import Look, Tests, validation

if TYPE_CHECKING:
    from PIL.Image import Image

CLASSES = {"imagenet": 1000, "cifar10": 10, "cifar100": 100, "pets": 37, "flowers": 102, "made-up": 10}
DEV = {"imagenet": 0.01, "cifar10": 0.02, "cifar100": 0.02, "pets": 0.1, "flowers": 0.1, "made-up": 0.25}  # B.1.1: the sweep's
AREA = (0.05, 1.0)  # of an image, that Inception's crop shows: the official pipeline's
PAD = 4  # from scratch: crops of 32 pixels out of 40, as usual with CIFAR


class Data(NamedTuple):
    """A data set as `train` goes through it."""

    n: int  # training images
    reader: Reader | None  # of these; None: they are on the device
    shown: Callable[[int, Any, float], tuple[Tensor, Tensor]]  # step, what is drawn or read, share of the set -> images, labels
    tests: Tests


class Images(NamedTuple):
    """On the CPU: (n, 32, 32, 3), uint8, and labels (n,)."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def read(run: Run, name: str, held_out: float, about: dict[str, Any]) -> Images:
    """CIFAR-10, CIFAR-100, or stand-in images.

    held_out: a share of the training images takes the place of the test set.   about: what the record says of given weights.
    """
    made_up = name == "made-up"
    if made_up:
        data = cifar.CIFAR(*standin.images(256, 0), *standin.images(100, 1), sha256="")
    else:
        run.on_main(lambda: cifar.fetch(run.data_dir, CLASSES[name]))
        data = cifar.load(run.data_dir, CLASSES[name])
    found = Images(data.train_images, data.train_labels, data.test_images, data.test_labels)
    if held_out:
        last, first = split(len(found.labels), held_out)
        found = Images(found.images[first], found.labels[first], found.images[last], found.labels[last])
    run.describe_data(
        name=name + f", held out: {len(found.test_labels):,} of the training images" * (held_out > 0), sha256=data.sha256,
        train=len(found.labels), test=len(found.test_labels), stand_in=made_up, **about,
    )  # fmt: skip
    return found


def split(n: int, share: float) -> tuple[Tensor, Tensor]:
    """The numbers of the images that are held out, the same ones for all seeds, and of the others."""
    order, k = permuted(n, 0, 0, n), round(share * n)
    return order[:k].sort().values, order[k:].sort().values


def test_name(held_out: float) -> str:
    return "held_out_accuracy" if held_out else "test_accuracy"


def small(run: Run, about: dict[str, Any]) -> Data:
    """Sec. 4.3 in small: CIFAR-10's images as they are, cropped and flipped on the device.

    Of a share of the training set the images are the first of an order that depends on the seed, and every share has an endless
    stream of permutations of its own.
    """
    config, B = run.config, run.config.batch_size
    data = read(run, config.data, 0.1 if config.held_out else 0.0, about)
    n, n_test, order = (
        len(data.labels),
        len(data.test_labels),
        permuted(len(data.labels), mix(run.seed, "shares"), 0, len(data.labels)),
    )
    images, labels, test_images, test_labels = (t.to(run.device) for t in data)
    grey = torch.full((32, 32, 3), 127.5, device=run.device, dtype=torch.get_default_dtype())  # pixels go from -1 to 1
    crops, greys = windows(images, PAD), windows(grey, PAD)

    def shown(step: int, index: Tensor, share: float) -> tuple[Tensor, Tensor]:
        mine = run.share(B)
        if share < 1:
            index = order[shuffled(round(share * n), B, run.seed)(step)[mine]]
        draws = draw_crops(B, 2 * PAD + 1, run.seed, step)[mine]
        index, draws = (t.to(run.device, non_blocking=True) for t in (index, draws))
        return crop(crops, greys, index, draws, scale=127.5), labels[index]

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        mine, look = run.share(n_test), Look(32)
        for some, their_labels in zip(test_images[mine].split(500), test_labels[mine].split(500), strict=True):
            yield look.scaled(some), their_labels

    return Data(n, None, shown, Tests(n_test, (test_name(config.held_out),), batches))


def draw_boxes(B: int, side: int, area: tuple[float, float], seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Inception's crops of square images: boxes (B, 4), left, top, width, height in pixels, and whether to flip (B,).

    A share of the area, its sides as 3:4 to 4:3; of ten tries the first that fits, else the whole image (torchvision's way).
    """
    generator = torch.Generator().manual_seed(mix(seed, "boxes", step))
    u = torch.rand(4, B, 10, generator=generator, dtype=torch.float64)
    size = side * side * (area[0] + (area[1] - area[0]) * u[0])
    ratio = torch.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * u[1])
    sides = torch.stack([(size * ratio).sqrt(), (size / ratio).sqrt()], 2).round().long()  # (B, 10, 2): widths, heights
    fits = ((sides > 0) & (sides <= side)).all(2)
    first = fits.long().argmax(1)
    chosen = torch.where(fits.any(1)[:, None], sides[torch.arange(B), first], side)
    place = torch.stack([u[2].gather(1, first[:, None])[:, 0], u[3].gather(1, first[:, None])[:, 0]], 1)
    corner = (place * (side - chosen + 1)).long()
    return torch.cat([corner, chosen], 1), torch.rand(B, generator=generator) < 0.5


def zoomed(images: Tensor, boxes: Tensor, flips: Tensor, size: int) -> Tensor:
    """What is in the boxes, resized bilinearly as if there were nothing outside: (B, 3, H, W) -> (B, 3, size, size)."""
    side, boxes = images.shape[-1], boxes.to(images.dtype)
    steps = (torch.arange(size, device=images.device, dtype=images.dtype) + 0.5) / size  # (size,)
    corner, sides = boxes[:, :2, None], boxes[:, 2:, None]
    at = torch.minimum(
        (corner + steps * sides).clamp(min=corner + 0.5), corner + sides - 0.5
    )  # (B, 2, size): x, y, of pixels' centres
    x, y = (2 * at / side - 1).unbind(1)
    x = torch.where(flips[:, None], x.flip(1), x)
    grid = torch.stack([x[:, None].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], 3)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def large(run: Run, about: dict[str, Any]) -> Data:
    """CIFAR zoomed to the size of fine-tuning (Sec. 4.1; the official pipeline): Inception's crop and flips, on the device."""
    config, B, side = run.config, run.config.batch_size, run.config.image
    data = read(run, config.data, DEV[config.data] if config.held_out else 0.0, about)
    n, n_test, look = len(data.labels), len(data.test_labels), Look(side)
    images, labels, test_images, test_labels = (t.to(run.device) for t in data)

    def shown(step: int, index: Tensor, share: float) -> tuple[Tensor, Tensor]:
        boxes, flips = (t[run.share(B)] for t in draw_boxes(B, images.shape[1], AREA, run.seed, step))
        index, boxes, flips = (t.to(run.device, non_blocking=True) for t in (index, boxes, flips))
        return zoomed(look.scaled(images[index]), boxes, flips, side), labels[index]

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        mine = run.share(n_test)
        for some, their_labels in zip(test_images[mine].split(100), test_labels[mine].split(100), strict=True):
            yield F.interpolate(look.scaled(some), size=(side, side), mode="bilinear", align_corners=False), their_labels

    return Data(n, None, shown, Tests(n_test, (test_name(config.held_out),), batches))


class Set(NamedTuple):
    """A set of photographs."""

    image: Callable[[int], "Image"]
    labels: Tensor
    sha256: str  # of its listing
    official: bool = True


def photographs(run: Run, about: dict[str, Any]) -> Data:
    """ImageNet, Oxford-IIIT Pets or Oxford Flowers, which worker processes decode, crop and resize."""
    config, side = run.config, run.config.image
    data, test = imagenet_sets(run) if config.data == "imagenet" else oxford(run, config.data)
    train = torch.arange(len(data.labels))
    if config.held_out:
        last, train = split(len(data.labels), DEV[config.data])
        test = Set(lambda i: data.image(int(last[i])), data.labels[last], data.sha256, data.official)
    if (classes := int(data.labels.max()) + 1) > config.outputs:
        raise BadInput(f"{config.data}: {classes:,} classes in {run.data_dir}, and the head has {config.outputs:,} outputs")
    run.describe_data(
        name=config.data + f", held out: {len(test.labels):,} of the training images" * config.held_out, sha256=data.sha256,
        test_sha256=test.sha256, train=len(train), test=len(test.labels), stand_in=not (data.official and test.official),
        **about,
    )  # fmt: skip
    look = Look(side)

    def sample(index: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        i = int(train[index])
        return area_crop(data.image(i), AREA, side, generator), data.labels[i]

    def shown(step: int, read: tuple[Tensor, Tensor], share: float) -> tuple[Tensor, Tensor]:
        return look.scaled(read[0]), read[1]

    tests = validation(run, test, look)
    if config.data != "imagenet" or config.held_out:
        tests = tests._replace(accuracies=(test_name(config.held_out),))
    return Data(len(train), run.reader(sample), shown, tests)


def imagenet_sets(run: Run) -> tuple[Set, Set]:
    sets = [imagenet.load(run.data_dir, split).told_apart(run.config.outputs) for split in ("train", "val")]
    return tuple(Set(data.image, data.labels, data.sha256, data.official) for data in sets)


def oxford(run: Run, name: str) -> tuple[Set, Set]:
    """Pets (trainval, test) or Flowers (train, test) as torchvision downloads and lists them.

    Raises:
        BadInput: they cannot be had.
    """
    from torchvision.datasets import Flowers102, OxfordIIITPet

    make, splits = {"pets": (OxfordIIITPet, ("trainval", "test")), "flowers": (Flowers102, ("train", "test"))}[name]

    def fetch() -> None:
        try:
            make(run.data_dir, splits[0], download=True)
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise BadInput(
                f"{name}: cannot be downloaded to {run.data_dir.absolute()} ({reason}): put torchvision's {make.__name__} there, "
                "or name another folder with --data-dir; `make smoke` runs without"
            ) from error

    run.on_main(fetch)
    found = []
    for each in splits:
        data = make(run.data_dir, each)
        labels = torch.tensor([int(label) for label in data._labels])
        files = [path.name for path in (data._images if name == "pets" else data._image_files)]
        listing = repr(sorted(zip(files, labels.tolist(), strict=True)))
        found.append(Set(lambda i, data=data: data[i][0], labels, hashlib.sha256(listing.encode()).hexdigest()))
    return found[0], found[1]
