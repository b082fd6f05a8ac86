"""Nets and updates that the paper does not print, for the readings of train.py."""

from typing import Any

import torch
from torch import Tensor, nn

from papers.lstm.model import LSTM, InputGateNet, f, uniform_weight


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
