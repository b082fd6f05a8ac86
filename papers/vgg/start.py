"""Where a net on ImageNet begins (Sec. 3.1): with the layers of a run that has ended."""

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
    about, config, learned = directory.learned(folder, run.paper, type(run.config), ended=True, say=run.say)
    try:
        source = config.networks()[""]
        source.load_state_dict(learned["model"])
        if source.configuration == net.configuration:
            net.load_state_dict(source.state_dict())
        else:
            net.start_from(source)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        again = "make it anew, or name another with --start-from"
        raise BadInput(f"{folder} cannot be started from ({type(error).__name__}: {reason}): {again}") from error
    about = f"{about['experiment']}, seed {about['seed']}, commit {about['commit']}"
    return {"weights": about, "weights_sha256": fingerprint(source)}
