"""Replay: published curves begin the same at today's code, and a recipe that was changed by little is found."""

import dataclasses
import json
import subprocess
import sys

import pytest

from common.errors import BadInput
from common.files import read_rows
from common.provenance import ROOT
from tests.start import here
from tests.test_claims import repository, write_run  # noqa: F401
from tests.toy.train import EXPERIMENTS
from tools import publish, replay, tables
from tools.replay import BOUNDS, Bound, Replay, beginnings, mark_stale
from tools.repository import papers, records

RECORD = {
    "paper": "toy",
    "experiment": "headline",
    "seed": 0,
    "wall_s": 10.0,
    "steps": 100,
    "commit": "0123456789ab",
    "precision": "fp32",
}


def curve(*losses, every=10, **more):
    return [{"step": every * i, "time": i, "samples_per_s": 9.0, "loss": loss, **more} for i, loss in enumerate(losses, 1)]


def compared(expected, *parts, bound=Bound(1e-3)):  # noqa: B008
    one = Replay(RECORD, expected, bound)
    for rows in parts:
        one.compare(rows)
    return one


def test_the_same_within_the_bound_and_whatever_the_clock_says():
    one = compared(
        curve(2.0, 1.0), [{"step": 10, "loss": 2.001, "time": 99, "new": 1}, {"step": 15, "loss": 7}, {"step": 20, "loss": 1.0}]
    )
    assert (one.result, one.lines, one.step, one.more) == ("same", 2, 20, {"new"})
    assert one.deviation == pytest.approx(0.0005, rel=1e-2) and not one.parted


def test_lines_that_are_still_to_come():
    one = compared(curve(2.0, 1.0), [], curve(2.0))
    assert (one.result, one.lines) == ("", 1)
    one.compare(curve(2.0, 1.0))
    assert (one.result, one.lines) == ("same", 2)


@pytest.mark.parametrize(
    ("rows", "result"),
    [
        (curve(2.0, 1.01), "parted at step 20: loss 1 -> 1.01"),
        (curve(2.1), "parted at step 10: loss 2 -> 2.1"),
        ([{"step": 10, "other": 2.0}], "parted at step 10: no loss today"),
        (curve(2.0, 1.0, every=20), "parted at step 10: no line there today"),
        (curve(float("nan")), "parted at step 10: loss 2 -> nan"),
    ],
)
def test_what_parts(rows, result):
    one = compared(curve(2.0, 1.0), rows)
    assert one.result == result and one.parted


def test_only_lines_that_rounding_leaves_alone_are_compared(monkeypatch):
    """The first one in any case."""
    paper, steps = "lenet", [row["step"] for row in read_rows(ROOT / "papers/lenet/curves/mnist-seed0.jsonl")]
    for updates, n in ((0, 1), (steps[0], 1), (steps[1], 2), (steps[1] - 1, 1), (float("inf"), 3)):
        monkeypatch.setitem(BOUNDS, paper, Bound(1e-3, updates))
        [one] = beginnings(paper, "mnist", (0,), 3)
        assert [row["step"] for row in one.expected] == steps[:n]


def test_what_is_not_published_is_refused():
    for arguments in (
        ("nope", "", (), 3),
        ("lstm", "nope", (), 3),
        ("lstm", "smoke", (), 3),
        ("lstm", "temporal-order-6a", (99,), 3),
    ):
        with pytest.raises(BadInput):
            list(beginnings(*arguments))


CHEAPEST = {
    paper: min((one for one in beginnings(paper, "", (), 1) if not one.result), key=Replay.cost, default=None) for paper in papers()
}


NEEDS = {
    "alexnet": "cifar-10-batches-py",
    "bert": "weights/all-MiniLM-L6-v2",
    "clip": "emoji-captions",
    "gpt": "tinyshakespeare",
    "dcgan": "MNIST",
    "ddpm": "MNIST",
    "lenet": "MNIST",
    "vae": "MNIST",
    "resnet": "cifar-10-batches-py",
    "vgg": "cifar-10-batches-py",
    "vit": "cifar-10-batches-py",
}  # of data/


def needs_data(paper):
    """No test downloads anything."""
    if paper in NEEDS and not (ROOT / "data" / NEEDS[paper]).exists():
        pytest.skip(f"no data/{NEEDS[paper]}")


@pytest.mark.parametrize("paper", papers())
def test_the_quickest_curve_of_each_paper(paper):
    """Those of all records: make replay."""
    one = CHEAPEST[paper]
    if one is None or one.cost() > 10:
        pytest.skip("no curve of this paper begins within 10 seconds")
    needs_data(paper)
    [done] = replay.run([dataclasses.replace(one)])
    if "in the time that there was" in done.result or "too slow" in done.result:
        pytest.skip(done.result)  # on a machine with much else to do
    assert done.same, done.result


@pytest.mark.parametrize("changed", [(), ("--lr", "0.505")], ids=["rounding", "recipe"])
@pytest.mark.slow
def test_the_records_own_commit_decides(changed):
    """A curve that this machine's rounding parts holds where the record's commit parts from it as well, and only there."""
    [one] = beginnings("lstm", "temporal-order-6a", (0,), 2)  # of the first update, and of the hundredth
    off = lambda row: {name: value if name == "step" else value * 1.0001 for name, value in row.items()}
    elsewhere = [one.expected[0], off(one.expected[1])]
    [done] = replay.run([dataclasses.replace(one, expected=elsewhere)], changed=changed)
    if changed:
        assert done.parted
    else:
        assert done.result.startswith("same as its commit here; rounding has parted at step 100: train_error ")


@pytest.mark.slow
def test_left_undecided_where_its_commit_is_too_slow(monkeypatch):
    monkeypatch.setattr(replay, "of_its_commit", lambda *_: None)
    [one] = beginnings("lstm", "temporal-order-6a", (0,), 2)
    [done] = replay.run([one], changed=("--lr", "0.505"))
    assert done.result.startswith("not replayed: its commit is too slow here; parted at step 100: ") and not done.parted


MUTATIONS = {"nothing": [], "rate": ["--lr", 0.505], "initial weights": ["--init", 0.101], "seed": ["--seed", 1]}


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.slow
def test_a_recipe_changed_by_little_parts(mutation, tmp_path):
    """One per cent of the learning rate, or of the initial weights, or another seed: found in the first lines of experiment 6a."""
    [one] = beginnings("lstm", "temporal-order-6a", (0,), 3)
    limit = ["--max-sequences", one.expected[-1]["step"], "--test-sequences", 20]
    code, output = here("papers.lstm.train", "temporal-order-6a", "--out", tmp_path, *limit, *MUTATIONS[mutation])
    assert code == 0, output
    one.compare(read_rows(next(tmp_path.rglob("metrics.jsonl"))))
    assert one.result == "same" if mutation == "nothing" else one.parted, one.result


@pytest.mark.parametrize(
    ("paper", "experiment", "flags"),
    [("gpt", "tinyshakespeare", ("--weight-decay", "0")), ("lenet", "mnist-distorted", ("--distortion", "0"))],
    ids=["weight decay", "augmentation"],
)
@pytest.mark.slow
def test_what_is_left_out_parts(paper, experiment, flags, monkeypatch):
    needs_data(paper)
    [one] = beginnings(paper, experiment, (0,), 3)
    monkeypatch.setattr(replay, "of_its_commit", lambda *_: False)
    [done] = replay.run([one], seconds=600, changed=flags)  # in bf16, where the record is: minutes without its instructions
    assert done.parted and "it ends" not in done.result, done.result


def test_a_parted_record_is_marked_and_a_new_one_is_not(repository, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(replay, "ROOT", repository)
    write_run(tmp_path / "runs")
    publish.publish("toy", tmp_path / "runs")
    [record] = records("toy")
    one = Replay(record, curve(2.0), result="parted at step 10: loss 2 -> 3")
    mark_stale([one])
    [marked] = records("toy")
    assert marked.pop("stale").startswith("parted at step 10: loss 2 -> 3, at commit ") and marked == record
    tables.write()
    page = (repository / "papers/toy/README.md").read_text()
    assert "| 22 | stale |" in page and "1\u00a0stale" in (repository / "README.md").read_text()

    mark_stale([dataclasses.replace(one, result="not replayed: no time")])
    assert "stale" in records("toy")[0], "what was not looked at stays as it was"
    mark_stale([dataclasses.replace(one, result="same")])
    assert records("toy") == [record], "a change that is taken back takes the mark back"
    mark_stale([one])
    publish.publish("toy", tmp_path / "runs")
    assert records("toy") == [record], "a new run has no mark"


def test_a_changed_configuration_is_parted_at_once(repository, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(replay, "ROOT", repository)
    monkeypatch.setattr(replay, "experiments", lambda paper: EXPERIMENTS)
    write_run(tmp_path / "runs")
    publish.publish("toy", tmp_path / "runs")
    results = repository / "papers/toy/results.json"
    [record] = json.loads(results.read_text())
    record["config"]["lr"] = 0.5
    results.write_text(json.dumps([record]))
    [one] = beginnings("toy", "", (), 3)
    assert one.parted and "configuration is no longer" in one.result


@pytest.mark.slow
def test_the_command(tmp_path):
    """One record, from its own process: the table, the last line, the exit codes."""
    command = [sys.executable, "-m", "tools.replay", "--paper", "lstm", "--lines", "2"]
    done = subprocess.run([*command, "--experiment", "nope"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "error: lstm has no published record of nope, seeds any\n"
    done = subprocess.run([*command, "--experiment", "temporal-order-6a", "--seeds", "0"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    *_, row, _, last = done.stdout.splitlines()
    assert row.split()[:5] == ["lstm", "temporal-order-6a", "0", "2", "100"]
    assert last == "1 of 1 published curves begin the same today, 0 parted, 0 not replayed"
