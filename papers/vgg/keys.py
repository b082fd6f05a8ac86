"""Names of torchvision's, timm's and the authors' weights -> ours: `model.load_state_dict(from_torchvision(weights))`.

Of torch and the standard library alone: copied beside model.py it works anywhere. This file: MIT licence.
"""

import re
from collections.abc import Mapping

from torch import Tensor

PARTS = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
HEADS = {"classifier.0": "fc6", "classifier.3": "fc7", "classifier.6": "fc8"}
HEADS |= {"pre_logits.fc1": "fc6", "pre_logits.fc2": "fc7", "head.fc": "fc8"}  # timm's


def _converted(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """features.N, numbered with their ReLUs and poolings, are named by block and place; what timm has as convolutions is flat."""
    numbers = sorted({int(match[1]) for key in weights if (match := re.match(r"features\.(\d+)\.", key))})
    names, block, place, before = {}, 1, 0, -1
    for number in numbers:
        if (weight := weights.get(f"features.{number}.weight")) is None:
            continue  # of another net, which is refused below
        if weight.ndim == 1:  # a batch norm, after its convolution
            names[f"features.{number}"] = f"features.bn{block}_{place}"
        else:
            gap = number - before - 1  # ReLU, and a pooling where a block ends
            block, place = (block + 1, 1) if gap == 2 else (block, place + 1)
            names[f"features.{number}"] = f"features.conv{block}_{place}"
        before = number
    names |= HEADS

    state = {}
    for key, tensor in weights.items():
        layer, _, part = key.rpartition(".")
        if layer not in names or part not in PARTS:
            raise ValueError(f"not a state dict of vgg11, 13, 16 or 19: {key} is no weight of its")
        state[f"{names[layer]}.{part}"] = tensor
    if any(not tensor.isfinite().all() for key, tensor in state.items() if key.startswith("fc")):
        raise ValueError("its classifier has no numbers: IMAGENET1K_FEATURES are features alone; take IMAGENET1K_V1")
    return {key: tensor.flatten(1) if key.startswith("fc") and tensor.ndim == 4 else tensor for key, tensor in state.items()}


def from_torchvision(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of torchvision.models.vgg11, 13, 16, 19 or of their _bn -> state dict of our VGG.

    Raises:
        ValueError: there is a key that such a net does not have, or a classifier of NaN (IMAGENET1K_FEATURES).
    """
    return _converted(weights)


def from_timm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of timm's vgg11, 13, 16, 19 or of their _bn, whose head is convolutional -> state dict of our VGG.

    Raises:
        ValueError: there is a key that such a net does not have.
    """
    return _converted(weights)


def from_onnx(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Initializers of the zoo's vgg19-caffe2, by name -> state dict of our VGG, which is shown RGB where theirs is shown BGR.

    Raises:
        ValueError: there is one that the authors' nets do not have.
    """
    state = {}
    for key, tensor in weights.items():
        if match := re.fullmatch(r"(conv[1-5]_[1-4]|fc[678])_([wb])(_0)?", key):
            name = ("" if key.startswith("fc") else "features.") + f"{match[1]}.{ {'w': 'weight', 'b': 'bias'}[match[2]] }"
            state[name] = tensor.flip(1) if name == "features.conv1_1.weight" else tensor
        elif tensor.is_floating_point():
            raise ValueError(f"not a state dict of the authors' VGG: {key} is no weight of its")
    return state
