"""Photographs through the commands that people type, on small generated sets: fine-tuning, and official weights evaluated."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from torchvision.transforms import functional

from papers.vit import data, pretrained
from papers.vit.model import ViT
from tests.papers.test_vit_train import official
from tests.start import here, newest, record, refuses, weights

SEED = 6
SCRIPT, VALIDATION = "papers.vit.train", 13
FLAGS = (
    "--net",
    "any",
    "--image",
    48,
    "--steps",
    2,
    "--warmup",
    1,
    "--batch-size",
    4,
    "--evaluate-every",
    2,
    "--precision",
    "fp32",
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Three classes, 8 training images each, 13 validation images."""
    root, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split, counts in (("train", (8, 8, 8)), ("val", (4, 4, 5))):
        for label, n in enumerate(counts):
            folder = root / "imagenet" / split / f"n{label}"
            folder.mkdir(parents=True)
            for i in range(n):
                coarse = random.integers(0, 256, (3, 3, 3), dtype=np.uint8)
                Image.fromarray(coarse).resize(tuple(random.integers(60, 99, 2).tolist())).save(folder / f"{i}.JPEG")
    return root


def validation(data_dir):
    """[(image, label)]"""
    paths = sorted((data_dir / "imagenet/val").glob("*/*.JPEG"))
    return [(Image.open(path).convert("RGB"), int(path.parent.name[1:])) for path in paths]


@pytest.mark.slow
def test_as_many_outputs_as_ones_own_classes(data_dir, tmp_path, evaluated):
    """And such a run is evaluated again, with its weights' GELU, to the same accuracies."""
    flags = [
        "finetune-imagenet-b16",
        *FLAGS,
        "--weights",
        official(tmp_path / "ViT.npz", classes=21),
        "--data-dir",
        data_dir,
        "--out",
        tmp_path,
    ]
    code, output = here(SCRIPT, *flags, "--classes", 3)
    assert code == 0 and "not the paper's data: " in output, output
    trained = tmp_path / "vit/finetune-imagenet-b16/seed0"
    assert newest(trained)["objects"]["model"]["head.bias"].shape == (3,)
    assert pretrained.of_run(trained).blocks[0].gelu.approximate == "tanh"
    code, errors, _ = evaluated(trained, "--precision", "fp32")
    assert code == 0, errors
    again = record(tmp_path / "out/vit/weights-finetune-imagenet-b16-seed0/seed0")
    assert again["metrics"] == record(trained)["metrics"] and again["data"]["stand_in"]
    code, output = here(SCRIPT, *flags, "--classes", 2, "--restart")
    assert code == 2 and "3 classes are there, and 2 outputs: other weights, or --classes" in output


@pytest.mark.slow
def test_finetuning_on_imagenet(data_dir, tmp_path):
    """Workers crop and resize; the dev split is apart from what is learned; the record says that this is not ImageNet."""
    path = official(tmp_path / "ViT.npz", classes=21)
    flags = ("finetune-imagenet-b16", *FLAGS, "--weights", path, "--data-dir", data_dir, "--out")
    code, output = here(SCRIPT, *flags, tmp_path / "whole")
    assert code == 0, output
    whole = tmp_path / "whole/vit/finetune-imagenet-b16/seed0"
    about, metrics = record(whole)["data"], record(whole)["metrics"]
    assert (about["train"], about["test"], about["stand_in"]) == (24, VALIDATION, True)
    assert metrics.keys() == {"top1_accuracy", "top5_accuracy"}
    model = ViT(16, 64, 2, 1, 96, image=48, classes=1000).eval()
    model.load_state_dict(newest(whole)["objects"]["model"])
    expected = ranks(model, lambda image: functional.to_tensor(image.resize((48, 48), Image.BILINEAR)) * 2 - 1, data_dir)
    assert metrics == {f"top{k}_accuracy": pytest.approx(100 * (expected < k).double().mean().item()) for k in (1, 5)}
    assert newest(whole)["objects"]["model"]["head.weight"].shape == (1000, 64)


class Photographs:
    """As torchvision's sets are, as far as they are used: six images of two classes."""

    def __init__(self, root, split, download=False):
        assert split in ("trainval", "train", "test") and (not download or split != "test")
        n = 6 if split == "test" else 20
        self._labels = [i % 2 for i in range(n)]
        self._images = self._image_files = [Path(f"{split}{i}.jpg") for i in range(n)]

    def __getitem__(self, i):
        return Image.new("RGB", (50 + i, 60), (255 * (i % 2), 10 * i, 0)), self._labels[i]


@pytest.mark.parametrize("name", ["pets", "flowers"])
def test_finetuning_on_oxford_sets(name, tmp_path, monkeypatch):
    for each in ("OxfordIIITPet", "Flowers102"):
        monkeypatch.setattr(torchvision.datasets, each, Photographs)
    path = official(tmp_path / "ViT.npz")
    flags = (f"finetune-{name}-b16", *FLAGS, "--weights", path, "--out")
    for held_out, sizes, metric in (((), (20, 6), "test_accuracy"), (("--held-out",), (18, 2), "held_out_accuracy")):
        code, output = here(SCRIPT, *flags, tmp_path / f"runs{len(held_out)}", *held_out)
        assert code == 0, output
        made = record(tmp_path / f"runs{len(held_out)}" / f"vit/finetune-{name}-b16/seed0")
        assert (made["data"]["train"], made["data"]["test"]) == sizes
        assert [name for name, value in made["metrics"].items() if value is not None] == [metric]

    def offline(*args, **more):
        raise RuntimeError("<urlopen error\nno network>")

    monkeypatch.setattr(torchvision.datasets, {"pets": "OxfordIIITPet", "flowers": "Flowers102"}[name], offline)
    offline.__name__ = "Set"
    refuses(SCRIPT, *flags, tmp_path / "none", said=f"{name}: cannot be downloaded to")


def test_more_classes_than_the_head_has(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "OxfordIIITPet", Photographs)
    monkeypatch.setitem(data.CLASSES, "pets", 1)
    path = official(tmp_path / "ViT.npz")
    said = "pets: 2 classes in data, and the head has 1 outputs"
    refuses(SCRIPT, "finetune-pets-b16", *FLAGS, "--weights", path, "--data-dir", "data", "--out", tmp_path, said=said)


# Official weights on the validation set, each as its library shows it the images.


@pytest.fixture
def evaluated(data_dir, tmp_path, monkeypatch, capfd):
    run = weights(pretrained, tmp_path / "out", monkeypatch, capfd)
    return lambda path, *flags: (*run(path, "--data-dir", data_dir, *flags), tmp_path / f"out/vit/weights-{path.stem}/seed0")


def random_timm(classes=1000):
    """Its answers depend on the image: six classes are likely, and not always the same."""
    torch.manual_seed(SEED)
    net = timm.models.VisionTransformer(32, 16, 3, classes, embed_dim=64, depth=2, num_heads=1, mlp_ratio=2).eval()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    if classes > 6:
        net.head.bias.data[6:] = -1000
    return net


def ranks(net, shown, data_dir):
    """Where the right answer comes, of each validation image."""
    with torch.no_grad():
        scores = [(net(shown(image)[None])[0], label) for image, label in validation(data_dir)]
    return torch.tensor([(each.argsort(descending=True) == label).nonzero().item() for each, label in scores])


def test_timms_weights_with_timms_preprocessing(evaluated, data_dir, tmp_path):
    """crop_pct 0.9, bicubic, mean and deviation 0.5: what timm's own transform gives; other classes are refused."""
    net = random_timm()
    torch.save(net.state_dict(), path := tmp_path / "some.pth")
    transform = timm.data.create_transform((3, 32, 32), crop_pct=32 / 36, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3)
    expected = ranks(net, transform, data_dir)
    code, errors, directory = evaluated(path, "--resize", 36, "--bicubic")
    assert code == 0, errors
    made = record(directory)
    accuracies = {f"top{k}_accuracy": pytest.approx(100 * (expected < k).double().mean().item()) for k in (1, 5)}
    assert made["metrics"] == accuracies and 0 < made["metrics"]["top1_accuracy"] < made["metrics"]["top5_accuracy"]
    assert made["kind"] == "weights" and made["data"]["test"] == VALIDATION and len(made["data"]["weights_sha256"]) == 64
    torch.save(random_timm(2).state_dict(), path)
    code, errors, _ = evaluated(path, "--restart")
    assert code == 2 and "ImageNet: 3 classes are there, and 2 outputs" in errors[0]


def test_official_files_see_whole_images(evaluated, data_dir, tmp_path):
    """Squeezed into the square, bilinearly, from -1 to 1; and torchvision's centre with ImageNet's statistics."""
    path = official(tmp_path / "ViT.npz", classes=1000)
    model = pretrained.load(str(path), tmp_path).eval()
    square = lambda image: functional.to_tensor(image.resize((32, 32), Image.BILINEAR)) * 2 - 1
    expected = ranks(model, square, data_dir)
    code, errors, directory = evaluated(path)
    assert code == 0, errors
    assert record(directory)["metrics"]["top1_accuracy"] == pytest.approx(100 * (expected < 1).double().mean().item())

    look = pretrained.Look(32, 37, False, pretrained.MEAN, pretrained.STD)
    transform = torchvision.transforms._presets.ImageClassification(crop_size=32, resize_size=37)
    for image, _ in validation(data_dir)[:4]:
        torch.testing.assert_close(look.scaled(look.view(image)[None])[0], transform(image), atol=1e-5, rtol=0)


def test_where_official_files_come_from(tmp_path, monkeypatch):
    """The bucket's address; and that what is there is not asked for again."""
    asked = []

    def download(urls, digest, to, wanted):
        asked.extend(urls)
        official(to)

    monkeypatch.setattr(pretrained, "download", download)
    for _ in range(2):
        net = pretrained.load("jax-imagenet21k/ViT-B_16", tmp_path / "weights")
    assert asked == ["https://storage.googleapis.com/vit_models/imagenet21k/ViT-B_16.npz"]
    assert net.E.weight.shape == (64, 768) and net.blocks[0].gelu.approximate == "tanh"


def test_known_weights():
    """Each with the preprocessing of its library, by the library's own account of it."""
    for name, e in pretrained.WEIGHTS.items():
        config, library = e.config, name.split("-")[1]
        assert e.claims[0].metric == "top1_accuracy" and name == "weights-" + config.weights.replace("/", "-")
        if library == "torchvision":
            net, _, version = config.weights.partition("-")[2].partition(".")
            found = torchvision.models.get_model_weights(net)[version or "IMAGENET1K_V1"]
            shown = found.transforms()
            assert [config.resize] == shown.resize_size and config.bicubic == (shown.interpolation.value == "bicubic")
            assert config.statistics and e.claims[0].value == found.meta["_metrics"]["ImageNet-1K"]["acc@1"]
        elif library == "timm":
            shown = timm.models.get_pretrained_cfg(config.weights.partition("-")[2])
            size = shown.input_size[1]
            assert config.resize == int(size / shown.crop_pct) and config.bicubic == (shown.interpolation == "bicubic")
            assert shown.mean == (0.5,) * 3 and not config.statistics
        else:
            assert not config.resize and not config.bicubic and not config.statistics
