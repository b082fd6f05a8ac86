"""MNIST's arrays. Its files are downloaded and refused as tests/data/test_fetch.py has it."""

import gzip
import hashlib

import pytest
import torch

from common.data import mnist
from common.provenance import ROOT
from tests.serving import Handler, put, serving

SHAPES = dict(zip(mnist.FILES, [(12, 28, 28), (12,), (5, 28, 28), (5,)], strict=True))


def idx(array):
    """A uint8 tensor as the bytes of an idx file."""
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.numpy().tobytes()


@pytest.fixture
def arrays(monkeypatch):
    """file -> what it holds, the whole a data set of 12 and 5 images that counts as the official one."""
    generator = torch.Generator().manual_seed(1)
    made = {
        name: torch.randint(256 if len(shape) == 3 else 10, shape, dtype=torch.uint8, generator=generator)
        for name, shape in SHAPES.items()
    }
    for name, array in made.items():
        digests = [hashlib.sha256(content).hexdigest() for content in (idx(array), gzip.compress(idx(array), mtime=0))]
        file = mnist.FILES[name]
        monkeypatch.setitem(mnist.FILES, name, file._replace(sha256=digests[0], packed=(file.packed[0], digests[1])))
    return made


def check(data_dir, arrays):
    data = mnist.load(data_dir)
    loaded = [data.train_images, data.train_labels, data.test_images, data.test_labels]
    assert [x.dtype for x in loaded] == [torch.uint8, torch.int64] * 2
    assert all(torch.equal(x, array.to(x.dtype)) for x, array in zip(loaded, arrays.values(), strict=True))
    assert data.sha256 == hashlib.sha256(b"".join(map(idx, arrays.values()))).hexdigest()


def test_arrays(arrays, tmp_path):
    for name, array in arrays.items():
        put(tmp_path / name, idx(array))
    mnist.fetch(tmp_path)
    check(tmp_path, arrays)


def test_download(arrays, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    packed = {f"{name.rpartition('/')[2]}.gz": gzip.compress(idx(array), mtime=0) for name, array in arrays.items()}
    with serving(Handler, packed) as server:
        for name, file in mnist.FILES.items():
            urls = [url.replace(mnist.MIRRORS[0], server.mirror("good")) for url in file.urls]
            monkeypatch.setitem(mnist.FILES, name, file._replace(urls=urls[:1]))
        mnist.fetch(tmp_path)
        check(tmp_path, arrays)
        assert server.asked == [("good", name) for name in packed]
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("M*/**/*")} == {"MNIST/raw", *arrays}


def test_the_real_files():
    if not (ROOT / "data" / next(iter(mnist.FILES))).exists():
        pytest.skip("data/MNIST/raw is not there")
    data = mnist.load(ROOT / "data")
    assert data.train_images.shape == (60_000, 28, 28) and data.test_images.shape == (10_000, 28, 28)
    assert data.train_labels.shape == (60_000,) and data.test_labels.shape == (10_000,)
    assert data.train_labels[:5].tolist() == [5, 0, 4, 1, 9] and data.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert data.train_images.dtype == torch.uint8 and data.train_labels.bincount().tolist()[:3] == [5923, 6742, 5958]
    assert round(data.train_images.double().mean().item() / 255, 4) == 0.1307
    assert data.sha256 == "b2d8f5bf39174ee5ffeefa97e42d673c35432b411bb5d1f74fbbeddae7f1690a"


def test_addresses_are_torchvisions():
    from torchvision.datasets import MNIST

    assert [[mirror + name for mirror in MNIST.mirrors] for name, _ in MNIST.resources] == [
        file.urls for file in mnist.FILES.values()
    ]
    for file in mnist.FILES.values():
        packed = ROOT / "data" / file.packed[0]
        if packed.exists():
            assert hashlib.sha256(packed.read_bytes()).hexdigest() == file.packed[1]
