"""ImageNet (ILSVRC-2012): the usual folders of classes, or the parquet shards of Hugging Face's imagenet-1k.

Nothing is downloaded: it needs a registration. The first load of shards writes an Arrow copy of them, as large as they are, which
gives an image without reading its neighbours.
"""

import csv
import dataclasses
import hashlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from common.data import folders
from common.data.rows import reading
from common.errors import BadInput

if TYPE_CHECKING:
    from PIL.Image import Image

CLASSES = 1000
SIZES = {"train": 1_281_167, "val": 50_000}
LIST = "LOC_val_solution.csv"  # Kaggle's, of the validation images
SORT = f"each split needs a folder for each class; of val alone, Kaggle's {LIST} beside it or above it does as well"
GET = (
    "get it from https://image-net.org (after registration), or with `hf download ILSVRC/imagenet-1k --repo-type dataset "
    "--local-dir {}` (after accepting its terms), or name another folder with --data-dir; `make smoke` runs without"
)


@dataclass(frozen=True)
class ImageNet:
    """One split. The official classes, sorted by their WordNet ids, are 0 to 999 in folders, some of them or all, and in shards.

    Classes of one's own are numbered in the order of their names.
    """

    image: Callable[[int], "Image"]  # index -> the image, as `decoded` has it; BadInput names the file, or the shard and the row
    labels: Tensor  # (n,), int64
    classes: int
    sha256: str  # of the listing, not of 140 GB: the path of every image; of shards their names and sizes, and every label
    split: str

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def official(self) -> bool:
        """As many images and classes as the official split has."""
        return len(self) == SIZES[self.split] and self.classes == CLASSES

    def told_apart(self, outputs: int) -> "ImageNet":
        """As a net of so many numbers the classes: as here, or those there are in their order. Raises BadInput: it has others."""
        there, places = self.labels.unique(return_inverse=True)
        if outputs == len(there) < self.classes:
            return dataclasses.replace(self, labels=places, classes=outputs)
        if outputs < self.classes or (self.classes == CLASSES and outputs > CLASSES):
            raise BadInput(f"ImageNet: {len(there):,} classes are there, and {outputs:,} outputs: other weights, or --classes")
        return self


def load(data_dir: Path, split: Literal["train", "val"]) -> ImageNet:
    """A split from data_dir/imagenet, data_dir/imagenet-1k or data_dir, the first that holds its folder or its shards.

    Folders: train/<class>/*.JPEG, val/<class>/*.JPEG. Shards: train-*.parquet, validation-*.parquet, there or in data/.

    Raises:
        BadInput: it is not there, or incomplete; says what was looked for, and what to do.
    """
    roots = [data_dir / "imagenet", data_dir / "imagenet-1k", data_dir]
    pattern = {"train": "train-*.parquet", "val": "val*-*.parquet"}[split]
    for folder in roots:
        if (folder / split).is_dir():
            return from_folder(folder, split)
        for place in (folder, folder / "data"):
            if shards := sorted(place.glob(pattern)):
                return from_shards(shards, split)
    places = ", ".join(str(folder.absolute()) for folder in roots)
    raise BadInput(f"ImageNet: no {split}/ and no {pattern} in {places}: {GET.format(roots[1].absolute())}")


def from_folder(folder: Path, split: str) -> ImageNet:
    """Raises BadInput: no class folders, empty ones, other ones than the other split's."""
    root, other = (folder / split).absolute(), (folder / {"train": "val", "val": "train"}[split]).absolute()
    data = sorted_by_list(folders.load(root, "ImageNet", sizes=False))
    theirs = folders.classes_of(other) or {*listed(other).values()} if other.is_dir() else data.classes
    if not (data.classes and theirs):
        raise BadInput(f"ImageNet: {other if data.classes else root} holds images or nothing, no folders of images: {SORT}")
    for name in sorted({*data.classes} ^ {*theirs}):
        has, lacks = (root, other) if name in data.classes else (other, root)
        raise BadInput(f"ImageNet: {has / name} is there but {lacks / name} is not: unpack it, or delete what is no class")
    if len(data.classes) == CLASSES or not (official := numbers(data.classes)):
        if len(data.classes) != CLASSES and split == "val" and os.environ.get("RANK", "0") == "0":
            own = f"{len(data.classes)} classes of its own, numbered in the order of their names"
            print(f"ImageNet: {root} has {own}", file=sys.stderr, flush=True)
        return ImageNet(data.image, data.labels, len(data.classes), data.sha256, split)
    if other := [name for name in data.classes if name not in official]:
        raise BadInput(f"ImageNet: {root / other[0]} is none of its 1,000 classes, and others are: take away what is no class")
    return ImageNet(data.image, torch.tensor([official[name] for name in data.classes])[data.labels], CLASSES, data.sha256, split)


def listed(root: Path) -> dict[str, str]:
    """Image of a flat validation set -> its class, where LIST lies beside its folder or above it."""
    for folder in [root, *root.parents[:4]] if root.name == "val" else ():
        if (path := folder / LIST).exists():
            with reading("ImageNet", path, "get it again"), path.open(encoding="utf-8", newline="") as file:
                return {f"{row['ImageId']}.JPEG": row["PredictionString"].split()[0] for row in csv.DictReader(file)}
    return {}


def sorted_by_list(data: folders.Folder) -> folders.Folder:
    """A folder of images alone with the classes of its list. Raises BadInput: an image is not on it."""
    if data.classes or not (of := listed(data.root)):
        return data
    names = [os.fsdecode(path) for path in data.paths]
    if unknown := [name for name in names if name not in of]:
        raise BadInput(f"ImageNet: {data.root / unknown[0]} is not in {LIST}: get that again, or take the image away")
    classes = sorted({of[name] for name in names})
    place = {name: i for i, name in enumerate(classes)}
    return dataclasses.replace(data, classes=tuple(classes), labels=torch.tensor([place[of[name]] for name in names]))


def numbers(classes: Sequence[str]) -> dict[str, int]:
    """WordNet id -> number of ImageNet's classes, if any of these is one; else nothing: they are one's own, in their order."""
    if not any(re.fullmatch(r"n\d{8}", name) for name in classes):
        return {}
    from timm.data import ImageNetInfo

    official = {name: i for i, name in enumerate(ImageNetInfo().label_names())}
    return official if official.keys() & {*classes} else {}


def from_shards(shards: list[Path], split: str) -> ImageNet:
    """Raises BadInput: a shard is missing or damaged, or has other columns; there is no room for the Arrow copy."""
    import datasets
    from pyarrow.parquet import read_metadata

    folder, again, rows = shards[0].parent.absolute(), "run the same `hf download` again", [0]
    for path in shards:
        with reading("ImageNet", path, again):
            rows.append(read_metadata(path).num_rows)
    named = re.search(r"-of-(\d+)", shards[0].name)
    if named and int(named[1]) != len(shards):
        raise BadInput(f"ImageNet: {folder} holds {len(shards)} of {int(named[1])} {split} shards: {again}")

    cache = folder / ".arrow" if os.access(folder, os.W_OK) else Path(datasets.config.HF_DATASETS_CACHE)
    if not cache.exists() and int(os.environ.get("RANK", 0)) == 0:
        print(f"ImageNet: copying {folder} to {cache}, once for all runs", file=sys.stderr, flush=True)
    datasets.disable_progress_bars()
    try:
        data = datasets.Dataset.from_parquet([str(path) for path in shards], cache_dir=str(cache), columns=["image", "label"])
    except (OSError, datasets.exceptions.DatasetGenerationError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        room = f"make room there, or name another folder with $HF_HOME and make this one read-only; if a shard is damaged {again}"
        raise BadInput(f"ImageNet: {folder} cannot be copied to {cache} ({reason}): {room}") from error
    data = data.cast_column("image", datasets.Image(decode=False))
    labels = torch.tensor(data.data.column("label").to_numpy(), dtype=torch.int64)
    names, starts = getattr(data.features["label"], "names", None), np.cumsum(rows)

    def image(index: int) -> "Image":
        shard = np.searchsorted(starts, index, side="right") - 1
        row = f"row {index - starts[shard]} of {shards[shard].absolute()}"
        return folders.decoded(data[int(index)]["image"]["bytes"] or b"", f"ImageNet: {row}")

    listing = "\n".join(f"{path.name} {path.stat().st_size}" for path in shards).encode() + labels.numpy().tobytes()
    classes = len(names) if names else int(labels.max()) + 1
    return ImageNet(image, labels, classes, hashlib.sha256(listing).hexdigest(), split)
