"""All claims of a paper in the shape of its own tables: the paper's number and ours in each cell, reasons as numbered notes."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from common.claims import Claim, Experiment, Kind, Record, Verdict, values, verdict
from common.options import differences
from common.words import label, number, paper_value, said, spread, unit
from tools.repository import experiments, records, refuse

PLACE = re.compile(r"(Table|Fig\.|Sec\.|Appendix) ?[0-9A-Z](?:[0-9.]*[0-9a-z])?\b")
ORDER = ["Table", "Fig.", "Sec.", "Appendix"]
TITLES = {"scaled": "Scaled", "weights": "Official weights", "reading": "Readings"}
MARKS = {"reproduced": " ✓", "short": " ✗", "stale": " (stale)"}
LEGEND = "In each cell: the paper's number / ours, ✓ reproduced, ✗ short, – not run; ± is the standard deviation over (n) seeds."
WIDE = 100  # letters in a table's head from which it is turned, if that makes it less wide
REASONS = ("within noise", "not measurable")
Shape = Callable[[str, Claim], tuple[str, str]]  # (experiment, claim) -> its line and column, as the paper has them


class Row(NamedTuple):
    """A claim of an experiment, its records by seed, and how all that is written."""

    name: str
    experiment: Experiment
    claim: Claim
    mine: list[Record]

    @property
    def verdict(self) -> Verdict:
        return verdict(self.experiment, self.claim, self.mine)

    def cells(self) -> tuple[str, str, str, str]:
        """(claim, the paper's, ours, verdict)."""
        return label(self.claim), paper_value(self.claim), spread(values(self.claim, self.mine)), said(self.claim, self.verdict)


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


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines) + "\n"


def folded(summary: str, text: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{text}\n</details>\n"


def home(row: Row) -> str:
    """The paper's table that a claim belongs to, its own or its experiment's; else its figure, section, or whoever says it."""
    for source in (row.claim.source, *(other.source for other in row.experiment.claims), row.experiment.source):
        if found := re.search(r"Table \d+", source):
            return found[0]
    found = PLACE.search(row.claim.source)
    return found[0] if found else re.split(r"[,:;]", row.claim.source)[0]


def by_table(rows: list[Row]) -> dict[tuple[Kind, str], list[Row]]:
    """(kind, table) -> its claims: the paper's tables in their order, what is scaled, official weights, readings."""
    found: dict[tuple[Kind, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.experiment.kind, home(row)), []).append(row)

    def order(key: tuple[Kind, str]) -> tuple:
        kind, place = key
        word, _, rest = place.partition(" ")
        numbers = tuple(map(int, re.findall(r"\d+", rest))) if word in ORDER else ()
        return ["paper", *TITLES].index(kind), ORDER.index(word) if word in ORDER else len(ORDER), numbers

    return dict(sorted(found.items(), key=lambda item: order(item[0])))


def title(kind: Kind, place: str) -> str:
    return place if kind == "paper" else f"{TITLES[kind]}: {place}"


def words_after(place: str, source: str) -> str:
    """What a source says besides its place: "Sec. 4.2, Table 6, ResNet, 20 layers" -> "ResNet, 20 layers"."""
    found = re.fullmatch(rf"(?:Sec\. [\d.]+, )*{re.escape(place)}(?:[,:;.] (.*))?", source)
    return (found[1] or "") if found else source


def shaped(place: str, rows: list[Row]) -> list[tuple[str, str, str, Row]]:
    """(line, column, what else its source says, claim): a line for each experiment, a column for each metric.

    What the sources say besides the place goes to the lines if it is the same along each of them, else to columns where it is so.
    """
    words: dict[str, set[str]] = {}
    for row in rows:
        for key in (row.name, label(row.claim)):
            words.setdefault(key, set()).add(words_after(place, row.claim.source))
    of_lines, shape = all(len(words[row.name]) == 1 for row in rows), []
    for row in rows:
        column, rest = label(row.claim), words_after(place, row.claim.source)
        line = rest if of_lines else words_after(place, row.experiment.source) if place in row.experiment.source else ""
        rest = rest.removeprefix(line).lstrip(",; ")
        if not of_lines and len(words[column]) == 1:
            column, rest = f"{column}`<br>{rest}".removesuffix("<br>"), ""
        else:
            column += "`"
        shape.append((f"{line}<br>`{row.name}`".removeprefix("<br>"), f"`{column}", rest, row))
    return shape


def allowance(claims: list[Claim]) -> str:
    """What counts as reproduced, of claims with one reason: "at most 0.33% above"."""
    claim, off = claims[0], sorted({claim.tolerance for claim in claims})
    side = "off" if claim.either_way else "above" if claim.lower_is_better else "below"
    return f"at most {' to '.join(map(number, {off[0]: 0, off[-1]: 0}))}{unit(claim)} {side}: " if off[-1] else f"not {side}: "


def grid(place: str, rows: list[Row], shape: Shape | None = None) -> str:
    """A table with its notes; where most of its cells would be empty, a list."""
    cells = [] if shape else shaped(place, rows)
    for row in rows if shape else ():
        line, column = shape(row.name, row.claim)
        rest = [word for word in words_after(place, row.claim.source).split(", ") if word not in f"{line}, {column}"]
        cells.append((line, column, ", ".join(rest), row))
    lines, columns = list(dict.fromkeys(c[0] for c in cells)), list(dict.fromkeys(c[1] for c in cells))
    if not shape and len(cells) < 0.6 * len(lines) * len(columns):
        cells, columns = [(f"{line}, {column}", "paper / ours", *rest) for line, column, *rest in cells], ["paper / ours"]
        lines = [line for line, *_ in cells]
    elif not shape and len(columns) > len(lines) and (len(columns) > 6 or sum(map(len, columns)) > WIDE):
        cells, lines, columns = [(column, line, *rest) for line, column, *rest in cells], columns, lines
    reasons: dict[tuple, list[Claim]] = {}
    side = lambda row: row.experiment.kind in ("paper", "weights") and (row.claim.either_way, row.claim.lower_is_better)
    key = lambda row: (row.claim.why, side(row))
    for *_, row in cells:
        reasons.setdefault(key(row), []).append(row.claim)
    note = {reason: f" <sup>{i}</sup>" for i, reason in enumerate(reasons, 1)}
    alike = {column: len({key(row) for _, other, _, row in cells if other == column}) == 1 for column in columns}
    head = {column: column + note[next(key(row) for _, c, _, row in cells if c == column)] * alike[column] for column in columns}
    table: dict[tuple[str, str], str] = {}
    for line, column, rest, row in cells:
        (_, theirs, ours, _), v = row.cells(), row.verdict
        text = f"{theirs} / {ours}{MARKS.get(v.word, '')}{f' ({v.reason})' * (v.reason in REASONS)}"
        text += note[key(row)] * (not alike[column]) + f"<br><sub>{rest}</sub>" * bool(rest)
        table[line, column] = f"{table[line, column]}<br>{text}" if (line, column) in table else text
    text = markdown(["", *head.values()], [[line, *(table.get((line, column), "") for column in columns)] for line in lines])
    notes = [f"{i}. {allowance(mine) * bool(of)}{why}" for i, ((why, of), mine) in enumerate(reasons.items(), 1)]
    return text + "\n" + "\n".join(notes) + "\n"
