"""The runs of Glorot & Bengio: updates, the choice of the rate, what is claimed."""

import math

import pytest
import torch
from torch.nn import functional as F

from common.data.order import mix
from papers.glorot.model import Nets
from papers.glorot.shapeset import shapeset
from papers.glorot.statistics import Seen, ratios
from papers.glorot.train import EXPERIMENTS, TABLE_1, Config, chosen, off
from tests.start import here, newest, record, refuses, rows

SCRIPT = "papers.glorot.train"
SMALL = ("smoke", "--precision", "fp64")


def test_each_net_descends_at_its_own_rate(tmp_path):
    """Six updates of tanh and sigmoid at two rates, by autograd, one net at a time."""
    code, output = here(SCRIPT, *SMALL, "--updates", 6, "--out", tmp_path)
    assert code == 0, output
    trained = newest(tmp_path / "glorot/smoke/seed0")["objects"]["nets"]
    torch.set_default_dtype(torch.float64)
    try:
        torch.default_generator.manual_seed(mix(0, "start"))
        kinds = [("tanh", "standard")] * 2 + [("sigmoid", "standard")] * 2
        nets = Nets([1024, 8, 8, 9], kinds)
        for net, rate in enumerate((0.1, 0.2, 0.1, 0.2)):
            f = torch.tanh if net < 2 else torch.sigmoid
            weights = [W.detach()[net].clone().requires_grad_() for W in nets.W]
            biases = [b.detach()[net, 0].clone().requires_grad_() for b in nets.b]
            for step in range(6):
                z, y = shapeset(10, mix(0, "train", step))
                z = z.double()
                for i, (W, b) in enumerate(zip(weights, biases, strict=True)):
                    z = F.linear(z, W, b)
                    z = f(z) if i < 2 else z
                gradient = torch.autograd.grad(F.cross_entropy(z, y), [*weights, *biases])
                with torch.no_grad():
                    for p, g in zip([*weights, *biases], gradient, strict=True):
                        p -= rate * g
            for i in range(3):
                torch.testing.assert_close(trained[f"W.{i}"][net], weights[i].detach(), rtol=0, atol=1e-7)
                torch.testing.assert_close(trained[f"b.{i}"][net, 0], biases[i].detach(), rtol=0, atol=1e-7)
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_rate_is_chosen_on_validation_alone():
    config = Config(models=("tanh", "tanh-n"), rates=(0.1, 0.3))
    found = chosen(config, validation=[5.0, 4.0, 3.0, 6.0], test=[1.0, 9.0, 8.0, 2.0])
    assert (found["test_error_tanh"], found["rate_tanh"]) == (9, 0.3)
    assert (found["test_error_tanh_n"], found["rate_tanh_n"]) == (8, 0.1)
    assert found["tanh_n_gain_over_tanh"] == 1 and found["validation_error_tanh_n_lr0.3"] == 6


def test_names_of_nets():
    config = Config(models=("softsign-n", "relu-he"), rates=(0.03, 0.1))
    assert config.keys() == ["softsign_n_lr0.03", "softsign_n_lr0.1", "relu_he_lr0.03", "relu_he_lr0.1"]
    assert config.kinds() == [("softsign", "normalized")] * 2 + [("relu", "he")] * 2
    assert Config(models=("tanh-torch",), rates=(0.1,)).keys() == ["tanh_torch"]


def test_ratios_are_far_end_over_near_end():
    seen = Seen(2, 3)
    seen.z[:, 0], seen.ds[:, 0], seen.dW[:, 0], seen.J[:, 0] = (
        torch.tensor(values) for values in ([4.0, 2, 1], [1.0, 2, 8], [3.0, 3, 3], [0.4, 0.6])
    )
    for each in (seen.z, seen.ds, seen.dW):
        each[:, 1:] = 1.0
    found = ratios(seen)
    assert (found["activation_ratio_standard"], found["gradient_ratio_standard"]) == (0.25, 0.125)
    assert found["weight_gradient_ratio_standard"] == 1 and found["jacobian_standard"] == pytest.approx(0.5)
    assert (found["activation_gain"], found["gradient_gain"]) == (0.75, 0.875)


def test_activations_are_watched_as_often_as_asked(tmp_path):
    assert here(SCRIPT, "smoke", "--watch-every", 12, "--out", tmp_path)[0] == 0
    lines = rows(tmp_path / "glorot/smoke/seed0")
    assert [row["step"] for row in lines if "std_tanh_lr0.1_layer2" in row] == [12, 24]
    assert all(row["updates"] == row["step"] for row in lines if "updates" in row)
    first = next(row for row in lines if "mean_sigmoid_lr0.2_layer1" in row)
    assert 0.2 < first["mean_sigmoid_lr0.2_layer1"] < 0.8
    metrics = record(tmp_path / "glorot/smoke/seed0")["metrics"]
    assert metrics["rate_tanh"] in (0.1, 0.2) and 0 <= metrics["test_error_tanh"] <= 100


def test_claims_are_table_1s():
    for data, column in TABLE_1.items():
        claims = {claim.metric: claim for claim in EXPERIMENTS[f"{data}-table-1"].claims}
        assert {f"test_error_{model.replace('-', '_')}": value for model, value in column.items()} == {
            name: claim.value for name, claim in claims.items() if name.startswith("test_error")
        }
        assert not claims["test_error_tanh_n"].either_way and claims["test_error_tanh"].either_way
        assert claims["tanh_n_gain_over_tanh"].noise > 0
    assert off(4.0) == pytest.approx(math.sqrt(2 * 0.04 * 0.96 / 10_000) * 100)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--models", "tanh-he2"), "no 'tanh-he2'"),
        (("--models", "gelu"), "no 'gelu'"),
        (("--models", "tanh", "tanh"), "must be different"),
        (("--rates", 0), "--rates must be positive"),
        (("--depth", 0), "--depth must be at least 1"),
        (("--data", "mnist", "--validation", 50_000), "--validation 50000"),
    ],
)
def test_impossible_values_are_refused(flags, said, tmp_path):
    refuses(SCRIPT, "smoke", *flags, "--out", tmp_path, said=said)
