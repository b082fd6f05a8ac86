"""The training of ViTs: crops, schedules, both optimizers, nets side by side, claims, and fine-tuning from official files."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from common.claims import Verdict
from common.data import standin
from common.data.images import draw_crops
from common.data.order import mix, permuted
from common.provenance import ROOT
from papers.vit import data as sets
from papers.vit import train
from papers.vit.model import ViT
from papers.vit.pictures import figure_4, filters, rollout, similarity
from papers.vit.recipes import Finetuning, Pretraining, Small
from tests.start import finish, here, newest, processes, record, refuses, rows

SCRIPT = "papers.vit.train"

# What a net is shown.


def test_zoomed_is_a_crop_resized_alone():
    """Nothing outside of the box counts; each image by itself, the flipped ones too."""
    images = torch.rand(5, 3, 32, 32, dtype=torch.float64)
    boxes = torch.tensor([[0, 0, 32, 32], [3, 5, 9, 12], [31, 0, 1, 7], [20, 18, 12, 14], [8, 8, 16, 16]])
    flips = torch.tensor([False, True, False, True, False])
    for size in (8, 48):
        found = sets.zoomed(images, boxes, flips, size)
        for image, (left, top, width, height), flip, each in zip(images, boxes.tolist(), flips.tolist(), found, strict=True):
            crop = image[None, :, top : top + height, left : left + width]
            expected = F.interpolate(crop, size=(size, size), mode="bilinear", align_corners=False)[0]
            torch.testing.assert_close(each, expected.flip(2) if flip else expected)


def test_boxes_are_inceptions():
    """Shares of the area and ratios of the sides, within rounding to pixels; uniform as torchvision draws them."""
    from torchvision.transforms import RandomResizedCrop

    boxes = torch.cat([sets.draw_boxes(512, 64, (0.05, 1.0), 0, step)[0] for step in range(8)])
    left, top, width, height = boxes.unbind(1)
    assert (left >= 0).all() and (top >= 0).all() and (left + width <= 64).all() and (top + height <= 64).all()
    share, ratio = width * height / 64**2, width / height
    assert share.min() > 0.04 and share.max() <= 1 and ratio.min() > 0.7 and ratio.max() < 1.43
    torch.manual_seed(0)
    theirs = torch.tensor([RandomResizedCrop.get_params(torch.empty(3, 64, 64), [0.05, 1.0], [3 / 4, 4 / 3]) for _ in range(4096)])
    for ours, other in (
        (share, theirs[:, 2] * theirs[:, 3] / 64**2),
        (left / 64, theirs[:, 1] / 64),
        (ratio, theirs[:, 3] / theirs[:, 2]),
    ):
        quantiles = torch.linspace(0.05, 0.95, 7)
        assert (ours.float().quantile(quantiles) - other.float().quantile(quantiles)).abs().max() < 0.04
    flips = torch.cat([sets.draw_boxes(512, 64, (0.05, 1.0), 0, step)[1] for step in range(8)])
    assert 0.45 < flips.float().mean() < 0.55
    assert (sets.draw_boxes(4, 3, (0.001, 0.002), 0, 0)[0] == torch.tensor([0, 0, 3, 3])).all(), "none fits: the whole image"


def test_held_out_images():
    """A fixed tenth; nothing in common with what is learned."""
    last, first = sets.split(1000, 0.1)
    assert len(last) == 100 and len(first) == 900 and {*last.tolist(), *first.tolist()} == {*range(1000)}
    assert torch.equal(last, sets.split(1000, 0.1)[0]) and last[50] < 900, "not the last ones: photographs lie class by class"


# Schedules.


def test_rates():
    """Up in a line from zero, then along a cosine; by hand at a few steps. Table 4's steps, Table 3's rates."""
    config = train.EXPERIMENTS["finetune-cifar10-b16"].config
    expected = {0: 0.0, 250: 0.005, 500: 0.01, 5250: 0.005, 9999: 0.0}
    assert all(config.rate("", step) == pytest.approx(rate, abs=1e-8) for step, rate in expected.items())
    assert config.rate("", 2875) == pytest.approx(0.01 * (1 + math.cos(math.pi / 4)) / 2)
    assert Finetuning(warmup=0).rate("", 0) == 0.03
    pretraining = train.EXPERIMENTS["pretrain-imagenet-b16"].config
    assert (pretraining.lr, pretraining.weight_decay, pretraining.dropout, pretraining.batch_size) == (3e-3, 0.3, 0.1, 4096)
    assert pretraining.rate("", 10_000) == 3e-3 and pretraining.steps == round(300 * 1_281_167 / 4096)
    small = Small(beside="pooling", lr=8e-4)
    assert small.rate("average_slow_", 100) == pytest.approx(3e-4) and small.rate("average_", 100) == 8e-4
    assert Small(beside="resnet", lr=1e-3, resnet_lr=5e-3).rate("resnet_20_", 100) == pytest.approx(5e-3)


def test_table_4_and_5():
    table = {name: e for name, e in train.EXPERIMENTS.items() if name.startswith("finetune-") and e.kind == "paper"}
    assert len(table) == 22
    steps = {"imagenet": 20_000, "cifar10": 10_000, "cifar100": 10_000, "pets": 500, "flowers": 500}
    for name, e in table.items():
        assert (e.config.steps, e.config.batch_size, e.config.momentum, e.config.clip, e.config.image) == (
            steps[e.config.data], 512, 0.9, 1.0, 384,
        )  # fmt: skip
        assert [claim.metric for claim in e.claims] == ["top1_accuracy" if "imagenet" in name else "test_accuracy"]
    values = {name: e.claims[0].value for name, e in table.items()}
    assert values["finetune-cifar10-b16"] == 98.95 and values["finetune-imagenet-b16"] == 83.97
    assert values["finetune-imagenet-b16-from-imagenet"] == 77.91 and values["finetune-pets-l32"] == 93.09


# The loop.


SMALL = ("--precision", "fp64", "--steps", 4, "--warmup", 1, "--evaluate-every", 2)


def clipped(grads):
    norm = torch.sqrt(sum((g**2).sum() for g in grads))
    return [g * min(1.0, 1.0 / (norm + 1e-6).item()) for g in grads]


def test_finetuning_is_table_4(tmp_path, double):
    """All updates of a run: each image cropped alone, momentum and clipping by hand; and the accuracy of the test images."""
    code, output = here(SCRIPT, "smoke-finetuning", *SMALL, "--lr", 0.5, "--out", tmp_path)
    assert code == 0, output
    directory = tmp_path / "vit/smoke-finetuning/seed0"
    torch.set_default_dtype(torch.float64)
    torch.default_generator.manual_seed(mix(0, "start"))
    source = ViT(8, 64, 2, 1, 64, image=16)
    model = ViT(8, 64, 2, 1, 64, image=32, classes=10)
    state = {name: each for name, each in source.state_dict().items() if not name.startswith(("head", "positions"))}
    grid = source.positions[:, 1:].detach().view(1, 2, 2, 64).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(4, 4), mode="bilinear", align_corners=True).flatten(2).mT
    state |= {"positions": torch.cat([source.positions.detach()[:, :1], grid], 1)}
    model.load_state_dict(state | {f"head.{name}": torch.zeros_like(p) for name, p in model.head.named_parameters()})

    (images, labels), (test, test_labels) = standin.images(256, 0), standin.images(100, 1)
    scaled = lambda x: (x.double() / 127.5 - 1).permute(0, 3, 1, 2)
    velocity, losses = [torch.zeros_like(p) for p in model.parameters()], []
    for step in range(4):
        index, (boxes, flips) = permuted(256, 0, 16 * step, 16 * step + 16), sets.draw_boxes(16, 32, (0.05, 1.0), 0, step)
        batch = []
        for image, (left, top, width, height), flip in zip(scaled(images[index]), boxes.tolist(), flips.tolist(), strict=True):
            crop = image[None, :, top : top + height, left : left + width]
            crop = F.interpolate(crop, size=(32, 32), mode="bilinear", align_corners=False)
            batch.append(crop.flip(3) if flip else crop)
        loss = -model(torch.cat(batch)).log_softmax(1)[range(16), labels[index]].mean()
        losses.append(loss.item())
        grads, rate = torch.autograd.grad(loss, list(model.parameters())), [0, 0.5, 0.375, 0.125][step]
        with torch.no_grad():
            for p, v, g in zip(model.parameters(), velocity, clipped(grads), strict=True):
                v.mul_(0.9).add_(g)
                p -= rate * v
    for name, value in model.state_dict().items():
        torch.testing.assert_close(newest(directory)["objects"]["model"][name], value, rtol=1e-7, atol=1e-10, msg=name)
    assert losses[0] == pytest.approx(math.log(10)), "the head is zero"
    logged = [row["train_loss"] for row in rows(directory) if "train_loss" in row]
    assert logged == pytest.approx([sum(losses[:2]) / 2, sum(losses[2:]) / 2])
    with torch.no_grad():
        right = (model(scaled(test)).argmax(1) == test_labels).double().mean().item()
    assert record(directory)["metrics"] == {"test_accuracy": pytest.approx(100 * right)}


def test_training_from_scratch_is_adam(tmp_path, double):
    """All updates by hand: padded crops, decoupled weight decay of matrices alone."""
    code, output = here(SCRIPT, "smoke", *SMALL, "--lr", 0.01, "--weight-decay", 0.5, "--out", tmp_path)
    assert code == 0, output
    torch.set_default_dtype(torch.float64)
    torch.default_generator.manual_seed(mix(0, "net"))
    model = ViT(4, 32, 2, 2, 32, image=32, classes=10)
    images, labels = standin.images(256, 0)
    padded = F.pad(images.double() / 127.5 - 1, (0, 0, 4, 4, 4, 4))
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in model.parameters()]
    for step in range(4):
        index, batch = permuted(256, 0, 16 * step, 16 * step + 16), []
        for i, (top, left, flip) in zip(index, draw_crops(16, 9, 0, step).tolist(), strict=True):
            crop = padded[i, top : top + 32, left : left + 32].permute(2, 0, 1)
            batch.append(crop.flip(2) if flip else crop)
        loss = F.cross_entropy(model(torch.stack(batch)), labels[index])
        grads, rate = torch.autograd.grad(loss, list(model.parameters())), 0.01 * [0, 1, 0.75, 0.25][step]
        with torch.no_grad():
            for (name, p), (m, v), g in zip(model.named_parameters(), moments, clipped(grads), strict=True):
                m.mul_(0.9).add_(g, alpha=0.1)
                v.mul_(0.999).addcmul_(g, g, value=0.001)
                decays = name.endswith("weight") and p.ndim == 2
                p -= rate * 0.5 * p * decays
                p -= rate * (m / (1 - 0.9 ** (step + 1))) / ((v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
    found = newest(tmp_path / "vit/smoke/seed0")["objects"]["model"]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-8, msg=name)


def test_nets_side_by_side_learn_as_they_would_alone(tmp_path):
    """The one with 1-D positions among four, and the one with all images among three shares; and what is compared."""
    runs = {}
    for beside in ("nothing", "positions", "resnet", "pooling"):
        code, output = here(SCRIPT, "smoke", "--beside", beside, "--out", tmp_path / beside)
        assert code == 0, output
        directory = tmp_path / beside / "vit/smoke/seed0"
        runs[beside] = newest(directory)["objects"], record(directory)["metrics"]
    alone, metrics = runs["nothing"]
    for beside, name in (("positions", "1d_"), ("resnet", "vit_100_"), ("pooling", "token_")):
        objects, others = runs[beside]
        assert all(torch.equal(objects[f"{name}model"][key], each) for key, each in alone["model"].items())
        assert others[f"{name}test_accuracy"] == metrics["test_accuracy"]
    of = lambda beside, name: runs[beside][1][f"{name}_test_accuracy"]
    assert runs["positions"][1]["none_loss"] == of("positions", "1d") - of("positions", "none")
    assert runs["positions"][1]["relative_gain"] == of("positions", "relative") - of("positions", "1d")
    gaps = {share: of("resnet", f"resnet_{share}") - of("resnet", f"vit_{share}") for share in (5, 20, 100)}
    assert {share: runs["resnet"][1][f"gap_{share}"] for share in gaps} == gaps
    assert runs["resnet"][1]["gap_closes"] == gaps[5] - gaps[100]
    assert runs["pooling"][1]["average_loss"] == of("pooling", "token") - of("pooling", "average_slow")
    biases = {str(runs["positions"][0][f"{name}_model"]["head.bias"].tolist()) for name in ("none", "1d", "2d", "relative")}
    assert len(biases) == 4, "they are four nets"


def test_shares_of_the_training_set(tmp_path, monkeypatch):
    """The first of an order that depends on the seed, each as often as the others; nothing else is seen."""
    seen, small = {}, sets.small

    def watched(run, about):
        data = small(run, about)

        def shown(step, index, share):
            images, labels = data.shown(step, index, share)
            seen.setdefault((run.seed, share), []).append(labels)
            return images, labels

        return data._replace(shown=shown)

    monkeypatch.setattr(sets, "small", watched)
    monkeypatch.setattr(sets, "draw_crops", lambda B, places, seed, step: torch.tensor([4, 4, 0]).expand(B, 3))
    labels = torch.arange(256)
    monkeypatch.setattr(standin, "images", lambda n, seed: (torch.zeros(n, 32, 32, 3, dtype=torch.uint8), labels[:n] % 10))
    for seed in (0, 1):
        code, output = here(SCRIPT, "smoke", "--beside", "resnet", "--seed", seed, "--steps", 4, "--out", tmp_path)
        assert code == 0, output
    order = {seed: permuted(256, mix(seed, "shares"), 0, 256) for seed in (0, 1)}
    for (seed, share), batches in seen.items():
        found = torch.cat(batches)
        n = round(share * 256)
        allowed = (order[seed][:n] if share < 1 else labels) % 10
        counts, whole = (torch.bincount(each, minlength=10) for each in (found, allowed))
        assert len(found) == 64 and not counts[whole == 0].any()
        if n < 64:  # whole passes, and a part of one
            assert (counts >= 64 // n * whole).all() and (counts <= -(-64 // n) * whole).all()
    assert {share for _, share in seen} == {0.05, 0.2, 1.0} and not torch.equal(order[0][:13], order[1][:13])


# Fine-tuning from a file of the official layout.


def official(path, P=16, D=64, L=2, image=32, classes=3):
    """A small random .npz, keys and axes as the official code writes them; heads are 64 wide."""
    random = np.random.default_rng(0)
    draw = lambda *size: (0.05 * random.standard_normal(size)).astype(np.float32)
    k, N = D // 64, (image // P) ** 2
    found = {
        "cls": draw(1, 1, D), "embedding/kernel": draw(P, P, 3, D), "embedding/bias": draw(D), "pre_logits/kernel": draw(D, D),
        "pre_logits/bias": draw(D), "head/kernel": draw(D, classes), "head/bias": draw(classes),
        "Transformer/posembed_input/pos_embedding": draw(1, N + 1, D), "Transformer/encoder_norm/scale": 1 + draw(D),
        "Transformer/encoder_norm/bias": draw(D),
    }  # fmt: skip
    for i in range(L):
        at = f"Transformer/encoderblock_{i}"
        for name, shape in (("query", (D, k, 64)), ("key", (D, k, 64)), ("value", (D, k, 64)), ("out", (k, 64, D))):
            bias = (k, 64) if name != "out" else (D,)
            found |= {
                f"{at}/MultiHeadDotProductAttention_1/{name}/{part}": draw(*s) for part, s in (("kernel", shape), ("bias", bias))
            }
        for j, sizes in enumerate(((D, 96), (96, D))):
            found |= {f"{at}/MlpBlock_3/Dense_{j}/kernel": draw(*sizes), f"{at}/MlpBlock_3/Dense_{j}/bias": draw(sizes[1])}
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            found |= {f"{at}/{norm}/scale": 1 + draw(D), f"{at}/{norm}/bias": draw(D)}
    np.savez(path, **found)
    return path


TUNING = (
    "finetune-cifar10-b16",
    "--net",
    "any",
    "--steps",
    3,
    "--warmup",
    1,
    "--evaluate-every",
    3,
    "--batch-size",
    8,
    "--held-out",
)


@pytest.mark.slow
def test_finetuning_on_cifar10(tmp_path):
    """From the command line to the record, at a size that the positions are resampled for, on one process and on two."""
    if not (data := ROOT / "data" / "cifar-10-batches-py").exists():
        pytest.skip("no CIFAR-10")
    path = official(tmp_path / "ViT.npz")
    flags = [*TUNING, "--image", 64, "--weights", path, "--precision", "fp32", "--data-dir", data.parent]
    two = processes(2, tmp_path / "two.log", SCRIPT, *flags, "--out", tmp_path / "2")
    code, output = here(SCRIPT, *flags, "--out", tmp_path / "1")
    assert code == 0, output
    finish(two)
    one, two = (tmp_path / each / "vit/finetune-cifar10-b16/seed0" for each in "12")
    assert record(one)["metrics"] == record(two)["metrics"] and record(two)["processes"] == 2
    assert record(one)["data"]["test"] == 1000 and record(one)["data"]["train"] == 49_000
    assert record(one)["data"]["weights_sha256"] == record(two)["data"]["weights_sha256"]
    objects = newest(one)["objects"]["model"]
    assert objects["positions"].shape == (1, 17, 64) and objects["head.weight"].shape == (10, 64)
    assert [row["train_loss"] for row in rows(two)] == pytest.approx([row["train_loss"] for row in rows(one)], rel=1e-5)
    official(path, L=1)
    code, output = here(SCRIPT, *flags, "--out", tmp_path / "1")
    assert code == 2 and "finished run on other data (weights_sha256" in " ".join(output.split())


def test_finetuning_from_a_run_of_ours(tmp_path):
    """Its last checkpoint, by the run's directory; one that has not ended is refused."""
    assert here(SCRIPT, "smoke", "--width", 64, "--heads", 1, "--steps", 4, "--out", tmp_path)[0] == 0
    source = tmp_path / "vit/smoke/seed0"
    flags = ("smoke-finetuning", "--weights", source, "--steps", 4, "--out", tmp_path / "tuned", "--image", 40)
    assert here(SCRIPT, *flags, "--lr", 1e-30)[0] == 0
    tuned = tmp_path / "tuned/vit/smoke-finetuning/seed0"
    before, after = (newest(each)["objects"]["model"] for each in (source, tuned))
    for name, each in before.items():
        assert torch.equal(each, after[name]) or name == "positions" or name.startswith("head")
    assert after["positions"].shape == (1, 101, 64) and record(tuned)["data"]["weights"].startswith("smoke, seed 0, commit")
    (source / "result.json").unlink()
    refuses(SCRIPT, *flags, "--restart", said="has not ended")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["smoke", "--batch-size", 0], "--batch-size must be at least 1"),
        (["smoke", "--warmup", 12], "--warmup must be at least 0 and below --steps 12, got 12"),
        (["smoke", "--patch", 5], "--patch must divide 32"),
        (["smoke", "--heads", 3], "--width be even and a multiple of --heads, got 4, 32 and 3"),
        (["smoke", "--weight-decay", -1], "--weight-decay must not be negative"),
        (["smoke-finetuning", "--momentum", 1], "--momentum must be in [0, 1)"),
        (["smoke-finetuning", "--image", 20], "images of 20 x 20 are not whole patches of 8 x 8"),
        (["smoke-finetuning", "--image", 4], "images of 4 x 4 are not whole patches of 8 x 8"),
        (["smoke-finetuning", "--net", "b32"], "patches of 8, width 64, 2 layers for images of 16 x 16, and vit_b_32"),
        (["finetune-imagenet-b16-from-imagenet"], "EXPERIMENT=pretrain-imagenet-b16"),
        (["finetune-cifar10-b16", "--weights", "nonsense"], "cannot load nonsense"),
        (["pretrain-imagenet-b16", "--data-dir", "/nowhere"], "ImageNet"),
        (["positions", "--data-dir", "/proc/nowhere"], "CIFAR-10"),
    ],
)  # fmt: skip
def test_bad_input(flags, said, tmp_path):
    refuses(SCRIPT, *flags, "--out", tmp_path, said=said)


def test_weights_of_another_net_are_named(tmp_path):
    path = official(tmp_path / "ViT.npz", P=32, D=768, L=12, image=64)
    refuses(
        SCRIPT,
        "finetune-cifar10-b16",
        "--weights",
        path,
        "--out",
        tmp_path,
        said="they are of vit_b_32 for images of 64 x 64, and vit_b_16 was to be filled",
    )


# Claims and pictures.


def verdict(name, metric, value):
    experiment = train.EXPERIMENTS[name]
    (claim,) = [claim for claim in experiment.claims if claim.metric == metric]
    return claim.verdict("paper", [value])


def test_claims_can_fail():
    """A net at chance, no effect of positions, one that broken nets would have; a ResNet that does not lead."""
    assert (
        verdict("finetune-cifar10-b16", "test_accuracy", 10.0).word
        == verdict("finetune-cifar10-b16", "test_accuracy", 98.7).word
        == "short"
    )
    assert verdict("finetune-cifar10-b16", "test_accuracy", 98.9) == Verdict("reproduced")
    assert verdict("positions", "none_loss", 0.3) == Verdict("short", reason="within noise")
    assert verdict("positions", "none_loss", 1.5).word == "short" and verdict("positions", "none_loss", 2.0).word == "reproduced"
    assert verdict("positions", "2d_gain", -5.0).word == verdict("positions", "2d_gain", 3.0).word == "short"
    assert verdict("data-sizes", "gap_5", -1.0).word == "short" and verdict("data-sizes", "gap_5", 4.0).word == "reproduced"
    assert verdict("data-sizes", "gap_closes", 0.5) == Verdict("short", reason="within noise")
    assert verdict("pooling", "average_loss", 6.0).word == "short"
    assert all(train.EXPERIMENTS[name].kind == "scaled" for name in ("positions", "data-sizes", "pooling"))


def test_pictures():
    """Figure 7's tiles, each component stretched, similarities together; what the class token sees, images above."""
    torch.manual_seed(0)
    net = ViT(4, 32, 2, 2, 32, image=32, classes=10)
    picture = filters(net)
    assert picture.shape == (3, 4 * 34, 7 * 34) and picture[:, 1:33, 1:33].min() == 0 and picture[:, 1:33, 1:33].max() == 1
    alike = similarity(net)[0]
    assert alike.shape == (8 * 66, 8 * 66)
    for i in range(8):  # a patch is most like itself
        assert alike[66 * i + 1 + 8 * i, 66 * i + 1 + 8 * i] == pytest.approx(1.0)
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    shown = rollout(net, images)
    assert shown.shape == (3, 2 * 98, 3 * 98)
    torch.testing.assert_close(shown[:, 1:97:3, 1:97:3], images[0] / 2 + 0.5)
    assert (shown[:, 99:195, 1:97] <= shown[:, 1:97, 1:97] + 1e-6).all()
    metrics = {f"{net}_{share}_test_accuracy": share / 2 for net in ("vit", "resnet") for share in (5, 20, 100)}
    figure = figure_4([{"seed": seed, "metrics": metrics} for seed in (0, 1)])
    assert len(figure.axes[0].lines) == 4 and figure.axes[0].get_xscale() == "log"


def test_which_nets_learn():
    """The fine-tuned have no hidden layer; the pre-trained have; the ResNet is timm's, about as dear as the ViT beside it."""
    with torch.device("meta"):
        net = Pretraining().networks(None)[0][""]
    assert isinstance(net.hidden[1], nn.Tanh) and net.image == (224, 224) and net.dropout.p == 0.1
    config = train.EXPERIMENTS["data-sizes"].config
    from types import SimpleNamespace

    made = config.networks(SimpleNamespace(seed_all=lambda what: torch.manual_seed(0)))[0]
    assert [*made] == [f"{name}_{share}_" for share in (5, 20, 100) for name in ("vit", "resnet")]
    assert [config.share(name) for name in made] == [0.05, 0.05, 0.2, 0.2, 1.0, 1.0]
    assert made["resnet_5_"](torch.zeros(2, 3, 32, 32)).shape == (2, 10)
