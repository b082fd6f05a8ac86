"""`make wandb-<paper>`: the published runs in W&B, and the paper's numbers in the charts of the same metrics."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from common.claims import Claim, measured
from common.provenance import ROOT
from common.words import label
from tests.test_tracking import KEY, serving, stored
from tools import wandb_runs
from tools.repository import experiments, records
from tools.wandb_runs import curve, paper_rows


@pytest.fixture
def ours(tmp_path, monkeypatch):
    """`make wandb-<paper>` in this process, by a user who has not logged in: EXPERIMENT of gpt -> the folder of its runs."""
    for name, value in {"WANDB_MODE": "", "WANDB_API_KEY": "", "HOME": tmp_path, "NETRC": tmp_path / "none"}.items():
        monkeypatch.setenv(name, str(value))

    def put(experiment="tinyshakespeare", **environment):
        if not environment:
            assert wandb_runs.main("gpt", experiment, str(tmp_path)) == 0
        else:  # wandb looks for who is logged in once
            command = [sys.executable, "-m", "tools.wandb_runs", "--paper", "gpt", "--experiment", experiment, "--out", tmp_path]
            done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, text=True, stdout=subprocess.PIPE, timeout=120)
            print(done.stdout)
            assert done.returncode == 0
        return tmp_path / "published" / "gpt" / experiment

    return put


def tags(folder: Path) -> tuple[list[str], int | None]:
    """(tags, exit code) of the one run in a folder."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("wandb/*run-*-*/run-*.wandb")
    data, at, parts, found, code = path.read_bytes(), 7, b"", [], None
    while at + 7 <= len(data):
        if -at % 2**15 < 7:
            at += -at % 2**15
        _, size, kind = struct.unpack_from("<IHB", data, at)
        at, parts = at + 7 + size, parts + data[at + 7 : at + 7 + size]
        if kind in (1, 4):
            entry, parts = Record.FromString(parts), b""
            found = list(entry.run.tags) or found
            code = entry.exit.exit_code if entry.WhichOneof("record_type") == "exit" else code
    return found, code


def test_offline(ours, capsys, monkeypatch):
    """Numbers read back are the record's; a second time is not one more run; whatever names one run of the user's names none."""
    monkeypatch.setenv("WANDB_NAME", "mine")
    for _ in range(2):
        folder = ours()
    assert "wandb sync " in capsys.readouterr().out.splitlines()[-1]
    table, mine = experiments("gpt")["tinyshakespeare"], [r for r in records("gpt") if r["experiment"] == "tinyshakespeare"]
    assert sorted(path.name for path in folder.iterdir()) == ["paper", *(f"seed{r['seed']}" for r in mine)]
    for record in mine:
        seed = f"seed{record['seed']}"
        run, history, summary = stored(folder / seed)
        about = run.project, run.run_group, run.job_type, run.display_name, run.run_id
        named = f"gpt/tinyshakespeare/{seed}"
        assert about == ("paper-reproductions", "gpt", "tinyshakespeare", named, f"gpt-tinyshakespeare-{seed}")
        assert tags(folder / seed) == (["published", "scaled"], 0)
        flat = {f"claims/{label(claim)}/paper": claim.value for claim in table.claims}
        assert history == [{k: v for k, v in row.items() if k != "time"} | flat for row in curve(record)]
        assert summary.items() >= record["metrics"].items()
        for claim in table.claims:
            assert summary[f"claims/{label(claim)}/ours"] == measured(claim, record)
            assert summary[f"claims/{label(claim)}/verdict"].startswith("scaled")
        config = {item.key: json.loads(item.value_json) for item in run.config.update}
        assert config.items() >= record["config"].items()
        assert [config[name] for name in ("commit", "hardware", "finished")] == [
            record[n] for n in ("commit", "hardware", "finished")
        ]

    run, history, _ = stored(folder / "paper")
    assert (run.run_group, run.display_name, tags(folder / "paper")[0]) == (
        "gpt",
        "gpt/tinyshakespeare paper",
        ["published", "paper"],
    )
    steps = [row["step"] for row in curve(mine[0])]
    values = {claim.metric: claim.value for claim in table.claims}
    assert history == [{"step": step, **values} for step in (steps[0], steps[-1])]


def test_online(ours, capsys):
    """Each run is sent under its own id, from its first line: what the server has of it is written over."""
    with serving() as server:
        ours("wikitext2", WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url)
    sent = {each["name"]: each for each in server.upserts}
    assert [*sent] == ["gpt-wikitext2-seed0", "gpt-wikitext2-paper"]
    assert sent["gpt-wikitext2-seed0"]["tags"] == ["published", "scaled"]
    assert server.offset == 0
    output = capsys.readouterr().out
    assert "http" in output and "wandb sync" not in output


def test_out_of_reach(ours, capsys):
    """Where nobody answers, the first run says so, and none waits after it."""
    with serving(status=401) as server:
        folder = ours("wikitext2", WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url)
    output = capsys.readouterr().out
    assert output.count("W&B cannot be reached") == 1
    assert output.splitlines()[-1].startswith("2 runs are written offline")
    assert len(stored(folder / "seed0")[1])


def test_the_papers_rows():
    """Level lines, points of a curve at their steps, and points along another axis where our curve gets to them."""
    rows = [{"step": step, "samples": 100 * step, "loss": 1.0} for step in (10, 20, 30)]
    level = Claim("error", 2.0)
    assert paper_rows([level], rows, 30) == [{"step": 10, "error": 2.0}, {"step": 30, "error": 2.0}]
    on_curve = [Claim("error", 5.0, at=10), Claim("error", 3.0, at=20)]
    assert paper_rows([*on_curve, level], rows, 30) == [
        {"step": 10, "error": 5.0}, {"step": 20, "error": 3.0}, {"step": 30, "error": 2.0},
    ]  # fmt: skip
    along = [Claim("error", 5.0, at=1500, along="samples"), Claim("error", 4.0, at=9000, along="samples")]
    assert paper_rows(along, rows, 30) == [{"step": 15, "error": 5.0, "samples": 1500}]


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (("nonsense",), {}, "no paper 'nonsense'"),
        (("gpt", "nonsense"), {}, "gpt has no experiment 'nonsense'"),
        (("dcgan",), {}, "dcgan has no published run yet"),
        (("gpt", "", "/proc"), {}, "cannot write to /proc/published"),
        (("gpt",), {"WANDB_MODE": "disabled"}, "turns W&B off"),
        (("gpt",), {"wandb": None}, "wandb is not installed"),
    ],
)
def test_bad_input(arguments, environment, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name, value in environment.items():
        monkeypatch.setitem(sys.modules, name, value) if value is None else monkeypatch.setenv(name, value)
    arguments = (*arguments, *("", str(tmp_path))[len(arguments) - 1 :])
    assert wandb_runs.told(wandb_runs.main, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error
