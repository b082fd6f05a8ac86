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

from common.data.rows import reading
from common.errors import BadInput

if TYPE_CHECKING:
    from PIL.Image import Image

CLASSES = 1000
SIZES = {"train": 1_281_167, "val": 50_000}
AGAIN = "the same command then goes on from the last checkpoint"
SORT = (
    "each split needs a folder for each class; inside val make them with `wget -qO- https://raw.githubusercontent.com/soumith/"
    "imagenetloader.torch/master/valprep.sh | bash`"
)
GET = (
    "get it from https://image-net.org (after registration), or with `hf download ILSVRC/imagenet-1k --repo-type dataset "
    "--local-dir {}` (after accepting its terms), or name another folder with --data-dir; `make smoke` runs without"
)


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
            unknown = f"no image begins with {content[:8]}" if content else "it is empty"
            reason = unknown if isinstance(error, UnidentifiedImageError) else error
            raise BadInput(f"ImageNet: {name} cannot be decoded: {reason}; replace it: {AGAIN}") from error


def load(data_dir: Path, split: Literal["train", "val"]) -> ImageNet:
    """A split from data_dir/imagenet, data_dir/imagenet-1k or data_dir, the first that holds its folder or its shards.

    Folders: train/<class>/*.JPEG, val/<class>/*.JPEG. Shards: train-*.parquet, validation-*.parquet, there or in data/.

    Raises:
        BadInput: it is not there, or incomplete; says what was looked for, and what to do.
    """
    folders = [data_dir / "imagenet", data_dir / "imagenet-1k", data_dir]
    pattern = {"train": "train-*.parquet", "val": "val*-*.parquet"}[split]
    for folder in folders:
        if (folder / split).is_dir():
            return from_folder(folder, split)
        for place in (folder, folder / "data"):
            if shards := sorted(place.glob(pattern)):
                return from_shards(shards, split)
    places = ", ".join(str(folder.absolute()) for folder in folders)
    raise BadInput(f"ImageNet: no {split}/ and no {pattern} in {places}: {GET.format(folders[1].absolute())}")


def from_folder(folder: Path, split: str) -> ImageNet:
    """Raises BadInput: no class folders, empty ones, other ones than the other split's."""
    from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

    root, other = (folder / split).absolute(), (folder / {"train": "val", "val": "train"}[split]).absolute()
    with reading("ImageNet", root, SORT):
        classes, numbers = find_classes(root)
        samples = make_dataset(root, numbers, IMG_EXTENSIONS)
    with reading("ImageNet", other, SORT):
        others = find_classes(other)[0] if other.is_dir() else classes
    for name in sorted({*classes} ^ {*others}):
        has, lacks = (root, other) if name in numbers else (other, root)
        raise BadInput(f"ImageNet: {has / name} is there but {lacks / name} is not: unpack it, or delete what is no class")
    labels = torch.tensor([label for _, label in samples], dtype=torch.int64)
    # One array, not a million objects: counting references to those would copy them into every worker.
    names = np.array([os.fsencode(path)[len(os.fsencode(root)) + 1 :] for path, _ in samples])

    def read(index: int) -> tuple[str, bytes]:
        path = root / os.fsdecode(names[index])
        with reading("ImageNet", path, f"put it back: {AGAIN}"):
            return str(path), path.read_bytes()

    listing = b"\n".join(b"%s %d" % pair for pair in zip(names.tolist(), labels.tolist(), strict=True))
    return described(read, labels, len(classes), listing, split)


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

    def read(index: int) -> tuple[str, bytes]:
        shard = np.searchsorted(starts, index, side="right") - 1
        return f"row {index - starts[shard]} of {shards[shard].absolute()}", data[int(index)]["image"]["bytes"] or b""

    listing = "\n".join(f"{path.name} {path.stat().st_size}" for path in shards).encode() + labels.numpy().tobytes()
    return described(read, labels, len(names) if names else int(labels.max()) + 1, listing, split)


def described(read: Callable[[int], tuple[str, bytes]], labels: Tensor, classes: int, listing: bytes, split: str) -> ImageNet:
    official = len(labels) == SIZES[split] and classes == CLASSES
    return ImageNet(read, labels, classes, hashlib.sha256(listing).hexdigest(), official)
