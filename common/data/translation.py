"""Sentence pairs for translation: Multi30k and WMT14, downloaded where they are missing; any two files of lines.

A line ends at a newline character only: a tab, a carriage return inside a line, and Unicode's other line ends are text.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from common.data import fetch as files
from common.data.fetch import File
from common.data.hub import Hub
from common.data.rows import is_text, lines, reading, shard_rows
from common.errors import BadInput

MIRROR = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/"
OFFICIAL = {  # name without .gz -> sha256
    "train.de": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "train.en": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "train.fr": "622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c",
    "val.de": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "val.en": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "val.fr": "ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9",
    "test_2016_flickr.de": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
    "test_2016_flickr.en": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    "test_2016_flickr.fr": "6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90",
}
MULTI30K = {f"multi30k/{name}.gz": File(digest, [f"{MIRROR}{name}.gz"]) for name, digest in OFFICIAL.items()}
WMT14 = {"train": "train", "newstest2013": "validation", "newstest2014": "test"}  # split -> what its shards are called


@dataclass(frozen=True)
class Parallel:
    """Sentence pairs."""

    source: list[str]
    target: list[str]
    sha256: str  # of the files as they lie there, the source's first; of shards in their order
    empty: int  # pairs that were left out because a side was empty; only in a training split

    def __len__(self) -> int:
        return len(self.source)


def multi30k(data_dir: Path, source: str, target: str, split: str) -> Parallel:
    """A split of Multi30k from the .gz files in data_dir/multi30k, where `fetch_multi30k` puts them.

    Args:
        source, target: two of de, en, fr.
        split: train, val or test_2016_flickr.

    Raises:
        BadInput: a file is missing or is not the official one; says which, what it is instead, what to do.
    """
    paths = files.found(data_dir, "Multi30k", of_multi30k(source, target, split))
    return read_pair(*paths, name="Multi30k", training=split == "train")


def fetch_multi30k(data_dir: Path, source: str, target: str) -> None:
    """Download what is missing of train, val and test_2016_flickr of both languages. Raises BadInput: see `files.fetch`."""
    files.fetch(data_dir, "Multi30k", of_multi30k(source, target, "train", "val", "test_2016_flickr"))


def of_multi30k(source: str, target: str, *splits: str) -> dict[str, File]:
    """Raises BadInput: there is no such pair of languages."""
    names = [f"multi30k/{split}.{language}.gz" for split in splits for language in (source, target)]
    if source == target or not {*names} <= {*MULTI30K}:
        raise BadInput(f"Multi30k: no {' and '.join(names)}: name two of the languages de, en, fr")
    return {name: MULTI30K[name] for name in names}


def wmt14(data_dir: Path, source: str, target: str, split: str) -> Parallel:
    """A split of WMT14 from data_dir/wmt14. Nothing is downloaded: `fetch_wmt14` does that.

    Plain files: <split>.<language>, or the same with .gz. Where they are not, the hub's shards, in de-en/ or fr-en/:
    train-*.parquet, validation-*.parquet (newstest2013), test-*.parquet (newstest2014).

    Args:
        source, target: en, and de or fr.
        split: train, newstest2013 or newstest2014.

    Raises:
        BadInput: it is not there, incomplete or damaged; says what was looked for, and what to do.
    """
    plain, hub = of_wmt14(data_dir, source, target, split)
    if plain:
        return read_pair(*plain, name="WMT14", training=split == "train")
    paths = hub.files([hub.to / hub.pattern])
    columns = [f"translation.{language}" for language in (source, target)]
    with reading("WMT14", hub.to / hub.pattern, hub.advice):
        pairs = chain.from_iterable(shard_rows(path, columns) for path in paths)
        return paired(pairs, files.sha256(*paths, name="WMT14"), training=split == "train")


def fetch_wmt14(data_dir: Path, source: str, target: str) -> None:
    """Download the hub's shards of each split that is not there into data_dir/wmt14. Raises BadInput: see `Hub.fetch`."""
    for split in WMT14:
        plain, hub = of_wmt14(data_dir, source, target, split)
        if not plain:
            hub.fetch(data_dir, [[hub.to / hub.pattern]])


def of_wmt14(data_dir: Path, source: str, target: str, split: str) -> tuple[list[Path], Hub]:
    """A split's two files of lines, if they are there, and its shards. Raises BadInput: there is no such pair of languages."""
    if {source, target} not in ({"en", "de"}, {"en", "fr"}):
        raise BadInput(f"WMT14: no pairs of {source} and {target}: name en and one of de, fr")
    folder, revision = data_dir / "wmt14", "b199e406369ec1b7634206d3ded5ba45de2fe696"  # its main since April 2024
    plain = [folder / f"{split}.{language}" for language in (source, target)]
    plain = [path if path.exists() else path.with_name(f"{path.name}.gz") for path in plain]
    pattern = f"{target if source == 'en' else source}-en/{WMT14[split]}-*.parquet"
    hub = Hub("WMT14", "wmt/wmt14", revision, pattern, folder, f"{split}.{source} and {split}.{target}, plain or .gz")
    return plain if all(path.exists() for path in plain) else [], hub


def read_pair(source: Path, target: Path, *, name: str, training: bool = False) -> Parallel:
    """The pairs of two files, plain or gz, that have a sentence to a line. One empty line at the end is not a sentence.

    Args:
        name: of the data set, for messages.
        training: leave out pairs of which a side is empty, and count them. Elsewhere they are refused.

    Raises:
        BadInput: they cannot be read, are empty, damaged or not of equal length, or a line is not UTF-8; says which and where.
    """
    sides = []
    for path in (source, target):
        with reading(name, path, "get it again"):
            sides.append([*lines(path)])
    end = max(map(len, sides)) - 1
    if all(side[end:] in ([], [""]) for side in sides):
        sides = [side[:end] for side in sides]
    with reading(name, target, f"it must be {source.absolute()} translated line by line: get both again"):
        if len(sides[0]) != len(sides[1]):
            raise ValueError(f"it has {len(sides[1]):,} lines, the other {len(sides[0]):,}")
        return paired(zip(*sides, strict=True), files.sha256(source, target, name=name), training=training)


def paired(pairs: Iterable[tuple[str | None, str | None]], sha256: str, *, training: bool) -> Parallel:
    """Raises ValueError: a side is empty, and this is not for training; there is no pair."""
    sources, targets, empty = [], [], 0
    for number, (one, two) in enumerate(pairs, 1):
        if is_text(one) and is_text(two):
            sources.append(one)
            targets.append(two)
        elif training:
            empty += 1
        else:
            raise ValueError(f"a side of pair {number:,} is empty")
    if not sources:
        raise ValueError("there is no pair")
    return Parallel(sources, targets, sha256, empty)
