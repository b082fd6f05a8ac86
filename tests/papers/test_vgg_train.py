"""VGG's recipes: rates, what a net is shown, its updates by hand, the two turns of a start from A, evaluation, and its claims."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from common.data import standin
from common.data.images import draw_crops
from common.data.order import mix, permuted
from papers.vgg import train
from tests.start import here, judged, newest, record, refuses, rows

SCRIPT = "papers.vgg.train"


def test_rates_are_the_papers():
    """Sec. 3.1: 1e-2, divided by 10 three times, 370,000 updates; from S = 256 on to 384 with 1e-3; batches of 256."""
    a, large, jitter = (train.EXPERIMENTS[f"imagenet-{name}"].config for name in ("a", "d-384", "d-jitter"))
    assert [a.lr_at(step) for step in (0, 90_000, 205_000, 310_000, 369_999)] == pytest.approx([1e-2, 1e-3, 1e-4, 1e-5, 1e-5])
    assert (a.steps, a.batch_size, a.momentum, a.weight_decay, a.dropout) == (370_000, 256, 0.9, 5e-4, 0.5)
    assert large.lr_at(0) == jitter.lr_at(0) == 1e-3
    assert (a.sides, large.sides, jitter.sides) == ((256, 256), (384, 384), (256, 512))
    assert (a.test_sides, large.test_sides, jitter.test_sides) == ((224, 256, 288), (352, 384, 416), (256, 384, 512))
    bn = train.EXPERIMENTS["cifar10-d-bn"].config
    assert [bn.lr_at(step) for step in (0, bn.steps // 4, bn.steps // 2)] == pytest.approx([0.1, 0.0854, 0.05], rel=1e-3)


def test_runs_start_where_the_paper_says():
    """A at random, B to E from A, 384 from 256, jitter from 384."""
    found = {
        name.removeprefix("imagenet-"): each.config.start_from.removeprefix("imagenet-")
        for name, each in train.EXPERIMENTS.items()
        if name.startswith("imagenet")
    }
    assert found == {
        "a": "nothing", "a-lrn": "nothing", "b": "a", "c": "a", "d": "a", "e": "a", "c-384": "c", "d-384": "d", "e-384": "e",
        "c-jitter": "c-384", "d-jitter": "d-384", "e-jitter": "e-384",
    }  # fmt: skip
    assert next(iter(train.EXPERIMENTS)) == "imagenet-d-jitter"


TABLES = {  # Table 3, then Table 4, then Table 5: 150 crops, with dense ones
    "a": (29.6, 10.4), "a-lrn": (29.7, 10.5), "b": (28.7, 9.9, 28.2, 9.6), "c": (28.1, 9.4, 27.7, 9.2),
    "d": (27.0, 8.8, 26.6, 8.6), "e": (27.3, 9.0, 26.9, 8.7), "c-384": (28.1, 9.3, 27.8, 9.2), "d-384": (26.8, 8.7, 26.5, 8.6),
    "e-384": (26.9, 8.7, 26.7, 8.6), "c-jitter": (27.3, 8.8, 26.3, 8.2),
    "d-jitter": (25.6, 8.1, 24.8, 7.5, 24.6, 7.5, 24.4, 7.2), "e-jitter": (25.5, 8.0, 24.8, 7.5, 24.6, 7.4, 24.4, 7.1),
}  # fmt: skip


def test_claims_are_those_of_tables_3_to_5():
    metrics = [f"top{k}_error_{kind}" for kind in ("dense", "multiscale", "150crop", "multiscale_150crop") for k in (1, 5)]
    for name, values in TABLES.items():
        claims = train.EXPERIMENTS[f"imagenet-{name}"].claims
        assert [(claim.metric, claim.value) for claim in claims] == list(zip(metrics, values, strict=False)), name


def test_the_order_of_depth_is_judged_by_its_sign():
    """Sec. 4.1. A gain nearer to 0 than its noise shows nothing; norms that help by more than the noise speak against the paper."""
    claims = {claim.metric: claim for claim in train.EXPERIMENTS["cifar10-depth"].claims}
    assert claims.keys() == {f"{name}_gain" for name in ("b", "c", "d", "pairs", "lrn")}
    for name in ("b", "c", "d", "pairs"):
        assert judged(claims[f"{name}_gain"], "paper", [0.2]) == "short, within noise"
        assert judged(claims[f"{name}_gain"], "paper", [0.9]) == "reproduced"
        assert judged(claims[f"{name}_gain"], "paper", [-0.9]).startswith("short by 0.9")
    lrn = claims["lrn_gain"]
    assert [judged(lrn, "paper", [gain]) for gain in (-1.0, 0.2)] == ["reproduced"] * 2
    assert judged(lrn, "paper", [1.0]).startswith("short by")
    errors = {"a": 30, "a_lrn": 31, "b": 28, "c": 27, "d": 24, "e": 25, "shallow": 35}
    gains = train.compared({f"{name}_test_error": error for name, error in errors.items()})
    assert gains == {"lrn_gain": -1, "b_gain": 2, "c_gain": 1, "d_gain": 3, "e_gain": -1, "pairs_gain": 7}


def test_all_nets_of_a_comparison():
    with torch.device("meta"):
        depth = train.EXPERIMENTS["cifar10-depth"].config.networks()
        starts = train.EXPERIMENTS["cifar10-start"].config.networks()
        bn = train.EXPERIMENTS["cifar10-d-bn"].config.networks()
    assert {name: net.configuration for name, net in depth.items()} == {
        "a_": "A", "a_lrn_": "A-LRN", "b_": "B", "c_": "C", "d_": "D", "e_": "E", "shallow_": "shallow"
    }  # fmt: skip
    assert {name: net.configuration for name, net in starts.items()} == {
        "variance_": "D", "deviation_": "D", "glorot_": "D", "a_": "A", "from_a_": "D"
    }  # fmt: skip
    for net in (*depth.values(), *starts.values()):
        assert net.features.conv1_1.out_channels == 32 and (net.fc6.in_features, net.fc6.out_features) == (256, 512)
        assert not any(isinstance(layer, nn.BatchNorm2d) for layer in net.modules())
    assert bn[""].features.conv5_3.out_channels == 512 and sum(isinstance(each, nn.BatchNorm2d) for each in bn[""].modules()) == 13


def padded_crop(image, mean, top, left, flip):
    """For one image: the mean subtracted, padded with zeros, cropped, flipped."""
    padded = torch.zeros(40, 40, 3, dtype=mean.dtype)
    padded[4:36, 4:36] = image - mean
    crop = padded[top : top + 32, left : left + 32]
    return (crop.flip(1) if flip else crop).permute(2, 0, 1)


def test_training_is_the_papers_recipe(tmp_path, double):
    """Both turns, in float64, with each image cropped alone, momentum and weight decay by hand: A and three D, then D from A."""
    flags = ["--steps", 4, "--drops", 2, "--evaluate-every", 2, "--batch-size", 8, "--precision", "fp64", "--dropout", 0]
    code, output = here(SCRIPT, "smoke", *flags, "--out", tmp_path)
    assert code == 0, output
    directory = tmp_path / "vgg/smoke/seed0"
    objects = newest(directory)["objects"]
    torch.set_default_dtype(torch.float64)
    torch.default_generator.manual_seed(mix(0, "start"))
    config = train.EXPERIMENTS["smoke"].config
    nets = {name: net.train() for name, net in config.networks().items()}
    (data, labels), (test, test_labels) = standin.images(256, 0), standin.images(100, 1)
    mean = data.double().mean((0, 1, 2))
    lines = [row for row in rows(directory) if "lr" in row]
    for name, net in nets.items():
        net.dropout.p = 0.0
        if name == "from_a_":
            net.start_from(nets["a_"])
        velocity, losses, errors = {key: torch.zeros_like(p) for key, p in net.named_parameters()}, [], []
        for step, rate in enumerate((1e-2, 1e-2, 1e-3, 1e-3)):
            index, draws = permuted(256, 0, 8 * step, 8 * step + 8), draw_crops(8, 9, 0, step).tolist()
            batch = torch.stack([padded_crop(data[i], mean, *draw) for i, draw in zip(index, draws, strict=True)])
            loss = F.cross_entropy(net(batch), labels[index])
            losses.append(min(100.0, loss.item()) if loss.isfinite() else 100.0)
            net.zero_grad()
            loss.backward()
            with torch.no_grad():
                for key, p in net.named_parameters():
                    velocity[key] = 0.9 * velocity[key] + p.grad + 5e-4 * p
                    p -= rate * velocity[key]
                if step % 2:
                    scores = net((test - mean).permute(0, 3, 1, 2))
                    wrong = (scores.argmax(1) != test_labels) | ~scores.isfinite().all(1)
                    errors.append(100 * wrong.double().mean().item())
        for key, value in net.state_dict().items():
            torch.testing.assert_close(objects[f"{name}model"][key], value, rtol=1e-6, atol=1e-8, equal_nan=True, msg=name + key)
        mine = [row for row in lines if f"{name}train_loss" in row]
        assert mine[-1][f"{name}test_error"] == pytest.approx(errors[-1]), name
        assert record(directory)["metrics"][f"{name}test_error"] == pytest.approx(errors[-1])
        assert [row[f"{name}train_loss"] for row in mine] == pytest.approx([sum(losses[:2]) / 2, sum(losses[2:]) / 2], rel=1e-6), (
            name
        )
    assert not torch.equal(nets["from_a_"].fc6.weight, nets["a_"].fc6.weight)


def test_a_net_that_diverges_is_shown_as_that(tmp_path):
    """Only where the run asks which nets train: loss 100, error 100 %; the others are as without it. Elsewhere the run stops."""
    code, output = here(SCRIPT, "smoke", "--lr", 1e4, "--out", tmp_path)
    assert code == 0, output
    metrics = record(tmp_path / "vgg/smoke/seed0")["metrics"]
    assert metrics["variance_test_error"] == 100.0
    assert [row for row in rows(tmp_path / "vgg/smoke/seed0") if row.get("variance_train_loss") == 100.0]
    code, output = here(SCRIPT, "smoke", "--compare", "depth", "--lr", 1e4, "--out", tmp_path / "depth")
    assert code == 1 and "finite" in output, output


# Evaluation.


class Scores(nn.Module):
    """Scores that were written down beforehand, by the first number of each image; as maps by all its numbers."""

    def __init__(self, table):
        super().__init__()
        self.table = table

    def forward(self, images):
        return self.table[images[:, 0, 0, 0].long()]

    def dense(self, images):
        return self.table[images[:, 0].long()].permute(0, 3, 1, 2)


def evaluated(batches, labels, kinds, table):
    run = SimpleNamespace(evaluating=nullcontext, gather=lambda hits, count: hits if len(hits) == count else pytest.fail("count"))
    tests = train.Tests(labels, len(labels), ("top1_{}", "top5_{}"), lambda kind: iter(batches[kind]))
    return train.evaluate(run, Scores(table), tests, kinds)


def numbered(*rows):
    return torch.tensor(rows, dtype=torch.float32)[:, None].expand(-1, 3, -1, -1)


def test_scores_are_averaged_over_places_and_posteriors_over_the_rest():
    """Sec. 3.2: logits within a map; after the softmax flips, scales, and dense with crops. Each order would answer otherwise."""
    table = F.pad(torch.tensor([[0.0, 9, 0], [12, 0, 0], [0, 1, -30], [0, 1, 4]]), (0, 3), value=-40)
    p = table.softmax(1)
    labels = torch.tensor([0, 1])
    dense = [([numbered([[0, 1]], [[2, 3]])], 1), ([numbered([[2, 2]], [[0, 0]])], 1)]  # one image and its flip at a time
    several = [([numbered([[0]], [[1]]), numbered([[2, 3]], [[3, 3]])], 1), ([numbered([[1]], [[1]]), numbered([[0]], [[2]])], 1)]
    crops = [([numbered([[0]], [[3]])], 1), ([numbered([[2]], [[2]])], 1)]
    first = torch.stack([(table[[0, 1]].mean(0).softmax(0) + table[[2, 3]].mean(0).softmax(0)) / 2, (p[2] + p[0]) / 2])
    second = torch.stack([((p[0] + p[1]) / 2 + (table[[2, 3]].mean(0).softmax(0) + p[3]) / 2) / 2, (p[1] + (p[0] + p[2]) / 2) / 2])
    third = torch.stack([(p[0] + p[3]) / 2, p[2]])
    found = evaluated({"dense": dense, "multiscale": several, "150crop": crops}, labels, ("dense", "multiscale", "150crop"), table)
    means = {"dense": first, "multiscale": second, "150crop": third, "multiscale_150crop": (second + third) / 2}
    expected = {}
    for kind, scores in means.items():
        top = scores.topk(5).indices == labels[:, None]
        expected |= {f"top1_{kind}": 100 - 50 * top[:, 0].sum().item(), f"top5_{kind}": 100 - 50 * top.any(1).sum().item()}
    assert found == pytest.approx(expected) and len(set(expected.values())) > 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["smoke", "--batch-size", 0], "--batch-size must be at least 1"),
        (["smoke", "--narrow", 5], "--narrow must divide 64"),
        (["smoke", "--dropout", 1.5], "--dropout must be in [0, 1)"),
        (["imagenet-a", "--crop", 100], "--crop must be a multiple of 32"),
        (["imagenet-a", "--sides", 200, 256], "--sides must be a range that begins at --crop 224 or above"),
        (["imagenet-a", "--test-sides", 200, 256, 288], "--test-sides must be --crop 224 or above"),
        (["imagenet-a", "--data-dir", "/nowhere"], "ImageNet"),
        (["imagenet-d"], "make reproduce-vgg EXPERIMENT=imagenet-a SEEDS=0"),
        (["cifar10-depth", "--data-dir", "/proc/nowhere"], "CIFAR-10"),
    ],
)
def test_bad_input(flags, said, tmp_path):
    refuses(SCRIPT, *flags, "--out", tmp_path, said=said)
