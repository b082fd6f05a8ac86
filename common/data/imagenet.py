"""ImageNet (ILSVRC-2012): the usual folders of classes, or the parquet shards of Hugging Face's imagenet-1k.

Nothing is downloaded: it needs a registration. The first load of shards writes an Arrow copy of them, as large as they are, which
gives an image without reading its neighbours.
"""

import hashlib
import io
import os
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from common.errors import BadInput

if TYPE_CHECKING:
    from PIL.Image import Image

CLASSES = 1000
SIZES = {"train": 1_281_167, "val": 50_000}
SOURCE = (
    "get it from https://image-net.org (after registration), or with `hf download ILSVRC/imagenet-1k --repo-type dataset "
    "--local-dir {}` (after accepting its terms), put it there, or name another folder with --data-dir"
)
WITHOUT = "without it run the cifar10 experiments, and every smoke experiment (make smoke)"
VALPREP = "https://raw.githubusercontent.com/soumith/imagenetloader.torch/master/valprep.sh"


@dataclass(frozen=True)
class ImageNet:
    """One split. The official classes, sorted by their WordNet ids, are 0 to 999 in folders and in shards."""

    read: Callable[[int], tuple[str, bytes]]  # index -> what an image is called, the bytes of its file
    labels: Tensor  # (n,), int64
    classes: int
    sha256: str  # of the listing, not of 140 GB: path and label of every image; of shards their names and sizes, and every label
    official: bool  # as many images and classes as the official split has

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> "Image":
        """The image as it is stored, in RGB. EXIF does not turn it, as nowhere in the field.

        Raises:
            BadInput: it cannot be read or decoded; names the file, or the shard and the row.
        """
        from PIL import Image, UnidentifiedImageError

        name, content = self.read(index)
        try:
            with warnings.catch_warnings(action="ignore"):  # of EXIF that is damaged, and of palettes
                return Image.open(io.BytesIO(content)).convert("RGB")
        except Exception as error:  # PIL has no error of its own for a damaged file
            known = not isinstance(error, UnidentifiedImageError)
            reason = error if known else f"no image begins with {content[:8]}" if content else "it is empty"
            advice = "replace it, then the same command goes on from the last checkpoint"
            raise BadInput(f"ImageNet: {name} cannot be decoded: {reason}; {advice}") from error


def load(data_dir: Path, split: Literal["train", "val"]) -> ImageNet:
    """A split from data_dir/imagenet, data_dir/imagenet-1k or data_dir, the first that holds its folder or its shards.

    Folders: train/<class>/*.JPEG, val/<class>/*.JPEG. Shards: train-*.parquet, validation-*.parquet, there or in data/.

    Raises:
        BadInput: it is not there, or incomplete; says what was looked for, and what to do.
    """
    folders = [data_dir / "imagenet", data_dir / "imagenet-1k", data_dir]
    for folder in folders:
        if (folder / split).is_dir():
            return from_folder(folder, split)
        names = ["train-*.parquet"] if split == "train" else ["validation-*.parquet", "val-*.parquet"]
        for place in (folder, folder / "data"):
            shards = sorted(path for name in names for path in place.glob(name))
            if shards:
                return from_shards(shards, split)
    places = ", ".join(str(folder.absolute()) for folder in folders)
    shards = "train-*.parquet" if split == "train" else "validation-*.parquet"
    looked = f"looked for a folder {split}/ with a folder for each class, and for {shards}, in {places}"
    raise BadInput(f"ImageNet: no {split} images ({looked}): {SOURCE.format(folders[1].absolute())}; {WITHOUT}")


def from_folder(folder: Path, split: str) -> ImageNet:
    """Raises BadInput: no class folders, empty ones, other ones than the other split's."""
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    root, other = (folder / split).absolute(), (folder / {"train": "val", "val": "train"}[split]).absolute()
    classes, others = classes_of(root), classes_of(other) if other.is_dir() else None
    if others is not None and classes != others:
        name = min(set(classes) ^ set(others))
        has, lacks = (root, other) if name in classes else (other, root)
        raise BadInput(
            f"ImageNet: {has / name} is there but {lacks / name} is not ({len(classes):,} classes in {split}, {len(others):,} in "
            f"{other.name}): both need the same class folders; unpack the missing ones, or delete what is no class"
        )
    samples = make_dataset(root, {name: i for i, name in enumerate(classes)}, IMG_EXTENSIONS, allow_empty=True)
    labels = torch.tensor([label for _, label in samples], dtype=torch.int64)
    empty = [classes[i] for i in (labels.bincount(minlength=len(classes)) == 0).nonzero()]
    if empty:
        more = f" and {len(empty) - 3:,} more" if len(empty) > 3 else ""
        raise BadInput(f"ImageNet: no images in {', '.join(str(root / e) for e in empty[:3])}{more}: unpack them again")
    # One array, not a million objects: counting references to those would copy them into every worker.
    names = np.array([os.fsencode(path)[len(os.fsencode(root)) + 1 :] for path, _ in samples])

    def read(index: int) -> tuple[str, bytes]:
        path = root / os.fsdecode(names[index])
        try:
            return str(path), path.read_bytes()
        except OSError as error:
            advice = "then the same command goes on from the last checkpoint"
            raise BadInput(f"ImageNet: {path} cannot be read: {error.strerror}; put it back, {advice}") from error

    listing = b"\n".join(b"%s %d" % pair for pair in zip(names.tolist(), labels.tolist(), strict=True))
    return described(read, labels, len(classes), listing, split)


def classes_of(root: Path) -> list[str]:
    """The class folders, sorted. Raises BadInput: there are none."""
    from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension

    folders, images = [], 0
    for entry in os.scandir(root):
        if entry.is_dir():
            folders.append(entry.name)
        images += has_file_allowed_extension(entry.name, IMG_EXTENSIONS)
    if not folders and images:
        sort = f"sort them, for instance with {VALPREP}, run inside it: wget -qO- {VALPREP} | bash"
        raise BadInput(f"ImageNet: {root} holds {images:,} images, but no folder for each class: {sort}")
    if not folders:
        raise BadInput(f"ImageNet: {root} holds no folder for each class (still packed?): {SOURCE.format(root)}; {WITHOUT}")
    return sorted(folders)


def from_shards(shards: list[Path], split: str) -> ImageNet:
    """Raises BadInput: a shard is missing or damaged, or has other columns; there is no room for the Arrow copy."""
    import datasets
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    again = "run the same `hf download` again"
    rows = []
    for path in shards:
        try:
            with ParquetFile(path) as file:
                columns, n = file.schema_arrow.names, file.metadata.num_rows
        except (OSError, ArrowException) as error:
            raise BadInput(f"ImageNet: {path.absolute()} is damaged ({' '.join(str(error).split())}): {again}") from error
        if not {"image", "label"} <= set(columns):
            raise BadInput(f"ImageNet: {path.absolute()} has columns {', '.join(columns)}, not image and label: {again}")
        rows.append(n)
    named = re.search(r"-of-(\d+)", shards[0].name)
    if named and int(named[1]) != len(shards):
        raise BadInput(f"ImageNet: {shards[0].parent.absolute()} holds {len(shards)} of {int(named[1])} {split} shards: {again}")

    cache = shards[0].parent / ".arrow"
    cache = cache if os.access(cache.parent, os.W_OK) else Path(datasets.config.HF_DATASETS_CACHE)
    if not cache.exists() and int(os.environ.get("RANK", 0)) == 0:
        print(f"ImageNet: copying {shards[0].parent} to {cache}, once for all runs", file=sys.stderr, flush=True)
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        data = datasets.Dataset.from_parquet([str(path) for path in shards], cache_dir=str(cache), columns=["image", "label"])
    except (OSError, datasets.exceptions.DatasetGenerationError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        room = f"make room there, or name another folder with $HF_HOME and make this one read-only; if a shard is damaged {again}"
        raise BadInput(f"ImageNet: {shards[0].parent.absolute()} cannot be copied to {cache} ({reason}): {room}") from error
    finally:
        if not bars:
            datasets.enable_progress_bars()
    data = data.cast_column("image", datasets.Image(decode=False))
    labels = torch.tensor(data.data.column("label").to_numpy(), dtype=torch.int64)
    names = getattr(data.features["label"], "names", None)
    starts = np.cumsum([0, *rows])

    def read(index: int) -> tuple[str, bytes]:
        shard = np.searchsorted(starts, index, side="right") - 1
        return f"row {index - starts[shard]} of {shards[shard].absolute()}", data[int(index)]["image"]["bytes"] or b""

    listing = "\n".join(f"{path.name} {path.stat().st_size}" for path in shards).encode() + labels.numpy().tobytes()
    return described(read, labels, len(names) if names else int(labels.max()) + 1, listing, split)


def described(read: Callable[[int], tuple[str, bytes]], labels: Tensor, classes: int, listing: bytes, split: str) -> ImageNet:
    official = len(labels) == SIZES[split] and classes == CLASSES
    return ImageNet(read, labels, classes, hashlib.sha256(listing).hexdigest(), official)
