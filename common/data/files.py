"""The files of a data set: looked for, verified, or asked for in one line."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from common.errors import BadInput


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require(data_dir: Path, name: str, files: Mapping[str, str | None], *, source: str, without: str) -> list[Path]:
    """The paths of a data set's files below `data_dir`, each verified.

    Args:
        name: of the data set, for messages.
        files: path below data_dir -> sha256 in hex, or None where only its being there counts.
        source: where to get it.
        without: which experiments run without it.

    Raises:
        BadInput: a file is missing, empty or another one; says which, where to get it, where to put it.
    """
    paths = [data_dir / file for file in files]
    help_line = f"get it from {source} and put it there, or name another folder with --data-dir; without it runs {without}"
    if not data_dir.is_dir():
        raise BadInput(f"{name}: no data directory {data_dir.absolute()} (looked for {', '.join(files)}): {help_line}")
    for path, digest in zip(paths, files.values(), strict=True):
        if not path.is_file() or path.stat().st_size == 0:
            state = "is empty" if path.is_file() else "is missing"
            raise BadInput(f"{name}: {path.absolute()} {state}: {help_line}")
        if digest is not None and sha256(path) != digest:
            raise BadInput(f"{name}: {path.absolute()} is damaged or another version (sha256 is not {digest[:12]}...): {help_line}")
    return paths
