"""Verdicts, tables, and what may be published."""

import dataclasses
import functools
import itertools
import json
import math
import re
import subprocess

import pytest

from common import provenance
from common.claims import Claim, Verdict, measured, reached, values, verdict
from common.errors import BadInput
from common.options import config_dict, differences
from common.words import label, number, paper_value, spread, tolerance
from tests.start import judged
from tests.toy.train import EXPERIMENTS
from tools import grids, publish, tables
from tools import repository as repository_of
from tools.repository import papers, pictures, records

LOWER = Claim("error", 7.0, "%", lower_is_better=True, tolerance=0.3)
HIGHER = Claim("bleu", 27.3, tolerance=0.2)
GAIN = Claim("gain", 0.0, noise=1.0)
EITHER = Claim("success_rate", 22.0, "%", tolerance=6.0, either_way=True)


@pytest.mark.parametrize(
    ("claim", "kind", "values", "verdict"),
    [
        (LOWER, "paper", [6.0], "reproduced"),
        (LOWER, "paper", [7.3], "reproduced"),  # 7.3 - 7.0 > 0.3 in binary
        (LOWER, "paper", [7.31], "short by 0.31%"),
        (LOWER, "paper", [7.0, 8.0], "short by 0.5%"),  # the mean over seeds, not the best of them
        (HIGHER, "paper", [30.0], "reproduced"),
        (HIGHER, "paper", [27.1], "reproduced"),
        (HIGHER, "paper", [25.3], "short by 2"),
        (HIGHER, "paper", [float("nan")], "short, not measurable"),
        (HIGHER, "paper", [], "not run"),
        (HIGHER, "scaled", [30.0], "scaled"),
        (HIGHER, "weights", [27.3], "weights"),
        (HIGHER, "reading", [1.0], "reading"),
        (HIGHER, "scaled", [], "not run"),
        (EITHER, "paper", [28.0], "reproduced"),
        (EITHER, "paper", [16.0], "reproduced"),
        (EITHER, "paper", [100.0], "short by 78%"),
        (EITHER, "paper", [0.0], "short by 22%"),
        (GAIN, "paper", [1.5], "reproduced"),
        (GAIN, "paper", [0.9], "short, within noise"),
        (GAIN, "paper", [-0.9], "short, within noise"),  # whatever its sign
        (GAIN, "paper", [-1.5], "short by 1.5"),
        (GAIN, "paper", [0.9, 0.9, 0.9, 0.9], "short, within noise"),  # they are measured on the same examples
        (GAIN, "paper", [0.9, 1.2], "reproduced"),
        (GAIN, "paper", [-1.0, 4.0], "short, within noise"),  # a mean of 1.5, with a standard error of 2.5
        (GAIN, "scaled", [0.9], "scaled, within noise"),
    ],
)
def test_verdict(claim, kind, values, verdict):
    assert judged(claim, kind, values) == verdict


def test_a_claim_that_stands_on_another_falls_with_it():
    """The mean over solved trials means nothing where too few are."""
    rate, mean = Claim("success_rate", 100, tolerance=10), Claim("sequences", 500, lower_is_better=True, stands_on="success_rate")
    experiment = dataclasses.replace(EXPERIMENTS["headline"], kind="paper", claims=[rate, mean])
    solved, failed = {"metrics": {"success_rate": 95, "sequences": 400}}, {"metrics": {"success_rate": 40, "sequences": 400}}
    assert verdict(experiment, mean, [solved]) == Verdict("reproduced")
    assert verdict(experiment, mean, [failed]) == Verdict("short", reason="as success_rate is")
    assert verdict(experiment, mean, []) == Verdict("not run")
    assert verdict(dataclasses.replace(experiment, kind="reading"), mean, [failed]) == Verdict("reading")


def test_a_claim_cannot_ask_for_more_than_the_paper_has():
    with pytest.raises(ValueError, match="negative tolerance"):
        Claim("dev_f1", 70.3, tolerance=-15)


def test_a_hyper_parameter_that_an_older_record_lacks_had_its_default():
    config = EXPERIMENTS["headline"].config
    whole = dataclasses.asdict(config)
    older = {name: value for name, value in whole.items() if name != "lr"}
    assert differences(whole, config) == differences(older, config) == []
    assert differences(older, dataclasses.replace(config, lr=0.5)) == [f"lr {config.lr} -> 0.5"]
    assert differences(whole | {"gone": 1}, config) == ["gone 1 -> None"], "what is no more was something"


CURVE = {"curves": {"samples": [10, 100, 1000], "bound": [-130.0, -110.0, -101.0]}, "metrics": {}}


def test_what_counts_as_reproduced_is_said():
    assert [tolerance(claim) for claim in (LOWER, HIGHER, EITHER)] == ["≤ 7.3", "≥ 27.1", "22 ± 6"]


@pytest.mark.parametrize(("at", "value"), [(10, -130.0), (55, -120.0), (100, -110.0), (1000, -101.0)])
def test_a_claim_about_a_curve_is_judged_at_its_point(at, value):
    """On a point of the curve, or on the straight line between two."""
    claim = Claim("bound", -120, "nats", at=at, along="samples", tolerance=5)
    assert measured(claim, CURVE) == value
    assert judged(claim, "paper", values(claim, [CURVE, CURVE])) == ("reproduced" if value >= -125 else "short by 10 nats")


@pytest.mark.parametrize("at", [9, 1001])
@pytest.mark.parametrize("record", [CURVE, {"metrics": {}}, {"curves": {"samples": [], "bound": []}, "metrics": {}}])
def test_what_a_curve_does_not_reach_is_not_measurable(at, record):
    claim = Claim("bound", -120, at=at, along="samples")
    assert math.isnan(measured(claim, record)) and judged(claim, "paper", values(claim, [record])) == "short, not measurable"


def test_where_a_curve_reaches_a_level():
    assert reached([10, 100, 1000], [-130, -110, -101], -120) == 55
    assert reached([10, 100], [-130, -110], -110) == 100 and reached([10, 100], [-130, -110], -140) == 10
    assert reached([10, 100, 1000], [-130, -100, -120], -115) == 55, "for the first time"
    assert math.isnan(reached([10, 100], [-130, -110], -109)) and math.isnan(reached([], [], 0))


def test_how_a_claim_about_a_curve_is_written():
    claim = Claim("bound", -100, "nats", "Fig. 2", tolerance=3, at=1e7, along="samples", read=3)
    assert label(claim) == "bound at 10,000,000 samples" and paper_value(claim) == "≈ -100 ± 3 nats"
    assert label(LOWER) == "error" and paper_value(LOWER) == "7%"


def test_numbers():
    assert [number(x) for x in (0.012346, 8.61, 31390, 999.94, 25473.4, float("nan"), None)] == [
        *("0.01235", "8.61", "31,390", "999.9", "25,473", "–", "–")
    ]
    assert spread([]) == "–" and spread([8.6]) == "8.6"


def test_numbers_are_rounded_to_what_their_spread_supports():
    """One digit of the standard deviation, two where it begins with a 1; the mean to the same place."""
    assert spread([1.17, 1.02, 1.075]) == "1.09 ± 0.08 (3)"
    assert spread([22799, 24411, 26023]) == "24,400 ± 1,600 (3)"
    assert spread([8.0, 9.0, 10.0]) == "9.0 ± 1.0 (3)" and spread([0.9, -0.9]) == "0.0 ± 1.3 (2)"
    assert spread([99.5, 102.5]) == "101 ± 2 (2)" and spread([8.0, 8.0]) == "8 ± 0 (2)"
    assert spread([0.003314, 0.0033140005]) == "0.003314 ± 4e-10 (2)", "seeds that agree"
    assert spread([8.0, math.nan]) == "–", "a seed that could not measure it"


HEAD = "# Toy (2020)\n<!-- field: toys -->\n\n"
PARTS = [f"## {n}\n<!-- generated: {n} -->\n<!-- end -->\n" for n in ("contents", "found", "ran", "runs", "claims", "records")]


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with one paper, the toy, and no results; tables and publish look at it."""
    root = tmp_path / "repository"
    (root / "papers" / "toy").mkdir(parents=True)
    (root / "common").mkdir()
    (root / "papers" / "toy" / "train.py").write_text("# code")
    (root / "papers" / "toy" / "README.md").write_text("".join([HEAD, *PARTS, "by hand\n"]))
    (root / "README.md").write_text("<!-- generated: papers -->\n<!-- end -->\n")
    (root / "reproductions.md").write_text("<!-- generated: reproductions -->\n<!-- end -->\n")
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", root, *command], check=True)
    for module in (tables, publish, provenance, repository_of):
        monkeypatch.setattr(module, "ROOT", root)
    monkeypatch.setattr(publish, "pictures", lambda paper: {})
    for module in (tables, grids, publish):
        monkeypatch.setattr(module, "experiments", lambda paper: EXPERIMENTS)
    monkeypatch.setattr(tables, "shapes", lambda paper: {})
    return root


def write_run(runs, seed=0, name="headline", **changes):
    """A finished run as common.run leaves it."""
    directory = runs / "toy" / name / f"seed{seed}"
    (directory / "figures").mkdir(parents=True, exist_ok=True)
    record = {
        "paper": "toy", "experiment": name, "kind": EXPERIMENTS[name].kind, "seed": seed, "metrics": {"test_error": 22.0 + seed},
        "data": {"name": "toy", "stand_in": False}, "config": dataclasses.asdict(EXPERIMENTS[name].config), "wall_s": 60.0,
        "samples_per_s": 10.0, "hardware": "1x GPU", "precision": "fp32", "finished": "2026",
        "commit": provenance.commit(), "files": (files := ["papers/toy/train.py"]), "code": provenance.code_hash(files),
    }  # fmt: skip
    record |= changes
    (directory / "result.json").write_text(json.dumps(record))
    (directory / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": i, "time": 0, "loss": 1 / i}) + "\n" for i in range(1, 1000))
    )
    (directory / "figures" / "curve.png").write_bytes(b"png of seed %d" % seed)
    return record


def test_publish(repository, tmp_path, capsys):
    runs = tmp_path / "runs"
    written = [write_run(runs, seed) for seed in (0, 1)]
    write_run(runs, name="smoke")
    assert publish.publish("toy", runs) == 0
    assert records("toy") == written, "smoke runs are not published"
    folder = repository / "papers" / "toy"
    assert (folder / "figures" / "headline-curve.png").read_bytes() == b"png of seed 0"
    curve = [json.loads(line)["step"] for line in (folder / "curves" / "headline-seed1.jsonl").read_text().splitlines()]
    assert len(curve) == 200 and curve[:10] == [*range(1, 11)] and curve[-1] == 999 and curve == sorted(set(curve))
    assert "time" not in (folder / "curves" / "headline-seed1.jsonl").read_text()
    page = (folder / "README.md").read_text()
    row = "| `headline` | `test_error` | 20% | ≤ 25 | 22.5 ± 0.7 (2) | reproduced |"
    assert row in page and "by hand" in page
    assert "**1 of 1 claim judged: 1 reproduced.** All of it: 2 runs, 2 min on 1x GPU." in page
    assert "### Table 1\n\n1 claim: 1 reproduced\n\n|  | `test_error` <sup>1</sup> |" in page
    assert "| `headline` | 20% / 22.5 ± 0.7 (2) ✓ |" in page and "\n1. at most 5% above: " in page
    assert '| `make reproduce-toy SEEDS="0 1"` | paper |' in page
    assert "[found](#found) · [ran](#ran) · [runs](#runs)" in page
    front = (repository / "README.md").read_text().replace("\u00a0", " ")
    assert "| [Toy (2020)](papers/toy/README.md) | **22.5 ± 0.7 (2)**, paper 20%: reproduced<br>test error, headline |" in front
    assert "| ██████████<br>1 of 1: 1 ✓ | 2 runs, 2 min<br>1x GPU |" in front
    assert "22.5 ± 0.7 (2) | reproduced | 2 runs, 2 min on 1x GPU" in (repository / "reproductions.md").read_text()
    (row,) = json.loads((repository / "reproductions.json").read_text())
    assert row["ours"] == [22.0, 23.0] and row["verdict"]["word"] == "reproduced" and row["claim"]["value"] == 20.0
    assert row["year"] == 2020 and row["wall_s"] == [60.0, 60.0] and row["hardware"] == ["1x GPU"] * 2
    assert tables.stale() == []
    assert capsys.readouterr().out.startswith("added     headline seed 0\nadded     headline seed 1\n")

    write_run(runs, 1, metrics={"test_error": 42.0})
    assert publish.publish("toy", runs) == 0
    assert "unchanged headline seed 0\nreplaced  headline seed 1\n" in capsys.readouterr().out
    assert "32 ± 14 (2) | short by 12% |" in (folder / "README.md").read_text()


def test_a_picture_that_was_not_drawn_stops_nothing(repository, tmp_path, capsys):
    """The record is refused, before anything of it is written; the others are published."""
    for seed in (0, 1):
        write_run(tmp_path / "runs", seed)
    (tmp_path / "runs/toy/headline/seed0/figures/curve.png").unlink()
    assert publish.publish("toy", tmp_path / "runs") == 1
    assert "refused   headline seed 0: it has no picture curve" in capsys.readouterr().out
    assert [record["seed"] for record in records("toy")] == [1] and tables.stale() == []
    assert not (repository / "papers/toy/curves/headline-seed0.jsonl").exists()


@pytest.mark.parametrize("n", [0, 1, 2, 9, 10, 11, 199, 200, 201, 500, 5000])
@pytest.mark.parametrize("rare", [0, 3, 50, 500])
def test_published_curves(n, rare):
    """The beginning whole, evaluations kept as long as there is room, the last line, and at most so many."""
    rows = [{"step": i, "loss": 0.5} | ({"error": 1} if rare and i % max(1, n // rare) == 0 else {}) for i in range(1, n + 1)]
    steps = [row["step"] for row in publish.thinned(rows)]
    assert steps == sorted({*steps}) and len(steps) == min(n, publish.CURVE)
    assert steps[:10] == [row["step"] for row in rows[:10]] and steps[-1:] == [row["step"] for row in rows[-1:]]
    if rare < 100:
        assert {row["step"] for row in rows if "error" in row} <= {*steps}


def test_a_table_that_disagrees_with_its_records_is_found(repository, tmp_path, capsys):
    write_run(tmp_path / "runs")
    publish.publish("toy", tmp_path / "runs")
    assert tables.main("check") == 0
    page = repository / "papers" / "toy" / "README.md"
    page.write_text(page.read_text().replace("| 22 |", "| 12 |", 1))
    assert tables.stale() == [page] and tables.main("check") == 1
    assert capsys.readouterr().out.endswith("papers/toy/README.md is not as the records have it: make tables\n")
    results = repository / "papers" / "toy" / "results.json"
    old = json.loads(results.read_text())
    old[0]["config"]["lr"] = 0.5
    results.write_text(json.dumps(old))
    with pytest.raises(BadInput, match=r"headline seed 0 was run with other hyper-parameters .*lr 0.5 -> 0.02"):
        tables.stale()
    write_run(tmp_path / "runs", 1)
    assert (
        publish.main(
            [
                "toy",
                str(tmp_path / "runs"),
            ]
        )
        == 0
    ), "seed 0 is published anew, seed 1 beside it"
    old[0]["experiment"] = "norm"
    results.write_text(json.dumps(old))
    assert publish.main(["toy", str(tmp_path / "runs")]) == 2, "publish says so, too, when an older record is out of date"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data": {"name": "toy", "stand_in": True}}, "stand-in"),
        ({"config": {"lr": 0.5}}, "other hyper-parameters"),
        ({"precision": "bf16"}, "in bf16, which is not what the experiment runs in"),
        ({"changes": [{"after": "step5", "what": "other code"}]}, "changed on the way"),
        ({"commit": None}, "names no commit"),
        ({"commit": "0" * 40}, "not in this repository"),
        ({"code": "sha256 0"}, "not made by the code of its commit"),
        ({"experiment": "gone"}, "no such experiment"),
        ({"files": ["papers/toy/train.py", "common/gone.py"]}, "its commit"),
    ],
)
def test_what_cannot_be_trusted_is_not_published(changes, reason, repository, tmp_path, capsys):
    write_run(tmp_path / "runs", seed=0)
    write_run(tmp_path / "runs", seed=1, **changes)
    assert publish.main(["toy", str(tmp_path / "runs")]) == 2
    output = capsys.readouterr().out
    assert "added     headline seed 0" in output
    assert reason in next(line for line in output.splitlines() if line.startswith("refused"))
    assert [record["seed"] for record in records("toy")] == [0]


def test_a_processor_without_bf16_publishes_in_single_precision(tmp_path):
    """Nothing else passes for bf16, and single precision not for double."""
    e, record = EXPERIMENTS["smoke"], {"data": {"stand_in": False}, "commit": None}
    record["config"] = config_dict(e.config)
    for runs, made, refused in (("bf16", "fp32", False), ("bf16", "fp64", True), ("fp64", "fp32", True), ("tf32", "fp32", True)):
        experiment = dataclasses.replace(e, precision={"cpu": runs, "cuda": runs}, figures=())
        said = publish.refusal(record | {"precision": made}, experiment, tmp_path)
        assert ("which is not what the experiment runs in" in said) == refused, said


def test_code_hash_is_that_of_the_commit_only_while_nothing_is_changed(repository):
    files = ("papers/toy/train.py",)
    code = provenance.code_hash(files)
    assert provenance.code_hash_at(provenance.commit(), files) == code
    (repository / "papers" / "toy" / "README.md").write_text("tables do not matter")
    (repository / "common" / "new.py").write_text("nor what is not imported")
    assert provenance.code_hash(files) == code
    (repository / "papers" / "toy" / "train.py").write_text("# other code")
    assert provenance.code_hash(files) != code
    assert provenance.code_hash_at(provenance.commit(), files) == code
    assert provenance.code_hash_at(provenance.commit(), (*files, "papers/toy/gone.py")) is None


def test_the_files_that_can_move_a_number_are_found_by_import(repository):
    """Those of the paper and of common, however they are imported; not what only looks on, nor what is not imported."""
    contents = {
        "papers/toy/train.py": "import torch\nfrom common import a\nfrom papers.toy.model import net\nimport common.track\n",
        "papers/toy/model.py": "def net():\n    from common.data.b import c\n",
        "papers/toy/benchmark.py": "from papers.toy import train\n",
        "common/__init__.py": "", "common/a.py": "import common.track\n", "common/track.py": "import common.seen\n",
        "common/data/__init__.py": "from common.data import d\n", "common/data/b.py": "c = 1\n", "common/data/d.py": "",
        "common/seen.py": "", "common/unused.py": "",
    }  # fmt: skip
    for name, content in contents.items():
        (repository / name).parent.mkdir(exist_ok=True)
        (repository / name).write_text(content)
    assert provenance.files_of(repository / "papers/toy/train.py") == [
        "common/__init__.py", "common/a.py", "common/data/__init__.py", "common/data/b.py", "common/data/d.py",
        "papers/toy/model.py", "papers/toy/train.py",
    ]  # fmt: skip


def test_what_looks_on_computes_nothing():
    for name in provenance.SPECTATORS:
        assert not re.search(r"^\s*(import|from) (torch|numpy)", (provenance.ROOT / name).read_text(), re.MULTILINE), name


def test_commit_without_git(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.commit() is None
    monkeypatch.setenv("COMMIT", "abc")
    assert provenance.commit() == "abc"


def test_records_are_written_with_a_line_for_each_list():
    kept = [
        {"name": "a [1,\n 2]", "curves": {"x": [1, 2.5, None], "y": []}, "config": {"init": ["a", "b"], "rates": [[1, 2], [3]]}}
    ]
    text = publish.text(kept)
    assert json.loads(text) == kept
    assert '   "x": [ 1, 2.5, null ],\n' in text and text.count("\n") < 20


def test_pictures_from_several_records(repository, tmp_path, monkeypatch):
    """Drawn anew by publish from all records of the experiments that they name, and from no others."""
    from matplotlib.figure import Figure
    from PIL import Image

    drawn = []

    def picture(mine):
        drawn.append([(record["experiment"], record["seed"]) for record in mine])
        return Figure()

    monkeypatch.setattr(publish, "pictures", lambda paper: {"both": (["headline"], picture), "none": (["norm"], picture)})
    for seed in (1, 0):
        write_run(tmp_path / "runs", seed, finished=f"day {seed}")
    assert publish.publish("toy", tmp_path / "runs") == 0
    assert drawn == [[("headline", 0), ("headline", 1)]]
    figures = repository / "papers" / "toy" / "figures"
    about = Image.open(figures / "both.png").info["Description"]
    assert about == publish.made_from(records("toy")) and "seed 1, commit" in about and "finished day 1" in about
    assert not (figures / "none.png").exists()


@pytest.mark.parametrize("paper", papers())
def test_pictures_are_of_the_published_records(paper):
    from PIL import Image

    for name, (wanted, _) in pictures(paper).items():
        if mine := [record for record in records(paper) if record["experiment"] in wanted]:
            about = Image.open(publish.ROOT / "papers" / paper / "figures" / f"{name}.png").info["Description"]
            assert about == publish.made_from(mine), f"make publish-{paper} draws {name} anew"


def test_a_table_of_the_papers_own(tmp_path, monkeypatch):
    page = tmp_path / "toy" / "README.md"
    page.parent.mkdir()
    page.write_text("before\n<!-- generated: mine, by make tables -->\nold\n<!-- end -->\nafter\n")
    monkeypatch.setattr(tables, "own_tables", lambda paper: {"mine": lambda records: [["paper"], [paper]]})
    assert (
        tables.generated(page)
        == "before\n<!-- generated: mine, by make tables -->\n\n| paper |\n| --- |\n| toy |\n\n<!-- end -->\nafter\n"
    )


def row(metric, source, value=1.0, kind="paper", name="a", about="Sec. 3, Table 2, one", metrics=None, **claim):
    """A claim of an experiment, and the records of one seed for each of these metrics."""
    of = Claim(metric, value, source=source, **({"why": "a choice"} | claim))
    experiment = dataclasses.replace(EXPERIMENTS["headline"], kind=kind, source=about, claims=[of])
    return grids.Row(name, experiment, of, [{"metrics": {metric: x}} for x in metrics or []])


def test_claims_stand_in_the_papers_tables():
    """In its order, the paper's own before what is scaled; a claim of the text with its experiment's table."""
    said = row("worst", 'Sec. 5.6, "never more than 3"')
    said.experiment.claims.append(Claim("mean", 1.0, source="Table 9, mean"))
    rows = [row("a", "Table 10"), row("a", "Fig. 2, left"), said, row("a", "somebody's README, 3"), row("a", "Table 2, x")]
    rows += [row("a", "Table 1", kind="scaled"), row("b", "Sec. 5.2b, in words", about="Sec. 5.2")]
    rows[1].experiment.claims[:] = rows[3].experiment.claims[:] = []
    for r in (rows[1], rows[3]):
        object.__setattr__(r.experiment, "source", "none")
    found = [grids.title(*key) for key in grids.by_table(rows)]
    assert found == ["Table 2", "Table 9", "Table 10", "Fig. 2", "Sec. 5.2b", "somebody's README", "Scaled: Table 1"]


def test_a_grid_has_lines_columns_marks_and_notes():
    rows = [
        row("error", "Table 2, ResNet", 8.0, name="a", metrics=[8.2], lower_is_better=True, tolerance=0.3),
        row("loss", "Table 2, ResNet", 1.0, name="a", lower_is_better=True, why="no spread"),
        row("error", "Table 2, plain", 9.0, name="b", metrics=[7.0], either_way=True, tolerance=0.3),
        row("loss", "Table 2, plain", 2.0, name="b", lower_is_better=True, why="no spread"),
    ]
    assert grids.grid("Table 2", rows).splitlines() == [
        "|  | `error` | `loss` <sup>2</sup> |",
        "| --- | --- | --- |",
        "| ResNet<br>`a` | 8 / 8.2 ✓ <sup>1</sup> | 1 / – |",
        "| plain<br>`b` | 9 / 7 ✗ <sup>3</sup> | 2 / – |",
        "",
        "1. at most 0.3 above: a choice",
        "2. not above: no spread",
        "3. at most 0.3 off: a choice",
    ]
    turned = grids.grid("Table 2", rows, lambda name, claim: (claim.metric, name.upper())).splitlines()
    assert turned[0] == "|  | A | B |" and turned[2] == (
        "| error | 8 / 8.2 ✓ <sup>1</sup><br><sub>ResNet</sub> | 9 / 7 ✗ <sup>3</sup><br><sub>plain</sub> |"
    )


def test_a_grid_that_would_be_empty_is_a_list():
    rows = [row(f"m{i}", f"Table 2, {i}", name=f"e{i}", metrics=[0.0]) for i in range(3)]
    assert grids.grid("Table 2", rows).splitlines()[:3] == [
        "|  | paper / ours <sup>1</sup> |", "| --- | --- |", "| 0<br>`e0`, `m0` | 1 / 0 ✗ |",
    ]  # fmt: skip
    wide = grids.grid("Table 2", [row(f"m{i}", "Table 2, one") for i in range(8)]).splitlines()
    assert wide[0] == "|  | one<br>`a` <sup>1</sup> |" and wide[2] == "| `m0` | 1 / – |", "turned, for many metrics of one net"


@pytest.mark.parametrize("paper", papers())
def test_every_claim_stands_once_in_all_claims(paper):
    text = tables.claims_table(paper)
    cells = [cell for line in text.splitlines() if line.startswith("| ") for cell in re.split(r" \| |<br>", line) if " / " in cell]
    cells = [cell for cell in cells if not cell.startswith("paper / ours")]
    assert len(cells) == len(tables.claim_rows(paper))


def test_the_front_page_is_grouped_by_field_once_it_is_long(monkeypatch):
    assert "###" not in tables.papers_table() and len(papers()) <= tables.FIELDS
    monkeypatch.setattr(tables, "FIELDS", 5)
    text = tables.papers_table()
    assert text.count("\n[") == 0 and "### Images\n\n| paper |" in text and "### Language\n" in text
    assert all(text.count(tables.link(paper)) == 1 for paper in papers())


def test_the_front_page_says_the_best_there_is():
    headline, other = row("a", "Table 1", name="headline"), row("b", "Table 1", name="other", metrics=[0.0])
    met, scaled = row("b", "Table 1", name="met", metrics=[2.0]), row("c", "x", kind="scaled", metrics=[0.0])
    good = row("c", "x", kind="weights", metrics=[2.0])
    assert tables.best([headline]) is None and tables.best([headline, scaled, other]) is other
    assert tables.best([headline, scaled, other, met]) is met and tables.best([headline, scaled, good]) is good
    assert tables.best([row("a", "Table 1", name="headline", metrics=[0.0]), met]).name == "headline"
    stale = [record | {"stale": "parted"} for record in met.mine]
    assert tables.best([headline._replace(name="x"), met._replace(mine=stale), scaled]) is scaled, "not what no longer holds"
    for line in map(tables.line, papers()):
        assert all(cell.count("<br>") <= 1 for cell in line)


def test_nothing_to_publish(repository, tmp_path, capsys):
    assert publish.main(["toy", str(tmp_path / "nothing")]) == 2
    assert publish.main(["nonsense", str(tmp_path)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and "no finished run of toy" in errors[0] and "no paper 'nonsense'" in errors[1]


@functools.cache
def files_before(commit: str, paper: str) -> tuple[str, ...]:
    """What records without `files` have hashed: all Python files of the paper and of common, and the two requirement files."""
    pins = ("requirements.txt", "constraints.txt")
    listing = provenance.git("ls-tree", "-r", "-z", "--name-only", commit, "--", f"papers/{paper}", "common", *pins) or b""
    return tuple(name for name in listing.decode().split("\0") if name.endswith(".py") or name in pins)


@pytest.mark.parametrize("paper", papers())
def test_published_records_were_made_by_the_code_of_their_commits(paper):
    for record in records(paper):
        assert not record["data"]["stand_in"]
        if provenance.git("cat-file", "-e", record["commit"]) is None:
            pytest.skip("a shallow clone does not have the commits")
        files = record.get("files") or files_before(record["commit"], paper)
        assert provenance.code_hash_at(record["commit"], tuple(files)) == record["code"]


def test_list_shows_everything():
    text = tables.listing()
    for paper in papers():
        table = tables.experiments(paper)
        for name, experiment in table.items():
            assert re.search(rf"^{paper} +{re.escape(name)} +{experiment.kind} .*{re.escape(experiment.cost)}$", text, re.MULTILINE)
            for claim in experiment.claims:
                assert claim.metric in text and number(claim.value) in text


def test_list_of_a_paper_begins_with_what_ran():
    lines = [line.split() for line in tables.listing("resnet").splitlines()[2:]]
    assert {words[0] for words in lines if len(words) > 1 and words[0] in papers()} == {"resnet"}
    names = [words[1] for words in lines if words[0] == "resnet"]
    ran = {record["experiment"] for record in records("resnet")}
    assert {*names[: len(ran)]} == ran and {*names} == {*tables.experiments("resnet")}


def test_readings_show_what_they_gave(monkeypatch):
    reading = dataclasses.replace(EXPERIMENTS["smoke"], kind="reading", note="in single precision")
    table = {"a": reading, "b": dataclasses.replace(reading, note="another"), "c": dataclasses.replace(reading, kind="paper")}
    published = [{"experiment": "a", "seed": seed, "metrics": {"error": 1.0 + seed, "rate": None}} for seed in (0, 1)]
    monkeypatch.setattr(tables, "experiments", lambda paper: table)
    monkeypatch.setattr(tables, "records", lambda paper: published)
    lines = tables.readings_table("lstm").splitlines()
    assert lines[2:] == ["| `a` | in single precision | error 1.5 ± 0.7 (2), rate – |", "| `b` | another | not run |"]


def test_a_thinned_curve_keeps_its_evaluations():
    rows = [{"step": i, "loss": 0.0} | ({"error": 1.0} if i % 10 == 9 else {}) for i in range(1000)]
    curve = publish.thinned(rows)
    assert len(curve) == publish.CURVE and curve == sorted(curve, key=lambda row: row["step"])
    assert [row for row in curve if "error" in row] == rows[9::10] and curve[0] == rows[0]
    plain = publish.thinned([row | {"error": 1.0} for row in rows])
    steps = [row["step"] for row in plain]
    assert (len(steps), steps[0], steps[-1]) == (publish.CURVE, 0, 999)
    assert max(b - a for a, b in itertools.pairwise(steps)) <= 6
    assert publish.thinned(rows[:150]) == rows[:150] and publish.thinned([]) == []
