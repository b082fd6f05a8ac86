"""Batches as a pure function of (seed, step)."""

import pytest
import torch

from common.data.order import mix, permuted, share
from tests.start import finish, processes


def test_mix_depends_on_every_part_and_on_nothing_else():
    assert mix(0, "train", 7) == mix(0, "train", 7) == 1449540717396838511
    seeds = {mix(seed, what, step) for seed in range(10) for what in ("train", "test") for step in range(50)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_permuted_is_an_endless_stream_of_permutations():
    stream = permuted(10, 3, 0, 45)
    for epoch in range(4):
        assert stream[10 * epoch : 10 * epoch + 10].sort().values.tolist() == list(range(10))
    assert stream[:10].tolist() != stream[10:20].tolist(), "every epoch has its own order"
    assert permuted(10, 4, 0, 10).tolist() != stream[:10].tolist(), "every seed has its own order"
    for start in range(0, 40, 7):  # any piece alone is the piece of the whole, over the ends of epochs too
        assert permuted(10, 3, start, start + 7).tolist() == stream[start : start + 7].tolist()
    assert permuted(10, 3, 5, 5).tolist() == []
    assert len(permuted(3, 0, 1, 12)) == 11, "a batch may be larger than the data set"


@pytest.mark.parametrize("n", [0, 1, 5, 12, 13])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_share_is_tensor_split(n, count):
    items = torch.arange(n)
    shares = [items[share(n, rank, count)] for rank in range(count)]
    assert [s.tolist() for s in shares] == [s.tolist() for s in items.tensor_split(count)]


def test_evaluation_is_exact_on_unequal_shares(tmp_path):
    """13 examples on 2, 3 and 14 processes: gathered in order, counted once; a missing value is an error."""
    for count in (2, 3, 14):
        finish(processes(count, tmp_path / f"log{count}", "tests.gathering", tmp_path))
    from tests.gathering import EXAMPLES

    assert sorted(tmp_path.glob("*.pt")) and all(
        torch.equal(torch.load(path), 10 * torch.arange(EXAMPLES)) for path in tmp_path.glob("*.pt")
    )
