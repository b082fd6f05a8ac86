"""Initial weights. X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS
2010, JMLR W&CP 9, 249-256; and K. He, X. Zhang, S. Ren, J. Sun, "Delving Deep into Rectifiers", ICCV 2015, arXiv:1502.01852,
Sec. 2.2. This file: MIT licence.

Implemented: the initializations (`INITS`), the nets of up to five hidden layers (`Nets`, Sec. 2.3), and what the paper looks at:
activations layer by layer (Sec. 3), back-propagated gradients and singular values of Jacobians (Sec. 4).
Not here: pre-training; He et al.'s convolutional nets and their learned slopes (PReLU).

Several nets of one shape, which may differ in activation and initialization, learn side by side from the same batches:

Shapes:  T nets   B examples   n_i units of layer i, n_0 inputs
"""

import math
from collections.abc import Callable, Sequence
from itertools import groupby, pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Initializations: W (n_out, n_in) -> filled in place. Biases start at 0.


def standard_(W: Tensor) -> Tensor:
    """Eq. 1: W ~ U[-1/sqrt(n), 1/sqrt(n)], n = n_in; n Var W = 1/3 (Eq. 15)."""
    bound = W.shape[1] ** -0.5
    return W.uniform_(-bound, bound)


def normalized_(W: Tensor) -> Tensor:
    """Eq. 16: W ~ U[+-sqrt(6) / sqrt(n_in + n_out)]; Var W = 2 / (n_in + n_out) (Eq. 12), between Eqs. 10 and 11."""
    bound = math.sqrt(6) / math.sqrt(sum(W.shape))
    return W.uniform_(-bound, bound)


def he_(W: Tensor) -> Tensor:
    """He et al., Eq. 10: W ~ N(0, 2 / n_in), so that 1/2 n Var W = 1, as half of a rectified signal is lost."""
    return W.normal_(0, math.sqrt(2 / W.shape[1]))


def xavier_(W: Tensor) -> Tensor:
    """What He et al. call "Xavier": W ~ N(0, 1 / n_in)."""
    return W.normal_(0, math.sqrt(1 / W.shape[1]))


INITS: dict[str, Callable[[Tensor], Tensor]] = {
    "standard": standard_, "normalized": normalized_, "he": he_, "xavier": xavier_,
    "torch": standard_,  # nn.Linear's default, which has biases of the same range
}  # fmt: skip
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid, "tanh": torch.tanh,
    "softsign": F.softsign,  # x / (1 + |x|)
    "relu": torch.relu,
}  # fmt: skip


class Nets(nn.Module):
    """T nets of sizes n_0, ..., n_d: hidden layers z^i = f(s^i), s^i = W^i z^(i-1) + b^i, and logits on top, for softmax.

    kinds: the activation and the initialization of each, nets of one activation side by side.
    """

    def __init__(self, sizes: Sequence[int], kinds: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self.kinds = list(kinds)
        self.W, self.b = nn.ParameterList(), nn.ParameterList()
        for n_in, n_out in pairwise(sizes):
            W, b = torch.empty(len(kinds), n_out, n_in), torch.zeros(len(kinds), 1, n_out)
            for net, (_, init) in enumerate(kinds):
                INITS[init](W[net])
                if init == "torch":
                    b[net].uniform_(-(n_in**-0.5), n_in**-0.5)
            self.W.append(W)
            self.b.append(b)

    @staticmethod
    def s(W: Tensor, z: Tensor, b: Tensor) -> Tensor:
        """W z + b of each net: (T, n_out, n_in), (T, B, n_in), (T, 1, n_out) -> (T, B, n_out). So, W's gradient is not copied."""
        return torch.baddbmm(b.mT, W, z.mT).mT

    def f(self, s: Tensor) -> Tensor:
        """Each net's own activation: (T, B, n)."""
        parts, at = [], 0
        for activation, same in groupby(kind for kind, _ in self.kinds):
            n = len(list(same))
            parts.append(ACTIVATIONS[activation](s[at : at + n]))
            at += n
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def layers(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """s^1, ..., s^d, the last being the logits, and z^0 = x, z^1, ...: (T, B, n_i) each, from x (B, n_0)."""
        s, z = [], [x.expand(len(self.kinds), *x.shape)]
        for W, b in zip(self.W, self.b, strict=True):
            s.append(self.s(W, z[-1], b))
            z.append(self.f(s[-1]))
        return s, z[:-1]

    def forward(self, x: Tensor) -> Tensor:
        """Logits: (B, n_0) -> (T, B, classes)."""
        z = x.expand(len(self.kinds), *x.shape)
        for W, b in zip(self.W[:-1], self.b[:-1], strict=True):
            z = self.f(self.s(W, z, b))
        return self.s(self.W[-1], z, self.b[-1])


def cost(logits: Tensor, y: Tensor) -> Tensor:
    """-log P(y|x), the mean over examples, of each net: (T, B, classes), (B,) -> (T,)."""
    T = len(logits)
    return F.cross_entropy(logits.flatten(0, 1), y.repeat(T), reduction="none").view(T, -1).mean(1)


# What the paper watches, on some fixed examples.


@torch.no_grad()
def activations(nets: Nets, x: Tensor) -> dict[str, Tensor]:
    """Of each hidden layer's activations, over units and examples: mean, std, 98th percentile (Figs. 2, 3): (T, layers) each."""
    z = [layer.flatten(1) for layer in nets.layers(x)[1][1:]]
    p98 = [layer.kthvalue(max(1, round(0.98 * layer.shape[1])), 1).values for layer in z]
    return {
        "mean": torch.stack([layer.mean(1) for layer in z], 1), "std": torch.stack([layer.std(1) for layer in z], 1),
        "p98": torch.stack(p98, 1),
    }  # fmt: skip


def gradients(nets: Nets, x: Tensor, y: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """dCost/ds^i, (T, B, n_i), and dCost/dW^i, (T, n_i, n_i-1), of all layers (Figs. 7, 8): of the summed cost over examples."""
    s, _ = nets.layers(x)
    C = len(x) * cost(s[-1], y).sum()
    found = torch.autograd.grad(C, [*s, *nets.W])
    return list(found[: len(s)]), list(found[len(s) :])


def jacobians(nets: Nets, x: Tensor) -> Tensor:
    """The mean singular value of J^i = dz^(i+1)/dz^i (Sec. 4.2.1) between hidden layers, a mean over examples: (T, layers - 1).

    J^i = diag(f'(s^(i+1))) W^(i+1). For W square with entries of variance v/n the mean is 8 / (3 pi) sqrt(v) before the slopes.
    """
    s, _ = nets.layers(x)
    found = []
    for i in range(1, len(s) - 1):
        slope = torch.autograd.grad(nets.f(s[i]).sum(), s[i], retain_graph=True)[0].detach()  # (T, B, n)
        J = slope[..., None] * nets.W[i].detach()[:, None]  # (T, B, n_i+1, n_i)
        found.append(torch.linalg.svdvals(J).mean((1, 2)))
    return torch.stack(found, 1)
