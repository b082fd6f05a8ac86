"""What a run does that neither the standing tests nor the bad input show."""

import dataclasses
import math
import sysconfig

import pytest
import torch

from common import provenance
from common.processes import bare
from common.provenance import ROOT
from common.run import Run
from tests.start import compiling, here, newest, record, rows
from tests.toy.train import TRAIN

TOY = "tests.toy.train"


def test_the_record_says_what_ran(tmp_path, toy_data):
    code, output = here(TOY, "headline", "--out", tmp_path, "--data-dir", toy_data, "--seed", 3)
    assert code == 0, output
    directory = tmp_path / "toy/headline/seed3"
    result = record(directory)
    assert result["paper"] == "toy" and result["experiment"] == "headline" and result["kind"] == "paper" and result["seed"] == 3
    assert result["data"].pop("sha256") and result["data"] == {"name": "toy", "train": TRAIN, "test": 13, "stand_in": False}
    assert result["files"] == provenance.files_of(ROOT / "tests/toy/train.py") and "tests/toy/model.py" in result["files"]
    assert "common/run.py" in result["files"] and not {"common/track.py", "common/words.py", "common/bleu.py"} & {*result["files"]}
    assert result["config"]["batch_size"] == 12 and result["steps"] == 40 and result["processes"] == 1
    assert result["precision"] == "fp32" and result["versions"]["torch"] == torch.__version__
    assert result["code"].startswith("sha256 ") and "changes" not in result
    assert 0 < result["wall_s"] < 60 and result["samples_per_s"] > 0 and result["peak_memory_mb"] > 10
    assert f"toy headline seed 3: {int(result['metrics']['test_error'] <= 25)} of 1 claims reproduced" in output.splitlines()[-1]
    assert rows(directory)[-1]["test_error"] == result["metrics"]["test_error"]
    assert result["curves"] == {"step": [*range(5, 41, 5)], "test_error": [row["test_error"] for row in rows(directory)]}

    from PIL import Image

    about = Image.open(directory / "figures" / "curve.png").info["Description"]
    assert about == f"toy headline seed 3, commit {result['commit']}, {result['code']}"


def test_one_seed_gives_one_result_and_another_seed_another(tmp_path):
    for out, seed in (("a", 5), ("b", 5), ("c", 6)):
        assert here(TOY, "smoke", "--out", tmp_path / out, "--seed", seed)[0] == 0
    a, b, c = (rows(tmp_path / out / f"toy/smoke/seed{seed}") for out, seed in (("a", 5), ("b", 5), ("c", 6)))
    assert a == b
    assert a[0]["train_loss"] != c[0]["train_loss"]


def test_a_line_is_the_token_weighted_mean_over_its_updates(tmp_path):
    """Against the same training written out plainly: one process, whole batches, no dropout."""
    from torch.nn.functional import cross_entropy

    from common.data.order import mix, permuted
    from tests.toy.model import Tagger
    from tests.toy.train import PAD, VOCABULARY, sequences

    assert here(TOY, "smoke", "--out", tmp_path, "--dropout", 0, "--micro-batch", 5)[0] == 0
    torch.manual_seed(mix(0, "start"))
    model = Tagger(VOCABULARY, 16, 0.0, False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    tokens, labels = sequences(TRAIN, mix("toy"))
    losses = []
    for step in range(40):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 40)
        index = permuted(TRAIN, 0, 12 * step, 12 * step + 12)
        loss = cross_entropy(model(tokens[index]).flatten(0, 1), labels[index].flatten(), ignore_index=PAD)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    for row in rows(tmp_path / "toy/smoke/seed0"):
        assert math.isclose(row["train_loss"], sum(losses[row["step"] - 5 : row["step"]]) / 5, rel_tol=1e-5)


def test_bf16_runs_in_bf16(tmp_path):
    flags = [TOY, "smoke", "--dropout", 0, "--seed", 1]
    assert here(*flags, "--out", tmp_path / "a", "--precision", "bf16")[0] == 0
    assert here(*flags, "--out", tmp_path / "b")[0] == 0
    a, b = (rows(tmp_path / out / "toy/smoke/seed1")[0]["train_loss"] for out in "ab")
    assert a != b and math.isclose(a, b, rel_tol=0.02)
    assert record(tmp_path / "a/toy/smoke/seed1")["precision"] == "bf16"


@pytest.mark.parametrize("missing", ["compiler", "headers"])
def test_without_a_compiler_compile_falls_back_with_one_line(missing, tmp_path, monkeypatch):
    if missing == "compiler":
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CXX", raising=False)
    else:
        monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    code, output = here(TOY, "smoke", "--out", tmp_path, "--compile")
    assert code == 0, output
    assert output.count("running without torch.compile") == 1
    assert rows(tmp_path / "toy/smoke/seed0")[-1]["step"] == 40


def test_checkpoints_hold_the_uncompiled_module(tmp_path, monkeypatch):
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, **_: real(module, backend="eager"))
    with compiling():
        assert here(TOY, "smoke", "--out", tmp_path, "--compile", "--steps", 5)[0] == 0
    assert "embedding.weight" in newest(tmp_path / "toy/smoke/seed0")["objects"]["model"]
    compiled = real(torch.nn.Linear(2, 2), backend="eager")
    assert type(bare(compiled)) is torch.nn.Linear


def test_optimizer_steps_do_not_look_for_packages_on_the_disk(tmp_path, monkeypatch):
    """accelerate's do, twice each; once a run is enough."""
    import importlib.util

    looked, find_spec = [], importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: looked.append(name) or find_spec(name, *rest))
    assert here(TOY, "smoke", "--out", tmp_path)[0] == 0
    assert len(rows(tmp_path / "toy/smoke/seed0")) > 3 and looked.count("lomo_optim") <= 1


def test_checkpoints_are_plain_and_two(tmp_path):
    assert here(TOY, "smoke", "--out", tmp_path)[0] == 0
    directory = tmp_path / "toy/smoke/seed0"
    assert sorted(path.name for path in (directory / "checkpoint").iterdir()) == ["step35.pt", "step40.pt"]
    assert newest(directory)["run"] == {"paper": "toy", "experiment": "smoke", "seed": 0}  # read with weights_only=True


def test_a_metric_that_a_claim_misspells_does_not_lose_the_run(tmp_path, toy_data, monkeypatch):
    """Three days of training are not thrown away for a letter: the record is written, and says that it lacks the number."""
    from tests.toy import train

    wrong = dataclasses.replace(train.EXPERIMENTS["headline"].claims[0], metric="test_eror")
    headline = dataclasses.replace(train.EXPERIMENTS["headline"], claims=[wrong], figures=("curve", "never"))
    monkeypatch.setattr(train, "EXPERIMENTS", {**train.EXPERIMENTS, "headline": headline})
    code, output = here(TOY, "headline", "--out", tmp_path, "--data-dir", toy_data)
    assert code == 0
    assert "train() did not return test_eror, which claims name: not measurable in this record" in output
    assert "train() did not draw never: this run cannot be published" in output
    metrics = record(tmp_path / "toy/headline/seed0")["metrics"]
    assert metrics["test_eror"] is None and metrics["test_error"] >= 0
    assert "short, not measurable" in output and "0 of 1 claims reproduced" in output.splitlines()[-1]


def test_a_script_that_does_not_say_what_it_learns_from_is_told_at_once(tmp_path, toy_data, monkeypatch):
    monkeypatch.setattr(Run, "describe_data", lambda run, **about: None)
    with pytest.raises(ValueError, match=r"train\(\) has to call run.describe_data before it trains"):
        here(TOY, "headline", "--out", tmp_path, "--data-dir", toy_data)
    assert (tmp_path / "toy/headline/seed0/metrics.jsonl").read_text() == ""
