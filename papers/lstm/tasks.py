"""The sequences of Sec. 5 in its order, all of them generated.

Secs. 5.1, 5.2a and 5.2b: strings in which the next symbol is predicted at every step.

TASKS, Secs. 5.2c and 5.3-5.6: freshly drawn for every presentation; the target belongs to the last element. Each task draws any
number of sequences at once. They are padded with zeros to the longest possible length, and nothing after `last` is ever read:
activations and states start from zero at the next sequence.
"""

from dataclasses import dataclass
from random import Random
from typing import Literal, Protocol

import torch
from torch import Tensor

from common.data.order import mix

SYMBOLS = "BTPSXVE"
REBER = {  # state -> symbol -> state; both symbols of a branch have probability 1/2 (Fig. 3)
    0: {"B": 1}, 1: {"T": 2, "P": 3}, 2: {"S": 2, "X": 4}, 3: {"T": 3, "V": 5}, 4: {"X": 3, "S": 6}, 5: {"P": 4, "V": 6},
    6: {"E": None},
}  # fmt: skip


def embedded_reber(random: Random) -> tuple[str, tuple[str, ...]]:
    """A string of the embedded Reber grammar (Fig. 4), and for each symbol but the first all that might have stood there."""
    outer = random.choice("TP")
    string, legal, state = "B" + outer, ["TP"], 0
    while state is not None:
        legal.append("".join(REBER[state]))
        string += random.choice(legal[-1])
        state = REBER[state][string[-1]]
    return string + outer + "E", (*legal, outer, "E")


def reber_set(n: int, random: Random, distinct: bool, other_than: dict[str, tuple[str, ...]]) -> list[tuple[str, tuple[str, ...]]]:
    """n strings that are none of `other_than`; distinct: no two of them the same."""
    found: list[tuple[str, tuple[str, ...]]] = []
    seen = dict(other_than)
    while len(found) < n:
        string, legal = embedded_reber(random)
        if string not in seen:
            found.append((string, legal))
            if distinct:
                seen[string] = legal
    return found


@dataclass(frozen=True)
class Strings:
    """n strings, padded with zeros: x (n, T, 7), all symbols but the last; target (n, T, 7), all but the first; legal
    (n, T, 7), bool, what might have stood in the target's place; length (n,), of x."""

    x: Tensor
    target: Tensor
    legal: Tensor
    length: Tensor


def encode(strings: list[tuple[str, tuple[str, ...]]], T: int) -> Strings:
    """One-hot, padded to T steps."""
    x, target = torch.zeros(2, len(strings), T, len(SYMBOLS))
    legal = torch.zeros(len(strings), T, len(SYMBOLS), dtype=torch.bool)
    for i, (string, possible) in enumerate(strings):
        for t, (symbol, following) in enumerate(zip(string, possible, strict=False)):
            x[i, t, SYMBOLS.index(symbol)] = 1
            target[i, t, SYMBOLS.index(string[t + 1])] = 1
            legal[i, t, [SYMBOLS.index(s) for s in following]] = True
    return Strings(x, target, legal, torch.tensor([len(string) - 1 for string, _ in strings]))


def reber_sets(sets: int, n: int, distinct: bool, seed: int) -> tuple[list[Strings], list[Strings]]:
    """Of pairs of a training and a test set of n strings each: the training sets, and for each pair all its different strings."""
    train, every, pairs = [], [], []
    for number in range(sets):
        random = Random(mix(seed, "strings", number))
        learnt = reber_set(n, random, distinct, {})
        unseen = reber_set(n, random, distinct, dict(learnt))
        pairs.append((learnt, list(dict(learnt + unseen).items())))
    T = max(len(string) - 1 for _, all_of_pair in pairs for string, _ in all_of_pair)
    M = max(len(all_of_pair) for _, all_of_pair in pairs)
    for learnt, all_of_pair in pairs:
        train.append(encode(learnt, T))
        every.append(encode(all_of_pair + all_of_pair[:1] * (M - len(all_of_pair)), T))  # as many in each: the first again
    return train, every


def recall(p: int, regular: bool, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Experiments 2a (regular) and 2b: x or y, p - 1 of the symbols a_1..a_(p-1) in this order or at random, the same x or y.

    Returns indices (..., p + 1) into a_1..a_(p-1), x, y.
    """
    x_or_y = p - 1 + torch.randint(2, (*shape, 1), generator=generator)
    a = torch.arange(p - 1).expand(*shape, p - 1) if regular else torch.randint(p - 1, (*shape, p - 1), generator=generator)
    return torch.cat([x_or_y, a, x_or_y], -1)


@dataclass(frozen=True)
class Sequences:
    """A number of sequences; (...) is whatever shape they were asked for in.

    x: (..., T, I), or indices (..., T) of one-hot inputs.    last: (...), the step of the last element, the only one with a target.
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
class LongLag:
    """Experiment 2c (Sec. 5.2): recall the second symbol after q distractors or more; p of the p + 4 symbols are distractors.

    The symbols are a_1..a_p, e, b, x, y. A sequence is b, then x or y, then q distractors, then with probability 9/10 another
    distractor, with 1/10 the trigger e, after which the second symbol comes again: the target at e, one-hot in two units.
    """

    lag: int = 50
    distractors: int = 50
    outputs: int = 2

    @property
    def inputs(self) -> int:
        return self.distractors + 4

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Sequences:
        """x (..., T), indices, with T the longest length drawn, targets (..., 2)."""
        e, b, x_or_y = self.distractors, self.distractors + 1, self.distractors + 2
        last = self.lag + 1 + torch.empty(shape).geometric_(0.1, generator=generator).long()  # b, x or y, q + 0, 1, ..., e
        longest = int(last.max()) + 1
        symbol = _randint(0, self.distractors - 1, (*shape, longest), generator)  # (..., T)
        label = _randint(0, 1, shape, generator)
        symbol[..., 0] = b
        symbol[..., 1] = x_or_y + label
        symbol.scatter_(-1, last[..., None], e)
        target = torch.eye(2)[label]
        return Sequences(symbol, last, target, target)


@dataclass(frozen=True)
class TwoSequence:
    """Experiment 3 (Sec. 5.3): one real-valued input; the class is in the first elements, the rest is noise.

    The first `informative` (the paper's N) elements are +1 (class 1) or -1 (class 2), those after them Gaussian with
    variance 0.2. Length uniform in T..T + T/10. In 3b the first elements have that noise, too; 3c has targets 0.2 (class 1)
    and 0.8 (class 2), to which training adds Gaussian noise of variance 0.1.
    """

    length: int = 100
    informative: int = 3
    noisy: bool = False
    targets: tuple[float, float] = (1.0, 0.0)
    target_variance: float = 0.0
    inputs: int = 1
    outputs: int = 1

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Sequences:
        """x (..., T + T/10, 1), targets (..., 1)."""
        longest = self.length + self.length // 10
        last = _randint(self.length, longest, shape, generator) - 1
        x = 0.2**0.5 * torch.randn(*shape, longest, generator=generator)  # (..., T)
        class_2 = _randint(0, 1, shape, generator)
        x[..., : self.informative] = x[..., : self.informative] * self.noisy + (1.0 - 2.0 * class_2)[..., None]
        x *= torch.arange(longest) <= last[..., None]
        truth = torch.tensor(self.targets)[class_2][..., None]
        noise = self.target_variance**0.5 * torch.randn(*shape, 1, generator=generator)
        return Sequences(x[..., None], last, truth + noise, truth)


@dataclass(frozen=True)
class Adding:
    """Experiments 4 and 5 (Secs. 5.4, 5.5): the sum or the product of two marked values.

    A sequence of pairs, a value and a marker; length uniform in T..T + T/10. One of the first ten pairs is marked (X1), and one
    of the first T/2 - 1 pairs that are left (X2). Values are uniform in [-1, 1] (sum) or [0, 1] (product); the target is
    0.5 + (X1 + X2) / 4, or X1 X2. Markers are 1 for marked pairs, -1 for the first and the last pair, else 0.

    Where the first pair is a marked one, its value counts as 0 in a sum and as 1 in a product. first_pair: "marked", its marker
    is 1 and its value is set to that; "end", its marker is -1 and its value is left as it was drawn.
    """

    length: int = 100
    product: bool = False
    first_pair: Literal["marked", "end"] = "marked"
    inputs: int = 2
    outputs: int = 1

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Sequences:
        """x (..., T + T/10, 2), targets (..., 1)."""
        longest, half = self.length + self.length // 10, self.length // 2
        last = _randint(self.length, longest, shape, generator)[..., None] - 1  # (..., 1)
        value = torch.rand(*shape, longest, generator=generator)  # (..., T)
        if not self.product:
            value = 2 * value - 1
        first = _randint(0, 9, shape, generator)[..., None]
        second = _randint(0, half - 2, shape, generator)[..., None]
        second = second + (second >= first)
        marked = torch.cat([first, second], -1)  # (..., 2)
        counts = value.gather(-1, marked).masked_fill_(marked == 0, float(self.product))  # X1, X2
        marker = torch.zeros_like(value)
        marker[..., 0] = -1.0
        marker.scatter_(-1, last, -1.0)
        if self.first_pair == "marked":
            marker.scatter_(-1, marked, 1.0)
            value.scatter_(-1, marked, counts)
        else:
            marker.scatter_(-1, marked, torch.where(marked == 0, -1.0, 1.0))
        x = torch.stack([value, marker], -1) * (torch.arange(longest) <= last)[..., None]
        target = counts.prod(-1, keepdim=True) if self.product else 0.5 + counts.sum(-1, keepdim=True) / 4
        return Sequences(x, last[..., 0], target, target)


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


NOISY_TARGETS = {"targets": (0.2, 0.8), "target_variance": 0.1}
TASKS: dict[str, Task] = {
    "long-lag-2c": LongLag(50, 50),
    **{f"long-lag-2c-q{q}": LongLag(q, q) for q in (100, 200, 500, 1000)},
    **{f"long-lag-2c-q1000-p{p}": LongLag(1000, p) for p in (500, 200, 100, 50)},
    "two-sequence-3a": TwoSequence(),
    "two-sequence-3a-n1": TwoSequence(informative=1),
    "two-sequence-3a-t1000": TwoSequence(length=1000),
    "two-sequence-3b": TwoSequence(noisy=True),
    "two-sequence-3b-n1": TwoSequence(informative=1, noisy=True),
    "two-sequence-3b-t1000": TwoSequence(length=1000, informative=1, noisy=True),
    "two-sequence-3c": TwoSequence(**NOISY_TARGETS),
    "two-sequence-3c-n1": TwoSequence(informative=1, **NOISY_TARGETS),
    "adding-4": Adding(),
    "adding-4-end": Adding(first_pair="end"),
    "adding-4-t500": Adding(length=500),
    "adding-4-t1000": Adding(length=1000),
    "multiplication-5": Adding(product=True),
    "multiplication-5-end": Adding(product=True, first_pair="end"),
    "temporal-order-6a": TemporalOrder(positions=((10, 20), (50, 60))),
    "temporal-order-6b": TemporalOrder(positions=((10, 20), (33, 43), (66, 76))),
}
