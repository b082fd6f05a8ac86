"""A run of this folder for other programs: `make export-lenet RUN=runs/lenet/mnist/seed0 FORMAT=onnx`."""

from pathlib import Path

import torch
from torch import Tensor

from common import directory
from papers.lenet.model import LeNet5, printed, root
from papers.lenet.train import Config

SHOWN = "images (n, 1, 32, 32), white -0.1 and black 1.175; outputs are distances to ten bitmaps, the least of which is the answer"


def of_run(folder: Path) -> LeNet5:
    """Raises BadInput: it is no folder of such a run, or has no checkpoint that fits."""
    _, config, learned = directory.learned(folder, "lenet", Config)
    net = LeNet5({"printed": printed, "root": root}[config.init], config.coefficient)
    directory.restore(folder, {"model": learned["model"]}, {"model": net})
    return net.eval()


def inputs(net: LeNet5, n: int) -> dict[str, Tensor]:
    return {"images": 1.275 * torch.rand(n, 1, 32, 32) - 0.1}
