"""Data sets of the hub, downloaded from a server like it that misbehaves."""

import multiprocessing
import os
import socket
import time
from functools import partial

import huggingface_hub
import pytest

from common.data import fetch
from common.data.hub import Hub
from tests.serving import HubHandler, put, refused, serving
from tests.start import until

REVISION = "b199e406369ec1b7634206d3ded5ba45de2fe696"
FILES = {f"part/{split}-0000{i}-of-0000{n}.parquet": b"%d" % i * 999 for split, n in (("train", 3), ("test", 1)) for i in range(n)}
FIRST = next(iter(FILES))
OTHERS = {"README.md": b"#", "other/train-00000-of-00001.parquet": b"no"}


@pytest.fixture
def server(monkeypatch):
    """Serves FILES; `how` it does."""
    monkeypatch.setenv("no_proxy", "*")
    with serving(HubHandler, FILES | OTHERS) as made:
        made.how, api = "good", huggingface_hub.HfApi
        made.at = lambda url: monkeypatch.setattr(huggingface_hub, "HfApi", partial(api, endpoint=url))
        made.at(made.mirror("")[:-2])
        yield made


def made_up(data_dir):
    return Hub("Made Up", "some/name", REVISION, "part/*", data_dir / "set", "files of ours")


def places(data_dir):
    return [[data_dir / "own" / f"{split}.txt", data_dir / "set/part" / f"{split}-*.parquet"] for split in ("train", "test")]


def get(data_dir):
    made_up(data_dir).fetch(data_dir, places(data_dir))


def check(data_dir):
    assert {path.relative_to(data_dir / "set").as_posix(): path.read_bytes() for path in data_dir.glob("set/[!.]*/*")} == FILES
    assert not list(data_dir.glob(".*-part-*")) and socket.getdefaulttimeout() is None


def test_download(server, tmp_path):
    """All that matches, of the revision; then nothing is asked or written; of what is lost nothing but that is asked."""
    data_dir = tmp_path / "new/data"
    get(data_dir)
    check(data_dir)
    assert all(REVISION in page for page in server.asked) and not any("other/" in page for page in server.asked)
    server.asked.clear()
    before = [(path, path.stat().st_mtime_ns) for path in sorted(data_dir.rglob("*"))]
    get(data_dir)
    assert server.asked == [] and before == [(path, path.stat().st_mtime_ns) for path in sorted(data_dir.rglob("*"))]
    (data_dir / "set" / [*FILES][1]).unlink()
    get(data_dir)
    check(data_dir)
    assert {page for page in server.asked if "/part/" in page} == {f"some/name/resolve/{REVISION}/{[*FILES][1]}"}


def test_official_files_are_used(server, tmp_path):
    hub, (train, test) = made_up(tmp_path), places(tmp_path)
    own = [put(tmp_path / "own" / f"{split}.txt", "mine") for split in ("train", "test")]
    get(tmp_path)
    assert server.asked == [] and [hub.files(train), hub.files(test)] == [own[:1], own[1:]]
    own[0].unlink()
    get(tmp_path)
    check(tmp_path)
    assert [path.name[:7] for path in hub.files(train)] == ["train-0"] * 3 and hub.files(test) == own[1:]


def test_too_few_shards(tmp_path):
    hub, (train, test) = made_up(tmp_path), places(tmp_path)
    put(tmp_path / "set" / FIRST, b"0")
    command = f'`hf download some/name --repo-type dataset --revision {REVISION} --include "part/*" --local-dir {tmp_path}/set`'
    wanted = ((train, "train-*.parquet: 1 of 3 shards: get it"), (test, f"no {tmp_path}/own/test.txt, no {tmp_path}/set/part/"))
    for split, reason in wanted:
        message = refused(hub.files, split)
        for word in (reason, command, "or files of ours, and put it there", "--data-dir", "make smoke"):
            assert word in message, message
    (tmp_path / "set" / FIRST).rename(tmp_path / "set/part/train-mine.parquet")
    assert [path.name for path in hub.files(train)] == ["train-mine.parquet"], "whose names say no number are taken as they are"


@pytest.mark.parametrize("how", [404, 401, "silent", "nobody", "offline", "other files", "one missing", "full"])
def test_bad_server(how, server, tmp_path, monkeypatch):
    """In one line, soon; what was there stays."""
    monkeypatch.setattr(fetch, "TIMEOUT", 1.2)
    monkeypatch.setattr("common.data.hub.TIMEOUT", 1.2)
    put(tmp_path / "set" / FIRST, FILES[FIRST])
    server.how, reason = how, {404: "404", 401: "401", "silent": "timed out", "offline": "offline mode is enabled"}.get(how)
    if how == "nobody":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            server.at(f"http://127.0.0.1:{free.getsockname()[1]}")
        reason = "Connection refused"
    elif how == "offline":
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    elif how == "other files":
        server.files, reason = OTHERS, "1 of 3 shards"
    elif how == "one missing":
        server.how, reason = [*FILES][2], "404"
    elif how == "full":
        monkeypatch.setattr(huggingface_hub.file_download, "http_get", full)
        reason = "No space left on device"
    start = time.monotonic()
    message = refused(get, tmp_path)
    assert time.monotonic() - start < 5
    for word in ("Made Up: ", reason, "`hf download some/name", "--data-dir", "make smoke"):
        assert word in message, message
    assert (tmp_path / "set" / FIRST).read_bytes() == FILES[FIRST]
    assert not list(tmp_path.glob(".*part-*")) and socket.getdefaulttimeout() is None


def full(*args, **options):
    raise OSError(28, os.strerror(28))


def test_cannot_write(server, tmp_path):
    put(tmp_path / "file", "mine")
    assert f"cannot write to {tmp_path}/file/data (Not a directory)" in refused(get, tmp_path / "file/data")


def test_killed_half_way_and_two_at_once(server, tmp_path, monkeypatch):
    """What is there after a kill is whole, and does not count as all; of two runs one downloads."""
    fork = multiprocessing.get_context("fork").Process
    get_file = huggingface_hub.file_download.http_get

    def slow(url, *args, **options):
        if "train-00002" in url:
            time.sleep(60)
        return get_file(url, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub.file_download, "http_get", slow)
        child = fork(target=get, args=(tmp_path,))
        child.start()
        until(lambda: len(list(tmp_path.glob("set/part/*.parquet"))) == len(FILES) - 1, seconds=20)
        child.kill()
        child.join()
    assert all(path.read_bytes() == FILES[f"part/{path.name}"] for path in tmp_path.glob("set/part/*.parquet"))
    assert "2 of 3 shards" in refused(made_up(tmp_path).files, places(tmp_path)[0])
    server.asked.clear()
    runs = [fork(target=get, args=(tmp_path,)) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(20)
    assert [run.exitcode for run in runs] == [0, 0]
    check(tmp_path)
    asked = [page for page in server.asked if page.endswith(f"resolve/{REVISION}/{[*FILES][2]}")]
    assert len(asked) <= 2, "about the file, and for it"
