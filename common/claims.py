"""Claims, experiments, records, verdicts: what a paper prints, what our runs measured, and whether that is a reproduction."""

import dataclasses
import importlib
import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
C = TypeVar("C")
Kind = Literal["paper", "reading", "scaled", "weights", "smoke"]
Record = dict[str, Any]


@dataclass(frozen=True)
class Claim:
    """One number that the paper prints, or one point of a curve that it plots.

    metric: the key under which `train` returns it; its name carries its convention.
    value, unit, source: the number, and the table, figure or section that prints it.
    at, along: judged on the metric's curve, where the axis of that name is at this value; None: on the number that `train` returns.
    read: how far off the value may be itself, where it was read from a figure or is remembered; 0: the paper prints it.
    lower_is_better: the direction; a result beyond the claim in that direction is a reproduction.
    either_way: neither direction is better, as for a baseline that fails in part: what is off by more than the tolerance is short.
    tolerance, why: how far off a result may be the other way, in the claim's unit, and where that figure comes from.
    stands_on: the metric of another claim of the experiment, without which this one means nothing (a mean over solved trials stands
        on how many there are): short where that one is.
    noise: for a metric that is a difference, its standard error from the examples that it is measured on, which more seeds do not
        lower; the seeds have their own besides. A mean that is nearer to 0 than the larger of the two is within noise, whatever
        its sign, and shows nothing.

    Raises:
        ValueError: a negative tolerance, which would ask for more than the paper has.
    """

    metric: str
    value: float
    unit: str = ""
    source: str = ""
    lower_is_better: bool = False
    tolerance: float = 0.0
    why: str = ""
    at: float | None = None
    along: str = "step"
    read: float = 0.0
    either_way: bool = False
    stands_on: str = ""
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.tolerance < 0:
            raise ValueError(f"claim {self.metric}: a negative tolerance ({self.tolerance}) asks for more than the paper has")

    def verdict(self, kind: Kind, values: Sequence[float]) -> str:
        """`reproduced` or `short by ...` for the mean over seeds; other kinds of experiment have no say in that."""
        if not values:
            return "not run"
        within = ", within noise" if self.within_noise(values) else ""
        if kind != "paper":
            return f"{kind}{within}"
        if not all(map(math.isfinite, values)):
            return "short, not measurable"
        if within:
            return f"short{within}"
        excess = statistics.fmean(values) - self.value
        if self.either_way:
            excess = abs(excess)
        elif not self.lower_is_better:
            excess = -excess
        # The margin is for decimal tolerances in binary: 7.5 is within 0.3 of 7.2.
        if excess <= self.tolerance + 1e-9 * max(1.0, abs(self.value)):
            return "reproduced"
        return f"short by {number(excess)}{unit(self)}"

    def within_noise(self, values: Sequence[float]) -> bool:
        """Whether a difference is nearer to 0 than its standard error."""
        among_seeds = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
        return self.noise > 0 and abs(statistics.fmean(values)) < max(self.noise, among_seeds)


@dataclass(frozen=True)
class Experiment(Generic[C]):
    """One experiment of a paper: its hyper-parameters, and what it is worth.

    config: a frozen dataclass; every field is a hyper-parameter on the command line.
    kind: paper | reading | scaled | weights | smoke (CONTRIBUTING.md says what each may claim).
    source: where the paper reports it.      cost: the time it takes, and on what.
    cap: where it stops if nothing else stops it.
    note: for a reading, what is read differently; for a scaled one, what is scaled.
    figures: names of figures that `make publish` copies.
    curves: metrics reported together while it trains, the axis among them, whose whole curves go into the record.
    precision: the default for each kind of device, what the experiment was verified with.
    per_sample: it updates after every sample, so that it cannot be split among processes.
    log_every: updates between two lines of metrics.jsonl; a run stops and checkpoints at these only.
    checkpoint_every: seconds between checkpoints.
    """

    config: C
    kind: Kind
    source: str
    cost: str
    claims: Sequence[Claim] = ()
    cap: str = ""
    note: str = ""
    figures: Sequence[str] = ()
    curves: Sequence[str] = ()
    precision: dict[str, str] = field(default_factory=lambda: {"cpu": "fp32", "cuda": "fp32"})
    per_sample: bool = False
    log_every: int = 100
    checkpoint_every: float = 60.0


def papers() -> list[str]:
    """Every folder of papers/ with a train.py, in alphabetical order."""
    return sorted(path.parent.name for path in (ROOT / "papers").glob("*/train.py"))


def experiments(paper: str) -> dict[str, Experiment]:
    """What train.py runs and, where there are official weights, what pretrained.py evaluates."""
    table = dict(importlib.import_module(f"papers.{paper}.train").EXPERIMENTS)
    if (ROOT / "papers" / paper / "pretrained.py").exists():
        table |= importlib.import_module(f"papers.{paper}.pretrained").WEIGHTS
    return table


def pictures(paper: str) -> dict[str, tuple[Sequence[str], Callable[[list[Record]], Any]]]:
    """The pictures that train.py draws from several published records, its PICTURES: name -> (experiments, records -> Figure)."""
    return getattr(importlib.import_module(f"papers.{paper}.train"), "PICTURES", {})


def records(paper: str) -> list[Record]:
    """The published records of a paper, papers/<paper>/results.json."""
    path = ROOT / "papers" / paper / "results.json"
    return json.loads(path.read_text()) if path.exists() else []


def positive(config: Any, *names: str) -> None:
    """For the __post_init__ of a config. Raises ValueError: one of these hyper-parameters is not a positive, finite number."""
    for name in names:
        if not 0 < getattr(config, name) < math.inf:
            raise ValueError(f"--{name.replace('_', '-')} must be positive, got {getattr(config, name)}")


def at_least_one(config: Any, *names: str) -> None:
    """For the __post_init__ of a config. Raises ValueError: one of these counts is below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(config, name)}")


def fraction(config: Any, *names: str) -> None:
    """For the __post_init__ of a config. Raises ValueError: one of these shares is negative, or not below 1."""
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be in [0, 1), got {getattr(config, name)}")


def config_dict(config: Any) -> dict[str, Any]:
    """A config as JSON gives it back (tuples become lists), for comparison with a record."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def differences(old: dict[str, Any], config: Any, **more: Any) -> list[str]:
    """The hyper-parameters in which an older config, as a record has it, differs from today's, as "name old -> new".

    A field that the older one lacks was added since: it counts as its default. more: what the older one holds besides.
    """
    defaults = {f.name: f.default for f in dataclasses.fields(config) if f.default is not dataclasses.MISSING}
    old = json.loads(json.dumps(defaults, default=str)) | old
    new = config_dict(config) | more
    return [f"{k} {old.get(k)} -> {new.get(k)}" for k in sorted({*old, *new}) if old.get(k) != new.get(k)]


def measured(claim: Claim, record: Record) -> float:
    """The claim's number in a record; nan where the run could not measure it (no trial solved, a curve that ends sooner)."""
    if claim.at is None:
        value = record["metrics"][claim.metric]
        return math.nan if value is None else value
    curves = record.get("curves", {})
    return interpolated(curves.get(claim.along, []), curves.get(claim.metric, []), claim.at)


def interpolated(x: Sequence[float], y: Sequence[float], at: float) -> float:
    """A curve's value between two of its points, by a straight line; nan beyond its ends. x ascends."""
    return float(np.interp(at, x, y, left=math.nan, right=math.nan)) if x else math.nan


def reached(x: Sequence[float], y: Sequence[float], level: float) -> float:
    """Where a curve first reaches a level from below, by a straight line between its points; nan if it never does. x ascends."""
    for i, value in enumerate(y):
        if value >= level:
            return x[0] if i == 0 else interpolated(y[i - 1 : i + 1], x[i - 1 : i + 1], level)
    return math.nan


def values(claim: Claim, mine: Sequence[Record]) -> list[float]:
    """The claim's number in each record."""
    return [measured(claim, record) for record in mine]


def verdict(experiment: Experiment, claim: Claim, mine: Sequence[Record]) -> str:
    """What an experiment's records say of a claim, and of the one that it stands on."""
    if any("stale" in record for record in mine):
        return "stale"  # its curve no longer begins as published: tools/replay.py
    alone = claim.verdict(experiment.kind, values(claim, mine))
    if experiment.kind == "paper" and mine and claim.stands_on and not alone.startswith("short by"):
        base = next(other for other in experiment.claims if other.metric == claim.stands_on)
        if verdict(experiment, base, mine).startswith("short"):
            return f"short, as {base.metric} is"
    return alone


# How numbers are written, here and in every table.


def number(value: float | None) -> str:
    """Four significant digits, or all digits of what is large: 0.01234, 8.61, 31,390. A dash for what was not measured."""
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def unit(claim: Claim) -> str:
    return "" if not claim.unit else claim.unit if claim.unit == "%" else f" {claim.unit}"


def spread(values: Sequence[float]) -> str:
    """The mean over seeds, with the standard deviation (n - 1) and n where there are several."""
    if not values:
        return "–"
    mean = number(statistics.fmean(values))
    return mean if len(values) == 1 else f"{mean} ± {number(statistics.stdev(values))} ({len(values)})"


def duration(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def paper_value(claim: Claim) -> str:
    """With "≈" and its uncertainty where it is not printed."""
    return (f"≈ {number(claim.value)} ± {number(claim.read)}" if claim.read else number(claim.value)) + unit(claim)


def label(claim: Claim) -> str:
    """The metric, and where on its curve it is judged."""
    return claim.metric if claim.at is None else f"{claim.metric} at {number(claim.at)} {claim.along}"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of plain text, the cells of each column under each other."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def tolerance(claim: Claim) -> str:
    if claim.either_way:
        return f"{number(claim.value)} ± {number(claim.tolerance)}"
    bound = "≤" if claim.lower_is_better else "≥"
    edge = claim.value + claim.tolerance if claim.lower_is_better else claim.value - claim.tolerance
    return f"{bound} {number(edge)}"
