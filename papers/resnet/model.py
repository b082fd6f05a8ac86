"""Deep Residual Learning for Image Recognition.
Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun, arXiv:1512.03385 (2015), CVPR 2016. This file: MIT licence.

Here, in the paper's order: the residual block (Sec. 3.1, 3.2, Fig. 2), the shortcut options A, B and C (Sec. 3.3, 4.1), the
bottleneck (Fig. 5), the plain and residual networks for ImageNet (Table 1, Fig. 3) and those for CIFAR-10 (Sec. 4.2).
Not here: detection and localisation (the appendices).

Shapes: B batch, C channels, H W height and width.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

Option = Literal["A", "B", "C"]


def conv3x3(channels: int, filters: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, filters, 3, stride, padding=1, bias=False)  # the paper does not say; idle before batch norm


def conv1x1(channels: int, filters: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, filters, 1, stride, bias=False)


# Sec. 3.3, "Residual Network", and Sec. 4.1, "Identity vs. Projection Shortcuts": how x gets past the layers of a block.


class ZeroPadding(nn.Module):
    """Option A where dimensions increase: identity mapping with stride 2, extra channels zero. No parameters."""

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.extra, self.stride = extra, stride

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C + extra, ceil(H / stride), ceil(W / stride))
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


def projection(channels: int, filters: int, stride: int) -> nn.Sequential:
    """W_s of Eq. (2): 1x1 convolutions, batch norm after each convolution (Sec. 3.4)."""
    return nn.Sequential(conv1x1(channels, filters, stride), nn.BatchNorm2d(filters))


def shortcut(option: Option | None, channels: int, filters: int, stride: int) -> nn.Module | None:
    """A: zero-padding where dimensions increase. B: projection where they do. C: projection everywhere. None: a plain net."""
    if option is None:
        return None
    if option != "C" and channels == filters and stride == 1:
        return nn.Identity()
    return ZeroPadding(filters - channels, stride) if option == "A" else projection(channels, filters, stride)


# Sec. 3.2: the building blocks.


class BasicBlock(nn.Module):
    """Fig. 2, and Fig. 5 left: two 3x3 convolutions, so that stride_in_3x3 changes nothing."""

    expansion = 1

    def __init__(self, channels: int, filters: int, stride: int, option: Option | None, stride_in_3x3: bool = False) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, filters, stride)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = conv3x3(filters, filters)
        self.bn2 = nn.BatchNorm2d(filters)
        self.shortcut = shortcut(option, channels, filters, stride)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, filters, H / stride, W / stride)
        y = F.relu(self.bn1(self.conv1(x)))  # sigma(W_1 x)
        y = self.bn2(self.conv2(y))  # F(x) = W_2 sigma(W_1 x)
        if self.shortcut is not None:
            y = y + self.shortcut(x)  # Eq. (1): y = F(x, {W_i}) + x; Eq. (2): + W_s x
        return F.relu(y)  # "the second nonlinearity after the addition"


class Bottleneck(nn.Module):
    """Fig. 5 right: 1x1 reduces the dimensions, 3x3, 1x1 restores them."""

    expansion = 4

    def __init__(self, channels: int, filters: int, stride: int, option: Option | None, stride_in_3x3: bool = False) -> None:
        super().__init__()
        stride1, stride2 = (1, stride) if stride_in_3x3 else (stride, 1)
        self.conv1 = conv1x1(channels, filters, stride1)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = conv3x3(filters, filters, stride2)
        self.bn2 = nn.BatchNorm2d(filters)
        self.conv3 = conv1x1(filters, 4 * filters)
        self.bn3 = nn.BatchNorm2d(4 * filters)
        self.shortcut = shortcut(option, channels, 4 * filters, stride)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, 4 filters, H / stride, W / stride)
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if self.shortcut is not None:
            y = y + self.shortcut(x)  # Eq. (1), Eq. (2)
        return F.relu(y)


def stage(
    block: type[BasicBlock | Bottleneck], blocks: int, channels: int, filters: int, stride: int, option: Option | None,
    stride_in_3x3: bool = False,
) -> nn.Sequential:  # fmt: skip
    """Blocks of one output size; the first of them downsamples."""
    first = block(channels, filters, stride, option, stride_in_3x3)
    return nn.Sequential(first, *(block(filters * block.expansion, filters, 1, option) for _ in range(blocks - 1)))


def initialise(model: nn.Module) -> None:
    """ "We initialize the weights as in [13]": zero mean, std sqrt(2 / fan-in) ("Delving Deep into Rectifiers", Eq. 10)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


# Table 1: the networks for ImageNet.


class ResNet(nn.Module):
    """A column of Table 1: images (B, 3, H, W) -> logits (B, classes). 224 x 224 in the paper; any size goes through.

    Args:
        block: BasicBlock or Bottleneck.
        blocks: how many in conv2_x, conv3_x, conv4_x, conv5_x.
        option: shortcuts; None gives the plain network.
        stride_in_3x3: where a bottleneck downsamples. False: in its first 1x1, as the authors' Caffe nets do, which gives the
            FLOPs of Table 1. True: in its 3x3 ("v1.5"), which costs 6 % more (ResNet-50) and is what the weights of
            torchvision and timm were trained with: the tensors have the same shapes, so those weights load either way and are
            wrong in the first.
    """

    def __init__(
        self, block: type[BasicBlock | Bottleneck], blocks: Sequence[int], option: Option | None,
        stride_in_3x3: bool = False, classes: int = 1000,
    ) -> None:  # fmt: skip
        super().__init__()
        E = block.expansion
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)  # as public weights have it; the authors' Caffe nets: ceil, no padding
        self.conv2_x = stage(block, blocks[0], 64, 64, 1, option, stride_in_3x3)
        self.conv3_x = stage(block, blocks[1], 64 * E, 128, 2, option, stride_in_3x3)  # conv3_1, conv4_1, conv5_1 downsample
        self.conv4_x = stage(block, blocks[2], 128 * E, 256, 2, option, stride_in_3x3)
        self.conv5_x = stage(block, blocks[3], 256 * E, 512, 2, option, stride_in_3x3)
        self.fc = nn.Linear(512 * E, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))  # (B, 64, 112, 112)
        x = self.conv2_x(self.pool(x))  # (B, 64 E, 56, 56)
        x = self.conv3_x(x)  # (B, 128 E, 28, 28)
        x = self.conv4_x(x)  # (B, 256 E, 14, 14)
        x = self.conv5_x(x)  # (B, 512 E, 7, 7)
        return self.fc(x.mean((2, 3)))  # average pool, 1000-d fc; the softmax is in the loss


def plain18(classes: int = 1000) -> ResNet:
    return ResNet(BasicBlock, (2, 2, 2, 2), option=None, classes=classes)


def plain34(classes: int = 1000) -> ResNet:
    """Fig. 3, middle."""
    return ResNet(BasicBlock, (3, 4, 6, 3), option=None, classes=classes)


def resnet18(option: Option = "A", classes: int = 1000) -> ResNet:
    """Option A in Table 2; the weights of torchvision and timm have option B."""
    return ResNet(BasicBlock, (2, 2, 2, 2), option, classes=classes)


def resnet34(option: Option = "A", classes: int = 1000) -> ResNet:
    """Fig. 3, right. Option A in Table 2; A, B and C in Table 3."""
    return ResNet(BasicBlock, (3, 4, 6, 3), option, classes=classes)


def resnet50(option: Option = "B", stride_in_3x3: bool = False, classes: int = 1000) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 6, 3), option, stride_in_3x3, classes)


def resnet101(option: Option = "B", stride_in_3x3: bool = False, classes: int = 1000) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 23, 3), option, stride_in_3x3, classes)


def resnet152(option: Option = "B", stride_in_3x3: bool = False, classes: int = 1000) -> ResNet:
    return ResNet(Bottleneck, (3, 8, 36, 3), option, stride_in_3x3, classes)


# Sec. 4.2: the networks for CIFAR-10.


class CifarResNet(nn.Module):
    """6n + 2 layers: images (B, 3, 32, 32) less the per-pixel mean -> logits (B, classes).

    Args:
        depth: 20, 32, 44, 56, 110, 1202, or any other 6n + 2.
        residual: False gives the plain network, which has exactly as many parameters ("in all cases" option A).

    Raises:
        ValueError: the depth is not 6n + 2.
    """

    def __init__(self, depth: int, residual: bool = True, classes: int = 10) -> None:
        super().__init__()
        n, rest = divmod(depth - 2, 6)
        if rest or n < 1:
            raise ValueError(f"a CIFAR net has 6n + 2 layers (8, 14, 20, ...), not {depth}")
        option: Option | None = "A" if residual else None
        self.conv1 = conv3x3(3, 16)
        self.bn1 = nn.BatchNorm2d(16)
        self.stage1 = stage(BasicBlock, n, 16, 16, 1, option)  # 2n layers each
        self.stage2 = stage(BasicBlock, n, 16, 32, 2, option)
        self.stage3 = stage(BasicBlock, n, 32, 64, 2, option)
        self.fc = nn.Linear(64, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))  # (B, 16, 32, 32)
        x = self.stage1(x)  # (B, 16, 32, 32)
        x = self.stage2(x)  # (B, 32, 16, 16)
        x = self.stage3(x)  # (B, 64, 8, 8)
        return self.fc(x.mean((2, 3)))  # global average pooling, 10-way fc
