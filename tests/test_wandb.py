"""The published runs in a user's own W&B, and runs compared. Nothing here leaves this machine."""

import json
import re

import pytest
import wandb as library
from PIL import Image

from common import track
from common.errors import BadInput
from common.files import read_rows
from common.provenance import ROOT
from tests.start import Started, here
from tests.test_tracking import KEY, curve, entries, serving
from tools import compare, wandb
from tools.repository import experiments, papers, records

PAPER = "vae"  # claims at places of a curve among its claims
NAME = "mnist-nz20"


@pytest.fixture
def mine():
    """One published record, and what the paper prints of it."""
    (record,) = (r for r in records(PAPER) if (r["experiment"], r["seed"]) == (NAME, 0))
    return record


@pytest.fixture
def one(mine, monkeypatch):
    monkeypatch.setattr(wandb, "records", lambda paper: [mine] if paper == PAPER else [])


def stored(folder):
    """Of each offline run: name -> (its run record, its rows, its summary)."""
    library.teardown()  # its service writes files beside this process: they are whole when it has ended
    found = [entries(path) for path in folder.glob("published/wandb/offline-run-*/run-*.wandb")]
    return {run.display_name: (run, history, summary) for run, history, summary in found}


def test_a_record_is_read_back_as_it_was_published(mine, one, tmp_path, monkeypatch, capsys):
    """From wandb's own file: curve, metrics, claims, configuration; sent twice it is there once."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    for _ in range(2):
        assert wandb.main(PAPER, out=str(tmp_path)) == 0
        runs = stored(tmp_path)
        assert sorted(runs) == [f"{PAPER}/{NAME}/paper", f"{PAPER}/{NAME}/seed0 published"]
    assert f"wandb sync {tmp_path}/published/wandb/offline-run-*" in capsys.readouterr().out
    run, history, summary = runs[f"{PAPER}/{NAME}/seed0 published"]
    claims = experiments(PAPER)[NAME].claims
    expected = [
        {k: v for k, v in row.items() if k != "time"} | track.flat(claims)
        for row in read_rows(ROOT / "papers" / PAPER / "curves" / f"{NAME}-seed0.jsonl")
    ]
    assert len(history) > 5 and history == expected
    assert summary.items() >= {k: v for k, v in mine["metrics"].items() if v is not None}.items()
    for claim in claims:
        ours = summary[f"claims/{claim.key}/ours"]
        assert summary[f"claims/{claim.key}/difference"] == pytest.approx(ours - claim.value)
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    facts = config.pop("record")
    assert {name: config[name] for name in mine["config"]} == mine["config"]
    assert (facts["commit"], facts["hardware"], facts["seed"], facts["data"]) == (mine["commit"], mine["hardware"], 0, mine["data"])
    assert (run.run_group, run.job_type, "published" in run.tags, len(run.tags) > 1) == (PAPER, NAME, True, True)

    run, history, summary = runs[f"{PAPER}/{NAME}/paper"]  # in the metrics' own charts
    for claim in claims:
        steps = [0, mine["steps"]] if claim.at is None else [int(claim.at)] * (claim.along == "step")
        assert [row["step"] for row in history if row.get(claim.metric) == claim.value] == steps or claim.at is not None
    assert list(run.tags) == ["paper"]


def test_ids_follow_from_records():
    """Of all published runs, none twice; and the same every time."""
    ids = [each.settings["id"] for paper in ("lstm", "gpt", "lenet") for each in wandb.runs_of(paper)]
    assert len(ids) == len({*ids}) > 60
    assert ids == [each.settings["id"] for paper in ("lstm", "gpt", "lenet") for each in wandb.runs_of(paper)]


@pytest.mark.slow
def test_sent_to_a_server(tmp_path):
    """What is uploaded is the records' curves and what the paper prints; to a server that has them, nothing more."""
    shown = wandb.runs_of("seq2seq_attention")
    names = [each.settings["name"] for each in shown]
    assert len(names) > 2 and all(each.rows for each in shown)
    bucket = {"id": "x", "name": "n", "displayName": "n", "config": "{}", "summaryMetrics": json.dumps({"step": 10**9}), "tags": []}
    bucket |= {"wandbConfig": '{"t": 1}', "historyLineCount": 4, "eventsLineCount": 0, "logLineCount": 0, "eventsTail": "[]"}
    bucket |= {"historyTail": json.dumps([json.dumps({"_step": 3, "_runtime": 1, "step": 10**9})])}
    environment = {"WANDB_API_KEY": KEY, "HOME": str(tmp_path), "NETRC": str(tmp_path / "none"), "WANDB_MODE": ""}
    for known, expected in ((None, [row for each in shown for row in each.rows]), (bucket, [])):
        with serving(known=known) as server:
            argv = ("--paper", "seq2seq_attention", "--out", tmp_path)
            run = Started(tmp_path / "log", "tools.wandb", *argv, **environment | {"WANDB_BASE_URL": server.url})
            assert run.wait() == 0, run.output()
        assert curve(server.history) == [{k: v for k, v in row.items() if k != "time"} for row in expected]
        sent = {each["name"]: each for each in reversed(server.upserts)}
        assert [sent[each.settings["id"]]["displayName"] for each in shown] == names
        assert {each["groupName"] for each in sent.values()} == {"seq2seq_attention"}
        assert {"published", "paper"} <= {tag for each in sent.values() for tag in each["tags"]}
        assert "offline" not in run.output()


def test_a_saved_view_has_a_chart_for_each_metric_that_is_judged():
    made = wandb.view("gpt", "me", track.PROJECT)
    charts = {section.name: [panel.y for panel in section.panels] for section in made.sections}
    for name, experiment in experiments("gpt").items():
        if experiment.claims:
            assert [str(y[0].name if hasattr(y[0], "name") else y[0]) for y in charts[name]] == [
                *dict.fromkeys(claim.metric for claim in experiment.claims)
            ]
    assert "gpt" in str(made.runset_settings.filters)


@pytest.mark.parametrize(
    "paper, environment, said",
    [
        ("nobody", {}, "no paper 'nobody'"),
        (PAPER, {"WANDB_MODE": "disabled"}, "W&B is disabled"),
        ("ddpm", {}, "nothing is published"),
    ],
)
def test_what_cannot_be_sent_is_refused(paper, environment, said, tmp_path, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(wandb, "records", lambda paper: [] if paper == "ddpm" else records(paper))
    with pytest.raises(BadInput, match=re.escape(said)):
        wandb.main(paper, out=str(tmp_path))


# make compare


def test_two_runs_of_a_user_beside_the_published_one(tmp_path, toy_data, monkeypatch, capsys):
    """In which options they differ, claims, the paper's value, what each has come to; and a picture with all curves."""
    flags = ["smoke", "--out", tmp_path]
    assert here("papers.gpt.train", *flags)[0] == 0
    assert here("papers.gpt.train", *flags, "--apart", "--lr", "0.003")[0] == 0
    folder = tmp_path / "gpt/smoke"
    (folder / "seed0-lr=0.003" / "result.json").unlink()  # still under way
    names = [str(folder / "seed0"), str(folder / "seed0-lr=0.003"), "gpt/tinyshakespeare/seed1"]
    capsys.readouterr()
    assert compare.main(tuple(names), to=str(tmp_path / "c.png")) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {re.split(r"  +", line)[0]: re.split(r"  +", line) for line in lines if line}
    assert lines[0].split()[:4] == ["paper", "smoke/seed0", "smoke/seed0-lr=0.003", "tinyshakespeare/seed1"]
    assert rows["lr"][1:3] == [str(experiments("gpt")["smoke"].config.lr), "0.003"]
    (published,) = (r for r in records("gpt") if (r["experiment"], r["seed"]) == ("tinyshakespeare", 1))
    loss = next(claim for claim in experiments("gpt")["tinyshakespeare"].claims if claim.metric == "val_loss")
    assert rows["val_loss"][1].startswith(f"{loss.value:.4g}") and rows["val_loss"][-1] == f"{published['metrics']['val_loss']:.4g}"
    assert "at step" in rows["val_loss"][3]
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.width > 500 and "seed0-lr=0.003" in picture.text["Description"]
    axes = compare.picture([side for name in names for side in compare.found(name)]).axes[0]
    assert axes.get_title() == "val_loss" and len(axes.lines) == 4  # three runs, and the paper's
    assert [*axes.lines[3].get_ydata()] == [loss.value] * 2


@pytest.mark.parametrize("runs", [(), ("gpt/tinyshakespeare/seed0",), ("gpt/tinyshakespeare", "gpt/nothing"), ("nowhere", "gpt")])
def test_what_is_no_run_is_refused(runs, tmp_path):
    with pytest.raises(BadInput):
        compare.main(runs, to=str(tmp_path / "c.png"))
    assert not (tmp_path / "c.png").exists()


def test_every_published_record_can_be_shown():
    """Those of each paper: none has a claim or a curve that these tools stumble over."""
    for paper in papers():
        for each in wandb.runs_of(paper):
            assert {"id", "group", "job_type", "name", "config", "tags"} == each.settings.keys()
            assert [row["step"] for row in each.rows] == sorted(row["step"] for row in each.rows)
