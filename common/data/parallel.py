"""Sentence pairs for translation: Multi30k and WMT14, downloaded where they are missing; any two files of lines.

A line ends at a newline character only: a tab, a carriage return inside a line, and Unicode's other line ends are text.
"""

import gzip
import hashlib
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from itertools import zip_longest
from pathlib import Path

from common.data.files import content, fetching, from_hub, obtain, require
from common.errors import BadInput

MULTI30K = {  # name without .gz -> md5, sha256
    "train.de": ("81ff90b99829c0cd4b1b587d394afd39", "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6"),
    "train.en": ("0065d13af80720a55ca8153d126e6627", "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f"),
    "train.fr": ("6cb767741dcad3931f966fefbc05203f", "622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c"),
    "val.de": ("6e0e229eb049e3fc99a1ef02fb2d5f91", "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a"),
    "val.en": ("2b69aa9253948ac9f67e94917272dd40", "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28"),
    "val.fr": ("93fc564584b7e5ba410c761ea5a1c682", "ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9"),
    "test_2016_flickr.de": ("efd67d314d98489b716b145475101932", "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8"),
    "test_2016_flickr.en": ("ff2c0fcb4893a13bd73414306bc250ae", "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9"),
    "test_2016_flickr.fr": ("08dc7cd4a662f31718412de95ca9bfe3", "6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90"),
    "test_2017_flickr.de": ("6a8d5c87f6ae19e3d35681aa6fd16571", "a2c89666db00c495cd8513b9d708d5a3acc205d7de312ef2bf5fb7ebc1540aee"),
    "test_2017_flickr.en": ("005396bac545d880abe6f00bbb7dbbb4", "76a444ee25172e72695cddb13ae4a3bda59430617be88e0bb46b60504f054074"),
    "test_2017_flickr.fr": ("cb09af7d2b501f9112f2d6a59fa1360d", "3ba671ceb2299f3304ffafefea7a833d08632fbaf0ba18546f8a2ec2391af496"),
    "test_2017_mscoco.de": ("e8cd6ec2bc8a11fc846fa48a46e3d0bb", "799e4854c25d601cb6cb6be29eabe5667734c61ace2f495e03e429031a0bc338"),
    "test_2017_mscoco.en": ("a7b684e0edbef1d4a23660c8e8e743fd", "aab300bfb4427697987e02cd0aacd44bfe8aa50456231b6474c08038bbed2b58"),
    "test_2017_mscoco.fr": ("4995d10954a804d3cdfd907b9fd093e8", "754f3072ba9f124569ba5258b32730fc1d214bbf8e0c6dfb2b74401676220db0"),
}  # fmt: skip
MIRRORS = ["https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/"]
WITHOUT = "every smoke experiment (make smoke), and papers whose data is generated"
WMT14 = {"train": "train", "newstest2013": "validation", "newstest2014": "test"}  # split -> what its shards are called
WMT14_HUB = "wmt/wmt14"  # a data set of Hugging Face
WMT14_REVISION = "b199e406369ec1b7634206d3ded5ba45de2fe696"  # its main since April 2024
WITHOUT_WMT14 = "every smoke experiment (make smoke), and the copy and multi30k experiments"
GZIP = b"\x1f\x8b"


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
    """A split of Multi30k from the .gz files in data_dir/multi30k, of which `fetch_multi30k` puts three splits there.

    Args:
        source, target: two of de, en, fr.
        split: train, val, test_2016_flickr, test_2017_flickr or test_2017_mscoco.

    Raises:
        BadInput: a file is missing or is not the official one; says which, what it is instead, what to do.
    """
    names = multi30k_names(source, target, [split])
    for name in names:
        official(data_dir / "multi30k" / name)
    files = dict.fromkeys(f"multi30k/{name}" for name in names)
    paths = require(data_dir, "Multi30k", files, source=MIRRORS[0], without=WITHOUT)
    return read_pair(*paths, name="Multi30k", training=split == "train")


def fetch_multi30k(data_dir: Path, source: str, target: str) -> None:
    """Download what is missing of train, val and test_2016_flickr of both languages into data_dir/multi30k.

    For the main process only; several runs may do it at once. Killed at any moment it leaves whole files, or none.

    Raises:
        BadInput: a file cannot be had; the folder cannot be written; a file that is there is not the official one.
    """
    to = data_dir / "multi30k"
    missing = [name for name in multi30k_names(source, target, ["train", "val", "test_2016_flickr"]) if not official(to / name)]
    if not missing:
        return  # without writing: the folder may be read-only
    with fetching(data_dir, "Multi30k", to=to, without=WITHOUT) as folder:
        advice, got = f"get the .gz files from {MIRRORS[0]} and put them there", {}
        for path in (to / name for name in missing):  # or no longer missing, if another run has been here: then `obtain` gives path
            md5, urls = MULTI30K[path.stem][0], [mirror + path.name for mirror in MIRRORS]
            got[path] = obtain(path, md5, urls, folder, name="Multi30k", wanted=path, advice=advice, without=WITHOUT)
        to.mkdir(exist_ok=True)  # not before: an empty folder would look like the data set
        for path, whole in got.items():
            os.replace(whole, path)


def multi30k_names(source: str, target: str, splits: Sequence[str]) -> list[str]:
    """Raises BadInput: there is no such split, or no such pair of languages."""
    names = [f"{split}.{language}" for split in splits for language in (source, target)]
    if source == target or not set(names) <= set(MULTI30K):
        known = ", ".join(dict.fromkeys(name.split(".")[0] for name in MULTI30K))
        raise BadInput(f"Multi30k: no {' and '.join(names)}: name two of the languages de, en, fr and a split of {known}")
    return [f"{name}.gz" for name in names]


def official(path: Path) -> bool:
    """Whether a file of Multi30k is there. Raises BadInput: it is, and is not the official one."""
    packed = content(path, "Multi30k")
    if packed is None:
        return False
    found, digest = hashlib.sha256(packed).hexdigest(), MULTI30K[path.stem][1]
    if found == digest:
        return True
    if not packed:
        wrong = "is empty"
    elif packed[:2] != GZIP:
        wrong = f"is not a gz file: it begins with {packed[:4]}, not with {GZIP} (a web page? already unpacked?)"
    else:
        try:
            gzip.decompress(packed)
            wrong = f"is another version: a whole gz file, but its sha256 is {found[:12]}..., not {digest[:12]}..."
        except EOFError:
            wrong = f"is truncated: its {len(packed):,} bytes end before the gz data does"
        except (OSError, zlib.error) as error:
            wrong = f"is damaged ({error})"
    raise BadInput(f"Multi30k: {path.absolute()} {wrong}: put the official one there, or delete it and run again to download it")


def wmt14(data_dir: Path, source: str, target: str, split: str) -> Parallel:
    """A split of WMT14 from data_dir/wmt14 or data_dir, the first that holds it. Nothing is downloaded: `fetch_wmt14` does that.

    Plain files: <split>.<language>, or the same with .gz, there or in de-en/ or fr-en/ (newstest2014.en is another one for each).
    Shards of Hugging Face's wmt/wmt14: train-*.parquet, validation-*.parquet (newstest2013), test-*.parquet (newstest2014), in
    de-en/ or fr-en/.

    Args:
        source, target: en, and de or fr.
        split: train, newstest2013 or newstest2014.

    Raises:
        BadInput: it is not there, incomplete or damaged; says what was looked for, and what to do.
    """
    files, half = find_wmt14(data_dir, source, target, split)
    if files and is_shard(files[0]):
        return from_shards(files, source, target, training=split == "train")
    if files:
        return read_pair(*files, name="WMT14", training=split == "train")
    pair, to = pair_of(source, target), (data_dir / "wmt14").absolute()
    raise BadInput(
        f"WMT14: no {split} of {source} and {target} (looked for {split}.{source} and {split}.{target}, plain or .gz, and for "
        f"{pair}/{WMT14[split]}-*.parquet, in {to} and {data_dir.absolute()}{half}): {wmt14_help(data_dir, pair)}"
    )


def fetch_wmt14(data_dir: Path, source: str, target: str) -> None:
    """Download Hugging Face's shards of all splits into data_dir/wmt14/de-en or fr-en, where `wmt14` does not find "train".

    Also where it finds it there, in shards, and these or another split's are not all there. Whole shards are not downloaded again.
    A hub that cannot be reached is given up after about TIMEOUT seconds; one that falls silent later, when its library does so.

    For the main process only; several runs may do it at once. Killed at any moment it leaves whole shards, or none.

    Raises:
        BadInput: they cannot be had; the folder cannot be written or read.
    """
    pair = pair_of(source, target)
    from_hub(
        data_dir, data_dir / "wmt14", name="WMT14", repository=WMT14_HUB, revision=WMT14_REVISION, patterns=[f"{pair}/*"],
        lacks=lambda: lacks_wmt14(data_dir, source, target), wanted=f"training pairs of {source} and {target}",
        advice=wmt14_help(data_dir, pair), without=WITHOUT_WMT14,
    )  # fmt: skip


def wmt14_help(data_dir: Path, pair: str) -> str:
    names, to = " and ".join(f"<split>.{language}" for language in pair.split("-")), (data_dir / "wmt14").absolute()
    return (
        f'get it with `hf download {WMT14_HUB} --repo-type dataset --revision {WMT14_REVISION} --include "{pair}/*" --local-dir '
        f"{to}`, or put {names} of {', '.join(WMT14)} there, plain or .gz, or name another folder with --data-dir; without it runs "
        f"{WITHOUT_WMT14}"
    )


def pair_of(source: str, target: str) -> str:
    return f"{target if source == 'en' else source}-en"


def lacks_wmt14(data_dir: Path, source: str, target: str) -> bool:
    """Whether `fetch_wmt14` has anything to do."""
    for split in WMT14:  # train is the first
        files, _ = find_wmt14(data_dir, source, target, split)
        ours = files and is_shard(files[0]) and files[0].parent == data_dir / "wmt14" / pair_of(source, target)
        if split == "train" and files and not ours:
            return False  # somebody put it there, and may want no other split
        all_of = announced({path.name for path in files})
        if not files or (ours and all_of and not any(whole <= {path.name for path in files} for _, whole in all_of)):
            return True
    return False


def find_wmt14(data_dir: Path, source: str, target: str, split: str) -> tuple[list[Path], str]:
    """A split's two plain files, or its shards, or nothing; and a note about plain files without the other language.

    Raises:
        BadInput: there is no such split or pair of languages; a folder cannot be read.
    """
    if {source, target} not in ({"en", "de"}, {"en", "fr"}) or split not in WMT14:
        raise BadInput(f"WMT14: no {split} of {source} and {target}: name en and one of de, fr, and a split of {', '.join(WMT14)}")
    pair, half = pair_of(source, target), ""
    for folder in (data_dir / "wmt14", data_dir / "wmt14" / pair, data_dir, data_dir / pair):
        try:
            there = set(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise BadInput(f"WMT14: cannot read {folder.absolute()}: {error.strerror}") from error
        plain = [f"{split}.{language}" for language in (source, target)]
        files = [folder / (name if name in there else f"{name}.gz") for name in plain if there & {name, f"{name}.gz"}]
        if len(files) == 2:
            return files, half
        half = half or "".join(f"; {file.absolute()} is there without the other language" for file in files)
        shards = [folder / name for name in sorted(there) if name.startswith(f"{WMT14[split]}-") and is_shard(folder / name)]
        if shards and folder.name == pair:
            return shards, half
    return [], half


def is_shard(path: Path) -> bool:
    return path.suffix == ".parquet"


def announced(names: set[str]) -> list[tuple[str, set[str]]]:
    """What each shard says there are, if it does: what they are called, and the names of all."""
    said = re.findall(r"(\S+)-\d+-of-(\d+)\.parquet", "\n".join(sorted(names)))
    return [(name, {f"{name}-{i:05}-of-{n}.parquet" for i in range(int(n))}) for name, n in said]


def from_shards(shards: list[Path], source: str, target: str, *, training: bool) -> Parallel:
    """Raises BadInput: a shard is missing or damaged, or has other columns; a sentence is empty and this is not for training."""
    from pyarrow import ArrowException
    from pyarrow.compute import struct_field
    from pyarrow.parquet import ParquetFile

    again, folder, names = "run the same `hf download` again", shards[0].parent.absolute(), {path.name for path in shards}
    for name, whole in announced(names):
        if names != whole:
            odd = "; ".join(f"{what} {min(some)}" for what, some in (("no", whole - names), ("but", names - whole)) if some)
            raise BadInput(f"WMT14: {folder} holds {len(names & whole)} of {len(whole)} {name} shards ({odd}): {again}")
    sources, targets, empty = [], [], 0
    sha256 = sha256_of(shards, "WMT14")
    wanted = [f"translation.{language}" for language in (source, target)]
    for path in shards:
        row = 0
        try:
            with ParquetFile(path) as file:
                leaves = [file.schema.column(i) for i in range(len(file.schema))]
                if not set(wanted) <= {leaf.path for leaf in leaves if str(leaf.logical_type) == "String"}:
                    columns = ", ".join(leaf.path for leaf in leaves)
                    raise BadInput(f"WMT14: {path.absolute()} has columns {columns}, not the texts {' and '.join(wanted)}: {again}")
                for batch in file.iter_batches(columns=wanted):
                    texts = [struct_field(batch.column("translation"), language).to_pylist() for language in (source, target)]
                    for one, two in zip(*texts, strict=True):
                        row += 1
                        if is_text(one) and is_text(two):
                            sources.append(one)
                            targets.append(two)
                        elif training:
                            empty += 1
                        else:
                            raise BadInput(f"WMT14: {path.absolute()}: row {row:,} has an empty sentence: {again}")
        except (OSError, ArrowException, UnicodeDecodeError) as error:
            raise BadInput(f"WMT14: {path.absolute()} is damaged ({' '.join(str(error).split())}): {again}") from error
    if not sources:
        raise BadInput(f"WMT14: no pair in {', '.join(sorted(names))} of {folder}: {again}")
    return Parallel(sources, targets, sha256, empty)


def read_pair(source: Path, target: Path, *, name: str, training: bool = False) -> Parallel:
    """The pairs of two files, plain or gz, that have a sentence to a line. One empty line at the end is not a sentence.

    Args:
        name: of the data set, for messages.
        training: leave out pairs of which a side is empty, and count them. Elsewhere they are refused.

    Raises:
        BadInput: they cannot be read, are empty, damaged or not of equal length, or a line is not UTF-8; says which and where.
    """
    sha256 = sha256_of([source, target], name)
    sources, targets, empty = [], [], []
    pairs = zip_longest(lines_of(source, name), lines_of(target, name))
    for number, (one, two) in enumerate(pairs, 1):
        if one is None or two is None:
            longer, rest = two if one is None else one, sum(1 for _ in pairs)
            if longer == "" and not rest:
                break
            n, m = (number - 1, number + rest) if one is None else (number + rest, number - 1)
            both = f"{source.absolute()} and {target.absolute()} have {n:,} and {m:,} lines"
            raise BadInput(f"{name}: {both}: they must be translations line by line; get both again from the same place")
        if is_text(one) and is_text(two):
            sources.append(one)
            targets.append(two)
        else:
            empty.append((number, target if is_text(one) else source))
    if one == two == "":
        empty.pop()  # the empty last line of both
    if empty and not training:
        number, path = empty[0]
        raise BadInput(f"{name}: {path.absolute()}: line {number:,} is empty: delete it in both files, or get them again")
    if not sources:
        raise BadInput(
            f"{name}: no pair in {source.absolute()} and {target.absolute()}: a side of each line is empty; get both again"
        )
    return Parallel(sources, targets, sha256, len(empty))


def is_text(line: str | None) -> bool:
    return bool(line) and not line.isspace()


def lines_of(path: Path, name: str) -> Iterator[str]:
    """Raises BadInput: it cannot be read, is empty, a damaged gz file, or not UTF-8."""
    number = 0
    try:
        with path.open("rb") as file:
            packed = path.suffix == ".gz" or file.peek(2).startswith(GZIP)
            for line in BufferedReader(gzip.GzipFile(fileobj=file)) if packed else file:
                number += 1
                yield line.removesuffix(b"\n").removesuffix(b"\r").decode()
        if not number:
            raise BadInput(f"{name}: {path.absolute()} is empty: get it again")
    except UnicodeDecodeError as error:
        wrong = f"line {number:,} is not UTF-8 (byte {error.start + 1}: {error.reason}): convert the file, or get it again"
        raise BadInput(f"{name}: {path.absolute()}: {wrong}") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(f"{name}: {path.absolute()} is a truncated or damaged gz file ({error}): get it again") from error
    except OSError as error:
        raise BadInput(f"{name}: cannot read {path.absolute()}: {error.strerror}") from error


def sha256_of(paths: Sequence[Path], name: str) -> str:
    """Of the files' bytes, one after the other. Raises BadInput: one cannot be read."""
    whole = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                hashlib.file_digest(file, lambda: whole)  # goes on from what it has
        except OSError as error:
            raise BadInput(f"{name}: cannot read {path.absolute()}: {error.strerror}") from error
    return whole.hexdigest()
