"""Where a net on ImageNet begins (Sec. 3.1): with the layers of a run that has ended."""

import json
from pathlib import Path

from common import directory
from common.errors import BadInput
from common.run import Run
from common.weights import fingerprint
from papers.vgg.model import VGG


def take_over(run: Run, net: VGG) -> dict[str, str]:
    """Fill the net from `start_from`: all of it from a run of the same configuration, else A's layers. What the record says of it.

    Raises:
        BadInput: there is no such run, or it has not ended, is damaged, or fits not; says which, and what to do.
    """
    name = run.config.start_from
    if name == "nothing":
        return {}
    named = run.options.out / run.paper / name / f"seed{run.seed}"
    folder = Path(name) if (Path(name) / "checkpoint").is_dir() else named
    if not (folder / "checkpoint").is_dir():
        make = f"`make reproduce-{run.paper} EXPERIMENT={name} SEEDS={run.seed} OUT={run.options.out}`"
        raise BadInput(f"no run to start from in {named}: make it with {make}, or name another, or nothing, with --start-from")
    if not (folder / "result.json").exists():
        raise BadInput(f"the run in {folder} has not ended: start it again, and wait for it")
    again = "make it anew, or name another with --start-from"
    try:
        record = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        config, experiment = record["config"], type(run.config)
        if record["paper"] != run.paper or "configuration" not in config:
            raise ValueError(f"it holds {record['paper']}/{record['experiment']}, no net for ImageNet")
        state = directory.load(folder, {key: record[key] for key in ("paper", "experiment", "seed")}, run.say)
        if state is None or state["step"] != record["steps"]:
            raise BadInput(f"{folder} has lost its last checkpoint: {again}")
        source = experiment(**config).networks()[""]
        source.load_state_dict(state["objects"]["model"])
        if source.configuration == net.configuration:
            net.load_state_dict(source.state_dict())
        else:
            net.start_from(source)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"{folder} cannot be started from ({type(error).__name__}: {reason}): {again}") from error
    about = f"{record['experiment']}, seed {record['seed']}, commit {record['commit']}"
    return {"weights": about, "weights_sha256": fingerprint(source)}
