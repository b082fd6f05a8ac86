"""Samples of a run's generator, as a picture: of digits a column for each class, in turn.

    python -m papers.dcgan.sample runs/dcgan/mnist/seed0 --n 200 --out grid.png

Samples are whole batches of 128, whose own statistics batch norm takes, and follow from the seed. It takes seconds.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from common import directory, figures
from common.data.order import mix
from common.errors import BadInput
from papers.dcgan.train import Mnist, networks
from papers.dcgan.unlabelled import NETWORKS, Images

BATCH = 128


@dataclass(frozen=True)
class Command:
    """Samples of a trained generator, as a picture."""

    run: Annotated[str, "positional"]
    """The folder of a run of train.py."""
    n: int = 200
    """Samples."""
    out: Path = Path("grid.png")
    """The picture."""
    seed: int = 0
    """The samples follow from it."""
    columns: int = 20
    """Samples in a row of the picture."""


def of_run(folder: Path) -> tuple[Mnist | Images, nn.Module, nn.Module]:
    """Hyper-parameters, generator, discriminator. Raises BadInput: it is no folder of a run, or has no checkpoint that fits."""
    _, config, learned = directory.learned(folder, "dcgan", Mnist, Images)
    G, D = networks(config) if isinstance(config, Mnist) else NETWORKS[config.data](config.Z, config.width)
    nets = {"generator": G, "model": D}
    directory.restore(folder, {name: learned[name] for name in nets}, nets)
    return config, G, D


def drawn(folder: Path, n: int, seed: int) -> Tensor:
    """What `figures.grid` takes, (n, 28, 28) or (n, 3, H, W) in [0, 1].

    Raises:
        BadInput: it is no folder of a run, or has no checkpoint.
    """
    config, net, _ = of_run(folder)
    digits, images = isinstance(config, Mnist), []
    with torch.no_grad():
        for number in range(-(-n // BATCH)):
            generator = torch.Generator().manual_seed(mix(seed, "samples", number))
            normal = not digits and config.prior == "normal"
            draw = torch.randn if normal else torch.rand
            z = draw(BATCH, config.Z, generator=generator)
            z = z if normal else 2 * z - 1
            classes = torch.arange(number * BATCH, (number + 1) * BATCH) % 10
            images.append(net(z, one_hot(classes, 10).to(z.dtype))[:, 0] if digits else (net(z) + 1) / 2)
    return torch.cat(images)[:n].float()


def main(argv: list[str]) -> int:
    import tyro

    command = tyro.cli(Command, args=argv, prog="python -m papers.dcgan.sample", config=(tyro.conf.PositionalRequiredArgs,))
    try:
        if min(command.n, command.columns) < 1:
            raise BadInput("--n and --columns must be at least 1")
        images = drawn(Path(command.run), command.n, command.seed)
        os.makedirs(command.out.parent, exist_ok=True)
        about = f"{command.run}, seed {command.seed}, {command.n} samples"
        command.out.write_bytes(figures.png(figures.grid(images, command.columns), "samples", about))
    except (BadInput, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"samples  {command.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
