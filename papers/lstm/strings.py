"""The strings of Secs. 5.1, 5.2a and 5.2b, in which the next symbol is predicted at every step."""

from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

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


def recall(p: int, regular: bool, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Experiments 2a (regular) and 2b: x or y, p - 1 of the symbols a_1..a_(p-1) in this order or at random, the same x or y.

    Returns indices (..., p + 1) into a_1..a_(p-1), x, y.
    """
    x_or_y = p - 1 + torch.randint(2, (*shape, 1), generator=generator)
    a = torch.arange(p - 1).expand(*shape, p - 1) if regular else torch.randint(p - 1, (*shape, p - 1), generator=generator)
    return torch.cat([x_or_y, a, x_or_y], -1)
