"""What is made of a data set once for all runs, tokens and vocabularies: in a folder beside the data, by what it was made from."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.data.fetch import sha256
from common.errors import BadInput
from common.files import workshop

MANIFEST = "manifest.json"  # the facts, and the sha256 of each file


def kept(places: Sequence[Path], name: str, facts: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
    """PLACE/kept/<name>-<key of the facts>, whole, which `make` fills where it is not there; runs that ask meanwhile wait.

    Args:
        places: the first that has it, else the first in which it can be written.
        facts: settings, and digests of what it is made from.
        make: writes files into the folder that it is given.

    Raises:
        BadInput: a file is damaged; nothing can be written; what `make` refuses.
    """
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    folders, failures = [place / "kept" / f"{name}-{key}" for place in places], []
    for folder in sorted(folders, key=lambda folder: not folder.exists()):
        try:
            if not folder.exists():
                with workshop(folder.parent, folder.name) as part:
                    if not folder.exists():  # another run may have made it by now
                        _write(whole := part / "whole", facts, make)
                        os.rename(whole, folder)
        except OSError as error:
            failures.append(f"{folder.parent.absolute()} ({error.strerror or error})")
            continue
        if wrong := _damaged(folder):
            raise BadInput(f"{wrong} is missing or damaged: delete the folder {folder.absolute()}, and run the same command again")
        return folder
    room = "allow it and make room, or name another folder with --data-dir"
    raise BadInput(f"{name}: cannot write to {' or '.join(failures)}: {room}")


def _write(folder: Path, facts: Mapping[str, Any], make: Callable[[Path], None]) -> None:
    folder.mkdir()  # one more than the workshop, which nobody else may enter
    make(folder)
    manifest = {"facts": facts, "sha256": {path.name: sha256(path) for path in sorted(folder.iterdir())}}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _damaged(folder: Path) -> Path | None:
    """The first file that is missing, or is not what was written."""
    try:
        digests = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["sha256"].items()
    except (OSError, ValueError, KeyError):
        return folder / MANIFEST
    paths = ((folder / name, digest) for name, digest in digests)
    return next((path for path, digest in paths if not path.exists() or sha256(path) != digest), None)
