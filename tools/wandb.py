"""`make wandb-<paper>`, `make wandb`: the published runs in your own W&B project, so that a new run lies over ours.

Each record is a finished run of its group, the paper, tagged `published` and with its verdicts, under an id that follows from the
record: sent twice it is there once. What the paper prints of an experiment is a run as well, `paper`, whose points lie in the
metrics' own charts. Without credentials or network they are offline runs, and a line says how to sync them.
"""

import hashlib
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from common import track
from common.claims import Claim, Experiment, Record, verdict
from common.files import Row, read_rows
from common.provenance import ROOT
from tools.repository import experiments, known, papers, records, refuse, told


class Shown(NamedTuple):
    """A run as W&B takes it."""

    settings: dict[str, Any]
    rows: list[Row]
    summary: dict[str, Any]


def number_of(*facts: object) -> str:
    """An id that follows from these facts."""
    return hashlib.sha256(" ".join(map(str, facts)).encode()).hexdigest()[:8]


def published(e: Experiment, record: Record) -> Shown:
    """A record with its curve."""
    paper, name, seed = (record[key] for key in ("paper", "experiment", "seed"))
    about = {key: record[key] for key in ("seed", "precision", "commit", "hardware", "processes", "finished", "wall_s", "data")}
    words = sorted({verdict(e, claim, [record]).word for claim in e.claims} or {record["kind"]})
    settings = {
        "id": number_of(paper, name, seed, record["commit"], record["finished"]), "group": paper, "job_type": name,
        "name": f"{paper}/{name}/seed{seed} published", "tags": ["published", *words],
        "config": record["config"] | {"record": about},
    }  # fmt: skip
    rows = read_rows(ROOT / "papers" / paper / "curves" / f"{name}-seed{seed}.jsonl")
    return Shown(settings, [row | track.flat(e.claims) for row in rows], track.summary(e.claims, record))


def printed(paper: str, name: str, claims: list[Claim], steps: int) -> Shown:
    """What the paper prints, from edge to edge of our curves, or where a claim is judged."""
    rows: dict[int, Row] = {0: {}, steps: {}}
    for claim in claims:
        for step in (0, steps) if claim.at is None else [int(claim.at)] * (claim.along == "step"):
            rows.setdefault(step, {})[claim.metric] = claim.value
    settings = {"id": number_of(paper, name, "paper"), "group": paper, "job_type": name, "name": f"{paper}/{name}/paper"}
    settings |= {"config": {"sources": {claim.key: claim.source for claim in claims}}, "tags": ["paper"]}
    return Shown(settings, [{"step": step, **rows[step]} for step in sorted(rows)], track.flat(claims))


def runs_of(paper: str) -> list[Shown]:
    table, found = experiments(paper), []
    for name, e in table.items():
        if mine := [record for record in records(paper) if record["experiment"] == name]:
            found += [published(e, record) for record in mine]
            if e.claims:
                found.append(printed(paper, name, list(e.claims), max(record["steps"] for record in mine)))
    return found


def view(paper: str, entity: str, project: str) -> Any:
    """A saved view: a chart for each metric that claims judge, with our runs, the paper's and the user's."""
    import wandb_workspaces.reports.v2 as charts
    import wandb_workspaces.workspaces as workspaces

    judged = {name: dict.fromkeys(claim.metric for claim in e.claims) for name, e in experiments(paper).items() if e.claims}
    sections = [
        workspaces.Section(
            name=name, is_open=True, panels=[charts.LinePlot(title=metric, x="step", y=[metric]) for metric in metrics]
        )
        for name, metrics in judged.items()
    ]
    filters = [workspaces.Metric("group") == paper]
    return workspaces.Workspace(
        entity=entity, project=project, name=f"{paper}: paper, published, yours", sections=sections,
        runset_settings=workspaces.RunsetSettings(filters=filters),
    )  # fmt: skip


def send(shown: list[Shown], folder: Path) -> tuple[str, str] | None:
    """Each as a run of its own. Returns entity and project, if they went to the server.

    Raises:
        BadInput: W&B is disabled, or not installed.
    """
    place, folder = None, folder / "published"
    folder.mkdir(parents=True, exist_ok=True)
    for settings, rows, summary in shown:
        said: list[str] = []
        one = track.WandB(folder, settings, rows, said.append)
        refuse(one.run is None, "; ".join(said) or "W&B is disabled ($WANDB_MODE, $WANDB_DISABLED): runs have nowhere to go")
        if one.run.offline:
            os.environ["WANDB_MODE"] = "offline"  # the next ones do not wait for the network again
        else:
            place = one.run.entity, one.run.project
        print(f"{settings['name']:60} {'offline' if one.run.offline else one.run.url}", flush=True)
        one.finish(summary)
    return place


def main(paper: str = "", out: str = "runs") -> int:
    """Raises BadInput: no such paper; nothing published; W&B disabled or not installed."""
    wanted = [paper] if paper else papers()
    for each in wanted:
        known(each)
    shown = {each: runs_of(each) for each in wanted}
    refuse(not any(shown.values()), f"nothing is published of {paper or 'any paper'}")
    folder = Path(out).expanduser()
    for each, runs in shown.items():
        if place := send(runs, folder):
            try:
                view(each, *place).save()
            except Exception as error:  # wandb's own types, and the network's
                print(f"no saved view of {each}: {track.reason(error)}")
    if any(folder.glob("published/wandb/offline-run-*")):
        print(f"offline; to upload them: wandb sync {folder}/published/wandb/offline-run-*")
    return 0


if __name__ == "__main__":
    import tyro

    sys.exit(told(tyro.cli, main))
