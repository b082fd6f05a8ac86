"""ImageNet through the commands that people type, on a small generated one: training, resuming, two machines, official weights."""

import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.transforms import functional

from common.provenance import ROOT
from papers.resnet import pretrained
from tests.start import Started, finish, here, newest, processes, record, rows, until
from tests.start import weights as evaluated
from tests.test_commands import clean

TRAIN, PRETRAINED = "papers.resnet.train", "papers.resnet.pretrained"
SMALL = ("--sides", 36, 48, "--crop", 32, "--batch-size", 6, "--drops", 4, "--evaluate-every", 2, "--precision", "fp32")
STEPS, VALIDATION = 10, 13


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Three classes, 8 training images each, 13 validation images; one is grey."""
    root, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split, counts in (("train", (8, 8, 8)), ("val", (4, 4, 5))):
        for label, n in enumerate(counts):
            folder = root / "imagenet" / split / f"n{label}"
            folder.mkdir(parents=True)
            for i in range(n):
                coarse = random.integers(0, 256, (3, 3, 3), dtype=np.uint8)
                image = Image.fromarray(coarse).resize(tuple(random.integers(40, 90, 2).tolist()))
                (image.convert("L") if i == 2 else image).save(folder / f"{i}.JPEG")
    return root


@pytest.mark.slow
def test_training_stops_and_resumes(data_dir, tmp_path):
    """A run that was told to stop goes on and ends as one that was left alone; its data is marked as not ImageNet."""
    flags = ["imagenet-resnet18", *SMALL, "--steps", STEPS, "--data-dir", data_dir, "--out"]
    finish([Started(tmp_path / "log", TRAIN, *flags, tmp_path / "straight")])
    straight, stopped = (tmp_path / name / "resnet/imagenet-resnet18/seed0" for name in ("straight", "stopped"))
    run = Started(tmp_path / "log", TRAIN, *flags, tmp_path / "stopped")
    until(lambda: (stopped / "metrics.jsonl").exists() and (stopped / "metrics.jsonl").read_bytes().count(b"\n") >= 2)
    run.kill(signal.SIGTERM)
    assert run.wait() == 143, run.output()
    run = Started(tmp_path / "log", TRAIN, *flags, tmp_path / "stopped")
    finish([run])
    assert "from step " in run.output()
    assert f"not the paper's data: imagenet, 24 to train on, {VALIDATION} to test" in run.output()
    assert rows(stopped) == rows(straight) and len(rows(straight)) == STEPS / 2 + 1, "an early line besides"
    for name, weight in newest(straight)["objects"]["model"].items():
        assert torch.equal(newest(stopped)["objects"]["model"][name], weight)
    data, metrics = record(straight)["data"], record(straight)["metrics"]
    assert (data["train"], data["test"], data["stand_in"]) == (24, VALIDATION, True)
    assert metrics == record(stopped)["metrics"]
    assert metrics.keys() == {f"top{k}_error_{views}" for k in (1, 5) for views in ("1crop", "10crop", "multiscale")}
    assert all(error * VALIDATION / 100 == pytest.approx(round(error * VALIDATION / 100)) for error in metrics.values())


def test_as_many_outputs_as_ones_own_classes(data_dir, tmp_path, monkeypatch, capfd):
    flags = ["imagenet-resnet18", *SMALL, "--steps", 2, "--data-dir", data_dir, "--out", tmp_path]
    code, output = here(TRAIN, *flags, "--classes", 3)
    assert code == 0 and "not the paper's data: " in output, output
    assert newest(tmp_path / "resnet/imagenet-resnet18/seed0")["objects"]["model"]["fc.bias"].shape == (3,)
    trained = tmp_path / "resnet/imagenet-resnet18/seed0"
    evaluate = evaluated(pretrained, tmp_path / "evaluated", monkeypatch, capfd)
    assert evaluate(trained, "--data-dir", data_dir, "--crop", 32, "--precision", "fp32") == (0, [])
    again = record(tmp_path / "evaluated/resnet/weights-imagenet-resnet18-seed0/seed0")
    assert again["metrics"] == record(trained)["metrics"] and again["data"]["stand_in"]
    own = tmp_path / "evaluated/resnet/weights-imagenet-resnet18-seed0/seed0"
    (own / "checkpoint").mkdir()  # of an evaluation, which has learned nothing
    assert "no folder of a run that will do" in evaluate(own, "--data-dir", data_dir)[1][0]
    code, output = here(TRAIN, *flags, "--classes", 2, "--restart")
    assert code == 2 and "3 classes are there, and 2 outputs: other weights, or --classes" in output


@pytest.mark.slow
def test_two_machines_under_slurm(data_dir, tmp_path):
    """`sbatch slurm.sh` on two machines, which are two process groups here: one run of two processes, one record."""
    (tmp_path / "bin").mkdir()
    scripts = {
        "scontrol": 'test "$*" = "show hostnames nodes[1-2]" && echo 127.0.0.1 && echo 127.0.0.2',
        "srun": 'SLURM_NODEID=1 "$@" > "$OUT/second" 2>&1 & SLURM_NODEID=0 "$@"; code=$?; wait $! && exit $code',
    }
    for name, script in scripts.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    out = tmp_path / "runs"
    out.mkdir()
    slurm = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "nodes[1-2]", "SLURM_NNODES": "2", "OUT": str(out)}
    flags = " ".join(map(str, [*SMALL, "--steps", 4, "--data-dir", data_dir]))
    command = ["bash", "slurm.sh", "resnet", "EXPERIMENT=imagenet-resnet18", f"PY={sys.executable}", f"OUT={out}", f"ARGS={flags}"]
    path = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=ROOT, env=clean() | slurm | path, capture_output=True, text=True, timeout=180)
    second = (out / "second").read_text() if (out / "second").exists() else "no second machine"
    assert done.returncode == 0, done.stdout + done.stderr + second
    made = record(out / "resnet/imagenet-resnet18/seed0")
    assert made["processes"] == 2 and made["data"]["test"] == VALIDATION and made["steps"] == 4
    assert done.stdout.count("global batch 6 (the paper's: 256), on 2 processes") == 1
    assert "global batch" not in second


def test_damaged_image_is_named_by_the_process_that_meets_it(data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path / "data")
    damaged = tmp_path / "data/imagenet/val/n2/4.JPEG"  # the last one: it is the second process's
    damaged.write_bytes(damaged.read_bytes()[:300])
    flags = ["imagenet-resnet18", *SMALL, "--steps", 2, "--data-dir", tmp_path / "data", "--out", tmp_path / "out"]
    first, second = processes(2, tmp_path / "log", TRAIN, *flags)
    assert second.wait() == 2
    errors = [line for line in second.output().splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and str(damaged) in errors[0], second.output()
    first.kill(signal.SIGKILL)  # as torchrun does
    first.wait()


def normalised(image):
    return functional.normalize(functional.to_tensor(image), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def validation(data_dir):
    """[(image, label)]"""
    paths = sorted((data_dir / "imagenet/val").glob("*/*.JPEG"))
    return [(Image.open(path).convert("RGB"), int(path.parent.name[1:])) for path in paths]


@pytest.fixture(scope="module")
def weights(data_dir, tmp_path_factory):
    """A file of torchvision's ResNet-18 whose answers depend on the image: six classes are likely, and not always the same."""
    torch.manual_seed(1)
    model = torchvision.models.resnet18()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # statistics of what it sees below
    with torch.no_grad():
        model(torch.stack([normalised(image.resize((32, 32))) for image, _ in validation(data_dir)]))
        model.fc.weight.mul_(10)
        model.fc.bias[6:] = -1000
    path = tmp_path_factory.mktemp("weights") / "official.pth"
    torch.save(model.state_dict(), path)
    return path, model.eval()


def reference(model, data_dir):
    """The six errors with torchvision's own network and transforms, one image at a time."""
    found = {"1crop": [], "10crop": [], "multiscale": []}
    with torch.no_grad():
        for image, label in validation(data_dir):
            resized = functional.resize(image, 37)  # 32 * 8 / 7
            corners = list(functional.five_crop(resized, 32))
            views = {"1crop": [functional.center_crop(resized, 32)], "10crop": corners + [functional.hflip(c) for c in corners]}
            views["multiscale"] = [functional.resize(image, side) for side in (32, 37, 55, 69, 91)]
            for name, several in views.items():
                scores = torch.stack([model(normalised(each)[None]).softmax(1)[0] for each in several]).mean(0)
                found[name].append((scores.argsort(descending=True) == label).nonzero().item())
    ranks = {name: torch.tensor(each) for name, each in found.items()}
    return {f"top{k}_error_{name}": 100 * (r >= k).double().mean().item() for name, r in ranks.items() for k in (1, 5)}


@pytest.mark.slow
def test_official_weights_are_evaluated_exactly(data_dir, weights, tmp_path):
    """On one process and on two: what torchvision's own network and transforms give."""
    model = weights[1]
    path = shutil.copy(weights[0], tmp_path)
    flags = [path, "--data-dir", data_dir, "--crop", 32]
    one = Started(tmp_path / "one.log", PRETRAINED, *flags, "--out", tmp_path / "1")
    finish([one, *processes(2, tmp_path / "two.log", PRETRAINED, *flags, "--out", tmp_path / "2")])
    made = [record(tmp_path / out / "resnet/weights-official/seed0") for out in "12"]
    expected = reference(model, data_dir)
    assert [each["processes"] for each in made] == [1, 2]
    assert made[0]["kind"] == "weights" and made[0]["data"]["test"] == VALIDATION
    assert made[0]["metrics"] == made[1]["metrics"] == pytest.approx(expected)
    assert len(set(expected.values())) > 3 and 0 < expected["top1_error_1crop"] < 100

    torch.save(torchvision.models.resnet18().state_dict(), path)
    again = Started(tmp_path / "again.log", PRETRAINED, *flags, "--out", tmp_path / "1")
    assert again.wait() == 2, "other weights in a file of the same name"
    assert "holds a finished run on other data (weights_sha256 " in again.output() and "Traceback" not in again.output()
    assert record(tmp_path / "1/resnet/weights-official/seed0") == made[0]


@pytest.mark.parametrize("damage", ["nothing", "cut", "other", "unknown"])
def test_weights_that_cannot_be_used(damage, data_dir, weights, tmp_path):
    path = tmp_path / "some.pth"
    if damage == "cut":
        path.write_bytes(weights[0].read_bytes()[:5000])
    elif damage == "other":
        torch.save(torchvision.models.alexnet().state_dict(), path)
    name = "nonsense" if damage == "unknown" else path
    run = Started(tmp_path / "log", PRETRAINED, name, "--data-dir", data_dir, "--out", tmp_path / "out")
    assert run.wait() == 2
    errors = [line for line in run.output().splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and str(name) in errors[0] and "Traceback" not in run.output(), run.output()
    assert ("features.0.weight" in errors[0]) == (damage == "other")
