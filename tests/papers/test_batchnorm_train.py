"""Runs of batch norm's folder: updates, the choice of rate and scale, the statistics of the end, small batches."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import batch_norm, cross_entropy, linear

from common.data import standin
from common.data.order import mix, permuted
from papers.batchnorm.model import ConvNet, Nets
from papers.batchnorm.small_batches import SmallBatches, differences, scaled
from papers.batchnorm.train import EXPERIMENTS, Config, Watched, chosen, off
from tests.start import here, newest, record, refuses, rows

SCRIPT = "papers.batchnorm.train"


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_each_net_descends_at_its_own_rate(tmp_path, double):
    """Five updates with batch norm at two rates, by torch's batch norm, one net at a time, from the weights of a plain net."""
    argv = ("smoke", "--precision", "fp64", "--steps", 5, "--evaluate-every", 5, "--out", tmp_path)
    assert here(SCRIPT, *argv)[0] == 0
    trained = newest(tmp_path / "batchnorm/smoke/seed0")["objects"]["nets"]
    torch.set_default_dtype(torch.float64)
    start = lambda norm: Nets(norm, [0.1, 0.1], (64, 8, 8, 10), generator=torch.Generator().manual_seed(mix(0, "weights")))
    assert all(torch.equal(a, b) for a, b in zip(start("plain").W, start("bn").W, strict=True))
    pictures, labels = standin.images(256, 0, size=8)
    images = pictures[..., 0].flatten(1)[:192].double() / 255
    for net, rate in enumerate((0.1, 1.0)):
        first = start("bn")
        W = [each.detach()[net].clone().requires_grad_() for each in first.W]
        gamma = [torch.ones(8).requires_grad_() for _ in W[:-1]]
        beta = [torch.zeros(n).requires_grad_() for n in (8, 8, 10)]
        for step in range(5):
            index = permuted(192, 0, 16 * step, 16 * (step + 1))
            z = images[index]
            for i in range(2):
                z = torch.sigmoid(batch_norm(linear(z, W[i]), None, None, gamma[i], beta[i], True))
            gradient = torch.autograd.grad(cross_entropy(linear(z, W[2], beta[2]), labels[index]), [*W, *gamma, *beta])
            with torch.no_grad():
                for p, g in zip([*W, *gamma, *beta], gradient, strict=True):
                    p -= rate * g
        for i, each in enumerate(W):
            torch.testing.assert_close(trained[f"of.bn.W.{i}"][net], each.detach(), rtol=0, atol=1e-10)
        for i, each in enumerate(beta):
            torch.testing.assert_close(trained[f"of.bn.norms.{i}.beta"][net, 0], each.detach(), rtol=0, atol=1e-10)


def test_the_end_is_of_the_populations_statistics(tmp_path):
    """The record's accuracies are those of the checkpoint's net; the log's last line has those of running averages."""
    assert here(SCRIPT, "smoke", "--precision", "fp64", "--out", tmp_path)[0] == 0
    seed0 = tmp_path / "batchnorm/smoke/seed0"
    found, last = record(seed0)["metrics"], [row for row in rows(seed0) if "updates" in row][-1]
    weights = {key.removeprefix("of.bn."): w for key, w in newest(seed0)["objects"]["nets"].items() if key.startswith("of.bn.")}
    nets = Nets("bn", [0.1, 0.1], (64, 8, 8, 10)).double()
    nets.load_state_dict(weights)
    pictures, labels = standin.images(128, 1, size=8)
    right = (nets.eval()(pictures[..., 0].flatten(1).double() / 255).argmax(2) == labels).double().mean(1)
    best = (0.1, 1.0).index(found["rate_bn"])
    assert found["test_accuracy_bn"] == pytest.approx(100 * right[best].item())
    there = last[f"test_accuracy_bn_lr{found['rate_bn']:g}_scale0.1"]
    assert found["population_less_running_bn"] == pytest.approx(found["test_accuracy_bn"] - there)
    assert found["population_less_running_bn"] != 0 and last["updates"] == 24


def test_settings_are_chosen_on_validation_alone():
    """And both norms are compared at each one's best setting, and at the other's."""
    config = Config(rates=(0.1, 1.0), scales=(0.1,), steps=100, evaluate_every=10)
    keys = config.keys("plain") + config.keys("bn")
    end = dict(zip((f"validation_accuracy_{each}" for each in keys), (91.0, 89.0, 92.0, 95.0), strict=True))
    end |= dict(zip((f"test_accuracy_{each}" for each in keys), (80.0, 99.0, 98.0, 90.0), strict=True))
    lines = [{"updates": 10 * i, **{key: value - 10 + i for key, value in end.items()}} for i in range(1, 11)]
    run = SimpleNamespace(config=config, curves=lambda *names: {name: [line[name] for line in lines] for name in names})
    watched = Watched(config)
    for norm, far in (("plain", 5.0), ("bn", 1.0)):
        for shift in (0.0, far):
            watched.look(norm, torch.linspace(-1, 1, 11)[None, :, None].expand(2, 11, 100) + shift)
    found = chosen(run, end, watched)
    assert (found["rate_plain"], found["test_accuracy_plain"]) == (0.1, 80)
    assert (found["rate_bn"], found["test_accuracy_bn"]) == (1.0, 90)
    assert (found["bn_less_plain_step100"], found["bn_less_plain_step20"]) == (10, 10)
    assert (found["bn_less_plain_best_of_bn_step100"], found["bn_less_plain_best_of_plain_step100"]) == (-9, 18)
    assert (found["learned_plain"], found["learned_bn"], found["learned_bn_less_plain"]) == (50, 100, 50)
    assert found["median_range_plain_less_bn"] == pytest.approx(4) and found["median_range_bn"] == pytest.approx(1)
    assert found["population_less_running_bn"] == 0


def test_percentiles_of_a_unit():
    watched = Watched(Config(norms=("bn",), rates=(1.0,), scales=(0.1,), width=2))
    seen = watched.look("bn", torch.stack([torch.arange(101.0), torch.zeros(101)], 1)[None])
    assert seen[:, 0].tolist() == pytest.approx([15, 50, 85])


def test_small_batches_learn_from_the_same_images(tmp_path, double):
    """A net of batches of 4 takes two updates where one of 8 takes one, at half its rate, which falls in a straight line."""
    argv = (
        "smoke-small-batches",
        "--precision",
        "fp64",
        "--images",
        24,
        "--nets",
        "gn-8",
        "gn-4",
        "--groups",
        4,
        "--out",
        tmp_path,
    )
    assert here(SCRIPT, *argv)[0] == 0
    trained = newest(tmp_path / "batchnorm/smoke-small-batches/seed0")["objects"]
    torch.set_default_dtype(torch.float64)
    images, labels = standin.images(256, 0, size=8)
    shown = scaled(images)
    for name, size in (("gn-8", 8), ("gn-4", 4)):
        torch.default_generator.manual_seed(mix(0, "weights"))
        net = ConvNet("gn", 4)
        optimizer = torch.optim.SGD(net.parameters(), 0.1, 0.9, weight_decay=1e-4)
        for at in range(0, 24, size):
            optimizer.param_groups[0]["lr"] = 0.1 * size / 32 * (1 - at // 8 / 3)
            index = permuted(256, 0, at, at + size)
            optimizer.zero_grad()
            cross_entropy(net(shown(images[index])), labels[index]).backward()
            optimizer.step()
        for key, w in net.state_dict().items():
            torch.testing.assert_close(trained[name][key], w, rtol=0, atol=1e-9)


def test_differences_of_small_batches():
    running = {"bn-32": 40.0, "gn-32": 42.0, "bn-2": 60.0, "gn-2": 43.0, "ln-32": 45.0}
    found = differences(running, running | {"bn-2": 55.0})
    assert (found["bn_rise_2"], found["gn_rise_2"], found["ln_less_bn_32"]) == (15, 1, 5)
    assert (found["bn_less_gn_32"], found["bn_less_gn_2"], found["population_less_running_2"]) == (-2, 12, -5)


def test_what_is_claimed_can_fail():
    """Of nets that do not differ, or by less than the noise, no difference counts."""
    for name in ("figure1", "rates"):
        for claim in EXPERIMENTS[name].claims:
            assert claim.verdict("paper", [-0.1 - claim.noise]).word == "short"
            assert claim.verdict("paper", [2 * claim.noise + 0.1]).word == "reproduced"
            assert not claim.noise or claim.verdict("paper", [claim.noise / 2]).reason == "within noise"
    assert off(50) == pytest.approx(100 * math.sqrt(2 * 0.25 / 10_000), abs=0.01)


def test_steps_of_claims_are_evaluated():
    for name, experiment in EXPERIMENTS.items():
        for claim in experiment.claims:
            if "_step" in claim.metric:
                step, config = int(claim.metric.rpartition("_step")[2]), experiment.config
                assert step % config.evaluate_every == 0 and step in [config.steps // part for part in (50, 10, 5, 1)], name


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("smoke", "--norms", "gn"), "--norms must be of plain, bn, ln, got gn"),
        (("smoke", "--rates", 0), "--rates must be positive"),
        (("smoke", "--optimizer", "adam"), "takes one of --rates"),
        (("smoke", "--validation", 50_000), "--validation 50000"),
        (("smoke-small-batches", "--nets", "gn-8", "gn-3"), "no 'gn-3'"),
        (("smoke-small-batches", "--nets", "gn-8", "bn-x"), "no 'bn-x'"),
        (("smoke-small-batches", "--nets", "wn-8"), "no 'wn-8'"),
    ],
)
def test_impossible_values_are_refused(flags, said, tmp_path):
    refuses(SCRIPT, *flags, "--out", tmp_path, said=said)


def test_default_sizes_divide():
    assert SmallBatches().largest == 32 and len(SmallBatches().nets) == 12
