"""How claims, numbers and times are written, in every table and on the terminal."""

import math
import statistics
from collections.abc import Sequence

from common.claims import Claim, Kind, Verdict


def number(value: float | None) -> str:
    """Four significant digits, or all digits of what is large: 0.01234, 8.61, 31,390. A dash for what was not measured."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def unit(claim: Claim) -> str:
    return "" if not claim.unit else claim.unit if claim.unit == "%" else f" {claim.unit}"


def said(claim: Claim, verdict: Verdict) -> str:
    """A verdict in a cell: "short by 0.3%", "short, within noise", "reproduced"."""
    if verdict.excess is not None:
        return f"{verdict.word} by {number(verdict.excess)}{unit(claim)}"
    return f"{verdict.word}, {verdict.reason}" if verdict.reason else verdict.word


def judged(claim: Claim, kind: Kind, values: Sequence[float]) -> str:
    """The verdict on these values."""
    return said(claim, claim.verdict(kind, values))


def spread(values: Sequence[float]) -> str:
    """The mean over seeds, with the standard deviation (n - 1) and n where there are several."""
    if not values:
        return "–"
    mean = number(statistics.fmean(values))
    return mean if len(values) == 1 else f"{mean} ± {number(statistics.stdev(values))} ({len(values)})"


def duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if seconds < 99.5 else f"{minutes:.0f} min" if minutes < 99.5 else f"{minutes / 60:.1f} h"


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
    lower = claim.lower_is_better
    return f"{'≤' if lower else '≥'} {number(claim.value + (claim.tolerance if lower else -claim.tolerance))}"
