"""MNIST's files: downloaded from a real server that misbehaves, and every kind of bad data refused in one line."""

import errno
import gzip
import hashlib
import http.server
import multiprocessing
import os
import socket
import threading
import time
from contextlib import contextmanager

import pytest
import torch
import torchvision.datasets.utils
from torchvision.datasets import MNIST

from common.data import files, mnist
from common.errors import BadInput
from common.provenance import ROOT
from tests.start import until

SHAPES = {
    "train-images-idx3-ubyte": (12, 28, 28),
    "train-labels-idx1-ubyte": (12,),
    "t10k-images-idx3-ubyte": (5, 28, 28),
    "t10k-labels-idx1-ubyte": (5,),
}
IMAGES, LABELS = list(SHAPES)[:2]


def idx(array):
    """A uint8 tensor as the bytes of an idx file."""
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.numpy().tobytes()


class Handler(http.server.BaseHTTPRequestHandler):
    """GET /<how>/<file>: the file, or one of the ways in which that fails."""

    def do_GET(self):
        how, name = self.path.split("/")[1:]
        if "Method" not in self.headers:  # torchvision asks twice; the first time for redirects, with this header
            self.server.asked.append((how, name))
        body = self.server.files.get(name)
        if how == "silent":
            self.server.ending.wait(10)
        elif how == "hangs-up":
            pass
        elif how == "missing" or body is None:
            self.send_error(404)
        else:
            self.send_response(200)
            size = ("Transfer-Encoding", "chunked") if how == "chunks" else ("Content-Length", len(body))
            self.send_header(*map(str, size))
            self.end_headers()
            if how == "slow":
                time.sleep(0.1)
            if how == "chunks":
                self.wfile.write(b"%x\r\n" % len(body))
            body = b"<html>" + body[6:] if how == "wrong" else body
            self.wfile.write(body if how in ("good", "slow", "wrong") else body[: len(body) // 2])
            if how == "stalls":
                self.wfile.flush()
                self.server.ending.wait(10)

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, address):
        pass  # the client has gone, as it may

    def mirror(self, how):
        return f"http://127.0.0.1:{self.server_port}/{how}/"


@contextmanager
def serving(handler, files):
    """A server of these files (name -> bytes) on this machine, until the end of the block."""
    made = Server(("127.0.0.1", 0), handler)
    made.files, made.asked, made.ending = files, [], threading.Event()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        made.ending.set()
        made.shutdown()
        made.server_close()
        thread.join()


@pytest.fixture
def arrays(monkeypatch):
    """name -> what the file of that name holds, the whole a data set of 12 and 5 images that counts as the official one."""
    generator = torch.Generator().manual_seed(1)
    made = {
        name: torch.randint(256 if len(shape) == 3 else 10, shape, dtype=torch.uint8, generator=generator)
        for name, shape in SHAPES.items()
    }
    monkeypatch.setattr(mnist, "FILES", {k: (SHAPES[k], hashlib.sha256(idx(v)).hexdigest()) for k, v in made.items()})
    return made


@pytest.fixture
def server(arrays, monkeypatch):
    """Serves the data set; torchvision believes that it is the official one, and this its mirror."""
    monkeypatch.setenv("no_proxy", "*")
    packed = {f"{name}.gz": gzip.compress(idx(array), mtime=0) for name, array in arrays.items()}
    monkeypatch.setattr(MNIST, "resources", [(name, hashlib.md5(body).hexdigest()) for name, body in packed.items()])
    with serving(Handler, packed) as made:
        monkeypatch.setattr(MNIST, "mirrors", [made.mirror("good")])
        yield made


@pytest.fixture
def raw(arrays, tmp_path):
    """data_dir/MNIST/raw with the four files; data_dir is tmp_path."""
    folder = tmp_path / "MNIST/raw"
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        (folder / name).write_bytes(idx(array))
    return folder


def refused(function, *args):
    """The one line of a BadInput."""
    with pytest.raises(BadInput) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names(data_dir):
    """All that lies there but the lock, temporary folders among it."""
    return {path.name for path in data_dir.rglob("*")} - {"MNIST", "raw", ".mnist-lock"}


def check(data_dir, arrays, *others):
    """These are the arrays that are loaded, and only these and the other files are there."""
    data = mnist.load(data_dir)
    loaded = [data.train_images, data.train_labels, data.test_images, data.test_labels]
    assert [x.dtype for x in loaded] == [torch.uint8, torch.int64] * 2
    assert all(torch.equal(x, array.to(x.dtype)) for x, array in zip(loaded, arrays.values(), strict=True))
    assert data.sha256 == hashlib.sha256(b"".join(map(idx, arrays.values()))).hexdigest()
    assert names(data_dir) == {*arrays, *others}


def test_download(server, arrays, tmp_path, monkeypatch):
    monkeypatch.setattr(MNIST, "mirrors", [server.mirror("good"), server.mirror("missing")])
    mnist.fetch(tmp_path)
    check(tmp_path, arrays)
    assert server.asked == [("good", name) for name in server.files]
    mnist.fetch(tmp_path)
    assert len(server.asked) == 4, "once is enough"
    assert socket.getdefaulttimeout() is None


FAILURES = {
    "missing": "HTTP Error 404",
    "wrong": "wrong checksum of",
    "cut": "wrong checksum of",
    "chunks": "IncompleteRead",
    "hangs-up": "closed connection",
    "silent": "timed out",
    "stalls": "timed out",
}


@pytest.mark.parametrize(("how", "reason"), FAILURES.items())
def test_bad_mirror(how, reason, server, arrays, tmp_path, monkeypatch, capfd):
    """Alone it is an error that leaves nothing behind; before a good one it costs a line."""
    monkeypatch.setattr(files, "TIMEOUT", 0.5)
    monkeypatch.setattr(MNIST, "mirrors", [server.mirror(how)])
    message = refused(mnist.fetch, tmp_path)
    wanted = tmp_path / "MNIST/raw" / IMAGES
    for word in (f"{wanted} is missing", f"{server.mirror(how)}{IMAGES}.gz: ", reason, "put them there", "--data-dir", "smoke"):
        assert str(word) in message
    assert names(tmp_path) == set() and not (tmp_path / "MNIST").exists()
    wanted.parent.mkdir(parents=True)
    assert socket.getdefaulttimeout() is None

    first, *others = server.files
    for name in others:  # there already, so that a single time-out is waited for
        wanted.with_name(name).write_bytes(server.files[name])
    capfd.readouterr()
    server.asked.clear()
    monkeypatch.setattr(MNIST, "mirrors", [server.mirror(how), server.mirror("good")])
    mnist.fetch(tmp_path)
    check(tmp_path, arrays, *others)
    assert server.asked[-1] == ("good", first) and {name for _, name in server.asked} == {first}
    lines = [line for line in capfd.readouterr().err.splitlines() if "cannot download" in line]
    assert len(lines) == 1 and f"{server.mirror(how)}{first}: " in lines[0] and reason in lines[0]


def test_every_mirror_is_named(server, tmp_path, monkeypatch):
    monkeypatch.setattr(MNIST, "mirrors", [server.mirror("wrong"), server.mirror("missing")])
    message = refused(mnist.fetch, tmp_path)
    for how, reason in (("wrong", "wrong checksum"), ("missing", "HTTP Error 404")):
        assert f"{server.mirror(how)}{IMAGES}.gz: {reason}" in message


def test_no_network(server, tmp_path, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # and does not listen
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{probe.getsockname()[1]}/"])
        message = refused(mnist.fetch, tmp_path)
    assert "Connection refused" in message and MNIST.mirrors[0] in message and str(tmp_path / "MNIST/raw") in message


def fetching(data_dir):
    """mnist.fetch in a process of its own, forked: it sees the patches."""

    def alone():
        torchvision.datasets.utils.tqdm.set_lock(threading.RLock())  # a kill would leave the one that forks share locked
        mnist.fetch(data_dir)

    process = multiprocessing.get_context("fork").Process(target=alone)
    process.start()
    return process


def test_killed_half_way(server, arrays, tmp_path, monkeypatch):
    monkeypatch.setattr(MNIST, "mirrors", [server.mirror("stalls")])
    child = fetching(tmp_path)
    until(lambda: list(tmp_path.glob(".mnist-fetch-*/*.gz")), seconds=20)
    child.kill()
    child.join()
    assert list(tmp_path.glob(".mnist-fetch-*")) and not list(tmp_path.glob("MNIST/raw/*"))
    monkeypatch.setattr(MNIST, "mirrors", [server.mirror("good")])
    mnist.fetch(tmp_path)
    check(tmp_path, arrays)


def test_two_runs_download_once(server, arrays, tmp_path, monkeypatch):
    monkeypatch.setattr(MNIST, "mirrors", [server.mirror("slow")])
    runs = [fetching(tmp_path) for _ in range(2)]
    for run in runs:
        run.join(20)
    assert [run.exitcode for run in runs] == [0, 0]
    assert server.asked == [("slow", name) for name in server.files]
    check(tmp_path, arrays)


def test_only_packed_files(server, arrays, tmp_path):
    """They are unpacked; no mirror is asked."""
    (tmp_path / "MNIST/raw").mkdir(parents=True)
    for name, body in server.files.items():
        (tmp_path / "MNIST/raw" / name).write_bytes(body)
    mnist.fetch(tmp_path)
    check(tmp_path, arrays, *server.files)
    assert server.asked == []


def test_damaged_packed_file(server, arrays, tmp_path, monkeypatch):
    """It is said; it is not used, and not touched."""
    packed = tmp_path / "MNIST/raw" / f"{IMAGES}.gz"
    packed.parent.mkdir(parents=True)
    packed.write_bytes(server.files[packed.name][:-100])
    monkeypatch.setattr(MNIST, "mirrors", [server.mirror("missing")])
    assert f"{packed.name} beside it: wrong checksum of" in refused(mnist.fetch, tmp_path)
    monkeypatch.setattr(MNIST, "mirrors", [server.mirror("good")])
    mnist.fetch(tmp_path)
    check(tmp_path, arrays, packed.name)
    assert packed.read_bytes() == server.files[packed.name][:-100]


def test_one_file_is_missing(server, raw, arrays, tmp_path):
    (raw / LABELS).unlink()
    message = refused(mnist.load, tmp_path)
    assert f"{raw / LABELS} is missing" in message and "--data-dir" in message
    mnist.fetch(tmp_path)
    check(tmp_path, arrays)
    assert server.asked == [("good", f"{LABELS}.gz")]


def test_no_directory(arrays, tmp_path):
    message = refused(mnist.load, tmp_path / "none")
    assert f"no data directory {tmp_path / 'none'}" in message and f"MNIST/raw/{IMAGES}" in message and "make smoke" in message
    assert f"{tmp_path / 'MNIST/raw' / IMAGES} is missing" in refused(mnist.load, tmp_path)


def test_cannot_write(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    message = refused(mnist.fetch, tmp_path / "file/data")
    assert f"cannot write to {tmp_path / 'file/data/MNIST/raw'} (Not a directory)" in message and "--data-dir" in message

    def full(url, filename):
        with open(filename, "wb") as file:
            file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torchvision.datasets.utils, "_urlretrieve", full)
    assert f"cannot write to {tmp_path / 'MNIST/raw'} (No space left on device)" in refused(mnist.fetch, tmp_path)
    assert names(tmp_path) == {"file"}


def zeros(*shape):
    return idx(torch.zeros(shape, dtype=torch.uint8))


BAD = {
    "empty": (IMAGES, b"", "is empty"),
    "packed": (IMAGES, gzip.compress(zeros(12, 28, 28)), r"is not an idx file of images: it begins with b'\x1f\x8b"),
    "web page": (
        LABELS,
        b"<html>quota exceeded</html>",
        r"is not an idx file of labels: it begins with b'<htm', not with b'\x00\x00",
    ),
    "labels for images": (IMAGES, zeros(12), "is not an idx file of images"),
    "truncated": (IMAGES, zeros(12, 28, 28)[:-9], "is truncated: 9,424 bytes by its header, but it has 9,415"),
    "only the magic number": (LABELS, zeros(12)[:4], "is truncated: 8 bytes by its header, but it has 4"),
    "too long": (LABELS, zeros(12) + b"more", "is too long: 20 bytes by its header, but it has 24"),
    "other size": (IMAGES, zeros(12, 32, 30), "holds images of 32x30 pixels, not 28x28"),
    "other number": (IMAGES, zeros(1012, 28, 28), "holds 1,012 images, not 12"),
    "other number of labels": (LABELS, zeros(5), "holds 5 labels, for 12 images"),
    "other data": (IMAGES, zeros(12, 28, 28), "is not the official file: its sha256 is"),
}


@pytest.mark.parametrize(("name", "content", "reason"), BAD.values(), ids=BAD)
def test_bad_file(name, content, reason, server, raw, tmp_path):
    (raw / name).write_bytes(content)
    message = refused(mnist.load, tmp_path)
    assert f"{raw / name} {reason}" in message and "delete it and run again" in message
    assert refused(mnist.fetch, tmp_path) == message, "it is not downloaded over"
    assert (raw / name).read_bytes() == content and server.asked == []


def test_unreadable_file(raw, tmp_path):
    (raw / LABELS).unlink()
    (raw / LABELS).mkdir()
    assert f"cannot read {raw / LABELS}: Is a directory" in refused(mnist.load, tmp_path)


def test_the_real_files():
    if not (ROOT / "data/MNIST/raw" / IMAGES).exists():
        pytest.skip("data/MNIST/raw is not there")
    data = mnist.load(ROOT / "data")
    assert data.train_images.shape == (60_000, 28, 28) and data.test_images.shape == (10_000, 28, 28)
    assert data.train_labels.shape == (60_000,) and data.test_labels.shape == (10_000,)
    assert data.train_labels[:5].tolist() == [5, 0, 4, 1, 9] and data.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert data.train_images.dtype == torch.uint8 and data.train_labels.bincount().tolist()[:3] == [5923, 6742, 5958]
    assert round(data.train_images.double().mean().item() / 255, 4) == 0.1307
    assert data.sha256 == "b2d8f5bf39174ee5ffeefa97e42d673c35432b411bb5d1f74fbbeddae7f1690a"
