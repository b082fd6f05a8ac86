"""Runs of Adam's folder: costs at the best stepsize, the counterexample."""

import math

import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy

from common.data import standin
from common.data.order import permuted
from papers.adam.train import EXPERIMENTS, Config, groups
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

    pictures, y = standin.images(384, 0, size=8)
    x, y = pictures[:256, ..., 0].flatten(1).double() / 255, y[:256]
    W, b = torch.zeros(10, 64, dtype=torch.float64, requires_grad=True), torch.zeros(10, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([W, b], 0.1, eps=1e-8)
    for step in range(40):
        index = permuted(256, 0, 32 * step, 32 * (step + 1))
        optimizer.param_groups[0]["lr"] = 0.1 / math.sqrt(step + 1)
        optimizer.zero_grad()
        cross_entropy(x[index] @ W.T + b, y[index]).backward()
        optimizer.step()
    assert last["cost_adam_0.1"] == pytest.approx(cross_entropy(x @ W.T + b, y).item(), abs=1e-9)


def test_what_is_compared():
    """Labels say what differs, and nothing else; a grid may be scaled, and settings change."""
    mine = groups(Config(methods=("adam b2=0.9", "adadelta scale=1000"), alphas=(0.001, 0.003)))
    assert [(group.label, group.settings, group.alphas) for group in mine] == [
        ("adam-b2=0.9", {"b2": 0.9}, (0.001, 0.003)), ("adadelta", {}, (1.0, 3.0))
    ]  # fmt: skip
    assert [group.label for group in groups(Config(methods=("adam",), schedules=("drops", "cosine")))] == ["drops", "cosine"]
    assert [group.label for group in groups(Config(methods=("sgd", "adam"), schedules=("sqrt", "constant")))][1:3] == [
        "sgd-constant",
        "adam-sqrt",
    ]
    for name, experiment in EXPERIMENTS.items():
        if isinstance(experiment.config, Config):
            labels = [group.label for group in groups(experiment.config)]
            assert len({*labels}) == len(labels), name


def test_held_out_images_choose_and_the_test_set_is_for_the_chosen(tmp_path):
    """Of a grid of stepsizes and decays; AdamW has its decay outside, momentum as L2: they part although all begin alike."""
    run = tmp_path / "adam/smoke-mlp/seed0"
    argv = ("smoke-mlp", "--schedules", "cosine", "--decays", "0.3", "0.001", "--out", tmp_path)
    assert here(SCRIPT, *argv)[0] == 0
    found, last = record(run)["metrics"], [line for line in rows(run) if "pass" in line][-1]
    for method in ("momentum", "adamw"):
        places = [(alpha, decay) for alpha in (0.01, 0.1) for decay in (0.3, 0.001)]
        least = min(places, key=lambda place: last[f"error_{method}_{place[0]:g}_{place[1]:g}"])
        assert (found[f"alpha_{method}"], found[f"decay_{method}"]) == least
        assert found[f"error_{method}_pass3"] == last[f"error_{method}_{least[0]:g}_{least[1]:g}"]
        assert 0 <= found[f"test_error_{method}"] < 90
    assert found["momentum_less_adamw_test"] == found["test_error_momentum"] - found["test_error_adamw"]
    assert found["less_diagonal"] == abs(found["slope_momentum"]) - abs(found["slope_adamw"])
    assert last["error_adamw_0.1_0.3"] != last["error_adamw_0.1_0.001"] != last["error_momentum_0.1_0.001"]


def test_correction_is_measured(tmp_path):
    """Fig. 4 in small: the cost without correction less that with it; 1,000 nats stand for a net that is lost."""
    argv = ("figure4", "--data", "made-up", "--train-size", 256, "--passes", 2, "--alphas", "0.001", "3", "--out", tmp_path)
    code, out = here(SCRIPT, *argv)
    assert code == 0, out
    found, last = (
        record(tmp_path / "adam/figure4/seed0")["metrics"],
        [line for line in rows(tmp_path / "adam/figure4/seed0") if "pass" in line][-1],
    )
    assert found["first_step_uncorrected-b1=0-b2=0.9999"] == pytest.approx(100) and found[
        "first_step_adam-b1=0-b2=0.9999"
    ] == pytest.approx(1)
    costs = {name: value for name, value in last.items() if name.startswith("cost_")}
    assert len(costs) == 24 and max(costs.values()) == 1000 and costs["cost_adam-b1=0.9-b2=0.999_0.001"] < 60
    each = [
        costs[f"cost_uncorrected-b1=0-b2=0.999_{alpha}"] - costs[f"cost_adam-b1=0-b2=0.999_{alpha}"] for alpha in ("0.001", "3")
    ]
    assert found["most_gain"] >= max(each) and found["least_gain"] <= min(each)


def test_words_of_phrases(tmp_path):
    """A word that only the negative phrases have, and one of the others: both are learned, by every method."""
    folder = tmp_path / "data/glue/SST-2"
    folder.mkdir(parents=True)
    lines = [f"{'bad' if i % 2 else 'good'} film number {i % 7}\t{1 - i % 2}" for i in range(64)]
    for split in ("train", "dev"):
        (folder / f"{split}.tsv").write_text("\n".join(["sentence\tlabel", *lines]) + "\n", encoding="utf-8")
    argv = (
        "figure1-sst2",
        "--batch-size",
        16,
        "--alphas",
        "0.3",
        "--passes",
        20,
        "--data-dir",
        tmp_path / "data",
        "--out",
        tmp_path,
    )
    code, out = here(SCRIPT, *argv)
    assert code == 0, out
    found = record(tmp_path / "adam/figure1-sst2/seed0")["metrics"]
    assert all(found[f"cost_{method}_pass20"] < 0.5 for method in ("nesterov", "rmsprop", "adagrad", "adam"))


def test_ways_over_surfaces(tmp_path):
    """The picture moves, and Adam goes down the valley."""
    assert here(SCRIPT, "paths", "--updates", 48, "--out", tmp_path)[0] == 0
    found = record(tmp_path / "adam/paths/seed0")["metrics"]
    assert found["f_valley_adam"] < 4.3 and found["f_saddle_adam"] < 0
    with Image.open(tmp_path / "adam/paths/seed0/figures/paths.png") as picture:
        assert picture.n_frames == 5 and "adam paths seed 0" in picture.text["Description"]


def test_adam_goes_to_the_worst_point(tmp_path):
    """And AMSGrad, gradient descent and AdaGrad towards the best; the regret is what was paid."""
    assert here(SCRIPT, "reddi", "--updates", 1500, "--out", tmp_path)[0] == 0
    found = record(tmp_path / "adam/reddi/seed0")["metrics"]
    assert found["x_adam"] > 0.95 and all(found[f"x_{name}"] < 0 for name in ("amsgrad", "sgd", "adagrad"))
    assert found["regret_adam"] > 0.5 > found["regret_sgd"] > 0


@pytest.mark.parametrize(
    "argv, said",
    [
        (("smoke", "--methods", "adamm"), "there is no 'adamm', only sgd"),
        (("smoke", "--methods", "adam b3=1"), "there is no 'adam b3=1', only adam scale b1 b2"),
        (("smoke", "--schedules", "cosines"), "there is no cosines, only constant"),
        (("smoke", "--alphas", "0"), "--alphas are positive"),
        (("smoke", "--judged", "held-out"), "a --train-size of 50,000 at most"),
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
