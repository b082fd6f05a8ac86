"""A run of this folder for other programs: `make export-vgg RUN=runs/vgg/imagenet-d/seed0 FORMAT=torchvision`."""

from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from common.errors import BadInput
from papers.vgg import pretrained
from papers.vgg.keys import from_torchvision
from papers.vgg.model import TABLE_1, VGG

SHOWN = "images (n, 3, 224, 224), pixels from 0 to 255 less the mean of each channel over the training set"


def of_run(folder: Path) -> VGG:
    """Raises BadInput: it is no folder of a run on ImageNet, or has no checkpoint that fits."""
    return pretrained.of_run(folder)[0].eval()


def inputs(net: VGG, n: int) -> dict[str, Tensor]:
    return {"images": 60 * torch.randn(n, 3, 224, 224)}


def theirs(net: VGG) -> nn.Module:
    """torchvision's net of the same layers. Raises BadInput: it has none."""
    depths = {tuple(map(len, TABLE_1[letter])): depth for letter, depth in (("A", 11), ("B", 13), ("D", 16), ("E", 19))}
    kernels = [[m.kernel_size[0] for n, m in net.features.named_children() if n.startswith(f"conv{i}_")] for i in range(1, 6)]
    depth = depths.get(tuple(map(len, kernels)))
    if depth is None or any(k != 3 for block in kernels for k in block) or net.fc6.out_features != 4096:
        raise BadInput("torchvision has nets A, B, D and E with 4,096 units: take safetensors or onnx")
    return getattr(torchvision.models, f"vgg{depth}")(num_classes=net.fc8.out_features)


LIBRARIES = {"torchvision": (theirs, from_torchvision)}
