"""Back-propagation's runs: when nets are right, what is read from their weights, the perceptrons, kills with engine.py."""

import math
import signal
import types

import pytest
import torch

from common.data.order import mix
from common.files import read_rows
from papers.backprop import train
from papers.backprop.digits import SHAPES
from papers.backprop.measures import features, median, sizes, structure, when
from papers.backprop.model import layered, mistake_bound
from papers.backprop.perceptrons import Separable, separable
from papers.backprop.tasks import family, symmetry
from papers.backprop.train import CORRECT, EXPERIMENTS, STRICT, Config, Progress, splits
from tests.start import Started, finish, here, newest, record, refuses, rows, until
from tools.repository import records

SCRIPT = "papers.backprop.train"


def test_a_sweep_is_the_sum_over_all_cases_and_eqs_8_and_9(tmp_path):
    """Twenty sweeps of symmetry by autograd, written out."""
    flags = ("symmetry", "--trials", 2, "--sweeps", 20, "--out", tmp_path)
    assert here(SCRIPT, *flags)[0] == 0
    trained = newest(tmp_path / "backprop/symmetry/seed0")["objects"]["nets"]
    torch.set_default_dtype(torch.float64)
    try:
        torch.default_generator.manual_seed(mix(0, "start"))
        net, task = layered(6, 2, 1, trials=2), symmetry()
    finally:
        torch.set_default_dtype(torch.float32)
    weights = dict(net.weights)
    change = {name: torch.zeros_like(w) for name, w in weights.items()}
    for _ in range(20):
        for weight in weights.values():
            weight.requires_grad_()
        error = (net(task.inputs)["output"] - task.d).square().sum() / 2
        gradients = torch.autograd.grad(error, list(weights.values()))
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            change[name] = -0.1 * gradient + 0.9 * change[name]
            weight.requires_grad_(False).add_(change[name])
    assert {key.removeprefix("net.weights.") for key in trained} == {*weights}
    for name, weight in weights.items():
        torch.testing.assert_close(trained[f"net.weights.{name}"], weight.data, rtol=0, atol=1e-12)


def test_what_counts_as_right():
    so_far = Progress(4)
    for sweep, furthest in enumerate([[0.6, 0.6, 0.4, 0.1], [0.4, 0.6, 0.6, 0.9], [0.19, 0.51, 0.3, 0.9]]):
        so_far.mark(sweep, torch.tensor(furthest))
    assert (CORRECT, STRICT) == (0.5, 0.2)
    assert so_far.after.tolist() == [1, -1, 0, 0] and so_far.strictly.tolist() == [2, -1, -1, 0]


def test_medians():
    after = torch.tensor([10, -1, 30, 20])
    assert when(after) == {"success_rate": 75, "sweeps_median": 20, "sweeps_median_of_all": 25}
    assert math.isnan(when(torch.tensor([10, -1, -1]))["sweeps_median_of_all"]) and math.isnan(median(torch.empty(0)))


def solved_net(by=0.0):
    """Fig. 1's net as it should be, twice, the pairs in another order the second time; `by` spoils a weight of the first."""
    net = layered(6, 2, 1, trials=2)
    for trial, half in enumerate(([1.0, 2.0, 4.0], [-4.0, 1.0, -2.0])):
        half = torch.tensor(half)
        row = torch.cat([half, -half.flip(0)])
        net.weights["hidden"][trial] = torch.stack([row, -row])
        net.weights["hidden bias"][trial], net.weights["output bias"][trial] = -1.0, 6.0
    net.weights["hidden"][0, 0, 0] += by
    return net


def test_structure_of_fig_1():
    both = torch.tensor([True, True])
    found = structure(solved_net(), both)
    assert all(found[name] == 100 for name in ("mirrored", "flipped", "biases", "one_two_four"))
    assert (found["ratio_middle"], found["ratio_largest"]) == (2, 4) and (found["hidden_bias"], found["output_bias"]) == (-1, 6)
    spoiled = structure(solved_net(by=0.3), both)
    assert spoiled["mirrored"] == spoiled["flipped"] == 50
    assert structure(solved_net(by=0.3), torch.tensor([False, True]))["mirrored"] == 100
    assert all(math.isnan(value) for value in structure(solved_net(), ~both).values())


def test_features_are_correlations_of_the_best_unit():
    task = family()
    net = types.SimpleNamespace(weights={"person to of person": torch.zeros(1, 6, 24)})
    w = net.weights["person to of person"]
    w += torch.randn(1, 6, 24, generator=torch.Generator().manual_seed(0)) / 100
    w[0, 2] = torch.tensor([float(person.nationality) for person in task.people]) * -3 + 1
    w[0, 4] = torch.tensor([float(person.generation) for person in task.people])
    found = features(net, task)
    assert found["nationality"] == pytest.approx(1) and found["generation"] == pytest.approx(1) and found["branch"] < 0.8


def test_splits_are_four_of_104_and_differ():
    learned = splits(Config("family-trees", trials=5, held_out=4), 104, 0)
    assert (~learned).sum(1).tolist() == [4] * 5 and len(learned.unique(dim=0)) == 5
    assert torch.equal(learned, splits(Config("family-trees", trials=5, held_out=4), 104, 0))
    assert not torch.equal(learned, splits(Config("family-trees", trials=5, held_out=4), 104, 1))
    assert splits(Config(trials=2), 64, 0).all()


def test_held_out_cases_do_not_move_the_weights(tmp_path, monkeypatch):
    """Other answers to the held-out questions: the same nets."""
    ends = []
    for spoil in (False, True):

        def cases(spoil=spoil):
            task = family()
            learned = splits(Config("family-trees", trials=1, held_out=4), 104, 0)
            if spoil:
                task.d[~learned[0]] = 1 - task.d[~learned[0]]
            return task

        monkeypatch.setitem(train.TASKS, "family-trees", (cases, train.TASKS["family-trees"][1]))
        out = tmp_path / str(spoil)
        assert here(SCRIPT, "family-trees-working", "--trials", 1, "--sweeps", 30, "--out", out)[0] == 0
        ends.append(newest(out / "backprop/family-trees-working/seed0")["objects"]["nets"])
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_family_trees_rates():
    config = EXPERIMENTS["family-trees"].config
    assert [config.at(sweep) for sweep in (0, 19, 20, 1499)] == [(0.005, 0.5)] * 2 + [(0.01, 0.9)] * 2
    assert config.decay == 0.002 and config.dead_zone and config.held_out == 4 and config.sweeps == 1500


def test_separable_examples_have_their_margin():
    config = Separable(trials=3, margin=0.2, examples=50)
    x, y, u = separable(config, 0)
    assert (y * (x @ u[..., None]).squeeze(-1)).min() > 0.2
    torch.testing.assert_close(x.norm(dim=2), torch.ones(3, 50))
    assert (mistake_bound(x, y, u) < 25.01).all()


def test_perceptrons_end_when_all_are_right(tmp_path):
    assert here(SCRIPT, "smoke-perceptron", "--out", tmp_path)[0] == 0
    end = record(tmp_path / "backprop/smoke-perceptron/seed0")
    assert end["metrics"]["separated"] == 100 and 0 < end["metrics"]["mistakes_of_bound_max"] < 1 and end["steps"] < 10_000


def test_engine_resumes_bit_for_bit(tmp_path):
    """NumPy's weights go through the checkpoint of torch as they are."""
    straight, killed = tmp_path / "straight/backprop/smoke-digits/seed0", tmp_path / "killed/backprop/smoke-digits/seed0"
    finish([Started(tmp_path / "log", SCRIPT, "smoke-digits", "--out", tmp_path / "straight")])
    run = Started(tmp_path / "log", SCRIPT, "smoke-digits", "--out", tmp_path / "killed")
    until(lambda: not run.alive or ((killed / "metrics.jsonl").exists() and len(read_rows(killed / "metrics.jsonl")) >= 4))
    if run.alive:
        run.kill(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    finish([Started(tmp_path / "log", SCRIPT, "smoke-digits", "--out", tmp_path / "killed")])
    assert rows(killed) == rows(straight) and record(killed)["metrics"] == record(straight)["metrics"]
    ends = [newest(each)["objects"]["weights"] for each in (straight, killed)]
    assert ends[0].keys() == ends[1].keys() and len(ends[0]) == 2 * len(SHAPES["cnn"])
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("smoke", "--epsilon", 0), "--epsilon must be positive"),
        (("smoke", "--hidden", 2, 3, 4), "need a value for each net"),
        (("smoke", "--held-out", 4), "--held-out is for family-trees"),
        (("t-or-c", "--hidden", 0), "number of kernels"),
        (("smoke", "--task", "family-trees"), "family-trees have one net"),
        (("smoke-perceptron", "--margin", 1), "--margin must be in [0, 1)"),
        (("smoke-digits", "--alpha", 1), "--alpha must be in [0, 1)"),
    ],
)
def test_impossible_values_are_refused(flags, said, tmp_path):
    refuses(SCRIPT, *flags, "--out", tmp_path, said=said)


@pytest.mark.parametrize("net", SHAPES)
def test_rates_of_the_digits_were_chosen_on_held_out_images(net):
    """Of three or more, the best, or one that is no worse than chance makes it."""
    found = {}
    for one in records("backprop"):
        if one["config"].get("held_out") is True and one["config"]["net"] == net:
            found[one["config"]["epsilon"]] = one["metrics"]["held_out_error"]
    if not found:
        pytest.skip("not published yet")
    best = min(found.values())
    assert len(found) >= 3 and found[EXPERIMENTS[f"mnist-{net}"].config.epsilon] <= best + 0.1


def test_sizes_are_of_the_records():
    metrics = {"success_rate_h2": 0.0, "sweeps_median_h2": None, "success_rate_h2_direct": 50.0, "sweeps_median_h2_direct": 140.0}
    one = {"experiment": "addition", "config": {"hidden": [2, 2], "direct": [False, True]}, "metrics": metrics}
    assert sizes([one])[1:] == [["2", "no", "19", "0", "–"], ["2", "yes", "31", "50", "140"]]
    net = layered(4, 2, 3, direct=True)
    assert sum(weight[0].numel() for weight in net.weights.values()) == 31
