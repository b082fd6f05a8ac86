"""What is made of a data set once for all runs."""

import errno
import json
import multiprocessing
import time

import pytest

from common.data.kept import kept
from common.errors import BadInput
from tests.serving import refused

FACTS = {"size": 300, "sha256": "abc", "sides": ("en", "de")}


def make(folder, text="made"):
    (folder / "tokens.bin").write_bytes(text.encode() * 1000)
    (folder / "vocabulary.json").write_text(text)


def never(folder):
    raise AssertionError("made again")


def test_it_is_made_once_for_the_same_facts(tmp_path):
    """Whatever their order, and beside the data; other facts are another folder."""
    folder = kept([tmp_path / "data"], "wmt14", FACTS, make)
    assert folder.parent == tmp_path / "data/kept" and folder.name.startswith("wmt14-")
    assert (folder / "vocabulary.json").read_text() == "made"
    assert json.loads((folder / "manifest.json").read_text())["facts"] == FACTS | {"sides": ["en", "de"]}
    assert kept([tmp_path / "data"], "wmt14", dict(reversed(FACTS.items())), never) == folder
    other = kept([tmp_path / "data"], "wmt14", FACTS | {"size": 301}, lambda folder: make(folder, "other"))
    assert other != folder and (other / "vocabulary.json").read_text() == "other"
    assert kept([tmp_path / "data"], "wmt14", FACTS, never) == folder


def slowly(folder):
    with (folder.parents[1] / "log").open("a") as log:
        log.write("begun\n")
    time.sleep(0.5)
    make(folder)


def asking(place, results):
    results.put(kept([place], "text", FACTS, slowly).name)


def test_several_runs_at_once_make_it_once(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    runs = [context.Process(target=asking, args=(tmp_path, results)) for _ in range(4)]
    for run in runs:
        run.start()
    assert len({results.get(timeout=30) for _ in runs}) == 1
    for run in runs:
        run.join()
    assert (tmp_path / "kept/log").read_text() == "begun\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt, BadInput("no text"), RuntimeError])
def test_what_is_not_finished_is_not_there(error, tmp_path):
    def fails(folder):
        make(folder)
        raise error

    with pytest.raises(BaseException) as caught:
        kept([tmp_path], "text", FACTS, fails)
    assert caught.type in (error, type(error)) and not [path for path in (tmp_path / "kept").iterdir() if path.is_dir()]


def test_what_a_killed_run_left_is_no_obstacle(tmp_path):
    folder = kept([tmp_path], "text", FACTS, make)
    folder.rename(unfinished := folder.with_name(f".{folder.name}-part-1"))
    (unfinished / "half").write_text("ha")
    assert kept([tmp_path], "text", FACTS, lambda folder: make(folder, "again")) == folder
    assert {path.name for path in folder.iterdir()} == {"tokens.bin", "vocabulary.json", "manifest.json"}
    assert (folder / "vocabulary.json").read_text() == "again" and not unfinished.exists()


@pytest.mark.parametrize("name", ["tokens.bin", "vocabulary.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_file_is_refused(name, damage, tmp_path):
    folder = kept([tmp_path], "text", FACTS, make)
    content = (path := folder / name).read_bytes()
    path.unlink() if damage == "gone" else path.write_bytes(content[:-2] if damage == "cut" else b"!!" + content[2:])
    message = f"{path} is missing or damaged: delete the folder {folder}, and run the same command again"
    assert refused(kept, [tmp_path], "text", FACTS, never) == message


def test_where_nothing_can_be_written_beside_the_data(tmp_path):
    """The next place has it; if that has it already, it is not looked for elsewhere; if none will do, all are named."""
    (tmp_path / "data").write_text("a file, into which nothing can be put")
    folder = kept([tmp_path / "data", tmp_path / "run"], "text", FACTS, make)
    assert folder.parent == tmp_path / "run/kept"
    (tmp_path / "data").unlink()
    assert kept([tmp_path / "data", tmp_path / "run"], "text", FACTS, never) == folder
    (tmp_path / "file").write_text("")
    places = [tmp_path / "file", tmp_path / "file/too"]
    message = refused(kept, places, "text", FACTS | {"size": 1}, make)
    assert message.startswith(f"text: cannot write to {tmp_path}/file/kept (") and f" or {tmp_path}/file/too/kept (" in message


def test_a_full_disk_leaves_nothing(tmp_path):
    def full(folder):
        make(folder)
        raise OSError(errno.ENOSPC, "No space left on device")

    assert "kept (No space left on device): allow it and make room" in refused(kept, [tmp_path], "text", FACTS, full)
    assert kept([tmp_path], "text", FACTS, make)
