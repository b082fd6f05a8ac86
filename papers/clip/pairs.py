"""Any set of images with captions: WebDataset's shards, or a folder with captions.jsonl; each pair by its number.

Shards are tar files in which files of one name and several endings are one sample, as img2dataset writes them. Where each lies is
looked up once and kept beside the data, so that a batch is any pairs of all shards, a function of the step alone; the `webdataset`
package, which reads shards as a stream, is not needed.
"""

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.data import fetch
from common.data.folders import decoded
from common.data.kept import kept
from common.data.rows import is_text, lines, reading
from common.errors import BadInput

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGES = ("jpg", "jpeg", "png", "webp")
ADVICE = "name with --pairs a folder of shards (*.tar with .jpg and .txt files), or one with captions.jsonl"
MEND = "get the shard again, or take it away"


@dataclass(frozen=True)
class Source:
    """Pairs in the order of their shards."""

    files: tuple[Path, ...]  # shards, or captions.jsonl alone
    table: np.ndarray  # (n, 5), int64: shard, and where image and caption begin and how long they are; or (n, 1): line
    rows: tuple[tuple[str, str], ...]  # of captions.jsonl: file and caption
    sha256: str

    def __len__(self) -> int:
        return len(self.table)

    def pair(self, i: int) -> "tuple[Image, str]":
        """Raises BadInput: the image cannot be decoded, or the caption is empty; names it."""
        if self.rows:
            file, caption = self.rows[i]
            path = self.files[0].parent / file
            with reading("pairs", path, "put it back, or take its line away"):
                content = path.read_bytes()
            what = f"pairs: {path}"
        else:
            shard, start, size, text_start, text_size = self.table[i].tolist()
            path = self.files[shard]
            with reading("pairs", path, MEND), path.open("rb") as file:
                file.seek(start)
                content = file.read(size)
                file.seek(text_start)
                caption = file.read(text_size).decode(errors="replace")
            what = f"pairs: the image at byte {start:,} of {path}"
        if not is_text(caption):
            raise BadInput(f"{what} has an empty caption: take the pair away, or pass --skip-broken")
        return decoded(content, what), caption


def load(root: Path, data_dir: Path) -> Source:
    """The pairs of a folder. Raises BadInput: there are none, a shard is cut short, or a line is none."""
    if (listing := root / "captions.jsonl").exists():
        with reading("pairs", listing, 'a line {"file": ..., "caption": ...} for each image is wanted'):
            rows = tuple((str(row["file"]), str(row["caption"])) for row in map(json.loads, lines(listing)))
        return Source((listing,), np.arange(len(rows))[:, None], rows, fetch.sha256(listing))
    shards = tuple(sorted(root.glob("*.tar")))
    if not shards:
        raise BadInput(f"pairs: no *.tar and no captions.jsonl in {root.absolute()}: {ADVICE}")
    facts = {"shards": [[shard.name, shard.stat().st_size] for shard in shards], "format": 1}

    def make(folder: Path) -> None:
        tables = [np.insert(index(shard), 0, i, axis=1) for i, shard in enumerate(shards)]
        np.save(folder / "table.npy", np.concatenate(tables))

    folder = kept([root, data_dir], "pairs", facts, make)
    table = np.load(folder / "table.npy", mmap_mode="r")
    if not len(table):
        raise BadInput(f"pairs: no image with a .txt file of its name in the {len(shards)} shards of {root.absolute()}: {ADVICE}")
    return Source(shards, table, (), fetch.sha256(folder / "table.npy"))


def index(shard: Path) -> np.ndarray:
    """Where the pairs of a shard lie: (n, 4). Raises BadInput: it is damaged, or cut short."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    end = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if member.offset_data + member.size > end:
                    raise tarfile.ReadError(f"it ends within {member.name}")
                key, _, ending = member.name.rpartition("/")[2].partition(".")
                if member.isfile() and ending.lower() in (*IMAGES, "txt"):
                    kind = "txt" if ending == "txt" else "image"
                    found.setdefault(f"{member.name.rpartition('/')[0]}/{key}", {})[kind] = (member.offset_data, member.size)
        with shard.open("rb") as file:
            file.seek(max(0, end - 1024))
            if file.read().strip(b"\0"):
                raise tarfile.ReadError("it has no end")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise BadInput(f"pairs: {shard.absolute()} is damaged or cut short ({' '.join(str(error).split())}): {MEND}") from error
    both = [(*each["image"], *each["txt"]) for each in found.values() if len(each) == 2]
    return np.array(both, dtype=np.int64).reshape(-1, 4)
