"""Randomness as a pure function of where a run stands, so that resuming needs neither replay nor saved generators."""

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def mix(*parts: Any) -> int:
    """A seed (63 bits) from the repr of anything: mix(seed, step, rank), mix(seed, "augment", step)."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1


@functools.lru_cache(maxsize=2)
def _permutation(n: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(mix("order", seed, epoch)))


def permuted(n: int, seed: int, start: int, stop: int) -> Tensor:
    """Indices start..stop of an endless stream of permutations of range(n): (stop - start,), int64.

    Batch k is permuted(n, seed, k * size, (k + 1) * size). Every batch is full, and every n indices hold every sample once:
    a batch that crosses the end of an epoch takes the rest from the next permutation.
    """
    pieces = []
    while start < stop:
        epoch, offset = divmod(start, n)
        pieces.append(_permutation(n, seed, epoch)[offset : offset + stop - start])
        start += len(pieces[-1])
    return torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.int64)


def share(n: int, rank: int, processes: int) -> slice:
    """The part of n items that belongs to one of several processes, sizes as torch.tensor_split makes them."""
    size, rest = divmod(n, processes)
    start = rank * size + min(rank, rest)
    return slice(start, start + size + (rank < rest))


def shuffled(n: int, batch_size: int, seed: int) -> Callable[[int], Tensor]:
    """step -> the numbers of a batch's samples, (batch_size,): one permutation of all n after another, as `permuted` has them."""
    return lambda step: permuted(n, seed, step * batch_size, (step + 1) * batch_size)
