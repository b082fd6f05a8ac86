"""A run of this folder for other programs: `make export-dcgan RUN=runs/dcgan/mnist/seed0 FORMAT=onnx`."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from papers.dcgan import sample
from papers.dcgan.train import Mnist
from papers.dcgan.unlabelled import side

SHOWN = (
    "of the generator z (n, Z), uniform in (-1, 1), its outputs images in (-1, 1), of digits in (0, 1); of the discriminator "
    "images, its outputs the log-odds that they are real; of digits both read y (n, 10), one-hot. Batch norm takes the batch's "
    "own statistics: batches of 128, as in training"
)


class Part(nn.Module):
    """A generator or a discriminator."""

    def __init__(self, net: nn.Module, x: tuple[int, ...], y: bool) -> None:
        super().__init__()
        self.net, self.x, self.y = net, x, y  # the shape of an input; whether it reads classes, too

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.net(x, y) if self.y else self.net(x)


def of_run(folder: Path) -> nn.ModuleDict:
    """Raises BadInput: it is no folder of such a run, or has no checkpoint that fits."""
    config, G, D = sample.of_run(folder)
    digits = isinstance(config, Mnist)
    image = (1, 28, 28) if digits else (3, side(config), side(config))
    return nn.ModuleDict({"generator": Part(G, (config.Z,), digits), "discriminator": Part(D, image, digits)}).eval()


def parts(net: nn.ModuleDict) -> dict[str, nn.Module]:
    return dict(net.items())


def inputs(part: Part, n: int) -> dict[str, Tensor]:
    n = max(n, 2)  # of one there are no statistics
    x = {"x" if len(part.x) > 1 else "z": 2 * torch.rand(n, *part.x) - 1}
    return x | ({"y": one_hot(torch.arange(n) % 10, 10).float()} if part.y else {})
