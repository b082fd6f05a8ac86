"""Runs of dropout's folder: recipes, what Table 9's rows do to a net, early stopping, averages, what is claimed."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from common.data import standin
from common.data.order import mix, permuted
from papers.dropout.model import Net, max_norm_
from papers.dropout.train import EXPERIMENTS, Config, differences
from tests.start import here, newest, record, refuses, rows

SCRIPT = "papers.dropout.train"


def ran(tmp_path, *argv, name="smoke"):
    code, output = here(SCRIPT, name, *argv, "--out", tmp_path)
    assert code == 0, output
    return tmp_path / "dropout" / name / "seed0"


def test_a_run_by_hand(tmp_path):
    """Max-norm, dropout and momentum, update by update."""
    folder = ran(tmp_path, "--precision", "fp64", "--rows", "dropout+max-norm", "--c", 0.5, "--updates", 6)
    found = newest(folder)["objects"]["nets"]
    pictures, y = standin.images(60, 0, size=8)
    x = pictures[..., 0].flatten(1).double() / 255
    start = ran(tmp_path / "start", "--precision", "fp64", "--rows", "dropout", "--rate", 1e-300, "--updates", 1)
    net = Net([64, 16, 16, 10], (0.8, 0.5, 0.5)).double()
    net.load_state_dict({name[2:]: value for name, value in newest(start)["objects"]["nets"].items()})
    v = [torch.zeros_like(w) for w in net.parameters()]
    for step in range(6):
        index = permuted(60, 0, 10 * step, 10 * (step + 1))
        r = net.masks(10, torch.Generator().manual_seed(mix(0, "masks", step)))
        gradients = torch.autograd.grad(cross_entropy(net(x[index], r), y[index]), [*net.parameters()])
        rate, mu = Config(rate=0.1, updates=6).pace("dropout", step)
        with torch.no_grad():
            for w, old, g in zip(net.parameters(), v, gradients, strict=True):
                w -= rate * old.mul_(mu).add_(g)
        for W in net.W:
            max_norm_(W, 0.5)
    for name, w in net.state_dict().items():
        torch.testing.assert_close(found[f"0.{name}"], w, atol=1e-12, rtol=1e-12)
    assert net.W[1].norm(dim=1).max() <= 0.5 + 1e-12


def test_recipes():
    """The authors' example: rate and momentum at 0, 100,000 and a million updates, the same at a tenth of a shorter run."""
    config, short = Config(), Config(updates=1000)
    assert config.pace("dropout", 0) == (1, 0.5)
    rate, mu = config.pace("dropout+l2", 100_000)
    assert rate == pytest.approx(1 / 11) and mu == pytest.approx(0.99 - 0.49 / math.e)
    assert rate / (1 - mu) == pytest.approx(0.48, abs=0.005) and short.pace("max-norm", 100) == (rate, mu)
    assert config.pace("l2", 25_000) == (0.0025, 0.9)
    assert Config(rate_norm=0.3).pace("max-norm", 0) == (0.3, 0.5)
    old = Config(recipe="2012", updates=1_800_000)
    assert old.pace("plain", 0) == (0.5, 0.5) and old.pace("plain", 150_000)[1] == pytest.approx(0.745)
    rate, mu = old.pace("plain", 300_000)
    assert mu == pytest.approx(0.99) and rate == pytest.approx(0.998**500 * 0.01)


def test_who_decays_and_who_is_dropped():
    config = Config(rows=("plain", "l2+l1", "dropout+l2", "hidden+max-norm", "gaussian"))
    assert [config.decay(row) for row in config.rows] == [0, 0.001, 0.0001, 0, 0]
    p = [config.new(784, *each).p for each in config.nets()]
    assert p[0] == p[1] == (1, 1, 1, 1) and p[2] == p[4] == (0.8, 0.5, 0.5, 0.5) and p[3] == (1, 0.5, 0.5, 0.5)


def test_width_grows_as_p_falls():
    config = Config(rows=("hidden",), vary="p-and-width", values=(0.1, 1.0), hidden=(64, 128))
    wide, plain = (config.new(784, *each) for each in config.nets())
    assert [len(b) for b in wide.b] == [640, 1280, 10] and wide.p == (1, 0.1, 0.1)
    assert [len(b) for b in plain.b] == [64, 128, 10] and plain.p == (1, 1, 1)


def test_l1_and_sparsity_act(tmp_path):
    """L1 makes weights smaller, in the last fifth alone; sparsity, activations."""
    x = standin.images(30, 2, size=8)[0][..., 0].flatten(1) / 255
    weights, losses, active = [], [], []
    for strength in (0, 0.01):
        flags = ("--rows", "l1", "sparsity", "--l1", strength, "--sparsity", 10 * strength, "--rho", 0)
        folder = ran(tmp_path / f"{strength}", *flags)
        state, nets = newest(folder)["objects"]["nets"], [Net([64, 16, 16, 10], (1, 1, 1)) for _ in range(2)]
        for n, net in enumerate(nets):
            net.load_state_dict({name[2:]: value for name, value in state.items() if name.startswith(f"{n}.")})
        weights.append(sum(W.abs().sum().item() for W in nets[0].W))
        losses.append([line["train_loss_l1"] for line in rows(folder)])
        active.append(sum(y.mean().item() for y in nets[1].layers(x)[1:-1]))
    assert weights[1] < 0.97 * weights[0] and losses[1][:9] == losses[0][:9] and losses[1][-1] != losses[0][-1]
    assert active[1] < 0.9 * active[0]


def test_fewer_images_are_the_first_ones(tmp_path):
    """The net of 2 images learns them by heart, and knows no other class."""
    folder = ran(tmp_path, "--rows", "plain", "--vary", "images", "--values", 2, 60, "--images", 60, "--updates", 60)
    line = rows(folder)[-1]
    assert line["train_loss_plain_images2"] < 0.1 < line["train_loss_plain_images60"]
    assert line["test_error_plain_images2"] > 60


def test_early_stopping_takes_the_look_with_the_least_validation_error(tmp_path):
    folder = ran(tmp_path, "--rows", "plain", "--images", 50000, "--validation", 10000, "--looks", 8)
    looks = [line for line in rows(folder) if "validation_error_plain" in line]
    best = min(looks, key=lambda line: line["validation_error_plain"])
    assert len(looks) == 8 and record(folder)["metrics"]["test_error_plain_stopped"] == best["test_error_plain"]


def test_averages(tmp_path):
    """Of the two thinned nets: k = 1 is the mean of their errors, and differences are to weight scaling."""
    found = record(ran(tmp_path, "--averaged", 2))["metrics"]
    assert {"monte_carlo_error_k1", "monte_carlo_error_k2"} <= {*found} and "monte_carlo_error_k5" not in found
    scaled = found["test_error_dropout_max_norm"]
    assert found["monte_carlo_less_scaling_k2"] == pytest.approx(found["monte_carlo_error_k2"] - scaled)


def test_differences_by_hand():
    config = Config(rows=("hidden",), vary="p", values=(0.1, 0.4, 0.8, 1.0))
    errors = dict(zip((f"test_error_{name}" for name in config.keys()), (3.0, 1.25, 1.5, 2.0), strict=True))  # noqa: SIM118
    assert differences(config, errors) == pytest.approx(
        {"spread_of_middle": 0.25, "p0.1_less_middle": 1.625, "p1_less_middle": 0.625}
    )
    config = Config(rows=("max-norm", "dropout+max-norm"), vary="images", values=(100.0, 500.0))
    errors = dict(zip((f"test_error_{name}" for name in config.keys()), (30.0, 12.0, 31.0, 11.5), strict=True))  # noqa: SIM118
    assert differences(config, errors) == {
        "dropout_max_norm_gain_over_max_norm_images100": -1.0, "dropout_max_norm_gain_over_max_norm_images500": 0.5,
    }  # fmt: skip


def test_dropped_inputs_end_at_the_ridge(tmp_path):
    found = record(ran(tmp_path, "--updates", 1000, name="ridge"))["metrics"]
    assert found["ridge_distance"] < 0.1 < 0.2 < found["least_squares_distance"]


def test_activations_of_both_autoencoders(tmp_path):
    found = record(ran(tmp_path, "--updates", 100, "--precision", "fp64", name="smoke-sparse"))["metrics"]
    assert found["mean_activation_dropout"] > 0 and 0 < found["share_at_zero_plain"] < 100
    assert found["plain_is_more_active"] == pytest.approx(found["mean_activation_plain"] - found["mean_activation_dropout"])


@pytest.mark.parametrize(
    "argv, said",
    [
        (("--rows", "drop"), "drop has drop, which is none of plain"),
        (("--p-hidden", "0"), "kept with a probability in (0, 1]"),
        (("--vary", "p"), "--vary and --values go together"),
        (("--vary", "images", "--values", "7"), "each has to divide --images 60000"),
        (("--validation", "1"), "--images 60000 and --validation 1: MNIST"),
        (("--rows", "plain", "--averaged", "2"), "the last of --rows has no masks"),
    ],
)
def test_refusals(argv, said, tmp_path):
    refuses(SCRIPT, "smoke", *argv, "--out", tmp_path, said=said)


def test_what_is_claimed_can_fail():
    """Rows that do not differ show nothing; nor does a net at chance."""
    claims = {claim.metric: claim for claim in EXPERIMENTS["table9"].claims}
    gain = claims["dropout_max_norm_gain_over_l2"]
    words = [gain.verdict("paper", [value]).word for value in (0.57, 0.1, -0.5)]
    assert words == ["reproduced", "short", "short"]
    assert claims["test_error_l2"].verdict("paper", [1.3]).word == "short"  # a baseline may not be better either
    flat = {claim.metric: claim for claim in EXPERIMENTS["figure9a"].claims}["spread_of_middle"]
    assert flat.verdict("paper", [0.0]).word == "reproduced" and flat.stands_on == "p0.1_less_middle"
