"""CLIP through the commands that people type: any pairs, from shards, tested zero-shot; weights; linear probes."""

import json
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from common.provenance import ROOT
from papers.clip import pretrained, zeroshot
from papers.clip.model import CLIP, TextEncoder, VisionTransformer
from papers.clip.tokenizer import TABLE
from tests.papers.test_clip_train import picture, write_shards
from tests.parity.test_clip_weights import authors
from tests.start import Started, finish, here, processes, record, rows, until, weights

needs_table = pytest.mark.skipif(not (ROOT / "data" / TABLE).exists(), reason=f"no data/{TABLE}")
SCRIPT = "papers.clip.train"
SMALL = ("--model", "ViT-B/32", "--narrow", 4, "--steps", 3, "--evaluate-every", 2, "--batch-size", 5, "--precision", "fp32")


@pytest.fixture
def folder(tmp_path):
    """A test set: two classes of one colour each."""
    for name, colour, n in (("dark", (10, 0, 0), 3), ("red", (250, 0, 0), 2)):
        (tmp_path / "test" / name).mkdir(parents=True)
        for i in range(n):
            Image.new("RGB", (40 + i, 30), colour).save(tmp_path / "test" / name / f"{i}.png")
    return tmp_path / "test"


def with_table(tmp_path):
    (tmp_path / "bpe").symlink_to(ROOT / "data/bpe")
    return tmp_path


@needs_table
def test_any_pairs(folder, tmp_path):
    """One process and two read the same pairs, and take the same steps; a folder is what it is tested on."""
    with_table(tmp_path)
    shards = write_shards(tmp_path / "shards")
    flags = ["cc3m-b16", *SMALL, "--pairs", shards, "--test", folder, "--data-dir", tmp_path]
    two = processes(2, tmp_path / "two.log", SCRIPT, *flags, "--out", tmp_path / "2")
    code, output = here(SCRIPT, *flags, "--out", tmp_path / "1")
    assert code == 0, output
    finish(two)
    one, two = (tmp_path / out / "clip/cc3m-b16/seed0" for out in "12")
    for x, y in zip(rows(one), rows(two), strict=True):
        assert {k: v for k, v in x.items() if k != "data_wait"} == pytest.approx({k: y[k] for k in x if k != "data_wait"}, rel=1e-5)
    found = record(one)
    assert found["metrics"]["test_accuracy"] == record(two)["metrics"]["test_accuracy"]
    assert (found["data"]["train"], found["data"]["shards"], found["data"]["complete"]) == (5, "2: 00000.tar to 00001.tar", False)
    assert (found["metrics"]["captions_cut"], found["metrics"]["images_skipped"]) == (0, 0)


@pytest.mark.slow
@needs_table
def test_a_run_on_shards_resumes_within_a_pass(folder, tmp_path):
    """Stopped by a signal and started again, it goes on with the pairs that would have come: bit for bit."""
    with_table(tmp_path)
    shards = write_shards(tmp_path / "shards", (4, 3))
    flags = ["cc3m-b16", *SMALL, "--steps", 4, "--batch-size", 2, "--pairs", shards, "--test", folder, "--data-dir", tmp_path]
    straight, stopped = (tmp_path / out / "clip/cc3m-b16/seed0" for out in ("straight", "stopped"))
    code, output = here(SCRIPT, *flags, "--out", tmp_path / "straight")
    assert code == 0, output
    run = Started(tmp_path / "log", SCRIPT, *flags, "--out", tmp_path / "stopped")
    until(lambda: (stopped / "metrics.jsonl").exists() and (stopped / "metrics.jsonl").read_bytes().count(b"\n") >= 1)
    run.kill(signal.SIGTERM)
    assert run.wait() in (0, 143), run.output()
    finish([Started(tmp_path / "log", SCRIPT, *flags, "--out", tmp_path / "stopped")])
    assert rows(stopped) == rows(straight) and record(stopped)["metrics"] == record(straight)["metrics"]


@needs_table
def test_broken_pairs(folder, tmp_path):
    """An image that does not decode is named; it is passed over only where that is asked for, and counted. Long captions too."""
    with_table(tmp_path)
    (tmp_path / "listed").mkdir()
    lines = []
    for i in range(5):
        (tmp_path / f"listed/{i}.png").write_bytes(b"nothing" if i == 2 else picture(i))
        lines.append({"file": f"{i}.png", "caption": "word " * 90 if i == 3 else "a word"})
    (tmp_path / "listed/captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    flags = ["cc3m-b16", *SMALL, "--pairs", tmp_path / "listed", "--test", folder, "--data-dir", tmp_path, "--out", tmp_path]
    code, output = here(SCRIPT, *flags)
    assert code == 2 and "listed/2.png cannot be decoded" in output and "Traceback" not in output
    code, output = here(SCRIPT, *flags, "--skip-broken", "--restart")
    assert code == 0, output
    metrics = record(tmp_path / "clip/cc3m-b16/seed0")["metrics"]
    assert metrics["images_skipped"] == pytest.approx(20) and metrics["captions_cut"] == pytest.approx(40)  # 3 stands for 2 as well


def tiny():
    torch.manual_seed(0)
    return CLIP(VisionTransformer(8, 64, 1, 8, 16), TextEncoder(8, 64, 1, 77, 514)).eval()


def test_weights_are_evaluated_exactly(folder, tmp_path, monkeypatch, capfd):
    """By the templates of a file, against the same by hand; a set that is not there, and what has no training set, are refused."""
    model = tiny()
    torch.save(authors(model.state_dict()), tmp_path / "tiny.pt")
    (tmp_path / "p.json").write_text(json.dumps({"classes": ["dark", "red"], "templates": ["a {}.", "{} it is"]}))
    run = weights(pretrained, tmp_path / "out", monkeypatch, capfd)
    flags = ("--sets", folder, "--prompts", tmp_path / "p.json", "--data-dir", tmp_path)
    assert run(tmp_path / "tiny.pt", *flags) == (0, [])
    found = record(tmp_path / "out/clip/weights-tiny/seed0")
    model = pretrained.load(str(tmp_path / "tiny.pt"), tmp_path)
    from papers.clip.tokenizer import Tokenizer

    W = zeroshot.classifier(model, ["dark", "red"], ["a {}.", "{} it is"], Tokenizer(), torch.device("cpu"))
    right = []
    for label, name in enumerate(("dark", "red")):
        for path in sorted((folder / name).iterdir()):
            pixels = zeroshot.preprocessed(Image.open(path).convert("RGB"), 16)[None]
            right.append((model.encode_image(zeroshot.shown(pixels, torch.device("cpu"))) @ W.mT).argmax().item() == label)
    assert found["metrics"]["test_accuracy"] == pytest.approx(100 * np.mean(right))
    code, (line,) = run(tmp_path / "tiny.pt", *flags, "--probe", "--restart")
    assert code == 2 and "--probe needs a training set" in line
    code, (line,) = run(tmp_path / "tiny.pt", "--sets", "mnist", "--data-dir", tmp_path, "--restart")
    assert code == 2 and "MNIST" in line
    code, (line,) = run(tmp_path / "tiny.pt", "--sets", "stl10", "--data-dir", tmp_path, "--restart")
    assert code == 2 and "STL-10" in line


def test_a_probe_reads_features(tmp_path, monkeypatch, capfd):
    """Two classes that colours tell apart, from the features before the projection."""
    torch.save(authors(tiny().state_dict()), tmp_path / "tiny.pt")
    labels = torch.arange(40) % 2
    images = (200 * labels)[:, None, None].expand(-1, 28, 28).to(torch.uint8) + torch.randint(30, (40, 28, 28), dtype=torch.uint8)
    data = zeroshot.in_memory(images, labels)
    made = zeroshot.Set("mnist", 40, data, ["0", "1"], ["{}"], "none", data)
    monkeypatch.setattr(pretrained, "load_set", lambda *_: made)
    run = weights(pretrained, tmp_path / "out", monkeypatch, capfd)
    assert run(tmp_path / "tiny.pt", "--sets", "mnist", "--probe", "--data-dir", tmp_path) == (0, [])
    metrics = record(tmp_path / "out/clip/weights-tiny/seed0")["metrics"]
    assert metrics["mnist_probe_accuracy"] == 100 and metrics.keys() == {
        "mnist_accuracy", "mnist_probe_accuracy", "mnist_probe_log10_c"
    }  # fmt: skip


def test_imagenet_needs_all_its_classes(tmp_path):
    from common.errors import BadInput

    for i in range(2):
        (tmp_path / f"imagenet/val/n{i}").mkdir(parents=True)
        (tmp_path / f"imagenet/val/n{i}/1.png").write_bytes(picture(i))
    with pytest.raises(BadInput, match="2 classes in its folder, not 1,000"):
        zeroshot.load_set("imagenet", tmp_path)
