"""CIFAR-10 and CIFAR-100: downloaded where they are missing, verified, and read into tensors."""

import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.data import fetch as files
from common.data.fetch import File

SOURCE = "https://www.cs.toronto.edu/~kriz/"
PACKED = {  # classes -> the archive in data_dir, its sha256
    10: ("cifar-10-python.tar.gz", "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"),
    100: ("cifar-100-python.tar.gz", "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"),
}
OFFICIAL = {  # classes -> what it holds, the test set last, where torchvision has it -> sha256
    10: {
        "cifar-10-batches-py/data_batch_1": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
        "cifar-10-batches-py/data_batch_2": "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
        "cifar-10-batches-py/data_batch_3": "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
        "cifar-10-batches-py/data_batch_4": "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
        "cifar-10-batches-py/data_batch_5": "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
        "cifar-10-batches-py/test_batch": "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
    },
    100: {
        "cifar-100-python/train": "735e79b04f092ca3d2e6d07f368c0a7d70d48c48d28865950cc24454cf45129b",
        "cifar-100-python/test": "4b67687d9933c4db8f0831104447f15b93774f4f464bd0516f0f0f2ac83b7864",
    },
}
FILES = {
    classes: {name: File(digest, [SOURCE + PACKED[classes][0]], PACKED[classes]) for name, digest in official.items()}
    for classes, official in OFFICIAL.items()
}


@dataclass(frozen=True)
class CIFAR:
    """Images: uint8, height, width, RGB. Labels: int64, 0 to 9, or the fine ones of CIFAR-100, 0 to 99."""

    train_images: Tensor  # (50000, 32, 32, 3)
    train_labels: Tensor  # (50000,)
    test_images: Tensor  # (10000, 32, 32, 3)
    test_labels: Tensor  # (10000,)
    sha256: str  # of the files, one after the other in this order


def fetch(data_dir: Path, classes: int = 10) -> None:
    """Put the files that are missing into data_dir, in folders of their own. Raises BadInput: see `files.fetch`."""
    files.fetch(data_dir, f"CIFAR-{classes}", FILES[classes])


def load(data_dir: Path, classes: int = 10) -> CIFAR:
    """CIFAR-10 or CIFAR-100 from data_dir. Raises BadInput: a file is missing or not the official one."""
    paths = files.found(data_dir, f"CIFAR-{classes}", FILES[classes])
    images, labels = [], []
    for path in paths:
        batch = pickle.loads(path.read_bytes(), encoding="latin1")  # the checksum says whose pickle it is
        images.append(torch.from_numpy(np.ascontiguousarray(batch["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))))
        labels.append(torch.tensor(batch["labels" if classes == 10 else "fine_labels"]))
    train = torch.cat(images[:-1]), torch.cat(labels[:-1])
    return CIFAR(*train, images[-1], labels[-1], sha256=files.sha256(*paths))
