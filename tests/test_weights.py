"""Weights of others: where they are read from, and how strictly they are taken."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from common import weights
from common.errors import BadInput
from tests.serving import refused

STATE = {f"layer.{i}.weight": torch.arange(6.0).view(2, 3) + i for i in range(4)}


def equal(found, expected=STATE):
    assert found.keys() == expected.keys() and all(torch.equal(found[name], each) for name, each in expected.items())


def write(folder, kind):
    """The weights in a folder as the hub has them: whole or in three parts, in either format."""
    folder.mkdir(parents=True)
    stem, end = ("model", ".safetensors") if "safetensors" in kind else ("pytorch_model", ".bin")
    save = save_file if end == ".safetensors" else torch.save
    if "parts" not in kind:
        save(STATE, folder / f"{stem}{end}")
        return folder
    names = [f"{stem}-0000{i}-of-00003{end}" for i in (1, 2, 3)]
    places = dict(zip(STATE, (names[0], names[2], names[1], names[0]), strict=True))
    for name in names:
        save({key: STATE[key] for key, place in places.items() if place == name}, folder / name)
    (folder / f"{stem}{end}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


KINDS = ("safetensors", "bin", "safetensors in parts", "bin in parts")


@pytest.mark.parametrize("kind", KINDS)
def test_folders(kind, tmp_path):
    equal(weights.read(write(tmp_path / "hub", kind), tmp_path))
    equal(weights.read(str(tmp_path / "hub"), tmp_path))


def test_the_better_of_two_formats_is_read(tmp_path):
    write(tmp_path / "hub", "safetensors")
    torch.save({"else": torch.ones(1)}, tmp_path / "hub/pytorch_model.bin")
    equal(weights.read(tmp_path / "hub", tmp_path))


@pytest.mark.parametrize("name", ["some.pt", "some.pth", "some.safetensors", "some.bin"])
def test_files(name, tmp_path):
    (save_file if name.endswith("safetensors") else torch.save)(STATE, tmp_path / name)
    equal(weights.read(tmp_path / name, tmp_path))


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/evil-was-here",)


def test_files_run_no_code(tmp_path):
    torch.save({"a": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(Exception, match="it holds more than tensors"):
        weights.read(tmp_path / "evil.pt", tmp_path)


def lose_a_weight(folder):
    index = json.loads((path := folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["layer.9.weight"] = "model-00001-of-00003.safetensors"
    path.write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "model-00002-of-00003.safetensors").unlink(), "it has no model-00002-of-00003.safetensors"),
        (lambda folder: os.truncate(folder / "model-00002-of-00003.safetensors", 90), "Error: "),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("{}"), "KeyError: 'weight_map'"),
        (lose_a_weight, "layer.9.weight is in model.safetensors.index.json, and in no part"),
        (lambda folder: (folder / "model.safetensors.index.json").unlink(), "it has no weights"),
        (shutil.rmtree, "no such folder, and no name of the hub"),
    ],
)
def test_folders_that_cannot_be_used(damage, words, tmp_path):
    folder = write(tmp_path / "hub", "safetensors in parts")
    damage(folder)

    def read():
        with weights.refused(str(folder), "name another"):
            weights.read(folder, tmp_path)

    message = refused(read)
    assert message.startswith(f"cannot load {folder} (") and message.endswith("): name another") and words in message
    assert "\n" not in message


def test_what_is_refused_already_stays_as_it_is():
    with pytest.raises(BadInput, match=r"^no data$"), weights.refused("some", "name another"):
        raise BadInput("no data")
    with pytest.raises(KeyboardInterrupt), weights.refused("some", "name another"):
        raise KeyboardInterrupt


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with repositories in all kinds; `asked` for what."""
    asked = []
    for kind in KINDS:
        folder = write(tmp_path / f"there/someone/{kind.replace(' ', '-')}", kind)
        (folder / "config.json").write_text("{}")
        (folder / "README.md").write_text("not asked for")

    def snapshot_download(repository, *, cache_dir, allow_patterns):
        asked.append(allow_patterns)
        for name in allow_patterns:
            if (path := tmp_path / "there" / repository / name).exists():
                (to := cache_dir / repository).mkdir(parents=True, exist_ok=True)
                shutil.copy(path, to)
        return str(cache_dir / repository)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked


@pytest.mark.parametrize("kind", KINDS)
def test_repositories_of_the_hub(kind, hub, tmp_path):
    """No more is downloaded than one of the formats, with its parts."""
    name = f"someone/{kind.replace(' ', '-')}"
    folder = weights.folder_of(name, tmp_path / "cache", ["config.json"])
    equal(weights.read(folder, tmp_path))
    files = {path.name for path in folder.iterdir()}
    assert len(files) == (5 if "parts" in kind else 2) and "config.json" in files and "README.md" not in files
    equal(weights.read(name, tmp_path / "other"))


def test_without_weights_the_files_alone_are_downloaded(hub, tmp_path):
    folder = weights.folder_of("someone/bin", tmp_path / "cache", ["config.json"], ())
    assert [path.name for path in folder.iterdir()] == ["config.json"] and hub == [["config.json"]]


@pytest.mark.parametrize("name", ["nonsense", "a/b/c", "/nowhere/some.pt", ""])
def test_names_that_nothing_has(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no such folder, and no name of the hub" if name else "it has no weights"):
        weights.read(name, tmp_path)


def test_torchvision_and_timm(tmp_path, monkeypatch):
    """By name and version: the file that the library names."""
    import timm
    from torchvision.models import ResNet50_Weights

    asked = []
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda url, folder, **how: asked.append((url, folder, how)) or STATE)
    equal(weights.read("torchvision-resnet50", tmp_path))
    equal(weights.read("torchvision-resnet50.IMAGENET1K_V2", tmp_path))
    assert [url for url, *_ in asked] == [ResNet50_Weights.IMAGENET1K_V1.url, ResNet50_Weights.IMAGENET1K_V2.url]
    assert all(folder == str(tmp_path) and how["check_hash"] for _, folder, how in asked)
    with pytest.raises(ValueError, match="resnet51"):
        weights.read("torchvision-resnet51", tmp_path)
    made = []
    monkeypatch.setattr(timm, "create_model", lambda name, **how: made.append((name, how)) or nn.Linear(2, 1))
    assert weights.read("timm-resnet18.tv_in1k", tmp_path).keys() == {"weight", "bias"}
    assert made == [("resnet18.tv_in1k", {"pretrained": True, "cache_dir": tmp_path})]


def net():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))


def test_a_net_is_filled():
    theirs, ours = net(), net()
    theirs[1].running_mean.normal_()
    found = weights.filled(ours, theirs.state_dict(), "a net")
    assert found is ours
    equal(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"0.weight": None}, "not a net: it has no 0.weight"),
        ({"2.mask": torch.ones(1)}, "not a net: 2.mask is no weight of its"),
        ({"0.weight": torch.ones(2, 4)}, "not a net: 0.weight is (2, 4), not (2, 3)"),
        ({"0.bias": None, "x": torch.ones(1)}, "not a net: it has no 0.bias; x is no weight of its"),
        (dict.fromkeys(net().state_dict()), "not a net: it has no 0.weight; it has no 0.bias; it has no 1.weight; and 5 more"),
    ],
)
def test_a_net_is_filled_strictly(change, said):
    state = {name: each for name, each in (net().state_dict() | change).items() if each is not None}
    with pytest.raises(ValueError) as caught:
        weights.filled(net(), state, "a net")
    assert str(caught.value) == said


def test_the_fingerprint_of_weights():
    torch.manual_seed(0)
    model = net()
    first = weights.fingerprint(model)
    assert first == weights.fingerprint(model) and len(first) == 64
    model[1].running_mean[0] += 1e-6
    assert weights.fingerprint(model) != first, "buffers count"


# Files of trainers.

PLAIN = {"a.weight": torch.ones(2), "b.bias": torch.zeros(1)}


@pytest.mark.parametrize(
    "saved",
    [
        {f"{prefix}{name}": tensor for name, tensor in PLAIN.items()}
        for prefix in ("", "module.", "_orig_mod.", "model.", "module._orig_mod.")
    ]
    + [
        {key: {f"module.{name}": tensor for name, tensor in PLAIN.items()}, "optimizer": {"state": {}}, "epoch": 3}
        for key in ("model", "state_dict", "state_dict_ema")
    ]
    + [{"run": {"paper": "some"}, "step": 3, "objects": {"model": PLAIN, "optimizer": {"state": {}}}}],
)
def test_state_dicts_as_people_have_them(saved, tmp_path):
    torch.save(saved, tmp_path / "some.pth")
    found = weights.read(tmp_path / "some.pth", tmp_path)
    assert found.keys() == PLAIN.keys() and all(torch.equal(found[name], PLAIN[name]) for name in PLAIN)


def test_state_dicts_that_are_ambiguous_or_none(tmp_path):
    """Two of them, a prefix that some names have, options of argparse beside the weights."""
    import argparse

    torch.save({"model": PLAIN, "model_ema": PLAIN}, tmp_path / "two.pth")
    with pytest.raises(ValueError, match="it holds model, model_ema: save the state dict that is meant alone"):
        weights.read(tmp_path / "two.pth", tmp_path)
    mixed = PLAIN | {"module.a.weight": torch.ones(2)}
    torch.save(mixed, tmp_path / "mixed.pth")
    assert weights.read(tmp_path / "mixed.pth", tmp_path).keys() == mixed.keys(), "its reader refuses the name"
    torch.save({"model": PLAIN, "args": argparse.Namespace(lr=1)}, tmp_path / "args.pth")
    with pytest.raises(ValueError, match=r"holds more than tensors, .* save the state dict alone"):
        weights.read(tmp_path / "args.pth", tmp_path)
