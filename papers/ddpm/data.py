"""Images to learn from: small sets as bytes on the device, large ones in folders that worker processes read."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.data import cifar, folders, mnist, standin
from common.data.images import normalised, pixels, resize
from common.data.workers import Reader
from common.errors import BadInput
from common.loop import Draw
from common.run import Run

FOLDERS = {"celebahq": 256, "lsun-bedroom": 256, "lsun-cat": 256, "lsun-church": 256}  # data -> pixels of a side
SIDE = {"cifar10": 32, "mnist": 28, "made-up": 8} | FOLDERS
CHANNELS = {"mnist": 1}  # the others: 3


@dataclass
class Data:
    """n training images, bytes: on the device (n, H, W, C), or read by workers. And the test images, where there are some."""

    n: int
    images: Tensor | None = None
    labels: Tensor | None = None
    test_images: Tensor | None = None
    test_labels: Tensor | None = None
    sample: Any = None  # what the reader does: number, generator -> images
    reader: Reader | None = None

    def batches(self, run: Run, draw: Draw, steps: int) -> Iterator[tuple[int, Tensor]]:
        """(step, this process's part of the global batch (b, C, H, W) in [-1, 1])."""
        if self.reader:
            for step, (images,) in run.loaded(self.reader, draw, steps=steps):
                yield step, scaled(images)
        else:
            for step, index in run.indices(draw, steps=steps):
                yield step, scaled(self.images[index.to(run.device, non_blocking=True)])


def scaled(images: Tensor) -> Tensor:
    """Sec. 3.3: "scaled linearly to [-1, 1]"; bytes (n, H, W, C) -> (n, C, H, W), contiguous: weights say how maps lie."""
    return normalised(images, 127.5, 127.5).contiguous()


def layout(run: Run[Any]) -> torch.memory_format:
    """Of a network's weights, and so of its maps: channels last, but for bf16 on a CPU.

    There PyTorch's group normalization of such maps is ten times as slow as of contiguous ones.
    """
    return torch.contiguous_format if run.device.type == "cpu" and run.precision == "bf16" else torch.channels_last


def to_bytes(x: Tensor) -> Tensor:
    """(n, C, H, W) in [-1, 1] -> the nearest bytes (n, C, H, W)."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def load(run: Run[Any], **more: Any) -> Data:
    """The images of run.config.data; more: what the record says besides. Raises BadInput: they are not there, or wrong."""
    name = run.config.data
    if name in FOLDERS:
        folder = folders.load(run.data_dir / name, name)
        run.describe_data(name=name, sha256=folder.sha256, train=len(folder), test=0, stand_in=False, **more)
        sample = square(folder, FOLDERS[name])
        return Data(len(folder), sample=sample, reader=run.reader(sample))
    if name == "made-up":
        images, labels = standin.images(160, 0, size=SIDE[name])
        parts, digest = [images[:120], labels[:120], images[120:], labels[120:]], ""
    else:
        official = {"cifar10": cifar, "mnist": mnist}[name]
        run.on_main(lambda: official.fetch(run.data_dir))
        found = official.load(run.data_dir)
        parts, digest = [found.train_images, found.train_labels, found.test_images, found.test_labels], found.sha256
        parts = [part[..., None] if part.ndim == 3 else part for part in parts]
    run.describe_data(name=name, sha256=digest, train=len(parts[0]), test=len(parts[2]), stand_in=name == "made-up", **more)
    return Data(len(parts[0]), *(part.to(run.device) for part in parts))


def square(folder: folders.Folder, side: int) -> Any:
    """What a worker makes of an image: the shorter side resized, and of that the centre: (side, side, 3), bytes.

    It raises BadInput: an image is smaller than that, or has not one pixel for each.
    """

    def sample(index: int, _: torch.Generator) -> tuple[Tensor]:
        whole = folder.image(index)
        if min(whole.size) < side:
            path = Path(folder.root, folder.paths[index].decode(errors="replace"))
            small = f"is {whole.size[0]} x {whole.size[1]} pixels, and {side} are needed each way"
            raise BadInput(f"{folder.name}: {path} {small}: take it away, or put a larger one there, and run again with --restart")
        shown = pixels(resize(whole, side))
        top, left = (shown.shape[0] - side) // 2, (shown.shape[1] - side) // 2
        return (shown[top : top + side, left : left + side],)

    return sample
