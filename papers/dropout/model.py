"""Dropout. N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever, R. Salakhutdinov, "Dropout: A Simple Way to Prevent Neural
Networks from Overfitting", JMLR 15 (2014), 1929-1958; before it G. Hinton et al., arXiv:1207.0580 (2012). This file: MIT licence.

Implemented: masks and weight scaling (Sec. 4), max-norm (Sec. 5.1), Monte-Carlo averaging (Sec. 7.5), dropout as ridge regression
(Sec. 9.1), Gaussian noise in place of masks (Sec. 10), and what Table 9 compares: L1 and sparsity (L2 is an optimizer's).
Not here: convolutional nets, Boltzmann machines (Sec. 8), pretrained nets.

p is the probability of KEEPING a unit: torch's nn.Dropout(q) has q = 1 - p.

Shapes:  B batch   n_l units of layer l, n_0 inputs   K classes   N examples and D features of a regression
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def bernoulli(shape: Sequence[int], p: float, generator: torch.Generator) -> Tensor:
    """Sec. 4: r ~ Bernoulli(p), for each unit and each training case. As bools: a quarter of the memory, and faster."""
    return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float32) < p


def gaussian(shape: Sequence[int], p: float, generator: torch.Generator) -> Tensor:
    """Sec. 10: r ~ N(1, (1 - p) / p), which has the mean and the variance of Bernoulli(p) / p."""
    noise = torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float32)
    return (1 + math.sqrt((1 - p) / p) * noise).to(torch.get_default_dtype())


@torch.no_grad()
def max_norm_(W: Tensor, c: float) -> Tensor:
    """Sec. 5.1: ||w|| <= c, w the incoming vector of each unit, a row of W (n_out, n_in). In place, after every update."""
    return W.mul_((c / W.norm(dim=1, keepdim=True)).clamp_(max=1))


class Net(nn.Module):
    """Hidden layers of rectifiers (or another f), and logits on top, for softmax.

    p: of each layer, the inputs first; the logits are never dropped. 1 keeps all.
    init: initial weights are N(0, init / (E r^2 n_in)); with 2 what a thinned layer sends on keeps its size (K. He et al., 2015).
    """

    def __init__(self, sizes: Sequence[int], p: Sequence[float], noise=bernoulli, f=torch.relu, init: float = 2.0) -> None:
        super().__init__()
        self.p, self.noise, self.f = tuple(p), noise, f
        square = [keep if noise is bernoulli else 1 / keep for keep in p]  # E r^2
        shapes = zip(pairwise(sizes), square, strict=True)
        self.W = nn.ParameterList(torch.randn(n_out, n_in) * math.sqrt(init / (e * n_in)) for (n_in, n_out), e in shapes)
        self.b = nn.ParameterList(torch.zeros(n_out) for n_out in sizes[1:])

    def masks(self, B: int, generator: torch.Generator) -> list[Tensor]:
        """r of each layer that is dropped: (B, n_l)."""
        return [self.noise((B, W.shape[1]), p, generator) for W, p in zip(self.W, self.p, strict=True) if p < 1]

    def layers(self, x: Tensor, r: Sequence[Tensor] = ()) -> list[Tensor]:
        """y^0 = x, y^1, ..., and the logits: (B, n_l) each.

        r: masks, of a thinned net; none: the whole net, its weights scaled, as at test time.
        """
        y, left = [x], list(r)
        for W, b, p in zip(self.W, self.b, self.p, strict=True):
            if p == 1:
                z = F.linear(y[-1], W, b)
            elif r:
                z = F.linear(left.pop(0) * y[-1], W, b)  # y~ = r * y, z = W y~ + b
            else:
                z = F.linear(y[-1], p * W if self.noise is bernoulli else W, b)  # W_test = p W
            y.append(self.f(z) if len(y) < len(self.W) else z)
        return y

    def forward(self, x: Tensor, r: Sequence[Tensor] = ()) -> Tensor:
        """Logits: (B, n_0) -> (B, K)."""
        return self.layers(x, r)[-1]


def monte_carlo(net: Net, x: Tensor, generator: torch.Generator) -> Tensor:
    """Sec. 7.5: P(class) by one thinned net, drawn anew for each case: (B, K). Weight scaling stands for the mean over many."""
    return net(x, net.masks(len(x), generator)).softmax(1)


# Table 9: what else keeps a net from overfitting.


def l1(net: Net) -> Tensor:
    """The sum of |w| over all weights, biases apart."""
    return sum(W.abs().sum() for W in net.W)


def sparsity(hidden: Sequence[Tensor], rho: float) -> Tensor:
    """1/2 (rho^ - rho)^2, summed over units, rho^ a unit's mean over the batch; hidden: (B, n_l) each.

    The paper's divergence KL(rho || rho^) is for units of at most 1; this is what the authors' code has for rectifiers.
    """
    return sum((y.mean(0) - rho).square().sum() / 2 for y in hidden)


# Sec. 9.1: dropped inputs of a linear regression, w (D,), X (N, D), y (N,).


def expected_loss(w: Tensor, X: Tensor, y: Tensor, p: float) -> Tensor:
    """E_R ||y - (R * X) w||^2 = ||y - p X w||^2 + p (1 - p) ||G w||^2, G = diag(X'X)^(1/2)."""
    G = X.square().sum(0).sqrt()
    return (y - p * X @ w).square().sum() + p * (1 - p) * (G * w).square().sum()


def ridge(X: Tensor, y: Tensor, p: float) -> Tensor:
    """Its least: w~ = p w solves (X'X + (1 - p) / p G^2) w~ = X'y, a ridge whose penalty is that of each feature's size."""
    penalty = (1 - p) / p * torch.diag(X.square().sum(0))
    return torch.linalg.solve(X.mT @ X + penalty, X.mT @ y) / p
