"""A run of this folder for other programs: `make export-lstm RUN=runs/lstm/temporal-order-6a/seed0 FORMAT=onnx`."""

from pathlib import Path

import torch
from torch import Tensor, nn

from common import directory
from papers.lstm.model import LSTM, f
from papers.lstm.sequence_end import Config

SHOWN = (
    "one time step of N nets side by side: x (N, M, I), hidden units y (N, M, U) and states s (N, M, B, S) of the step before, "
    "zeros at first; outputs are y and s, and the output units (N, M, K)"
)


class Step(nn.Module):
    """A step, to be repeated: so nothing bounds the length of a sequence."""

    def __init__(self, net: LSTM) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, y: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        net = self.net
        y, s = net.step(x, y, s)
        y_c = y.unflatten(-1, (net.blocks, -1))[..., 2:].flatten(2)
        net_k = y_c @ net.output_weight.mT
        return y, s, f(net_k if net.output_bias is None else net_k + net.output_bias[:, None])


def of_run(folder: Path) -> LSTM:
    """Raises BadInput: it is no folder of a run of experiments 2c to 6, or has no checkpoint."""
    _, config, learned = directory.learned(folder, "lstm", Config)
    net = config.network()
    directory.restore(folder, {"model": learned["model"]}, {"model": net})
    return net.eval()


def parts(net: LSTM) -> dict[str, nn.Module]:
    return {"step": Step(net)}


def inputs(step: Step, n: int) -> dict[str, Tensor]:
    (N, U, I), net = step.net.input_weight.shape, step.net
    return {"x": torch.randn(N, n, I), "y": torch.randn(N, n, U), "s": torch.randn(N, n, net.blocks, net.cells)}
