"""ImageNet through the commands that people type, on a small generated one: starts from other runs, resuming, tests, weights."""

import json
import shutil
import signal

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.transforms import functional

from papers.vgg import pretrained
from papers.vgg.model import VGG
from tests.start import Started, finish, here, newest, processes, record, rows, until, weights

TRAIN = "papers.vgg.train"
SMALL = ("--narrow", 16, "--crop", 32, "--sides", 36, 36, "--test-sides", 32, 40, 70, "--batch-size", 6, "--evaluate-every", 2)
SMALL += ("--drops", 3, "--steps", 4, "--precision", "fp32", "--dropout", 0)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Three classes, 4 training images each, 7 validation images; one is grey."""
    root, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split, counts in (("train", (4, 4, 4)), ("val", (2, 2, 3))):
        for label, n in enumerate(counts):
            folder = root / "imagenet" / split / f"n{label}"
            folder.mkdir(parents=True)
            for i in range(n):
                coarse = random.integers(0, 256, (3, 3, 3), dtype=np.uint8)
                image = Image.fromarray(coarse).resize(tuple(random.integers(40, 90, 2).tolist()))
                (image.convert("L") if i == 2 else image).save(folder / f"{i}.JPEG")
    return root


@pytest.fixture(scope="module")
def a(data_dir, tmp_path_factory):
    """OUT with a finished run of net A."""
    out = tmp_path_factory.mktemp("out")
    finish([Started(out / "log", TRAIN, "imagenet-a", *SMALL, "--data-dir", data_dir, "--out", out)])
    return out


def test_d_starts_from_a_on_one_process_and_on_two(data_dir, a, tmp_path):
    """The same lines and errors; without an update of D it is A where the paper says so; jitter and 150 crops by the same way."""
    flags = ["imagenet-d", *SMALL, "--data-dir", data_dir, "--out"]
    for name in "12":
        shutil.copytree(a / "vgg", tmp_path / name / "vgg")
    finish([Started(tmp_path / "log", TRAIN, *flags, tmp_path / "1")])
    finish(processes(2, tmp_path / "two.log", TRAIN, *flags, tmp_path / "2"))
    one, two = (tmp_path / out / "vgg/imagenet-d/seed0" for out in "12")
    assert (record(one)["processes"], record(two)["processes"], record(one)["steps"]) == (1, 2, 4)
    for x, y in zip(rows(one), rows(two), strict=True):
        assert x == pytest.approx(y, rel=1e-4)
    assert record(one)["metrics"] == record(two)["metrics"]
    assert record(one)["metrics"].keys() == {f"top{k}_error_{kind}" for k in (1, 5) for kind in ("1crop", "dense", "multiscale")}
    data = record(one)["data"]
    assert (
        data["weights"].startswith("imagenet-a, seed 0, commit") and data["stand_in"] and (data["train"], data["test"]) == (12, 7)
    )

    flags = ["imagenet-d-jitter", *SMALL, "--sides", 36, 60, "--start-from", one, "--lr", 1e-30, "--data-dir", data_dir]
    finish([Started(tmp_path / "log", TRAIN, *flags, "--out", tmp_path)])
    jitter = tmp_path / "vgg/imagenet-d-jitter/seed0"
    assert record(jitter)["metrics"].items() >= record(one)["metrics"].items(), "a net of the same configuration is taken whole"
    assert {f"top{k}_error_{kind}" for k in (1, 5) for kind in ("150crop", "multiscale_150crop")} <= record(jitter)[
        "metrics"
    ].keys()


def test_layers_of_a_are_taken(data_dir, a):
    flags = [*SMALL, "--lr", 1e-30, "--data-dir", data_dir, "--out", a, "--steps", 2]
    code, output = here(TRAIN, "imagenet-b", *flags)
    assert code == 0, output
    ours = newest(a / "vgg/imagenet-b/seed0")["objects"]["model"]
    theirs = newest(a / "vgg/imagenet-a/seed0")["objects"]["model"]
    names = ("features.conv1_1", "features.conv2_1", "features.conv3_1", "features.conv3_2", "fc6", "fc7", "fc8")
    for name, tensor in ours.items():
        if name.rpartition(".")[0] in names:
            torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-20)
        elif name.endswith("weight") and name in theirs:
            assert not torch.allclose(tensor, theirs[name], rtol=0.1), name


def test_training_stops_and_resumes(data_dir, a, tmp_path):
    """With dropout, in two sittings and in one; the run that it started from is part of what it is."""
    flags = ["imagenet-c", *SMALL[:-2], "--steps", 6, "--data-dir", data_dir, "--start-from", a / "vgg/imagenet-a/seed0", "--out"]
    straight, stopped = (tmp_path / name / "vgg/imagenet-c/seed0" for name in ("straight", "stopped"))
    finish([Started(tmp_path / "log", TRAIN, *flags, tmp_path / "straight")])
    run = Started(tmp_path / "log", TRAIN, *flags, tmp_path / "stopped")
    until(lambda: (stopped / "metrics.jsonl").exists() and (stopped / "metrics.jsonl").read_bytes().count(b"\n") >= 2)
    run.kill(signal.SIGTERM)
    assert run.wait() in (0, 143), run.output()
    finish([Started(tmp_path / "log", TRAIN, *flags, tmp_path / "stopped")])
    assert rows(stopped) == rows(straight) and record(straight)["metrics"] == record(stopped)["metrics"]
    for name, weight in newest(straight)["objects"]["model"].items():
        assert torch.equal(newest(stopped)["objects"]["model"][name], weight)


@pytest.mark.parametrize("fault", ["not ended", "other paper", "no checkpoint", "other size", "cut"])
def test_runs_that_cannot_be_started_from(fault, data_dir, a, tmp_path):
    source = tmp_path / "vgg/imagenet-a/seed0"
    shutil.copytree(a / "vgg/imagenet-a/seed0", source)
    made, flags = json.loads((source / "config.json").read_text()), []
    said = {
        "not ended": "has not ended", "other paper": "holds resnet/imagenet-a", "no checkpoint": "has lost its last checkpoint",
        "other size": "which fits no layer of D", "cut": "JSONDecodeError",
    }[fault]  # fmt: skip
    if fault == "not ended":
        (source / "result.json").unlink()
    elif fault == "other paper":
        (source / "config.json").write_text(json.dumps(made | {"paper": "resnet"}))
    elif fault == "no checkpoint":
        [path.unlink() for path in (source / "checkpoint").glob("*.pt")]
    elif fault == "cut":
        (source / "result.json").write_text((source / "result.json").read_text()[:300])
    else:
        flags = ["--narrow", 8]
    code, output = here(TRAIN, "imagenet-d", *SMALL, *flags, "--data-dir", data_dir, "--out", tmp_path)
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(errors) == 1 and said in errors[0] and str(source) in errors[0], output


# Weights.


SIDES = ("--test-sides", 224, 230, 260)


def test_as_many_outputs_as_ones_own_classes(data_dir, tmp_path, monkeypatch, capfd):
    flags = ["imagenet-a", *SMALL, "--steps", 2, "--drops", 1, *SIDES, "--data-dir", data_dir, "--out", tmp_path]
    code, output = here(TRAIN, *flags, "--classes", 3)
    assert code == 0 and "not the paper's data: " in output, output
    assert newest(tmp_path / "vgg/imagenet-a/seed0")["objects"]["model"]["fc8.bias"].shape == (3,)
    evaluate = weights(pretrained, tmp_path / "evaluated", monkeypatch, capfd)
    trained = tmp_path / "vgg/imagenet-a/seed0"
    assert evaluate(trained, "--data-dir", data_dir, *SIDES, "--precision", "fp32") == (0, [])
    again = record(tmp_path / "evaluated/vgg/weights-imagenet-a-seed0/seed0")
    assert again["metrics"] == record(trained)["metrics"] and again["data"]["stand_in"]
    code, output = here(TRAIN, *flags, "--classes", 2, "--restart")
    assert code == 2 and "3 classes are there, and 2 outputs: other weights, or --classes" in output


class Small(torchvision.models.VGG):
    """torchvision's VGG-11 with an eighth of the maps."""

    def __init__(self):
        from torchvision.models.vgg import make_layers

        super().__init__(make_layers([8, "M", 16, "M", 32, 32, "M", 64, 64, "M", 64, 64, "M"]), num_classes=1000)
        self.classifier[0], self.classifier[3] = torch.nn.Linear(64 * 49, 512), torch.nn.Linear(512, 512)
        self.classifier[6] = torch.nn.Linear(512, 9)


def reference(net, data_dir):
    """The errors with torchvision's own network and transforms, one image at a time; its head slid by hand."""
    head, found = net.classifier, {kind: [] for kind in ("1crop", "dense", "multiscale", "150crop", "multiscale_150crop")}

    def normal(image):
        return functional.normalize(functional.to_tensor(image), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    def dense(image):
        maps = net.features(torch.stack([normal(image), normal(functional.hflip(image))]))
        H, W = maps.shape[2] - 6, maps.shape[3] - 6
        scores = [head(maps[:, :, i : i + 7, j : j + 7].flatten(1)) for i in range(H) for j in range(W)]
        return torch.stack(scores).mean(0).softmax(1).mean(0)

    def crops(image):
        (width, height), several = image.size, []
        for i in range(5):
            for j in range(5):
                box = functional.crop(image, round(i / 4 * (height - 224)), round(j / 4 * (width - 224)), 224, 224)
                several += [normal(box), normal(functional.hflip(box))]
        return net(torch.stack(several)).softmax(1).mean(0)

    with torch.no_grad():
        for path in sorted((data_dir / "imagenet/val").glob("*/*.JPEG")):
            image, label = Image.open(path).convert("RGB"), int(path.parent.name[1:])
            at = {side: functional.resize(image, side) for side in (224, 230, 260)}
            scores = {"dense": dense(at[230]), "multiscale": sum(map(dense, at.values())) / 3}
            scores |= {"150crop": sum(map(crops, at.values())) / 3}
            scores |= {"multiscale_150crop": scores["multiscale"] / 2 + scores["150crop"] / 2}
            centre = functional.center_crop(functional.resize(image, 256), 224)
            scores["1crop"] = net(normal(centre)[None]).softmax(1)[0]
            for kind, each in scores.items():
                found[kind].append((each.argsort(descending=True) == label).nonzero().item())
    ranks = {kind: torch.tensor(each) for kind, each in found.items()}
    return {f"top{k}_error_{kind}": 100 * (r >= k).double().mean().item() for kind, r in ranks.items() for k in (1, 5)}


def test_official_weights_are_evaluated_exactly(data_dir, tmp_path, monkeypatch, capfd):
    """What torchvision's own network and transforms give, by every kind of test."""
    torch.manual_seed(3)
    net = Small().eval()
    for layer in net.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    path = tmp_path / "small.pth"
    torch.save(net.state_dict(), path)
    made = lambda configuration, **more: VGG(configuration, widths=(8, 16, 32, 64, 64), units=512, **more)
    monkeypatch.setattr(pretrained, "VGG", made)
    evaluate = weights(pretrained, tmp_path / "out", monkeypatch, capfd)
    code, errors = evaluate(path, "--multicrop", "--test-sides", 224, 230, 260, "--data-dir", data_dir)
    assert code == 0, errors
    found, expected = record(tmp_path / "out/vgg/weights-small/seed0"), reference(net, data_dir)
    assert found["metrics"] == pytest.approx(expected) and len(set(expected.values())) > 2
    assert found["data"]["stand_in"] and found["kind"] == "weights"


def test_other_weights_are_refused(data_dir, tmp_path, monkeypatch, capfd):
    evaluate = weights(pretrained, tmp_path / "out", monkeypatch, capfd)
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "other.pth")
    for name, said in {"other.pth": "vgg11, 13, 16 or 19", "nonsense": "nonsense"}.items():
        path = tmp_path / name if name.endswith("pth") else name
        code, errors = evaluate(path, "--data-dir", data_dir)
        assert code == 2 and len(errors) == 1 and said in errors[0], errors
