"""Back-propagation. D. E. Rumelhart, G. E. Hinton, R. J. Williams, "Learning representations by back-propagating errors", Nature
323, 533-536, 1986; longer: the same, "Learning internal representations by error propagation", PDP vol. 1, ch. 8, MIT Press 1986.
This file: MIT licence.

Implemented: Eqs. 1 to 9 by hand, without autograd, for any layered net (`Net`, `Descent`), links that skip layers and tied weights
among them; the nets of the paper (`layered`, `family_trees`), of the chapter (`t_or_c`), and the recurrent net unrolled in time
(`unrolled`, Fig. 5). Beside them what came before: the perceptron (F. Rosenblatt, Psychological Review 65, 386-408, 1958; the
error-correcting rule and its bound as A. Novikoff gives them, 1962).
Not here: Rosenblatt's random units between the retina and the weights that learn.

Many nets of one shape, which differ in their initial weights, learn side by side:

Shapes:  T nets (trials)   C cases   I, J units below and above a link   K different weights of a link that ties some
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn

ON = "on"  # a unit that is always on: the weight from it is the bias of the unit above


class Link(NamedTuple):
    """All connections from one layer to another."""

    source: str
    target: str
    weight: str  # a name; links that share it share their weights
    tie: Tensor | None = None  # (J, I), which of K weights each connection has, -1 where there is none; None: each its own


class Net(nn.Module):
    """T layered nets of one shape.

    units: layer -> how many units it has, from the bottom up; a layer that no link enters is given, as an input.
    links: upwards only, over any number of layers; `ON` as a source gives biases.
    start: initial weights are uniform in [-start, start], "to break the symmetry"; biases are weights, too.
    """

    def __init__(self, units: Mapping[str, int], links: Sequence[Link], trials: int, start: float) -> None:
        super().__init__()
        self.units, self.links = dict(units), list(links)
        self.entered = [layer for layer in units if any(link.target == layer for link in links)]
        self.weights = nn.ParameterDict()
        copies: dict[str, Tensor] = {}  # of each weight: how many connections have it
        for link in links:
            if link.tie is None:
                shape, n = (units[link.target], 1 if link.source == ON else units[link.source]), torch.tensor(1)
            else:
                self.register_buffer(f"{link.source} {link.target}", link.tie, persistent=False)
                shape, n = (int(link.tie.max()) + 1,), torch.bincount(link.tie[link.tie >= 0])  # (K,)
            if link.weight not in self.weights:
                self.weights[link.weight] = nn.Parameter(start * (2 * torch.rand(trials, *shape) - 1), requires_grad=False)
            copies[link.weight] = copies.get(link.weight, 0) + n
        for name, n in copies.items():
            if n.max() > 1:
                self.register_buffer(f"copies {name}", n.to(self.weights[name]), persistent=False)

    def w(self, link: Link) -> Tensor:
        """The weights w_ji of a link: (T, J, I)."""
        weight = self.weights[link.weight]
        if link.tie is None:
            return weight
        tie = self.get_buffer(f"{link.source} {link.target}")
        return weight[:, tie.clamp(min=0)] * (tie >= 0)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The states y of all layers, (T, C, J) each, from those of the input layers, (C, I) or (T, C, I)."""
        y = dict(inputs)
        for layer in self.entered:
            links = (link for link in self.links if link.target == layer)
            each = (self.w(link).mT if link.source == ON else y[link.source] @ self.w(link).mT for link in links)
            y[layer] = torch.sigmoid(reduce(torch.add, each))  # Eqs. 1 and 2, (T, C, J)
        return y

    def backward(self, y: Mapping[str, Tensor], errors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """dE/dw of all weights, summed over cases, like `weights`.

        y: what `forward` returns.    errors: layer -> dE/dy = y - d (Eq. 4) of its units, (T, C, J).
        Where several connections have one weight, it is the average over them that all of them are changed by (Fig. 5).
        """
        dE_dy, dE_dw = dict(errors), dict[str, Tensor]()
        for layer in reversed(self.entered):
            dE_dx = dE_dy[layer] * y[layer] * (1 - y[layer])  # Eq. 5, (T, C, J)
            for link in (link for link in self.links if link.target == layer):
                each = dE_dx.sum(1)[..., None] if link.source == ON else dE_dx.mT @ y[link.source]  # Eq. 6, over cases: (T, J, I)
                if link.tie is not None:
                    tied = self.get_buffer(f"{link.source} {link.target}")
                    each = each.new_zeros(self.weights[link.weight].shape).index_add_(1, tied[tied >= 0], each[:, tied >= 0])
                dE_dw[link.weight] = dE_dw[link.weight] + each if link.weight in dE_dw else each
                if link.source in self.entered:
                    dE_dy[link.source] = dE_dy.get(link.source, 0) + dE_dx @ self.w(link)  # Eq. 7
        copies = dict(self.named_buffers())
        return {name: each / copies[f"copies {name}"] if f"copies {name}" in copies else each for name, each in dE_dw.items()}


def E(errors: Tensor) -> Tensor:
    """Eq. 3, the total error of each net, half the sum over cases and outputs of (y - d)^2: (T, C, J) -> (T,). A sum, no mean."""
    return errors.square().sum((1, 2)) / 2


def beyond(y: Tensor, d: Tensor) -> Tensor:
    """y - d, but 0 where an output that should be on is above 0.8, or one that should be off below 0.2 (family trees)."""
    return (y - d) * ~torch.where(d > 0.5, y > 0.8, y < 0.2)


class Descent(nn.Module):
    """Gradient descent with momentum: dw(t) = -epsilon dE/dw(t) + alpha dw(t-1) (Eqs. 8 and 9), then every weight decays."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        for name, weight in net.weights.items():
            self.register_buffer(f"dw {name}", torch.zeros_like(weight))

    def step(
        self, net: Net, dE_dw: Mapping[str, Tensor], epsilon: float, alpha: float, decay: float, learning: Tensor
    ) -> None:  # fmt: skip
        """learning: (T,), bool; the weights of other nets stay as they are."""
        learning = learning.to(next(iter(dE_dw.values())))
        for name, weight in net.weights.items():
            dw = self.get_buffer(f"dw {name}")
            dw.mul_(alpha).sub_(dE_dw[name], alpha=epsilon)
            weight.addcmul_(dw, learning.view(-1, *[1] * (weight.dim() - 1)))
            if decay:
                weight.mul_(1 - decay)


# The nets of the paper and of the chapter.


def bias(layer: str) -> Link:
    return Link(ON, layer, f"{layer} bias")


def layered(inputs: int, hidden: int, outputs: int, *, direct: bool = False, trials: int = 1, start: float = 0.3) -> Net:
    """inputs - hidden - outputs; direct: the inputs are linked to the outputs as well (one of XOR's nets). hidden 0: no layer.

    Fig. 1: layered(6, 2, 1), 17 weights.    The chapter's: XOR (2, 1, 1) with direct links, 7, or (2, 2, 1), 9; parity (N, N, 1);
    encoder (8, 3, 8), 59.
    """
    units = {"input": inputs, "hidden": hidden, "output": outputs}
    links = [Link("input", "hidden", "hidden"), bias("hidden"), Link("hidden", "output", "output"), bias("output")]
    if not hidden:
        del units["hidden"]
        links = links[3:]
    if direct or not hidden:
        links.append(Link("input", "output", "direct"))
    return Net(units, links, trials, start)


def family_trees(trials: int = 1, start: float = 0.3) -> Net:
    """Fig. 3: a person and a relation, each through six units of its own, twelve, six, the persons who are meant. 630 weights."""
    units = {"person": 24, "relation": 12, "of person": 6, "of relation": 6, "both": 12, "of output": 6, "output": 24}
    pairs = [
        ("person", "of person"), ("relation", "of relation"), ("of person", "both"), ("of relation", "both"),
        ("both", "of output"), ("of output", "output"),
    ]  # fmt: skip
    links = [Link(source, target, f"{source} to {target}") for source, target in pairs]
    return Net(units, [*links, *map(bias, list(units)[2:])], trials, start)


def t_or_c(retina: int = 5, field: int = 3, kernels: int = 4, trials: int = 1, start: float = 0.3) -> Net:
    """The chapter's T-C net: hidden units see field x field cells each, in every place, and those of a kernel share their weights.

    They share the weight to the output, too, so that the answer does not depend on the place.
    """
    places = retina - field + 1
    hidden = kernels * places**2
    tie = torch.full((kernels, places, places, retina, retina), -1)
    for kernel in range(kernels):
        for row in range(places):
            for column in range(places):
                weights = kernel * field**2 + torch.arange(field**2).view(field, field)
                tie[kernel, row, column, row : row + field, column : column + field] = weights
    kernel_of = torch.arange(kernels).repeat_interleave(places**2)  # (hidden,)
    links = [
        Link("input", "hidden", "kernels", tie.view(hidden, -1)), Link(ON, "hidden", "hidden bias", kernel_of[:, None]),
        Link("hidden", "output", "output", kernel_of[None]), bias("output"),
    ]  # fmt: skip
    return Net({"input": retina**2, "hidden": hidden, "output": 1}, links, trials, start)


def unrolled(inputs: int, hidden: int, outputs: int, steps: int, *, trials: int = 1, start: float = 0.3) -> Net:
    """A recurrent net as a layered one, a layer for each time, with the same weights between any two (Fig. 5).

    Given: "input 1", ..., and "hidden 0", the state that it starts from. Its outputs: "output 1", ...
    """
    units, links = {"hidden 0": hidden}, []
    for t in range(1, steps + 1):
        units |= {f"input {t}": inputs, f"hidden {t}": hidden, f"output {t}": outputs}
        links += [
            Link(f"input {t}", f"hidden {t}", "input"), Link(f"hidden {t - 1}", f"hidden {t}", "recurrent"),
            Link(ON, f"hidden {t}", "hidden bias"), Link(f"hidden {t}", f"output {t}", "output"),
            Link(ON, f"output {t}", "output bias"),
        ]  # fmt: skip
    return Net(units, links, trials, start)


# What came before: weights on fixed features, changed only where the answer is wrong.


class Perceptron(nn.Module):
    """T perceptrons side by side: the sign of w.x, for x (T, D) and y in {-1, 1} (T,). A feature that is always 1 gives a bias."""

    def __init__(self, trials: int, features: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(trials, features), requires_grad=False)

    def learn(self, x: Tensor, y: Tensor) -> Tensor:
        """If y (w.x) <= 0 then w <- w + y x. Returns which were wrong: (T,), bool."""
        wrong = y * (self.w * x).sum(1) <= 0
        self.w += (wrong * y)[:, None] * x
        return wrong


def mistake_bound(x: Tensor, y: Tensor, u: Tensor) -> Tensor:
    """(R / g)^2, which a perceptron's mistakes on separable examples never exceed, in whatever order they come: (T,).

    x (T, n, D), y (T, n); u (T, D) separates them with margin g = min y (u.x) / |u|; R = max |x|. For after k mistakes
    |w|^2 <= k R^2, as each adds at most R^2, and w.u >= k g |u|, so that k g <= |w| <= sqrt(k) R.
    """
    g = (y * (x @ u[..., None]).squeeze(-1)).amin(1) / u.norm(dim=1)
    return (x.norm(dim=2).amax(1) / g) ** 2


class Classes(nn.Module):
    """A perceptron for several classes, whose largest w_k.x answers; and the average of its weights over all examples seen."""

    def __init__(self, classes: int, features: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(classes, features), requires_grad=False)
        self.register_buffer("late", torch.zeros(classes, features))  # each change times the number of examples before it
        self.register_buffer("seen", torch.tensor(0))

    def learn(self, x: Tensor, label: Tensor) -> Tensor:
        """One example, (D,) and its class (1,): a wrong answer's weights lose x, the right one's gain it. Returns whether wrong."""
        answer = (self.w @ x).argmax(0, keepdim=True)
        wrong = (answer != label).to(x)
        change = torch.stack([wrong * x, -wrong * x])  # (2, D)
        both = torch.cat([label, answer])
        self.w.index_add_(0, both, change)
        self.late.index_add_(0, both, change * self.seen)
        self.seen += 1
        return wrong

    def average(self) -> Tensor:
        """The mean of w over the examples seen so far, as it was after each: (classes, D)."""
        return self.w - self.late / self.seen
