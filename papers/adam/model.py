"""Adam. D. P. Kingma, J. L. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015 (arXiv:1412.6980).
This file: MIT licence.

Implemented: Algorithm 1 and Algorithm 2 (AdaMax), and what the paper compares or what came of it: gradient descent with momentum
and with Nesterov's (I. Sutskever et al., ICML 2013), AdaGrad (J. Duchi et al., JMLR 2011), RMSProp (T. Tieleman, G. Hinton,
lecture 6.5, 2012), AdaDelta (M. Zeiler, arXiv:1212.5701), AMSGrad (S. Reddi et al., ICLR 2018), AdamW (I. Loshchilov, F. Hutter,
ICLR 2019). Schedules as functions of the update's number: `inverse_sqrt` (Sec. 4), `cosine` and `restarts` (Loshchilov, Hutter,
ICLR 2017).
The regression of Sec. 6.1, many side by side: `Softmax`; the other nets are in nets.py.
Not here: temporal averaging (Sec. 7.2), sparse gradients.

Shapes:  T nets side by side, with a stepsize each   B batch   D inputs   K classes
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

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


# Sec. 6: what the methods are compared on, nets side by side, so that each may have its own stepsize.


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
