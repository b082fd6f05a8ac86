"""Lines of texts and rows of shards, and what is wrong with them in one line."""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from common.errors import BadInput


@contextmanager
def reading(name: str, path: Path, advice: str) -> Iterator[None]:
    """What goes wrong with a file of the data set `name`, a ValueError that says what among it, becomes a BadInput."""
    try:
        yield
    except (OSError, EOFError, ValueError, LookupError, TypeError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise BadInput(f"{name}: cannot read {path.absolute()} ({reason}): {advice}") from error


def lines(path: Path) -> Iterator[str]:
    """The lines of a file, plain or gz, without their ends: a newline character, and a carriage return before it.

    Raises:
        OSError, EOFError, ValueError, zlib.error: it cannot be read, is empty, a damaged gz file, or not UTF-8.
    """
    number = 0
    with path.open("rb") as file:
        packed = path.suffix == ".gz" or file.peek(2).startswith(b"\x1f\x8b")
        for line in BufferedReader(gzip.GzipFile(fileobj=file)) if packed else file:
            number += 1
            try:
                yield line.removesuffix(b"\n").removesuffix(b"\r").decode()
            except UnicodeDecodeError as error:
                raise ValueError(f"line {number:,} is not UTF-8, byte {error.start + 1}: {error.reason}") from error
    if not number:
        raise ValueError("it is empty")


def shard_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple]:
    """The rows of a parquet file in these columns; `a.b` is the field b of a.

    Raises:
        OSError, ValueError, KeyError: it is damaged, or has not these columns.
    """
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        table = file.read(columns=[*columns]).flatten()
    return zip(*(table[column].to_pylist() for column in columns), strict=True)


def is_text(text: object) -> bool:
    return isinstance(text, str) and bool(text) and not text.isspace()
