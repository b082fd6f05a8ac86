"""Files and folders that are whole or not there, and the lines of metrics.jsonl."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from common.errors import Failed

Row = dict[str, Any]
CLOCK = ("time", "samples_per_s", "data_wait")  # what a row says of the machine, not of the run


def write_atomic(path: Path, data: bytes) -> None:
    """Write, fsync, rename: after a crash at any moment the path holds the old content or the new.

    Raises:
        Failed: the file system refuses (disk full, no permission); the old content is still there.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise Failed(
            f"cannot write {path}: {error.strerror or error}; what was there before is kept: "
            "make room or allow writing, and run the same command again"
        ) from error


@contextmanager
def workshop(folder: Path, name: str) -> Iterator[Path]:
    """A temporary folder in `folder`, from which what is whole is moved to its place. One process at a time has it.

    What a killed one left goes with the next. Raises OSError: something cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f".{name}-lock", "wb") as lock:
        with suppress(OSError):  # of a file system without locks, where two may do the same
            fcntl.flock(lock, fcntl.LOCK_EX)
            for left in folder.glob(f".{name}-part-*"):
                shutil.rmtree(left)
        with TemporaryDirectory(prefix=f".{name}-part-", dir=folder) as part:
            yield Path(part)


class Metrics:
    """metrics.jsonl: flat lines {"step": ..., "time": ..., name: value}. Opening cuts it back to `step`, a torn line included."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.rows: list[Row] = [row for row in read_rows(path) if row["step"] <= step]
        write_atomic(path, b"".join(_line(row) for row in self.rows))
        self.file = open(path, "ab", buffering=0)  # noqa: SIM115, held until the end

    def write(self, row: Row) -> None:
        try:
            self.file.write(_line(row))
        except OSError as error:
            raise Failed(f"cannot write {self.path}: {error.strerror}; make room and run the same command again") from error


def cores() -> int:
    """Those that this process may use: of all, or of a container's quota (cgroup v2, v1)."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    root = Path("/sys/fs/cgroup")
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with suppress(OSError, ValueError):  # "max 100000" is no number
            quota, period = map(int, " ".join((root / file).read_text(encoding="utf-8") for file in files).split())
            return max(1, min(allowed, quota // period)) if quota > 0 else allowed
    return allowed


def _line(row: Row) -> bytes:
    return json.dumps(row).encode() + b"\n"


def read_rows(path: Path) -> list[Row]:
    """The rows of a metrics.jsonl up to the first line that is not whole."""
    rows = []
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
