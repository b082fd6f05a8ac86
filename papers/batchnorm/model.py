"""Batch normalization. S. Ioffe, C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
Covariate Shift", ICML 2015 (arXiv:1502.03167). This file: MIT licence.

Implemented: Algorithm 1 with its backward pass by hand (Sec. 3), Algorithm 2 (`population`, Sec. 3.1), and the net of Fig. 1
(`Nets`, Sec. 4.1). Annex: layer norm (J. L. Ba, J. R. Kiros, G. E. Hinton, arXiv:1607.06450), group norm (Y. Wu, K. He,
arXiv:1803.08494), instance norm (D. Ulyanov, A. Vedaldi, V. Lempitsky, arXiv:1607.08022), and a small convolutional net.
Not here: the paper's Inception.

Shapes:  T nets side by side   B cases of a batch   n_i units of layer i, n_0 inputs   C channels, H W height and width   G groups
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-5  # not given in the paper


class Transform(torch.autograd.Function):
    """Algorithm 1, the batch normalizing transform: x -> y, mu, s2. The axes are those over which a feature's m values lie."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        m = x.numel() // gamma.numel()
        mu = x.sum(axes, keepdim=True).div_(m)  # torch's mean and var are many times slower along such axes
        xhat = x - mu
        s2 = (xhat * xhat).sum(axes, keepdim=True).div_(m)  # biased
        inverse = (s2 + EPSILON).rsqrt_()
        xhat.mul_(inverse)
        ctx.save_for_backward(xhat, gamma, inverse)
        ctx.axes, ctx.m = axes, m
        ctx.mark_non_differentiable(mu, s2)
        return (gamma * xhat).add_(beta), mu, s2

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Sec. 3. With dxhat = gamma dy, and xhat = (x - mu) / sqrt(s2 + eps), whose sum over the batch is 0, the paper's lines

            ds2 = -1/2 sum(dxhat xhat) / (s2 + eps)
            dmu = -sum(dxhat) / sqrt(s2 + eps)                     (and ds2 times the mean of -2 (x - mu), which is 0)
            dx  = dxhat / sqrt(s2 + eps) + ds2 2 (x - mu) / m + dmu / m

        become  dx = gamma / sqrt(s2 + eps) (dy - dbeta / m - xhat dgamma / m).
        """
        xhat, gamma, inverse = ctx.saved_tensors
        dbeta = dy.sum(ctx.axes, keepdim=True)
        dgamma = (dy * xhat).sum(ctx.axes, keepdim=True)
        dx = (dy - dbeta / ctx.m).sub_(xhat * (dgamma / ctx.m)).mul_(gamma * inverse)
        return dx, dgamma, dbeta, None


class Shift(nn.Module):
    """No normalization: y = x + beta, a layer's bias. What follows has beta as well, so that no layer has another bias."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.beta


class BatchNorm(Shift):
    """y = BN(x): with the batch's statistics in training, with fixed ones otherwise, running averages until `population`.

    shape: of gamma and beta: as x, but 1 where statistics are taken, `axes`: (1, n) for (B, n), (T, 1, n) for (T, B, n), and
    (1, C, 1, 1) for (B, C, H, W) with the axes (0, 2, 3), Sec. 3.2.
    """

    def __init__(self, *shape: int, axes: Sequence[int] = (-2,)) -> None:
        super().__init__(*shape)
        self.axes, self.momentum = axes, 0.1  # the new value's weight in a running average
        self.gamma = nn.Parameter(torch.ones(shape))
        self.register_buffer("running_mean", torch.zeros(shape))
        self.register_buffer("running_var", torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:  # Algorithm 2, line 11: one affine map
            scale = self.gamma * (self.running_var + EPSILON).rsqrt()
            return x * scale + (self.beta - self.running_mean * scale)
        y, mu, s2 = Transform.apply(x, self.gamma, self.beta, self.axes)
        m = x.numel() // mu.numel()
        with torch.no_grad():
            self.running_mean.lerp_(mu, self.momentum)
            self.running_var.lerp_(s2 * (m / max(1, m - 1)), self.momentum)  # Algorithm 2, line 10: the unbiased variance
        return y


@torch.no_grad()
def population(net: nn.Module, batches: Iterable[Tensor]) -> None:
    """Algorithm 2, lines 8 to 10: the statistics of every batch norm become means over these batches, of mu and of m / (m - 1) s2.

    They are running averages in which batch k weighs 1 / k. The net is left in evaluation mode.
    """
    norms = [each for each in net.modules() if isinstance(each, BatchNorm)]
    before = [norm.momentum for norm in norms]
    net.train()
    for k, x in enumerate(batches, 1):
        for norm in norms:
            norm.momentum = 1 / k
        net(x)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    net.eval()


# Annex: statistics of one case each, the same in training and afterwards.


def normalized(x: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the last axis."""
    x = x - x.mean(-1, keepdim=True)
    return x * ((x * x).mean(-1, keepdim=True) + EPSILON).rsqrt()


class LayerNorm(Shift):
    """Ba et al., Eqs. 3 and 4: over the units of a layer, (..., n)."""

    def __init__(self, *shape: int) -> None:
        super().__init__(*shape)
        self.gamma = nn.Parameter(torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.gamma * normalized(x) + self.beta


class GroupNorm(LayerNorm):
    """Wu and He: over H, W and C / G channels, (B, C, H, W). G = 1: layer norm; G = C: instance norm."""

    def __init__(self, groups: int, channels: int) -> None:
        super().__init__(channels, 1, 1)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        xhat = normalized(x.reshape(len(x), self.groups, -1)).view(x.shape)
        return self.gamma * xhat + self.beta


DENSE = {"plain": Shift, "bn": BatchNorm, "ln": LayerNorm}
CONVOLUTIONAL = {
    "bn": lambda C, _: BatchNorm(1, C, 1, 1, axes=(0, 2, 3)),
    "gn": lambda C, groups: GroupNorm(groups, C),
    "ln": lambda C, _: GroupNorm(1, C),
    "in": lambda C, _: GroupNorm(C, C),
}
ACTIVATIONS = {"sigmoid": torch.sigmoid, "relu": torch.relu}


class Nets(nn.Module):
    """T nets, z = g(BN(W u)) in each hidden layer, before the nonlinearity (Sec. 3.2), and logits on top, without (Sec. 4.1).

    norm: plain, bn or ln.    scales: of each net, the standard deviation of its weights, "small random Gaussian values".
    All T begin with the same weights but for their scale, and nets of another norm too where the generator is as it was.
    """

    def __init__(
        self, norm: str, scales: Sequence[float], sizes: Sequence[int] = (784, 100, 100, 100, 10), activation: str = "sigmoid",
        generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.g, T = ACTIVATIONS[activation], len(scales)
        sigma = torch.tensor(scales)[:, None, None]
        self.W = nn.ParameterList(sigma * torch.randn(n_out, n_in, generator=generator) for n_in, n_out in pairwise(sizes))
        self.norms = nn.ModuleList([*(DENSE[norm](T, 1, n) for n in sizes[1:-1]), Shift(T, 1, sizes[-1])])

    def layers(self, u: Tensor) -> list[Tensor]:
        """What goes into each nonlinearity, and the logits: (T, B, n_i) each, from u (B, n_0)."""
        T, n, _ = self.W[0].shape
        x = F.linear(u, self.W[0].flatten(0, 1)).view(-1, T, n).transpose(0, 1)
        found = [self.norms[0](x)]
        for W, norm in zip(self.W[1:], self.norms[1:], strict=True):
            found.append(norm((W @ self.g(found[-1]).mT).mT))
        return found

    def forward(self, u: Tensor) -> Tensor:
        """Logits: (B, n_0) -> (T, B, classes)."""
        return self.layers(u)[-1]


class ConvNet(nn.Sequential):
    """3x3 convolutions, every other with stride 2, each with its norm (bn, gn, ln, in) and a rectifier; then a mean, and logits."""

    def __init__(self, norm: str, groups: int = 8, channels: Sequence[int] = (16, 16, 32, 32, 64, 64), classes: int = 10) -> None:
        layers: list[nn.Module] = []
        for i, (a, b) in enumerate(pairwise((3, *channels))):
            conv = nn.Conv2d(a, b, 3, stride=2 - i % 2, padding=1, bias=False)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            layers += [conv, CONVOLUTIONAL[norm](b, groups), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], classes))
