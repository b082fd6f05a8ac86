"""`make compare RUNS="runs/gpt/tinyshakespeare/seed0 gpt/tinyshakespeare"`: runs beside each other, in one table and one picture.

A run is a folder (finished or not), or PAPER/EXPERIMENT[/seedN] of the published ones. Claims stand beside the paper's value.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from tyro.conf import Positional

from common import figures
from common.claims import Claim, Record, measured
from common.files import CLOCK, Row, read_rows, write_atomic
from common.provenance import ROOT
from common.words import columns, label, number, paper_value
from tools.repository import experiments, papers, records, refuse, told

PANELS = 6  # of the picture
COLUMNS = 3


class Side(NamedTuple):
    """One of the runs."""

    title: str
    about: dict[str, Any]  # paper, experiment, seed, config
    record: Record | None  # None: it has not ended
    rows: list[Row]

    def value(self, claim: Claim) -> str:
        """What it has come to; of a run that has not ended, so far."""
        if self.record:
            return number(measured(claim, self.record)) if claim.metric in self.record["metrics"] or claim.at else "–"
        so_far = [row for row in self.rows if claim.metric in row]
        return f"{number(so_far[-1][claim.metric])} at step {so_far[-1]['step']:,}" if so_far else "–"


def found(what: str) -> list[Side]:
    """Raises BadInput: it is no folder of a run, and nothing published."""
    folder = Path(what).expanduser()
    if (folder / "config.json").exists():
        about, ended = json.loads((folder / "config.json").read_text(encoding="utf-8")), folder / "result.json"
        record = json.loads(ended.read_text(encoding="utf-8")) if ended.exists() else None
        return [Side("/".join(folder.resolve().parts[-2:]), about, record, read_rows(folder / "metrics.jsonl"))]
    paper, _, rest = what.strip("/").partition("/")
    name, _, seed = rest.partition("/")
    mine = records(paper) if paper in papers() else []
    mine = [r for r in mine if r["experiment"] == name and seed in ("", f"seed{r['seed']}")]
    refuse(not mine, f"{what} is no folder of a run, and no published PAPER/EXPERIMENT or PAPER/EXPERIMENT/seedN")
    curve = ROOT / "papers" / paper / "curves"
    return [
        Side(f"{name}/seed{r['seed']} published", r, r, read_rows(curve / f"{name}-seed{r['seed']}.jsonl")) for r in mine
    ]  # fmt: skip


def claims_of(sides: list[Side]) -> list[Claim]:
    """What is judged in any of their experiments, once."""
    tables = [(experiments(side.about["paper"]), side.about["experiment"]) for side in sides]
    return [*dict.fromkeys(claim for table, name in tables if name in table for claim in table[name].claims)]


def table(sides: list[Side]) -> list[list[str]]:
    """In which hyper-parameters they differ, then claims, then what else their records have in common."""
    configs = [{k: json.dumps(v) for k, v in side.about["config"].items() if not k.startswith("--")} for side in sides]
    keys = dict.fromkeys(key for config in configs for key in config)
    rows = [["", "paper", *(side.title for side in sides)]]
    rows += [[k, "", *(c.get(k, "–") for c in configs)] for k in keys if len({c.get(k) for c in configs}) > 1]
    claims = claims_of(sides)
    rows += [[label(claim), paper_value(claim), *(side.value(claim) for side in sides)] for claim in claims]
    ended = [side.record["metrics"] for side in sides if side.record]
    shared = [name for name in (ended[0] if ended else ()) if all(name in metrics for metrics in ended)]
    for name in shared:
        if name not in {claim.metric for claim in claims}:
            rows.append([name, "", *(number(side.record["metrics"][name]) if side.record else "–" for side in sides)])
    return rows


def picture(sides: list[Side]) -> Any:
    """A chart for each metric with a claim that has a curve, then for losses. Raises BadInput: there is no curve."""
    from matplotlib.figure import Figure

    claims = claims_of(sides)
    logged = dict.fromkeys(name for side in sides for row in side.rows for name in row if name not in ("step", *CLOCK))
    judged = [name for name in dict.fromkeys(claim.metric for claim in claims) if name in logged]
    names = [*judged, *(name for name in logged if name not in judged and "loss" in name)] or [*logged]
    refuse(not names, "these runs have no curves yet")
    names = names[:PANELS]
    lines = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(5 * min(len(names), COLUMNS), 3.6 * lines))
    for name, axes in zip(names, figure.subplots(lines, min(len(names), COLUMNS), squeeze=False).flat, strict=False):
        for side in sides:
            points = [(row["step"], row[name]) for row in side.rows if name in row]
            axes.plot(*zip(*points, strict=True) if points else ([], []), linewidth=1.2, label=side.title)
        for claim in (claim for claim in claims if claim.metric == name):
            if claim.at is None:
                axes.axhline(claim.value, color="black", linestyle=":", linewidth=1, label=f"paper, {paper_value(claim)}")
            elif claim.along == "step":
                axes.plot([claim.at], [claim.value], "kx", label=f"paper, {paper_value(claim)}")
        axes.set(title=name, xlabel="step")
        axes.legend(fontsize="x-small")
    for axes in figure.axes[len(names) :]:
        axes.remove()
    figure.tight_layout()
    return figure


def main(runs: Positional[Annotated[tuple[str, ...], "folders or published runs"]] = (), to: str = "") -> int:
    """Prints the table and writes the picture, compare.png here or as `to` says.

    Raises:
        BadInput: fewer than two runs, or one of them is nothing.
    """
    sides = [side for what in runs for side in found(what)]
    refuse(len(sides) < 2, 'name at least two runs: RUNS="runs/PAPER/EXPERIMENT/seed0 PAPER/EXPERIMENT"')
    for line in columns(table(sides)):
        print(line)
    path = Path(to or "runs/compare.png").expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, figures.png(picture(sides), "compare", "; ".join(side.title for side in sides)))
    print(f"\npicture  {path}")
    return 0


if __name__ == "__main__":
    import tyro

    sys.exit(told(tyro.cli, main))
