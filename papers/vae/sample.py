"""Samples of a run's generative model, as a picture: means of p(x|z) for z from the prior (Fig. 5).

    python -m papers.vae.sample runs/vae/mnist-nz20/seed0 --n 200 --out grid.png

They follow from the seed, whatever their number. It takes a second.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor

from common import directory, figures
from common.data.order import mix
from common.errors import BadInput
from papers.vae.pictures import field
from papers.vae.train import Config, Methods


@dataclass(frozen=True)
class Command:
    """Samples of a trained generative model, as a picture."""

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
    method: Literal["aevb", "wake_sleep", "mcem"] = "aevb"
    """Whose decoder."""


def drawn(folder: Path, n: int, seed: int, method: str) -> Tensor:
    """What `figures.grid` takes, (n, H, W) in [0, 1].

    Raises:
        BadInput: it is no folder of a run, or has no checkpoint.
    """
    _, config, learned = directory.learned(folder, "vae", Config)
    if method not in config.methods:
        raise BadInput(f"--method {method}: {folder} has {', '.join(config.methods)}")
    methods = Methods(config)
    directory.restore(folder, {"model": learned["model"]}, {"model": methods})
    decoder = getattr(methods, method)
    with torch.no_grad():
        whole = -(-n // 16) * 16  # numbers at the end of a draw whose length is no multiple of 16 depend on it
        z = torch.randn(whole, config.latent, generator=torch.Generator().manual_seed(mix(seed, "samples")))
        return field((decoder if method == "mcem" else decoder.decoder).mean(z[:n]))


def main(argv: list[str]) -> int:
    import tyro

    command = tyro.cli(Command, args=argv, prog="python -m papers.vae.sample", config=(tyro.conf.PositionalRequiredArgs,))
    try:
        if min(command.n, command.columns) < 1:
            raise BadInput("--n and --columns must be at least 1")
        images = drawn(Path(command.run), command.n, command.seed, command.method)
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
