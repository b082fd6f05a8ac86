"""The trials: how many are solved and when, in a run's log, metrics and picture, and in what all published runs say together."""

import json
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from common.claims import Experiment, Record
from common.provenance import ROOT
from common.run import Run
from common.words import number

SOLVED = "solved-trials"  # the picture
HEAD = ["experiment", "read as", "solved", "sequences, mean", "least to most", "by the weaker criterion", "cap", "paper"]


def report_solved(run: Run[Any], after: Tensor, counted: Tensor) -> None:
    """At a log line: the share of solved trials, and their number where it has changed; ends the loop with the last trial.

    after: (N,), training sequences until a trial was solved, -1 for not yet. counted: their number at the last line, kept here.
    """
    count = int((after >= 0).sum())
    run.report(success_rate=100 * count / len(after))
    if count != counted:
        run.report(solved_trials=count)
        counted.fill_(count)
    if count == len(after):
        run.end_loop()


def outputs_of(trials: Tensor, model: nn.Module, *inputs: Tensor) -> Tensor:
    """The outputs of some trials, indices (n,), of a net of N; its inputs are theirs alone."""
    return functional_call(model, {name: p[trials] for name, p in model.named_parameters()}, inputs)


def solved_metrics(after: Tensor, suffix: str = "") -> dict[str, float]:
    """The share of solved trials, and the mean, least and most of their training sequences; after: (N,), -1 for not solved."""
    done = after[after >= 0].double()
    metrics = {f"success_rate{suffix}": 100 * len(done) / len(after), f"sequences{suffix}": done.mean().item()}
    if len(done):
        metrics |= {f"sequences_min{suffix}": done.min().item(), f"sequences_max{suffix}": done.max().item()}
    return metrics


def draw_solved(run: Run[Any], **trials: Tensor) -> None:
    """Solved trials over training sequences up to the end of the run, a line for each group of trials, and the paper's mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3))
    axes = figure.add_subplot()
    for name, after in trials.items():
        solved = sorted(after[after >= 0].tolist())
        counts, label = [*range(len(solved) + 1), len(solved)], f"{name.replace('_', ' ')}, {len(solved)} of {len(after)} trials"
        axes.step([0, *solved, run.step], counts, where="post", label=label)
    for claim in run.experiment.claims:
        if claim.metric == "sequences":
            axes.axvline(claim.value, color="black", linestyle="--", label=f"paper's mean, {claim.value:,}")
    axes.set(xlabel="training sequences", ylabel="solved trials", ylim=(0, len(after) * 1.05), title=run.name)
    axes.set_xlim(left=0)
    axes.legend(fontsize="small", loc="lower right")
    run.save_figure(figure, SOLVED)


def families(experiments: dict[str, Experiment]) -> dict[str, list[str]]:
    """The experiments of the paper that have readings, and these: what was varied is what the names begin with."""
    paper = [name for name, e in experiments.items() if e.kind == "paper"]
    readings: dict[str, list[str]] = {name: [] for name in paper}
    for name, e in experiments.items():
        if e.kind == "reading":
            readings[max((base for base in paper if name.startswith(f"{base}-")), key=len)].append(name)
    return {base: names for base, names in readings.items() if names}


def solved_of(record: Record, key: str = "") -> str:
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
                gave = [solved_of(record), number(m["sequences"])]
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
    return f"{solved_of(record, 'first_')}, {number(m['first_sequences'])}" if "first_sequences" in m else ""


def steps_of(record: Record) -> tuple[list[float], list[float]]:
    """Thousands of training sequences, and % of trials solved by then."""
    config = record["config"]
    trials = config["trials"] * (len(config["lr"]) if isinstance(config["lr"], list) else 1)  # for each of several rates
    curves = record.get("curves")
    if curves:
        x, y = curves["step"], [100 * count / trials for count in curves["solved_trials"]]
    else:  # records of before these were kept: the published curve
        path = ROOT / "papers/lstm/curves" / f"{record['experiment']}-seed{record['seed']}.jsonl"
        rows = [row for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()) if "success_rate" in row]
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
