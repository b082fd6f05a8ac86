"""A run of this folder for other programs: `make export-alexnet RUN=runs/alexnet/imagenet/seed0 FORMAT=onnx`."""

from pathlib import Path

import torch
from torch import Tensor, nn

from papers.alexnet import pretrained

SHOWN = "crops (n, 3, 224, 224), pixels from 0 to 255 less the mean image of the training set; outputs are logits"


def of_run(folder: Path) -> nn.Module:
    """Raises BadInput: it is no folder of a run on ImageNet, or has no checkpoint that fits."""
    return pretrained.of_run(folder)[0].eval()


def inputs(net: nn.Module, n: int) -> dict[str, Tensor]:
    return {"images": 60 * torch.randn(n, 3, 224, 224)}
