"""Weights that others have trained, in folders as the Hugging Face hub has them."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

TENSORS = ("model.safetensors", "pytorch_model.bin")


def folder_of(weights: str, repository: str, cache: Path, files: Sequence[str], *, tensors: bool = True) -> Path:
    """`weights`, where that is a folder; else that of the repository OWNER/NAME of the hub, downloaded to `cache`.

    Args:
        files: what is downloaded; and, with `tensors`, the first of TENSORS that the repository has.

    Raises:
        ValueError: it is a file, or no name of the hub.
        Exception: the hub's, from a name that it does not know to no network.
    """
    if Path(weights).is_dir():
        return Path(weights)
    if Path(weights).exists():
        raise ValueError("it is a file")
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repository):
        raise ValueError("no such folder, and no name of the hub")
    from huggingface_hub import snapshot_download

    if not tensors:
        return Path(snapshot_download(repository, cache_dir=cache, allow_patterns=list(files)))
    for file in TENSORS:
        folder = Path(snapshot_download(repository, cache_dir=cache, allow_patterns=[*files, file]))
        if (folder / file).exists():
            break
    return folder


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The state dict of a folder that has one of TENSORS. Raises whatever their libraries do where it is damaged."""
    if (folder / TENSORS[0]).exists():
        from safetensors.torch import load_file

        return load_file(folder / TENSORS[0])
    return torch.load(folder / TENSORS[1], map_location="cpu", weights_only=True)


def fingerprint(net: nn.Module) -> str:
    """A sha256 of all weights and buffers, in fp32, on the CPU or elsewhere."""
    digest = hashlib.sha256()
    for tensor in net.state_dict().values():
        digest.update(tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()
