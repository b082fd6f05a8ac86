"""Long Short-Term Memory. S. Hochreiter, J. Schmidhuber. Neural Computation 9(8):1735-1780, 1997. This file: MIT licence.

Implemented: the memory-cell blocks of Sec. 4 with the truncated gradient of appendix A.1 (`LSTM`: Secs. 5.1, 5.2c and
5.3-5.6), and the net of Secs. 5.2a and 5.2b, whose one cell has an input gate only (`InputGateNet`).
Not in this paper, so not here: forget gates (Gers et al. 2000), peepholes, tanh, softmax, momentum, mini-batches. Left out: the
untruncated gradient, which Sec. 6 tried and found no better; conventional hidden units (Eqs. 6, 11, 20), which no experiment has.

Sec. 5 reports means over 10 to 30 independent trials. Trials are a batch dimension: every trial has its own weights and its own
sequences, nothing is shared between them, and thirty cost about as much as one.

Shapes:  N trials   M sequences for each trial   T time steps   I inputs   K outputs
         B memory cell blocks   S cells in a block   U = B (2 + S) hidden units: each block's input gate, output gate, cells
"""

import functools
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

Biased = Literal["all", "gates", "none"]  # which hidden units have a bias weight (Table 10): "all", "gates" or "none"


def f(x: Tensor) -> Tensor:
    """Logistic sigmoid, range [0, 1]: gates and output units (Eq. 3)."""
    return torch.sigmoid(x)


def h(x: Tensor, to: float = 1.0) -> Tensor:
    """2 / (1 + exp(-x)) - 1, range [-1, 1]: squashes the cell state on its way out (Eq. 4); in [-to, to] for the readings."""
    return to * torch.tanh(0.5 * x)


def g(x: Tensor, to: float = 2.0) -> Tensor:
    """4 / (1 + exp(-x)) - 2, range [-2, 2]: squashes the cell input (Eq. 5); in [-to, to] for the readings."""
    return to * torch.tanh(0.5 * x)


def uniform_weight(init: float, *shape: int) -> nn.Parameter:
    """Initial weights, uniform in [-init, init] (Table 10)."""
    return nn.Parameter(torch.empty(*shape).uniform_(-init, init))


@functools.lru_cache(maxsize=128)
def workspace(T: int, N: int, B: int, S: int, M: int, **like: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, list]:
    """What `recur` writes to, and its views of every step: to make these for every sequence would take a quarter of the time."""
    net, y = torch.empty(T, N, B * (2 + S), M, **like), torch.empty(T + 1, N, B, 2 + S, M, **like)
    s, g_c = torch.zeros(T + 1, N, B, S, M, **like), torch.empty(T, N, B, S, M, **like)
    y_in, y_out, y_c = y[1:].split([1, 1, S], dim=3)
    units = y.flatten(2, 3)  # (T + 1, N, U, M)
    return net, y, s, g_c, list(zip(net, units[:-1], units[1:], y_in, y_out, y_c, g_c, s[:-1], s[1:], strict=True))


@torch.no_grad()
def recur(
    net_x: Tensor, weight: Tensor, blocks: int, g_range: float, h_range: float, start: float
) -> tuple[Tensor, Tensor, Tensor]:
    """`LSTM.step` over all steps: where training spends most of its time, six small operations a step, s halved, g as f - 1/2.

    Args:
        net_x: (T, N, U, M), what inputs and bias contribute to the net input of every hidden unit.
        weight: (N, U, U), recurrent.
        blocks: B.
        g_range, h_range, start: `LSTM`'s ranges and start.

    Returns, until the next call overwrites them (autograd then refuses a backward pass):
        y: (T + 1, N, B, 2 + S, M), y[t + 1] the hidden units of step t.
        s: (T + 1, N, B, S, M), s_c / 2 in the same way.
        g_c: (T, N, B, S, M), f(net_c) - 1/2, which is g / (2 g_range).
    """
    T, N, U, M = net_x.shape
    make = workspace if M == 1 else workspace.__wrapped__  # what is kept serves learning, one sequence for each trial
    net, y, s, g_c, steps = make(T, N, blocks, U // blocks - 2, M, dtype=net_x.dtype, device=net_x.device)
    net.copy_(net_x)
    y[0] = start
    for net_t, before, y_t, in_t, out_t, c_t, g_t, s_before, s_t in steps:
        torch.baddbmm(net_t, weight, before, out=y_t).sigmoid_()  # Eqs. 7, 8: y_in = f(net_in), y_out = f(net_out)
        torch.sub(c_t, 0.5, out=g_t)
        torch.addcmul(s_before, in_t, g_t, value=g_range, out=s_t)  # Eq. 9: s_c(t) = s_c(t-1) + y_in(t) g(net_c(t)), halved
        torch.mul(out_t, torch.tanh(s_t), out=c_t)  # Eq. 9: y_c = y_out h(s_c), where h(s) = range tanh(s / 2)
        if h_range != 1:
            c_t.mul_(h_range)
    return y, s, g_c


class Recurrence(torch.autograd.Function):
    """The hidden layer over time, and the truncated gradient of appendix A.1 as its derivative.

    An error that reaches a gate or a cell input changes the weights into it and flows no further back (Eqs. 12, 13); inside a
    cell it flows back unchanged through s_c(t) = s_c(t-1) + ... for ever (Eqs. 14, 15). So the error of a cell's state at t is
    the sum of those of all later steps, and all time steps of the backward pass are one.
    """

    @staticmethod
    def forward(ctx, net_x, weight, blocks, g_range, h_range, start):
        """Arguments as `recur`'s. Returns y_c (T, N, B S, M), the cells' outputs, which alone have a derivative."""
        y, s, g_c = recur(net_x, weight, blocks, g_range, h_range, start)
        ctx.save_for_backward(y, s, g_c)
        ctx.ranges = g_range, h_range
        return y[1:, :, :, 2:].flatten(2, 3)

    @staticmethod
    def backward(ctx, d_c):
        """d_c: (T, N, B S, M), the derivative of the loss by y_c; Eqs. 19-28 have alpha times its negative."""
        y, s, g_c = ctx.saved_tensors
        h_s = torch.tanh(s[1:])  # h(s_c) / h_range
        g_range, h_range = ctx.ranges
        y_in, y_out = y[1:, :, :, :1], y[1:, :, :, 1:2]  # (T, N, B, 1, M)
        d_c = d_c.unflatten(2, g_c.shape[2:4])  # (T, N, B, S, M)

        d_out = y_out * (1 - y_out) * h_range * (h_s * d_c).sum(3, keepdim=True)  # Eq. 21
        d_s = y_out * (1 - h_s.square()) * (h_range / 2) * d_c  # Eq. 23, h' = (1 - (h / range)^2) range / 2
        d_s = d_s.flip(0).cumsum(0).flip(0)  # Eq. 14: a state is part of all later ones
        d_in = y_in * (1 - y_in) * (2 * g_range) * (g_c * d_s).sum(3, keepdim=True)  # Eqs. 25, 26
        d_g = y_in * (0.25 - g_c.square()) * (2 * g_range) * d_s  # Eqs. 27, 28, g' = 2 range f (1 - f)
        delta = torch.cat([d_in, d_out, d_g], 3).flatten(2, 3)  # (T, N, U, M)

        before = y[:-1].flatten(2, 3)  # what each unit saw over its recurrent connections
        d_weight = delta.permute(1, 2, 0, 3).flatten(2) @ before.permute(1, 0, 3, 2).flatten(1, 2)  # (N, U, U)
        return delta, d_weight, None, None, None, None


class LSTM(nn.Module):
    """One fully self-connected hidden layer of memory cell blocks, and an output layer that sees the cells (Sec. 4).

    Every hidden unit, gates included, receives the inputs and all hidden units of the previous step. Output units receive
    the cells of the current step, never the gates.

    Args:
        trials: N, independent networks side by side.
        inputs, outputs: I, K.
        blocks, cells: B, and S cells in each.
        biased: the hidden units with a bias weight, "all", "gates" or "none" (Table 10, column "bias units").
        output_bias: whether output units have a bias weight.
        init: weights start uniform in [-init, init] (Table 10).
        input_gate_bias, output_gate_bias: initial bias for each block, B numbers; None: uniform in [-init, init] as well.
            Negative values are the paper's remedies for state drift and for the abuse of cells as bias units (Sec. 4).
        ranges: of g and h, which are [-range, range]: 2 and 1 in Eqs. 5 and 4; the legend of Table 10 has them swapped.
        start: activations of all hidden units before a sequence: 0 (Sec. 5).
    """

    def __init__(
        self,
        trials: int,
        inputs: int,
        outputs: int,
        blocks: int,
        cells: int,
        *,
        biased: Biased = "all",
        output_bias: bool = True,
        init: float = 0.1,
        input_gate_bias: Sequence[float] | None = None,
        output_gate_bias: Sequence[float] | None = None,
        ranges: tuple[float, float] = (2.0, 1.0),
        start: float = 0.0,
    ) -> None:
        super().__init__()
        self.blocks, self.cells, self.ranges, self.start = blocks, cells, ranges, start
        units = blocks * (2 + cells)
        uniform = functools.partial(uniform_weight, init, trials)

        self.input_weight = uniform(units, inputs)  # (N, U, I)
        self.recurrent_weight = uniform(units, units)  # (N, U, U)
        self.bias = uniform(blocks, {"all": 2 + cells, "gates": 2, "none": 0}[biased])  # (N, B, 2 + S, or 2, or 0)
        self.output_weight = uniform(outputs, blocks * cells)  # (N, K, B S)
        self.output_bias = uniform(outputs) if output_bias else None  # (N, K)
        with torch.no_grad():
            for gate, values in enumerate((input_gate_bias, output_gate_bias)):
                if values is not None:
                    self.bias[:, :, gate] = torch.tensor(values)

    def step(self, x: Tensor, y: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """The forward pass of appendix A.1, one step: x (N, M, I), y (N, M, U), s (N, M, B, S) of step t - 1 -> y, s of step t.

        `recur` does the same in fewer operations. With y detached, autograd gives the truncated gradient (Eqs. 12-15).
        """
        net = x @ self.input_weight.mT + y @ self.recurrent_weight.mT + self.padded_bias()[:, 0]  # (N, M, U)
        net_in, net_out, net_c = net.unflatten(-1, (self.blocks, -1)).split([1, 1, self.cells], -1)  # (N, M, B, 1), 1, S
        y_in = f(net_in)  # Eq. 7
        y_out = f(net_out)  # Eq. 8
        s = s + y_in * g(net_c, self.ranges[0])  # Eq. 9
        y_c = y_out * h(s, self.ranges[1])  # Eq. 9
        return torch.cat([y_in, y_out, y_c], -1).flatten(2), s

    def forward(self, x: Tensor, last: Tensor | None = None) -> Tensor:
        """Activations of the output units: x (N, M, T, I) -> (N, M, T, K), or (N, M, K) at the steps `last` (N, M)."""
        return f(self.net_k(x, last))

    def net_k(self, x: Tensor, last: Tensor | None = None) -> Tensor:
        """Net inputs of the output units (A.1: over the units that are no gates), in the shape of their activations."""
        y_c = Recurrence.apply(self.net_x(x), self.recurrent_weight, self.blocks, *self.ranges, self.start)  # (T, N, B S, M)
        if last is not None:
            y_c = y_c.take_along_dim(last[None, :, None], 0)  # (1, N, B S, M)
        net_k = self.weighted(y_c.permute(1, 3, 0, 2), self.output_weight)  # (N, M, T or 1, K)
        if self.output_bias is not None:
            net_k = net_k + self.output_bias[:, None, None]
        return net_k if last is None else net_k[:, :, 0]

    def states(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gate activations and cell states over time: x (N, M, T, I) -> y_in, y_out (N, M, T, B, 1), s (N, M, T, B, S)."""
        y, s, _ = recur(self.net_x(x), self.recurrent_weight, self.blocks, *self.ranges, self.start)
        y_in, y_out, _ = y[1:].permute(1, 4, 0, 2, 3).clone().split([1, 1, self.cells], dim=-1)
        return y_in, y_out, 2 * s[1:].permute(1, 4, 0, 2, 3)

    def net_x(self, x: Tensor) -> Tensor:
        """What inputs and bias contribute to the net input of every hidden unit: (N, M, T, I) -> (T, N, U, M)."""
        return (self.weighted(x, self.input_weight) + self.padded_bias()).permute(2, 0, 3, 1)

    @staticmethod
    def weighted(z: Tensor, weight: Tensor) -> Tensor:
        """Each trial's z times its own weights (N, R, A): (N, M, T, A) -> (N, M, T, R). One-hot z may be indices (N, M, T)."""
        if not z.is_floating_point():
            offset = weight.shape[2] * torch.arange(len(z), device=z.device)[:, None, None]
            return nn.functional.embedding(z + offset, weight.mT.flatten(0, 1))
        return (z.flatten(1, 2) @ weight.mT).unflatten(1, z.shape[1:3])

    def padded_bias(self) -> Tensor:
        """The bias of every hidden unit, zero for those that have none: (N, 1, 1, U)."""
        return nn.functional.pad(self.bias, (0, 2 + self.cells - self.bias.shape[-1])).flatten(1)[:, None, None]


class InputGateNet(nn.Module):
    """The net of Secs. 5.2a, 5.2b: direct input-output weights, and one memory cell with an input gate and no output gate.

    No bias and no recurrent weight but the cell's own; h is the identity and g the logistic sigmoid in [0, 1] (Table 10).

    Args: as `LSTM`'s.
    """

    def __init__(self, trials: int, inputs: int, outputs: int, *, init: float = 0.2) -> None:
        super().__init__()
        uniform = functools.partial(uniform_weight, init, trials)
        self.direct_weight = uniform(outputs, inputs)  # (N, K, I)
        self.input_weight = uniform(2, inputs)  # (N, 2, I): input gate, cell
        self.output_weight = uniform(outputs, 1)  # (N, K, 1)

    def forward(self, x: Tensor, grown: Tensor) -> Tensor:
        """Activations of the output units at every step: x (N, M, T, I) -> (N, M, T, K).

        grown: (N,), the trials whose cell has been added; the others are without it.
        """
        y_in, g_c = f(LSTM.weighted(x, self.input_weight)).split(1, dim=-1)  # (N, M, T, 1) each
        s = (y_in * g_c).cumsum(2)  # (N, M, T, 1)
        cell_weight = self.output_weight.mT[:, None] * grown[:, None, None, None]  # (N, 1, 1, K)
        return f(LSTM.weighted(x, self.direct_weight) + s * cell_weight)


def squared_error(target: Tensor, y: Tensor) -> Tensor:
    """Half the squared error of every sequence: (..., K), (..., K) -> (...).

    Eq. 16 has no 1/2, but the update rules, Eqs. 19-28, are the gradient of E / 2; the learning rates go with the rules.
    """
    return 0.5 * (target - y).square().sum(-1)


def weights(model: nn.Module) -> int:
    """The number of weights of one trial's net, the column W of Table 10."""
    return sum(p[0].numel() for p in model.parameters())
