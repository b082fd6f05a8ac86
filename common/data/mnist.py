"""MNIST: downloaded where it is missing, verified, and read into tensors."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from common.data import fetch as files
from common.data.fetch import File

RAW = "MNIST/raw/"  # where torchvision has it, below data_dir
MIRRORS = ["https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"]
OFFICIAL = {  # name -> sha256, and that of its .gz
    "train-images-idx3-ubyte": ("ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
    "train-labels-idx1-ubyte": ("65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
    "t10k-images-idx3-ubyte": ("0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
    "t10k-labels-idx1-ubyte": ("ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
                                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
}  # fmt: skip
FILES = {
    f"{RAW}{name}": File(digest, [f"{mirror}{name}.gz" for mirror in MIRRORS], (f"{RAW}{name}.gz", packed))
    for name, (digest, packed) in OFFICIAL.items()
}


@dataclass(frozen=True)
class MNIST:
    """Images: uint8, 0 is background, 255 is ink. Labels: int64, 0 to 9."""

    train_images: Tensor  # (60000, 28, 28)
    train_labels: Tensor  # (60000,)
    test_images: Tensor  # (10000, 28, 28)
    test_labels: Tensor  # (10000,)
    sha256: str  # of the four files, one after the other in this order


def fetch(data_dir: Path) -> None:
    """Put the files that are missing into data_dir/MNIST/raw. Raises BadInput: see `files.fetch`."""
    files.fetch(data_dir, "MNIST", FILES)


def load(data_dir: Path) -> MNIST:
    """The data set from data_dir/MNIST/raw. Raises BadInput: a file is missing or not the official one."""
    from torchvision.datasets.mnist import read_image_file, read_label_file

    paths = files.found(data_dir, "MNIST", FILES)
    arrays = [(read_image_file if "images" in path.name else read_label_file)(str(path)) for path in paths]
    return MNIST(*arrays, sha256=files.sha256(*paths))
