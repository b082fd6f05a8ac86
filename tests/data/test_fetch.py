"""Files of data sets: downloaded from a real server that misbehaves, and what is no data set's file refused in one line."""

import errno
import gzip
import hashlib
import io
import multiprocessing
import os
import pickle
import socket
import tarfile
import threading
import time

import pytest
import torch.hub
import torchvision.datasets.utils

from common.data import cifar, fetch, mnist, translation
from common.data.fetch import File, found
from tests.serving import FAILURES, Handler, put, refused, serving, unprivileged
from tests.start import until

NAME, PACKED = "Made Up", "both.tar.gz"
CONTENT = {  # a file as it is, one in a .gz, two in one archive
    "set/plain.txt": b"plain " * 500,
    "set/raw/packed": b"packed " * 500,
    "set/both/one": b"one " * 500,
    "set/both/two": b"two " * 500,
}


def tar(contents):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in {**contents, "set/both/readme.html": b"<html>"}.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def server(monkeypatch):
    """Serves the made-up data set; `table(how, ...)` are its official files, with the addresses of such servers."""
    monkeypatch.setenv("no_proxy", "*")
    plain, packed, *both = CONTENT
    files = {
        "plain.txt": CONTENT[plain], "packed.gz": gzip.compress(CONTENT[packed], mtime=0),
        PACKED: tar({name: CONTENT[name] for name in both}),
    }  # fmt: skip
    digest = {name: hashlib.sha256(body).hexdigest() for name, body in (files | CONTENT).items()}
    of = {plain: ("plain.txt", None), packed: ("packed.gz", "set/raw/packed.gz"), **dict.fromkeys(both, (PACKED, PACKED))}

    def table(*hows):
        made_up = {}
        for name in CONTENT:
            served, packed = of[name]
            urls = [made.mirror(how) + served for how in hows]
            made_up[name] = File(digest[name], urls, packed and (packed, digest[served]))
        return made_up

    with serving(Handler, files) as made:
        made.table = table
        yield made


def names(data_dir):
    """All files that lie there but the lock, temporary ones among them."""
    paths = [path.relative_to(data_dir).as_posix() for path in data_dir.rglob("*") if not path.is_dir()]
    return {*paths} - {".made up-lock"}


def check(data_dir, table, *others):
    """The data set lies there whole, and besides it only these."""
    paths = found(data_dir, NAME, table)
    assert {path.relative_to(data_dir).as_posix(): path.read_bytes() for path in paths} == CONTENT
    assert names(data_dir) == {*CONTENT, *others}
    assert not list(data_dir.glob(".*-part-*")) and socket.getdefaulttimeout() is None


def get(data_dir, table):
    return fetch.fetch(data_dir, NAME, table)


def test_download(server, tmp_path):
    """From the first address that has it; an archive once for all that it holds; nothing twice."""
    data_dir, table = tmp_path / "new/data", server.table("missing", "good")
    get(data_dir, table)
    check(data_dir, table)
    assert [name for how, name in server.asked if how == "good"] == ["plain.txt", "packed.gz", PACKED]
    assert {(data_dir / name).stat().st_mode & 0o777 for name in CONTENT} == {0o666 & ~umask()}
    server.asked.clear()
    before = data_dir.stat().st_mtime_ns
    get(data_dir, table)
    assert server.asked == [] and data_dir.stat().st_mtime_ns == before, "a read-only folder will do"


def umask():
    os.umask(mask := os.umask(0))
    return mask


@pytest.mark.parametrize(("how", "reason"), FAILURES.items())
def test_bad_server(how, reason, server, tmp_path, monkeypatch, capfd):
    """Alone it is an error that leaves nothing behind; before a good one it costs a line."""
    monkeypatch.setattr(fetch, "TIMEOUT", 0.3)
    message = refused(get, tmp_path, server.table(how, "missing"))
    wanted = f"{tmp_path}/set/plain.txt is missing and cannot be downloaded ({server.mirror(how)}plain.txt: "
    for word in (wanted, reason, f"{server.mirror('missing')}plain.txt: HTTP Error 404", "--data-dir", "make smoke"):
        assert word in message
    assert names(tmp_path) == set() and not (tmp_path / "set").exists() and socket.getdefaulttimeout() is None
    for name in [*CONTENT][1:]:  # so that a single time-out is waited for
        put(tmp_path / name, CONTENT[name])
    capfd.readouterr()
    get(tmp_path, server.table(how, "good"))
    check(tmp_path, server.table("good"))
    lines = [line for line in capfd.readouterr().err.splitlines() if "cannot download" in line]
    assert len(lines) == 1 and f"{server.mirror(how)}plain.txt: " in lines[0] and reason in lines[0]


def test_no_network(server, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/plain.txt"
        table = {name: file._replace(urls=[url]) for name, file in server.table("good").items()}
        message = refused(get, tmp_path, table)
    assert f"{url}: <urlopen error [Errno 111] Connection refused>" in message and f"get it from {url} and put it there" in message


def fetching(data_dir, table):
    """`fetch` in a process of its own, forked: it sees the patches."""

    def alone():
        torch.hub.tqdm.set_lock(threading.RLock())  # a kill would leave the one that forks share locked
        get(data_dir, table)

    process = multiprocessing.get_context("fork").Process(target=alone)
    process.start()
    return process


@pytest.mark.parametrize(("when", "whole"), {"download": 0, "unpacking": 2, "moving": 3}.items())
def test_killed_half_way(when, whole, server, tmp_path, monkeypatch):
    """It leaves whole files or none; the next one takes away what it was at."""
    table, left = server.table("good"), ".made up-part-*"
    with monkeypatch.context() as patch:
        if when == "download":
            table, reached = server.table("stalls"), lambda: list(tmp_path.glob(f"{left}/set/plain.txt.*"))
        elif when == "unpacking":
            unpack = torchvision.datasets.utils.extract_archive

            def half(path, to):
                if not path.name.startswith("both"):
                    return unpack(path, to)
                put(to / "set/both/one", "half")
                time.sleep(60)

            patch.setattr(torchvision.datasets.utils, "extract_archive", half)
            reached = lambda: list(tmp_path.glob(f"{left}/set/both/one"))
        else:
            replace = os.replace
            patch.setattr(os, "replace", lambda a, b: time.sleep(60) if b.name == "two" else replace(a, b))
            reached = lambda: (tmp_path / "set/both/one").exists()
        child = fetching(tmp_path, table)
        until(reached, seconds=20)
        child.kill()
        child.join()
    assert list(tmp_path.glob(left))
    there = [name for name in CONTENT if (tmp_path / name).exists()]
    assert len(there) == whole and all((tmp_path / name).read_bytes() == CONTENT[name] for name in there)
    get(tmp_path, server.table("good"))
    check(tmp_path, table)


@pytest.mark.parametrize("locks", [True, False])
def test_two_runs_at_once(locks, server, tmp_path, monkeypatch):
    """They download once; on a file system without locks perhaps twice, and both have all."""
    if not locks:
        monkeypatch.setattr("fcntl.flock", lambda *args: fail(errno.ENOLCK))
    table = server.table("slow")
    runs = [fetching(tmp_path, table) for _ in range(2)]
    for run in runs:
        run.join(20)
    assert [run.exitcode for run in runs] == [0, 0]
    assert not locks or server.asked == [("slow", name) for name in server.files]
    check(tmp_path, table)


def test_what_is_packed_is_used(server, tmp_path):
    """And no server is asked; what is damaged is not used, and not touched."""
    archives = {PACKED: server.files[PACKED], "set/raw/packed.gz": server.files["packed.gz"]}
    for name, body in {**archives, "set/plain.txt": CONTENT["set/plain.txt"]}.items():
        put(tmp_path / name, body)
    get(tmp_path, server.table("missing"))
    check(tmp_path, server.table("missing"), *archives)
    (tmp_path / "set/both/one").unlink()
    put(tmp_path / PACKED, server.files[PACKED][:-9])
    assert f"{tmp_path / PACKED} is not the official file" in refused(get, tmp_path, server.table("good"))
    assert (tmp_path / PACKED).read_bytes() == server.files[PACKED][:-9] and server.asked == []


def test_one_file_is_missing(server, tmp_path):
    """The others are left as they are."""
    table = server.table("good")
    get(tmp_path, table)
    (tmp_path / "set/both/two").unlink()
    before = {path: path.stat().st_ino for path in tmp_path.glob("set/**/*")}
    message = refused(found, tmp_path, NAME, table)
    where = f"{tmp_path}/set/both/two is missing or empty: get it from {server.mirror('good')}{PACKED} and put it there, or name"
    assert message == f"{NAME}: {where} another folder with --data-dir; `make smoke` runs without"
    get(tmp_path, table)
    check(tmp_path, table)
    assert {path: path.stat().st_ino for path in before} == before


def fail(code):
    raise OSError(code, os.strerror(code))


def test_cannot_write(server, tmp_path, monkeypatch):
    put(tmp_path / "file", "mine")
    message = refused(get, tmp_path / "file/data", server.table("good"))
    assert f"cannot write to {tmp_path / 'file/data'} (Not a directory)" in message and "--data-dir" in message
    for module, name in ((os, "replace"), (torchvision.datasets.utils, "extract_archive")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, lambda *args: fail(errno.ENOSPC))
            assert f"cannot write to {tmp_path} (No space left on device)" in refused(get, tmp_path, server.table("good"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *args, **options: fail(errno.ENOSPC))
    assert "No space left on device" in refused(get, tmp_path, server.table("good"))
    assert names(tmp_path) <= {"file", *CONTENT}


class Code:
    def __reduce__(self):
        return os.mkdir, ("executed",)


BAD = {
    "empty": (b"", "(0 bytes, sha256 e3b0c44298fc..., not "),
    "web page": (b"<html>quota exceeded</html>", "(27 bytes, sha256 "),
    "packed": (gzip.compress(b"text", mtime=0), "(24 bytes, sha256 "),
    "code": (pickle.dumps({"data": Code()}), "is not the official file ("),
}
READERS = {  # where a data set has its first file, what reads and what fetches it
    "MNIST/raw/train-images-idx3-ubyte": (mnist.load, mnist.fetch),
    "cifar-10-batches-py/data_batch_1": (cifar.load, cifar.fetch),
    "cifar-100-python/train": (lambda path: cifar.load(path, 100), lambda path: cifar.fetch(path, 100)),
    "multi30k/train.de.gz": (
        lambda path: translation.multi30k(path, "de", "en", "train"), lambda path: translation.fetch_multi30k(path, "de", "en"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("file", READERS)
@pytest.mark.parametrize(("content", "reason"), BAD.values(), ids=BAD)
def test_bad_file(content, reason, file, tmp_path, monkeypatch):
    """It is refused before it is read, let alone unpickled, and not downloaded over."""
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)
    monkeypatch.chdir(tmp_path)
    path = put(tmp_path / file, content)
    for function in READERS[file]:
        message = refused(function, tmp_path)
        assert f": {path} is not the official file (" in message and reason in message and "delete it and run again" in message
    assert names(tmp_path) == {file} and path.read_bytes() == content


@pytest.mark.parametrize("file", READERS)
def test_files_that_cannot_be_read(file, tmp_path):
    load, download = READERS[file]
    message = refused(load, tmp_path / "none")
    for word in (f"{tmp_path / 'none' / file} is missing or empty: get it from http", "--data-dir", "make smoke"):
        assert word in message
    (tmp_path / file).mkdir(parents=True)
    for function in (load, download):
        assert f"cannot read {tmp_path / file} (Is a directory)" in refused(function, tmp_path)
    (tmp_path / file).rmdir()
    with unprivileged(put(tmp_path / file, "text")):
        assert f"cannot read {tmp_path} (Permission denied)" in refused(load, tmp_path)


def test_a_file_that_nobody_has_a_checksum_of(tmp_path):
    table, source = {"a": None}, {"source": "x"}
    with pytest.raises(fetch.BadInput, match="a is missing or empty: get it from x and put it there"):
        found(tmp_path, NAME, table, **source)
    path = put(tmp_path / "a", "text")
    assert found(tmp_path, NAME, table, **source) == [path]
    put(path, "")
    with pytest.raises(fetch.BadInput, match="a is missing or empty: get it from x"):
        found(tmp_path, NAME, table, **source)
