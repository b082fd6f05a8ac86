"""Where a record comes from: the code, the commit, the machine."""

import ast
import datetime
import functools
import hashlib
import os
import platform
import re
import resource
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from common.files import cores

ROOT = Path(__file__).resolve().parents[1]
OURS = ("common", "papers", "tests", "tools")
# What starts, stops and shows a run, and cannot move its numbers.
SPECTATORS = ("common/command.py", "common/signals.py", "common/track.py", "common/words.py")


def _digest(files: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode() + files[name])
    return f"sha256 {digest.hexdigest()}"


def imports_of(file: Path) -> set[Path]:
    """The files of this repository that a Python file imports, inside its functions too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    names = {name for name in names if name.split(".")[0] in OURS}
    parts = {"/".join(name.split(".")[:n]) for name in names for n in range(1, name.count(".") + 2)}
    candidates = (ROOT / f"{part}{end}" for part in parts for end in (".py", "/__init__.py"))
    return {path for path in candidates if path.is_file()}


def files_of(script: Path) -> list[str]:
    """The Python files that can move the numbers of a run of this script: it, and what it imports, less SPECTATORS."""
    found, new = set(), {script}
    while new:
        found |= new
        new = {path for file in new for path in imports_of(file)} - found - {ROOT / name for name in SPECTATORS}
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def code_hash(files: Iterable[str]) -> str:
    """sha256 over these files."""
    return _digest({name: (ROOT / name).read_bytes() for name in files})


@functools.cache  # a process for every file, and what a commit holds does not change
def code_hash_at(commit: str, files: tuple[str, ...]) -> str | None:
    """The same of a commit's tree; None where the repository does not have the commit, or the commit not one of the files."""
    contents = {name: git("show", f"{commit}:{name}") for name in files}
    return None if not contents or None in contents.values() else _digest(contents)


def git(*arguments: str) -> bytes | None:
    """What git prints, run in this repository; None where there is no git or it fails."""
    try:
        return subprocess.run(["git", "-C", ROOT, *arguments], check=True, capture_output=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def commit() -> str | None:
    """The commit checked out here, else $COMMIT, else None. A copy of the project inside another repository has no commit."""
    top, head = git("rev-parse", "--show-toplevel") or b"", git("rev-parse", "HEAD")
    ours = head and Path(top.decode().strip()).resolve() == ROOT
    return head.decode().strip() if ours else os.environ.get("COMMIT") or None


def machine(processes: int, precision: str) -> dict[str, Any]:
    """What a record says of where and when its run ended. peak_memory_mb: of this process, on the GPU if there is one."""
    import torch

    cuda = torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    versions = {"python": platform.python_version(), "torch": torch.__version__, **({"cuda": torch.version.cuda} if cuda else {})}
    for name in ("accelerate", "numpy", "torchvision", "tokenizers", "transformers", "sacrebleu"):
        if name in sys.modules:
            versions[name] = metadata.version(name)
    return {
        "peak_memory_mb": round(peak / 2**20),
        "hardware": hardware(processes),
        "processes": processes,
        "precision": precision,
        "versions": versions,
        "finished": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def hardware(processes: int) -> str:
    """`1x NVIDIA H100 80GB HBM3`, or the processor and the number of cores that this process may use."""
    import torch

    if torch.cuda.is_available():
        return f"{processes}x {torch.cuda.get_device_name()}"
    named = re.search(r"^model name\s*: *(.*?)\s*$", processor(), re.MULTILINE)
    return f"{named[1] if named else platform.machine()}, {cores()} cores"


def processor() -> str:
    """What Linux says of it."""
    return info.read_text(encoding="utf-8") if (info := Path("/proc/cpuinfo")).exists() else ""


def has_bf16() -> bool:
    """Whether the processor multiplies in bf16; one that does not takes two to three times as long as in fp32."""
    return re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", processor()) is not None
