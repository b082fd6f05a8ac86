"""The sequences against their definitions in Secs. 5.3 and 5.6, decoded element by element."""

import pytest
import torch

from papers.lstm.tasks import TASKS, TwoSequence

N = 4000


def draw(name, n=N, seed=0):
    return TASKS[name].draw((n,), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "windows"),
    [("temporal-order-6a", [(10, 20), (50, 60)]), ("temporal-order-6b", [(10, 20), (33, 43), (66, 76)])],
)
def test_temporal_order(name, windows):
    sequences = draw(name)
    classes = 2 ** len(windows)
    assert sequences.x.shape == (N, 110, 8) and sequences.target.shape == (N, classes)
    symbols, lengths, seen = "abcdXYEB", [], [set() for _ in windows]
    for x, last, target in zip(sequences.x, sequences.last.tolist(), sequences.target, strict=True):
        assert x[: last + 1].sum(1).eq(1).all() and x.max() == 1, "one-hot up to the last element"
        assert x[last + 1 :].eq(0).all(), "nothing after it"
        text = "".join(symbols[i] for i in x[: last + 1].argmax(1).tolist())
        assert text[0] == "E" and text[-1] == "B" and set(text[1:-1]) <= set("abcdXY")
        relevant = [i for i, symbol in enumerate(text) if symbol in "XY"]
        assert len(relevant) == len(windows)
        for (low, high), position, places in zip(windows, relevant, seen, strict=True):
            assert low <= position <= high
            places.add(position)
        label = int("".join(str("XY".index(text[i])) for i in relevant), 2)
        assert target.sum() == 1 and target[label] == 1
        lengths.append(len(text))
    assert set(lengths) == set(range(100, 111)), "lengths 100 to 110, all of them"
    assert [places == set(range(low, high + 1)) for (low, high), places in zip(windows, seen, strict=True)] == [True] * len(windows)
    share = sequences.target.mean(0)
    assert ((share - 1 / classes).abs() < 4 * (1 / classes / N) ** 0.5).all(), "classes are balanced"
    distractors = sequences.x[:, 1:10, :4].mean((0, 1))
    assert ((distractors - 0.25).abs() < 0.01).all(), "distractors are uniform over a, b, c, d"
    assert torch.equal(sequences.truth, sequences.target)


@pytest.mark.parametrize(("name", "informative"), [("two-sequence-3c", 3), ("two-sequence-3c-n1", 1)])
def test_two_sequence_3c(name, informative):
    sequences = draw(name)
    class_2 = sequences.x[:, 0, 0] == -1
    assert 0.47 < class_2.float().mean() < 0.53
    signs = torch.where(class_2, -1.0, 1.0)
    assert torch.equal(sequences.x[:, :informative, 0], signs[:, None].expand(-1, informative))
    assert torch.equal(sequences.truth[:, 0], torch.where(class_2, 0.8, 0.2))

    step = torch.arange(110)
    inside = step <= sequences.last[:, None]
    assert sequences.x[~inside].eq(0).all()
    noise = sequences.x[..., 0][inside & (step >= informative)]
    assert abs(noise.mean()) < 0.003 and abs(noise.var() - 0.2) < 0.002, "variance 0.2, not standard deviation"
    jitter = (sequences.target - sequences.truth).flatten()
    assert abs(jitter.mean()) < 0.02 and abs(jitter.var() - 0.1) < 0.01
    assert set((sequences.last + 1).tolist()) == set(range(100, 111))


def test_two_sequence_length_follows_t():
    sequences = TwoSequence(length=40).draw((300,), torch.Generator().manual_seed(0))
    assert sequences.x.shape == (300, 44, 1)
    assert set((sequences.last + 1).tolist()) == set(range(40, 45))


@pytest.mark.parametrize("name", TASKS)
def test_a_generator_gives_its_sequences_and_no_others(name):
    a, b, c = draw(name, 5, 1), draw(name, 5, 1), draw(name, 5, 2)
    assert torch.equal(a.x, b.x) and torch.equal(a.target, b.target)
    assert not torch.equal(a.x, c.x)
    block = TASKS[name].draw((2, 3, 1), torch.Generator().manual_seed(0))
    assert block.x.shape[:3] == (2, 3, 1) and block[1].last.shape == (3, 1)
