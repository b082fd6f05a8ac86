"""The training of AlexNet and of the nets for CIFAR-10: what they are shown, Sec. 5's update, schedules, evaluation, claims."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from common.claims import Verdict
from common.data import standin
from common.data.images import draw_crops
from common.data.order import mix, permuted
from papers.alexnet import data as shown
from papers.alexnet import model as nets
from papers.alexnet import train
from papers.alexnet.data import views
from papers.alexnet.momentum import Momentum
from papers.alexnet.pictures import figure_1, filters
from papers.alexnet.train import Cifar, ImageNet
from tests.start import here, newest, record, refuses, rows

SCRIPT = "papers.alexnet.train"

# Sec. 5's update.


def by_hand(w, gradients, rates, momentum, decay):
    v = torch.zeros_like(w)
    for gradient, rate in zip(gradients, rates, strict=True):
        v = momentum * v - decay * rate * w - rate * gradient
        w = w + v
    return w


def by(make, w, gradients, rates):
    p = nn.Parameter(w.clone())
    optimizer = make([{"params": [p], "name": "w"}])
    for gradient, rate in zip(gradients, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        p.grad = gradient.clone()
        optimizer.step()
    return p.detach()


def test_momentum_has_the_rate_within(double):
    """Equal to the formula always, to torch's SGD while the rate is constant, and not to that after a drop."""
    w, gradients = torch.randn(7), torch.randn(12, 7)
    ours = lambda groups: Momentum([{**group, "weight_decay": 5e-4} for group in groups], 0.9)
    torchs = lambda groups: torch.optim.SGD(groups, 1.0, momentum=0.9, weight_decay=5e-4)
    for rates in ([0.1] * 12, [0.1] * 8 + [0.01] * 4):
        torch.testing.assert_close(by(ours, w, gradients, rates), by_hand(w, gradients, rates, 0.9, 5e-4))
        same = torch.allclose(by(ours, w, gradients, rates), by(torchs, w, gradients, rates), rtol=1e-9)
        assert same == (len({*rates}) == 1)


def test_momentum_goes_on_from_its_state(double):
    w, gradients = torch.randn(3), torch.randn(6, 3)
    p = nn.Parameter(w.clone())
    optimizer = Momentum([{"params": [p], "name": "w", "lr": 0.1}], 0.9)
    for i, gradient in enumerate(gradients):
        if i == 3:
            state, optimizer = optimizer.state_dict(), Momentum([{"params": [p], "name": "w"}], 0.9)
            optimizer.load_state_dict(state)
        p.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(p.detach(), by_hand(w, gradients, [0.1] * 6, 0.9, 0.0))


# Schedules.


def test_rates_of_the_files():
    """11 %: 350 passes through batches 1 to 4, 150 through all, two of 10 with the rate of weights, and of these alone, divided."""
    local, small = train.EXPERIMENTS["cifar10-11pct"].config, train.EXPERIMENTS["cifar10-18pct"].config
    at = (0, 499.9, 500, 509.9, 510, 519.9)
    assert [local.rate("conv1.weight", passes) for passes in at] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5])
    assert {local.rate("conv1.bias", passes) for passes in at} == {0.002}
    assert [small.rate("fc10.weight", passes) for passes in (0, 120, 130)] == pytest.approx([1e-3, 1e-4, 1e-5])
    assert [small.rate("fc10.bias", passes) for passes in (0, 120, 130)] == pytest.approx([2e-3, 2e-4, 2e-5])
    assert (local.epochs, local.first, small.epochs, small.first) == (520, 350, 140, 0)
    tenth = train.EXPERIMENTS["cifar10-11pct-short"].config
    assert (tenth.first, tenth.drops, tenth.epochs) == (35, (50, 51), 52)


DECAYS = {  # "wc" of the files
    "cifar10-26pct": (0.004, 0.004, 0.004, 0.03, 0.03), "cifar10-19pct": (0.004, 0.004, 0.004, 3.0),
    "cifar10-18pct": (0.004, 0.004, 0.004, 1.0), "cifar10-13pct": (0.0, 0.0, 0.004, 0.004, 0.004),
    "cifar10-11pct": (0.0, 0.0, 0.004, 0.004, 0.01), "figure1": (0.0, 0.0, 0.0, 0.0),
}  # fmt: skip


@pytest.mark.parametrize("name", DECAYS)
def test_decays_of_the_files(name):
    config = train.EXPERIMENTS[name].config
    for net in config.networks().values():
        groups = train.groups(config, net)
        weights = [group for group in groups if group["name"].endswith("weight")]
        assert tuple(group["weight_decay"] for group in weights) == DECAYS[name]
        assert all(group["weight_decay"] == 0 for group in groups if group["name"].endswith("bias"))
        assert [group["params"][0] for group in groups] == list(net.parameters())


def test_rates_on_imagenet():
    """The log's passes; and of the authors' reading biases' own rate, and a first layer that is slowed and frozen."""
    paper, authors = (train.EXPERIMENTS[name].config for name in ("imagenet-2010", "authors-2010"))
    at = (0, 22.9, 23, 51, 67.9, 68, 72, 78, 92)
    for name in ("conv1.weight", "conv1.bias", "fc8.weight", "fc8.bias"):
        assert [paper.rate(name, passes) for passes in at] == pytest.approx([1e-2, 1e-2, 1e-3, *[1e-4] * 4, 1e-5, 1e-5])
    assert [authors.rate("conv2.weight", passes) for passes in at] == pytest.approx([1e-2, 1e-2, 1e-3, *[1e-4] * 4, 1e-5, 1e-5])
    assert [authors.rate("conv1.weight", passes) for passes in at[4:]] == pytest.approx([1e-4, 1e-5, 0, 0, 0])
    assert [authors.rate("conv2.bias", passes) for passes in at] == pytest.approx([0.002] * 9)
    assert [authors.colour_at(passes) for passes in (67.9, 68)] == [0.1, 0.0] and paper.colour_at(92) == 0.1
    assert train.EXPERIMENTS["imagenet-2012"].config.drops == (25, 51, 79)


# What a net is shown.


SMALL = ("smoke", "--lr", 0.001, "--precision", "fp64")


def test_training_is_the_files_recipe(tmp_path, double):
    """All updates of both nets of the smoke run, each image cropped alone, momentum and weight decay by hand."""
    code, output = here(SCRIPT, *SMALL, "--batch-size", 32, "--beside", "no-norms", "--out", tmp_path)
    assert code == 0, output
    directory = tmp_path / "alexnet/smoke/seed0"
    objects = newest(directory)["objects"]

    torch.set_default_dtype(torch.float64)  # the run has left it as it was before
    torch.default_generator.manual_seed(mix(0, "start"))
    both = {"": nets.net_11(), "no_norms_": nets.net_11(norms=False)}
    (data, labels), (test, test_labels) = standin.images(128, 0), standin.images(20, 1)
    centre = data.double().mean(0)[4:28, 4:28]
    draws = [permuted(103, 0, 32 * i, 32 * i + 32) for i in range(3)]  # a pass through four fifths
    draws += [permuted(128, mix(0, "whole"), 32 * i, 32 * i + 32) for i in range(4)]
    losses = {name: [] for name in both}
    for name, model in both.items():
        velocity = {key: torch.zeros_like(p) for key, p in model.named_parameters()}
        for step, index in enumerate(draws):
            batch = []
            for i, (top, left, flip) in zip(index, draw_crops(32, 9, 0, step).tolist(), strict=True):
                crop = data[i, top : top + 24, left : left + 24].double() - centre
                batch.append((crop.flip(1) if flip else crop).permute(2, 0, 1))
            loss = -model(torch.stack(batch)).log_softmax(1)[range(32), labels[index]].mean()
            losses[name].append(loss.item())
            model.zero_grad()
            loss.backward()
            with torch.no_grad():
                for key, p in model.named_parameters():
                    layer, kind = key.split(".")
                    rate = 0.002 if kind == "bias" else 0.001
                    decay = {"local3": 0.004, "local4": 0.004, "fc10": 0.01}.get(layer, 0.0) * (kind == "weight")
                    velocity[key] = 0.9 * velocity[key] - decay * rate * p - rate * p.grad
                    p += velocity[key]
        for key, value in model.state_dict().items():
            torch.testing.assert_close(objects[f"{name}model"][key], value, rtol=1e-6, atol=1e-9, msg=key)
        ten = []
        for image in test.double():
            crops = [image[t : t + 24, l : l + 24] - centre for t, l in ((0, 0), (0, 8), (4, 4), (8, 0), (8, 8))]
            ten.append(torch.stack([crop.permute(2, 0, 1) for crop in crops + [crop.flip(1) for crop in crops]]))
        with torch.no_grad():
            scores = torch.stack([model(crops).softmax(1).mean(0) for crops in ten])
            alone = torch.stack([model(crops[2:3])[0] for crops in ten])
        metrics = record(directory)["metrics"]
        for kind, answers in (("10view", scores), ("1view", alone)):
            error = 100 * (answers.argmax(1) != test_labels).double().mean().item()
            assert metrics[f"{name}test_error_{kind}"] == pytest.approx(error)
    for name in both:
        logged = [row[f"{name}train_loss"] for row in rows(directory)]
        assert logged[0] == pytest.approx(sum(losses[name][:4]) / 4, rel=1e-6)  # when the test set is looked at
    metrics = record(directory)["metrics"]
    assert metrics["norm_gain"] == pytest.approx(metrics["no_norms_test_error_10view"] - metrics["test_error_10view"])


def test_whole_images_are_neither_cropped_nor_flipped(tmp_path, double):
    """The nets of 32 pixels: raw pixels less the mean image."""
    flags = ("--net", 19, "--decay", 0, 0, 0, 3, "--first", 0, "--epochs", 1, "--batch-size", 64)
    code, output = here(SCRIPT, *SMALL, *map(str, flags), "--drops", 1, "--out", tmp_path)
    assert code == 0, output
    torch.set_default_dtype(torch.float64)
    torch.default_generator.manual_seed(mix(0, "start"))
    model = nets.net_19()
    data, labels = standin.images(128, 0)
    index = permuted(128, 0, 0, 64)
    x = (data[index].double() - data.double().mean(0)).permute(0, 3, 1, 2)
    loss = nn.functional.cross_entropy(model(x), labels[index]).item()
    (row,) = [row for row in rows(tmp_path / "alexnet/smoke/seed0") if "train_loss" in row]
    assert row["train_loss"] == pytest.approx(loss, rel=1e-3), "the second update hardly moved it"
    assert row["epoch"] == pytest.approx(0.5)


def test_views():
    """The places of ten patches, in the order of an image's views, and what is taken away at each."""
    crops = torch.arange(2 * 9 * 9 * 3 * 4 * 4, dtype=torch.float32).view(2, 9, 9, 3, 4, 4)
    mean = torch.randn(9, 9, 3, 4, 4)
    ten = views(crops, mean, "10view").view(2, 10, 3, 4, 4)
    for i, (top, left) in enumerate(((0, 0), (0, 8), (4, 4), (8, 0), (8, 8))):
        torch.testing.assert_close(ten[:, i], crops[:, top, left] - mean[top, left])
        torch.testing.assert_close(ten[:, 5 + i], ten[:, i].flip(3))
    torch.testing.assert_close(views(crops, mean, "1view"), ten[:, 2])


class Scores(nn.Module):
    """Scores that were written down beforehand, by the first number of each image."""

    def __init__(self, table):
        super().__init__()
        self.table = table

    def forward(self, images):
        return self.table[images[:, 0, 0, 0].long()]


def test_views_are_averaged_as_probabilities():
    """Of two views one is sure and one leans the other way; and errors count the first answer, and the first five."""
    table = torch.full((4, 8), -40.0)
    table[:, :3] = torch.tensor([[0.0, 9.0, 0.0], [12.0, 0.0, 0.0], [0.0, 1.0, -30.0], [0.0, 1.0, 4.0]])
    images = torch.arange(4.0)[:, None, None, None].expand(-1, 3, 1, 1)
    tests = shown.Tests(2, ("10view",), ("top1_{}", "top5_{}"), lambda kind: [(images, torch.tensor([0, 1]))])
    run = SimpleNamespace(evaluating=nullcontext, gather=lambda hits, n: hits)
    found = train.evaluate(run, Scores(table), tests, "10view", "a_")
    assert table.view(2, 2, 8).softmax(2).mean(1).argmax(1).tolist() == [0, 2]
    assert found == {"a_top1_10view": 50.0, "a_top5_10view": 0.0}


# Claims.


def verdict(name, metric, value):
    experiment = train.EXPERIMENTS[name]
    (claim,) = [claim for claim in experiment.claims if claim.metric == metric]
    return claim.verdict(experiment.kind, [value])


def test_claims_can_fail():
    """A net stuck at chance, a difference that is absent, one that comes from a broken net, a tanh that was held back."""
    assert verdict("cifar10-11pct", "test_error_10view", 90.0).word == "short"
    assert verdict("cifar10-11pct", "test_error_10view", 10.6) == Verdict("reproduced")
    assert verdict("cifar10-13pct", "test_error_10view", 11.0).word == "short", "it is the worse one"
    assert verdict("cifar10-norms", "norm_gain", 0.2) == Verdict("short", reason="within noise")
    assert verdict("cifar10-norms", "norm_gain", 79.0).word == "short"
    assert verdict("cifar10-norms", "norm_gain", 1.4) == Verdict("reproduced")
    assert verdict("figure1", "epochs_ratio", 1.0).word == verdict("figure1", "epochs_ratio", 20.0).word == "short"
    assert verdict("figure1", "epochs_ratio", float("nan")) == Verdict("short", reason="not measurable")
    assert verdict("cifar10-11pct-short", "test_error_10view", 11.0).word == "scaled"
    for name in ("half-2010", "no-lrn", "no-overlap"):
        assert verdict(name, "top1_error_10view", 37.5).word == "short", "as good as the net with it"


def test_claims_on_imagenet():
    values = {name: [claim.value for claim in train.EXPERIMENTS[name].claims] for name in ("imagenet-2012", "imagenet-2010")}
    assert values == {"imagenet-2012": [40.7, 18.2], "imagenet-2010": [37.5, 17.0, 39.0, 18.3]}
    gains = {"half-2010": (1.7, 1.2), "no-lrn": (1.4, 1.2), "no-overlap": (0.4, 0.3)}
    for name, (top1, top5) in gains.items():
        found = [claim.value for claim in train.EXPERIMENTS[name].claims]
        assert found == pytest.approx([37.5 + top1, 17.0 + top5])


def test_figure_1_is_read_off_the_curves(monkeypatch):
    """Where each curve first comes down to 25 %, by a straight line between its points."""
    curves = {"relu_train_error": [60, 30, 20], "tanh_train_error": [70, 50, 24]}
    run = SimpleNamespace(
        config=train.EXPERIMENTS["figure1"].config, curves=lambda x, name: {x: [0.5, 1.5, 2.5], name: curves[name]}
    )  # fmt: skip
    found = train.compared(run, {})
    assert found["relu_epochs_to_25"] == pytest.approx(2.0) and found["tanh_epochs_to_25"] == pytest.approx(1.5 + 25 / 26)
    assert found["epochs_ratio"] == pytest.approx((1.5 + 25 / 26) / 2)
    curves["tanh_train_error"][2] = 26
    assert train.compared(run, {})["epochs_ratio"] != train.compared(run, {})["epochs_ratio"]  # nan


def test_pictures():
    """Figure 1 of two seeds, one of which has not come down to 25 %; Figure 3's kernels, each on its own scale."""
    curves = {"epoch": [0.5, 1.5], "relu_train_error": [60.0, 20.0], "tanh_train_error": [70.0, 50.0]}
    metrics = {"relu_epochs_to_25": 1.4, "tanh_epochs_to_25": None}
    figure = figure_1([{"seed": seed, "curves": curves, "metrics": metrics} for seed in (0, 1)])
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels[:2] == ["relu, seed 0: 25 % after 1.4", "tanh, seed 0"] and len(labels) == 5
    kernels = torch.rand(96, 3, 11, 11) * torch.logspace(-3, 3, 96)[:, None, None, None]
    picture = filters(kernels, 16)
    assert picture.shape == (3, 6 * 13 * 4, 16 * 13 * 4)
    cells = picture[:, ::4, ::4].unflatten(1, (6, 13)).unflatten(3, (16, 13)).permute(1, 3, 0, 2, 4)[..., 1:-1, 1:-1].flatten(0, 1)
    low, high = (f(kernels, (1, 2, 3), keepdim=True) for f in (torch.amin, torch.amax))
    torch.testing.assert_close(cells, (kernels - low) / (high - low))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["smoke", "--batch-size", 0], "--batch-size must be at least 1"),
        (["smoke", "--momentum", 1.5], "--momentum must be in [0, 1)"),
        (["smoke", "--net", 19], "--decay needs 4 numbers for the layers of --net 19, got 5"),
        (["smoke", "--first", 3], "--first must be between 0 and --epochs 2"),
        (["smoke", "--beside", "tanh"], "no net tanh beside --net 11"),
        (["figure1", "--tanh-lr", 0], "--tanh-lr, a positive rate, goes with --beside tanh"),
        (["authors-2010", "--norm", "none"], "--net authors is theirs in all"),
        (["imagenet-2012", "--narrow", 3], "--narrow must be 1, 2, 4, 8 or 16"),
        (["imagenet-2012", "--data-dir", "/nowhere"], "ImageNet"),
        (["imagenet-2010", "--data-dir", "/nowhere"], "ILSVRC-2010"),
        (["cifar10-26pct", "--data-dir", "/proc/nowhere"], "CIFAR-10"),
    ],
)
def test_bad_input(flags, said, tmp_path):
    refuses(SCRIPT, *flags, "--out", tmp_path, said=said)


def test_configurations_of_networks():
    """Which net an experiment trains."""
    with torch.device("meta"):
        made = {name: e.config.networks() for name, e in train.EXPERIMENTS.items() if isinstance(e.config, ImageNet)}
    assert all([*each] == [""] for each in made.values())
    count = lambda name: sum(p.numel() for p in made[name][""].parameters())
    assert count("half-2010") == 59_798_312
    assert {count(name) for name in made if name != "half-2010"} == {60_965_224}
    kinds = {name: type(net[""].norm1) for name, net in made.items()}
    assert kinds.pop("no-lrn") is nn.Identity and {*kinds.values()} == {nets.ResponseNorm}
    alphas = {name: net[""].norm1.alpha for name, net in made.items() if name != "no-lrn"}
    assert {name for name, alpha in alphas.items() if alpha == pytest.approx(2e-5)} == {"divided-2010", "authors-2010"}
    assert made["no-overlap"][""].pool.kernel_size == 2 and made["imagenet-2010"][""].pool.kernel_size == 3
    assert [*Cifar(net="19", beside="tanh", tanh_lr=1.0, decay=(0.0,) * 4).networks()] == ["relu_", "tanh_"]
