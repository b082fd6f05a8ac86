"""ImageNet Classification with Deep Convolutional Neural Networks.
Alex Krizhevsky, Ilya Sutskever, Geoffrey E. Hinton, NIPS 2012. This file: MIT licence.

Here, in the paper's order: response normalisation (Sec. 3.3), the network of two towers (Sec. 3.5, Fig. 2), the one-tower net
that Sec. 3.2 compares it with, and the network as the authors' own configuration has it (their code and its files, released in
2025); then the nets for CIFAR-10 behind Fig. 1 and Sec. 3.3, from the files of cuda-convnet, the authors' code (footnote 3).
Not here: the nets with a sixth convolutional layer (Table 2), and two GPUs: towers are the groups of grouped convolutions.

Shapes: B batch, C maps (channels), H W height and width, P places of an unshared layer.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Sec. 3.3, "Local Response Normalization".


class _Normalised(torch.autograd.Function):
    """b = a / (k + alpha window(a^2))^beta, the gradient written out: three tensors are kept, and two windows are summed in all."""

    @staticmethod
    def forward(context, a: Tensor, window: Callable[[Tensor], Tensor], k: float, alpha: float, beta: float) -> Tensor:
        d = window(a * a).mul_(alpha).add_(k)
        if beta == 0.75:
            p = d.rsqrt()
            p = p * p.sqrt()  # d^-3/4, without a logarithm
        else:
            p = d**-beta
        context.save_for_backward(a, d, p)
        context.constants = window, alpha, beta
        return a * p

    @staticmethod
    @once_differentiable
    def backward(context, gradient: Tensor):
        """da_i = p_i db_i - 2 alpha beta a_i window(a p db / d)_i, since i is in j's window exactly when j is in i's."""
        a, d, p = context.saved_tensors
        window, alpha, beta = context.constants
        direct = gradient * p
        through = window((direct * a).div_(d))
        return direct.addcmul_(a, through, value=-2 * alpha * beta), None, None, None, None


class ResponseNorm(nn.Module):
    """Across maps: b_i = a_i / (k + alpha sum of a_j^2 over the n maps around i)^beta; n is odd, at the edges there are fewer.

    The sum is a 1x1 convolution with a band of ones, which stays within each tower.

    Args:
        towers: the maps of one do not see those of another.
        divided: alpha / n in place of alpha, as the authors' code has it, and everybody's since (torch.nn.LocalResponseNorm).
    """

    def __init__(
        self, towers: int = 1, n: int = 5, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75, divided: bool = False
    ) -> None:
        super().__init__()
        self.towers, self.n, self.k, self.alpha, self.beta = towers, n, k, alpha / n if divided else alpha, beta

    def window(self, squares: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        C = squares.shape[1] // self.towers
        i = torch.arange(C, device=squares.device)
        band = ((i[:, None] - i).abs() <= self.n // 2).to(squares.dtype)  # (C, C): j from i - n/2 to i + n/2, within 0 and N - 1
        return F.conv2d(squares, band.repeat(self.towers, 1)[:, :, None, None], groups=self.towers)

    def forward(self, a: Tensor) -> Tensor:
        return _Normalised.apply(a, self.window, self.k, self.alpha, self.beta)


class MapNorm(nn.Module):
    """Within each map: the same over the size x size pixels around each, alpha divided by their number (cuda-convnet's rnorm)."""

    def __init__(self, size: int, alpha: float, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size, self.k, self.alpha, self.beta = size, k, alpha / size**2, beta

    def window(self, squares: Tensor) -> Tensor:
        return F.avg_pool2d(squares, self.size, 1, self.size // 2, divisor_override=1)

    def forward(self, a: Tensor) -> Tensor:
        return _Normalised.apply(a, self.window, self.k, self.alpha, self.beta)


# Sec. 3.5 and Fig. 2: the network for ImageNet.


def weights(layer: nn.Module, std: float = 0.01, bias: float = 0.0) -> nn.Module:
    """Sec. 5: "a zero-mean Gaussian distribution with standard deviation 0.01", biases constant."""
    nn.init.normal_(layer.weight, 0.0, std)
    nn.init.constant_(layer.bias, bias)
    return layer


class AlexNet(nn.Module):
    """Images (B, 3, 224, 224), of any scale less the mean image, raw pixels in the paper -> logits (B, classes).

    224 pixels are 55 steps of 4 and one of 11 but for 3 that lack: the authors' code counts them by rounding up, and takes what
    lies beyond the right and the lower edge as zeros, which is what is done here. Images of 227 need no zeros.

    Args:
        widths: kernels in the five convolutional layers, and units in each of both fully-connected ones.
        towers: into which layers 2, 4 and 5 are divided; layers 3, 6, 7 and 8 see all maps.
        norm: after layers 1 and 2; nn.Identity for the net without (Sec. 3.3).
        pool: nn.MaxPool2d(2, 2) for the pooling that does not overlap (Sec. 3.4).
    """

    STD = (0.01,) * 5  # Sec. 5, of convolutional layers

    def __init__(
        self, widths: tuple[int, ...] = (96, 256, 384, 384, 256, 4096), towers: int = 2,
        norm: Callable[[int], nn.Module] = ResponseNorm, pool: nn.Module | None = None, classes: int = 1000,
        dropout: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        c1, c2, c3, c4, c5, units = widths
        self.norm1, self.norm2 = norm(towers), norm(towers)
        self.pool = pool or nn.MaxPool2d(3, stride=2, ceil_mode=True)  # Sec. 3.4: s = 2, z = 3
        self.dropout = nn.Dropout(dropout)  # Sec. 4.2: at test the authors halve the outputs, PyTorch doubles them in training
        self.conv1 = nn.Conv2d(3, c1, 11, stride=4)
        self.conv2 = nn.Conv2d(c1, c2, 5, padding=2, groups=towers)
        self.conv3 = nn.Conv2d(c2, c3, 3, padding=1)
        self.conv4 = nn.Conv2d(c3, c4, 3, padding=1, groups=towers)
        self.conv5 = nn.Conv2d(c4, c5, 3, padding=1, groups=towers)
        self.fc6 = nn.Linear(c5 * 6 * 6, units)
        self.fc7 = nn.Linear(units, units)
        self.fc8 = nn.Linear(units, classes)
        ones = (0.0, 1.0, 0.0, 1.0, 1.0)  # Sec. 5: biases of layers 2, 4, 5 and the hidden fully-connected ones are 1
        for i, (std, bias) in enumerate(zip(self.STD, ones, strict=True), 1):
            weights(getattr(self, f"conv{i}"), std, bias)
        weights(self.fc6, bias=1.0), weights(self.fc7, bias=1.0), weights(self.fc8)

    def layers12(self, x: Tensor) -> Tensor:
        x = self.pool(self.norm1(F.relu(self.conv1(x))))  # (B, 96, 55, 55) -> (B, 96, 27, 27)
        return self.pool(self.norm2(F.relu(self.conv2(x))))  # (B, 256, 27, 27) -> (B, 256, 13, 13)

    def forward(self, x: Tensor) -> Tensor:
        beyond = [-(x.shape[i] - 11) % 4 for i in (3, 2)]  # 3, of 224
        x = self.layers12(F.pad(x, (0, beyond[0], 0, beyond[1])))
        x = F.relu(self.conv3(x))  # (B, 384, 13, 13)
        x = F.relu(self.conv4(x))  # (B, 384, 13, 13)
        x = self.pool(F.relu(self.conv5(x)))  # (B, 256, 13, 13) -> (B, 256, 6, 6)
        x = self.dropout(F.relu(self.fc6(x.flatten(1))))  # (B, 4096)
        x = self.dropout(F.relu(self.fc7(x)))  # (B, 4096)
        return self.fc8(x)  # the softmax is in the loss


class AuthorsNet(AlexNet):
    """The net of the authors' file layers-145.cfg, whose logs have the paper's numbers; parameters as in the text.

    Layer 1 is normalised and pooled before its ReLU, layer 2 has a second norm, within maps, alpha is divided by n, and weights of
    layers 3 to 5 begin three times as large.
    """

    STD = (0.01, 0.01, 0.03, 0.03, 0.03)

    def __init__(self, towers: int = 2, **more) -> None:
        super().__init__(towers=towers, norm=lambda towers: ResponseNorm(towers, divided=True), **more)
        self.map_norm = MapNorm(5, alpha=1e-3)

    def layers12(self, x: Tensor) -> Tensor:
        x = F.relu(self.pool(self.norm1(self.conv1(x))))
        return self.pool(self.map_norm(self.norm2(F.relu(self.conv2(x)))))


def alexnet(divided: bool = False, **more) -> AlexNet:
    """Fig. 2: 60,965,224 parameters. divided: alpha / n, see ResponseNorm; the paper's text has alpha."""
    return AlexNet(norm=lambda towers: ResponseNorm(towers, divided=divided), **more)


def half(**more) -> AlexNet:
    """Sec. 3.2: one tower, half as many kernels in each convolutional layer but the last, whose output most parameters see."""
    return AlexNet((48, 128, 192, 192, 256, 4096), towers=1, **more)


# Sec. 3.1 and 3.3: "a four-layer convolutional network on the CIFAR-10 dataset". The nets of cuda-convnet's example-layers/.


class Local(nn.Module):
    """A 3x3 convolution whose weights differ from place to place: "unshared", on maps of a fixed size, one batched product."""

    def __init__(self, channels: int, filters: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(torch.empty(size * size, channels * 9, filters))
        self.bias = nn.Parameter(torch.empty(size * size, 1, filters))

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, filters, H, W)
        B, H = len(x), self.size
        patches = F.pad(x, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1)  # (B, C, H, W, 3, 3), a view
        patches = patches.permute(2, 3, 0, 1, 4, 5).reshape(H * H, B, -1)  # (P, B, 9 C)
        return torch.baddbmm(self.bias, patches, self.weight).permute(1, 2, 0).unflatten(2, (H, H))


def conv(channels: int, filters: int, std: float = 0.01) -> nn.Module:
    return weights(nn.Conv2d(channels, filters, 5, padding=2), std)


def pool(kind: str) -> nn.Module:
    """3 x 3 with stride 2, beginning at the corner and rounding up; a mean is over the pixels that there are."""
    return {"max": nn.MaxPool2d, "mean": nn.AvgPool2d}[kind](3, stride=2, ceil_mode=True)


class CifarNet(nn.Sequential):
    """Raw pixels less the mean image, (B, 3, 32, 32), or (B, 3, 24, 24) of `net_13` and `net_11` -> logits (B, 10)."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)


def small(f: Callable[[], nn.Module], norm: Callable[[], nn.Module], **last: nn.Module) -> CifarNet:
    """What the nets of 26, 19 and 18 % have in common; a max-pool and then f, which rises, is f and then the max-pool."""
    return CifarNet(
        conv1=conv(3, 32, 1e-4), pool1=pool("max"), f1=f(), norm1=norm(),  # (B, 32, 16, 16)
        conv2=conv(32, 32), f2=f(), pool2=pool("mean"), norm2=norm(),  # (B, 32, 8, 8)
        conv3=conv(32, 64), f3=f(), pool3=pool("mean"), flat=nn.Flatten(),  # (B, 64 4 4)
        **last,
    )  # fmt: skip


def net_26() -> CifarNet:
    """layers-80sec.cfg: "26% error on CIFAR-10 in 80 seconds". Five layers with weights: 145,578."""
    fc64, fc10 = weights(nn.Linear(1024, 64), 0.1), weights(nn.Linear(64, 10), 0.1)
    return small(nn.ReLU, nn.Identity, fc64=fc64, f4=nn.ReLU(), fc10=fc10)


def net_19(f: Callable[[], nn.Module] = nn.ReLU) -> CifarNet:
    """layers-19pct.cfg. Four layers with weights, 89,578: the net of Fig. 1 here, with f = nn.ReLU and nn.Tanh."""
    return small(f, nn.Identity, fc10=weights(nn.Linear(1024, 10)))


def net_18() -> CifarNet:
    """layers-18pct.cfg: the same with two norms, within maps."""
    return small(nn.ReLU, lambda: MapNorm(3, alpha=5e-5), fc10=weights(nn.Linear(1024, 10)))


def net_13() -> CifarNet:
    """layers-conv-local-13pct.cfg: 1,116,490 weights, no norm."""
    return with_local(nn.Identity, 32)


def net_11(norms: bool = True) -> CifarNet:
    """layers-conv-local-11pct.cfg: 2,112,970 weights, two norms across maps, the second before its pooling."""
    return with_local((lambda: ResponseNorm(n=9, k=1.0, alpha=1e-3, divided=True)) if norms else nn.Identity, 64)


def with_local(norm: Callable[[], nn.Module], filters: int) -> CifarNet:
    return CifarNet(
        conv1=conv(3, 64, 1e-4), f1=nn.ReLU(), pool1=pool("max"), norm1=norm(),  # (B, 64, 12, 12)
        conv2=conv(64, 64), f2=nn.ReLU(), norm2=norm(), pool2=pool("max"),  # (B, 64, 6, 6)
        local3=weights(Local(64, filters, 6), 0.04), f3=nn.ReLU(),  # (B, filters, 6, 6)
        local4=weights(Local(filters, 32, 6), 0.04), f4=nn.ReLU(), flat=nn.Flatten(),  # (B, 32 6 6)
        fc10=weights(nn.Linear(32 * 36, 10)),
    )  # fmt: skip
