"""The sequences of Secs. 5.3 and 5.6, freshly drawn for every presentation.

Each task draws any number of sequences at once. Sequences are padded with zeros to the longest possible length, and nothing
after `last` is ever read: activations and states start from zero at the next sequence.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sequences:
    """A number of sequences; (...) is whatever shape they were asked for in.

    x: (..., T, I).    last: (...), the step of the last element, the only one with a target.
    target: (..., K), what training sees.    truth: (..., K), the target without noise, what a result is judged by.
    """

    x: Tensor
    last: Tensor
    target: Tensor
    truth: Tensor

    def __getitem__(self, index: int) -> "Sequences":
        return Sequences(self.x[index], self.last[index], self.target[index], self.truth[index])

    def to(self, device: torch.device) -> "Sequences":
        return Sequences(*(t.to(device, non_blocking=True) for t in (self.x, self.last, self.target, self.truth)))


class Task(Protocol):
    """What a net needs to know of a task, and where its sequences come from."""

    inputs: int
    outputs: int

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Sequences: ...


def _randint(low: int, high: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform over low..high, both included, as the paper counts."""
    return torch.randint(low, high + 1, shape, generator=generator)


@dataclass(frozen=True)
class TemporalOrder:
    """Experiment 6 (Sec. 5.6): classify by the order of two (6a) or three (6b) symbols X or Y, far apart among distractors.

    Starts with E, ends with B; the other symbols are drawn from {a, b, c, d}, except X or Y at one random position in each
    of `positions`. Length uniform in 100..110. The classes are XX, XY, YX, YY (or XXX ... YYY), one-hot.
    """

    positions: tuple[tuple[int, int], ...]
    inputs: int = 8
    symbols: str = "abcdXYEB"

    @property
    def outputs(self) -> int:
        return 2 ** len(self.positions)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Sequences:
        """x (..., 110, 8), targets (..., 4 or 8)."""
        last = _randint(100, 110, shape, generator) - 1
        symbol = _randint(0, 3, (*shape, 110), generator)  # (..., T), indices into `symbols`
        symbol[..., 0] = self.symbols.index("E")
        label = torch.zeros(shape, dtype=torch.int64)
        for low, high in self.positions:
            is_y = _randint(0, 1, shape, generator)
            symbol.scatter_(-1, _randint(low, high, shape, generator)[..., None], self.symbols.index("X") + is_y[..., None])
            label = 2 * label + is_y
        symbol.scatter_(-1, last[..., None], self.symbols.index("B"))
        x = torch.zeros(*shape, 110, self.inputs).scatter_(-1, symbol[..., None], 1.0)  # one-hot
        x *= (torch.arange(110) <= last[..., None])[..., None]
        target = torch.eye(self.outputs)[label]  # one-hot
        return Sequences(x, last, target, target)


@dataclass(frozen=True)
class TwoSequence:
    """Experiment 3 (Sec. 5.3): one real-valued input; the class is in the first elements, the rest is noise.

    The first `informative` (the paper's N) elements are +1 (class 1) or -1 (class 2), those after them Gaussian with
    variance 0.2. Length uniform in T..T + T/10. The variant 3c has targets 0.2 (class 1) and 0.8 (class 2), to which
    training adds Gaussian noise of variance 0.1.
    """

    length: int = 100
    informative: int = 3
    targets: tuple[float, float] = (0.2, 0.8)
    target_variance: float = 0.1
    inputs: int = 1
    outputs: int = 1

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Sequences:
        """x (..., T + T/10, 1), targets (..., 1)."""
        longest = self.length + self.length // 10
        last = _randint(self.length, longest, shape, generator) - 1
        x = 0.2**0.5 * torch.randn(*shape, longest, generator=generator)  # (..., T)
        class_2 = _randint(0, 1, shape, generator)
        x[..., : self.informative] = (1.0 - 2.0 * class_2)[..., None]
        x *= torch.arange(longest) <= last[..., None]
        truth = torch.tensor(self.targets)[class_2][..., None]
        noise = self.target_variance**0.5 * torch.randn(*shape, 1, generator=generator)
        return Sequences(x[..., None], last, truth + noise, truth)


TASKS: dict[str, Task] = {
    "temporal-order-6a": TemporalOrder(positions=((10, 20), (50, 60))),
    "temporal-order-6b": TemporalOrder(positions=((10, 20), (33, 43), (66, 76))),
    "two-sequence-3c": TwoSequence(informative=3),
    "two-sequence-3c-n1": TwoSequence(informative=1),
}
