"""CIFAR-10: downloaded where it is missing, verified, and read into tensors.

The files lie where torchvision has them, in data_dir/cifar-10-batches-py. Its CIFAR10(download=True) is not used for the reasons
that `mnist` gives.
"""

import hashlib
import os
import pickle
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.data.files import content, fetching, obtain, require
from common.errors import BadInput

FOLDER = "cifar-10-batches-py"
FILES = {  # name -> bytes, sha256
    "data_batch_1": (31_035_704, "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd"),
    "data_batch_2": (31_035_320, "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8"),
    "data_batch_3": (31_035_999, "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9"),
    "data_batch_4": (31_035_696, "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b"),
    "data_batch_5": (31_035_623, "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154"),
    "test_batch": (31_035_526, "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831"),
}
WITHOUT = "every smoke experiment (make smoke), and papers whose data is generated"


@dataclass(frozen=True)
class CIFAR10:
    """Images: uint8, height, width, RGB. Labels: int64, 0 to 9."""

    train_images: Tensor  # (50000, 32, 32, 3)
    train_labels: Tensor  # (50000,)
    test_images: Tensor  # (10000, 32, 32, 3)
    test_labels: Tensor  # (10000,)
    sha256: str  # of the six files, one after the other in this order


def load(data_dir: Path) -> CIFAR10:
    """The data set from the six files in data_dir/cifar-10-batches-py, which `fetch` puts there.

    Raises:
        BadInput: a file is missing or is not the official one; says which, what it is instead, what to do.
    """
    from torchvision.datasets import CIFAR10 as source

    files = dict.fromkeys(f"{FOLDER}/{name}" for name in FILES)
    paths = require(data_dir, "CIFAR-10", files, source=f"the archive {source.url}", without=WITHOUT)
    whole, images, labels = hashlib.sha256(), [], []
    for path in paths:
        packed = read(path)
        whole.update(packed)
        batch = pickle.loads(packed, encoding="latin1")  # the checksum says whose pickle it is
        images.append(torch.from_numpy(np.ascontiguousarray(batch["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))))
        labels.append(torch.tensor(batch["labels"]))
    return CIFAR10(torch.cat(images[:5]), torch.cat(labels[:5]), images[5], labels[5], sha256=whole.hexdigest())


def read(path: Path) -> bytes | None:
    """What one of FILES holds, or None where it is missing.

    Raises:
        BadInput: it is not the official one.
    """
    size, digest = FILES[path.name]
    batch = content(path, "CIFAR-10")
    magic = b"\x80\x02}q"  # of Python 2, protocol 2, a dict
    if batch is None:
        return None
    if not batch:
        wrong = "is empty"
    elif batch[:4] != magic:
        wrong = f"is not a batch of the Python version: it begins with {batch[:4]}, not with {magic} (a web page? still packed?)"
    elif len(batch) != size:
        wrong = f"is {'truncated' if len(batch) < size else 'too long'}: it has {len(batch):,} bytes, the official one {size:,}"
    elif (found := hashlib.sha256(batch).hexdigest()) != digest:
        wrong = f"is not the official file: its sha256 is {found[:12]}..., not {digest[:12]}..."
    else:
        return batch
    raise BadInput(f"CIFAR-10: {path.absolute()} {wrong}: put the official one there, or delete it and run again to download it")


def fetch(data_dir: Path) -> None:
    """Put the files that are missing into data_dir/cifar-10-batches-py: from the archive in data_dir, else from the network.

    For the main process only; several runs may do it at once. Killed at any moment it leaves whole files, or none.

    Raises:
        BadInput: the archive cannot be had; the folder cannot be written; a file that is there is not the official one.
    """
    from torchvision.datasets import CIFAR10 as source

    batches = data_dir / FOLDER
    missing = [batches / name for name in FILES if read(batches / name) is None]
    if not missing:
        return  # without writing: the folder may be read-only
    with fetching(data_dir, "CIFAR-10", to=batches, without=WITHOUT) as folder:
        missing = [path for path in missing if not path.exists()]  # another run may have fetched them by now
        if not missing:
            return
        packed = obtain(
            data_dir / source.filename, source.tgz_md5, [source.url], folder,
            name="CIFAR-10", wanted=missing[0], without=WITHOUT,
            advice=f"get {source.url} and put it into {data_dir.absolute()}",
        )  # fmt: skip
        names = {f"{FOLDER}/{path.name}" for path in missing}
        with tarfile.open(packed) as archive:
            archive.extractall(folder, (member for member in archive if member.isfile() and member.name in names), filter="data")
        batches.mkdir(exist_ok=True)  # not before: an empty folder would look like the data set
        for path in missing:
            os.replace(folder / FOLDER / path.name, path)
