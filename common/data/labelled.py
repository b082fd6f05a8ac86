"""Labelled texts: what the readers of such data sets share, whose files are the official ones or Hugging Face's shards."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import filter as matching
from pathlib import Path

from common.data.files import from_hub
from common.data.parallel import WITHOUT, announced, is_text, sha256_of
from common.errors import BadInput

HIDDEN = -1
Row = tuple[str, Sequence[str] | None, object]  # where it stands; its texts, None: to be left out; its label, HIDDEN among them


@dataclass(frozen=True)
class Labelled:
    """Examples of a task: each a few texts, and the answer."""

    texts: list[tuple[str, ...]]  # as many texts to an example as the task has
    labels: list[int] | list[float] | None  # class number, or score (STS-B); None: hidden, as on GLUE's test sets
    sha256: str  # of the files as they lie there, in order
    left_out: int = 0  # rows that are no examples: broken, unlabelled, or, only in a training split, with an empty text

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Hub:
    """A data set of Hugging Face, or the official files instead."""

    name: str  # for messages and hidden files
    repository: str
    revision: str
    pattern: str  # of the files
    to: Path  # where these keep their paths, and the official ones go
    official: str

    @property
    def help(self) -> str:
        return (
            f"get it with `hf download {self.repository} --repo-type dataset --revision {self.revision} --include "
            f'"{self.pattern}" --local-dir {self.to.absolute()}`, or put {self.official} there, or name another folder with '
            f"--data-dir; without it runs {WITHOUT}"
        )

    def fetch(self, data_dir: Path, *splits: Sequence[Path]) -> None:
        """Download it, unless each split is whole in one of its places. Raises BadInput: see `from_hub`."""
        from_hub(
            data_dir, self.to, name=self.name, repository=self.repository, revision=self.revision, patterns=[self.pattern],
            lacks=lambda: not all(whole(find(self.name, places)) for places in splits),
            wanted=" or ".join(str(places[0].absolute()) for places in splits), advice=self.help, without=WITHOUT,
        )  # fmt: skip


def find(name: str, places: Sequence[Path], help_line: str | None = None) -> list[Path]:
    """The files of the first place, a folder and a pattern of names, that has any. Raises BadInput: none has, and a help_line."""
    for place in places:
        try:
            found = matching(os.listdir(place.parent), place.name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise BadInput(f"{name}: cannot read {place.parent.absolute()}: {error.strerror}") from error
        if found:
            return [place.parent / file for file in sorted(found)]
    if help_line:
        raise BadInput(f"{name}: there is no {', no '.join(str(place.absolute()) for place in places)}: {help_line}")
    return []


def whole(files: Sequence[Path]) -> bool:
    """Whether a split is there; if its shards say how many there are, all of one such set."""
    names = {path.name for path in files}
    said = announced(names)
    return bool(files) and (not said or any(every <= names for _, every in said))


def shard_rows(name: str, paths: Sequence[Path], columns: Mapping[str, type], help_line: str) -> Iterator[tuple[str, tuple]]:
    """Where each row of Hugging Face's shards stands, and its values in the columns, name -> str, int, float or list.

    Raises:
        BadInput: a shard is missing or damaged, or lacks such columns.
    """
    from pyarrow import ArrowException, types
    from pyarrow.parquet import ParquetFile

    fits = {str: types.is_string, int: types.is_integer, float: types.is_floating, list: types.is_list}
    folder, names = paths[0].parent.absolute(), {path.name for path in paths}
    for what, every in announced(names):
        if names != every:
            odd = "; ".join(f"{word} {min(some)}" for word, some in (("no", every - names), ("but", names - every)) if some)
            raise BadInput(f"{name}: {folder} holds {len(names & every)} of {len(every)} {what} shards ({odd}): {help_line}")
    for path in (folder / path.name for path in paths):
        try:
            with ParquetFile(path) as file:
                there = {field.name: field.type for field in file.schema_arrow}
                if not all(column in there and fits[kind](there[column]) for column, kind in columns.items()):
                    have = ", ".join(f"{column} ({kind})" for column, kind in there.items())
                    want = ", ".join(f"{column} ({kind.__name__})" for column, kind in columns.items())
                    raise BadInput(f"{name}: {path} has columns {have}, not {want}: {help_line}")
                values = [file.read([column]).column(0).to_pylist() for column in columns]
        except (OSError, ArrowException, UnicodeDecodeError) as error:
            raise BadInput(f"{name}: {path} is damaged ({' '.join(str(error).split())}): delete it and {help_line}") from error
        yield from ((f"{path}: row {row:,}", cells) for row, cells in enumerate(zip(*values, strict=True), 1))


def collect(
    name: str, files: Sequence[Path], rows: Iterable[Row], help_line: str, *, width: int, classes: int, training: bool,
    hidden: bool = False, needed: int | None = None,
) -> Labelled:  # fmt: skip
    """The examples among the rows of files.

    Args:
        width: texts to an example.
        classes: how many; 0: the labels are scores from 0 to 5.
        training: leave out rows with an empty text, and count them. Elsewhere they are refused.
        hidden: all labels may be.
        needed: how many of the texts, from the first, may not be empty; None: all.

    Raises:
        BadInput: a row has not these texts and such a label; there is none; says where.
    """
    texts, labels, left_out = [], [], 0
    wanted = f"a class number below {classes}" if classes else "a score from 0 to 5"
    for where, some, label in rows:
        sound = some is not None and len(some) == width and all(isinstance(text, str) for text in some)
        full = sound and all(is_text(text) for text in some[:needed])
        if some is None or (training and sound and not full):
            left_out += 1
            continue
        known = isinstance(label, int | float) and (label in range(classes) if classes else 0 <= label <= 5)
        if not full or not (known or (hidden and label == HIDDEN)):
            fault = f"the label {label}, not {wanted}" if full else "an empty text" if sound else f"not {width} texts"
            raise BadInput(f"{name}: {where} has {fault}: {help_line}")
        texts.append(tuple(some))
        labels.append(label if classes else round(label, 3))  # as the tsv files have it; shards have 32 bits
    if not texts:
        raise BadInput(f"{name}: no example in {files[0].absolute()}{' and the others' * (len(files) > 1)}: {help_line}")
    if HIDDEN in labels and set(labels) != {HIDDEN}:
        raise BadInput(f"{name}: some labels in {files[0].absolute()} are hidden and some are not: {help_line}")
    return Labelled(texts, None if HIDDEN in labels else labels, sha256_of(files, name), left_out)
