"""A run of this folder for other programs: `make export-resnet RUN=runs/resnet/imagenet-resnet18/seed0 FORMAT=torchvision`."""

from pathlib import Path

import timm
import torch
import torchvision
from torch import Tensor, nn

from common.errors import BadInput
from papers.resnet import pretrained
from papers.resnet.keys import from_timm, from_torchvision
from papers.resnet.model import BasicBlock, CifarResNet, ResNet
from papers.resnet.train import Cifar, ImageNet

SHOWN = "images (n, 3, H, W), pixels from 0 to 255 less their mean over the training set; CIFAR-10's are 32 x 32"


def of_run(folder: Path) -> nn.Module:
    """Raises BadInput: it is no folder of such a run, or has no checkpoint that fits."""
    return pretrained.of_run(folder, ImageNet, Cifar).eval()


def inputs(net: nn.Module, n: int) -> dict[str, Tensor]:
    return {"images": 60 * torch.randn(n, 3, *((32, 32) if isinstance(net, CifarResNet) else (224, 224)))}


def name(net: nn.Module) -> str:
    """What both libraries call it. Raises BadInput: it is none of theirs."""
    if not isinstance(net, ResNet) or net.conv3_x[0].shortcut is None or not net.conv3_x[0].shortcut.state_dict():
        raise BadInput("torchvision and timm have the nets for ImageNet with shortcuts of option B alone: take safetensors or onnx")
    stages = [net.conv2_x, net.conv3_x, net.conv4_x, net.conv5_x]
    if not isinstance(stages[0][0], BasicBlock):
        raise BadInput("theirs of 50 layers and more downsample in their 3x3, the paper's in their 1x1: take safetensors or onnx")
    return f"resnet{pretrained.NETS[BasicBlock, tuple(map(len, stages))]}"


LIBRARIES = {
    "torchvision": (lambda net: getattr(torchvision.models, name(net))(num_classes=net.fc.out_features), from_torchvision),
    "timm": (lambda net: timm.create_model(name(net), num_classes=net.fc.out_features), from_timm),
}
