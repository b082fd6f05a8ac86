"""One run's directory, OUT/<paper>/<experiment>/seed<N>: its lock, what the run is (config.json), its two newest checkpoints."""

import dataclasses
import fcntl
import io
import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from common import provenance
from common.errors import BadInput
from common.files import write_atomic
from common.options import config_dict, differences

AGAIN = "--restart starts over, --beside or --out names another folder"
GO_ON = "--restart starts over, --allow-changes goes on and records it"


def take(directory: Path, *, restart: bool, say: Callable[[str], None] = print) -> BinaryIO:
    """The directory's lock, held until it is closed.

    Raises:
        BadInput: nothing can be written there, or another run is at work in it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = open(directory / "lock", "ab")  # noqa: SIM115, held until the end
    except OSError as error:
        raise BadInput(f"cannot write to {directory}: {error.strerror}; name another folder with --out") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BadInput(f"another run is at work in {directory}: wait for it, or name another folder with --out") from error
    except OSError as error:  # NFS, Lustre
        say(f"no lock can be had in {directory} ({error.strerror}): going on without; see to it that no other run is at work there")
    os.register_at_fork(after_in_child=lock.close)  # a worker must not hold it any longer than the run lives
    if restart:
        for path in directory.iterdir():
            if path.name != "lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in directory.rglob("*.tmp"):
        path.unlink()  # a file that was being written when an earlier run was killed
    return lock


def begin(
    directory: Path, identity: dict[str, Any], config: Any, precision: str, script: Path, *,
    allow_changes: bool, say: Callable[[str], None],
) -> tuple[dict[str, Any], dict[str, Any] | None, dict[str, Any] | None]:  # fmt: skip
    """(what the run is, as config.json has it; the record, if it is finished; the newest checkpoint, if there is one).

    Raises:
        BadInput: what is in the directory is another run, or was begun under other code or hyper-parameters.
    """
    files = provenance.files_of(script)
    about = {**identity, "config": config_dict(config) | {"--precision": precision}, "files": files}
    about |= {"code": provenance.code_hash(files), "commit": provenance.commit()}
    about |= {"wandb_id": os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4), "changes": [], "data": {}}  # a sweep's, or new
    if (directory / "config.json").exists():
        before = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        about |= {"wandb_id": before["wandb_id"], "changes": before["changes"], "data": before.get("data", {})}
        changed = differences(before["config"], config, **{"--precision": precision})
        if (directory / "result.json").exists() and not (changed and allow_changes):
            if changed:
                finished = f"{directory} holds a finished run with other hyper-parameters ({', '.join(changed)})"
                raise BadInput(f"{finished}: {AGAIN}, --allow-changes goes on where it ended")
            record = json.loads((directory / "result.json").read_text(encoding="utf-8"))
            return about | {"data": record["data"]}, record, None
        changed += ["other code"] * (before["code"] != about["code"])
        if changed and (saved := checkpoints(directory)):
            if not allow_changes:
                raise BadInput(f"{directory} was begun otherwise ({', '.join(changed)}): {GO_ON}")
            about["changes"] = [*about["changes"], {"after": saved[0].stem, "what": ", ".join(changed)}]
    state = load(directory, identity, say)
    if state is None:
        about["data"] = {}  # nothing has been learned from it yet
    (directory / "result.json").unlink(missing_ok=True)  # before config.json says otherwise
    remember(directory, about)
    return about, None, state


def remember(directory: Path, about: dict[str, Any]) -> None:
    """Write config.json, which says what the run is."""
    write_atomic(directory / "config.json", json.dumps(about, indent=1).encode())


def other_data(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The facts of the data in which a run differs from what it began with, as far as that had them: "sha256 a... -> b...\""""

    def shown(fact: Any) -> str:  # hashes by their beginning
        return text if len(text := str(fact)) <= 24 else f"{text[:12]}..."

    changed = [key for key in now if before.get(key, now[key]) != now[key]]
    return ", ".join(f"{key} {shown(before[key])} -> {shown(now[key])}" for key in changed)


def checkpoints(directory: Path) -> list[Path]:
    """checkpoint/step<k>.pt, the newest first."""
    paths = [path for path in (directory / "checkpoint").glob("step*.pt") if path.stem[4:].isdecimal()]
    return sorted(paths, key=lambda path: int(path.stem[4:]), reverse=True)


def save(directory: Path, state: dict[str, Any]) -> None:
    """Write step<k>.pt (tensors and plain types only) and keep the one before it. Raises Failed as write_atomic does."""
    (directory / "checkpoint").mkdir(exist_ok=True)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomic(directory / "checkpoint" / f"step{state['step']}.pt", buffer.getvalue())
    for old in checkpoints(directory)[2:]:
        old.unlink()


def load(directory: Path, identity: dict[str, Any], say: Callable[[str], None] = print) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, on the CPU; None where there is no checkpoint.

    Raises:
        BadInput: none of the files can be read, or the newest is not of this run (`identity`).
    """
    for path in (paths := checkpoints(directory)):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            found = state.get("run")
        except Exception as error:  # torch raises half a dozen types for damaged files
            say(f"{path} is damaged ({type(error).__name__}); trying the checkpoint before it")
            continue
        if found != identity:
            of, expected = ("/".join(map(str, about.values())) for about in (found or {"": "something else"}, identity))
            raise BadInput(f"{path} is a checkpoint of {of}, not of {expected}: move it away, or start over with --restart")
        return state
    if paths:
        raise BadInput(f"no checkpoint in {directory / 'checkpoint'} can be read: move them away, or start over with --restart")
    return None


def learned(
    folder: Path, paper: str, *configs: type, ended: bool = False, say: Callable[[str], None] = print
) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """(config.json, its hyper-parameters, the newest checkpoint's objects) of a run, for who uses what it has learned.

    configs: classes, of which the first that knows all of the run's hyper-parameters is its; none: a dict.
    ended: it has to be finished.

    Raises:
        BadInput: it is no folder of such a run, has not ended, has no checkpoint, or only damaged ones.
    """
    try:
        about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in about["config"].items() if not k.startswith("--")}
        kinds = [c for c in configs if values.keys() <= {f.name for f in dataclasses.fields(c)}] if configs else [dict]
        if about["paper"] != paper or not kinds:
            raise ValueError(f"it holds {about['paper']}/{about['experiment']}")
        config, identity = kinds[0](**values), {key: about[key] for key in ("paper", "experiment", "seed")}
        if ended and not (folder / "result.json").exists():
            raise BadInput(f"the run in {folder} has not ended: start it again, and wait for it")
        last = json.loads((folder / "result.json").read_text(encoding="utf-8"))["steps"] if ended else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise BadInput(f"{folder} is no folder of a run that will do ({reason}): name OUT/{paper}/EXPERIMENT/SEED") from error
    state = load(folder, identity, say)
    if state is None or (ended and state["step"] != last):
        lacks = "has lost its last checkpoint: make it anew" if ended else "has no checkpoint yet: wait for its first"
        raise BadInput(f"{folder} {lacks}, or name another run")
    return about, config, state["objects"]


def restore(directory: Path, saved: dict[str, Any], objects: dict[str, Any]) -> None:
    """Load a checkpoint's objects. Raises BadInput: they do not fit, strictly."""
    again = "--restart starts over"
    if saved.keys() != objects.keys():
        raise BadInput(f"the checkpoint in {directory} holds {', '.join(saved)}, not {', '.join(objects)}: {again}")
    for name, thing in objects.items():
        try:
            thing.load_state_dict(saved[name])
        except (RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise BadInput(f"the checkpoint in {directory} does not fit this {name}: {reason}; {again}") from error
