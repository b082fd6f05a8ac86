"""Sequences of different lengths on one device, and batches of about one length."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


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
