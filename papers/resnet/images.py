"""What training shows of an image: crops, flips, colours (Sec. 3.4, 4.2)."""

import torch
from torch import Tensor

from common.data import mix

PAD = 4


def pad(images: Tensor) -> Tensor:
    """4 pixels of zeros on each side: (..., H, W, 3) -> (..., H + 8, W + 8, 3)."""
    return torch.nn.functional.pad(images, (0, 0, PAD, PAD, PAD, PAD))


def draw_crops(batch_size: int, seed: int, step: int) -> Tensor:
    """Where to crop each image of a global batch, and whether to flip it: (B, 3), int64, each of top, left, flip in turn."""
    generator = torch.Generator().manual_seed(mix(seed, "crops", step))
    return (torch.rand(batch_size, 3, generator=generator) * torch.tensor([2 * PAD + 1, 2 * PAD + 1, 2])).long()


def crop(padded: Tensor, mean: Tensor, draws: Tensor) -> Tensor:
    """Sec. 4.2: a random crop of each padded image or of its flip, less the per-pixel mean.

    Args:
        padded: (B, H + 8, W + 8, 3), uint8.
        mean: (H + 8, W + 8, 3): the per-pixel mean, padded as the images are, so that their margins are zeros in the end too.
        draws: (B, 3), from `draw_crops`.

    Returns:
        (B, 3, H, W), float32, channels last in memory, in units of 255.
    """
    B, H, W = len(padded), padded.shape[1] - 2 * PAD, padded.shape[2] - 2 * PAD
    top, left, flip = draws[:, :, None].unbind(1)  # (B, 1)
    rows = top + torch.arange(H, device=padded.device)  # (B, H)
    columns = torch.arange(W, device=padded.device)  # (W,)
    columns = left + torch.where(flip.bool(), columns.flip(0), columns)  # (B, W)
    at = rows[:, :, None], columns[:, None, :]
    one_each = torch.arange(B, device=padded.device)[:, None, None]
    return normalised(padded[(one_each, *at)], mean[at])


def normalised(images: Tensor, mean: Tensor) -> Tensor:
    """(B, H, W, 3), uint8 -> (B, 3, H, W), float32, channels last in memory: less the mean, in units of 255."""
    return ((images - mean) / 255).permute(0, 3, 1, 2)


def made_up(n: int, seed: int, size: int = 32, classes: int = 10) -> tuple[Tensor, Tensor]:
    """Stand-in images for tests, a coarse pattern for each class under noise: (n, size, size, 3), uint8, and labels (n,)."""
    patterns = torch.rand(classes, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    patterns = torch.nn.functional.interpolate(patterns, size=(size, size)).permute(0, 2, 3, 1)
    generator = torch.Generator().manual_seed(mix("made up", seed))
    labels = torch.randint(classes, (n,), generator=generator)
    noise = torch.rand(n, size, size, 3, generator=generator)
    return (128 * patterns[labels] + 127 * noise).to(torch.uint8), labels
