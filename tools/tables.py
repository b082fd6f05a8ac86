"""Every table of the repository, generated from EXPERIMENTS and the published records.

`python -m tools.tables write` rewrites them (make tables; a test fails where one is out of date), `list` prints the whole state of
the repository (make list). A generated part of a file stands between `<!-- generated: NAME -->` and `<!-- end -->`.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from common.claims import Claim, Experiment, Record, Verdict, values, verdict
from common.files import write_atomic
from common.options import differences
from common.provenance import ROOT
from common.words import columns, duration, label, number, paper_value, said, spread, tolerance
from tools.repository import experiments, own_tables, papers, records, refuse, told

LINK = "[{0}](papers/{0}/README.md)"


class Row(NamedTuple):
    """A claim of an experiment, its records by seed, and how all that is written."""

    name: str
    experiment: Experiment
    claim: Claim
    mine: list[Record]

    def cells(self) -> tuple[str, str, str, str]:
        """(claim, the paper's, ours, verdict)."""
        ours = spread(values(self.claim, self.mine))
        return label(self.claim), paper_value(self.claim), ours, said(self.claim, verdict(self.experiment, self.claim, self.mine))


def claim_rows(paper: str) -> list[Row]:
    """Every claim of a paper, in the order of EXPERIMENTS. Raises BadInput: a record is no longer one of its experiment."""
    published, rows = records(paper), []
    for name, experiment in experiments(paper).items():
        mine = sorted((r for r in published if r["experiment"] == name), key=lambda r: r["seed"])
        for record in mine:
            changed = differences(record["config"], experiment.config)
            where = f"papers/{paper}/results.json: {name} seed {record['seed']} was run with other hyper-parameters than train.py"
            refuse(changed, f"{where} has now ({', '.join(changed)}); run and publish it again")
        if experiment.kind != "smoke":
            rows += [Row(name, experiment, claim, mine) for claim in experiment.claims]
    return rows


def made_on(mine: list[Record]) -> str:
    """Hardware and time of the records: "AMD EPYC, 2 cores; 3 runs, 6 min"."""
    hardware, runs = ", ".join(sorted({r["hardware"] for r in mine})), f"{len(mine)} runs, " * (len(mine) > 1)
    return f"{hardware}; {runs}{duration(sum(r['wall_s'] for r in mine))}" if mine else "–"


def markdown(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines) + "\n"


def claims_table(paper: str) -> str:
    """For papers/<paper>/README.md."""
    head, rows, reasons = ["experiment", "claim", "where", "paper", "counts as reproduced", "ours", "verdict"], [], {}
    for row in claim_rows(paper):
        (claim, theirs, ours, word), c = row.cells(), row.claim
        rows.append([f"`{row.name}`", f"`{claim}`", c.source, theirs, tolerance(c), ours, word])
        reasons |= {f"\n- `{claim}`: {c.why}": None} if c.why else {}
    return markdown(head, rows) + "".join(reasons) + "\n"


def runs_table(paper: str) -> str:
    """For papers/<paper>/README.md: the command, cap and cost of every experiment, and what its published runs took."""
    published, rows = records(paper), []
    for i, (name, e) in enumerate(experiments(paper).items()):
        mine = [r for r in published if r["experiment"] == name]
        seeds = " ".join(map(str, sorted(r["seed"] for r in mine)))
        command = f"make reproduce-{paper}" + f" EXPERIMENT={name}" * (i > 0) + f' SEEDS="{seeds}"' * (len(mine) > 1)
        if e.kind == "weights":
            command = f"make evaluate-{paper} ARGS={name.removeprefix('weights-')}"
        if e.kind != "smoke":
            rows.append([f"`{name}`", e.kind, e.source, f"`{command}`", e.cap, e.cost, made_on(mine)])
    return markdown(["experiment", "kind", "paper", "command", "cap", "expected cost", "measured"], rows)


def readings_table(paper: str) -> str:
    """For papers/<paper>/README.md: what each reading reads differently, and what it gave; means over seeds."""
    published, rows = records(paper), []
    for name, e in experiments(paper).items():
        mine = [r for r in published if r["experiment"] == name]
        if e.kind == "reading":
            stale = "stale: " * any("stale" in r for r in mine)
            measured = {k: [r["metrics"][k] for r in mine if r["metrics"][k] is not None] for r in mine[:1] for k in r["metrics"]}
            gave = ", ".join(f"{metric} {spread(values)}" for metric, values in measured.items())
            rows.append([f"`{name}`", e.note, stale + gave or "not run"])
    return markdown(["experiment", "reading", "gave"], rows)


def records_table(paper: str) -> str:
    """For papers/<paper>/README.md: everything that the published runs measured."""
    rows = []
    for r in records(paper):
        metrics = ", ".join(f"{k} {number(v)}" for k, v in r["metrics"].items())
        commit = f"`{(r['commit'] or '')[:10]}`" + (f", stale: {r['stale']}" if "stale" in r else "")
        rows.append([f"`{r['experiment']}`", str(r["seed"]), metrics, number(r["samples_per_s"]), commit])
    return markdown(["experiment", "seed", "metrics", "samples/s", "commit"], rows)


def papers_table(_: str = "") -> str:
    """For README.md: one line a paper, the claims of its headline experiment, and how all of its claims stand."""
    rows = []
    for paper in papers():
        claims = claim_rows(paper)
        headline = [row.cells() for row in claims if row.name == claims[0].name]
        cells = ["<br>".join(column) for column in zip(*((f"{c} {theirs}", *rest) for c, theirs, *rest in headline), strict=True)]
        so_far = tally(verdict(row.experiment, row.claim, row.mine) for row in claims)
        rows.append([LINK.format(paper), f"`{claims[0].name}`", *cells, so_far])
    return markdown(["paper", "headline experiment", "paper's", "ours", "verdict", "all claims"], rows)


def tally(verdicts: Iterable[Verdict]) -> str:
    """How many of each: "5 reproduced, 1 short, 2 not run"."""
    return ", ".join(f"{n} {word}" for word, n in Counter(verdict.word for verdict in verdicts).items())


def reproductions(_: str = "") -> str:
    """reproductions.md: every claim of every paper."""
    rows = []
    for paper in papers():
        for row in claim_rows(paper):
            claim, *rest = row.cells()
            rows.append([LINK.format(paper), f"`{row.name}`", f"{claim}, {row.claim.source}", *rest, made_on(row.mine)])
    return markdown(["paper", "experiment", "claim", "paper's", "ours", "verdict", "hardware, time"], rows)


def listing() -> str:
    """Plain text for `make list`."""
    rows = [["paper", "experiment", "kind", "claim", "paper's", "verdict so far", "expected cost"]]
    for paper in papers():
        claims = claim_rows(paper)
        for name, e in experiments(paper).items():
            cells = [(claim, theirs, word) for claim, theirs, _, word in (row.cells() for row in claims if row.name == name)]
            first, *more = cells or [("–",) * 3]
            rows += [[paper, name, e.kind, *first, e.cost], *(["", "", "", *cells, ""] for cells in more)]
    rows.insert(1, ["-" * max(map(len, column)) for column in zip(*rows, strict=True)])
    return "\n".join(columns(rows))


BLOCKS = {"claims": claims_table, "runs": runs_table, "readings": readings_table, "records": records_table}
BLOCKS |= {"papers": papers_table, "reproductions": reproductions}
BLOCK = re.compile(r"(<!-- generated: (\w+)[^>]*-->\n).*?(<!-- end -->)", re.DOTALL)


def generated(path: Path) -> str:
    """A file's text with every generated part made anew."""

    def block(match: re.Match) -> str:
        paper, name = path.parent.name, match[2]
        own = lambda paper: markdown((rows := own_tables(paper)[name](records(paper)))[0], rows[1:])
        return f"{match[1]}\n{BLOCKS.get(name, own)(paper)}\n{match[3]}"

    return BLOCK.sub(block, path.read_text(encoding="utf-8"))


def files() -> list[Path]:
    return [ROOT / "README.md", ROOT / "reproductions.md", *(ROOT / "papers" / paper / "README.md" for paper in papers())]


def stale() -> list[Path]:
    """The files in which a table and its records disagree."""
    return [path for path in files() if generated(path) != path.read_text(encoding="utf-8")]


def write() -> None:
    """Rewrite what is stale. Raises BadInput as claim_rows does."""
    for path in stale():
        write_atomic(path, generated(path).encode())
        print(f"rewrote {path.relative_to(ROOT)}")


def main(command: str) -> int:
    refuse(command not in ("list", "write"), f"tools.tables: '{command}' is neither list nor write")
    print(listing(), flush=True) if command == "list" else write()
    return 0


if __name__ == "__main__":
    sys.exit(told(main, sys.argv[1] if len(sys.argv) > 1 else "list"))
