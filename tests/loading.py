"""The training script of a paper that does not exist: it learns from samples that worker processes draw.

What it saw is its only state, and goes into checkpoints: which samples each update had, and what their generators drew.
"""

import os
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.claims import Experiment
from common.command import reproduce
from common.data.order import shuffled
from common.errors import BadInput
from common.run import Run

SAMPLES, EXAMPLES = 10, 7


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of nothing."""

    batch_size: int = 4
    """Samples in a global batch."""
    steps: int = 12
    """Updates."""
    seconds: float = 0.0
    """That a sample takes."""
    bad: int = -1
    """The sample that cannot be read."""
    deadly: int = -1
    """The sample that kills who reads it."""
    fails_at: int = -1
    """The update that raises what nobody expects."""
    dies_at: int = -1
    """The update that kills the last process."""
    hangs: int = -1
    """The sample that never comes."""


EXPERIMENTS = {"smoke": Experiment(Config(), kind="smoke", source="None", cost="1 s", log_every=2, checkpoint_every=0)}


class Seen(nn.Module):
    """Rows of (sample, what its generator drew)."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.full((rows, 2), -1.0, dtype=torch.float64))


def train(run: Run[Config]) -> dict[str, float]:
    config, B = run.config, run.config.batch_size
    run.describe_data(name="drawn", train=SAMPLES, test=EXAMPLES, stand_in=True)
    seen = run.prepare(seen=Seen(config.steps * B))[0]

    def sample(index: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        time.sleep(config.seconds)
        if index == config.hangs:
            time.sleep(600)
        if index == config.bad:
            raise BadInput(f"sample {index} cannot be read")
        if index == config.deadly:
            os.kill(os.getpid(), 9)
        return torch.tensor(index), torch.rand((), generator=generator, dtype=torch.float64)

    training, testing = run.reader(sample), run.reader(sample)
    batches = run.loaded(
        training, shuffled(SAMPLES, B, run.seed), steps=config.steps
    )  # with a name a traceback keeps it, as a careless script would
    for step, (index, drawn) in batches:
        if step == config.dies_at and run.rank == run.processes - 1:
            os.kill(os.getpid(), 9)
        if step == config.fails_at:
            raise RuntimeError("nobody expects this")
        rows = run.gather(torch.stack([index.double(), drawn], 1), B)
        seen.rows[step * B : (step + 1) * B] = rows
        run.log(drawn=drawn.sum() * run.processes / B, default=torch.rand(()))
    for first in (0, EXAMPLES):  # again and again, by the same processes
        examples = torch.cat([index for index, _ in run.examples(testing, EXAMPLES, 2, first)])
        assert run.gather(examples, EXAMPLES).tolist() == list(range(first, first + EXAMPLES))
    return {"drawn": seen.rows[:, 1].sum().item()}


if __name__ == "__main__":
    reproduce(EXPERIMENTS, train)
