"""Runs of Adam's folder: costs at the best stepsize, the counterexample."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from common.data import standin
from common.data.order import permuted
from papers.adam.train import EXPERIMENTS, Config, costs
from tests.start import here, record, refuses, rows

SCRIPT = "papers.adam.train"


def test_the_best_stepsize_is_reported(tmp_path):
    """Of the curves that were logged the one that ends lowest, with its cost after each pass; Adam's by torch's Adam."""
    argv = ("smoke", "--precision", "fp64", "--methods", "adagrad", "adam", "--alphas", "0.1", "0.01", "--out", tmp_path)
    assert here(SCRIPT, *argv)[0] == 0
    found, lines = record(tmp_path / "adam/smoke/seed0")["metrics"], rows(tmp_path / "adam/smoke/seed0")
    last = [line for line in lines if "pass" in line][-1]
    for method in ("adagrad", "adam"):
        least = min((0.1, 0.01), key=lambda alpha: last[f"cost_{method}_{alpha:g}"])
        assert found[f"alpha_{method}"] == least
        assert found[f"cost_{method}_pass5"] == last[f"cost_{method}_{least:g}"] < found[f"cost_{method}_pass1"] < math.log(10)
    assert found["adagrad_less_adam_pass2"] == found["cost_adagrad_pass2"] - found["cost_adam_pass2"]

    pictures, y = standin.images(256, 0, size=8)
    x = pictures[..., 0].flatten(1).double() / 255
    W, b = torch.zeros(10, 64, dtype=torch.float64, requires_grad=True), torch.zeros(10, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([W, b], 0.1, eps=1e-8)
    for step in range(40):
        index = permuted(256, 0, 32 * step, 32 * (step + 1))
        optimizer.param_groups[0]["lr"] = 0.1 / math.sqrt(step + 1)
        optimizer.zero_grad()
        cross_entropy(x[index] @ W.T + b, y[index]).backward()
        optimizer.step()
    assert last["cost_adam_0.1"] == pytest.approx(cross_entropy(x @ W.T + b, y).item(), abs=1e-9)


def test_costs_of_each_net():
    logits, y = torch.randn(3, 5, 4), torch.tensor([0, 1, 2, 3, 1])
    assert torch.allclose(costs(logits, y), torch.stack([cross_entropy(each, y) for each in logits]))


def test_adam_goes_to_the_worst_point(tmp_path):
    """And AMSGrad, gradient descent and AdaGrad towards the best; the regret is what was paid."""
    assert here(SCRIPT, "reddi", "--updates", 1500, "--out", tmp_path)[0] == 0
    found = record(tmp_path / "adam/reddi/seed0")["metrics"]
    assert found["x_adam"] > 0.95 and all(found[f"x_{name}"] < 0 for name in ("amsgrad", "sgd", "adagrad"))
    assert found["regret_adam"] > 0.5 > found["regret_sgd"] > 0


@pytest.mark.parametrize(
    "argv, said",
    [
        (("smoke", "--methods", "adamm"), "there is no adamm, only sgd"),
        (("smoke", "--alphas", "0"), "stepsizes are positive"),
        (("smoke-reddi", "--c", "2"), "--c must be above 2"),
    ],
)
def test_refusals(argv, said, tmp_path):
    refuses(SCRIPT, *argv, "--out", tmp_path, said=said)


def test_what_is_claimed_can_fail():
    """Of nets that do not learn at all, no difference has the paper's sign."""
    claims = {claim.metric: claim for claim in EXPERIMENTS["figure1-mnist"].claims}
    for metric, claim in claims.items():
        if metric.startswith("adagrad"):
            assert claim.verdict("paper", [0.0]).word == "short" and claim.verdict("paper", [-0.1]).word == "short"
            assert claim.verdict("paper", [0.02]).word == "reproduced"
    assert claims["nesterov_less_adam_pass45"].verdict("paper", [0.05]).word == "short"
    assert Config().decayed == Config().methods
