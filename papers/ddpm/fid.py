"""FID and Inception score by torch-fidelity, where that is installed: another Inception, or other resizing, gives other numbers.

Its Inception is a port of the weights that the papers use (pt_inception-2015-12-05), its resizing TensorFlow 1's. It is not among
what this repository requires.
"""

import importlib.util
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.run import Run
from papers.ddpm.data import Data


class Bytes(Dataset):
    """Images as torch-fidelity takes them: bytes (3, H, W)."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        return self.images[i]


class Read(Dataset):
    """The same of a folder."""

    def __init__(self, n: int, sample: Any) -> None:
        self.n, self.sample = n, sample

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Tensor:
        return self.sample(i, torch.Generator())[0].permute(2, 0, 1)


def installed(run: Run) -> bool:
    """Else a line says so."""
    found = importlib.util.find_spec("torch_fidelity") is not None
    if not found:
        run.say("torch-fidelity is not installed (pip install torch-fidelity): no FID and no Inception score")
    return found


def scores(run: Run, images: Tensor, data: Data) -> dict[str, float]:
    """Of samples, bytes (n, 3, H, W) on the CPU, against all training images, and all test images where there are some."""
    from torch_fidelity import calculate_metrics

    against = {"train": Read(data.n, data.sample) if data.images is None else Bytes(data.images.cpu().permute(0, 3, 1, 2))}
    if data.test_images is not None:
        against["test"] = Bytes(data.test_images.cpu().permute(0, 3, 1, 2))
    metrics = {}
    for split, real in against.items():
        found = calculate_metrics(
            input1=Bytes(images), input2=real, fid=True, isc=split == "train", cuda=run.device.type == "cuda", verbose=False
        )
        metrics[f"fid_{split}_torch_fidelity"] = float(found["frechet_inception_distance"])
        if split == "train":
            metrics["inception_score_torch_fidelity"] = float(found["inception_score_mean"])
    return metrics
