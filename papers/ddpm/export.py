"""A run of this folder for other programs: `make export-ddpm RUN=runs/ddpm/cifar10/seed0 FORMAT=diffusers`."""

from pathlib import Path

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from papers.ddpm import sample
from papers.ddpm.keys import from_diffusers
from papers.ddpm.model import UNet

SHOWN = "x_t (n, C, H, W), of images from -1 to 1, and t (n,) from 0 on; outputs are epsilon, or what else the run predicts"


def of_run(folder: Path) -> UNet:
    """Its averaged weights, of several objectives the first. Raises BadInput: it is no folder of such a run, or has none."""
    _, net, net.shape = sample.of_run(folder, "")
    return net.eval()


def inputs(net: UNet, n: int) -> dict[str, Tensor]:
    return {"x": torch.randn(n, *net.shape), "t": torch.randint(1000, (n,))}


def theirs(net: UNet) -> nn.Module:
    """diffusers' network of the same sizes, as google/ddpm-cifar10-32 configures it."""
    attn = ["Attn" * (not isinstance(level.attn[0], nn.Identity)) for level in net.down]
    return UNet2DModel(
        sample_size=net.shape[1], in_channels=net.shape[0], out_channels=net.conv_out.out_channels,
        block_out_channels=[level.block[0].conv1.out_channels for level in net.down], layers_per_block=len(net.down[0].block),
        down_block_types=[f"{each}DownBlock2D" for each in attn], up_block_types=[f"{each}UpBlock2D" for each in attn[::-1]],
        downsample_padding=0, flip_sin_to_cos=False, freq_shift=1, norm_eps=net.norm_out.eps, attention_head_dim=None,
        norm_num_groups=net.norm_out.num_groups, dropout=net.mid.block[0].dropout.p,
    )  # fmt: skip


LIBRARIES = {"diffusers": (theirs, from_diffusers, lambda net, x, t: net(x, t).sample)}
