"""What must hold for every paper. A new folder under papers/ is tested without being listed."""

import dataclasses
import importlib
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from common.options import config_dict
from common.provenance import ROOT
from tests import lacking
from tests.start import STARTED, Started, finish, here, newest, processes, record, rows, until
from tools import tables
from tools.repository import experiments, papers

SCRIPTS = [f"papers.{paper}.train" for paper in papers()]


@pytest.fixture(autouse=True)
def cpu(request, record_property):
    """What a paper's tests use of the CPU, in this process and in those that they start; tests/conftest.py has the limit."""
    named = re.search(r"\[(?:papers[./])?(\w+)", request.node.name)
    if named and named[1] in papers() and lacking.of(named[1]) and "whole" not in request.node.name:
        pytest.skip("test_the_folder_is_whole says what is missing")
    STARTED.clear()
    used = lambda: sum(os.times()[:4])
    begun = used()
    yield
    if paper := re.search(r"\[(?:papers\.)?(\w+)", request.node.name):
        record_property("cpu", (paper[1], used() - begun + sum(each.cpu.value for each in STARTED)))


@pytest.mark.parametrize("paper", papers())
def test_the_folder_is_whole(paper):
    if missing := lacking.of(paper):
        pytest.fail("\n  ".join([f"papers/{paper} lacks", *missing]), pytrace=False)


@pytest.mark.parametrize("paper", papers())
def test_alone(paper, tmp_path):
    """model.py, and keys.py beside it where there are official weights, work in an empty folder with torch and einops."""
    barred = ("common", "papers", "accelerate", "torchvision", "transformers", "timm", "datasets", "tyro", "wandb")
    folder = ROOT / "papers" / paper
    for name in ["model.py", *(path.name for path in folder.glob("keys.py"))]:
        shutil.copy(folder / name, tmp_path)
        run = Started(tmp_path / "log", "tests.barred", tmp_path / name, *barred)
        assert run.wait() == 0, run.output()
        assert not re.search(r"^\s*(from|import) (common|papers|\.)", (folder / name).read_text(), re.MULTILINE)


KILLS = {"tests.toy.train": 3}  # of the papers one; random kills over all of them are tests/torture.py's


@pytest.mark.parametrize("script", [*SCRIPTS, "tests.toy.train"])
def test_resume(script, tmp_path, record_property):
    """A run that was killed ends as one that was left alone, bit for bit: metrics, weights, optimizer, result."""
    alone = Started(tmp_path / "log", script, "smoke", "--out", tmp_path / "straight", DATA_DIR=str(tmp_path / "nothing"))
    if alone.wait():
        pytest.fail(f"smoke has to run anywhere, on stand-in data; it ended with\n{alone.output()}", pytrace=False)
    if script in SCRIPTS:
        record_property("smoke", (script.split(".")[1], alone.cpu.value))
    straight = next((tmp_path / "straight").glob("*/smoke/seed0"))
    lines = rows(straight)
    killed = tmp_path / "killed" / straight.relative_to(tmp_path / "straight")

    kills = 0
    for n in sorted(random.sample(range(1, len(lines)), KILLS.get(script, 1))):
        run = Started(tmp_path / "log", script, "smoke", "--out", tmp_path / "killed")
        until(lambda run=run, n=n: not run.alive or ((killed / "metrics.jsonl").exists() and lines_so_far(killed) >= n))
        if run.alive:
            run.kill(signal.SIGKILL)
        kills += run.wait() == -signal.SIGKILL
    assert kills >= 1
    finish([Started(tmp_path / "log", script, "smoke", "--out", tmp_path / "killed")])

    assert rows(killed) == lines
    assert record(killed)["metrics"] == record(straight)["metrics"]
    assert record(killed)["steps"] == record(straight)["steps"]
    assert_equal(newest(killed)["objects"], newest(straight)["objects"])


def lines_so_far(directory):
    return (directory / "metrics.jsonl").read_bytes().count(b"\n")


def assert_equal(a, b):
    """Nested dicts, lists and tensors, equal in every bit."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


def without_dropout(experiment):
    """Flags that set every hyper-parameter whose name ends in dropout to 0."""
    names = [f.name for f in dataclasses.fields(experiment.config) if f.name.endswith("dropout")]
    return [word for name in names for word in (f"--{name.replace('_', '-')}", "0")]


@pytest.mark.parametrize(
    ("script", "name"), [*((s, "smoke") for s in SCRIPTS), ("tests.toy.train", "smoke"), ("tests.toy.train", "norm")]
)
def test_processes(script, name, tmp_path, toy_data, monkeypatch):
    """1 process, 2 processes and 2 micro-batches take the same steps; with batch norm, the same global batches."""
    experiment = importlib.import_module(script).EXPERIMENTS[name]
    if experiment.per_sample:
        for variable, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "x"}.items():
            monkeypatch.setenv(variable, value)
        code, output = here(script, name, "--out", tmp_path)
        assert code == 2
        assert "cannot be split among 2 processes" in output and output.count("\n") == 1
        assert not any(tmp_path.glob("*/smoke"))
        return

    flags = [name, "--precision", "fp32", "--data-dir", toy_data, *without_dropout(experiment)]
    two = processes(2, tmp_path / "two.log", script, *flags, "--out", tmp_path / "2")
    code, one = here(script, *flags, "--out", tmp_path / "1")
    assert code == 0, one
    finish(two)
    directory = {out: next((tmp_path / out).glob("*/*/seed0")) for out in "12"}
    assert record(directory["1"])["processes"] == 1
    assert record(directory["2"])["processes"] == 2
    has_batch_norm = any("running_var" in key for state in newest(directory["1"])["objects"].values() for key in state)
    batch = re.compile(r"global batch (\d+)")
    if has_batch_norm:  # its statistics are per process, as in the papers
        assert batch.search(one)[1] == batch.search(two[0].output())[1]
        assert [row["step"] for row in rows(directory["1"])] == [row["step"] for row in rows(directory["2"])]
        return
    size = -(-int(batch.search(one)[1]) // 2)
    code, output = here(script, *flags, "--micro-batch", size, "--out", tmp_path / "m")
    assert code == 0, output
    directory["m"] = next((tmp_path / "m").glob("*/*/seed0"))
    assert_close(rows(directory["2"]), rows(directory["1"]))
    assert_close(rows(directory["m"]), rows(directory["1"]))


def assert_close(a, b, relative=1e-5):
    assert len(a) == len(b) and len(a) > 2
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for key in x:
            assert math.isclose(x[key], y[key], rel_tol=relative, abs_tol=1e-9), (key, x, y)


@pytest.mark.parametrize("page", [*tables.files(), ROOT / "CONTRIBUTING.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_every_generated_table_agrees_with_its_records():
    assert [str(path) for path in tables.stale()] == []


@pytest.mark.parametrize("paper", papers())
def test_experiments_say_what_they_are(paper):
    table = experiments(paper)
    for name, experiment in table.items():
        assert experiment.source and experiment.cost and experiment.cap, name
        on = r"CPU|GPU of|any one GPU|H100|A100|TPU|P100|RTX"
        assert experiment.kind == "smoke" or re.search(on, experiment.cost), f"{name}: say on what it costs that"
        for claim in experiment.claims:
            assert claim.source and claim.why, (
                f"{name}: {claim.metric}: say where it is printed, and where the tolerance comes from"
            )
            assert claim.at is None or {claim.metric, claim.along} <= {*experiment.curves}, f"{name}: no curve of {claim.metric}"
        if experiment.kind in ("reading", "scaled"):
            assert experiment.note, f"{name}: say what is read differently, or scaled"
    assert len((ROOT / "papers" / paper / "model.py").read_text().splitlines()) <= 260


@pytest.mark.parametrize("paper", papers())
def test_a_page_has_its_parts_in_order(paper):
    """What was found comes first, with one picture where there are any; the whole list of claims late. Others may stand between."""
    page = (ROOT / "papers" / paper / "README.md").read_text()
    first = page.partition("\n## What was found\n")[2]
    assert first.startswith("\n<!-- generated: found")
    if any((ROOT / "papers" / paper / "figures").glob("*.png")):
        assert first.partition("\n## ")[0].partition("<!-- generated: ran")[0].count("](figures/") == 1
    for link in re.findall(r"\]\(#([\w-]+)\)", page):
        assert link in {tables.anchor(heading) for heading in re.findall(r"^#+ (.+)$", page, re.MULTILINE)}, link


@pytest.mark.parametrize("page", [path for path in tables.files() if path.suffix == ".md"], ids=lambda page: page.parent.name)
def test_commands_of_a_page_work_when_pasted(page):
    """They name papers, experiments, weights and scripts that are there."""
    targets = {*re.findall(r"^([\w-]+)[%:]", (ROOT / "Makefile").read_text(), re.MULTILINE)}
    for command in re.findall(r"`+(?:\n)?((?:make|python -m) [^`]+)`", page.read_text()):
        for line in command.splitlines():
            if line.startswith("make ") and not re.search(r"<paper>|=\S* ?\.\.\.|python3 \.\.\.", line):
                verb, paper = re.match(r"make (?:PY=\S+ )?([a-z]+-?)(\w*)", line).groups()
                assert (verb + paper if verb[-1] != "-" else verb) in targets, line
                assert not paper or paper in papers(), line
                for name in re.findall(r"EXPERIMENT=([\w.@-]+)", line):
                    assert name in experiments(paper), line
                if verb == "evaluate-" and (weights := re.search(r'ARGS="?([^\s"]+)', line)):
                    named = f"weights-{weights[1]}" in experiments(paper)
                    assert named or re.search(r"\.\w+$|/|^[A-Z]+$", weights[1]), line
            if line.startswith("python -m ") and "<paper>" not in line:
                assert (ROOT / (line.split()[2].replace(".", "/") + ".py")).exists(), line


@pytest.mark.parametrize("paper", papers())
def test_a_configuration_tells_experiments_apart(paper):
    """What is trained follows from the configuration alone, which is all that a record keeps of it."""
    seen = {}
    for name, e in experiments(paper).items():
        key = json.dumps([type(e.config).__name__, config_dict(e.config), e.precision, e.kind], sort_keys=True)
        assert seen.setdefault(key, name) == name, f"{name} and {seen[key]} have the same configuration"


@pytest.mark.parametrize("paper", papers())
def test_claimed_metrics_are_explained(paper):
    """In *What is logged*; there `first_...` and `..._lr4` stand for many, and `<split>` for a word."""
    page = (ROOT / "papers" / paper / "README.md").read_text().partition("\n## What is logged\n")[2].partition("\n## ")[0]
    keys = {key if key[0] != "_" else f"...{key}" for key in re.findall(r"`([^`\s]+)`", page)}
    wild = re.compile("|".join(re.sub(r"(\\.){3}|<\w+>", ".+", re.escape(key)) for key in keys))
    for name, e in experiments(paper).items():
        for claim in e.claims:
            assert wild.fullmatch(claim.metric), f"{name}: {claim.metric} is not explained"


@pytest.mark.parametrize("paper", papers())
def test_claims_stand_on_claims(paper):
    for name, e in experiments(paper).items():
        for claim in e.claims:
            assert not claim.stands_on or claim.stands_on in {other.metric for other in e.claims} - {claim.metric}, name


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_comes_at_once(script, monkeypatch):
    """Without torch, and word for word as with it."""
    monkeypatch.setenv("COLUMNS", "100")
    words = lambda text: re.findall(r"\w[\w.,;:()/<>%-]*", text)
    for argv in (["--help"], ["smoke", "--help"]):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        quick = subprocess.run([sys.executable, "-m", script, *argv], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.2
        assert words(quick) == words(here(script, *argv)[1]) and len(words(quick)) > 50
