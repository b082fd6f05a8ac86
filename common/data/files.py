"""The files of a data set: looked for, verified, downloaded, or asked for in one line."""

import errno
import fcntl
import hashlib
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory

from common.errors import BadInput

TIMEOUT = 30.0  # seconds of a server's silence


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content(path: Path, name: str) -> bytes | None:
    """What a file of the data set `name` holds, or None where it is missing. Raises BadInput: it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadInput(f"{name}: cannot read {path.absolute()}: {error.strerror}") from error


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


@contextmanager
def fetching(data_dir: Path, name: str, *, to: Path, without: str) -> Iterator[Path]:
    """A temporary folder in `data_dir`, in which a data set is made ready to be moved into `to`.

    One run at a time has it; it goes at the end, or, when the run is killed, at the start of the next one. Meanwhile a server that
    is silent is given up after TIMEOUT seconds.

    Args:
        name: of the data set, for messages and hidden files.
        without: which experiments run without it.

    Raises:
        BadInput: here or in the body something cannot be written; says where and why.
    """
    hidden, before = f".{name.lower()}", socket.getdefaulttimeout()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with open(data_dir / f"{hidden}-lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            socket.setdefaulttimeout(TIMEOUT)  # torchvision sets none
            for left in data_dir.glob(f"{hidden}-fetch-*"):  # by a process that was killed: we have the lock
                shutil.rmtree(left)
            with TemporaryDirectory(prefix=f"{hidden}-fetch-", dir=data_dir) as folder:
                yield Path(folder)
    except OSError as error:
        help_line = f"allow it and make room, or name another folder with --data-dir; without it runs {without}"
        raise BadInput(f"{name}: cannot write to {to.absolute()} ({error.strerror or error}): {help_line}") from error
    finally:
        socket.setdefaulttimeout(before)


def obtain(
    packed: Path, md5: str, urls: Sequence[str], folder: Path, *, name: str, wanted: Path, advice: str, without: str
) -> Path:
    """`packed`; where it is missing or damaged, what the first URL has that has it whole, downloaded into `folder`.

    Args:
        name: of the data set, for messages.
        wanted: the file that is to be unpacked from it.
        advice: where to get what, and where to put it.
        without: which experiments run without it.

    Raises:
        BadInput: no URL has it; says why.
        OSError: the disk is full.
    """
    from torchvision.datasets.utils import check_integrity, download_url

    if check_integrity(packed, md5):
        return packed
    got = folder / packed.name
    failures = [f"{packed.name} beside it: wrong checksum of {packed.stat().st_size:,} bytes"] if packed.exists() else []
    for url in urls:
        try:
            download_url(url, folder, packed.name, md5)
            return got
        except (OSError, HTTPException, RuntimeError) as error:
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise
            wrong = type(error) is RuntimeError  # torchvision's for another checksum
            reason = f"wrong checksum of {got.stat().st_size:,} bytes" if wrong else str(error) or type(error).__name__
            failures.append(f"{url}: {' '.join(reason.split())}")
            print(f"{name}: cannot download {failures[-1]}", file=sys.stderr, flush=True)
    raise BadInput(
        f"{name}: {wanted.absolute()} is missing and cannot be downloaded ({'; '.join(failures)}): {advice}, "
        f"or name another folder with --data-dir; without it runs {without}"
    )


def from_hub(
    data_dir: Path, to: Path, *, name: str, repository: str, revision: str, patterns: Sequence[str], lacks: Callable[[], bool],
    wanted: str, advice: str, without: str,
) -> None:  # fmt: skip
    """Download files of a data set of Hugging Face into the folder `to`, where they keep their paths, unless nothing is lacking.

    Whole files are not downloaded again. A hub that cannot be reached is given up after about TIMEOUT seconds; one that falls
    silent later, when its library does so. For the main process only; several runs may do it at once. Killed at any moment it
    leaves whole files, or none.

    Args:
        name: of the data set, for messages and hidden files.
        patterns: which files.
        lacks: whether anything is missing; asked before, by the one run that downloads, and after.
        wanted: what is missing then, for messages.
        advice: where to get what, and where to put it.
        without: which experiments run without it.

    Raises:
        BadInput: they cannot be had; the folder cannot be written or read.
    """
    if not lacks():
        return  # without writing: the folder may be read-only
    from huggingface_hub import HfApi

    hub = HfApi()
    # the hub's own locks let the second of two runs download all once more, over what the first one reads
    with fetching(data_dir, name, to=to, without=without):
        if not lacks():
            return  # another run has been here
        try:
            once = TIMEOUT / 4  # each of several addresses is tried that long
            hub.dataset_info(repository, revision=revision, timeout=once)  # `snapshot_download` tries for minutes, or for ever
            hub.snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=list(patterns), local_dir=to)
            if lacks():
                raise FileNotFoundError(f"not all {', '.join(patterns)} are there after it")
        except Exception as error:  # its HTTP client's among them
            if isinstance(error, OSError) and error.errno:
                raise  # the disk's
            cause = error.__cause__ or error
            response = getattr(cause, "response", None)
            reason = str(cause).strip().split("\n")[0].rstrip(".") if response is None else f"HTTP Error {response.status_code}"
            raise BadInput(
                f"{name}: no {wanted}, or not all, and {hub.endpoint}/datasets/{repository} cannot be downloaded to "
                f"{to.absolute()} ({reason or type(cause).__name__}): {advice}"
            ) from error
