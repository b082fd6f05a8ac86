"""Folders of images: one for each class, as torchvision's ImageFolder has them, or all in one."""

import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from common.data.rows import reading
from common.data.workers import Sample
from common.errors import BadInput

if TYPE_CHECKING:
    from PIL.Image import Image

GO_ON = "then the same command goes on from the last checkpoint"


@dataclass(frozen=True)
class Folder:
    """Images in the order of their paths."""

    name: str  # of the data set, for messages
    root: Path
    paths: np.ndarray  # (n,), below root, as bytes: counting references to a million objects would copy them into every worker
    labels: Tensor  # (n,), int64: of its class, which is the first folder of its path
    classes: tuple[str, ...]  # sorted; none where images lie in the root itself
    sha256: str  # of the listing: path and size of every image

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> "Image":
        """Raises BadInput: it cannot be read or decoded; names the file."""
        path = self.root / os.fsdecode(self.paths[index])
        with reading(self.name, path, f"put it back, {GO_ON}"):
            content = path.read_bytes()
        return decoded(content, f"{self.name}: {path}")

    def sample(self, show: Callable[["Image", torch.Generator], Tensor]) -> Sample:
        """What `run.reader` takes: what is shown of an image, and its label."""
        return lambda index, generator: (show(self.image(index), generator), self.labels[index])


def decoded(content: bytes, what: str) -> "Image":
    """The image as it is stored, in RGB. EXIF does not turn it, as nowhere in the field. Raises BadInput: it is none."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings(action="ignore"):  # of EXIF that is damaged, and of palettes
            return Image.open(io.BytesIO(content)).convert("RGB")
    except Exception as error:  # PIL has no error of its own for a damaged file
        known = not isinstance(error, UnidentifiedImageError)
        reason = error if known else f"no image begins with {content[:8]}" if content else "it is empty"
        raise BadInput(f"{what} cannot be decoded: {reason}; replace it, {GO_ON}") from error


def classes_of(root: Path) -> tuple[str, ...]:
    """The names of the folders there, sorted; hidden ones are none."""
    return tuple(sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")))


def files_below(root: Path) -> Iterator[str]:
    """The paths of all files below a folder: links are followed, each folder that there is once, hidden ones are not looked at."""
    seen: set[str] = set()
    for folder, inner, files in os.walk(root, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            inner.clear()
            continue
        seen.add(real)
        inner[:] = sorted(each for each in inner if not each.startswith("."))
        yield from (os.path.join(folder, file) for file in files if not file.startswith("."))


def load(root: Path, name: str, *, sizes: bool = True) -> Folder:
    """All images below a folder; links are followed, hidden files are not looked at.

    Args:
        sizes: into the listing; without them no file is looked at.

    Raises:
        BadInput: it is not there, holds no image, or one of its classes holds none.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension

    root, found = root.absolute(), {}
    for path in files_below(root):
        if has_file_allowed_extension(path, IMG_EXTENSIONS):
            found[os.fsencode(os.path.relpath(path, root))] = os.path.getsize(path) if sizes else 0
    if not found:
        state = "holds no image" if root.is_dir() else "is not there"
        kinds = ", ".join(IMG_EXTENSIONS)
        raise BadInput(f"{name}: {root} {state}: put images there ({kinds}), or name another folder with --data-dir")
    paths = sorted(found)
    flat = not all(b"/" in path for path in paths)
    classes = () if flat else classes_of(root)
    numbers = {os.fsencode(each): i for i, each in enumerate(classes)}
    labels = [0 if flat else numbers[path.partition(b"/")[0]] for path in paths]
    for empty in {*range(len(classes))} - {*labels}:
        raise BadInput(f"{name}: no image in {root / classes[empty]}: unpack it again, or take it away")
    listing = b"\n".join(b"%s %d" % (path, found[path]) for path in paths)
    return Folder(name, root, np.array(paths), torch.tensor(labels), classes, hashlib.sha256(listing).hexdigest())
