"""`make wandb-<paper>`: the published runs in the user's own W&B project, and the paper's numbers in the same charts.

Every record becomes a finished run with its curve; its id is fixed, so that a second time writes over it and adds none. What the
paper claims of an experiment becomes one more run of the group, which logs the metrics themselves: level from the first step to the
last, or, for claims on a curve, the paper's points. Offline all is written to OUT/published/, for `wandb sync`.
"""

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.claims import Claim, Record, interpolated
from common.errors import Failed
from common.files import Row, read_rows
from common.provenance import ROOT
from common.track import USERS, WandB
from common.words import columns, label, said
from tools.grids import claim_rows
from tools.repository import experiments, known, papers, records, refuse, told

FACTS = ("kind", "commit", "code", "hardware", "processes", "precision", "versions", "data", "steps", "wall_s", "finished")
NOT_ONES_OWN = [name for key, name in USERS.items() if key != "project"] + ["WANDB_RUN_ID", "WANDB_RESUME", "WANDB_NOTES"]


def curve(record: Record) -> list[Row]:
    """The published curve of a record."""
    return read_rows(ROOT / "papers" / record["paper"] / "curves" / f"{record['experiment']}-seed{record['seed']}.jsonl")


def points(claim: Claim, rows: Sequence[Row], first: int, last: int) -> list[int]:
    """The steps at which a claim has its place in the chart of its metric; none where our curve does not get there."""
    if claim.at is None:
        return [first, last]
    if claim.along == "step":
        return [round(claim.at)]
    passed = [(row[claim.along], row["step"]) for row in rows if claim.along in row]
    at = interpolated([x for x, _ in passed], [float(step) for _, step in passed], claim.at)
    return [round(at)] if at == at else []


def paper_rows(claims: Sequence[Claim], rows: Sequence[Row], last: int) -> list[Row]:
    """What the paper's run logs: its value of each metric by step, beside a curve of ours."""
    first = min((row["step"] for row in rows), default=0)
    found: dict[int, Row] = {}
    on_curve = {claim.metric for claim in claims if claim.at is not None}
    for claim in claims:
        steps = points(claim, rows, first, max(last, first + 1))
        for step in steps[-1:] if claim.metric in on_curve else steps:
            row = found.setdefault(step, {"step": step})
            row[claim.metric] = claim.value
            if claim.at is not None:
                row[claim.along] = claim.at if claim.along != "step" else step
    return [found[step] for step in sorted(found)]


def put(folder: Path, about: dict[str, Any], claims: Sequence[Claim], rows: list[Row], record: Record, summary: Row) -> str:
    """One finished run. Returns where it is: an address, or a folder of its own in `folder`.

    Raises:
        Failed: W&B, which can be reached or writes offline, did not take it.
    """
    said_so: list[str] = []
    about["tags"] = [*about["tags"], *filter(None, os.environ.get("WANDB_TAGS", "").split(","))]
    folder.mkdir(parents=True, exist_ok=True)
    run = WandB(folder, {**about, "resume": None}, claims, rows, said_so.append)
    if any(line.startswith("W&B cannot be reached") for line in said_so):
        print(said_so[0])
        os.environ["WANDB_MODE"] = "offline"  # the others need not wait for it again
    where = str(folder)
    if run.run is not None:
        with run.harmless():
            run.run.summary.update(summary)
            where = run.run.url or where
        run.finish(record)
    if stopped := [line for line in said_so if line.startswith("W&B stopped")]:
        raise Failed(f"{about['name']}: {stopped[0]}")
    return where


def upload(paper: str, experiment: str, out: Path) -> list[list[str]]:
    """Every published run of a paper, or of one of its experiments, and the paper's: [name, tags, where] of each."""
    table, published, done = experiments(paper), records(paper), []
    refuse(experiment and experiment not in table, f"{paper} has no experiment '{experiment}': there are {', '.join(table)}")
    verdicts: dict[str, list[list[str]]] = {}
    for row in claim_rows(paper):
        word = row.verdict.word
        verdicts.setdefault(row.name, []).append([f"claims/{label(row.claim)}/verdict", said(row.claim, row.verdict), word])
    for name, about in table.items():
        mine = [record for record in published if record["experiment"] == name]
        if not (name == experiment or (mine and not experiment)):
            continue
        base = {"group": paper, "job_type": name}
        words = sorted({word for *_, word in verdicts.get(name, [])}) or [about.kind]
        for record in mine:
            seed = f"seed{record['seed']}"
            run = {**base, "id": f"{paper}-{name}-{seed}", "name": f"{paper}/{name}/{seed}", "tags": ["published", *words]}
            run["config"] = {**record["config"], "seed": record["seed"], **{k: record[k] for k in FACTS if k in record}}
            summary = {key: text for key, text, _ in verdicts.get(name, [])}
            where = put(out / paper / name / seed, run, about.claims, curve(record), record, summary)
            done.append([run["name"], ", ".join(run["tags"]), where])
        if about.claims and about.kind != "smoke":
            longest = max(map(curve, mine), key=lambda rows: rows[-1]["step"] if rows else 0, default=[])
            last = max([longest[-1]["step"] if longest else 0, *(record["steps"] for record in mine)])
            rows = paper_rows(about.claims, longest, last or getattr(about.config, "steps", 1))
            run = {**base, "id": f"{paper}-{name}-paper", "name": f"{paper}/{name} paper", "tags": ["published", "paper"]}
            run["config"] = {"source": about.source, **{f"source/{label(claim)}": claim.source for claim in about.claims}}
            where = put(out / paper / name / "paper", run, (), rows, {"metrics": {}}, {})
            done.append([run["name"], ", ".join(run["tags"]), where])
    return done


def main(paper: str = "", experiment: str = "", out: str = "runs") -> int:
    """Put published runs into W&B.

    Args:
        paper: by default all of them.
        experiment: one of the paper's; the paper's numbers of it also where we have no run.
        out: the folder of runs; offline ones go to OUT/published/.

    Raises:
        BadInput: there is no such paper or experiment, or nothing published, or no W&B.
    """
    if paper:
        known(paper)
    off = os.environ.get("WANDB_MODE") == "disabled" or os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1")
    refuse(off, "WANDB_MODE=disabled turns W&B off: unset it, or WANDB_MODE=offline writes runs for wandb sync")
    refuse(importlib.util.find_spec("wandb") is None, "wandb is not installed: pip install wandb, or make setup")
    for name in NOT_ONES_OWN:  # they name one run, and these are many
        os.environ.pop(name, None)
    folder, done = Path(out).expanduser() / "published", []
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        refuse(True, f"cannot write to {folder}: {error.strerror}; name another folder with OUT=...")
    for each in [paper] if paper else papers():
        done += upload(each, experiment, folder)
    refuse(not done, f"{paper} has no published run yet: make list PAPER={paper} says what there is to run")
    for line in columns([["run", "tags", "where"], *done]):
        print(line)
    if offline := [where for *_, where in done if not where.startswith("http")]:
        print(
            f"{len(offline)} runs are written offline; to upload them: wandb sync {folder}/{paper or '*'}/*/*/wandb/offline-run-*"
        )
    return 0


if __name__ == "__main__":
    import tyro

    sys.exit(told(tyro.cli, main))
