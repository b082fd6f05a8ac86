"""Batches of sentence pairs of about one length (Sec. 5.1)."""

from itertools import pairwise

from torch import Tensor

from common.data.order import mix, permuted


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
