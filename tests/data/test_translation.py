"""Sentence pairs, read from lines and shards, and bad ones refused in one line. test_fetch.py and test_hub.py have downloads."""

import gzip
import hashlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.data import translation
from common.data.translation import fetch_multi30k, fetch_wmt14, multi30k, read_pair, wmt14
from common.errors import BadInput
from common.provenance import ROOT
from tests.serving import Handler, put, refused, serving, unprivileged

SPLITS = ["train", "val", "test_2016_flickr"]
PACKED = gzip.compress(b"Hallo\n" * 50, mtime=0)


def pair(folder, one, two, **options):
    """Two files' pairs."""
    return read_pair(put(folder / "a.en", one), put(folder / "a.de", two), name="Mine", **options)


def test_multi30k(tmp_path, monkeypatch):
    """Three splits of the languages that are asked are downloaded; a training split's empty sides are left out."""
    monkeypatch.setenv("no_proxy", "*")
    lines = {name: f"{name} 1\n{'' if name == 'train.en' else f'{name} 2'}\n{name} 3\n" for name in translation.OFFICIAL}
    packed = {f"{name}.gz": gzip.compress(text.encode(), mtime=0) for name, text in lines.items()}
    with serving(Handler, packed) as server:
        for name, file in translation.MULTI30K.items():
            body = packed[name.removeprefix("multi30k/")]
            urls = [url.replace(translation.MIRROR, server.mirror("good")) for url in file.urls]
            monkeypatch.setitem(translation.MULTI30K, name, file._replace(sha256=hashlib.sha256(body).hexdigest(), urls=urls))
        fetch_multi30k(tmp_path, "de", "en")
        names = [f"{split}.{language}.gz" for split in SPLITS for language in ("de", "en")]
        assert [name for _, name in server.asked] == names
        assert {path.name for path in (tmp_path / "multi30k").iterdir()} == {*names}
    for wrong in ("cs", "en"):
        assert "name two of the languages de, en, fr" in refused(multi30k, tmp_path, "en", wrong, "val")
    for split in SPLITS:
        data, some = multi30k(tmp_path, "en", "de", split), "13" if split == "train" else "123"
        assert data.source == [f"{split}.en {i}" for i in some] and data.target == [f"{split}.de {i}" for i in some]
        whole = b"".join(packed[f"{split}.{x}.gz"] for x in ("en", "de"))
        assert data.sha256 == hashlib.sha256(whole).hexdigest() and (len(data), data.empty) == (len(some), 3 - len(some))


@pytest.mark.skipif(not (ROOT / "data/multi30k").exists(), reason="data/multi30k is not there")
def test_the_real_multi30k():
    for split, n in zip(SPLITS, (29_000, 1014, 1000), strict=True):
        for source, target in (("de", "en"), ("en", "fr")):
            data = multi30k(ROOT / "data", source, target, split)
            assert (len(data), len(data.target), data.empty) == (n, n, 0)
    assert data.source[0] == "A man in an orange hat starring at something."
    assert data.target[0] == "Un homme avec un chapeau orange regardant quelque chose."
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
        packed = read_pair(put(tmp_path / "a.gz", gzip.compress(one.encode())), tmp_path / "a.de", name="Mine", training=True)
        assert (packed.source, packed.target, packed.empty) == (data.source, data.target, 0)
    (tmp_path / "a.en").write_bytes((tmp_path / "a.gz").read_bytes())
    assert read_pair(tmp_path / "a.en", tmp_path / "a.de", name="Mine").source == [odd, "ü"], "packed, whatever it is called"


def test_empty_sides(tmp_path):
    """Left out and counted in training, the last line's too; refused elsewhere, with the line."""
    data = pair(tmp_path, "a\n\nb\n \u2003\nc\n", "x\ny\n\t\n\nz\n", training=True)
    assert (data.source, data.target, data.empty) == (["a", "c"], ["x", "z"], 3)
    data = pair(tmp_path, "a\nb\n", "x\n\n", training=True)
    assert (data.source, data.target, data.empty) == (["a"], ["x"], 1)
    with pytest.raises(BadInput, match=r"there is no pair"):
        pair(tmp_path, "a\n\n", "\nb\n", training=True)


@pytest.mark.parametrize(
    ("one", "two", "reason"),
    [
        ("a\nb\nc\n", "x\n", "{0}/a.de (it has 1 lines, the other 3): it must be {0}/a.en translated line by line"),
        ("a\n", "x\ny\n\nz", "{0}/a.de (it has 4 lines, the other 1)"),
        ("a\n\n\n", "x\n", "{0}/a.de (it has 1 lines, the other 2)"),
        ("a\n \nb", "x\ny\nz", "(a side of pair 2 is empty)"),
        ("a\nb\nc", "x\ny\n\n", "(a side of pair 3 is empty)"),
        ("\na\n", "\nx\n", "(a side of pair 1 is empty)"),
        (b"a\n\xfc\n", "x\ny\n", "{0}/a.en (line 2 is not UTF-8, byte 1: invalid start byte)"),
        ("a\nb\n", b"x\nab\xe4", "{0}/a.de (line 2 is not UTF-8, byte 3: unexpected end of data)"),
        ("a\n".encode("utf-16"), "x\n", "{0}/a.en (line 1 is not UTF-8"),
        ("", "x\n", "{0}/a.en (it is empty)"),
        ("x\n", "", "{0}/a.de (it is empty)"),
        ("\n", "\n", "(there is no pair)"),
        (PACKED[:-9], "x\n" * 50, "{0}/a.en (Compressed file ended"),
        (PACKED[:-8] + bytes(8), "x\n" * 50, "{0}/a.en (CRC check failed"),
        (PACKED[:10] + b"\xff" * 9, "x\n", "{0}/a.en (Error -3 while decompressing"),
        (gzip.compress(b"", mtime=0), "x\n", "{0}/a.en (it is empty)"),
    ],
)
def test_bad_lines(one, two, reason, tmp_path):
    assert reason.format(tmp_path) in refused(pair, tmp_path, one, two)


def test_unreadable(tmp_path):
    one, two = put(tmp_path / "a.en", "a\n"), tmp_path / "a.de"
    read = lambda: read_pair(one, two, name="Mine")
    assert f"Mine: cannot read {two} (No such file or directory)" in refused(read)
    two.mkdir()
    assert f"Mine: cannot read {two} (Is a directory)" in refused(read)
    with unprivileged(one):
        assert f"Mine: cannot read {one} (Permission denied)" in refused(read)
    put(tmp_path / "b.gz", b"<html>")
    assert "b.gz (Not a gzipped file" in refused(lambda: read_pair(tmp_path / "b.gz", one, name="Mine"))


def shard(path, rows, columns=("de", "en"), kind=None):
    """The hub's layout; a row is a pair, or None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = kind or pa.struct([(name, pa.string()) for name in columns])
    rows = [row and dict(zip(columns, row, strict=True)) for row in rows]
    pq.write_table(pa.table({"translation": pa.array(rows, kind), "more": range(len(rows))}), path, row_group_size=2)
    return path


def test_shards(tmp_path):
    folder = tmp_path / "wmt14/de-en"
    rows = [("eins\t\u2028", "one"), ("zwei", "two"), (None, "x"), ("drei", " "), None, ("vier", "four")]
    paths = [shard(folder / f"train-0000{i}-of-00002.parquet", part) for i, part in enumerate((rows[:3], rows[3:]))]
    shard(folder / "validation-00000-of-00001.parquet", [("fünf", "five")])
    shard(folder / "test-00000-of-00001.parquet", [("sechs", "six"), ("sieben", "")])
    data = wmt14(tmp_path, "en", "de", "train")
    assert (data.source, data.target, data.empty) == (["one", "two", "four"], ["eins\t\u2028", "zwei", "vier"], 3)
    assert data.sha256 == hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
    assert wmt14(tmp_path, "de", "en", "train").source == data.target
    assert wmt14(tmp_path, "en", "de", "newstest2013").target == ["fünf"]
    message = refused(wmt14, tmp_path, "en", "de", "newstest2014")
    assert f"{folder}/test-*.parquet (a side of pair 2 is empty)" in message
    fetch_wmt14(tmp_path, "en", "de")  # which there is no hub for
    assert "no pairs of de and fr: name en and one of de, fr" in refused(fetch_wmt14, tmp_path, "de", "fr")


def test_bad_shards(tmp_path):
    path, read = tmp_path / "wmt14/fr-en/train-00000-of-00001.parquet", lambda: wmt14(tmp_path, "en", "fr", "train")
    message = refused(read)
    for word in (f"no {path.parent}/train-*.parquet", "hf download wmt/wmt14", "train.en and train.fr, plain or .gz", "make smoke"):
        assert word in message
    whole = shard(path, [("un", "one")], ("fr", "en")).read_bytes()
    assert read().source == ["one"]
    texts = [pa.array([b"\xff"]).view(pa.string()), pa.array(["one"])]
    not_utf8 = lambda: pq.write_table(pa.table({"translation": pa.StructArray.from_arrays(texts, ["fr", "en"])}), path)
    for write, reason in (
        (lambda: put(path, b"version https://git-lfs.github.com/spec/v1"), "Parquet magic bytes not found"),
        (lambda: put(path, whole[:-20]), "Parquet magic bytes not found"),
        (lambda: shard(path, [("eins", "one")]), "translation.fr"),
        (lambda: shard(path, [(1, "one")], ("fr", "en"), pa.struct([("fr", pa.int64()), ("en", pa.string())])), "no pair"),
        (lambda: shard(path, [("", "one")], ("fr", "en")), "there is no pair"),
        (not_utf8, "'utf-8' codec can't decode"),
    ):
        write()
        message = refused(read)
        assert f"WMT14: cannot read {path.parent}/train-*.parquet (" in message and reason in message
    path.unlink()
    path.mkdir()
    assert f"WMT14: cannot read {path} (Is a directory)" in refused(read)


def test_plain_wmt14(tmp_path):
    """Lines before shards, split by split; what is there is not fetched."""
    for split in translation.WMT14.values():
        shard(tmp_path / f"wmt14/de-en/{split}-00000-of-00001.parquet", [("Stück", "shard")])
    put(tmp_path / "wmt14/train.en.gz", gzip.compress(b"one\n\n"))
    put(tmp_path / "wmt14/train.fr", "un\n")
    assert wmt14(tmp_path, "en", "de", "train").source == ["shard"]
    assert wmt14(tmp_path, "en", "fr", "train").source == ["one"]
    put(tmp_path / "wmt14/train.de", "eins\n\n")
    assert wmt14(tmp_path, "en", "de", "train").target == ["eins"]
    fetch_wmt14(tmp_path, "en", "de")
    for language in ("en", "de"):
        put(tmp_path / f"wmt14/newstest2014.{language}", f"a {language}\n \n")
    assert "a side of pair 2 is empty" in refused(wmt14, tmp_path, "en", "de", "newstest2014")
