"""The files of a data set: found and verified, downloaded where they are missing, or asked for in one line."""

import hashlib
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from common.data.rows import reading
from common.errors import BadInput
from common.files import workshop

TIMEOUT = 30.0  # seconds of a server's silence
GET = "get it {} and put it there, or name another folder with --data-dir; `make smoke` runs without"


class File(NamedTuple):
    """An official file. Its key in a table is the path below the data directory."""

    sha256: str
    urls: Sequence[str]  # of the file, or of the .gz or .tar.gz that it is packed in
    packed: tuple[str, str] | None = None  # where that may lie below the data directory, and its sha256


def sha256(*paths: Path, name: str = "data") -> str:
    """Of the files' bytes, one after the other. Raises BadInput: one cannot be read."""
    whole = hashlib.sha256()
    for path in paths:
        with reading(name, path, "get it again"), path.open("rb") as file:
            hashlib.file_digest(file, lambda: whole)  # goes on from what it has
    return whole.hexdigest()


def missing(data_dir: Path, name: str, files: Mapping[str, File | None]) -> list[str]:
    """Those that are not there, or empty. Raises BadInput: one that is there is not the official one."""
    with reading(name, data_dir, "allow it"):
        sizes = {file: path.stat().st_size for file in files if (path := data_dir / file).exists()}
    for file, official in files.items():
        if official and file in sizes and (digest := sha256(data_dir / file, name=name)) != official.sha256:
            what = f"{sizes[file]:,} bytes, sha256 {digest[:12]}..., not {official.sha256[:12]}..."
            raise BadInput(f"{name}: {(data_dir / file).absolute()} is not the official file ({what}): delete it and run again")
    return [file for file, official in files.items() if not (file in sizes if official else sizes.get(file))]


def found(data_dir: Path, name: str, files: Mapping[str, File | None], source: str = "") -> list[Path]:
    """The paths of a data set's files, each verified. Nothing is downloaded.

    Args:
        files: path below data_dir -> what it has to be, or None: anything but empty.
        source: where to get it, if not from a file's own address.

    Raises:
        BadInput: a file is missing or another one; says which, where to get it, where to put it.
    """
    for file in missing(data_dir, name, files):
        where = GET.format(f"from {source or files[file].urls[0]}")
        raise BadInput(f"{name}: {(data_dir / file).absolute()} is missing or empty: {where}")
    return [data_dir / file for file in files]


def fetch(data_dir: Path, name: str, files: Mapping[str, File]) -> None:
    """Put the files that are missing below data_dir: from what they are packed in, if that is there, else from the network.

    For the main process only; several runs may do it at once. Killed at any moment it leaves whole files, or none.

    Raises:
        BadInput: one cannot be had; the folder cannot be written; one that is there is not the official one.
    """
    from torchvision.datasets.utils import extract_archive

    if not missing(data_dir, name, files):
        return  # without writing: the folder may be read-only
    with filling(data_dir, name) as folder:
        for file in missing(data_dir, name, files):  # another run may have been here
            digest, urls, packed = files[file]
            if not (folder / file).exists():  # else it was packed with another
                archive, digest = packed or (file, digest)
                got = folder / archive
                got.parent.mkdir(parents=True, exist_ok=True)
                absent = missing(data_dir, name, {archive: File(digest, urls)})
                if absent:
                    download(urls, digest, got, f"{name}: {(data_dir / file).absolute()}")
                if packed:
                    extract_archive(got if absent else data_dir / archive, got.parent)
            (data_dir / file).parent.mkdir(parents=True, exist_ok=True)  # not before: an empty folder would look like data
            os.replace(folder / file, data_dir / file)


def download(urls: Sequence[str], digest: str, to: Path, wanted: str) -> None:
    """From the first address that has it whole. Raises BadInput: none has."""
    from torch.hub import download_url_to_file

    failures = []
    for url in urls:
        try:
            return download_url_to_file(url, str(to), digest, progress=sys.stderr.isatty())
        except (OSError, HTTPException, RuntimeError) as error:
            failures.append(f"{url}: {' '.join(str(error).split())}")
            print(f"cannot download {failures[-1]}", file=sys.stderr, flush=True)
    raise BadInput(f"{wanted} is missing and cannot be downloaded ({'; '.join(failures)}): {GET.format(f'from {urls[0]}')}")


@contextmanager
def filling(data_dir: Path, name: str) -> Iterator[Path]:
    """A `workshop` in data_dir. A server that is silent is given up after TIMEOUT seconds.

    Raises:
        BadInput: here or in the body something cannot be written; says where and why.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        with workshop(data_dir, name.lower()) as folder:
            yield folder
    except OSError as error:
        reason = error.strerror or error
        raise BadInput(f"{name}: cannot write to {data_dir.absolute()} ({reason}): make room, or {GET.format('')}") from error
    finally:
        socket.setdefaulttimeout(before)
