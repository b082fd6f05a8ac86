"""A run of this folder for other programs: `make export-vit RUN=runs/vit/finetune-imagenet-b16/seed0 FORMAT=timm`."""

from functools import partial
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from common.errors import BadInput
from papers.vit import pretrained
from papers.vit.keys import from_timm
from papers.vit.model import ViT

SHOWN = "images (n, 3, H, W) of the size that the net learned, pixels from -1 to 1"


def of_run(folder: Path) -> ViT:
    """Raises BadInput: it is no folder of a run on ImageNet, or on one's own folders there, or has no checkpoint."""
    return pretrained.of_run(folder).eval()


def inputs(net: ViT, n: int) -> dict[str, Tensor]:
    return {"images": 2 * torch.rand(n, 3, *net.image) - 1}


def theirs(net: ViT) -> nn.Module:
    """timm's net of the same sizes, with the same GELU. Raises BadInput: it has none."""
    if not isinstance(net.hidden, nn.Identity):
        raise BadInput("timm has no head with a hidden layer, which pre-training has: fine-tune first, or take safetensors or onnx")
    block = net.blocks[0]
    D, mlp = net.head.in_features, block.fc1.out_features
    return timm.models.VisionTransformer(
        net.image, net.P, 3, net.head.out_features, embed_dim=D, depth=len(net.blocks), num_heads=block.attention.k,
        mlp_ratio=mlp / D, act_layer=partial(nn.GELU, approximate=block.gelu.approximate),
        norm_layer=partial(nn.LayerNorm, eps=net.norm.eps),
    )  # fmt: skip


LIBRARIES = {"timm": (theirs, from_timm)}
