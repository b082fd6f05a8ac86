"""Long Short-Term Memory. S. Hochreiter, J. Schmidhuber. Neural Computation 9(8):1735-1780, 1997.

Implemented: the memory-cell blocks of Sec. 4 with the truncated gradient of appendix A.1 (`LSTM`: Secs. 5.1, 5.2c and
5.3-5.6), and the net of Secs. 5.2a and 5.2b, whose one cell has an input gate only (`InputGateNet`).
Not in this paper, so not here: forget gates (Gers et al. 2000), peepholes, tanh, softmax, momentum, mini-batches. The untruncated
gradient, which Sec. 6 tried and found no better, is left out too.

Sec. 5 reports means over 10 to 30 independent trials. Trials are a batch dimension: every trial has its own weights and its own
sequences, nothing is shared between them, and thirty cost about as much as one.

Shapes:  N trials   M sequences for each trial   T time steps   I inputs   K outputs
         B memory cell blocks   S cells in a block   U = B (2 + S) hidden units: each block's input gate, output gate, cells
"""

import functools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Biased = Literal["all", "gates", "none"]  # which hidden units have a bias weight (Table 10): "all", "gates" or "none"


def f(x: Tensor) -> Tensor:
    """Logistic sigmoid, range [0, 1]: gates and output units (Eq. 3)."""
    return torch.sigmoid(x)


def h(x: Tensor) -> Tensor:
    """2 / (1 + exp(-x)) - 1, range [-1, 1]: squashes the cell state on its way out (Eq. 4)."""
    return torch.tanh(0.5 * x)


def g(x: Tensor) -> Tensor:
    """4 / (1 + exp(-x)) - 2, range [-2, 2]: squashes the cell input (Eq. 5)."""
    return 2 * torch.tanh(0.5 * x)


def uniform_weight(init: float, *shape: int) -> nn.Parameter:
    """Initial weights, uniform in [-init, init] (Table 10)."""
    return nn.Parameter(torch.empty(*shape).uniform_(-init, init))


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
    ) -> None:
        super().__init__()
        self.blocks, self.cells = blocks, cells
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

    def forward(self, x: Tensor, last: Tensor | None = None) -> Tensor:
        """Activations of the output units.

        Its gradient is the truncated one of appendix A.1: an error that reaches a gate or a cell input changes the weights
        into it and flows no further back; inside a cell it flows back unchanged through s_c(t) = s_c(t-1) + ... for ever.
        So whatever enters a unit over a recurrent connection is a constant. `recur` computes those constants without a
        graph; given them, all time steps are one vectorised pass, in which s_c is a running sum.

        Args:
            x: (N, M, T, I).
            last: (N, M), the step at which to read the outputs; None reads them at every step.

        Returns:
            (N, M, K), or (N, M, T, K) where `last` is None.
        """
        _, y_out, s = self.states(x)
        if last is not None:
            y_out, s = (v.take_along_dim(last[:, :, None, None, None], 2) for v in (y_out, s))
        y_c = y_out * h(s)  # y_c(t) = y_out(t) h(s_c(t)): (N, M, T or 1, B, S)

        net_k = self.weighted(y_c.flatten(3), self.output_weight)  # (N, M, T or 1, K)
        if self.output_bias is not None:
            net_k = net_k + self.output_bias[:, None, None]
        y_k = f(net_k)
        return y_k if last is None else y_k.squeeze(2)

    def states(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gate activations and cell states over time: x (N, M, T, I) -> y_in, y_out (N, M, T, B, 1), s (N, M, T, B, S)."""
        net_x, bias = self.weighted(x, self.input_weight), self.padded_bias()  # (N, M, T, U), (N, 1, 1, B, 2 + S)
        y_before = self.recur(net_x + bias.flatten(3))  # (N, M, T, U), y(t-1), without gradient
        net = net_x + self.weighted(y_before, self.recurrent_weight)  # (N, M, T, U)
        net = net.unflatten(-1, (self.blocks, 2 + self.cells)) + bias  # (N, M, T, B, 2 + S)
        y_in, y_out = f(net[..., :1]), f(net[..., 1:2])
        s = (y_in * g(net[..., 2:])).cumsum(2)  # s_c(0) = 0, s_c(t) = s_c(t-1) + y_in(t) g(net_c(t))
        return y_in, y_out, s

    @torch.no_grad()
    def recur(self, net_x: Tensor) -> Tensor:
        """Hidden activations one step before each step, zero before the first: (N, M, T, U) -> (N, M, T, U).

        net_x: what inputs and bias contribute to the net input of every hidden unit.

        The only part that cannot be vectorised over time, and where training spends most of its time: six small operations
        a step, in place.
        """
        (N, M, T, _), B, S = net_x.shape, self.blocks, self.cells
        net_x = net_x.permute(2, 0, 3, 1).contiguous()  # (T, N, U, M)

        y = net_x.new_zeros(T + 1, N, B, 2 + S, M)  # y[t + 1] is y(t); y[0] is zero
        s = net_x.new_zeros(N, B, S, M)
        squashed = torch.empty_like(s)
        # Views of every step, taken once.
        units = y.flatten(2, 3).unbind()  # (N, U, M)
        y_in, y_out, y_c = y[:, :, :, :1].unbind(), y[:, :, :, 1:2].unbind(), y[:, :, :, 2:].unbind()
        for t, net_t in enumerate(net_x.unbind()):
            torch.baddbmm(net_t, self.recurrent_weight, units[t], out=units[t + 1]).sigmoid_()
            torch.sub(y_c[t + 1], 0.5, out=squashed)  # g(net_c) = 4 (f(net_c) - 1/2)
            s.addcmul_(y_in[t + 1], squashed, value=4)
            torch.mul(s, 0.5, out=squashed).tanh_()  # h(s_c)
            torch.mul(y_out[t + 1], squashed, out=y_c[t + 1])
        return y[:-1].flatten(2, 3).permute(1, 3, 0, 2)

    @staticmethod
    def weighted(z: Tensor, weight: Tensor) -> Tensor:
        """Each trial's z times its own weights: (N, M, T, A), (N, R, A) -> (N, M, T, R)."""
        return (z.flatten(1, 2) @ weight.mT).unflatten(1, z.shape[1:3])

    def padded_bias(self) -> Tensor:
        """The bias of every hidden unit, zero for those that have none: (N, 1, 1, B, 2 + S)."""
        return nn.functional.pad(self.bias, (0, 2 + self.cells - self.bias.shape[-1]))[:, None, None]


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

    def forward(self, x: Tensor) -> Tensor:
        """x (N, M, T, I) -> activations of the output units at every step (N, M, T, K)."""
        y_in, g_c = f(LSTM.weighted(x, self.input_weight)).split(1, dim=-1)  # (N, M, T, 1) each
        s = (y_in * g_c).cumsum(2)  # (N, M, T, 1)
        return f(LSTM.weighted(x, self.direct_weight) + LSTM.weighted(s, self.output_weight))


def squared_error(target: Tensor, y: Tensor) -> Tensor:
    """Half the squared error of every sequence: (..., K), (..., K) -> (...).

    Eq. 16 has no 1/2, but the update rules, Eqs. 19-28, are the gradient of E / 2; the learning rates go with the rules.
    """
    return 0.5 * (target - y).square().sum(-1)


def weights(model: nn.Module) -> int:
    """The number of weights of one trial's net, the column W of Table 10."""
    return sum(p[0].numel() for p in model.parameters())
