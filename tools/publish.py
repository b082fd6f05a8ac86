"""`make publish-<paper>`: finished runs become records, curves and figures of the repository, and tables follow.

A record is refused if it cannot be trusted: stand-in data, hyper-parameters that are not the experiment's, code that is not its
commit's, a recipe changed on the way. Publishing a (experiment, seed) again replaces it, and says so.
"""

import hashlib
import json
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

from common import provenance
from common.claims import Experiment, Record
from common.directory import checkpoints
from common.files import CLOCK, Row, read_rows, write_atomic
from common.options import differences
from common.provenance import ROOT
from tools import tables
from tools.export import as_safetensors, facts_of, learned
from tools.repository import experiments, exporter, known, pictures, records, refuse, told

CURVE = 200  # rows of a published curve
BEGINNING = 10  # of these the first, without a gap, for replay
SMALL = 2_000_000  # bytes: weights that are not larger are published as well, of a paper's first experiment and seed


def refusal(record: Record, experiment: Experiment | None, figures: Path) -> str | None:
    """Why a record cannot be published, or None; figures: the folder of its run's pictures."""
    if experiment is None:
        return "no such experiment in train.py"
    if record["data"]["stand_in"]:
        return "its data is a stand-in"
    if changed := differences(record["config"], experiment.config):
        return f"other hyper-parameters than the experiment's ({', '.join(changed)})"
    usual, precision = {*experiment.precision.values()}, record["precision"]
    if precision not in usual and not (precision == "fp32" and "bf16" in usual):  # a CPU without bf16
        return f"in {precision}, which is not what the experiment runs in ({', '.join(usual)})"
    if record.get("changes"):
        return f"its recipe changed on the way ({'; '.join(change['what'] for change in record['changes'])})"
    if missing := [name for name in experiment.figures if not (figures / f"{name}.png").exists()]:
        return f"it has no picture {', '.join(missing)}, which the experiment names"
    if not (commit := record["commit"]):
        return "it names no commit; run it in a git checkout, or with $COMMIT set"
    at_commit = provenance.code_hash_at(commit, tuple(record.get("files", ())))
    if at_commit is None:
        return f"its commit {commit[:10]} is not in this repository"
    if at_commit != record["code"]:
        return f"it was not made by the code of its commit {commit[:10]}; run it from a clean checkout"
    return None


def thinned(rows: list[Row]) -> list[Row]:
    """At most CURVE rows: the first ones, evaluations before others, the last, and the rest evenly chosen. Without the clock's."""
    rows = [{name: value for name, value in row.items() if name not in CLOCK} for row in rows]
    usual = Counter(map(frozenset, rows)).most_common(1)[0][0] if rows else None
    rare = {i for i, row in enumerate(rows) if frozenset(row) != usual}
    first = {*range(min(BEGINNING, len(rows)))}
    kept = first if len(rare | first) > CURVE - 2 else rare | first
    other = sorted({*range(len(rows))} - kept)
    room = min(CURVE - len(kept), len(other))
    chosen = {other[round(i * (len(other) - 1) / max(room - 1, 1))] for i in range(room)}
    return [rows[i] for i in sorted(chosen | kept)]


def text(kept: list[Record]) -> str:
    """Records as JSON, a line for each value, and for each list of numbers."""
    return re.sub(r"\[[^][{}\"]*\]", lambda match: " ".join(match[0].split()), json.dumps(kept, indent=1)) + "\n"


def made_from(mine: list[Record]) -> str:
    """What a picture that is drawn from records says of them."""
    return "; ".join(f"{r['experiment']} seed {r['seed']}, commit {r['commit']}, finished {r['finished']}" for r in mine)


def keep_weights(run: Path, paper: str, record: Record) -> None:
    """Into papers/<paper>/weights/, if they are small and the paper has an export.py; the record says where."""
    if exporter(paper) is None or not checkpoints(run):
        return
    content = as_safetensors(learned(run, paper), facts_of(record))
    if len(content) <= SMALL:
        file = f"weights/{record['experiment']}-seed{record['seed']}.safetensors"
        (ROOT / "papers" / paper / "weights").mkdir(exist_ok=True)
        write_atomic(ROOT / "papers" / paper / file, content)
        record["weights"] = {"file": file, "sha256": hashlib.sha256(content).hexdigest()}


def draw(paper: str, kept: list[Record]) -> None:
    """Pictures that train.py draws from several records."""
    for name, (wanted, function) in pictures(paper).items():
        if mine := [record for record in kept if record["experiment"] in wanted]:
            path, about = ROOT / "papers" / paper / "figures" / f"{name}.png", {"Title": name, "Description": made_from(mine)}
            function(mine).savefig(path, dpi=150, bbox_inches="tight", metadata=about)


def publish(paper: str, out: Path) -> int:
    """Returns how many records were refused.

    Raises:
        BadInput: there is nothing to publish, or an older record is no longer one of its experiment.
    """
    known(paper)
    found = sorted((out / paper).glob("*/seed*/result.json"), key=lambda path: (path.parts[-3], len(path.parts[-2]), path))
    results = {path: json.loads(path.read_text(encoding="utf-8")) for path in found}
    results = {path: record for path, record in results.items() if record["kind"] != "smoke"}
    refuse(not results, f"no finished run of {paper} in {out / paper}: make reproduce-{paper} makes one")
    folder, table, refused = ROOT / "papers" / paper, experiments(paper), 0
    for part in ("curves", "figures"):
        (folder / part).mkdir(exist_ok=True)
    published = {(record["experiment"], record["seed"]): record for record in records(paper)}
    for path, record in results.items():
        name, seed = key = record["experiment"], record["seed"]
        if reason := refusal(record, table.get(name), path.parent / "figures"):
            print(f"refused   {name} seed {seed}: {reason}")
            refused += 1
            continue
        if name == next(iter(table)) and seed == min([seed, *(s for n, s in published if n == name)]):
            keep_weights(path.parent, paper, record)
        state = "added" if key not in published else "unchanged" if published[key] == record else "replaced"
        print(f"{state:9} {name} seed {seed}")
        published[key] = record
        curve = "".join(json.dumps(row) + "\n" for row in thinned(read_rows(path.parent / "metrics.jsonl")))
        write_atomic(folder / "curves" / f"{name}-seed{seed}.jsonl", curve.encode())
        if seed == min(s for n, s in published if n == name):
            for figure in table[name].figures:
                shutil.copyfile(path.parent / "figures" / f"{figure}.png", folder / "figures" / f"{name}-{figure}.png")
    order = {name: i for i, name in enumerate(table)}
    kept = sorted(published.values(), key=lambda record: (order.get(record["experiment"], len(order)), record["seed"]))
    write_atomic(folder / "results.json", text(kept).encode())
    draw(paper, kept)
    tables.write()
    return refused


def main(arguments: list[str]) -> int:
    return told(lambda: 2 if publish(arguments[0], Path(arguments[1] if len(arguments) > 1 else "runs").expanduser()) else 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
