"""Every table of the repository, generated from EXPERIMENTS and the published records.

`python -m tools.tables write` rewrites them (make tables; a test fails where one is out of date), `list [PAPER]` prints the whole
state of the repository (make list). A generated part of a file stands between `<!-- generated: NAME -->` and `<!-- end -->`.
"""

import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from common.claims import Record, values
from common.errors import BadInput
from common.files import write_atomic
from common.provenance import ROOT
from common.words import columns, duration, number, spread, tolerance
from tools.grids import LEGEND, Row, by_table, claim_rows, folded, grid, markdown, title
from tools.repository import experiments, heading, known, own_tables, papers, records, refuse, shapes, told

BESIDE = {"scaled": "of scaled runs", "weights": "of official weights", "reading": "of readings"}
SIGNS = {"reproduced": "✓", "short": "✗", "not run": "–"}
SHOWN = 8  # lines of a table that is not folded
CLAIMS = 20  # claims that a page begins with; more are counted
METRIC = 20  # letters of a metric on the front page; a longer one is left to its experiment's name
FIELDS = 20  # papers on one table of the front page; more are grouped by field


def made_on(mine: list[Record]) -> str:
    """Time and hardware of the records: "3 runs, 6 min on AMD EPYC, 2 cores"."""
    hardware = " and ".join(sorted({re.sub(r"\(R\)| Processor|(?<= 1 core)s", "", r["hardware"]) for r in mine}))
    time = f"{len(mine)} runs, " * (len(mine) > 1) + duration(sum(r["wall_s"] for r in mine))
    return f"{time} on {hardware}" if mine else "–"


def tally(rows: Iterable[Row], words: dict[str, str] = {}) -> str:  # noqa: B006
    """How many of each: "5 reproduced, 1 short, 2 not run"; with SIGNS "5 ✓, 1 ✗, 2 –"."""
    return ", ".join(f"{n} {words.get(word, word)}" for word, n in Counter(row.verdict.word for row in rows).items())


def counted(n: int, what: str) -> str:
    """1 reading, 2 readings."""
    return f"{n} {what}" if n != 1 else f"1 {re.sub(r's(?= |$)', '', what, count=1)}"


def link(paper: str) -> str:
    return "[{} ({})](papers/{}/README.md)".format(*heading(paper)[:2], paper)


def by_year() -> list[str]:
    return sorted(papers(), key=lambda paper: (heading(paper)[1], heading(paper)[0].lower()))


def of_paper(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """The claims of the paper itself, and those of them that were judged."""
    own = [row for row in rows if row.experiment.kind == "paper"]
    return own, [row for row in own if row.mine]


# A paper's page.


def contents(paper: str) -> str:
    text = (ROOT / "papers" / paper / "README.md").read_text(encoding="utf-8")
    return " · ".join(f"[{part}](#{anchor(part)})" for part in re.findall(r"^## (.+)$", text, re.MULTILINE)) + "\n"


def anchor(heading: str) -> str:
    """GitHub's name for a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def found(paper: str) -> str:
    """In a sentence or two: how many claims were judged, how they stand, and what the runs took."""
    rows, mine = claim_rows(paper), records(paper)
    own, judged = of_paper(rows)
    count = Counter(row.experiment.kind for row in rows if row.mine and row.experiment.kind != "paper")
    so_far = f"**{len(judged) or 'None'} of {counted(len(own), 'claims')} judged{f': {tally(judged)}' * bool(judged)}.** "
    beside = f"Beside other numbers, without a verdict: {', '.join(f'{n} {BESIDE[kind]}' for kind, n in count.items())}. "
    return so_far + beside * bool(count) + (f"All of it: {made_on(mine)}.\n" if mine else "Nothing has been run yet.\n")


def ran_table(paper: str) -> str:
    """The claims that were run; where they are many, how many of each of the paper's tables came out."""
    rows = [row for row in claim_rows(paper) if row.mine]
    if len(rows) <= CLAIMS:
        head = ["experiment", "claim", "paper", "counts as reproduced", "ours", "verdict"]
        bound = lambda row: tolerance(row.claim) if row.experiment.kind in ("paper", "weights") else "–"
        cells = [(row.name, bound(row), row.cells()) for row in rows]
        return markdown(head, [[f"`{name}`", f"`{c}`", theirs, t, *rest] for name, t, (c, theirs, *rest) in cells]) * bool(rows)
    lines = []
    for key, mine in by_table(rows).items():
        runs = ", ".join(dict.fromkeys(f"`{row.name}`" for row in mine))
        lines.append([f"[{title(*key)}](#{anchor(title(*key))})", runs, str(len(mine)), tally(mine)])
    return markdown(["where", "experiments that ran", "claims", "how they stand"], lines)


def claims_table(paper: str) -> str:
    """All claims, a table for each of the paper's."""
    parts = []
    for key, rows in by_table(claim_rows(paper)).items():
        text = grid(key[1], rows, shapes(paper).get(title(*key)))
        summary = f"{counted(len(rows), 'claims')}: {tally(rows)}"
        long = text.count("\n|") - 1 > SHOWN
        parts.append(f"### {title(*key)}\n\n" + (folded(summary, text) if long else f"{summary}\n\n{text}"))
    return LEGEND + "\n\n" + "\n".join(parts)


def command(paper: str, name: str, mine: list[Record]) -> str:
    """What runs an experiment, with the seeds that were published."""
    if name.startswith("weights-"):
        return f"make evaluate-{paper} ARGS={name.removeprefix('weights-')}"
    seeds = " ".join(map(str, sorted(r["seed"] for r in mine)))
    first = next(iter(experiments(paper)))
    return f"make reproduce-{paper}" + f" EXPERIMENT={name}" * (name != first) + f' SEEDS="{seeds}"' * (len(mine) > 1)


def runs_table(paper: str) -> str:
    """The command, cap and cost of every experiment, and what its runs took: headline and those that ran, others, readings."""
    published, parts = records(paper), {"": [], "experiments still to be run": [], "readings": []}
    for i, (name, e) in enumerate(experiments(paper).items()):
        mine = [r for r in published if r["experiment"] == name]
        if e.kind != "smoke":
            part = [*parts][2 if e.kind == "reading" else not (mine or i == 0)]
            parts[part].append([f"`{command(paper, name, mine)}`", e.kind, e.source, e.cap, e.cost, made_on(mine)])
    head = ["command", "kind", "where", "cap", "expected cost", "measured"]
    tables = {what: markdown(head, rows) for what, rows in parts.items() if rows}
    text = "\n".join(folded(counted(len(parts[what]), what), table) if what else table for what, table in tables.items())
    return text + "\nCPU cores are those of an AMD EPYC or Intel Xeon, as where they were measured.\n" * ("CPU" in text)


def maybe_folded(what: str, head: list[str], rows: list[list[str]], shown: int = SHOWN) -> str:
    return folded(counted(len(rows), what), markdown(head, rows)) if len(rows) > shown else markdown(head, rows)


def readings_table(paper: str) -> str:
    """What each reading reads differently, and what it gave; means over seeds."""
    published, rows = records(paper), []
    for name, e in experiments(paper).items():
        mine = [r for r in published if r["experiment"] == name]
        if e.kind == "reading":
            stale = "stale: " * any("stale" in r for r in mine)
            measured = {k: [r["metrics"][k] for r in mine if r["metrics"][k] is not None] for r in mine[:1] for k in r["metrics"]}
            gave = ", ".join(f"{metric} {spread(values)}" for metric, values in measured.items())
            rows.append([f"`{name}`", e.note, stale + gave or "not run"])
    return maybe_folded("readings", ["experiment", "reading", "gave"], rows)


def records_table(paper: str) -> str:
    """Everything that the published runs measured."""
    rows = []
    for r in records(paper):
        metrics = ", ".join(f"{k} {number(v)}" for k, v in r["metrics"].items())
        commit = f"`{(r['commit'] or '')[:10]}`" + (f", stale: {r['stale']}" if "stale" in r else "")
        rows.append([f"`{r['experiment']}`", str(r["seed"]), metrics, f"{number(r['samples_per_s'])}, {r['precision']}", commit])
    table = maybe_folded("runs", ["experiment", "seed", "metrics", "samples/s", "commit"], rows)
    return f"Everything that the published runs measured:\n\n{table}" if rows else "No run has been published yet.\n"


# The front page and reproductions.md.


def best(rows: list[Row]) -> Row | None:
    """The best evidence that there is: the headline's, else the paper's own that was judged, else what meets its reference."""
    met = lambda row: row.claim.verdict("paper", values(row.claim, row.mine)).word == "reproduced"
    kind = lambda row: ["paper", *BESIDE].index(row.experiment.kind)
    rank = lambda row: (row.verdict.word == "stale", row.name != rows[0].name, kind(row) > 0, not met(row), kind(row))
    return min((row for row in rows if row.mine), key=rank, default=None)


def line(paper: str) -> list[str]:
    """A paper's line on the front page, at most two lines a cell."""
    rows = claim_rows(paper)
    own, judged = of_paper(rows)
    bar = "█" * (full := -(-10 * len(judged) // max(len(own), 1))) + "░" * (10 - full)
    counts = f"{bar}<br>{len(judged)} of {len(own)}{': ' * bool(judged)}{tally(judged, SIGNS)}"
    if (row := best(rows)) is None:
        mine = records(paper)
        runs = f"{counted(len(mine), 'runs')} without a claim" if mine else "nothing run yet"
        return [link(paper), runs, *(cell.replace(" ", "\u00a0") for cell in (counts, made_on(mine).replace(" on ", "<br>")))]
    _, theirs, ours, _ = row.cells()
    all_of_it = [other for other in rows if other.name == row.name]
    where = "headline" if row.name == rows[0].name else f"`{row.name.removeprefix('weights-')}`"
    where += f": {tally(all_of_it, SIGNS)}" * (len(all_of_it) > 1)
    metric = row.claim.metric.replace("_", " ")
    other = "paper" if row.experiment.kind in ("paper", "reading") else "ref."
    evidence = f"**{ours}**, {other} {theirs}: {row.verdict.word}<br>{f'{metric}, ' * (len(metric) <= METRIC)}{where}"
    cells = evidence, counts, made_on(row.mine).replace(" on ", "<br>")
    return [link(paper), *(cell.replace(" ", "\u00a0") for cell in cells)]


def papers_table(_: str = "") -> str:
    """For README.md: one line a paper, by year, and by field where they are many."""
    lines = {paper: line(paper) for paper in by_year()}
    head = ["paper", "best evidence so far", "claims judged", "time, hardware"]
    if len(lines) <= FIELDS:
        return markdown(head, lines.values())
    fields = sorted({heading(paper)[2] for paper in lines})
    of = lambda field: [cells for paper, cells in lines.items() if heading(paper)[2] == field]
    return "\n".join(f"### {field.capitalize()}\n\n{markdown(head, of(field))}" for field in fields)


def reproductions(_: str = "") -> str:
    """reproductions.md: how all claims of all papers stand, then every claim that was run; of the others the experiments."""
    summary, sections = [], []
    for paper in by_year():
        rows = claim_rows(paper)
        own, judged = of_paper(rows)
        ran, waiting = [row for row in rows if row.mine], dict.fromkeys(f"`{row.name}`" for row in rows if not row.mine)
        count = Counter(row.verdict.word for row in judged)
        numbers = len(own), len(judged), count["reproduced"], count["short"], count["stale"], len(ran) - len(judged)
        summary.append([link(paper), *map(str, numbers)])
        cells = [(row, row.cells()) for row in ran]
        lines = [[f"`{row.name}`", f"`{c}`<br>{row.claim.source}", *rest, made_on(row.mine)] for row, (c, *rest) in cells]
        head = ["experiment", "claim, where", "paper", "ours", "verdict", "time, hardware"]
        table = maybe_folded("claims that were run", head, lines, CLAIMS)
        not_run = folded(f"{counted(len(waiting), 'experiments')} with claims that wait", ", ".join(waiting) + "\n")
        parts = f"## {link(paper)}\n", found(paper), table * bool(ran), not_run * bool(waiting)
        sections.append("\n".join(filter(None, parts)))
    totals = ["all", *(str(sum(int(line[i]) for line in summary)) for i in range(1, 7))]
    head = ["paper", "claims", "judged", "reproduced", "short", "stale", "scaled, weights, readings"]
    return markdown(head, [*summary, totals]) + "\n" + "\n".join(sections)


def as_json() -> str:
    """reproductions.json: every claim of every paper, for whoever sorts or plots; `ours` by seed."""
    every = []
    for paper in by_year():
        name, year, field = heading(paper)
        for row in claim_rows(paper):
            e, ours = row.experiment, [x if math.isfinite(x) else None for x in values(row.claim, row.mine)]
            claim = {key: value for key, value in asdict(row.claim).items() if key != "why" and (value or key == "value")}
            every.append(
                {"paper": paper, "name": name, "year": int(year), "field": field, "experiment": row.name, "kind": e.kind}
                | {"claim": claim, "seeds": [r["seed"] for r in row.mine], "ours": ours, "verdict": asdict(row.verdict)}
                | {"cost": e.cost, "wall_s": [r["wall_s"] for r in row.mine], "hardware": [r["hardware"] for r in row.mine]}
            )
    return "[\n" + ",\n".join(json.dumps(each, ensure_ascii=False) for each in every) + "\n]\n"


def listing(only: str = "") -> str:
    """Plain text for `make list`: of each paper what ran first."""
    rows = [["paper", "experiment", "kind", "claim", "paper's", "ours", "verdict so far", "expected cost"]]
    for paper in [only] if only else by_year():
        claims, ran = claim_rows(paper), {record["experiment"] for record in records(paper)}
        for name, e in sorted(experiments(paper).items(), key=lambda item: item[0] not in ran):
            first, *more = [row.cells() for row in claims if row.name == name] or [("–",) * 4]
            rows += [[paper, name, e.kind, *first, e.cost], *(["", "", "", *cells, ""] for cells in more)]
    rows.insert(1, ["-" * max(map(len, column)) for column in zip(*rows, strict=True)])
    return "\n".join(columns(rows))


BLOCKS = {"contents": contents, "found": found, "ran": ran_table, "claims": claims_table, "runs": runs_table}
BLOCKS |= {"readings": readings_table, "records": records_table, "papers": papers_table, "reproductions": reproductions}
BLOCK = re.compile(r"(<!-- generated: (\w+)[^>]*-->\n).*?(<!-- end -->)", re.DOTALL)


def generated(path: Path) -> str:
    """A file's text with every generated part made anew."""
    if path.suffix == ".json":
        return as_json()

    def block(match: re.Match) -> str:
        paper, name = path.parent.name, match[2]
        if name in BLOCKS:
            return f"{match[1]}\n{BLOCKS[name](paper)}\n{match[3]}"
        head, *rows = own_tables(paper)[name](records(paper))
        return f"{match[1]}\n{maybe_folded(f'lines: {name}', head, rows)}\n{match[3]}"

    return BLOCK.sub(block, path.read_text(encoding="utf-8"))


def files() -> list[Path]:
    pages = [ROOT / "papers" / paper / "README.md" for paper in papers()]
    return [ROOT / "README.md", ROOT / "reproductions.md", ROOT / "reproductions.json", *pages]


def stale() -> list[Path]:
    """The files in which a table and its records disagree. Raises BadInput: a paper has no page."""
    for page in (path for path in files() if path.name == "README.md" and not path.exists()):
        raise BadInput(f"{page.relative_to(ROOT)} is missing: CONTRIBUTING.md says what stands in it")
    return [path for path in files() if not path.exists() or generated(path) != path.read_text(encoding="utf-8")]


def write() -> None:
    """Rewrite what is stale. Raises BadInput as claim_rows and stale do."""
    for path in stale():
        write_atomic(path, generated(path).encode())
        print(f"rewrote {path.relative_to(ROOT)}")


def main(command: str = "list", paper: str = "") -> int:
    refuse(command not in ("list", "check", "write"), f"tools.tables: '{command}' is neither list, check nor write")
    if command == "write":
        write()
    elif command == "check":
        found = [f"{path.relative_to(ROOT)} is not as the records have it: make tables" for path in stale()]
        print("\n".join(found) or "every table is as the records have it", flush=True)
        return 1 if found else 0
    else:
        if paper:
            known(paper)
        print(listing(paper), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(told(main, *sys.argv[1:3]))
