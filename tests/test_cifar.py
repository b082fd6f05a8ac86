"""CIFAR-10's files: downloaded from a real server that misbehaves, and every kind of bad data refused in one line."""

import errno
import hashlib
import io
import multiprocessing
import os
import pickle
import socket
import struct
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets.utils
from torchvision.datasets import CIFAR10

from common.data import cifar, files
from common.provenance import ROOT
from tests.start import until
from tests.test_mnist import FAILURES, Handler, refused, serving

NAMES = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
FIRST, PACKED = NAMES[0], "cifar-10-python.tar.gz"


def batch(rows, labels):
    """The bytes of a batch file."""
    return pickle.dumps({"batch_label": "made up", "labels": labels, "data": np.asarray(rows, np.uint8)}, protocol=2)


def packed(batches):
    """The bytes of an archive: the batches in a mixed order, as in the official one, and all that must not be unpacked."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        others = {"readme.html": b"<html>", "../../escaped": b"!", "batches.meta": b"?"}
        for name, content in sorted((batches | others).items(), key=lambda item: item[0][::-1]):
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size, member.mode = len(content), 0o4666
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("cifar-10-batches-py/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(link)
    return buffer.getvalue()


@pytest.fixture
def batches(monkeypatch):
    """name -> the bytes of that file, the whole a data set of 5 x 3 and 3 images that counts as the official one."""
    generator = np.random.default_rng(1)
    made = {name: batch(generator.integers(256, size=(3, 3072)), generator.integers(10, size=3).tolist()) for name in NAMES}
    official(made, monkeypatch)
    return made


def official(batches, monkeypatch):
    monkeypatch.setattr(cifar, "FILES", {k: (len(v), hashlib.sha256(v).hexdigest()) for k, v in batches.items()})


class Resetting(Handler):
    def do_GET(self):
        super().do_GET()
        if self.path.startswith("/cut-off"):
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing sends a reset
            os.close(self.connection.detach())


@pytest.fixture
def server(batches, monkeypatch):
    """Serves the data set; torchvision believes that it is the official one."""
    monkeypatch.setenv("no_proxy", "*")
    with serving(Resetting, {PACKED: packed(batches)}) as made:
        monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(made.files[PACKED]).hexdigest())
        made.says = lambda how: monkeypatch.setattr(CIFAR10, "url", made.mirror(how) + PACKED)
        made.says("good")
        yield made


@pytest.fixture
def folder(batches, tmp_path):
    """data_dir/cifar-10-batches-py with the six files; data_dir is tmp_path."""
    made = tmp_path / "cifar-10-batches-py"
    made.mkdir()
    for name, content in batches.items():
        (made / name).write_bytes(content)
    return made


def names(data_dir):
    """All that lies there but the lock, temporary folders among it."""
    return {path.name for path in data_dir.rglob("*")} - {".cifar-10-lock"}


def check(data_dir, batches, *others):
    """These are the batches that are loaded, and only these and the other files are there."""
    data = cifar.load(data_dir)
    for split, kept, labels in (
        (NAMES[:5], data.train_images, data.train_labels),
        (NAMES[5:], data.test_images, data.test_labels),
    ):
        made = [pickle.loads(batches[name]) for name in split]
        assert (kept.dtype, labels.dtype) == (torch.uint8, torch.int64)
        assert labels.tolist() == [label for one in made for label in one["labels"]]
        rows = np.concatenate([one["data"] for one in made])
        assert kept.shape == (len(rows), 32, 32, 3)
        for channel in range(3):
            assert (kept[..., channel].flatten(1).numpy() == rows[:, 1024 * channel :][:, :1024]).all()
    assert data.sha256 == hashlib.sha256(b"".join(batches.values())).hexdigest()
    assert names(data_dir) == {"cifar-10-batches-py", *batches, *others}


def test_download(server, batches, tmp_path):
    data_dir = tmp_path / "new/data"
    cifar.fetch(data_dir)
    check(data_dir, batches)
    assert server.asked == [("good", PACKED)]
    assert names(tmp_path) == {"new", "data", "cifar-10-batches-py", *NAMES}, "and nothing beside it"
    assert {(data_dir / "cifar-10-batches-py" / name).stat().st_mode & 0o7777 for name in NAMES} == {0o644}
    cifar.fetch(data_dir)
    assert len(server.asked) == 1, "once is enough"
    assert socket.getdefaulttimeout() is None


def test_order_of_pixels_and_images(folder, tmp_path, monkeypatch):
    """A file's row is 1024 reds, then greens, then blues, each by rows of the image."""
    made = {}
    for at, name in enumerate(NAMES):
        rows = np.zeros((2, 3072))
        rows[0, 32 * 4 + 7], rows[0, 1024 + 32 * 31 + 1], rows[0, 2048 + 30] = 200, 100, 50  # red at (4, 7), green, blue
        rows[1] = at
        made[name] = batch(rows, [at, 9 - at])
        (folder / name).write_bytes(made[name])
    official(made, monkeypatch)
    data = cifar.load(tmp_path)
    image = torch.zeros(32, 32, 3)
    image[4, 7, 0], image[31, 1, 1], image[0, 30, 2] = 200, 100, 50
    assert all(torch.equal(x, image.byte()) for x in (*data.train_images[::2], data.test_images[0]))
    assert data.train_images[1::2, 5, 5, 1].tolist() == [0, 1, 2, 3, 4] and data.test_images[1, 5, 5, 1] == 5
    assert data.train_labels.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5] and data.test_labels.tolist() == [5, 4]


@pytest.mark.parametrize(("how", "reason"), [*FAILURES.items(), ("cut-off", "Connection reset")])
def test_bad_server(how, reason, server, batches, tmp_path, monkeypatch):
    """It is an error that leaves nothing behind."""
    monkeypatch.setattr(files, "TIMEOUT", 0.3)
    server.says(how)
    message = refused(cifar.fetch, tmp_path)
    wanted = tmp_path / "cifar-10-batches-py" / FIRST
    for word in (f"{wanted} is missing", f"({CIFAR10.url}: ", reason, f"put it into {tmp_path}", "--data-dir", "make smoke"):
        assert word in message
    assert names(tmp_path) == set() and socket.getdefaulttimeout() is None
    server.says("good")
    cifar.fetch(tmp_path)
    check(tmp_path, batches)


def test_no_network(server, tmp_path, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # and does not listen
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{probe.getsockname()[1]}/{PACKED}")
        message = refused(cifar.fetch, tmp_path)
    assert "Connection refused" in message and f"get {CIFAR10.url} and put it into {tmp_path}" in message


def fetching(data_dir):
    """cifar.fetch in a process of its own, forked: it sees the patches."""

    def alone():
        torchvision.datasets.utils.tqdm.set_lock(threading.RLock())  # a kill would leave the one that forks share locked
        cifar.fetch(data_dir)

    process = multiprocessing.get_context("fork").Process(target=alone)
    process.start()
    return process


def half(then):
    """A TarFile.makefile that writes half of the third file, and does `then`."""
    whole, done = tarfile.TarFile.makefile, []

    def makefile(archive, member, path):
        if len(done) < 2:
            whole(archive, member, path)
            return done.append(path)
        Path(path).write_bytes(b"half")
        then()

    return makefile


@pytest.mark.parametrize(("when", "whole"), {"download": 0, "unpacking": 0, "moving": 2}.items())
def test_killed_half_way(when, whole, server, batches, tmp_path, monkeypatch):
    """It leaves whole files or none; the next fetch takes away what it was at."""
    left = ".cifar-10-fetch-*"
    with monkeypatch.context() as patch:
        if when == "download":
            server.says("stalls")
            reached = lambda: list(tmp_path.glob(f"{left}/{PACKED}"))
        elif when == "unpacking":
            patch.setattr(tarfile.TarFile, "makefile", half(lambda: time.sleep(60)))
            reached = lambda: len(list(tmp_path.glob(f"{left}/*/*"))) == 3
        else:
            replace = os.replace
            patch.setattr(os, "replace", lambda a, b: time.sleep(60) if NAMES[2] == b.name else replace(a, b))
            reached = lambda: len(list(tmp_path.glob("cifar-10-batches-py/*"))) == 2
        child = fetching(tmp_path)
        until(reached, seconds=20)
        child.kill()
        child.join()
    assert list(tmp_path.glob(left))
    there = list(tmp_path.glob("cifar-10-batches-py/*"))
    assert len(there) == whole and all(path.read_bytes() == batches[path.name] for path in there)
    assert (tmp_path / "cifar-10-batches-py").exists() == (whole > 0)
    server.says("good")
    cifar.fetch(tmp_path)
    check(tmp_path, batches)


def test_two_runs_download_once(server, batches, tmp_path):
    server.says("slow")
    runs = [fetching(tmp_path) for _ in range(2)]
    for run in runs:
        run.join(20)
    assert [run.exitcode for run in runs] == [0, 0]
    assert server.asked == [("slow", PACKED)]
    check(tmp_path, batches)


def test_only_the_archive(server, batches, tmp_path):
    """It is unpacked, and stays; no server is asked."""
    (tmp_path / PACKED).write_bytes(server.files[PACKED])
    cifar.fetch(tmp_path)
    check(tmp_path, batches, PACKED)
    assert server.asked == []


def test_damaged_archive(server, batches, tmp_path):
    """It is said; it is not used, and not touched."""
    damaged = server.files[PACKED][:-100]
    (tmp_path / PACKED).write_bytes(damaged)
    server.says("missing")
    assert f"{PACKED} beside it: wrong checksum of {len(damaged):,} bytes; {CIFAR10.url}: HTTP" in refused(cifar.fetch, tmp_path)
    assert names(tmp_path) == {PACKED}
    server.says("good")
    cifar.fetch(tmp_path)
    check(tmp_path, batches, PACKED)
    assert (tmp_path / PACKED).read_bytes() == damaged


def test_one_file_is_missing(server, folder, batches, tmp_path):
    (folder / NAMES[3]).unlink()
    before = {path: path.stat().st_ino for path in folder.iterdir()}
    message = refused(cifar.load, tmp_path)
    assert f"{folder / NAMES[3]} is missing" in message and CIFAR10.url in message and "--data-dir" in message
    cifar.fetch(tmp_path)
    check(tmp_path, batches)
    assert {path: path.stat().st_ino for path in before} == before, "the others are left as they are"


def test_nothing_is_written_where_nothing_is_missing(folder, tmp_path, monkeypatch):
    """So a read-only folder will do; and each file is read once for each call."""
    read, seen = Path.read_bytes, []
    monkeypatch.setattr(Path, "read_bytes", lambda path: seen.append(path.name) or read(path))
    monkeypatch.setattr(files, "sha256", None)
    before = tmp_path.stat().st_mtime_ns, folder.stat().st_mtime_ns
    cifar.fetch(tmp_path)
    assert (tmp_path.stat().st_mtime_ns, folder.stat().st_mtime_ns) == before and not (tmp_path / ".cifar-10-lock").exists()
    assert seen == NAMES
    cifar.load(tmp_path)
    assert seen == NAMES * 2


def test_no_directory(batches, tmp_path):
    message = refused(cifar.load, tmp_path / "none")
    assert f"no data directory {tmp_path / 'none'}" in message and f"cifar-10-batches-py/{FIRST}" in message
    assert f"{tmp_path / 'cifar-10-batches-py' / FIRST} is missing" in refused(cifar.load, tmp_path)


def fail(code):
    raise OSError(code, os.strerror(code))


def test_cannot_write(server, tmp_path, monkeypatch):
    there = tmp_path / "cifar-10-batches-py"
    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "makefile", half(lambda: fail(errno.ENOSPC)))
        message = refused(cifar.fetch, tmp_path)
    assert f"cannot write to {there} (No space left on device)" in message and "--data-dir" in message and "smoke" in message
    with monkeypatch.context() as patch:
        patch.setattr(torchvision.datasets.utils, "_urlretrieve", lambda url, path: fail(errno.ENOSPC))
        assert f"cannot write to {there} (No space left on device)" in refused(cifar.fetch, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", lambda *args, **options: fail(errno.EACCES))
        assert f"cannot write to {there} (Permission denied)" in refused(cifar.fetch, tmp_path)
    assert names(tmp_path) == set()


MAGIC = b"\x80\x02}q"
BAD = {
    "empty": (b"", "is empty"),
    "web page": (b"<html>quota exceeded</html>", r"begins with b'<htm', not with b'\x80\x02}q'"),
    "packed": (b"\x1f\x8b\x08\x00packed", r"begins with b'\x1f\x8b"),
    "truncated": (MAGIC + bytes(995), "is truncated: it has 999 bytes, the official one 14,"),
    "too long": (MAGIC + bytes(19_996), "is too long: it has 20,000 bytes, the official one 14,"),
    "other data": (None, "is not the official file: its sha256 is"),
}


@pytest.mark.parametrize(("content", "reason"), BAD.values(), ids=BAD)
def test_bad_file(content, reason, server, folder, batches, tmp_path):
    """It is refused before it is unpickled, and not downloaded over, whether or not others are missing."""

    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    if content is None:
        content = pickle.dumps({"data": Code()}, protocol=2)
        content += bytes(len(batches[FIRST]) - len(content))
        assert content.startswith(MAGIC)
    (folder / FIRST).write_bytes(content)
    assert f"{folder / FIRST} " in refused(cifar.load, tmp_path) and reason in refused(cifar.load, tmp_path)
    (folder / NAMES[2]).unlink()
    message = refused(cifar.fetch, tmp_path)
    assert f"{folder / FIRST} is " in message and reason in message and "delete it and run again" in message
    assert (folder / FIRST).read_bytes() == content and server.asked == [] and not (tmp_path / "executed").exists()


def test_unreadable_file(folder, tmp_path):
    (folder / FIRST).unlink()
    (folder / FIRST).mkdir()
    assert f"cannot read {folder / FIRST}: Is a directory" in refused(cifar.fetch, tmp_path)


def test_the_real_files():
    if not (ROOT / "data/cifar-10-batches-py" / FIRST).exists():
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
