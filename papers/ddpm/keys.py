"""Names and layouts of the weights of diffusers and of PyTorch ports of the authors' checkpoint -> ours.

Of torch and the standard library alone: copied beside model.py it works anywhere. This file: MIT licence.
"""

import re
from collections.abc import Mapping

from torch import Tensor

OF = "a U-Net of DDPM"
DIFFUSERS = {  # part of a name -> ours; older files have other names for the parts of attention
    r"time_embedding\.linear_1": "temb.0", r"time_embedding\.linear_2": "temb.2", r"conv_norm_out": "norm_out",
    r"down_blocks\.(\d+)": r"down.\1", r"up_blocks\.(\d+)": r"up.\1", r"mid_block": "mid",
    r"resnets\.(\d+)": r"block.\1", r"attentions\.(\d+)": r"attn.\1", r"(?:down|up)samplers\.0\.conv": "way",
    r"time_emb_proj": "temb_proj", r"conv_shortcut": "nin_shortcut", r"group_norm": "norm", r"(?:to_q|query)": "q",
    r"(?:to_k|key)": "k", r"(?:to_v|value)": "v", r"(?:to_out\.0|proj_attn)": "proj_out",
}  # fmt: skip
OURS = re.compile(
    r"(temb\.[02]|conv_in|norm_out|conv_out|(down|up)\.\d+\.way"
    r"|(down\.\d+|up\.\d+|mid)\.(block\.\d+\.(norm1|conv1|temb_proj|norm2|conv2|nin_shortcut)|attn\.\d+\.(norm|q|k|v|proj_out)))"
    r"\.(weight|bias)"
)


def from_diffusers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of diffusers' UNet2DModel, as google/ddpm-cifar10-32 has it -> state dict of our UNet.

    Raises:
        ValueError: there is a key that such a net does not have.
    """
    state = {}
    for theirs, tensor in weights.items():
        key = theirs
        for part, ours in DIFFUSERS.items():
            key = re.sub(rf"(?<![\w]){part}(?=\.)", ours, key)
        if not OURS.fullmatch(key):
            raise ValueError(f"not a state dict of {OF} in diffusers: {theirs} is no weight of its")
        state[key] = tensor
    return state


def from_authors(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of a PyTorch port of the authors' checkpoint, by its own names (pesser/pytorch_diffusion's) -> of our UNet.

    Its attention is of convolutions of 1 x 1, ours of linear layers.

    Raises:
        ValueError: there is a key that such a net does not have.
    """
    levels = 1 + max((int(found[1]) for key in weights if (found := re.match(r"down\.(\d+)\.", key))), default=0)
    state = {}
    for theirs, w in weights.items():
        key = re.sub(r"^temb\.dense\.([01])", lambda layer: f"temb.{2 * int(layer[1])}", theirs)
        key = re.sub(r"^mid\.(block|attn)_(\d)", lambda part: f"mid.{part[1]}.{int(part[2]) - 1}", key)
        key = re.sub(r"^up\.(\d+)", lambda level: f"up.{levels - 1 - int(level[1])}", key)  # ours: as the forward pass has them
        key = re.sub(r"\.(down|up)sample\.conv\.", ".way.", key)
        if not OURS.fullmatch(key):
            raise ValueError(f"not a state dict of {OF} as the authors have it: {theirs} is no weight of its")
        state[key] = w[:, :, 0, 0] if ".attn." in key and w.ndim == 4 else w
    return state
