"""The arrays of CIFAR-10 and CIFAR-100. Their files are downloaded and refused as tests/data/test_fetch.py has it."""

import hashlib
import io
import pickle
import tarfile

import numpy as np
import pytest
import torch
from torchvision import datasets

from common.data import cifar
from common.provenance import ROOT
from tests.serving import Handler, put, serving


def batch(rows, labels, classes=10):
    """The bytes of a batch file."""
    names = {"labels": labels} if classes == 10 else {"coarse_labels": [0] * len(labels), "fine_labels": labels}
    return pickle.dumps({"batch_label": "made up", "data": np.asarray(rows, np.uint8), **names}, protocol=2)


def official(contents, classes, monkeypatch):
    """These count as the official ones; the archive of them and others, in a mixed order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in sorted((contents | {f"{next(iter(contents))}.html": b"?"}).items(), key=lambda item: item[0][::-1]):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    packed = hashlib.sha256(buffer.getvalue()).hexdigest()
    for name, content in contents.items():
        file = cifar.FILES[classes][name]
        changed = file._replace(sha256=hashlib.sha256(content).hexdigest(), packed=(file.packed[0], packed))
        monkeypatch.setitem(cifar.FILES[classes], name, changed)
    return buffer.getvalue()


@pytest.mark.parametrize("classes", [10, 100])
def test_download(classes, tmp_path, monkeypatch):
    """The archive once, of it these files alone; the test set is the last."""
    monkeypatch.setenv("no_proxy", "*")
    generator = np.random.default_rng(1)
    made = [(generator.integers(256, size=(3, 3072)), generator.integers(classes, size=3).tolist()) for _ in cifar.FILES[classes]]
    contents = {name: batch(*rows, classes) for name, rows in zip(cifar.FILES[classes], made, strict=True)}
    archive = official(contents, classes, monkeypatch)
    with serving(Handler, {cifar.PACKED[classes][0]: archive}) as server:
        for name, file in cifar.FILES[classes].items():
            urls = [url.replace(cifar.SOURCE, server.mirror("good")) for url in file.urls]
            monkeypatch.setitem(cifar.FILES[classes], name, file._replace(urls=urls))
        cifar.fetch(tmp_path, classes)
        cifar.fetch(tmp_path, classes)
        assert server.asked == [("good", cifar.PACKED[classes][0])]
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("c*/*")} == {*contents}
    data = cifar.load(tmp_path, classes)
    for split, images, labels in (
        (made[:-1], data.train_images, data.train_labels),
        (made[-1:], data.test_images, data.test_labels),
    ):
        assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
        assert labels.tolist() == [label for _, some in split for label in some]
        rows = np.concatenate([rows for rows, _ in split])
        assert images.shape == (len(rows), 32, 32, 3)
        for channel in range(3):
            assert (images[..., channel].flatten(1).numpy() == rows[:, 1024 * channel :][:, :1024]).all()
    assert data.sha256 == hashlib.sha256(b"".join(contents.values())).hexdigest()


def test_order_of_pixels_and_images(tmp_path, monkeypatch):
    """A file's row is 1024 reds, then greens, then blues, each by rows of the image."""
    made = {}
    for at, name in enumerate(cifar.FILES[10]):
        rows = np.zeros((2, 3072))
        rows[0, 32 * 4 + 7], rows[0, 1024 + 32 * 31 + 1], rows[0, 2048 + 30] = 200, 100, 50  # red at (4, 7), green, blue
        rows[1] = at
        made[name] = batch(rows, [at, 9 - at])
        put(tmp_path / name, made[name])
    official(made, 10, monkeypatch)
    data = cifar.load(tmp_path)
    image = torch.zeros(32, 32, 3)
    image[4, 7, 0], image[31, 1, 1], image[0, 30, 2] = 200, 100, 50
    assert all(torch.equal(x, image.byte()) for x in (*data.train_images[::2], data.test_images[0]))
    assert data.train_images[1::2, 5, 5, 1].tolist() == [0, 1, 2, 3, 4] and data.test_images[1, 5, 5, 1] == 5
    assert data.train_labels.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5] and data.test_labels.tolist() == [5, 4]


@pytest.mark.parametrize(("classes", "source"), [(10, datasets.CIFAR10), (100, datasets.CIFAR100)])
def test_names_and_addresses_are_torchvisions(classes, source):
    files = [f"{source.base_folder}/{name}" for name, _ in (*source.train_list, *source.test_list)]
    assert [*cifar.FILES[classes]] == files
    assert {(*file.urls, file.packed[0]) for file in cifar.FILES[classes].values()} == {(source.url, source.filename)}


def test_the_real_files():
    if not (ROOT / "data/cifar-10-batches-py").exists():
        pytest.skip("data/cifar-10-batches-py is not there")
    data = cifar.load(ROOT / "data")
    assert data.train_images.shape == (50_000, 32, 32, 3) and data.test_images.shape == (10_000, 32, 32, 3)
    assert data.train_labels.bincount().tolist() == [5_000] * 10 and data.test_labels.bincount().tolist() == [1_000] * 10
    values = torch.arange(256).double() / 255
    for channel, (mean, std) in enumerate([(0.4914, 0.2470), (0.4822, 0.2435), (0.4465, 0.2616)]):
        share = data.train_images[..., channel].flatten().bincount(minlength=256).double() / (50_000 * 32 * 32)
        assert abs((found := share @ values) - mean) < 1e-4
        assert abs((share @ (values - found) ** 2).sqrt() - std) < 1e-4
    assert data.sha256 == "42245f5e88fa484c0f9340c2dbb546e3d0e696dd25f1fba3ab13d4c78273af27"
