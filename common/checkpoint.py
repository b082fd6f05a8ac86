"""The two newest checkpoints of a run."""

import io
import re
from pathlib import Path
from typing import Any

import torch

from common.errors import BadInput
from common.files import write_atomic


def checkpoints(directory: Path) -> list[Path]:
    """step<k>.pt, the newest first."""
    found = [(int(m[1]), p) for p in directory.glob("step*.pt") if (m := re.fullmatch(r"step(\d+)\.pt", p.name))]
    return [path for _, path in sorted(found, reverse=True)]


def save(directory: Path, step: int, state: dict[str, Any]) -> None:
    """Write step<step>.pt (tensors and plain types only) and keep the one before it. Raises Failed as write_atomic does."""
    directory.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomic(directory / f"step{step}.pt", buffer.getvalue())
    for old in checkpoints(directory)[2:]:
        old.unlink()


def load(directory: Path, identity: dict[str, Any], say=print) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, on the CPU; None where there is no checkpoint.

    Raises:
        BadInput: none of the files can be read, or the newest is not of this run (`identity`).
    """
    paths = checkpoints(directory)
    for path in paths:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises half a dozen types for damaged files
            say(f"{path} is damaged ({type(error).__name__}); trying the checkpoint before it")
            continue
        if not isinstance(state, dict) or state.get("run") != identity:
            found = state.get("run") if isinstance(state, dict) else None
            of = "/".join(map(str, found.values())) if isinstance(found, dict) else "something else"
            expected = "/".join(map(str, identity.values()))
            raise BadInput(f"{path} is a checkpoint of {of}, not of {expected}: move it away, or start over with --restart")
        return state
    if paths:
        raise BadInput(f"no checkpoint in {directory} can be read: move them away, or start over with --restart")
    return None
