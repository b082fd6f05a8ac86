"""Sequences per second of the vectorised truncated gradient (model.py) against plain autograd step by step.

    make benchmark-lstm        # both in one process, in alternating blocks; half a minute on one core

Both compute the same gradient (tests/papers/test_lstm_model.py). The plain way, which is how one would write it down first,
builds a graph of every time step and walks back through it.
"""

import functools

import torch
from torch import Tensor

from common.benchmark import compare
from papers.lstm.model import LSTM, f, squared_error
from papers.lstm.tasks import TASKS

TRIALS, UPDATES, BLOCKS = 20, 20, 7


def step_by_step(model: LSTM, x: Tensor, last: Tensor, truncate: bool = True) -> Tensor:
    """`LSTM.forward` as a loop over time: x (N, M, T, I), last (N, M) -> (N, M, K). Untruncated if so asked, for comparison."""
    (N, M, T, _), B, S = x.shape, model.blocks, model.cells
    y, s, outputs = x.new_zeros(N, M, B * (2 + S)), x.new_zeros(N, M, B, S), []
    for t in range(T):
        y, s = model.step(x[:, :, t], y.detach() if truncate else y, s)
        outputs.append(y.unflatten(-1, (B, 2 + S))[..., 2:].flatten(2))  # y_c
    y_c = torch.stack(outputs, 2).take_along_dim(last[:, :, None, None], 2).squeeze(2)
    net_k = y_c @ model.output_weight.mT
    return f(net_k if model.output_bias is None else net_k + model.output_bias[:, None])


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # as in training
    torch.set_default_dtype(torch.float64)
    task = TASKS["temporal-order-6a"]
    model = LSTM(TRIALS, task.inputs, task.outputs, 2, 2, input_gate_bias=(-2.0, -4.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    sequences = task.draw((TRIALS, 1), torch.Generator().manual_seed(0))

    def block(forward):
        for _ in range(UPDATES):
            squared_error(sequences.target, forward(sequences.x, sequences.last)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    variants = {"step by step": functools.partial(step_by_step, model), "vectorised (model.py)": model}
    variants = {name: functools.partial(block, forward) for name, forward in variants.items()}
    compare(variants, UPDATES * TRIALS, "sequences", blocks=BLOCKS)


if __name__ == "__main__":
    main()
