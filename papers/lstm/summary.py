"""What all published runs say together: the table of readings and the picture of solved trials, for README.md."""

import json
from typing import Any

from common.claims import Experiment, Record
from common.provenance import ROOT
from common.words import number

HEAD = ["experiment", "read as", "solved", "sequences, mean", "least to most", "by the weaker criterion", "cap", "paper"]


def families(experiments: dict[str, Experiment]) -> dict[str, list[str]]:
    """The experiments of the paper that have readings, and these: what was varied is what the names begin with."""
    paper = [name for name, e in experiments.items() if e.kind == "paper"]
    readings: dict[str, list[str]] = {name: [] for name in paper}
    for name, e in experiments.items():
        if e.kind == "reading":
            readings[max((base for base in paper if name.startswith(f"{base}-")), key=len)].append(name)
    return {base: names for base, names in readings.items() if names}


def solved(record: Record, key: str = "") -> str:
    """ "9 of 10": the trials, from their percentage."""
    trials = record["config"]["trials"]
    return f"{round(record['metrics'][f'{key}success_rate'] * trials / 100)} of {trials}"


def investigation(experiments: dict[str, Experiment], published: list[Record]) -> list[list[str]]:
    """One row for each reading of an experiment, under the experiment as printed, the head first. Seed 0 of each."""
    mine = {r["experiment"]: r for r in sorted(published, key=lambda r: -r["seed"])}
    rows = [HEAD]
    for base, readings in families(experiments).items():
        claim = next(c for c in experiments[base].claims if c.metric == "sequences")
        for name in (base, *readings):
            e, record = experiments[name], mine.get(name)
            read = "as printed" if name == base else e.note
            gave = ["not run", "", "", ""]
            if record:
                m = record["metrics"]
                gave = [solved(record), number(m["sequences"])]
                gave += [f"{number(m['sequences_min'])} to {number(m['sequences_max'])}" if "sequences_min" in m else "–"]
                gave += [looser(record)]
            rows.append([f"`{name}`", read, *gave, e.cap.removesuffix(" sequences"), number(claim.value) if name == base else ""])
    return rows


def looser(record: Record) -> str:
    """The weaker criterion that the run looked at as well: trials and mean of sequences."""
    m = record["metrics"]
    if "success_rate_argmax" in m:
        return (
            f"arg-max legal: {round(m['success_rate_argmax'] * record['config']['trials'] / 100)}, {number(m['sequences_argmax'])}"
        )
    return f"{solved(record, 'first_')}, {number(m['first_sequences'])}" if "first_sequences" in m else ""


def steps_of(record: Record) -> tuple[list[float], list[float]]:
    """Thousands of training sequences, and % of trials solved by then."""
    config = record["config"]
    trials = config["trials"] * (len(config["lr"]) if isinstance(config["lr"], list) else 1)  # for each of several rates
    curves = record.get("curves")
    if curves:
        x, y = curves["step"], [100 * count / trials for count in curves["solved_trials"]]
    else:  # records of before these were kept: the published curve
        path = ROOT / "papers/lstm/curves" / f"{record['experiment']}-seed{record['seed']}.jsonl"
        rows = [row for row in map(json.loads, path.read_text().splitlines()) if "success_rate" in row]
        x, y = [row["step"] for row in rows], [row["success_rate"] for row in rows]
    return [step / 1000 for step in (0, *x, record["steps"])], [0, *y, y[-1]]


def picture(experiments: dict[str, Experiment], published: list[Record]) -> Any:
    """Small multiples: the trials solved over training sequences for each row of the paper's tables, its mean, and the readings."""
    from matplotlib.figure import Figure

    mine = {r["experiment"]: r for r in sorted(published, key=lambda r: -r["seed"])}
    readings = families(experiments)
    rows = [
        name for name, e in experiments.items() if e.kind == "paper" and any(n in mine for n in (name, *readings.get(name, ())))
    ]
    columns = 4
    figure = Figure(figsize=(16, 2.9 * -(-len(rows) // columns)), layout="constrained")
    grid = figure.subplots(-(-len(rows) // columns), columns, squeeze=False).flatten()
    for axes, name in zip(grid, rows, strict=False):
        ran = [other for other in readings.get(name, ()) if other in mine]
        for i, other in enumerate(ran):  # ten colours, then dotted
            style = {"color": f"C{i % 10}", "linestyle": "-:"[i // 10 % 2], "linewidth": 1}
            axes.step(*steps_of(mine[other]), where="post", label=other.removeprefix(f"{name}-"), **style)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="xx-small")
        if name in mine:
            axes.step(*steps_of(mine[name]), where="post", color="black", linewidth=2)
        for claim in experiments[name].claims:
            if claim.metric == "sequences":
                axes.axvline(claim.value / 1000, color="black", linestyle="--", linewidth=1)
        axes.set(title=f"{name}\n{experiments[name].source.split(', ', 1)[-1]}", ylim=(-3, 103))
        axes.set_xlim(left=0)
        axes.title.set_fontsize("small")
    for axes in grid[len(rows) :]:
        axes.set_visible(False)
    figure.supxlabel("training sequences, in thousands (black: as printed, dashed: the paper's mean)")
    figure.supylabel("% of trials solved")
    return figure
