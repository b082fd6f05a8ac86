"""SNLI, RACE and Story Cloze: the same examples from both layouts, and bad ones refused in one line."""

import csv
import hashlib
import json

import numpy as np
import pyarrow as pa
import pytest

from papers.gpt.tasks import STORIES, fetch_race, fetch_snli, race, snli, story_cloze
from tests.data.test_glue import shard
from tests.serving import put, refused

PAIRS = [("contradiction", 'A "man"\t.', "ü\u2028"), ("-", "x", "y"), ("entailment", "c", "d"), ("neutral", "e", " f")]
NUMBERS = {"entailment": 0, "neutral": 1, "contradiction": 2, "-": -1}
ARTICLES = {  # file -> article, (question, answers, which)
    "9.txt": ("Nine\nlines", [("How _ ?", ["a", "b", "c", "d"], "D"), ("Why?", ["e", "f", "", "h"], "A")]),
    "10.txt": ("Ten", [("", ["i", "j", "k", "l"], "C")]),
}
EXAMPLES = [(article, question, *options) for article, asked in ARTICLES.values() for question, options, _ in asked]
LETTERS = [letter for _, asked in ARTICLES.values() for _, _, letter in asked]


def jsonl(rows, **changes):
    keys = ("gold_label", "sentence1", "sentence2")
    return "".join(f"{json.dumps(dict(zip(keys, row, strict=True)) | {'pairID': '1'} | changes)}\n" for row in rows)


def snli_columns(rows=PAIRS):
    return {"premise": [a for _, a, _ in rows], "hypothesis": [b for _, _, b in rows], "label": [NUMBERS[y] for y, _, _ in rows]}


def article(asked, text="Ten", **changes):
    parts = dict(zip(("questions", "options", "answers"), map(list, zip(*asked, strict=True)), strict=True))
    return json.dumps({"article": text, "id": "high10.txt"} | parts | changes)


def race_columns(rows=EXAMPLES, letters=LETTERS):
    options = pa.array([row[2:] for row in rows], pa.list_(pa.string()))
    return {"article": [row[0] for row in rows], "question": [row[1] for row in rows], "options": options, "answer": letters}


@pytest.mark.parametrize("place", ["snli_1.0", "snli"])
def test_snli(place, tmp_path):
    wanted = [('A "man"\t.', "ü\u2028"), ("c", "d"), ("e", " f")], [2, 0, 1], 1
    for split, name in (("train", "train"), ("dev", "validation"), ("test", "test")):
        official, shards = tmp_path / place / f"snli_1.0_{split}.jsonl", tmp_path / "snli/plain_text"
        for path in (shards / f"{name}-00000-of-00001.parquet", official):
            put(path, jsonl(PAIRS)) if path == official else shard(path, snli_columns())
            found = snli(tmp_path, split)
            assert (found.texts, found.labels, found.left_out) == wanted
            assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    put(tmp_path / place / "snli_1.0_train.jsonl", jsonl([*PAIRS, ("neutral", "a", "")]))
    assert snli(tmp_path, "train").left_out == 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (jsonl(PAIRS) + "{\n", "Expecting property name"),
        (jsonl(PAIRS) + "[1]\n", "list indices must be integers"),
        (jsonl(PAIRS) + '{"gold_label": "-", "sentence1": "a"}\n', "sentence2"),
        (jsonl(PAIRS, sentence2=None), "row 1 has an empty text"),
        (jsonl(PAIRS, gold_label="hidden"), "row 1 has the label hidden, not a class number below 3"),
        (jsonl(PAIRS, sentence1=" "), "row 1 has an empty text"),
        (jsonl(PAIRS, gold_label="-"), "there is no example"),
        (b"\xff\n", "line 1 is not UTF-8"),
    ],
)
def test_bad_snli(text, reason, tmp_path):
    path = put(tmp_path / "snli_1.0/snli_1.0_dev.jsonl", text)
    message = refused(snli, tmp_path, "dev")
    assert str(path) in message and reason in message


def test_race(tmp_path):
    """Files in the order of their numbers; the same from shards; levels apart."""
    shard(tmp_path / "race/high/validation-00000-of-00001.parquet", race_columns())
    paths = [tmp_path / "RACE/dev/high" / name for name in ARTICLES]
    for official in (False, True):
        if official:
            for path, (text, asked) in zip(paths, ARTICLES.values(), strict=True):
                put(path, article(asked, text))
        found = race(tmp_path, "dev", "high")
        assert (found.texts, found.labels, found.left_out) == (EXAMPLES, [3, 0, 2], 0)
    assert found.sha256 == hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
    assert "RACE/dev/middle/*.txt, no " in refused(race, tmp_path, "dev", "middle")
    put(tmp_path / "race/train/middle/1.txt", article([("a", list("bcde"), "B")]))
    put(tmp_path / "race/train/middle/2.txt", article([("a", list("bcde"), "B")], " "))
    assert (race(tmp_path, "train", "middle").labels, race(tmp_path, "train", "middle").left_out) == ([1], 1)


GOOD = [("a", list("bcde"), "B"), ("f", list("ghij"), "A")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "list indices must be integers"),
        (b"\xff", "'utf-8' codec can't decode"),
        ("", "Expecting value"),
        (article(GOOD, answers=["A"]), "zip() argument 3 is shorter"),
        (article(GOOD, answers=["A", ["B"]]), "unhashable"),
        (article([GOOD[0], ("f", list("ghi"), "A")]), "question 2 has not four answers"),
        (article([GOOD[0], ("f", ["g", 1, "", ""], "A")]), "question 2 has not four answers"),
        (article([GOOD[0], ("f", list("ghij"), "E")]), "row 2 has the label E, not a class number below 4"),
        (article(GOOD, ""), "row 1 has an empty text"),
    ],
)
def test_bad_race(text, reason, tmp_path):
    path = put(tmp_path / "RACE/test/high/10.txt", text)
    message = refused(race, tmp_path, "test", "high")
    assert f"{path}" in message and reason in message and "`hf download ehovy/race" in message


def test_bad_shards(tmp_path):
    path = shard(tmp_path / "race/high/test-00000-of-00001.parquet", race_columns(letters=["A", "B", "x"]))
    assert f"{path} (row 3 has the label x" in refused(race, tmp_path, "test", "high")
    shard(path, race_columns([*EXAMPLES[:2], ("a", "b", "c")]))
    assert f"{path} (question 3 has not four answers" in refused(race, tmp_path, "test", "high")
    shard(path, race_columns() | {"options": ["a", "b", "c"]})
    assert f"{path} (question 1 has not four answers" in refused(race, tmp_path, "test", "high")
    path = shard(tmp_path / "snli/plain_text/test-00000-of-00001.parquet", snli_columns() | {"label": [3, 0, 0, 0]})
    assert f"{path} (row 1 has the label 3" in refused(snli, tmp_path, "test")


def stories(folder, split, rows, **changes):
    """The official csv file of rows: id, four sentences, two endings, which."""
    header = ["InputStoryid", *(f"InputSentence{i}" for i in range(1, 5)), *(f"RandomFifthSentenceQuiz{i}" for i in (1, 2))]
    path = put(folder / "storycloze" / STORIES[split], "")
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([[changes.get(name, name) for name in (*header, "AnswerRightEnding")], *rows])
    return path


def story(i, answer=1):
    return [f"id{i}", f"{i}, a.", 'The "b".', "c\nc.", "d ü.", f"left {i}", f"right {i}", answer]


def test_story_cloze(tmp_path):
    """Train and dev are parts of the validation file: scikit-learn takes the first of a permutation for testing."""
    path = stories(tmp_path, "dev", [story(i, 1 + i % 2) for i in range(1871)])
    stories(tmp_path, "test", [story(0, 2), story(1, 1)])
    permuted = np.random.RandomState(3535999445).permutation(1871)
    for split, which in (("dev", permuted[:374]), ("train", permuted[374:])):
        found = story_cloze(tmp_path, split)
        assert found.texts == [(f'{i}, a. The "b". c\nc. d ü.', f"left {i}", f"right {i}") for i in which]
        assert found.labels == [i % 2 for i in which]
        assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    found = story_cloze(tmp_path, "test")
    assert (found.labels, found.texts[1][1:]) == ([1, 0], ("left 1", "right 1"))
    stories(tmp_path, "dev", [story(i) for i in range(1870)])
    assert f"{path} (it holds 1,870 stories, not 1,871)" in refused(story_cloze, tmp_path, "train")


def test_bad_story_cloze(tmp_path):
    read = lambda: refused(story_cloze, tmp_path, "test")
    message = read()
    for word in (f"no {tmp_path}/storycloze/cloze_test_test__spring2016", "cs.rochester.edu/nlp/rocstories", "--data-dir"):
        assert word in message
    for rows, reason in (
        ([story(0), story(1, 0)], "row 2 has the label -1, not a class number below 2"),
        ([story(0), story(1, "x")], "invalid literal for int()"),
        ([story(0), story(1)[:7]], "row 2 has too many columns, or too few"),
        ([[*story(0), "x"]], "row 1 has too many columns, or too few"),
        ([[*story(0)[:5], " ", "b", 1]], "row 1 has an empty text"),
        ([], "there is no example"),
    ):
        path = stories(tmp_path, "test", rows)
        assert f"cannot read {path} (" in read() and reason in read()
    stories(tmp_path, "test", [story(0)], InputSentence3="Sentence3")
    assert "InputSentence3" in read()
    put(path, b"\xff")
    assert f"cannot read {path} ('utf-8' codec can't decode" in read()
    put(path, "")
    assert "there is no example" in read()


@pytest.mark.parametrize(
    ("fetch", "repository", "revision", "folders", "made"),
    [
        (fetch_snli, "stanfordnlp/snli", "cdb5c3d5eed6ead6e5a341c8e56e669bb666725b", ["snli/plain_text"], snli_columns()),
        (fetch_race, "ehovy/race", "2fec9fd81f1dc971569a9b729c43f2f0e6436637", ["race/middle", "race/high"], race_columns()),
    ],
)
def test_what_is_there_is_not_fetched(fetch, repository, revision, folders, made, tmp_path, monkeypatch):
    """All splits have to be; tests/data/test_hub.py has downloads."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    paths = [
        shard(tmp_path / f"{folder}/{kind}-0-of-1.parquet", made) for folder in folders for kind in ("train", "validation", "test")
    ]
    fetch(tmp_path)
    paths[-1].unlink()
    message = refused(fetch, tmp_path)
    assert f"datasets/{repository} to {tmp_path}" in message and f"--revision {revision} --include" in message
