"""Experiments 1, 2a and 2b: their strings, their nets' updates, their criteria."""

from random import Random

import pytest
import torch

from common.data.order import mix
from papers.lstm.every_step import Progress, predictions
from papers.lstm.model import LSTM, InputGateNet, squared_error, weights
from papers.lstm.readings import LastErrorNet, SelfRecurrentNet, Shortcuts, cut, learn_step_by_step, units
from papers.lstm.tasks import REBER, SYMBOLS, embedded_reber, encode, reber_set, reber_sets, recall
from papers.lstm.train import EXPERIMENTS
from tests.papers.test_lstm_model import DOUBLE, net
from tests.start import here, newest, record

SCRIPT = "papers.lstm.train"


def following(string):
    """What may follow each proper prefix of an embedded Reber string, read off the automaton of Fig. 3 by hand."""
    inner, legal = string[2:-2], []
    state = 0
    for symbol in inner:
        legal.append({0: "B", 1: "TP", 2: "SX", 3: "TV", 4: "XS", 5: "PV", 6: "E"}[state])
        assert symbol in legal[-1]
        state = {
            (0, "B"): 1, (1, "T"): 2, (1, "P"): 3, (2, "S"): 2, (2, "X"): 4, (3, "T"): 3, (3, "V"): 5,
            (4, "X"): 3, (4, "S"): 6, (5, "P"): 4, (5, "V"): 6, (6, "E"): None,
        }[state, symbol]  # fmt: skip
    assert state is None
    return ["TP", *legal, string[1], "E"]


def test_embedded_reber_strings():
    random, seen, lengths = Random(0), {}, []
    for _ in range(3000):
        string, legal = embedded_reber(random)
        assert string[0] == "B" and string[-1] == "E" and string[1] == string[-2] and string[1] in "TP"
        assert [set(s) for s in legal] == [set(s) for s in following(string)]
        seen[string] = seen.get(string, 0) + 1
        lengths.append(len(string))
    assert min(lengths) == 9, "the shortest lag is 9 steps"
    # BTXSE within T: T or P 1/2 twice, X 1/2, S 1/2
    assert abs(seen["BTBTXSETE"] / 3000 - 1 / 16) < 4 * (1 / 16 / 3000) ** 0.5
    assert {symbol for arcs in REBER.values() for symbol in arcs} == set(SYMBOLS)


@pytest.mark.parametrize("distinct", [False, True])
def test_training_and_test_strings(distinct):
    learnt = reber_set(256, Random(1), distinct, {})
    unseen = reber_set(256, Random(2), distinct, dict(learnt))
    assert len(learnt) == len(unseen) == 256 and not {s for s, _ in learnt} & {s for s, _ in unseen}
    assert (len(dict(learnt)) == 256) == distinct
    train, every = reber_sets(3, 256, distinct, seed=3)
    assert len(train) == len(every) == 3 and not torch.equal(train[0].x, train[1].x)
    again, _ = reber_sets(3, 256, distinct, seed=3)
    assert torch.equal(train[2].x, again[2].x)
    assert {x.tobytes() for x in train[0].x.numpy()} < {x.tobytes() for x in every[0].x.numpy()}


def test_strings_as_tensors():
    string, legal = "BTBPVVETE", ("TP", "B", "TP", "TV", "PV", "E", "T", "E")
    coded = encode([(string, legal), ("BPBTXSEPE", ("TP", "B", "TP", "SX", "XS", "E", "P", "E"))], 10)
    assert coded.length.tolist() == [8, 8]
    for t in range(8):
        assert SYMBOLS[coded.x[0, t].argmax()] == string[t] and SYMBOLS[coded.target[0, t].argmax()] == string[t + 1]
        assert {SYMBOLS[i] for i in coded.legal[0, t].nonzero().flatten()} == set(legal[t])
    assert coded.x.sum() == coded.target.sum() == 16 and not coded.legal[:, 8:].any()


class Fixed(torch.nn.Module):
    """Answers y whatever it is asked."""

    def __init__(self, y):
        super().__init__()
        self.y = torch.nn.Parameter(y)

    def forward(self, x):
        return self.y


class Evaluating:
    """The part of a run that `predictions` needs."""

    def evaluating(self, model):
        import contextlib

        return contextlib.nullcontext(model)


def test_criterion_of_experiment_1():
    coded = encode([("BTBTXSETE", ("TP", "B", "TP", "SX", "XS", "E", "T", "E"))], 9)
    y = 0.1 + 0.5 * coded.legal[None].float()  # every legal symbol is more active than every other
    pair, x, legal = torch.zeros(2, dtype=torch.int64), coded.x[None], coded.legal[None]

    def verdicts(y):
        both = torch.stack([torch.rand_like(y), y])  # the first trial is not asked for
        strict, argmax = predictions(Evaluating(), Fixed(both), x, legal, pair, torch.tensor([1]))
        assert strict.shape[0] == 1
        assert strict[..., 8].all() and argmax[..., 8].all(), "padding is right"
        return strict.all().item(), argmax.all().item()

    assert verdicts(y) == (True, True)
    below = y.clone()
    below[0, 0, 3, SYMBOLS.index("S")] = 0.05  # one of two legal symbols below an illegal one: the weaker reading allows it
    assert verdicts(below) == (False, True)
    wrong = y.clone()
    wrong[0, 0, 6, SYMBOLS.index("P")] = 0.9  # the other outer symbol
    assert verdicts(wrong) == (False, False)


@pytest.mark.parametrize(
    "kwargs", [{}, {"biased": "gates", "output_bias": False}, {"biased": "none", "ranges": (1.0, 2.0), "start": 0.5}]
)
def test_step_by_step_changes_are_those_of_the_string_where_the_rate_is_small(kwargs):
    """At a rate of 1e-7 the weights do not move within a string, so that both are the gradient of appendix A.1."""
    model = net(trials=3, seed=4, **kwargs)
    x, target = torch.randn(3, 12, 3, dtype=DOUBLE), torch.rand(3, 12, 2, dtype=DOUBLE)
    length, learning = torch.tensor([12, 7, 12]), torch.tensor([True, True, False])
    y = model(x[:, None]).squeeze(1)
    (squared_error(target, y) * (torch.arange(12) < length[:, None]) * learning[:, None]).sum().backward()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    outputs = learn_step_by_step(model, x, target, length, 1e-7, learning)
    torch.testing.assert_close(outputs, y, rtol=0, atol=1e-5)
    for name, p in model.named_parameters():
        if p.numel():
            torch.testing.assert_close((before[name] - p.detach()) / 1e-7, p.grad, rtol=0, atol=1e-5)
            assert p.grad[:2].abs().max() > 1e-3 and torch.equal(p[2], before[name][2])


def test_step_by_step_weights_move_within_the_string():
    """Two steps: the second output is that of the weights that the first has changed."""
    model = net(trials=1, seed=6)
    x, target = torch.randn(1, 2, 3, dtype=DOUBLE), torch.rand(1, 2, 2, dtype=DOUBLE)
    first = net(trials=1, seed=6)
    learn_step_by_step(first, x[:, :1], target[:, :1], torch.tensor([1]), 5.0, torch.tensor([True]))
    outputs = learn_step_by_step(model, x, target, torch.tensor([2]), 5.0, torch.tensor([True]))
    fixed = net(trials=1, seed=6)(x[:, None])[0, 0].detach()
    torch.testing.assert_close(outputs[0, 0], fixed[0])
    assert not torch.allclose(outputs[0, 1], fixed[1], atol=1e-3)
    torch.testing.assert_close(
        first.output_weight - net(trials=1, seed=6).output_weight != 0, torch.ones(1, 2, 4, dtype=torch.bool)
    )


@pytest.mark.parametrize(("p", "count"), [(4, 36), (10, 144), (100, 10404)])
def test_weight_counts_of_table_2(p, count):
    assert weights(SelfRecurrentNet(2, p + 1, p + 1)) == count
    assert weights(InputGateNet(2, p + 1, p + 1)) == count + p


def test_self_recurrent_net_and_its_gradient_by_rtrl():
    """Outputs against a loop; the gradient against RTRL's recursion dy(t)/dw = f' (z + w dy(t-1)/dw)."""
    torch.manual_seed(0)
    model = SelfRecurrentNet(2, 4, 3, init=1.0).to(DOUBLE)
    x, target = torch.randn(2, 1, 6, 4, dtype=DOUBLE), torch.rand(2, 1, 6, 3, dtype=DOUBLE)
    y = model(x)
    squared_error(target, y).sum().backward()
    for n in range(2):
        a, w = model.input_weight[n, 0].detach(), model.recurrent_weight[n, 0, 0].detach()
        V, D = model.output_weight[n, :, 0].detach(), model.direct_weight[n].detach()
        hidden, by_a, by_w = torch.zeros((), dtype=DOUBLE), torch.zeros(4, dtype=DOUBLE), torch.zeros((), dtype=DOUBLE)
        total_a, total_w = torch.zeros(4, dtype=DOUBLE), torch.zeros((), dtype=DOUBLE)
        for t in range(6):
            new = torch.sigmoid(a @ x[n, 0, t] + w * hidden)
            slope = new * (1 - new)
            by_a, by_w, hidden = slope * (x[n, 0, t] + w * by_a), slope * (hidden + w * by_w), new
            out = torch.sigmoid(D @ x[n, 0, t] + V * hidden)
            torch.testing.assert_close(out, y[n, 0, t])
            e = ((out - target[n, 0, t]) * out * (1 - out) * V).sum()
            total_a, total_w = total_a + e * by_a, total_w + e * by_w
        torch.testing.assert_close(model.input_weight.grad[n, 0], total_a)
        torch.testing.assert_close(model.recurrent_weight.grad[n, 0, 0], total_w)


@pytest.mark.parametrize("regular", [True, False])
def test_sequences_of_2a_and_2b(regular):
    index = recall(10, regular, (500,), torch.Generator().manual_seed(0))
    assert index.shape == (500, 11) and torch.equal(index[:, 0], index[:, -1])
    assert set(index[:, 0].tolist()) == {9, 10} and set(index[:, 1:-1].flatten().tolist()) == set(range(9))
    assert (index[:, 1:-1] == torch.arange(9)).all() == regular
    assert 180 < (index[:, 0] == 9).sum() < 320


def test_the_cell_is_added_when_the_error_stops_decreasing():
    progress = Progress(3, False)
    for look, losses in enumerate(([10.0, 10.0, 10.0], [9.0, 9.95, 8.0], [8.95, 9.0, 8.5]), 1):
        progress.loss = torch.tensor(losses)
        progress.grow(100 * look, None)
    assert progress.cell.tolist() == [300, 200, 300]
    later = Progress(2, False)
    later.grow(100, 200)
    assert later.cell.tolist() == [-1, -1]
    later.grow(200, 200)
    assert later.cell.tolist() == [200, 200]


def test_without_its_cell_the_net_is_its_direct_weights():
    torch.manual_seed(1)
    model, x = InputGateNet(2, 5, 5).to(DOUBLE), torch.eye(5, dtype=DOUBLE)[torch.randint(5, (2, 3, 7))]
    y = model(x, torch.tensor([False, True]))
    torch.testing.assert_close(y[0], torch.sigmoid(x[0] @ model.direct_weight[0].T))
    assert not torch.allclose(y[1], torch.sigmoid(x[1] @ model.direct_weight[1].T), atol=1e-3)
    y.sum().backward()
    assert model.input_weight.grad[0].eq(0).all() and model.input_weight.grad[1].abs().max() > 0


def test_2a_learns_at_every_rate_by_its_own(tmp_path):
    """Two rates side by side are the two runs alone, from the same start."""
    flags = ["--p", 4, "--trials", 2, "--max-sequences", 100, "--precision", "fp64"]
    for name, rates in (("both", ("1.0", "4.0")), ("second", ("4.0", "4.0"))):
        assert here(SCRIPT, "long-lag-2a-rtrl-p4", "--out", tmp_path / name, *flags, "--lr", *rates)[0] == 0
    both, second = (newest(tmp_path / name / "lstm/long-lag-2a-rtrl-p4/seed0")["objects"]["model"] for name in ("both", "second"))
    for name, weight in both.items():
        torch.testing.assert_close(weight[2:], second[name][2:], rtol=1e-12, atol=1e-14)
        assert not torch.allclose(weight[:2], second[name][:2], atol=1e-3)


def test_p_2_is_solved_by_the_self_recurrent_net(tmp_path):
    """A lag that it can bridge: success is found, and only when both sequences are right at every step."""
    flags = ["--p", 2, "--trials", 4, "--lr", "4.0", "--max-sequences", 20_000]
    assert here(SCRIPT, "long-lag-2a-rtrl-p4", "--out", tmp_path, *flags)[0] == 0
    directory = tmp_path / "lstm/long-lag-2a-rtrl-p4/seed0"
    metrics, objects = record(directory)["metrics"], newest(directory)["objects"]
    solved = objects["progress"]["after"] >= 0
    assert metrics["success_rate"] == 25 * solved.sum() and solved.any()
    model = SelfRecurrentNet(4, 3, 3)
    model.load_state_dict(objects["model"])
    sequences = torch.eye(3)[torch.tensor([[1, 0, 1], [2, 0, 2]])].expand(4, 2, 3, 3)
    error = (sequences[:, :, 1:] - model(sequences[:, :, :-1])).abs().flatten(1).amax(1)
    assert torch.equal(error < 0.25, solved)


def test_reber_training_draws_from_its_own_pair(tmp_path):
    """One update: trials of different pairs see different strings, and the update is the gradient of the string."""
    flags = ["--trials", 2, "--sets", 2, "--max-sequences", 1]
    assert here(SCRIPT, "reber-1-5", "--out", tmp_path, *flags)[0] == 0
    trained = newest(tmp_path / "lstm/reber-1-5/seed0")["objects"]["model"]
    config = EXPERIMENTS["reber-1-5"].config
    try:
        torch.set_default_dtype(DOUBLE)
        train, _ = reber_sets(2, 256, False, seed=0)
        torch.default_generator.manual_seed(mix(0, "start"))
        model = LSTM(2, 7, 7, 3, 2, biased="gates", output_bias=False, init=0.2, output_gate_bias=config.output_gate_bias)
        choice = torch.randint(256, (100, 2), generator=torch.Generator().manual_seed(mix(0, "train", 0)))[0]
        for n in range(2):
            length = train[n].length[choice[n]]
            y = model(torch.stack([train[n].x[choice[n], :length]] * 2)[:, None])[n, 0]
            squared_error(train[n].target[choice[n], :length], y).sum().backward()
        for name, p in model.named_parameters():
            if p.numel():
                torch.testing.assert_close(trained[name], p.detach() - 0.5 * p.grad, rtol=1e-10, atol=1e-13)
    finally:
        torch.set_default_dtype(torch.float32)


def test_hyper_parameters_are_those_of_table_10():
    four = (1, 4)
    for i, lr in zip(range(1, 6), (0.1, 0.1, 0.2, 0.5, 0.5), strict=True):
        c = EXPERIMENTS[f"reber-1-{i}"].config
        assert (c.blocks, c.cells, c.lr, c.init, c.trials, c.max_sequences) == (
            *((4, 1) if i in four else (3, 2)), lr, 0.2, 30, 200_000,
        )  # fmt: skip
        assert c.output_gate_bias == (-1, -2, -3, -4)[: c.blocks]
        assert (c.biased, c.output_bias, c.update, c.sources, c.g_range, c.h_range) == ("gates", False, "string", "all", 2, 1)
    for name, regular in (("long-lag-2a", True), ("long-lag-2b", False)):
        c = EXPERIMENTS[name].config
        assert (c.p, c.lr, c.init, c.trials, c.correct_within, c.regular) == (100, (1,), 0.2, 18, 0.25, regular)


def test_connections_that_are_cut_stay_cut_and_the_others_learn_as_before():
    """Cells see the inputs only: against the net whose weights into cells are set to zero after every update."""
    one, other = net(seed=3), net(seed=3)
    keep = units(one, gates=1, cells=0)[:, None]
    assert keep.flatten().tolist() == [1, 1, 0, 0] * 2
    cut(one.recurrent_weight, keep)
    other.recurrent_weight.data *= keep
    x, target = torch.randn(1, 1, 9, 3, dtype=DOUBLE), torch.rand(1, 1, 9, 2, dtype=DOUBLE)
    start = one.recurrent_weight.detach().clone()
    for _ in range(3):
        for model in (one, other):
            model.zero_grad()
            squared_error(target, model(x)).sum().backward()
            for p in model.parameters():
                p.data -= p.grad
        other.recurrent_weight.data *= keep
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
    assert one.recurrent_weight[0, keep[:, 0] == 0].eq(0).all() and not torch.equal(one.recurrent_weight, start)


@pytest.mark.parametrize(
    ("name", "alive"),  # which recurrent connections there are, by (to, from)
    [
        ("two-sequence-3a-gates-only", {("gate", "gate"), ("gate", "cell")}),
        ("reber-1-5-shortcuts-gates-only", {("gate", "gate"), ("gate", "cell")}),
        ("reber-1-5-cells-only", {("gate", "cell"), ("cell", "cell")}),
        ("two-sequence-3a-inputs-only", set()),
    ],
)
def test_readings_train_without_the_connections_they_name(tmp_path, name, alive):
    flags = ["--trials", 3, "--max-sequences", 3]
    assert here(SCRIPT, name, "--out", tmp_path, *flags)[0] == 0
    weight = newest(tmp_path / f"lstm/{name}/seed0")["objects"]["model"]["recurrent_weight"]  # (N, U, U)
    config = EXPERIMENTS[name].config
    kinds = (["gate"] * 2 + ["cell"] * config.cells) * config.blocks
    for to, row in zip(kinds, weight.unbind(1), strict=True):
        for source, values in zip(kinds, row.unbind(1), strict=True):
            assert values.ne(0).all() if (to, source) in alive else values.eq(0).all()


def test_shortcuts_are_direct_weights():
    torch.manual_seed(0)
    model = Shortcuts(2, 3, 4, 2, 1, init=0.5).to(DOUBLE)
    x = torch.randn(2, 2, 6, 3, dtype=DOUBLE)
    without = LSTM(2, 3, 4, 2, 1, init=0.5).to(DOUBLE)
    without.load_state_dict({name: p for name, p in model.state_dict().items() if name != "direct_weight"})
    expected = torch.sigmoid(torch.logit(without(x)) + torch.einsum("nmti,nki->nmtk", x, model.direct_weight))
    torch.testing.assert_close(model(x), expected)
    assert weights(Shortcuts(1, 7, 7, 3, 2, biased="gates", init=0.2)) == 276 + 49 + 7


def test_looks_at_some_trials_are_those_of_all():
    torch.manual_seed(0)
    model = LSTM(6, 7, 7, 3, 2, biased="gates", output_bias=False, init=2.0)
    _, every = reber_sets(3, 256, False, seed=0)
    x, legal = torch.stack([part.x for part in every]), torch.stack([part.legal for part in every])
    pair = torch.arange(6) // 2
    whole = predictions(Evaluating(), model, x, legal, pair, torch.arange(6))
    some = predictions(Evaluating(), model, x, legal, pair, torch.tensor([1, 4]))
    for a, b in zip(whole, some, strict=True):
        assert torch.equal(a[[1, 4]], b) and 0 < b.float().mean() < 1


def test_a_cell_that_learns_from_the_last_error_only():
    """Against the net of Sec. 5.2a: the same outputs; direct weights as with all errors, the cell's as with the last alone."""
    torch.manual_seed(2)
    model, plain = LastErrorNet(2, 4, 4, init=0.5).to(DOUBLE), InputGateNet(2, 4, 4).to(DOUBLE)
    plain.load_state_dict(model.state_dict())
    x, target, grown = torch.randn(2, 1, 6, 4, dtype=DOUBLE), torch.rand(2, 1, 6, 4, dtype=DOUBLE), torch.ones(2)
    y = model(x, grown)
    torch.testing.assert_close(y, plain(x, grown))
    squared_error(target, y).sum().backward()
    of_all, of_last = [], []
    for steps, gradients in ((slice(None), of_all), (slice(5, 6), of_last)):
        plain.zero_grad()
        squared_error(target, plain(x, grown))[:, :, steps].sum().backward()
        gradients += [p.grad.clone() for p in plain.parameters()]
    for p, every, last, name in zip(model.parameters(), of_all, of_last, dict(plain.named_parameters()), strict=True):
        torch.testing.assert_close(p.grad, every if name == "direct_weight" else last)
        assert not torch.allclose(every, last)


def test_nothing_but_the_last_error_trains(tmp_path):
    """One update of the reading is the gradient of the last step's error, with the cell there and its gate nearly shut."""
    flags = ["--p", 4, "--trials", 2, "--max-sequences", 1]
    assert here(SCRIPT, "long-lag-2b-last-error", "--out", tmp_path, *flags)[0] == 0
    trained = newest(tmp_path / "lstm/long-lag-2b-last-error/seed0")["objects"]["model"]
    torch.default_generator.manual_seed(mix(0, "start"))
    model = InputGateNet(2, 5, 5, init=0.2)
    model.input_weight.data[:, 0] -= 4
    generator = torch.Generator().manual_seed(mix(0, "train", 0))
    sequence = torch.eye(5)[recall(4, False, (100, 2, 1), generator)[0]]  # (N, 1, p + 1, p + 1)
    squared_error(sequence[:, :, -1], model(sequence[:, :, :-1], torch.ones(2))[:, :, -1]).sum().backward()
    for name, p in model.named_parameters():
        assert p.grad.abs().max() > 0
        torch.testing.assert_close(trained[name], p.detach() - p.grad)
