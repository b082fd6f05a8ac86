"""Names of torchvision's and timm's weights -> ours: `model.load_state_dict(from_torchvision(weights))`.

Of torch and the standard library alone: copied beside model.py it works anywhere. This file: MIT licence.
"""

import re
from collections.abc import Mapping

from torch import Tensor

KEY = re.compile(
    r"((conv1|bn1|fc)|layer[1-4]\.\d+\.(conv[123]|bn[123]|downsample\.[01]))"
    r"\.(weight|bias|running_mean|running_var|num_batches_tracked)"
)


def _converted(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """layer1..layer4 are conv2_x..conv5_x of Table 1, a downsample is a shortcut; the other names are the same."""

    def name(key: str) -> str:
        if not KEY.fullmatch(key):
            raise ValueError(f"not a state dict of resnet18, 34, 50, 101 or 152: {key} is no weight of its")
        return re.sub(r"^layer(\d)", lambda stage: f"conv{int(stage[1]) + 1}_x", key).replace("downsample", "shortcut")

    return {name(key): tensor for key, tensor in weights.items()}


# Two functions, as in all papers, because there are two libraries: a user names the one that a file is from, and either may
# rename its layers. Today they use the same names.


def from_torchvision(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of torchvision.models.resnet18, 34, 50, 101 or 152 -> state dict of our ResNet.

    Raises:
        ValueError: there is a key that such a net does not have.
    """
    return _converted(weights)


def from_timm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of timm's resnet18, 34, 50, 101 or 152, not of its variants (resnet50d, ...) -> state dict of our ResNet.

    Raises:
        ValueError: there is a key that such a net does not have.
    """
    return _converted(weights)
