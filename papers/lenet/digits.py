"""The digits as LeNet-5 sees them: the input field (Sec. II.B), the distorted copies (Sec. III.B), digits made up for tests."""

import torch
from torch import Tensor
from torch.nn import functional as F

from common.data import standin
from common.data.mnist import MNIST

WHITE, BLACK = -0.1, 1.175  # levels of background and foreground, "which makes the mean input roughly 0" (Sec. II.B)

# How far a random distortion may go. The paper names the kinds (Sec. III.B) and gives no figures: these are ours.
TRANSLATION = 2.0  # pixels, horizontally and vertically
SCALING = 1.15  # between 1 / 1.15 and 1.15
SQUEEZING = 1.15  # as much wider as lower, or the reverse
SHEARING = 0.3  # pixels to the side for each pixel of height, in the original


def field(images: Tensor) -> Tensor:
    """Grey levels 0 to 255 in the input field of the network: (B, 28, 28), uint8 -> (B, 1, 32, 32)."""
    ink = F.pad(images[:, None].to(torch.get_default_dtype()) / 255, (2, 2, 2, 2))
    return WHITE + (BLACK - WHITE) * ink


def random_distortions(n: int, strength: float, generator: torch.Generator) -> Tensor:
    """Affine maps from the distorted image to the original, in units of half the field: (n, 2, 3).

    strength: 1 for the ranges above, 2 for twice as far.
    """
    right, down, scale, squeeze, shear = strength * (2 * torch.rand(5, n, generator=generator) - 1)
    scale, squeeze = SCALING**scale, SQUEEZING**squeeze
    right, down = TRANSLATION / 16 * right, TRANSLATION / 16 * down
    row = [scale * squeeze, SHEARING * shear, right], [torch.zeros(n), scale / squeeze, down]
    return torch.stack([torch.stack(r, 1) for r in row], 1)


def distort(fields: Tensor, maps: Tensor) -> Tensor:
    """Each image under its affine map, white beyond its edges: (B, 1, 32, 32), (B, 2, 3) -> (B, 1, 32, 32)."""
    grid = F.affine_grid(maps.to(fields), list(fields.shape), align_corners=False)
    return WHITE + F.grid_sample(fields - WHITE, grid, align_corners=False)


def deslanted(ink: Tensor) -> Tensor:
    """Each digit sheared so that its axis is upright, in the middle 20x20 pixels (Sec. III.C.1): (B, 28, 28) -> (B, 20, 20)."""
    y, x = torch.meshgrid(*[torch.arange(28.0) - 13.5] * 2, indexing="ij")
    mass = ink.sum((1, 2)).clamp(min=1e-6)
    mean = lambda value: (ink * value).sum((1, 2)) / mass
    slope = (mean(x * y) - mean(x) * mean(y)) / (mean(y * y) - mean(y) ** 2).clamp(min=1e-6)  # of x against y
    ones, zeros = torch.ones_like(slope), torch.zeros_like(slope)
    maps = torch.stack([torch.stack([ones, slope, -slope * mean(y) / 14], 1), torch.stack([zeros, ones, zeros], 1)], 1)
    grid = F.affine_grid(maps, [len(ink), 1, 28, 28], align_corners=False)
    return F.grid_sample(ink[:, None], grid, align_corners=False)[:, 0, 4:24, 4:24]


def made_up(train: int, test: int) -> MNIST:
    """Stand-in digits for the smoke experiment."""
    images, labels = standin.images(train + test, 0, size=28)
    grey = images[..., 0]
    return MNIST(grey[:train], labels[:train], grey[train:], labels[train:], sha256="")
