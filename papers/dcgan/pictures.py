"""Pictures of a run: samples and how they came to be, ways through the space of z (Sec. 6.1), what training images are nearest."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from common import figures
from common.run import Run
from papers.dcgan.neighbours import Nearest, noise

COLUMNS = 20


def made(run: Run, generator: nn.Module, z: Tensor) -> Tensor:
    """Digits for z, of each class in turn: (10 n, Z) -> (10 n, 28, 28). They are one batch, whose statistics batch norm takes."""
    y = torch.arange(10, device=z.device).repeat_interleave(len(z) // 10)
    with run.evaluating(generator) as net:
        return net(z, one_hot(y, 10).to(z.dtype))[:, 0].float()


def fixed(run: Run, n: int, *parts: object) -> Tensor:
    return noise(n, run.config.Z, run.device, run.seed, "pictures", *parts)[0]


def draw_epoch(run: Run, generator: nn.Module, epoch: int) -> None:
    """Samples for the same z at all epochs: a row for each class."""
    digits = made(run, generator, fixed(run, 10 * COLUMNS, "samples"))
    run.save_figure(figures.grid(digits, COLUMNS), f"samples-epoch{epoch:03}")


def draw_digits(run: Run, generator: nn.Module, images: Tensor) -> None:
    """At the end of training; images: the training images, bytes (n, 28, 28)."""
    digits = made(run, generator, fixed(run, 10 * COLUMNS, "samples"))
    run.save_figure(figures.grid(digits, COLUMNS), "samples")
    animate(run, "training", 8 * 28)

    ends = fixed(run, 20, "ends").unflatten(0, (10, 2, 1))  # of a line in each class (Fig. 4)
    share = torch.linspace(0, 1, COLUMNS, device=ends.device)[None, :, None]
    line = torch.lerp(ends[:, 0], ends[:, 1], share).flatten(0, 1)
    run.save_figure(figures.grid(made(run, generator, line), COLUMNS), "interpolation")

    some = digits.unflatten(0, (10, COLUMNS))[:, :2].flatten(0, 1)  # two of each class
    nearest = Nearest(some.flatten(1).float())
    for part in images.split(10_000):
        nearest.add(part.flatten(1).float() / 255, torch.zeros(len(part), dtype=torch.int64, device=part.device))
    found = images[nearest.index].float() / 255
    run.save_figure(figures.grid(torch.cat([some, found]), COLUMNS), "nearest-training-images")


def animate(run: Run, name: str, width: int) -> None:
    """figures/<name>.png, animated: the samples of all epochs, one after the other, as far as `width` pixels from the left."""
    if not run.main:
        return
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    folder = run.dir / "figures"
    paths = sorted(folder.glob("samples-epoch*.png"))
    frames: list[Any] = []
    for path in paths:
        with Image.open(path) as image:
            frames.append(image.crop((0, 0, width, image.height)))
            description = image.text["Description"]
    about = PngInfo()
    about.add_text("Title", f"{name}: the samples of {', '.join(path.stem.removeprefix('samples-') for path in paths)}")
    about.add_text("Description", description)
    frames[0].save(folder / f"{name}.png", save_all=True, append_images=frames[1:], duration=200, pnginfo=about)
