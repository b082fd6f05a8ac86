"""What the methods are compared on besides Sec. 6.1's regression: nets of Secs. 6.2 and 6.4, and the nets of several methods.

T nets side by side   B batch   D inputs   H hidden units   J latent variables
"""

import copy
import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, dropout, softplus

from papers.adam.model import Classifier, first, zeros

LOST = 1000.0  # nats: what a net counts as whose cost is above that, or no number


def stacked(nets: int, *shape: int, scale: float) -> nn.Parameter:
    """Normal weights, the same for all nets: (T, ...)."""
    return nn.Parameter((scale * torch.randn(shape)).expand(nets, *shape).clone())


class MLP(Classifier):
    """Sec. 6.2: hidden layers of rectified units. The initial weights are not given: normal, of variance 2 / inputs."""

    def __init__(self, nets: int, inputs: int = 784, hidden: tuple[int, ...] = (1000, 1000), classes: int = 10) -> None:
        super().__init__()
        sizes = [inputs, *hidden, classes]
        pairs = list(pairwise(sizes))
        self.W = nn.ParameterList(stacked(nets, into, of, scale=math.sqrt(2 / of)) for of, into in pairs)
        self.b = nn.ParameterList(zeros(nets, into) for _, into in pairs)

    def forward(self, x: Tensor, drop: float = 0.0) -> Tensor:
        h = first(self.W[0], x) + self.b[0][:, None]
        for W, b in zip(self.W[1:], self.b[1:], strict=True):
            h = h.relu()  # (T, B, H)
            if drop:
                h = h * dropout(torch.ones_like(h[0]), drop)  # the same units for all T
            h = torch.baddbmm(b[:, None], h, W.transpose(1, 2))
        return h


class VAE(nn.Module):
    """Sec. 6.4: a hidden layer of softplus units on either side. Initial weights are not given: normal, of variance 1 / inputs."""

    def __init__(self, nets: int, inputs: int = 784, hidden: int = 500, latent: int = 50) -> None:
        super().__init__()
        shapes = (hidden, inputs), (2 * latent, hidden), (hidden, latent), (inputs, hidden)
        self.W = nn.ParameterList(stacked(nets, *shape, scale=shape[1] ** -0.5) for shape in shapes)
        self.b = nn.ParameterList(zeros(nets, shape[0]) for shape in shapes)

    def costs(self, x: Tensor, y: Tensor, drop: float) -> Tensor:
        """Minus the bound on log P(x), with one sample of z: (B, D) -> (T, B). The other arguments are a classifier's."""
        (b1, b2, b3, b4), (W1, W2, W3, W4) = (b[:, None] for b in self.b), self.W
        h = softplus(first(W1, x) + b1)  # (T, B, H)
        mu, log_var = torch.baddbmm(b2, h, W2.transpose(1, 2)).to(x.dtype).chunk(2, -1)  # (T, B, J) each
        z = mu + (log_var / 2).exp() * torch.randn_like(mu[0])  # the same noise for all nets
        h = softplus(torch.baddbmm(b3, z, W3.transpose(1, 2)))
        logits = torch.baddbmm(b4, h, W4.transpose(1, 2)).to(x.dtype)  # (T, B, D)
        reconstruction = binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        return reconstruction + (mu**2 + log_var.exp() - log_var - 1).sum(-1) / 2


class Side(nn.Module):
    """T nets for each of several methods, all from the same initial weights."""

    def __init__(self, methods: int, net: nn.Module, words: int = 0) -> None:
        super().__init__()
        self.of = nn.ModuleList(copy.deepcopy(net) for _ in range(methods))
        self.words = words

    def forward(self, x: Tensor, y: Tensor, drop: float = 0.0, l2: Tensor | None = None) -> Tensor:
        """x: (B, D), or numbers of words (B, L), y: (B,) -> costs (methods * T, B).

        drop: the share of a text's words, or of a multilayer perceptron's hidden units, that are dropped.
        l2: each net's constant, (methods * T,); half of it times the sum of all squared weights is added to its costs.
        """
        x = dropout(bag(x, self.words), drop) if self.words else x
        costs = torch.cat([net.costs(x, y, drop) for net in self.of])
        if l2 is not None:
            squares = torch.cat([sum(theta.square().flatten(1).sum(1) for theta in net.parameters()) for net in self.of])
            costs = costs + (l2 * squares / 2)[:, None]
        return costs

    def wrong(self, x: Tensor, y: Tensor) -> Tensor:
        """Where a classifier errs: (B, D), (B,) -> (methods * T, B)."""
        return torch.cat([net(x).argmax(-1) != y for net in self.of])


def bounded(costs: Tensor) -> Tensor:
    return costs.nan_to_num(LOST).clamp(max=LOST)


def bag(words: Tensor, vocabulary: int) -> Tensor:
    """Which words a text has, 1 or 0; words: their numbers, or `vocabulary` for none: (B, L) -> (B, vocabulary)."""
    return torch.zeros(len(words), vocabulary + 1, device=words.device).scatter_(1, words, 1.0)[:, :-1]
