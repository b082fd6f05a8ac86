"""Curves as SVG: ours by seed, the paper's value as a line across. script.js reads a point off them."""

import functools
import math
from collections.abc import Sequence

from markupsafe import Markup

from common.claims import Record, measured
from common.files import Row as Line
from common.files import read_rows
from common.provenance import ROOT
from common.words import number, unit
from tools.grids import Row

W, H, LEFT, RIGHT, TOP, BOTTOM = 460, 200, 56, 10, 12, 24
POINTS = 160
AXES = ("step", "samples", "epoch", "update", "time", "samples_per_s")
Curve = tuple[list[float], list[float]]


def published(record: Record) -> list[Line]:
    """The published curve of a record."""
    return _rows(ROOT / "papers" / record["paper"] / "curves" / f"{record['experiment']}-seed{record['seed']}.jsonl")


_rows = functools.cache(read_rows)  # a file has many metrics


def curves(record: Record, metric: str, along: str) -> Curve:
    """A metric against its axis, from the record or from the published curve; empty where it was not logged."""
    whole = record.get("curves", {})
    if metric in whole and along in whole:
        pairs = zip(whole[along], whole[metric], strict=True)
    else:
        pairs = ((row["step"], row[metric]) for row in published(record) if metric in row and "step" in row)
    found = [(x, y) for x, y in pairs if isinstance(y, int | float) and math.isfinite(y)]
    found = found[:: max(1, len(found) // POINTS)] + found[-1:] * bool(len(found) // POINTS > 1)
    return [x for x, _ in found], [y for _, y in found]


def logged(record: Record) -> list[str]:
    """The metrics of a published curve."""
    return [name for name in dict.fromkeys(key for row in published(record) for key in row) if name not in AXES]


def ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers within a range."""
    step = 10 ** math.floor(math.log10((high - low) / 3))
    step *= next(k for k in (1, 2, 5, 10) if (high - low) / (step * k) <= 5)
    return [round(i * step, 10) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def chart(title: str, axis: str, ours: Sequence[Curve], paper: float | None, of: str = "") -> Markup:
    """Curves of the seeds, and the paper's value."""
    xs, ys = [x for c in ours for x in c[0]], sorted(y for c in ours for y in c[1])
    if len(xs) < 2:
        return Markup("")
    x0, x1 = min(xs), max(xs)
    y0, y1 = ys[0], ys[-1]
    if paper is not None:
        y0, y1 = min(y0, paper), max(y1, paper)
    y0, y1 = (y0 - 0.04 * (y1 - y0), y1 + 0.06 * (y1 - y0)) if y1 > y0 else (y0 - 1, y1 + 1)
    x1 += x1 == x0
    px = lambda x: LEFT + (x - x0) / (x1 - x0) * (W - LEFT - RIGHT)
    py = lambda y: H - BOTTOM - (y - y0) / (y1 - y0) * (H - TOP - BOTTOM)
    out = [f'<svg class="chart" viewBox="0 0 {W} {H}" width="{W}" height="{H}" role="img" tabindex="0" aria-label="{title}"']
    out += [f' data-range="{x0:g} {x1:g} {y0:g} {y1:g}" data-box="{LEFT} {W - RIGHT} {H - BOTTOM} {TOP}" data-axis="{axis}">']
    for y in ticks(y0, y1):
        out.append(
            f'<path class="grid" d="M{LEFT} {py(y):.1f}H{W - RIGHT}"/><text x="{LEFT - 5}" y="{py(y) + 4:.1f}">{number(y)}</text>'
        )
    for x in ticks(x0, x1):
        where = "end" if px(x) > W - 40 else "middle"
        out.append(f'<text x="{px(x):.1f}" y="{H - 7}" style="text-anchor:{where}">{x:,.9g}</text>')
    for x, y in ours:
        points = " ".join(f"{px(a):.1f},{py(b):.1f}" for a, b in zip(x, y, strict=True))
        out.append(f'<polyline class="ours" points="{points}"/>')
    if paper is not None:
        above = py(paper) - 4 if py(paper) > TOP + 14 else py(paper) + 13
        out.append(f'<path class="paper" data-value="{paper!r}" d="M{LEFT} {py(paper):.1f}H{W - RIGHT}"/>')
        out.append(f'<text class="paper" x="{W - RIGHT}" y="{above:.1f}">paper {number(paper)}{of}</text>')
    return Markup("".join(out) + '<g class="read"></g></svg>')


def strip(row: Row) -> Markup:
    """Our seeds as dots beside the paper's value and what counts as reproduced."""
    claim = row.claim
    found = [v for v in (measured(claim, record) for record in row.mine) if math.isfinite(v)]
    if not found:
        return Markup("")
    sides = [claim.value - claim.tolerance, claim.value + claim.tolerance]
    low, high = min(found + sides), max(found + sides)
    pad = 0.08 * (high - low) or 1
    px = lambda v: 4 + (v - low + pad) / (high - low + 2 * pad) * 112
    begin = px(sides[0]) if claim.either_way or not claim.lower_is_better else 2
    end = px(sides[1]) if claim.either_way or claim.lower_is_better else 118
    band = f'<rect x="{begin:.1f}" y="4" width="{max(end - begin, 0.5):.1f}" height="14"/>' * (row.experiment.kind == "paper")
    dots = "".join(f'<circle cx="{px(v):.1f}" cy="11" r="3"/>' for v in found)
    line = f'<path class="paper" d="M{px(claim.value):.1f} 1V21"/>'
    return Markup(f'<svg class="strip" viewBox="0 0 120 22" width="120" height="22" aria-hidden="true">{band}{line}{dots}</svg>')


def of_claim(row: Row) -> Markup:
    """The curve of a claim's metric over the run, where it was logged."""
    claim, name = row.claim, row.claim.metric
    found = [c for c in (curves(record, name, claim.along) for record in row.mine) if len(c[0]) > 1]
    axis = claim.along if any(name in record.get("curves", {}) for record in row.mine) else "step"
    return chart(f"{row.name}: {name} against {axis}", axis, found, claim.value, unit(claim)) if found else Markup("")


def of_run(record: Record) -> tuple[str, Markup]:
    """(metric, its curve) of a run none of whose claims was logged along the way."""
    names = logged(record)
    for name in [n for n in names if "loss" in n] + [n for n in names if "error" in n or "accuracy" in n] + names:
        found = curves(record, name, "step")
        if len(found[0]) > 1:
            return name, chart(f"{record['experiment']}: {name} against step", "step", [found], None)
    return "", Markup("")
