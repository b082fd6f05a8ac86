"""Sentence pairs: downloaded from a real server that misbehaves, read from lines and shards, and bad ones refused in one line."""

import errno
import gzip
import hashlib
import json
import os
import re
import socket
import time
from contextlib import contextmanager
from functools import partial

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.data import files, parallel
from common.data.parallel import WMT14, WMT14_REVISION, fetch_multi30k, fetch_wmt14, multi30k, read_pair, wmt14
from common.errors import BadInput
from common.provenance import ROOT
from tests.test_mnist import FAILURES, Handler, refused, serving

SPLITS = ["train", "val", "test_2016_flickr", "test_2017_flickr", "test_2017_mscoco"]
NAMES = [f"{split}.{language}.gz" for split in SPLITS[:3] for language in ("de", "en")]  # what fetch fetches


@pytest.fixture
def server(monkeypatch):
    """Serves a small Multi30k that counts as the official one."""
    monkeypatch.setenv("no_proxy", "*")
    lines = {f"{split}.{x}": f"{split} 1 {x}\n{split} 2 {x}\n" for split in SPLITS for x in ("de", "en", "fr")}
    packed = {f"{name}.gz": gzip.compress(text.encode(), mtime=0) for name, text in lines.items()}
    digests = {k[:-3]: (hashlib.md5(v).hexdigest(), hashlib.sha256(v).hexdigest()) for k, v in packed.items()}
    monkeypatch.setattr(parallel, "MULTI30K", digests)
    with serving(Handler, packed) as made:
        made.says = lambda *how: monkeypatch.setattr(parallel, "MIRRORS", [made.mirror(x) for x in how])
        made.says("good")
        yield made


@pytest.fixture
def folder(server, tmp_path):
    """data_dir/multi30k with all files; data_dir is tmp_path."""
    made = tmp_path / "multi30k"
    made.mkdir()
    for name, content in server.files.items():
        (made / name).write_bytes(content)
    return made


@contextmanager
def unprivileged(path):
    """What stands there is closed to us, also where the tests are run by root."""
    mode, user = path.stat().st_mode, os.geteuid()
    path.chmod(0)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        path.chmod(mode)


def names(data_dir):
    """All that lies there but the lock, temporary folders among it."""
    return {path.name for path in data_dir.rglob("*")} - {".multi30k-lock"}


def put(path, content):
    """The path, after text or bytes have been written there, packed where it is called .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def pair(folder, one, two, **options):
    """Two files' pairs."""
    return read_pair(put(folder / "a.en", one), put(folder / "a.de", two), name="Mine", **options)


def full(*args, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_download(server, tmp_path):
    data_dir = tmp_path / "new/data"
    server.says("missing", "good")
    fetch_multi30k(data_dir, "de", "en")
    assert [name for how, name in server.asked if how == "good"] == NAMES
    assert names(tmp_path) == {"new", "data", "multi30k", *NAMES}, "and nothing beside it"
    assert {(data_dir / "multi30k" / name).stat().st_mode & 0o777 for name in NAMES} == {0o644}
    for split in SPLITS[:3]:
        data = multi30k(data_dir, "en", "de", split)
        assert data.source == [f"{split} 1 en", f"{split} 2 en"] and data.target == [f"{split} 1 de", f"{split} 2 de"]
        whole = b"".join(server.files[f"{split}.{x}.gz"] for x in ("en", "de"))
        assert data.sha256 == hashlib.sha256(whole).hexdigest() and (len(data), data.empty) == (2, 0)
    server.asked.clear()
    fetch_multi30k(data_dir, "de", "fr")
    assert [name for how, name in server.asked if how == "good"] == [f"{split}.fr.gz" for split in SPLITS[:3]]
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize(("how", "reason"), FAILURES.items())
def test_bad_server(how, reason, server, tmp_path, monkeypatch):
    """It is an error that leaves nothing behind, also when it fails after the first file."""
    monkeypatch.setattr(files, "TIMEOUT", 0.3)
    server.says(how)
    message = refused(fetch_multi30k, tmp_path, "de", "en")
    for word in (f"{tmp_path / 'multi30k' / NAMES[0]} is missing", server.mirror(how) + NAMES[0], reason, "--data-dir", "smoke"):
        assert word in message
    assert names(tmp_path) == set()
    server.says("good")
    last = server.files.pop(NAMES[-1])
    assert f"{NAMES[-1]} is missing" in refused(fetch_multi30k, tmp_path, "de", "en")
    assert names(tmp_path) == set() and socket.getdefaulttimeout() is None
    server.files[NAMES[-1]] = last
    fetch_multi30k(tmp_path, "de", "en")
    assert names(tmp_path) == {"multi30k", *NAMES}


def test_nothing_is_written_where_nothing_is_missing(server, folder, tmp_path):
    before = tmp_path.stat().st_mtime_ns, folder.stat().st_mtime_ns
    fetch_multi30k(tmp_path, "de", "en")
    assert (tmp_path.stat().st_mtime_ns, folder.stat().st_mtime_ns) == before
    assert names(tmp_path) == {"multi30k", *server.files} and server.asked == []
    (tmp_path / "file").write_text("mine")
    message = refused(fetch_multi30k, tmp_path / "file/data", "de", "en")
    assert f"cannot read {tmp_path / 'file/data/multi30k' / NAMES[0]}: Not a directory" in message


def test_another_run_fetched_them_meanwhile(server, tmp_path, monkeypatch):
    @contextmanager
    def late(data_dir, *args, **options):
        with files.fetching(data_dir, *args, **options) as folder:
            for name in NAMES:
                put(tmp_path / "multi30k" / name, "").write_bytes(server.files[name])
            yield folder

    monkeypatch.setattr(parallel, "fetching", late)
    fetch_multi30k(tmp_path, "de", "en")
    assert server.asked == [] and names(tmp_path) == {"multi30k", *NAMES}


def test_cannot_write(server, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", full)
    assert f"cannot write to {tmp_path / 'multi30k'} (No space left on device)" in refused(fetch_multi30k, tmp_path, "de", "en")
    assert names(tmp_path) <= {"multi30k"}


OTHER = gzip.compress(b"Hallo\n" * 50, mtime=0)
BAD = {
    "empty": (b"", "is empty"),
    "web page": (b"<html>quota exceeded</html>", "is not a gz file: it begins with b'<htm'"),
    "unpacked": (b"Ein Mann\n", "already unpacked?"),
    "truncated": (OTHER[:-9], f"is truncated: its {len(OTHER) - 9} bytes end before"),
    "damaged": (OTHER[:-8] + bytes(8), "is damaged (CRC check failed"),
    "other version": (OTHER, "is another version: a whole gz file, but its sha256 is"),
}


@pytest.mark.parametrize(("content", "reason"), BAD.values(), ids=BAD)
def test_bad_multi30k(content, reason, server, folder, tmp_path):
    """It is not downloaded over, whether or not others are missing."""
    (folder / NAMES[1]).write_bytes(content)
    (folder / NAMES[2]).unlink()
    message = refused(multi30k, tmp_path, "de", "en", "train")
    assert f"{folder / NAMES[1]} is " in message and reason in message and "delete it and run again" in message
    assert refused(fetch_multi30k, tmp_path, "en", "de") == message and server.asked == []
    assert (folder / NAMES[1]).read_bytes() == content


def test_no_multi30k(folder, tmp_path):
    assert f"no data directory {tmp_path / 'none'}" in refused(multi30k, tmp_path / "none", "de", "en", "val")
    (folder / "val.fr.gz").unlink()
    message = refused(multi30k, tmp_path, "en", "fr", "val")
    assert f"{folder / 'val.fr.gz'} is missing" in message and "get it from http" in message and "make smoke" in message
    (folder / "val.fr.gz").mkdir()
    assert f"cannot read {folder / 'val.fr.gz'}: Is a directory" in refused(multi30k, tmp_path, "en", "fr", "val")
    for wrong in (("de", "cs", "val"), ("de", "de", "val"), ("de", "en", "test")):
        assert "name two of the languages de, en, fr and a split of train, val, test_2016" in refused(multi30k, tmp_path, *wrong)
    with unprivileged(folder):
        assert re.search(r"cannot read .*/multi30k/val.de.gz: Permission denied$", refused(multi30k, tmp_path, "de", "en", "val"))


@pytest.mark.skipif(not (ROOT / "data/multi30k").exists(), reason="data/multi30k is not there")
def test_the_real_multi30k():
    for split, n in zip(SPLITS, (29_000, 1014, 1000, 1000, 461), strict=True):
        for source, target in (("de", "en"), ("en", "fr")):
            data = multi30k(ROOT / "data", source, target, split)
            assert (len(data), len(data.target), data.empty) == (n, n, 0)
    assert data.source[0] == "I cannot see where the green arrow is pointing."
    assert data.target[0] == "Je ne peux pas voir ce qu'indique la flèche verte."
    data = multi30k(ROOT / "data", "de", "en", "train")
    assert data.source[0] == "Zwei junge weiße Männer sind im Freien in der Nähe vieler Büsche."
    assert data.target[0] == "Two young, White males are outside near many bushes."
    assert sum("\t" in line for line in data.source) == 1
    assert data.sha256 == "230be64f6d0ae98d5520a3b547b9920568858a3f5a7dbdafb95775e50a7cdf15"


def test_lines(tmp_path):
    """A line ends at a newline alone; CRLF's other half goes; the last newline may be missing, or doubled in either file."""
    odd = "a\tb\x0b\u2028c\x85d\re"
    ends = {"\n": "\n", "\r\n": "", "\n\n": "\n", "\r\n\r\n": "\r\n\r\n", "": "\n\n"}
    for end, other in ends.items():
        one, two = f"{odd}\nü{end}", f"x\r\ny{other}"
        data = pair(tmp_path, one, two)
        assert (data.source, data.target, data.empty) == ([odd, "ü"], ["x", "y"], 0)
        assert data.sha256 == hashlib.sha256((one + two).encode()).hexdigest()
        packed = read_pair(put(tmp_path / "a.gz", one), tmp_path / "a.de", name="Mine", training=True)
        assert (packed.source, packed.target, packed.empty) == (data.source, data.target, 0)
    (tmp_path / "a.en").write_bytes((tmp_path / "a.gz").read_bytes())
    assert read_pair(tmp_path / "a.en", tmp_path / "a.de", name="Mine").source == [odd, "ü"], "packed, whatever it is called"


def test_empty_sides(tmp_path):
    """Left out and counted in training, the last line's too; refused elsewhere, with the line."""
    data = pair(tmp_path, "a\n\nb\n \u2003\nc\n", "x\ny\n\t\n\nz\n", training=True)
    assert (data.source, data.target, data.empty) == (["a", "c"], ["x", "z"], 3)
    data = pair(tmp_path, "a\nb\n", "x\n\n", training=True)
    assert (data.source, data.target, data.empty) == (["a"], ["x"], 1)
    with pytest.raises(BadInput, match=r"no pair in .*a\.en and .*a\.de: a side of each line is empty"):
        pair(tmp_path, "a\n\n", "\nb\n", training=True)


@pytest.mark.parametrize(
    ("one", "two", "reason"),
    [
        ("a\nb\nc\n", "x\n", "{0}/a.en and {0}/a.de have 3 and 1 lines"),
        ("a\n", "x\ny\n\nz", "{0}/a.en and {0}/a.de have 1 and 4 lines"),
        ("a\n\n\n", "x\n", "{0}/a.en and {0}/a.de have 3 and 1 lines"),
        ("a\n \nb", "x\ny\nz", "{0}/a.en: line 2 is empty"),
        ("a\nb\nc", "x\ny\n\n", "{0}/a.de: line 3 is empty"),
        ("\na\n", "\nx\n", "{0}/a.en: line 1 is empty"),
        (b"a\n\xfc\n", "x\ny\n", "{0}/a.en: line 2 is not UTF-8 (byte 1: invalid start byte)"),
        ("a\nb\n", b"x\nab\xe4", "{0}/a.de: line 2 is not UTF-8 (byte 3: unexpected end of data)"),
        ("a\n".encode("utf-16"), "x\n", "{0}/a.en: line 1 is not UTF-8"),
        ("", "x\n", "{0}/a.en is empty"),
        ("x\n", "", "{0}/a.de is empty"),
        ("\n", "\n", "no pair in {0}/a.en and {0}/a.de"),
        (OTHER[:-9], "x\n" * 50, "{0}/a.en is a truncated or damaged gz file (Compressed file ended"),
        (OTHER[:-8] + bytes(8), "x\n" * 50, "{0}/a.en is a truncated or damaged gz file (CRC check failed"),
        (OTHER[:10] + b"\xff" * 9, "x\n", "{0}/a.en is a truncated or damaged gz file (Error -3 while decompressing"),
        (gzip.compress(b"", mtime=0), "x\n", "{0}/a.en is empty"),
    ],
)
def test_bad_lines(one, two, reason, tmp_path):
    assert reason.format(tmp_path) in refused(pair, tmp_path, one, two)


def test_unreadable(tmp_path):
    one, two = put(tmp_path / "a.en", "a\n"), tmp_path / "a.de"
    read = lambda: read_pair(one, two, name="Mine")
    assert f"Mine: cannot read {two}: No such file or directory" in refused(read)
    two.mkdir()
    assert f"Mine: cannot read {two}: Is a directory" in refused(read)
    with unprivileged(one):
        assert f"Mine: cannot read {one}: Permission denied" in refused(read)
    put(tmp_path / "b.gz", "").write_bytes(b"<html>")
    assert "b.gz is a truncated or damaged gz file (Not a gzipped file" in refused(
        lambda: read_pair(tmp_path / "b.gz", one, name="Mine")
    )


def shard(path, rows, columns=("de", "en"), kind=None):
    """Hugging Face's layout; a row is a pair, or None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = kind or pa.struct([(name, pa.string()) for name in columns])
    rows = [row and dict(zip(columns, row, strict=True)) for row in rows]
    pq.write_table(pa.table({"translation": pa.array(rows, kind), "more": range(len(rows))}), path, row_group_size=2)
    return path


@pytest.mark.parametrize("place", ["wmt14", "."])
def test_shards(place, tmp_path):
    folder = tmp_path / place / "de-en"
    rows = [("eins\t\u2028", "one"), ("zwei", "two"), (None, "x"), ("drei", " "), None, ("vier", "four")]
    paths = [shard(folder / f"train-0000{i}-of-00002.parquet", part) for i, part in enumerate((rows[:3], rows[3:]))]
    shard(folder / "validation-00000-of-00001.parquet", [("fünf", "five")])
    shard(folder / "test-00000-of-00001.parquet", [("sechs", "six"), ("sieben", "")])
    data = wmt14(tmp_path, "en", "de", "train")
    assert (data.source, data.target, data.empty) == (["one", "two", "four"], ["eins\t\u2028", "zwei", "vier"], 3)
    assert data.sha256 == hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
    assert wmt14(tmp_path, "de", "en", "train").source == data.target
    assert wmt14(tmp_path, "en", "de", "newstest2013").target == ["fünf"]
    assert f"{folder}/test-00000-of-00001.parquet: row 2 has an empty" in refused(wmt14, tmp_path, "en", "de", "newstest2014")


def test_bad_shards(tmp_path):
    folder = tmp_path / "wmt14/fr-en"
    first = shard(folder / "train-00000-of-00003.parquet", [("un", "one")], ("fr", "en"))
    shard(folder / "train-00002-of-00003.parquet", [("un", "one")], ("fr", "en"))
    read = lambda: wmt14(tmp_path, "en", "fr", "train")
    assert f"{folder} holds 2 of 3 train shards (no train-00001-of-00003.parquet): run the same `hf download`" in refused(read)
    middle = shard(folder / "train-00001-of-00003.parquet", [("un", "one")], ("fr", "en"))
    assert len(read()) == 3
    shard(folder / "train-00000-of-00004.parquet", [("un", "one")], ("fr", "en"))
    assert "of 3 train shards (but train-00000-of-00004.parquet)" in refused(read)
    (folder / "train-00000-of-00004.parquet").unlink()
    middle.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    assert f"{middle} is damaged (Parquet magic bytes not found" in refused(read)
    middle.write_bytes(first.read_bytes()[:-20])
    assert f"{middle} is damaged (" in refused(read)
    shard(middle, [("eins", "one")])
    assert f"{middle} has columns translation.de, translation.en, more, not the texts translation.en and" in refused(read)
    shard(middle, [(1, "one")], kind=pa.struct([("fr", pa.int64()), ("en", pa.string())]), columns=("fr", "en"))
    assert f"{middle} has columns translation.fr, " in refused(read)
    texts = [pa.array([b"\xff"]).view(pa.string()), pa.array(["one"])]
    pq.write_table(pa.table({"translation": pa.StructArray.from_arrays(texts, ["fr", "en"])}), middle)
    assert f"{middle} is damaged ('utf-8' codec can't decode" in refused(read)
    middle.unlink()
    middle.mkdir()
    assert f"cannot read {middle}: Is a directory" in refused(read)
    for path in (first, middle.with_name("train-00002-of-00003.parquet")):
        path.unlink()
    middle.rmdir()
    shard(folder / "train-mine.parquet", [("", "one")], ("fr", "en"))
    assert f"no pair in train-mine.parquet of {folder}" in refused(read)


def test_plain_wmt14(tmp_path):
    """wmt14 before data_dir, lines before shards; of two files of one name the one beside its partner."""
    put(tmp_path / "train.en", "far\n")
    put(tmp_path / "train.de", "weit\n")
    assert wmt14(tmp_path, "en", "de", "train").source == ["far"]
    shard(tmp_path / "wmt14/de-en/train-00000-of-00001.parquet", [("Stück", "shard")])
    assert wmt14(tmp_path, "en", "de", "train").source == ["shard"]
    put(tmp_path / "wmt14/train.en.gz", "one\n\n")
    put(tmp_path / "wmt14/train.fr", "un\n")
    assert wmt14(tmp_path, "en", "de", "train").source == ["shard"]
    assert wmt14(tmp_path, "en", "fr", "train").source == ["one"]
    put(tmp_path / "wmt14/train.de", "eins\n\n")
    assert wmt14(tmp_path, "en", "de", "train").target == ["eins"]
    for language in ("en", "fr"):
        put(tmp_path / f"wmt14/fr-en/newstest2014.{language}", f"a {language}\n \n")
    assert "newstest2014.en: line 2 is empty" in refused(wmt14, tmp_path, "en", "fr", "newstest2014")


def test_no_wmt14(tmp_path):
    message = refused(wmt14, tmp_path / "none", "en", "fr", "newstest2013")
    for word in (
        "newstest2013.en and newstest2013.fr",
        "fr-en/validation-*.parquet",
        f"in {tmp_path}/none/wmt14 and {tmp_path}/none)",
    ):
        assert word in message
    command = f'--repo-type dataset --revision {WMT14_REVISION} --include "fr-en/*" --local-dir {tmp_path}/none/wmt14`'
    assert f"`hf download wmt/wmt14 {command}" in message and "multi30k" in message and "copy" in message and "smoke" in message
    shard(tmp_path / "train-00000-of-00001.parquet", [("eins", "one")])  # another data set's
    put(tmp_path / "wmt14/train.de", "eins\n")
    message = refused(wmt14, tmp_path, "en", "de", "train")
    assert f"; {tmp_path}/wmt14/train.de is there without the other language)" in message
    for wrong in (("de", "fr", "train"), ("en", "en", "train"), ("en", "cs", "train"), ("en", "de", "test")):
        assert "name en and one of de, fr, and a split of train, newstest2013, newstest2014" in refused(wmt14, tmp_path, *wrong)
    with unprivileged(tmp_path / "wmt14"):
        assert f"cannot read {tmp_path}/wmt14: Permission denied" in refused(wmt14, tmp_path, "en", "de", "train")


class Hub(Handler):
    """The hub's pages that a download asks for: about the data set, its files, and each file."""

    def do_GET(self):
        page = self.path.split("?")[0].removeprefix("/api").removeprefix("/datasets/wmt/wmt14/")
        self.server.asked.append(page)
        kind, revision, *name = page.split("/", 2)
        body = self.server.files.get(*name) if name else b""
        if self.server.how == "silent":
            return self.server.ending.wait(10)
        if kind == "revision":
            body = json.dumps({"id": "wmt/wmt14", "sha": revision}).encode()
        elif kind == "tree":
            rows = [{"type": "file", "path": name, "size": len(x), "oid": "0"} for name, x in self.server.files.items()]
            body = json.dumps(rows).encode()
        if self.server.how in (404, 401) or body is None or revision != WMT14_REVISION or name == [self.server.how]:
            return self.send_error(401 if self.server.how == 401 else 404)
        self.send_response(200)
        tag = hashlib.sha256(body).hexdigest()
        for header in (("Content-Length", len(body)), ("ETag", f'"{tag}"'), ("X-Repo-Commit", revision)):
            self.send_header(*map(str, header))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET


@pytest.fixture
def hub(monkeypatch, tmp_path_factory):
    """Serves two shards to a split of both pairs."""
    monkeypatch.setenv("no_proxy", "*")
    names = [f"{pair}/{x}-0000{i}-of-00002.parquet" for pair in ("de-en", "fr-en") for x in WMT14.values() for i in (0, 1)]
    made, file = {}, tmp_path_factory.mktemp("hub") / "shard"
    for name in names:
        made[name] = shard(file, [(f"{name} 1", "one"), (f"{name} 2", "two")], (name[:2], "en")).read_bytes()
    with serving(Hub, made) as server:
        server.how, api = "good", huggingface_hub.HfApi
        server.at = lambda url: monkeypatch.setattr(huggingface_hub, "HfApi", partial(api, endpoint=url))
        server.at(server.mirror("")[:-2])
        yield server


def shards_in(data_dir):
    return sorted(str(path.relative_to(data_dir / "wmt14")) for path in data_dir.glob("wmt14/*-en/*"))


def test_fetch_wmt14(hub, tmp_path):
    """All splits of one pair; what is whole is not asked for again; whole sets of other forms are left alone."""
    data_dir, of_pair = tmp_path / "new/data", [name for name in hub.files if name.startswith("de-en")]
    fetch_wmt14(data_dir, "en", "de")
    assert shards_in(data_dir) == sorted(of_pair)
    for split, name in WMT14.items():
        data = wmt14(data_dir, "de", "en", split)
        assert data.source == [f"de-en/{name}-0000{i}-of-00002.parquet {n}" for i in (0, 1) for n in (1, 2)]
    hub.asked.clear()
    before = [(path, path.stat().st_mtime_ns) for path in sorted(tmp_path.rglob("*"))]
    fetch_wmt14(data_dir, "de", "en")
    assert hub.asked == [] and before == [(path, path.stat().st_mtime_ns) for path in sorted(tmp_path.rglob("*"))]
    for lost in ("de-en/train-00001-of-00002.parquet", "de-en/test-00000-of-00002.parquet"):
        (data_dir / "wmt14" / lost).unlink()
        hub.asked.clear()
        fetch_wmt14(data_dir, "de", "en")
        assert {name for name in hub.asked if "/de-en/" in name} == {f"resolve/{WMT14_REVISION}/{lost}"}
        assert shards_in(data_dir) == sorted(of_pair)


@pytest.mark.parametrize(
    "names", [["wmt14/train.en", "wmt14/train.de.gz"], ["train.de", "train.en"], ["de-en/train-0-of-2.parquet"]]
)
def test_wmt14_that_is_there_is_not_fetched(names, hub, tmp_path):
    for name in names:
        put(tmp_path / name, "mine\n")
    before = sorted(tmp_path.rglob("*"))
    fetch_wmt14(tmp_path, "en", "de")
    assert hub.asked == [] and sorted(tmp_path.rglob("*")) == before


def test_another_run_fetched_wmt14_meanwhile(hub, tmp_path, monkeypatch):
    fetching = files.fetching

    @contextmanager
    def late(data_dir, *args, **options):
        with fetching(data_dir, *args, **options) as folder:
            for name, content in hub.files.items():
                put(data_dir / "wmt14" / name, content)
            yield folder

    monkeypatch.setattr(files, "fetching", late)
    fetch_wmt14(tmp_path, "de", "en")
    assert hub.asked == []


@pytest.mark.parametrize("how", [404, 401, "silent", "nobody", "offline", "other files", "one missing", "full"])
def test_wmt14_cannot_be_fetched(how, hub, tmp_path, monkeypatch):
    """In one line, soon; what was there stays."""
    monkeypatch.setattr(files, "TIMEOUT", 1.2)
    put(tmp_path / "wmt14/de-en/train-00000-of-00002.parquet", hub.files["de-en/train-00000-of-00002.parquet"])
    hub.how, reason = how, {404: "HTTP Error 404", 401: "HTTP Error 401", "silent": "timed out"}.get(how, how)
    if how == "nobody":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            hub.at(f"http://127.0.0.1:{free.getsockname()[1]}")
        reason = "Connection refused"
    elif how == "offline":
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        reason = "offline mode is enabled"
    elif how == "other files":
        hub.files = {"README.md": b""}
        reason = "not all de-en/* are there after it"
    elif how == "one missing":
        hub.how, reason = "de-en/test-00001-of-00002.parquet", "HTTP Error 404"
    elif how == "full":
        monkeypatch.setattr(huggingface_hub.file_download, "http_get", full)
    start = time.monotonic()
    message = refused(fetch_wmt14, tmp_path, "de", "en")
    assert time.monotonic() - start < 5
    if how == "full":
        assert f"WMT14: cannot write to {tmp_path}/wmt14 (No space left on device)" in message
    else:
        command = f'`hf download wmt/wmt14 --repo-type dataset --revision {WMT14_REVISION} --include "de-en/*" --local-dir'
        put_there = "or put <split>.de and <split>.en of train, newstest2013, newstest2014 there"
        for word in ("/datasets/wmt/wmt14 cannot", reason, f"{command} {tmp_path}/wmt14`", put_there, "--data-dir", "smoke"):
            assert word in message
    assert "de-en/train-00000-of-00002.parquet" in shards_in(tmp_path) and not list(tmp_path.glob("*fetch*"))


def test_no_such_pair_is_not_fetched(hub, tmp_path):
    assert "name en and one of de, fr" in refused(fetch_wmt14, tmp_path / "new", "de", "fr")
    assert hub.asked == [] and list(tmp_path.iterdir()) == []
