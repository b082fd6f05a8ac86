"""Samples of a run, or of official weights, as a picture.

    python -m papers.ddpm.sample runs/ddpm/mnist/seed0 --n 64 --out grid.png          # of a run: its averaged weights
    python -m papers.ddpm.sample google/ddpm-cifar10-32 --n 64 --out grid.png         # of official weights: pretrained.py
    python -m papers.ddpm.sample runs/ddpm/mnist/seed0 --n 64 --out grid.png --steps 100

The grid has its samples row after row. What is finished lies beside it (grid.png.part), and the same command goes on from there.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import nn

from common import directory, figures
from common.errors import BadInput, Failed
from papers.ddpm.chain import samples, shown
from papers.ddpm.model import Diffusion
from papers.ddpm.pretrained import load
from papers.ddpm.train import Config, diffusion_of, networks, shape_of


@dataclass(frozen=True)
class Command:
    """Samples of a trained network, as a picture."""

    weights: Annotated[str, "positional"]
    """The folder of a run of train.py, or official weights as pretrained.py takes them."""
    n: int = 64
    """Samples."""
    out: Path = Path("grid.png")
    """The picture."""
    seed: int = 0
    """The samples follow from it."""
    steps: int = 0
    """Of the reverse process, fewer than the network was trained for; 0: all."""
    columns: int = 8
    """Samples in a row of the picture."""
    objective: str = ""
    """Of a run with several: whose network."""
    batch: int = 64
    """Samples at once."""


def of_run(folder: Path, objective: str) -> tuple[Diffusion, nn.Module, tuple[int, int, int]]:
    """Diffusion, network with averaged weights, and (C, H, W), of a run's newest checkpoint. Raises BadInput: it has none."""
    _, config, learned = directory.learned(folder, "ddpm", Config)
    objective = objective or config.objectives[0]
    if objective not in config.objectives:
        raise BadInput(f"--objective {objective}: {folder} has {', '.join(config.objectives)}")
    nets = networks(config)
    directory.restore(folder, {"ema": learned["ema"]}, {"ema": nets})
    return diffusion_of(config, objective), nets[objective], shape_of(config)


def of_weights(weights: str, cache: Path) -> tuple[Diffusion, nn.Module, tuple[int, int, int]]:
    """The same of official weights. Raises BadInput: they cannot be had, or are no such net's."""
    net = load(weights, cache)
    side = 32 if len(net.down) == 4 else 256
    return Diffusion(), net, (net.conv_in.in_channels, side, side)


def fewer(diffusion: Diffusion, steps: int) -> tuple[Diffusion, list[int]]:
    """A diffusion of so many of the steps, evenly spaced, and which these are. Raises BadInput: there are not so many."""
    if not 1 <= steps <= diffusion.T:
        raise BadInput(f"--steps {steps}: must be from 1 to {diffusion.T}, the steps that the network was trained for")
    times = [round(i * (diffusion.T - 1) / max(1, steps - 1)) for i in range(steps)] if steps > 1 else [diffusion.T - 1]
    return Diffusion(diffusion.T, predict=diffusion.predict, variance=diffusion.variance, times=times), times


def main(argv: list[str]) -> int:
    import tyro

    command = tyro.cli(Command, args=argv, prog="python -m papers.ddpm.sample", config=(tyro.conf.PositionalRequiredArgs,))
    try:
        if min(command.n, command.columns, command.batch) < 1:
            raise BadInput("--n, --columns and --batch must be at least 1")
        run = Path(command.weights)
        is_run = (run / "config.json").exists() and (run / "checkpoint").exists()
        diffusion, net, shape = (
            of_run(run, command.objective)
            if is_run
            else of_weights(command.weights, Path(os.environ.get("DATA_DIR", "data")) / "weights")
        )
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        net, called = net.eval().requires_grad_(False).to(device, memory_format=torch.channels_last), None
        if command.steps:
            diffusion, times = fewer(diffusion, command.steps)
            which = torch.tensor(times, device=device)
            called = lambda x, t: net(x, which[t])
        part = command.out.with_name(command.out.name + ".part")
        command.out.parent.mkdir(parents=True, exist_ok=True)
        images = samples(
            diffusion.to(device), net, shape, range(command.n), seed=command.seed, device=device, batch=command.batch, path=part,
            called=called,
        )  # fmt: skip
        about = f"{command.weights}, seed {command.seed}, {diffusion.T} steps, {command.n} samples"
        command.out.write_bytes(figures.png(figures.grid(shown(images), command.columns), "samples", about))
        part.unlink()
        print(f"samples  {command.out}")
        return 0
    except (BadInput, Failed, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, Failed) else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
