"""What the experiments share: digits, nets side by side on the same batches, and their masks."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.data import mnist, standin
from common.data.order import mix
from common.processes import bare
from common.run import Run
from papers.dropout.model import Net


def digits(run: Run[Any], images: int = 60_000, validation: int = 0) -> tuple[Tensor, ...]:
    """Training images, those held out, test images, as pixels from 0 to 1: x (N, D), y (N,) of each."""
    if made_up := run.config.data == "made-up":
        parts = [standin.images(n, seed, size=8) for seed, n in enumerate((60, 30, 30))]
        sets = [(pixels[..., 0], labels) for pixels, labels in parts]
        about = {"generator": "common/data/standin.py", "seed": 0}
    else:
        run.on_main(lambda: mnist.fetch(run.data_dir))
        found = mnist.load(run.data_dir)
        x, y = found.train_images, found.train_labels
        last = len(x) - validation
        sets = [(x[:images], y[:images]), (x[last:], y[last:]), (found.test_images, found.test_labels)]
        about = {"sha256": found.sha256}
    held = f", {validation:,} training images for validation" if validation else ""
    run.describe_data(name=f"mnist{held}", train=len(sets[0][0]), test=len(sets[2][0]), stand_in=made_up, **about)
    prepared = [(x.flatten(1).to(run.device, torch.get_default_dtype()) / 255, y.to(run.device)) for x, y in sets]
    return tuple(each for pair in prepared for each in pair)


class Nets(nn.ModuleList):
    """Nets of as many inputs and outputs, side by side."""

    def __init__(self, nets: Sequence[Net]) -> None:
        super().__init__(nets)

    def forward(self, x: Sequence[Tensor], *masks: Tensor) -> Tensor:
        """x: of each net (B, n_0); masks: of all that drop units, net by net -> (T, B, K)."""
        left = list(masks)
        return torch.stack([net(own, [left.pop(0) for p in net.p if p < 1]) for net, own in zip(self, x, strict=True)])


def masks(run: Run[Any], nets: nn.Module, step: int) -> list[Tensor]:
    """This process's part of the global batch's masks, the same among any number of processes."""
    B = run.config.batch_size
    generator = torch.Generator(run.device).manual_seed(mix(run.seed, "masks", step))
    return [r[run.share(B)] for net in bare(nets) for r in net.masks(B, generator)]


def gathered(run: Run[Any], nets: nn.Module, x: Tensor, of: Any) -> Tensor:
    """of(net, part of x) for each net, over all examples: (T, n, ...)."""
    mine = run.share(len(x))
    with run.evaluating(nets) as inner:
        found = [torch.cat([of(net, part) for part in x[mine].split(1000)]) for net in inner]
    return torch.stack([run.gather(each, len(x)) for each in found])
