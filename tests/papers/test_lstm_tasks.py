"""The sequences against their definitions in Secs. 5.2c and 5.3-5.6, decoded element by element."""

import pytest
import torch

from papers.lstm.tasks import TASKS, Adding, TwoSequence

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


@pytest.mark.parametrize("noisy", [False, True])
def test_two_sequence_3a_and_3b(noisy):
    sequences = draw("two-sequence-3b" if noisy else "two-sequence-3a")
    class_2 = sequences.target[:, 0] == 0
    assert set(sequences.target.unique().tolist()) == {0, 1} and 0.47 < class_2.float().mean() < 0.53
    assert torch.equal(sequences.target, sequences.truth), "the targets have no noise"
    first = sequences.x[:, :3, 0] - torch.where(class_2, -1.0, 1.0)[:, None]  # class 1: +1, target 1
    if noisy:
        assert abs(first.mean()) < 0.02 and abs(first.var() - 0.2) < 0.01
        assert abs(torch.corrcoef(first.T)[0, 1]) < 0.06, "every element has noise of its own"
    else:
        assert first.eq(0).all()
    later = sequences.x[:, 3:100, 0]
    assert abs(later.var() - 0.2) < 0.002


@pytest.mark.parametrize(("name", "q", "p"), [("long-lag-2c", 50, 50), ("long-lag-2c-q100", 100, 100)])
def test_long_lag_2c(name, q, p):
    sequences = draw(name, 2000)
    e, b = p, p + 1
    lengths, distractors = [], torch.zeros(p)
    for x, last, target in zip(sequences.x, sequences.last.tolist(), sequences.target, strict=True):
        symbols = x[: last + 1]
        assert symbols[0] == b and symbols[1] in (p + 2, p + 3) and symbols[-1] == e
        assert (symbols[2:-1] < p).all(), "distractors in between"
        assert target.tolist() == [float(symbols[1] == p + 2), float(symbols[1] == p + 3)]
        distractors += torch.bincount(symbols[2:-1], minlength=p)
        lengths.append(last + 2)  # with the symbol that is to be predicted
    lengths = torch.tensor(lengths, dtype=torch.float64)
    assert lengths.min() == q + 4
    assert abs((lengths == q + 4).double().mean() - 0.1) < 0.03, "after q distractors the trigger comes with probability 1/10"
    assert abs(lengths.mean() - (q + 13)) < 1 and abs(lengths.var() - 90) < 20, "and again after every further one"
    assert 0.47 < sequences.target[:, 0].mean() < 0.53
    share = distractors / distractors.sum()
    assert ((share - 1 / p).abs() < 5 * (1 / p / distractors.sum()) ** 0.5).all()


@pytest.mark.parametrize("first_pair", ["marked", "end"])
@pytest.mark.parametrize("product", [False, True])
def test_adding_and_multiplication(product, first_pair):
    task = Adding(product=product, first_pair=first_pair)
    sequences = task.draw((N,), torch.Generator().manual_seed(0))
    assert sequences.x.shape == (N, 110, 2)
    firsts, seconds, lengths, ends = set(), set(), set(), 0
    for x, last, target in zip(sequences.x, sequences.last.tolist(), sequences.target[:, 0], strict=True):
        value, marker = x[: last + 1].T
        assert x[last + 1 :].eq(0).all() and marker[last] == -1
        assert (value >= (0 if product else -1)).all() and (value <= 1).all()
        marked = (marker == 1).nonzero().flatten().tolist()
        others = [i for i in range(1, last) if i not in marked]
        assert marker[others].eq(0).all()
        lengths.add(last + 1)
        if marker[0] == -1 and len(marked) == 2:
            counts = value[marked]
            firsts.add(min(marked))
            seconds.add(max(marked))
        else:  # the first pair is one of the two
            ends += 1
            rest = [i for i in marked if i != 0]
            assert len(rest) == 1
            counts = torch.stack([torch.tensor(float(product)), value[rest[0]]])
            if first_pair == "marked":
                assert marker[0] == 1 and value[0] == float(product)
            else:
                assert marker[0] == -1
        assert torch.isclose(target, counts.prod() if product else 0.5 + counts.sum() / 4)
    assert lengths == set(range(100, 111)) and max(seconds) == 49 and min(firsts) == 1
    assert abs(ends / N - (0.1 + 0.9 / 49)) < 0.025, "one of the first ten, then one of the first 49 that are left"
    values = sequences.x[:, 60:90, 0]
    assert abs(values.mean() - (0.5 if product else 0)) < 0.01


def test_two_sequence_length_follows_t():
    sequences = TwoSequence(length=40).draw((300,), torch.Generator().manual_seed(0))
    assert sequences.x.shape == (300, 44, 1)
    assert set((sequences.last + 1).tolist()) == set(range(40, 45))


@pytest.mark.parametrize("name", [name for name in TASKS if "1000" not in name and "500" not in name])
def test_a_generator_gives_its_sequences_and_no_others(name):
    a, b, c = draw(name, 5, 1), draw(name, 5, 1), draw(name, 5, 2)
    assert torch.equal(a.x, b.x) and torch.equal(a.target, b.target)
    assert not torch.equal(a.x, c.x)
    block = TASKS[name].draw((2, 3, 1), torch.Generator().manual_seed(0))
    assert block.x.shape[:3] == (2, 3, 1) and block[1].last.shape == (3, 1)
