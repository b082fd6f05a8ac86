"""Names of the weights of BVLC's AlexNet, in the ONNX model zoo's file -> ours.

Of torch and the standard library alone: copied beside model.py it works anywhere. This file: MIT licence.
"""

import re
from collections.abc import Mapping

from torch import Tensor

KEY = re.compile(r"(conv[1-5]|fc[678])_([wb])(_0)?")
TORCHVISIONS = (
    "torchvision's AlexNet is the one of \"One weird trick\" (2014), not the paper's: no towers, no norms, 64, 192, 384, 256 and "
    "256 kernels, other padding and dropout; take bvlcalexnet-12 of the ONNX model zoo"
)


def from_onnx(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Initializers of the zoo's bvlcalexnet, by name -> state dict of our AlexNet, which is shown RGB where theirs is shown BGR.

    Raises:
        ValueError: there is one that such a net does not have.
    """
    names = {"w": "weight", "b": "bias"}
    state = {}
    for key, tensor in weights.items():
        if match := KEY.fullmatch(key):
            name = f"{match[1]}.{names[match[2]]}"
            state[name] = tensor.flip(1) if name == "conv1.weight" else tensor
        elif tensor.is_floating_point():
            raise ValueError(f"not a state dict of BVLC's AlexNet: {key} is no weight of its")
    return state


def from_torchvision(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Raises ValueError: always, for it is another network."""
    raise ValueError(TORCHVISIONS)
