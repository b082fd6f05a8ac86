"""The paper read otherwise: the readings that are experiments, and the nets and updates that some of them need.

None of it is printed in the paper, but for the last net, which Table 2 compares with.
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn

from papers.lstm.model import LSTM, InputGateNet, f, uniform_weight

LEGEND, IN_LEGEND = {"g_range": 1.0, "h_range": 2.0}, "g in [-1, 1], h in [-2, 2] (legend of Table 10)"
WIDE, BOTH_WIDE = {"g_range": 2.0, "h_range": 2.0}, "g and h both in [-2, 2]"
TWICE = "the gradient of E, not of E / 2 (Eq. 16): twice the rate"
GATES, ONLY_GATES = {"recurrent_into": "gates"}, "hidden units feed the gates only; a cell's net input comes from the inputs"
INPUTS, ONLY_INPUTS = {"recurrent": False}, "hidden units see the inputs only"
CELLS = {"output_bias": True, "sources": "cells"}
DIRECT, TO_OUTPUTS = {"shortcuts": True, "output_bias": True}, "input units feed the output units, which have a bias"
SHUT = {"gate": -3.0, "last_error": "cell", "cell_after": 3_000}
NEARLY_SHUT = "the input gate starts nearly shut (-3), the cell is added after 3,000 sequences and learns from the last error only"
ERROR = {"allowed": (2000, 0), "below": (0.01, 0.01)}  # experiment 4: first the mean error alone
TENTH = {"allowed": (0,), "below": (0.1,)}
READINGS = [  # the experiment that is read otherwise; what its name adds; the cap; the fields that change; the note; the cost
    ("reber-1-5", "legend", 60_000, LEGEND, IN_LEGEND),
    ("reber-1-5", "wide", 60_000, WIDE, BOTH_WIDE),
    ("reber-1-5", "factor-2", 60_000, {"lr": 1.0}, TWICE),
    ("reber-1-5", "per-step", 60_000, {"update": "step"}, "the weights change at every time step"),
    ("reber-1-5", "output-bias", 60_000, {"output_bias": True}, "output units have a bias (283 weights, not 276)"),
    ("reber-1-5", "cell-bias", 60_000, {"biased": "all"}, "cells have a bias, too (282 weights)"),
    ("reber-1-5", "start", 60_000, {"start": 0.5}, "activations start at 0.5 (the authors' later simulator)"),
    ("reber-1-5", "distinct", 60_000, {"distinct": True}, "all strings of a set differ: more long ones"),
    ("reber-1-5", "init", 60_000, {"init": 0.1}, "initial weights in [-0.1, 0.1]"),
    ("reber-1-5", "cells-only", 60_000, {"sources": "cells"}, "cells, but not gates, feed hidden units"),
    ("reber-1-5", "combined", 60_000, CELLS | WIDE, "output bias; gates feed nothing; both ranges [-2, 2]"),
    (
        "reber-1-5", "combined-per-step", 60_000, CELLS | {"update": "step"},
        "output bias; gates feed nothing; the weights change at every time step",
    ),
    ("reber-1-1", "shortcuts", 80_000, DIRECT, f"{TO_OUTPUTS} (320 weights)"),
    ("reber-1-2", "shortcuts", 80_000, DIRECT, f"{TO_OUTPUTS} (332 weights)"),
    ("reber-1-3", "shortcuts", 80_000, DIRECT, f"{TO_OUTPUTS} (332 weights)"),
    ("reber-1-4", "shortcuts", 80_000, DIRECT, f"{TO_OUTPUTS} (320 weights)"),
    ("reber-1-5", "shortcuts", 80_000, DIRECT, f"{TO_OUTPUTS} (332 weights)"),
    ("reber-1-5", "shortcuts-wide", 80_000, DIRECT | WIDE, f"the same, {BOTH_WIDE}"),
    (
        "reber-1-5", "shortcuts-gates-only", 80_000, DIRECT | GATES,
        "shortcuts, output biases, and hidden units feed the gates only: what helps 1 and what helps 2c, together",
    ),
    ("long-lag-2a", "whole-net", 10_000, {"cell_after": 0}, "the cell is there from the start"),
    ("long-lag-2a", "cell-at-4000", 40_000, {"cell_after": 4_000}, "the cell is added after 4,000 sequences"),
    ("long-lag-2a", "closed-gate", 20_000, SHUT, NEARLY_SHUT),
    ("long-lag-2b", "closed-gate", 20_000, SHUT, NEARLY_SHUT),
    (
        "long-lag-2b", "last-error", 60_000, {"gate": -4.0, "last_error": "all", "cell_after": 0},
        "the input gate starts nearly shut (-4), the cell is there from the start, nothing learns from any error but the last",
    ),
    ("long-lag-2c", "inputs-only", 600_000, INPUTS, ONLY_INPUTS),
    ("long-lag-2c", "inputs-only-legend", 600_000, INPUTS | LEGEND, f"{ONLY_INPUTS}; {IN_LEGEND}"),
    ("long-lag-2c", "gates-only", 600_000, GATES, ONLY_GATES),
    ("long-lag-2c-q100", "inputs-only", 600_000, INPUTS, ONLY_INPUTS),
    ("long-lag-2c-q100", "inputs-only-legend", 600_000, INPUTS | LEGEND, f"{ONLY_INPUTS}; {IN_LEGEND}"),
    ("long-lag-2c-q100", "gates-only", 600_000, GATES, ONLY_GATES),
    ("long-lag-2c-q200", "gates-only", 100_000, GATES, ONLY_GATES, "8 min on one CPU core"),
    ("long-lag-2c-q500", "gates-only", 100_000, GATES, ONLY_GATES, "25 min on one CPU core"),
    ("long-lag-2c-q1000", "gates-only", 100_000, GATES, ONLY_GATES, "75 min on one CPU core"),
    ("long-lag-2c", "legend", 150_000, LEGEND, IN_LEGEND),
    ("long-lag-2c", "factor-2", 150_000, {"lr": 0.02}, TWICE),
    ("two-sequence-3a", "gates-only", 150_000, GATES, ONLY_GATES),
    ("two-sequence-3a", "inputs-only", 50_000, INPUTS, ONLY_INPUTS),
    ("two-sequence-3a", "legend", 150_000, LEGEND, IN_LEGEND),
    ("two-sequence-3a", "factor-2", 100_000, {"lr": 2.0}, TWICE),
    (
        "adding-4", "end", 150_000, ERROR | {"task": "adding-4-end"},
        "a marked first pair has marker -1, its value is not set to 0",
    ),
    ("adding-4", "factor-2", 150_000, ERROR | {"lr": 1.0}, TWICE),
    ("adding-4", "legend", 150_000, ERROR | LEGEND, IN_LEGEND),
    (
        "adding-4", "output-gates", 150_000, ERROR | {"output_gate_bias": (-3.0, -6.0)},
        "output-gate biases -3, -6 (Sec. 4 lists experiment 4)",
    ),
    ("adding-4", "wide-factor-2", 250_000, ERROR | {"lr": 1.0} | WIDE, f"{BOTH_WIDE}; twice the rate"),
    ("adding-4", "gates-only", 150_000, ERROR | GATES, ONLY_GATES),
    (
        "multiplication-5", "wide-factor-2", 1_300_000, {"lr": 0.2} | WIDE, f"{BOTH_WIDE}; twice the rate",
        "2 h on one CPU core",
    ),
    ("temporal-order-6a", "gates-only", 100_000, TENTH | GATES, ONLY_GATES),
    ("temporal-order-6a", "inputs-only", 50_000, TENTH | INPUTS, ONLY_INPUTS),
    ("temporal-order-6a", "legend", 100_000, TENTH | LEGEND, IN_LEGEND),
    ("temporal-order-6a", "factor-2", 100_000, TENTH | {"lr": 1.0}, TWICE),
]  # fmt: skip


def cut(weight: nn.Parameter, keep: Tensor) -> None:
    """Take connections away for good: weight (N, R, A), keep (R, A), 1 or 0."""
    weight.data *= keep
    weight.register_hook(lambda gradient: gradient * keep)


def units(model: LSTM, gates: float, cells: float) -> Tensor:
    """One number for each hidden unit, gates and cells: (U,)."""
    numbers = model.recurrent_weight.new_full((model.blocks, 2 + model.cells), cells)
    numbers[:, :2] = gates
    return numbers.flatten()


class Shortcuts(LSTM):
    """Input units feed the output units, too, as in Sec. 5.2a.

    Args: as `LSTM`'s.
    """

    def __init__(self, trials: int, inputs: int, outputs: int, *args: Any, **options: Any) -> None:
        super().__init__(trials, inputs, outputs, *args, **options)
        self.direct_weight = uniform_weight(options["init"], trials, outputs, inputs)  # (N, K, I)

    def net_k(self, x: Tensor, last: Tensor | None = None) -> Tensor:
        if last is not None:
            raise ValueError("with an error at every step only")
        return super().net_k(x) + self.weighted(x, self.direct_weight)


class LastErrorNet(InputGateNet):
    """The net of Sec. 5.2a whose cell learns from the error at the last step only, its direct weights from that of all.

    Args: as `InputGateNet`'s.
    """

    def forward(self, x: Tensor, grown: Tensor) -> Tensor:
        y_in, g_c = f(LSTM.weighted(x, self.input_weight)).split(1, dim=-1)
        cell = (y_in * g_c).cumsum(2) * self.output_weight.mT[:, None] * grown[:, None, None, None]  # (N, M, T, K)
        cell = torch.cat([cell[:, :, :-1].detach(), cell[:, :, -1:]], 2)
        return f(LSTM.weighted(x, self.direct_weight) + cell)


@torch.no_grad()
def learn_step_by_step(model: LSTM, x: Tensor, target: Tensor, length: Tensor, lr: float, learning: Tensor) -> Tensor:
    """Eqs. 19-28 as they are written, one sequence for each trial, with weights that change at every time step.

    `Recurrence` computes the same changes for a whole sequence at once; here the derivatives of the states, which are carried
    forward, are those of earlier weights.

    Args:
        x: (N, T, I).    target: (N, T, K).    length: (N,), the steps that have a target.
        lr: alpha.       learning: (N,), bool, the trials whose weights may change.

    Returns:
        (N, T, K), the activations of the output units at each step, before its change of weights.
    """
    (N, T, I), B, S = x.shape, model.blocks, model.cells
    g_range, h_range = model.ranges
    weight = torch.cat([model.input_weight, model.recurrent_weight, model.padded_bias().squeeze(1).mT], 2)  # (N, U, Z)
    may_change = torch.ones_like(weight[:1]).unflatten(1, (B, 2 + S))
    may_change[:, :, model.bias.shape[-1] :, -1] = 0  # units without a bias weight
    V = model.output_weight  # (N, K, B S)

    y = x.new_full((N, B * (2 + S)), model.start)
    s = x.new_zeros(N, B, S)
    ds_in, ds_c = x.new_zeros(2, N, B, S, weight.shape[2])  # derivatives of the states by the weights into gate and cell
    outputs = []
    for t in range(T):
        z = torch.cat([x[:, t], y, x.new_ones(N, 1)], 1)  # (N, Z)
        net = (weight @ z[:, :, None]).view(N, B, 2 + S)
        y_in, y_out = f(net[..., :1]), f(net[..., 1:2])
        tanh = torch.tanh(0.5 * net[..., 2:])
        z = z[:, None, None]  # (N, 1, 1, Z)
        ds_in += (g_range * tanh * y_in * (1 - y_in))[..., None] * z  # Eq. 25
        ds_c += (g_range / 2 * (1 - tanh.square()) * y_in)[..., None] * z  # Eq. 27
        s = s + y_in * g_range * tanh
        squashed = torch.tanh(0.5 * s)
        y_c = y_out * h_range * squashed
        net_k = (V @ y_c.flatten(1)[:, :, None]).squeeze(2)
        y_k = f(net_k if model.output_bias is None else net_k + model.output_bias)
        outputs.append(y_k)

        alpha = lr * (learning & (t < length)).to(x)[:, None]  # (N, 1)
        e_k = alpha * y_k * (1 - y_k) * (target[:, t] - y_k)  # Eq. 19
        back = (e_k[:, None] @ V).view(N, B, S)
        e_out = y_out * (1 - y_out) * (h_range * squashed * back).sum(2, keepdim=True)  # Eq. 21
        e_s = y_out * (h_range / 2) * (1 - squashed.square()) * back  # Eq. 23
        into_in = (e_s[..., None] * ds_in).sum(2, keepdim=True)  # Eq. 26
        change = torch.cat([into_in, e_out[..., None] * z, e_s[..., None] * ds_c], 2)  # Eqs. 22, 28
        weight += (may_change * change).flatten(1, 2)
        V += e_k[:, :, None] * y_c.flatten(1)[:, None]  # Eq. 22
        if model.output_bias is not None:
            model.output_bias += e_k
        y = torch.cat([y_in, y_out, y_c], 2).flatten(1)

    model.input_weight.copy_(weight[:, :, :I])
    model.recurrent_weight.copy_(weight[:, :, I:-1])
    model.bias.copy_(weight[:, :, -1].view(N, B, 2 + S)[..., : model.bias.shape[-1]])
    return torch.stack(outputs, 1)


class SelfRecurrentNet(nn.Module):
    """Inputs and one logistic hidden unit that sees itself; outputs see both (Sec. 5.2a: 36, 144 and 10404 weights, no bias).

    Args: as `LSTM`'s.
    """

    def __init__(self, trials: int, inputs: int, outputs: int, *, init: float = 0.2) -> None:
        super().__init__()
        uniform = functools.partial(uniform_weight, init, trials)
        self.direct_weight = uniform(outputs, inputs)  # (N, K, I)
        self.input_weight = uniform(1, inputs)  # (N, 1, I)
        self.recurrent_weight = uniform(1, 1)  # (N, 1, 1)
        self.output_weight = uniform(outputs, 1)  # (N, K, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, M, T, I) -> activations of the output units at every step (N, M, T, K)."""
        net_x = LSTM.weighted(x, self.input_weight)  # (N, M, T, 1)
        y = torch.zeros_like(net_x[:, :, 0])  # (N, M, 1)
        hidden = []
        for net_t in net_x.unbind(2):
            y = f(torch.addcmul(net_t, self.recurrent_weight, y))
            hidden.append(y)
        hidden = torch.stack(hidden, 2)  # (N, M, T, 1)
        return f(LSTM.weighted(x, self.direct_weight) + hidden * self.output_weight.mT[:, None])
