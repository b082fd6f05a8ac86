"""Adam. D. P. Kingma, J. L. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015 (arXiv:1412.6980).
This file: MIT licence.

Implemented: Algorithm 1 and Algorithm 2 (AdaMax), and what the paper compares or what came of it: gradient descent with momentum
and with Nesterov's (I. Sutskever et al., ICML 2013), AdaGrad (J. Duchi et al., JMLR 2011), RMSProp (T. Tieleman, G. Hinton,
lecture 6.5, 2012), AdaDelta (M. Zeiler, arXiv:1212.5701), AMSGrad (S. Reddi et al., ICLR 2018), AdamW (I. Loshchilov, F. Hutter,
ICLR 2019). Schedules as functions of the update's number: `inverse_sqrt` (Sec. 4), `cosine` and `restarts` (Loshchilov, Hutter,
ICLR 2017).
The nets of Sec. 6 but for the convolutional one, many side by side: `Softmax`, `MLP`, `VAE`.
Not here: temporal averaging (Sec. 7.2), sparse gradients.

Shapes:  T nets side by side, with a stepsize each   B batch   D inputs   H hidden units   K classes   J latent variables
"""

import copy
import math
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, dropout, softplus

EPSILON = 1e-8


class Method(torch.optim.Optimizer):
    """theta <- theta + change; `alpha`, the stepsize, may be set anew before each update.

    A subclass has `start`, the names of what it keeps of each weight, zeros in the beginning, and `change`.

    alpha, settings: numbers, or (T,), one for each of T nets whose weights are stacked, (T, ...).
    """

    start: ClassVar[tuple[str, ...]] = ()

    def __init__(self, params: Any, alpha: float | Tensor = 0.001, **settings: float | Tensor) -> None:
        super().__init__(params, {"alpha": alpha, **self.defaults_of(), **settings})

    @classmethod
    def defaults_of(cls) -> dict[str, float]:
        return {}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for theta in group["params"]:
                if theta.grad is None:
                    continue
                state = self.state[theta]
                for name in self.start if not state else ():
                    state[name] = torch.zeros_like(theta)
                state["t"] = state.get("t", 0) + 1
                settings = {name: of_net(value, theta) for name, value in group.items() if name != "params"}
                theta.add_(self.change(settings.pop("alpha"), theta.grad, state, theta, **settings))

    def change(self, alpha: float | Tensor, g: Tensor, state: dict, theta: Tensor, **settings: float) -> Tensor:
        """What is added to theta; the state moves on."""
        raise NotImplementedError


def of_net(value: float | Tensor, theta: Tensor) -> float | Tensor:
    """(T,) as it multiplies (T, ...); numbers as they are."""
    return value.to(theta).view(-1, *[1] * (theta.dim() - 1)) if isinstance(value, Tensor) and value.dim() else value


class SGD(Method):
    def change(self, alpha, g, state, theta):
        return -alpha * g


class Momentum(Method):
    """Sutskever et al.: v <- mu v - alpha g, with the stepsize inside the velocity."""

    start = ("v",)

    @classmethod
    def defaults_of(cls):
        return {"mu": 0.9}

    def change(self, alpha, g, state, theta, mu):
        return state["v"].mul_(mu).sub_(alpha * g)


class Nesterov(Momentum):
    """The same with g at theta + mu v. What is kept as theta is that point, where the next gradient is taken."""

    def change(self, alpha, g, state, theta, mu):
        return mu * super().change(alpha, g, state, theta, mu) - alpha * g


class AdaGrad(Method):
    """Sec. 5: the stepsize over the root of the sum of all squared gradients."""

    start = ("sum",)

    def change(self, alpha, g, state, theta):
        state["sum"].addcmul_(g, g)
        return -alpha * g / (state["sum"].sqrt() + EPSILON)


class RMSProp(Method):
    """Sec. 5: over the root of a running mean of them, without bias correction."""

    start = ("v",)

    @classmethod
    def defaults_of(cls):
        return {"rho": 0.9}

    def change(self, alpha, g, state, theta, rho):
        state["v"].mul_(rho).addcmul_(g, g, value=1 - rho)
        return -alpha * g / (state["v"].sqrt() + EPSILON)


class AdaDelta(Method):
    """Zeiler's Algorithm 1: as large as recent changes were, over the root of recent squared gradients."""

    start = ("v", "d")

    @classmethod
    def defaults_of(cls):
        return {"rho": 0.95, "eps": 1e-6}

    def change(self, alpha, g, state, theta, rho, eps):
        v, d = state["v"].mul_(rho).addcmul_(g, g, value=1 - rho), state["d"]
        change = -(d + eps).sqrt() / (v + eps).sqrt() * g
        d.mul_(rho).addcmul_(change, change, value=1 - rho)
        return alpha * change


class Adam(Method):
    """Algorithm 1."""

    start = ("m", "v")

    @classmethod
    def defaults_of(cls):
        return {"b1": 0.9, "b2": 0.999}

    def change(self, alpha, g, state, theta, b1, b2):
        t = state["t"]
        m = state["m"].lerp_(g, 1 - b1)  # the first moment
        v = state["v"].mul_(b2).addcmul_(g, g, value=1 - b2)  # the second, raw
        # alpha m_hat / (sqrt(v_hat) + epsilon), m_hat = m / (1 - b1^t), v_hat = v / (1 - b2^t), in Sec. 2's cheaper order
        root = math.sqrt(1 - b2**t)
        below = v.sqrt().add_(EPSILON * root)
        return torch.div(m, below, out=below).mul_(-alpha * (root / (1 - b1**t)))


class Uncorrected(Adam):
    """Sec. 6.4: without the correction of the two means, as RMSProp with momentum is."""

    def change(self, alpha, g, state, theta, b1, b2):
        m = state["m"].lerp_(g, 1 - b1)
        v = state["v"].mul_(b2).addcmul_(g, g, value=1 - b2)
        return -alpha * m / (v.sqrt() + EPSILON)


class AdaMax(Adam):
    """Algorithm 2: the infinity norm in place of the second moment."""

    start = ("m", "u")

    def change(self, alpha, g, state, theta, b1, b2):
        m = state["m"].lerp_(g, 1 - b1)
        u = state["u"].mul_(b2)
        torch.maximum(u, g.abs(), out=u)
        return -alpha / (1 - b1 ** state["t"]) * m / u.clamp(min=torch.finfo(u.dtype).tiny)  # 0 where no gradient was ever


class AMSGrad(Adam):
    """Reddi et al.'s Algorithm 2: the second moment never falls. No bias correction in its listing."""

    start = ("m", "v", "v_hat")

    def change(self, alpha, g, state, theta, b1, b2):
        m = state["m"].lerp_(g, 1 - b1)
        v = state["v"].mul_(b2).addcmul_(g, g, value=1 - b2)
        v_hat = torch.maximum(state["v_hat"], v, out=state["v_hat"])
        return -alpha * m / (v_hat.sqrt() + EPSILON)


class AdamW(Adam):
    """Loshchilov and Hutter's Algorithm 2: decay that is not scaled by the second moment, nor by alpha; `eta` is the schedule."""

    @classmethod
    def defaults_of(cls):
        return {**super().defaults_of(), "decay": 0.01, "eta": 1.0}

    def change(self, alpha, g, state, theta, b1, b2, decay, eta):
        return eta * (super().change(alpha, g, state, theta, b1, b2) - decay * theta)


METHODS = {
    "sgd": SGD, "momentum": Momentum, "nesterov": Nesterov, "adagrad": AdaGrad, "rmsprop": RMSProp, "adadelta": AdaDelta,
    "adam": Adam, "uncorrected": Uncorrected, "adamax": AdaMax, "amsgrad": AMSGrad, "adamw": AdamW,
}  # fmt: skip


# Schedules: what a stepsize is multiplied by at update t = 1, 2, ...


def inverse_sqrt(t: int) -> float:
    """Sec. 4: alpha_t = alpha / sqrt(t)."""
    return t**-0.5


def cosine(t: int, total: int) -> float:
    """From 1 down to 0 in `total` updates."""
    return (1 + math.cos(math.pi * min(t - 1, total) / total)) / 2


def drops(t: int, total: int) -> float:
    """A fifth after 30 %, 60 % and 80 % of the updates, as SGDR's wide residual nets had it."""
    return 0.2 ** sum(t > share * total for share in (0.3, 0.6, 0.8))


def restarts(t: int, first: int, times: int = 2) -> float:
    """SGDR's Eq. 5: a cosine of `first` updates, then another that is `times` as long, and so on."""
    start = t - 1
    while start >= first:
        start, first = start - first, first * times
    return cosine(start + 1, first)


# Sec. 6: what the methods are compared on, many nets side by side, so that each may have its own stepsize.

LOST = 1000.0  # nats: what a net counts as whose cost is above that, or no number


def stacked(nets: int, *shape: int, scale: float) -> nn.Parameter:
    """Normal weights, the same for all nets: (T, ...)."""
    return nn.Parameter((scale * torch.randn(shape)).expand(nets, *shape).clone())


def zeros(nets: int, *shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(nets, *shape))


def first(W: Tensor, x: Tensor) -> Tensor:
    """A layer on inputs that all nets see, in one product: (T, K, D), (B, D) -> (T, B, K)."""
    T, K, D = W.shape
    return (x @ W.view(T * K, D).T).view(-1, T, K).transpose(0, 1)


class Classifier(nn.Module):
    """Nets whose `forward` gives logits: (B, D) -> (T, B, K)."""

    def costs(self, x: Tensor, y: Tensor, drop: float) -> Tensor:
        """-log P(y | x): (B, D), (B,) -> (T, B)."""
        logits = self(x, drop)
        return cross_entropy(logits.to(x.dtype).transpose(1, 2), y.expand(len(logits), -1), reduction="none")


class Softmax(Classifier):
    """Sec. 6.1: multi-class logistic regression, all from zero."""

    def __init__(self, nets: int, inputs: int = 784, classes: int = 10) -> None:
        super().__init__()
        self.W, self.b = zeros(nets, classes, inputs), zeros(nets, classes)

    def forward(self, x: Tensor, drop: float = 0.0) -> Tensor:
        return first(self.W, x) + self.b[:, None]


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
