"""Reverse-mode differentiation from nothing but NumPy arrays: what an automatic `backward()` does, in a file to read through.

Every operation gives a `Variable` that knows its value, the variables that it was made from, its parents, and for each parent one
function: from the gradient of E with respect to the result to that with respect to this parent. That is the chain rule of Eqs. 4
to 7, an operation at a time. `backward` walks through the graph once, results before parents, and adds up what arrives.

    >>> w, x = Variable(np.array(2.0), "w"), Variable(np.array(3.0), "x")
    >>> E = (w * x + w).tanh()
    >>> backward(E)
    >>> w.gradient, x.gradient  # (1 - E^2) (x + 1), (1 - E^2) w

This file: MIT licence.

Shapes:  B images   I, K feature maps in and out   H, W height and width   h, w of a kernel, or of what comes out
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy import ndarray

Parent = tuple["Variable", Callable[[ndarray], ndarray]]  # and gradient of the result -> gradient of the parent


class Variable:
    """An array in a graph. gradient: dE/d(this), once `backward(E)` was called."""

    def __init__(self, value: Any, name: str = "", parents: tuple[Parent, ...] = ()) -> None:
        self.value, self.name, self.parents = np.asarray(value), name, parents
        self.gradient: ndarray | None = None

    # Element by element, shapes as NumPy broadcasts them.

    def __add__(self, other: Any) -> "Variable":
        other = variable(other, self)
        return Variable(self.value + other.value, "+", (broadcast(self, lambda g: g), broadcast(other, lambda g: g)))

    def __mul__(self, other: Any) -> "Variable":
        a, b = self, variable(other, self)
        return Variable(a.value * b.value, "×", (broadcast(a, lambda g: g * b.value), broadcast(b, lambda g: g * a.value)))

    def __neg__(self) -> "Variable":
        return Variable(-self.value, "-", ((self, lambda g: -g),))

    def __sub__(self, other: Any) -> "Variable":
        return self + -variable(other, self)

    def exp(self) -> "Variable":
        y = np.exp(self.value)
        return Variable(y, "exp", ((self, lambda g: g * y),))

    def log(self) -> "Variable":
        return Variable(np.log(self.value), "log", ((self, lambda g: g / self.value),))

    def tanh(self) -> "Variable":
        y = np.tanh(self.value)
        return Variable(y, "tanh", ((self, lambda g: g * (1 - y * y)),))

    def logistic(self) -> "Variable":
        """1 / (1 + exp(-x)) (Eq. 2), written with tanh, which does not overflow."""
        y = 0.5 + 0.5 * np.tanh(0.5 * self.value)
        return Variable(y, "logistic", ((self, lambda g: g * y * (1 - y)),))

    def relu(self) -> "Variable":
        """max(0, x); its slope at 0 is taken as 0."""
        return Variable(np.maximum(self.value, 0), "relu", ((self, lambda g: g * (self.value > 0)),))

    # Between elements.

    def __matmul__(self, other: "Variable") -> "Variable":
        """(n, I) @ (I, J), as in Eq. 1; its two gradients are Eqs. 7 and 6."""
        a, b = self, other
        return Variable(a.value @ b.value, "@", ((a, lambda g: g @ b.value.T), (b, lambda g: a.value.T @ g)))

    def sum(self, axis: int | None = None, keepdims: bool = False) -> "Variable":
        spread = lambda g: g if axis is None or keepdims else np.expand_dims(g, axis)
        parent = (self, lambda g: np.broadcast_to(spread(g), self.value.shape))
        return Variable(self.value.sum(axis, keepdims=keepdims), "sum", (parent,))

    def reshape(self, *shape: int) -> "Variable":
        return Variable(self.value.reshape(shape), "reshape", ((self, lambda g: g.reshape(self.value.shape)),))

    def pick(self, column: ndarray) -> "Variable":
        """One element of each row: (n, J), (n,) -> (n,)."""
        rows = np.arange(len(column))

        def back(g: ndarray) -> ndarray:
            whole = np.zeros_like(self.value)
            whole[rows, column] = g
            return whole

        return Variable(self.value[rows, column], "pick", ((self, back),))


def variable(x: Any, like: Variable) -> Variable:
    """A number or an array as a constant of the graph."""
    return x if isinstance(x, Variable) else Variable(np.asarray(x, like.value.dtype))


def broadcast(parent: Variable, back: Callable[[ndarray], ndarray]) -> Parent:
    """What was repeated along an axis gets the sum of the gradients there."""
    shape = parent.value.shape

    def summed(g: ndarray) -> ndarray:
        g = back(g)
        g = g.sum(tuple(range(g.ndim - len(shape))))  # axes that it did not have
        return g.sum(tuple(i for i, n in enumerate(shape) if n == 1 and g.shape[i] > 1), keepdims=True)

    return parent, summed


def convolution(x: Variable, kernels: Variable) -> Variable:
    """Each kernel slid over all places where it fits: (B, I, H, W), (K, I, h, w) -> (B, K, H-h+1, W-w+1).

    One product of matrices: a column of `fields` for each place, which holds all that a kernel sees there.
    """
    (B, I, H, W), (K, _, h, w) = x.value.shape, kernels.value.shape
    high, wide = H - h + 1, W - w + 1
    offsets = [(r, c) for r in range(h) for c in range(w)]
    fields = np.empty((I, h * w, B, high, wide), x.value.dtype)
    for n, (r, c) in enumerate(offsets):
        fields[:, n] = x.value[:, :, r : r + high, c : c + wide].swapaxes(0, 1)
    fields = fields.reshape(I * h * w, -1)
    rows = kernels.value.reshape(K, -1)
    flat = lambda g: np.ascontiguousarray(g.swapaxes(0, 1)).reshape(K, -1)  # (K, B * places)

    def to_x(g: ndarray) -> ndarray:
        each = (rows.T @ flat(g)).reshape(I, h * w, B, high, wide)
        whole = np.zeros((I, B, H, W), g.dtype)
        for n, (r, c) in enumerate(offsets):
            whole[:, :, r : r + high, c : c + wide] += each[:, n]
        return whole.swapaxes(0, 1)

    to_kernels = lambda g: (flat(g) @ fields.T).reshape(kernels.value.shape)
    y = (rows @ fields).reshape(K, B, high, wide).swapaxes(0, 1)
    return Variable(y, "convolution", ((x, to_x), (kernels, to_kernels)))


def max_pooling(x: Variable) -> Variable:
    """The largest of 2x2: (B, K, H, W) -> (B, K, H/2, W/2). The gradient goes to where it was, the first of equals."""
    corners = [x.value[:, :, r::2, c::2] for r in (0, 1) for c in (0, 1)]
    y = np.maximum(np.maximum(corners[0], corners[1]), np.maximum(corners[2], corners[3]))

    def back(g: ndarray) -> ndarray:
        whole, left = np.zeros_like(x.value), np.ones(y.shape, bool)
        for (r, c), corner in zip(((0, 0), (0, 1), (1, 0), (1, 1)), corners, strict=True):
            here = left & (corner == y)
            whole[:, :, r::2, c::2] = g * here
            left &= ~here
        return whole

    return Variable(y, "max pooling", ((x, back),))


def cross_entropy(x: Variable, labels: ndarray) -> Variable:
    """The mean over rows of log sum_j exp(x_j) - x_label: (n, J), (n,) -> ()."""
    x = x - x.value.max(1, keepdims=True)  # the same result, and no overflow
    return (x.exp().sum(1).log() - x.pick(labels)).sum() * (1 / len(labels))


def order(last: Variable) -> list[Variable]:
    """All that `last` was made from, and it: everything after its parents (topological order)."""
    found, seen, stack = [], set(), [(last, False)]
    while stack:  # no recursion, which a long graph would exhaust
        node, ready = stack.pop()
        if ready:
            found.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack += [(node, True), *((parent, False) for parent, _ in node.parents)]
    return found


def backward(E: Variable) -> None:
    """Set the gradient dE/d(variable) of everything that E, a single number, was made from."""
    nodes = order(E)
    for node in nodes:
        node.gradient = None
    E.gradient = np.ones_like(E.value)
    for node in reversed(nodes):
        for parent, back in node.parents:
            g = back(node.gradient)
            parent.gradient = g if parent.gradient is None else parent.gradient + g
