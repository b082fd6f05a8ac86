"""Where a record comes from: the code, the commit, the machine."""

import functools
import hashlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from common.claims import ROOT

PINS = ("requirements.txt", "constraints.txt")


def _digest(files: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode() + files[name])
    return f"sha256 {digest.hexdigest()}"


def code_hash(folder: str) -> str:
    """sha256 over the Python files of `folder` (papers/<paper>) and common, and the two requirement files."""
    paths = [p for part in (folder, "common") for p in (ROOT / part).rglob("*.py")] + [ROOT / pin for pin in PINS]
    return _digest({p.relative_to(ROOT).as_posix(): p.read_bytes() for p in paths if p.exists()})


@functools.cache  # a process for every file, and what a commit holds does not change
def code_hash_at(commit: str, folder: str) -> str | None:
    """The same of a commit's tree; None where the repository does not have the commit or the commit not the folder."""
    listing = git("ls-tree", "-r", "-z", "--name-only", commit, "--", folder, "common", *PINS)
    if not listing:
        return None
    names = [name for name in listing.decode().split("\0") if name.endswith(".py") or name in PINS]
    return _digest({name: git("show", f"{commit}:{name}") for name in names})


def git(*arguments: str) -> bytes | None:
    """What git prints, run in this repository; None where there is no git or it fails."""
    try:
        return subprocess.run(["git", "-C", ROOT, *arguments], check=True, capture_output=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def commit() -> str | None:
    """The commit checked out here, else $COMMIT, else None. A copy of the project inside another repository has no commit."""
    top = git("rev-parse", "--show-toplevel")
    if top is not None and Path(top.decode().strip()).resolve() == ROOT:
        head = git("rev-parse", "HEAD")
        if head is not None:
            return head.decode().strip()
    return os.environ.get("COMMIT") or None


def versions() -> dict[str, str]:
    import torch

    found = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("accelerate", "numpy"):
        found[name] = metadata.version(name)
    if torch.cuda.is_available():
        found["cuda"] = torch.version.cuda
    return found


def hardware(processes: int) -> str:
    """`1x NVIDIA H100 80GB HBM3`, or the processor and the number of cores that this process may use."""
    import torch

    if torch.cuda.is_available():
        return f"{processes}x {torch.cuda.get_device_name()}"
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{model}, {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"
