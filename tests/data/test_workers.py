"""The worker processes that read samples."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from common.data import workers
from common.data.order import mix, permuted
from common.errors import BadFile, BadInput, LostWorker
from tests.loading import EXAMPLES, SAMPLES
from tests.start import Started, finish, newest, processes, record, rows, until

LOADING = "tests.loading"


def load(sample, batches, n):
    reader = workers.Reader(sample, workers=n)
    try:
        yield from reader.read(batches)
    finally:
        reader.close()


BATCHES = [[(3, 30), (1, 10)], [(2, 20)], [(3, 31), (0, 0), (1, 10)], [(5, 50)], [(4, 40), (4, 40)]]


def drawing(index, generator):
    return torch.tensor(index), torch.rand(2, generator=generator), torch.randn((), generator=generator)


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.filterwarnings("ignore:This DataLoader will create 3")
def test_batches_are_what_is_asked(n):
    state = torch.get_rng_state()
    loaded = list(load(drawing, BATCHES, n))
    assert torch.equal(torch.get_rng_state(), state), "the default generator is the training's"
    assert len(loaded) == len(BATCHES)
    for batch, asked in zip(loaded, BATCHES, strict=True):
        wanted = [torch.stack(t) for t in zip(*(drawing(i, torch.Generator().manual_seed(s)) for i, s in asked), strict=True)]
        assert isinstance(batch, tuple) and all(torch.equal(a, b) for a, b in zip(batch, wanted, strict=True))
    assert not torch.equal(loaded[0][1][0], loaded[2][1][0]), "another seed, the same sample"
    assert torch.equal(loaded[0][1][1], loaded[2][1][2]), "the same seed, the same sample"


def children(pid="self"):
    return {int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()}


def alive(pids):
    """Those that are processes still, and not only their parent's memory of one."""
    found = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            found.add(pid)
    return found


@pytest.mark.parametrize("n", [0, 2])
def test_bad_input_in_a_worker_is_one_line(n):
    def sample(index, generator):
        if index == 1:
            raise BadInput("image 1 cannot be decoded")
        return (torch.tensor(index),)

    loading = load(sample, [[(0, 0)], [(2, 0), (1, 0)], [(3, 0)]], n)
    assert next(loading)[0].tolist() == [0]
    with pytest.raises(BadFile, match=r"^image 1 cannot be decoded$"):
        next(loading)


@pytest.mark.parametrize("n", [0, 1])
def test_other_errors_keep_their_traceback(n):
    def wrong(index, generator):
        return {}["nowhere"]

    with pytest.raises(KeyError) as caught:
        list(load(wrong, [[(0, 0)]], n))
    assert "nowhere" in str(caught.value) and (n == 0 or 'return {}["nowhere"]' in str(caught.value))
    with pytest.raises(RuntimeError, match="equal size") as caught:
        list(load(lambda i, _: (torch.zeros(i),), [[(1, 0), (2, 0)]], n))
    assert not isinstance(caught.value, LostWorker)


def test_early_close_leaves_no_worker_and_waits_for_no_batch():
    def slow(index, generator):
        time.sleep(0.02)
        return (torch.tensor(index),)

    before = children()
    loading = load(slow, [[(0, 0)], *[[(i, 0) for i in range(1000)]] * 4], 2)
    next(loading)
    mine = children() - before
    assert len(alive(mine)) == 2
    start = time.monotonic()
    loading.close()
    assert not alive(mine) and time.monotonic() - start < 2


def test_signals_are_the_parents_affair():
    before = children()
    loading = load(drawing, BATCHES * 20, 2)
    next(loading)
    mine = children() - before
    for signum in (signal.SIGINT, signal.SIGTERM) * 2:
        for pid in mine:
            os.kill(pid, signum)
        next(loading)
    assert len(list(loading)) == 20 * len(BATCHES) - 5
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set() and signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL


def test_workers_end_with_a_killed_parent():
    def idle():
        loading = load(drawing, BATCHES, 2)
        next(loading)
        time.sleep(60)

    parent = multiprocessing.get_context("fork").Process(target=idle)
    parent.start()
    mine = until(lambda: len(found := children(parent.pid)) == 2 and found, 20)
    time.sleep(0.5)
    assert alive(mine) == mine
    parent.kill()
    parent.join()
    until(lambda: not alive(mine), 2)


def test_count(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(13)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert workers.count() == 13
    for n, each in ((1, 13), (4, 3), (16, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(n))
        assert workers.count() == each


# Run.loaded and Run.examples, in runs of their own.


def seen(directory):
    return newest(directory)["objects"]["seen"]["rows"]


def test_processes_and_kills_change_nothing(tmp_path):
    whole = Started(tmp_path / "whole", LOADING, "smoke", "--out", tmp_path / "a")
    split = processes(2, tmp_path / "split", LOADING, "smoke", "--out", tmp_path / "b")
    finish([whole, *split])
    killed = Started(tmp_path / "killed", LOADING, "smoke", "--out", tmp_path / "c", "--seconds", 0.01)
    until(lambda: reached(tmp_path / "c", 5), 20)
    mine = children(killed.process.pid)
    assert len(mine) == 2 * workers.count() and not any(holds(pid, "lock") for pid in mine)
    killed.kill(signal.SIGKILL)
    killed.process.join()
    finish([Started(tmp_path / "killed", LOADING, "smoke", "--out", tmp_path / "c", "--seconds", 0.01)])
    assert "from step" in (tmp_path / "killed").read_text()

    a, b, c = (tmp_path / out / "tests/smoke/seed0" for out in "abc")
    assert seen(a)[:, 0].tolist() == permuted(SAMPLES, 0, 0, 48).tolist()
    drawn = torch.rand((), generator=torch.Generator().manual_seed(mix(0, "sample", 5, 2)), dtype=torch.float64)
    assert seen(a)[22, 1] == drawn
    assert torch.equal(seen(a), seen(b)) and torch.equal(seen(a), seen(c))
    assert rows(a) == rows(c) and record(a)["metrics"] == record(b)["metrics"]
    assert EXAMPLES == 7, "the script itself checks that each is seen once"


def holds(pid, name):
    return any(os.readlink(link).endswith(f"/{name}") for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink())


def reached(out, step):
    from common.directory import checkpoints

    return any(int(path.stem.removeprefix("step")) >= step for path in checkpoints(out / "tests/smoke/seed0"))


def test_the_share_of_waiting_is_written(tmp_path):
    finish([Started(tmp_path / "log", LOADING, "smoke", "--out", tmp_path, "--seconds", 0.02)])
    lines = (tmp_path / "tests/smoke/seed0/metrics.jsonl").read_text().splitlines()
    waits = [float(line.split('"data_wait": ')[1].rstrip("}")) for line in lines]
    assert len(waits) == 6 and all(30 < wait <= 100 for wait in waits)
    assert "data_wait" not in rows(tmp_path / "tests/smoke/seed0")[0]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group(signum, tmp_path):
    run = Started(tmp_path / "log", LOADING, "smoke", "--out", tmp_path, "--seconds", 0.02, "--steps", 1000)
    until(lambda: reached(tmp_path, 2), 20)
    mine = children(run.process.pid)
    for pid in [*mine, run.process.pid]:
        os.kill(pid, signum)
    assert run.wait(10) == 128 + signum
    assert not alive(mine)
    assert "goes on from there" in run.output() and "Traceback" not in run.output() and "Warning" not in run.output()


def test_a_signal_ends_a_wait_for_what_never_comes(tmp_path, monkeypatch):
    order = permuted(SAMPLES, 0, 0, 48).tolist()
    last = max(range(SAMPLES), key=order.index)  # the sample that comes last
    run = Started(tmp_path / "log", "tests.hanging", "smoke", "--out", tmp_path, "--hangs", last)
    until(lambda: reached(tmp_path, 2), 20)
    mine = children(run.process.pid)
    time.sleep(1)
    run.kill(signal.SIGTERM)
    assert run.wait(20) == 143 and "checkpoint of step 2 kept; the same command goes on" in run.output(), run.output()
    assert not alive(mine) and "Traceback" not in run.output()


def test_a_wait_has_an_end(tmp_path):
    run = Started(
        tmp_path / "log", "tests.hanging", "smoke", "--out", tmp_path, "--hangs", permuted(SAMPLES, 0, 0, 1).item(), "--seconds", 0
    )
    assert run.wait(30) == 1 and "error: no batch of data came for 0 min: is its file system there?" in run.output()


def test_a_bad_file_is_told_by_the_process_that_met_it(tmp_path):
    order = permuted(SAMPLES, 0, 0, 4).tolist()
    runs = processes(2, tmp_path / "log", LOADING, "smoke", "--out", tmp_path, "--bad", order[3])  # rank 1's
    try:
        assert runs[1].wait(30) == 2
        assert runs[1].output().count(f"error: sample {order[3]} cannot be read\n") == 1
        assert "Traceback" not in runs[1].output()
    finally:
        runs[0].process.kill()
        runs[0].process.join()


def test_ends_that_nobody_expects_leave_no_worker(tmp_path):
    fails = Started(tmp_path / "fails", LOADING, "smoke", "--out", tmp_path / "a", "--fails-at", 3, "--seconds", 0.3)
    dies = Started(tmp_path / "dies", LOADING, "smoke", "--out", tmp_path / "b", "--deadly", 7)
    start = time.monotonic()
    assert fails.wait(20) == 1 and "nobody expects this" in fails.output() and time.monotonic() - start < 15
    assert dies.wait(30) == 1
    assert dies.output().splitlines()[-1].startswith("error: a process that reads the data died (DataLoader worker (pid")
    assert "Traceback" not in dies.output()
