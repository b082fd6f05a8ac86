"""The net that Table 2 compares with: one self-recurrent hidden unit, learnt by its exact gradient.

RTRL and BPTT compute the same gradient; they differ in what it costs. With weights that change after a sequence, this is both.
"""

import functools

import torch
from torch import Tensor, nn

from papers.lstm.model import LSTM, f, uniform_weight


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
