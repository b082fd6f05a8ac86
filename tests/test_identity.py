"""What a run is: its code, its hyper-parameters, and the data and weights that it began with."""

import json
import shutil

import pytest
import torch

from common.weights import fingerprint
from tests.start import here, newest, record, rows
from tests.toy.train import TRAIN, sequences

TOY = "tests.toy.train"


@pytest.fixture
def other_data(toy_data, tmp_path):
    shutil.copytree(toy_data, tmp_path / "other")
    torch.save(sequences(TRAIN, seed=99), tmp_path / "other/toy/train.pt")
    return tmp_path / "other"


def begun(tmp_path, toy_data):
    """A run that has stopped with a checkpoint: a longer one cut short."""
    code, _ = here(TOY, "headline", "--data-dir", toy_data, "--out", tmp_path / "runs")
    assert code == 0
    directory = tmp_path / "runs/toy/headline/seed0"
    (directory / "result.json").unlink()
    (directory / "checkpoint/step40.pt").unlink()
    assert newest(directory)["step"] == 35
    return directory


def test_a_run_does_not_go_on_with_other_data(tmp_path, toy_data, other_data):
    directory = begun(tmp_path, toy_data)
    before = (directory / "config.json").read_text()
    data = json.loads(before)["data"]
    code, output = here(TOY, "headline", "--data-dir", other_data, "--out", tmp_path / "runs")
    line = next(line for line in output.splitlines() if line.startswith("error: "))
    assert code == 2 and f"was begun on other data (sha256 {data['sha256'][:12]}... -> " in line and "--restart starts over" in line
    assert (directory / "config.json").read_text() == before and newest(directory)["step"] == 35, "nothing is lost"
    code, _ = here(TOY, "headline", "--data-dir", toy_data, "--out", tmp_path / "runs")
    assert code == 0 and record(directory)["data"] == data and "changes" not in record(directory)


def test_it_does_with_a_flag_and_the_record_says_so(tmp_path, toy_data, other_data):
    directory = begun(tmp_path, toy_data)
    flags = ["headline", "--data-dir", other_data, "--out", tmp_path / "runs", "--allow-changes"]
    assert here(TOY, *flags)[0] == 0
    [change] = record(directory)["changes"]
    assert change["after"] == "step35" and change["what"].startswith("other data: sha256 ")
    assert (
        rows(directory)[-1]["step"] == 40
        and json.loads((directory / "config.json").read_text())["data"] == record(directory)["data"]
    )


def test_a_finished_run_goes_on_to_more_steps_and_the_record_says_so(tmp_path, toy_data):
    flags = ["headline", "--data-dir", toy_data, "--out", tmp_path / "runs"]
    assert here(TOY, *flags)[0] == 0
    directory = tmp_path / "runs/toy/headline/seed0"
    lines, longer = rows(directory), [*flags, "--steps", 60]
    code, output = here(TOY, *longer)
    assert code == 2 and "holds a finished run with other hyper-parameters (steps 40 -> 60)" in output
    assert "--out names another folder, --allow-changes goes on where it ended" in output and record(directory)["steps"] == 40
    code, output = here(TOY, *longer, "--allow-changes")
    assert code == 0 and "from step 40, in" in output
    assert record(directory)["steps"] == 60 and record(directory)["changes"] == [{"after": "step40", "what": "steps 40 -> 60"}]
    assert rows(directory)[: len(lines)] == lines
    code, output = here(TOY, *longer)
    assert code == 0 and "finished before" in output, "what it is now"


def test_data_may_move(tmp_path, toy_data):
    directory = begun(tmp_path, toy_data)
    toy_data.rename(tmp_path / "moved")
    code, output = here(TOY, "headline", "--data-dir", tmp_path / "moved", "--out", tmp_path / "runs")
    assert code == 0 and "from step 35" in output and "changes" not in record(directory)


def test_a_run_without_a_checkpoint_begins_with_the_data_that_there_is(tmp_path, toy_data, other_data):
    directory = begun(tmp_path, toy_data)
    shutil.rmtree(directory / "checkpoint")
    code, output = here(TOY, "headline", "--data-dir", other_data, "--out", tmp_path / "runs")
    assert code == 0 and "from the start" in output and "changes" not in record(directory)


def test_a_finished_run_is_shown_for_its_own_data_only(tmp_path, toy_data, other_data):
    flags = ["headline", "--out", tmp_path / "runs", "--data-dir"]
    assert here(TOY, *flags, toy_data)[0] == 0
    directory = tmp_path / "runs/toy/headline/seed0"
    result = (directory / "result.json").read_bytes()
    finished = json.loads(result)["finished"]
    code, output = here(TOY, *flags, toy_data)
    assert code == 0 and f"finished before, at {finished}; nothing was run now; the data is the same" in output
    code, output = here(TOY, *flags, other_data)
    line = next(line for line in output.splitlines() if line.startswith("error: "))
    assert code == 2 and "holds a finished run on other data (sha256 " in line and "claims reproduced" not in output
    code, output = here(TOY, *flags, tmp_path / "nowhere")
    assert code == 0 and "nothing was run now; the data cannot be compared: " in output and "is missing or empty" in output
    assert (directory / "result.json").read_bytes() == result
    code, output = here(TOY, *flags, other_data, "--restart")
    assert code == 0 and record(directory)["data"]["sha256"] != json.loads(result)["data"]["sha256"]


def test_the_fingerprint_of_weights():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    first = fingerprint(net)
    assert first == fingerprint(net) and len(first) == 64
    net[1].running_mean[0] += 1e-6
    assert fingerprint(net) != first, "buffers count"
