"""The table of readings and the picture of all tables."""

import pytest

from papers.lstm.train import EXPERIMENTS
from papers.lstm.trials import families, investigation, picture, steps_of
from tools.repository import records


def made(experiment, steps=100, trials=10, **metrics):
    metrics = {"success_rate": 60.0, "sequences": 1234.0, **metrics}
    return {
        "experiment": experiment, "seed": 0, "steps": steps, "metrics": metrics, "config": {"trials": trials, "lr": 0.1},
        "curves": {"step": [1000, 3000], "solved_trials": [0, 6]},
    }  # fmt: skip


def test_every_reading_stands_under_the_experiment_that_it_reads():
    grouped = families(EXPERIMENTS)
    readings = [name for name, e in EXPERIMENTS.items() if e.kind == "reading"]
    assert sorted(name for names in grouped.values() for name in names) == sorted(readings)
    assert "long-lag-2c-q100-gates-only" in grouped["long-lag-2c-q100"] and "long-lag-2c-gates-only" in grouped["long-lag-2c"]
    for base, names in grouped.items():
        for name in names:
            e, printed = EXPERIMENTS[name], EXPERIMENTS[base]
            assert e.source == printed.source and e.note and not (e.claims and name != "temporal-order-6b-fp32")
            assert e.config != printed.config or e.precision != printed.precision


def test_investigation():
    runs = [
        made("two-sequence-3a", first_success_rate=100.0, first_sequences=500.0, sequences_min=900.0, sequences_max=2000.0),
        made("two-sequence-3a-legend", success_rate=0.0, sequences=None),
        made("reber-1-5-wide", trials=30, success_rate_argmax=50.0, sequences_argmax=777.0),
    ]
    rows = [[cell.strip("`") for cell in row] for row in investigation(EXPERIMENTS, runs)]
    lines = {row[0]: row[1:] for row in rows}
    assert lines["two-sequence-3a"] == ["as printed", "6 of 10", "1,234", "900 to 2,000", "10 of 10, 500", "500,000", "39,850"]
    assert lines["two-sequence-3a-legend"][1:] == ["0 of 10", "–", "–", "", "150,000", ""]
    assert lines["reber-1-5-wide"][1:5] == ["18 of 30", "1,234", "–", "arg-max legal: 15, 777"]
    assert lines["reber-1-5"][1:] == ["not run", "", "", "", "200,000", "8,440"]


def test_solved_trials_of_a_record():
    assert steps_of(made("two-sequence-3a", steps=5000)) == ([0, 1, 3, 5], [0, 0, 60, 60])
    several = made("long-lag-2a-rtrl-p4")
    several["config"] = {"trials": 5, "lr": [1.0, 4.0]}
    assert steps_of(several)[1] == [0, 0, 60, 60], "of the trials of all rates"


@pytest.mark.parametrize("record", [r for r in records("lstm") if r["seed"] == 0 and r["steps"]], ids=lambda r: r["experiment"])
def test_curves_of_the_published_records_end_at_their_success_rates(record):
    x, y = steps_of(record)
    rate = record["metrics"].get("success_rate")
    assert x == sorted(x) and y == sorted(y) and x[-1] == record["steps"] / 1000
    if rate is not None:
        assert abs(y[-1] - rate) < 1e-4


def test_picture_has_a_panel_for_every_table_with_records():
    figure = picture(EXPERIMENTS, [made("two-sequence-3a"), made("reber-1-5-wide")])
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title().split("\n")[0] for axes in panels] == ["reber-1-5", "two-sequence-3a"]
    assert [len(axes.lines) for axes in panels] == [2, 2], "what was run, and the paper's mean"
    dashed = panels[1].lines[-1]
    assert dashed.get_xdata()[0] == 39.85


def test_readings_of_a_panel_can_be_told_apart():
    names = ["reber-1-5", *families(EXPERIMENTS)["reber-1-5"]]
    (panel,) = [axes for axes in picture(EXPERIMENTS, [made(name, trials=30) for name in names]).axes if axes.get_visible()]
    assert len({(line.get_color(), line.get_linestyle()) for line in panel.lines}) == len(names) + 1 == len(panel.lines)
