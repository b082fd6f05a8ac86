"""Sequences of different lengths on one device, and batches of about one length."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from common.data.order import mix, permuted


@dataclass(frozen=True)
class Ragged:
    """Sequences of different lengths, one after the other."""

    tokens: Tensor  # (all of them,), int32
    lengths: Tensor  # (n,), int64, on the CPU, so that a batch's shape needs no synchronisation

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def starts(self) -> Tensor:
        """Where each begins, on the device of the tokens: (n,), int64."""
        return (self.lengths.cumsum(0) - self.lengths).to(self.tokens.device)

    def to(self, device: torch.device) -> "Ragged":
        return Ragged(self.tokens.to(device), self.lengths)

    def subset(self, keep: Tensor) -> "Ragged":
        """The sequences where keep (n,), bool, is True."""
        return Ragged(self.tokens[keep.repeat_interleave(self.lengths)], self.lengths[keep])

    def padded(self, rows: Tensor, pad: int = 0) -> Tensor:
        """The sequences of these numbers (B,), which are on the CPU, padded to the longest: (B, T), int64, where the tokens are."""
        lengths, device = self.lengths[rows], self.tokens.device
        places = torch.arange(int(lengths.max()), device=device)
        index = self.starts[rows.to(device, non_blocking=True)][:, None] + places
        inside = places < lengths.to(device, non_blocking=True)[:, None]
        return self.tokens[index.clamp_(max=len(self.tokens) - 1)].long().where(inside, pad)


def ragged(sequences: Iterable[Sequence[int]]) -> Ragged:
    """Sequences of token numbers, one after the other."""
    import numpy as np

    arrays = [np.asarray(sequence, np.int32) for sequence in sequences]
    return Ragged(torch.from_numpy(np.concatenate(arrays)), torch.tensor([len(array) for array in arrays]))


def by_length(lengths: Tensor, tokens: int) -> Iterator[Tensor]:
    """Numbers of sequences in batches of about one length, of at most so many tokens with padding, the longest first."""
    order, start = lengths.sort(descending=True).indices, 0
    while start < len(order):
        stop = start + max(1, tokens // int(lengths[order[start]]))
        yield order[start:stop]
        start = stop


class Bucketed:
    """Batches of samples of about one length, a pure function of (seed, step): in each epoch every sample once, in another order.

    The samples of an epoch, shuffled, are sorted by length, the longest first, and cut wherever a side of a batch would hold
    more than so many tokens with its padding. The batches are shuffled.

    Args:
        lengths: of each sample's sides (n, sides), on the CPU.
        tokens: a side of a batch has at most so many, its padding among them; no less than the longest side.
    """

    def __init__(self, lengths: Tensor, tokens: int, seed: int) -> None:
        self.lengths, self.tokens, self.seed, self.epoch = lengths, tokens, seed, -1
        longest = lengths.max(1).values
        self.key = longest * (int(longest.max()) + 1) + lengths[:, 0]  # within one length by the first side: less padding
        widths = longest.sort(descending=True).values.tolist()
        cuts = [0]
        while cuts[-1] < len(widths):
            cuts.append(min(cuts[-1] + tokens // widths[cuts[-1]], len(widths)))
        if len(cuts) > 2:
            cuts[-2] = min(cuts[-2], (cuts[-3] + cuts[-1]) // 2)  # what is left over at the end is shared by two batches
        self.cuts = cuts
        self.smallest = min(b - a for a, b in pairwise(cuts))  # samples in the smallest batch

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.cuts) - 1

    def padding(self) -> float:
        """The share of all positions that are padding, in the first epoch."""
        batches = [self.lengths[self.batch(step)] for step in range(len(self))]
        positions = sum(len(lengths) * int(lengths.max(0).values.sum()) for lengths in batches)
        return 1 - int(self.lengths.sum()) / positions

    def batch(self, step: int) -> Tensor:
        """The numbers of a step's samples (B,)."""
        epoch, at = divmod(step, len(self))
        if epoch != self.epoch:
            shuffled = permuted(n := len(self.key), mix(self.seed, "epoch"), epoch * n, (epoch + 1) * n)
            self.order = shuffled[self.key[shuffled].sort(stable=True, descending=True).indices]
            self.batches = permuted(len(self), mix(self.seed, "batches"), epoch * len(self), (epoch + 1) * len(self))
            self.epoch = epoch
        which = int(self.batches[at])
        return self.order[self.cuts[which] : self.cuts[which + 1]]
