"""Weights that others have trained: from files, folders, the Hugging Face hub, torchvision and timm into a module, strictly."""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from common.errors import BadInput

M = TypeVar("M", bound=nn.Module)

WRAPPERS = ("state_dict", "model", "state_dict_ema", "model_ema", "model_state_dict", "objects")  # of trainers, ours among them
INDEX = ".index.json"  # of a file that is cut into several
TENSORS = tuple(f"{file}{end}" for file in ("model.safetensors", "pytorch_model.bin") for end in ("", INDEX))  # as the hub has them


@contextlib.contextmanager
def refused(weights: str, advice: str) -> Iterator[None]:
    """Raises BadInput: for whatever any of half a dozen libraries raises in the body, in one line."""
    try:
        yield
    except BadInput:
        raise
    except Exception as error:
        plain = re.sub(r"\x1b\[[\d;]*m", "", str(error))  # torch's has a terminal's control codes
        raise BadInput(f"cannot load {weights} ({type(error).__name__}: {shorten(plain, 300)}): {advice}") from error


def folder_of(repository: str, cache: Path, files: Sequence[str], tensors: Sequence[str] = TENSORS) -> Path:
    """`repository`, where that is a folder; else OWNER/NAME of the hub: its `files`, and the first of `tensors` with all parts.

    Raises:
        ValueError: it is a file, or no name of the hub.
        Exception: the hub's, from a name that it does not know to no network.
    """
    if Path(repository).is_dir():
        return Path(repository)
    if Path(repository).exists():
        raise ValueError("it is a file")
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repository):
        raise ValueError("no such folder, and no name of the hub")
    from huggingface_hub import snapshot_download

    get = lambda *more: Path(snapshot_download(repository, cache_dir=cache, allow_patterns=[*files, *more]))
    for name in tensors:
        if (folder := get(name)).joinpath(name).exists():
            return get(name, *parts(folder / name)) if name.endswith(INDEX) else folder
    return get()


def parts(index: Path) -> list[str]:
    """The files that an index names."""
    return sorted({*json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})


def check_files(folder: Path, files: Sequence[str], tensors: Sequence[str] = TENSORS) -> None:
    """Raises ValueError: the folder lacks one of the files, or any of `tensors`."""
    missing = [name for name in files if not (folder / name).exists()]
    missing += ["weights"] * (len(tensors) > 0 and not any((folder / name).exists() for name in tensors))
    if missing:
        raise ValueError(f"it has no {', '.join(missing)}")


def read(weights: str | Path, cache: Path) -> dict[str, Tensor]:
    """The state dict of a file, a folder with one of TENSORS, OWNER/NAME of the hub, torchvision-NAME[.VERSION], or timm-NAME.

    Raises whatever its library does where it cannot be had, or is damaged; ValueError where there is none, or a part is missing.
    """
    path, (library, _, name) = Path(weights), str(weights).partition("-")
    if path.is_dir():
        check_files(path, ())
        path = next(path / name for name in TENSORS if (path / name).exists())
    if path.name.endswith(INDEX):
        check_files(path.parent, parts(path), ())
        state = {key: tensor for part in parts(path) for key, tensor in read(path.parent / part, cache).items()}
        if lost := json.loads(path.read_text(encoding="utf-8"))["weight_map"].keys() - state.keys():
            raise ValueError(f"{min(lost)} is in {path.name}, and in no part")
        return state
    if path.exists():
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        try:
            return unwrapped(torch.load(path, map_location="cpu", weights_only=True))
        except UnpicklingError as error:
            raise ValueError("it holds more than tensors, or is cut short: save the state dict alone, as .safetensors") from error
    if library == "torchvision":
        from torchvision.models import get_model_weights

        net, _, version = name.partition(".")
        url = get_model_weights(net)[version or "IMAGENET1K_V1"].url
        return torch.hub.load_state_dict_from_url(url, str(cache), map_location="cpu", check_hash=True)
    if library == "timm":
        import timm

        return timm.create_model(name, pretrained=True, cache_dir=cache).state_dict()
    return read(folder_of(str(weights), cache, ()), cache)


def unwrapped(loaded: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of a trainer's file, its names without the prefix of a wrapper where all have one.

    Raises:
        ValueError: it holds none, or several.
    """
    if not all(isinstance(value, Tensor) for value in loaded.values()):
        found = [key for key in WRAPPERS if isinstance(loaded.get(key), Mapping)]
        if len(found) != 1:
            raise ValueError(f"it holds {', '.join(map(str, loaded))}: save the state dict that is meant alone, as .safetensors")
        return unwrapped(loaded[found[0]])
    for prefix in ("module.", "_orig_mod.", "model."):
        if loaded and all(key.startswith(prefix) for key in loaded):
            return unwrapped({key.removeprefix(prefix): value for key, value in loaded.items()})
    return dict(loaded)


def filled(model: M, state: Mapping[str, Tensor], what: str) -> M:
    """The model with these weights, all of them and no others. Raises ValueError: in one line, what keeps it from being `what`."""
    own = model.state_dict()
    shapes = {name: (tuple(tensor.shape), tuple(own[name].shape)) for name, tensor in state.items() if name in own}
    wrong = [f"{name} is {theirs}, not {ours}" for name, (theirs, ours) in shapes.items() if theirs != ours]
    missing, unknown = ([], []) if wrong else model.load_state_dict(state, strict=False)
    wrong += [f"it has no {name}" for name in missing] + [f"{name} is no weight of its" for name in unknown]
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(f"not {what}: {'; '.join(wrong[:3])}{more}")
    return model


def fingerprint(net: nn.Module) -> str:
    """A sha256 of all weights and buffers, in fp32, on the CPU or elsewhere."""
    digest = hashlib.sha256()
    for tensor in net.state_dict().values():
        digest.update(tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()
