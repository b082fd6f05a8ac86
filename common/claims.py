"""Claims, experiments, records, verdicts: what a paper prints, what our runs measured, and whether that is a reproduction."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import numpy as np

C = TypeVar("C")
Kind = Literal["paper", "reading", "scaled", "weights", "smoke"]
Record = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What a claim has come to: its word (a kind, where that has no say), by how much it is short, or why it is."""

    word: Literal["reproduced", "short", "stale", "not run", "reading", "scaled", "weights", "smoke"]
    excess: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Claim:
    """One number that the paper prints, or one point of a curve that it plots.

    Raises:
        ValueError: a negative tolerance, which would ask for more than the paper has.
    """

    metric: str  # the key under which `train` returns it; its name carries its convention
    value: float
    unit: str = ""
    source: str = ""  # the table, figure or section that prints the number
    lower_is_better: bool = False  # the direction; a result beyond the claim in that direction is a reproduction
    tolerance: float = 0.0  # how far off a result may be the other way, in the claim's unit
    why: str = ""  # where that figure comes from
    at: float | None = None  # judged on the metric's curve where its axis is at this value; None: on what `train` returns
    along: str = "step"  # the axis
    read: float = 0.0  # how far off the value may be itself, read from a figure or remembered; 0: the paper prints it
    either_way: bool = (
        False  # neither direction is better (a baseline that fails in part): short where off by more than the tolerance
    )
    # The metric of another claim of the experiment, without which this one means nothing (a mean over solved trials stands on how
    # many there are): short where that one is.
    stands_on: str = ""
    # For a metric that is a difference, its standard error from the examples that it is measured on, which more seeds do not
    # lower; the seeds have their own besides. A mean that is nearer to 0 than the larger of the two is within noise, whatever
    # its sign, and shows nothing.
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.tolerance < 0:
            raise ValueError(f"claim {self.metric}: a negative tolerance ({self.tolerance}) asks for more than the paper has")

    @property
    def key(self) -> str:
        """Its metric, and where on the curve it is judged."""
        return self.metric if self.at is None else f"{self.metric}@{self.at:g}"

    def verdict(self, kind: Kind, values: Sequence[float]) -> "Verdict":
        """`reproduced` or `short` for the mean over seeds; other kinds of experiment have no say in that."""
        if not values:
            return Verdict("not run")
        reason = "within noise" if self.within_noise(values) else ""
        if kind != "paper":
            return Verdict(kind, reason=reason)
        if not all(map(math.isfinite, values)):
            reason = "not measurable"
        if reason:
            return Verdict("short", reason=reason)
        excess = statistics.fmean(values) - self.value
        excess = abs(excess) if self.either_way else excess if self.lower_is_better else -excess
        # The margin is for decimal tolerances in binary: 7.5 is within 0.3 of 7.2.
        if excess <= self.tolerance + 1e-9 * max(1.0, abs(self.value)):
            return Verdict("reproduced")
        return Verdict("short", excess)

    def within_noise(self, values: Sequence[float]) -> bool:
        """Whether a difference is nearer to 0 than its standard error."""
        among_seeds = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
        return self.noise > 0 and abs(statistics.fmean(values)) < max(self.noise, among_seeds)


@dataclass(frozen=True)
class Experiment(Generic[C]):
    """One experiment of a paper: its hyper-parameters, and what it is worth."""

    config: C  # a frozen dataclass; every field is a hyper-parameter on the command line
    kind: Kind  # CONTRIBUTING.md says what each may claim
    source: str  # where the paper reports it
    cost: str  # the time it takes, and on what
    claims: Sequence[Claim] = ()
    cap: str = ""  # where it stops if nothing else stops it
    note: str = ""  # for a reading, what is read differently; for a scaled one, what is scaled
    figures: Sequence[str] = ()  # names of figures that `make publish` copies
    curves: Sequence[str] = ()  # metrics reported together while it trains, their axis among them, whose curves go into the record
    precision: dict[str, str] = field(default_factory=lambda: {"cpu": "fp32", "cuda": "fp32"})  # what it was verified with, where
    per_sample: bool = False  # it updates after every sample, so that it cannot be split among processes
    log_every: int = 100  # updates between two lines of metrics.jsonl; a run stops and checkpoints at these only
    checkpoint_every: float = 60.0  # seconds between checkpoints


def measured(claim: Claim, record: Record) -> float:
    """The claim's number in a record; nan where the run could not measure it (no trial solved, a curve that ends sooner)."""
    if claim.at is None:
        return math.nan if (value := record["metrics"][claim.metric]) is None else value
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


def verdict(experiment: Experiment, claim: Claim, mine: Sequence[Record]) -> Verdict:
    """What an experiment's records say of a claim, and of the one that it stands on."""
    if any("stale" in record for record in mine):
        return Verdict("stale")  # its curve no longer begins as published: tools/replay.py
    alone = claim.verdict(experiment.kind, values(claim, mine))
    if experiment.kind == "paper" and mine and claim.stands_on and alone.excess is None:
        base = next(other for other in experiment.claims if other.metric == claim.stands_on)
        if verdict(experiment, base, mine).word == "short":
            return Verdict("short", reason=f"as {base.metric} is")
    return alone
