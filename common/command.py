"""From the command line to the exit code: a `train.py` ends with `reproduce(EXPERIMENTS, train)`."""

import contextlib
import dataclasses
import functools
import gc
import inspect
import operator
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any

from common.claims import Experiment
from common.directory import checkpoints
from common.errors import BadFile, BadInput, Compared, Failed, LostWorker, OtherData
from common.options import Options, config_dict, differences
from common.provenance import ROOT
from common.run import Run
from common.signals import Interrupt, Interrupted, signals
from common.track import speak
from common.words import columns, duration, outcome


def reproduce(experiments: dict[str, Experiment], train: Callable[[Run], dict[str, float]], argv: list[str] | None = None) -> None:
    """The entry point of every train.py. Exits 0, 2 (bad input), 130 (SIGINT), 143 (SIGTERM), or 1 (anything else)."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a terminal's or a file's locale may have no such sign
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)  # what `main` leaves behind: a second signal does not disturb the end
    try:
        sys.exit(main(experiments, train, sys.argv[1:] if argv is None else argv))
    finally:
        gc.freeze()  # else the interpreter, before it ends, looks for a second through what torch made


def evaluate_weights(known: dict[str, Experiment], evaluate: Callable[[Run], dict[str, float]]) -> None:
    """The entry point of every pretrained.py: its first argument names weights, as `known` does after "weights-", or a path.

    The experiments' configs have a field `weights`. What is not among the known ones makes no claims.
    """
    weights, *options = sys.argv[1:] or [""]
    weights = str(Path(weights).expanduser()) if weights.startswith("~") else weights.removeprefix("weights-")
    if weights and not weights.startswith("-"):
        path = Path(weights)
        short = "-".join(path.resolve().parts[-2:]) if (path / "checkpoint").is_dir() else path.stem
        name = "weights-" + (short if path.exists() else weights.replace("/", "-"))
        if path.exists() or name not in known:
            like = next(iter(known.values()))
            known = {name: dataclasses.replace(like, config=dataclasses.replace(like.config, weights=weights), claims=())}
        weights = name
    reproduce(known, evaluate, [weights, *options] if weights else [])


def main(experiments: dict[str, Experiment], train: Callable[[Run], dict[str, float]], argv: list[str]) -> int:
    """Run one experiment to its end. Returns the exit code; SystemExit comes only from tyro's help and its own errors."""
    script = Path(inspect.getfile(train)).resolve()
    forget_leftovers()
    first = int(os.environ.get("RANK", 0)) == 0
    argv = [re.sub(r"(?<![^=])~(?=/|$)", lambda _: str(Path.home()), word) for word in argv]  # make and scripts quote it
    run = None
    with signals() as interrupt:
        try:
            name, config, options = parse(experiments, argv, script, first)
            run = Run(script, name, experiments[name], config, options, interrupt)
            with run:
                if run.finished is None:
                    metrics = train(run)
                    interrupt.deferred = True  # the last moments are short and finish what is whole already
                    run.finish(metrics)
                else:
                    compare_with_finished(run, train)
                print_result(run)
            return 0
        except (BadInput, Failed) as error:
            if first or isinstance(error, (BadFile, LostWorker)) or waited(interrupt):
                speak(f"error: {error}", sys.stderr)
            return 2 if isinstance(error, BadInput) else 1
        except RuntimeError as error:
            if run is None or run.processes == 1 or not re.search(r"gloo|NCCL|nccl|by peer", str(error)):
                raise
            speak(f"process {run.rank} stops, another being gone, which says why ({shorten(str(error), 150)})", sys.stderr)
            waited(interrupt)
            return 1
        except SystemExit as error:  # tyro's
            if error.code and not first:
                waited(interrupt)
            raise
        except Interrupted as error:
            if first:
                newest = next(iter(checkpoints(run.dir)), None) if run else None
                saved = f"checkpoint of step {int(newest.stem[4:]):,} kept" if newest else "no checkpoint yet"
                speak(f"stopped by {error}: {saved}; the same command goes on from there", sys.stderr)
            return 128 + error.signum


def waited(interrupt: Interrupt) -> bool:
    """Whether torchrun has not ended this process: it does when another, which has the news, ends first."""
    with contextlib.suppress(Interrupted):
        if "TORCHELASTIC_RUN_ID" in os.environ and not interrupt.signum:
            interrupt.deferred = False
            time.sleep(20)  # W&B may hang
            return True
    return False


def forget_leftovers() -> None:
    """Take a launcher's variables, left by an earlier job, out of the environment unless they make this process one of several."""
    rank, world, address = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"))
    if rank.isdecimal() and world.isdecimal() and address and int(world) > 1:
        if rank == "0" and "TORCHELASTIC_RUN_ID" not in os.environ:
            print(f"WORLD_SIZE={world}: waiting for {world} processes at {address}", file=sys.stderr, flush=True)
        return
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)


def compare_with_finished(run: Run, train: Callable[[Run], Any]) -> None:
    """Raises OtherData: the finished run's data or weights are not those that the command names, as far as they are there."""
    try:
        train(run)
    except Compared:
        about = "the data is the same"
    except OtherData:
        raise
    except (BadInput, Failed) as error:
        about = f"the data cannot be compared: {error}"
    run.say(f"finished before, at {run.finished['finished']}; nothing was run now; {about}")


def parse(experiments: dict[str, Experiment], argv: list[str], script: Path, first: bool) -> tuple[str, Any, Options]:
    """(experiment name, config, options) from the command line; tyro prints help and refusals itself, exit code 2."""
    import tyro
    from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, subcommand

    def command(experiment: Experiment) -> type:
        run = ("run", OmitArgPrefixes[Options], dataclasses.field(default_factory=Options))
        hyperparameter = ("hyperparameter", OmitArgPrefixes[type(experiment.config)], experiment.config)
        return dataclasses.make_dataclass("Command", [run, hyperparameter], frozen=True)

    parts = script.relative_to(ROOT).with_suffix("").parts if script.is_relative_to(ROOT) else (script.stem,)
    prog = f"python -m {'.'.join(parts)}"
    settings: dict[str, Any] = {"config": (FlagCreatePairsOff,), "console_outputs": first}
    if argv and argv[0] in experiments:
        experiment = experiments[argv[0]]
        about = f"{experiment.source}. {experiment.note or experiment.kind}. Expected cost: {experiment.cost}."
        chosen = tyro.cli(command(experiment), prog=f"{prog} {argv[0]}", description=about, args=argv[1:], **settings)
        return argv[0], chosen.hyperparameter, chosen.run
    # No experiment, or not one of these: tyro prints the list, and refuses.
    choices = [Annotated[command(e), subcommand(n, description=f"{e.kind}; {e.source}; {e.cost}")] for n, e in experiments.items()]
    tyro.cli(functools.reduce(operator.or_, choices), prog=prog, args=argv, **settings)
    raise BadInput(f"name the experiment before its options: {', '.join(experiments)}")


def print_result(run: Run) -> None:
    """The table of the run."""
    record, claims = run.finished, run.experiment.claims
    changed = differences(config_dict(run.experiment.config), run.config)
    rows = outcome(run.experiment, record, changed)
    for line in ["", *columns([["claim", "paper", "ours", "verdict"], *rows]), ""]:
        run.say(line)
    if record["code"] != run.code:
        run.say("this run was made with other code than is here now; --restart runs it again")
    if changed:
        run.say(f"not the published recipe: {', '.join(changed)}")
    if claims and record["data"]["stand_in"]:
        run.say("not the paper's data: {name}, {train} to train on, {test} to test".format(**record["data"]))
    for path in sorted((run.dir / "figures").glob("*.png")):
        run.say(f"figure  {path}")
    run.say(f"record  {run.dir / 'result.json'}")
    end = f"kind {run.experiment.kind}"
    if claims and run.experiment.kind == "paper":
        verdicts = [row[3] for row in rows]
        same = not changed and not record["data"]["stand_in"]
        end = f"{verdicts.count('reproduced')} of {len(claims)} claims reproduced" if same else verdicts[0]
    run.say(f"{run.paper} {run.name} seed {run.seed}: {end}, in {duration(record['wall_s'])}")
