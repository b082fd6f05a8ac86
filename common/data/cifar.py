"""CIFAR-10: verified and read into tensors.

The files lie where torchvision has them, in data_dir/cifar-10-batches-py.
"""

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.data.files import require

FILES = {  # name -> sha256
    "data_batch_1": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
    "data_batch_2": "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
    "data_batch_3": "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
    "data_batch_4": "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
    "data_batch_5": "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
    "test_batch": "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
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
    """The data set from the six files in data_dir/cifar-10-batches-py.

    Raises:
        BadInput: a file is missing or is not the official one; says which and what to do.
    """
    source = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    files = {f"cifar-10-batches-py/{name}": digest for name, digest in FILES.items()}
    paths = require(data_dir, "CIFAR-10", files, source=source, without=WITHOUT)
    whole, images, labels = hashlib.sha256(), [], []
    for path in paths:
        content = path.read_bytes()
        whole.update(content)
        batch = pickle.loads(content, encoding="latin1")  # the checksum says whose pickle it is
        images.append(torch.from_numpy(np.ascontiguousarray(batch["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))))
        labels.append(torch.tensor(batch["labels"]))
    return CIFAR10(torch.cat(images[:5]), torch.cat(labels[:5]), images[5], labels[5], sha256=whole.hexdigest())
