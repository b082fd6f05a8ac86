"""MNIST: downloaded where it is missing, verified, and read into tensors.

The files lie where torchvision has them, in data_dir/MNIST/raw. Its MNIST(download=True) ends at a time-out or a reset connection,
waits for ever for a server that is silent, and takes whatever is there for whole; so only its parts are used here.
"""

import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from common.data.files import fetching, obtain, require, sha256
from common.errors import BadInput

FILES = {  # name -> what it holds, sha256
    "train-images-idx3-ubyte": ((60_000, 28, 28), "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    "train-labels-idx1-ubyte": ((60_000,), "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    "t10k-images-idx3-ubyte": ((10_000, 28, 28), "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    "t10k-labels-idx1-ubyte": ((10_000,), "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
}
WITHOUT = "every smoke experiment (make smoke), and papers whose data is generated"


@dataclass(frozen=True)
class MNIST:
    """Images: uint8, 0 is background, 255 is ink. Labels: int64, 0 to 9."""

    train_images: Tensor  # (60000, 28, 28)
    train_labels: Tensor  # (60000,)
    test_images: Tensor  # (10000, 28, 28)
    test_labels: Tensor  # (10000,)
    sha256: str  # of the four files, one after the other in this order


def load(data_dir: Path) -> MNIST:
    """The data set from the unpacked files in data_dir/MNIST/raw, which `fetch` puts there.

    Raises:
        BadInput: a file is missing or is not the official one; says which, what it is instead, what to do.
    """
    from torchvision.datasets import MNIST as source
    from torchvision.datasets.mnist import read_image_file, read_label_file

    files = [f"MNIST/raw/{name}" for name in FILES]
    verify(data_dir / "MNIST" / "raw")
    paths = require(data_dir, "MNIST", dict.fromkeys(files), source=source.mirrors[0], without=WITHOUT)
    whole = hashlib.sha256()
    for path in paths:
        whole.update(path.read_bytes())
    arrays = [(read_image_file if "images" in path.name else read_label_file)(str(path)) for path in paths]
    return MNIST(*arrays, sha256=whole.hexdigest())


def verify(raw: Path) -> None:
    """Raises BadInput: one of the files that are in `raw` is not the official one."""
    for name, (shape, digest) in FILES.items():
        path, what, start = raw / name, "images" if len(shape) == 3 else "labels", 4 + 4 * len(shape)
        try:
            if not path.exists():
                continue
            with path.open("rb") as file:
                header = file.read(start)
            size, found = path.stat().st_size, sha256(path)
        except OSError as error:
            raise BadInput(f"MNIST: cannot read {path.absolute()}: {error.strerror}") from error
        magic = bytes([0, 0, 8, len(shape)])  # 8: unsigned bytes
        sizes = tuple(int.from_bytes(header[at : at + 4], "big") for at in range(4, start, 4))
        length = start + math.prod(sizes)
        if not header:
            wrong = "is empty"
        elif header[:4] != magic:
            wrong = f"is not an idx file of {what}: it begins with {header[:4]}, not with {magic} (a web page? still packed?)"
        elif size != length:
            wrong = f"is {'truncated' if size < length else 'too long'}: {length:,} bytes by its header, but it has {size:,}"
        elif sizes[1:] != shape[1:]:
            wrong = f"holds images of {'x'.join(map(str, sizes[1:]))} pixels, not {'x'.join(map(str, shape[1:]))}"
        elif sizes != shape:
            wrong = f"holds {sizes[0]:,} {what}, " + (f"not {shape[0]:,}" if what == "images" else f"for {shape[0]:,} images")
        elif found != digest:
            wrong = f"is not the official file: its sha256 is {found[:12]}..., not {digest[:12]}..."
        else:
            continue
        raise BadInput(f"MNIST: {path.absolute()} {wrong}: put the official one there, or delete it and run again to download it")


def fetch(data_dir: Path) -> None:
    """Put the unpacked files that are missing into data_dir/MNIST/raw: from a .gz beside them, else from the network.

    For the main process only; several runs may do it at once. Killed at any moment it leaves whole files, or none.

    Raises:
        BadInput: no mirror gives a file; the folder cannot be written; a file that is there is not the official one.
    """
    from torchvision.datasets import MNIST as source
    from torchvision.datasets.utils import extract_archive

    raw = data_dir / "MNIST" / "raw"
    verify(raw)
    if all((raw / name).exists() for name in FILES):
        return  # without writing: the folder may be read-only
    advice = f"get the four .gz files from {source.mirrors[0]} and put them there"
    with fetching(data_dir, "MNIST", to=raw, without=WITHOUT) as folder:
        for packed, md5 in source.resources:
            path, urls = raw / packed.removesuffix(".gz"), [mirror + packed for mirror in source.mirrors]
            if not path.exists():
                whole = obtain(raw / packed, md5, urls, folder, name="MNIST", wanted=path, advice=advice, without=WITHOUT)
                extract_archive(whole, folder)
                raw.mkdir(parents=True, exist_ok=True)  # not before: an empty folder would look like the data set
                os.replace(folder / path.name, path)
