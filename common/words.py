"""How claims, numbers and times are written in tables and terminals."""

import math
import statistics
from collections.abc import Sequence

from common.claims import Claim, Experiment, Record, Verdict, measured, verdict


def number(value: float | None) -> str:
    """Four significant digits, or all digits of what is large: 0.01234, 8.61, 31,390. A dash for what was not measured."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def places(value: float, digits: int) -> int:
    """The decimal places that a number's first digits need; negative for tens, hundreds."""
    return digits - 1 - math.floor(math.log10(float(f"{abs(value):.{digits - 1}e}"))) if value else 0


def unit(claim: Claim) -> str:
    return "" if not claim.unit else claim.unit if claim.unit == "%" else f" {claim.unit}"


def said(claim: Claim, verdict: Verdict) -> str:
    """A verdict in a cell: "short by 0.3%", "short, within noise", "reproduced"."""
    if verdict.excess is not None:
        return f"{verdict.word} by {number(round(verdict.excess, places(verdict.excess, 2)))}{unit(claim)}"
    return f"{verdict.word}, {verdict.reason}" if verdict.reason else verdict.word


def spread(values: Sequence[float]) -> str:
    """The mean over seeds; of several, rounded to what their standard deviation (n - 1) supports, which follows with n."""
    mean = statistics.fmean(values) if values else math.nan
    if len(values) < 2 or not math.isfinite(mean):
        return number(mean)
    deviation = statistics.stdev(values)
    if deviation < 1e-4 * abs(mean):  # seeds that agree
        return f"{number(mean)} ± {deviation:.1g} ({len(values)})"
    to = places(deviation, 1 + f"{deviation:e}".startswith("1"))  # 1.09 ± 0.08, but 24,400 ± 1,600
    written, by = (f"{round(x, to):,.{max(to, 0)}f}" for x in (mean, deviation))
    return f"{written} ± {by} ({len(values)})"


def duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if seconds < 99.5 else f"{minutes:.0f} min" if minutes < 99.5 else f"{minutes / 60:.1f} h"


def paper_value(claim: Claim) -> str:
    """With "≈" and its uncertainty where it is not printed."""
    return (f"≈ {number(claim.value)} ± {number(claim.read)}" if claim.read else number(claim.value)) + unit(claim)


def label(claim: Claim) -> str:
    """The metric, and where on its curve it is judged."""
    return claim.metric if claim.at is None else f"{claim.metric} at {number(claim.at)} {claim.along}"


def outcome(e: Experiment, record: Record, changed: Sequence[str]) -> list[list[str]]:
    """Claim, paper, ours, verdict; then other metrics. changed: options of another recipe."""
    other = "changed recipe" if changed else "other data" * record["data"]["stand_in"]
    rows = [[label(c), paper_value(c), number(measured(c, record)), other or said(c, verdict(e, c, [record]))] for c in e.claims]
    return rows + [[k, "", number(v), ""] for k, v in record["metrics"].items() if k not in {row[0] for row in rows}]


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of plain text, the cells of each column under each other."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def tolerance(claim: Claim) -> str:
    if claim.either_way:
        return f"{number(claim.value)} ± {number(claim.tolerance)}"
    return f"≤ {number(claim.value + claim.tolerance)}" if claim.lower_is_better else f"≥ {number(claim.value - claim.tolerance)}"
