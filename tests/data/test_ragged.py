"""Ragged sequences, and batches of about one length."""

import pytest
import torch

from common.data.ragged import ragged
from papers.transformer.buckets import Bucketed


def test_ragged_sequences_are_padded_to_the_longest_that_is_asked():
    sequences = [[5, 6, 7], [8], [9, 10], [11, 12, 13, 14]]
    four = ragged(sequences)
    assert len(four) == 4 and four.lengths.tolist() == [3, 1, 2, 4]
    assert four.padded(torch.tensor([1, 2])).tolist() == [[8, 0], [9, 10]]
    assert four.padded(torch.tensor([3, 1, 0])).tolist() == [[11, 12, 13, 14], [8, 0, 0, 0], [5, 6, 7, 0]]
    assert four.padded(torch.tensor([3])).dtype == torch.int64
    some = four.subset(torch.tensor([True, False, True, True]))
    assert some.padded(torch.arange(3)).tolist() == [[5, 6, 7, 0], [9, 10, 0, 0], [11, 12, 13, 14]]


# Batches of about one length.

LENGTHS = torch.randint(1, 40, (1003, 2), generator=torch.Generator().manual_seed(0)).float().pow(1.1).long().clamp(1)


def epoch(buckets, number):
    return [buckets.batch(number * len(buckets) + i) for i in range(len(buckets))]


@pytest.mark.parametrize("tokens", [60, 200, 1000, 10**6])
def test_an_epoch_holds_every_sample_once_and_no_side_of_a_batch_is_too_large(tokens):
    buckets = Bucketed(LENGTHS, tokens, seed=3)
    for number in range(3):
        batches = epoch(buckets, number)
        assert torch.cat(batches).sort().values.tolist() == list(range(1003))
        for rows in batches:
            assert (len(rows) * LENGTHS[rows].max(0).values <= tokens).all()
    assert buckets.smallest == min(map(len, batches))
    sizes = [len(rows) for rows in sorted(batches, key=lambda rows: -LENGTHS[rows].max(1).values.sum() / len(rows))]
    assert len(sizes) == 1 or sizes[-1] >= sizes[-2], "the last two share what is left"


def test_batches_are_a_function_of_seed_and_step_alone():
    buckets = Bucketed(LENGTHS, 1000, seed=3)
    steps = [0, 5, len(buckets), 2 * len(buckets) + 7, 1]
    asked = [buckets.batch(step) for step in steps]
    for step, rows in zip(steps, asked, strict=True):
        assert torch.equal(Bucketed(LENGTHS, 1000, seed=3).batch(step), rows)
    first, second, other = epoch(buckets, 0), epoch(buckets, 1), epoch(Bucketed(LENGTHS, 1000, seed=4), 0)
    as_sets = [{frozenset(rows.tolist()) for rows in each} for each in (first, second, other)]
    for others in as_sets[1:]:  # but for those that are alone with their lengths
        assert len(as_sets[0] & others) < 0.1 * len(first), "other samples of the same length come together"
    widths = [[int(LENGTHS[rows].max()) for rows in each] for each in (first, second, other)]
    assert sorted(widths[0]) == sorted(widths[1]) and widths[0] != widths[1] != widths[2], "batches come in another order"
    assert widths[0] != sorted(widths[0]) and widths[0] != sorted(widths[0], reverse=True)


def test_samples_of_a_batch_are_of_about_one_length():
    buckets = Bucketed(LENGTHS, 200, seed=0)
    positions = real = 0
    for rows in epoch(buckets, 0):
        positions += len(rows) * int(LENGTHS[rows].max(0).values.sum())
        real += int(LENGTHS[rows].sum())
        longest = LENGTHS[rows].max(1).values
        assert longest.max() - longest.min() <= 5 or longest.max() < 8
    assert buckets.padding() == pytest.approx(1 - real / positions)
    mixed = 1 - LENGTHS.sum().item() / sum(len(r) * LENGTHS[r].max(0).values.sum().item() for r in torch.arange(1003).split(8))
    same = LENGTHS.max(1, keepdim=True).values.expand(-1, 2).contiguous()  # both sides equally long, as translations nearly are
    assert Bucketed(same, 200, seed=0).padding() < 0.04 < 0.3 < mixed
