"""What a net is shown of an image: crops, flips, colours (Sec. 3.4, 4.2). Images are (height, width, RGB) here, in bytes."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from common.data.order import mix

if TYPE_CHECKING:
    from PIL.Image import Image

PAD = 4
BILINEAR, MIRROR = 2, 0  # PIL's numbers for them: importing it takes longer than --help


def windows(images: Tensor) -> Tensor:
    """All crops of each image padded with 4 pixels of zeros on each side: (..., H, W, 3) -> (..., 9, 9, 3, H, W), a view."""
    H, W = images.shape[-3:-1]
    padded = torch.nn.functional.pad(images, (0, 0, PAD, PAD, PAD, PAD))  # (..., H + 8, W + 8, 3)
    return padded.unfold(-3, H, 1).unfold(-3, W, 1)


def draw_crops(batch_size: int, seed: int, step: int) -> Tensor:
    """Where to crop each image of a global batch, and whether to flip it: (B, 3), int64, each of top, left, flip in turn."""
    generator = torch.Generator().manual_seed(mix(seed, "crops", step))
    uniform = torch.rand(batch_size, 3, generator=generator, dtype=torch.float32)
    return (uniform * torch.tensor([2 * PAD + 1, 2 * PAD + 1, 2])).long()


def crop(windows: Tensor, mean: Tensor, index: Tensor, draws: Tensor) -> Tensor:
    """Sec. 4.2: a random crop of some padded images or of their flips, less the per-pixel mean.

    Args:
        windows: (n, 9, 9, 3, H, W), uint8, from `windows`.
        mean: (9, 9, 3, H, W), the per-pixel mean, from `windows` too, so that the images' margins are zeros in the end.
        index: (B,), which images.
        draws: (B, 3), from `draw_crops`.

    Returns:
        (B, 3, H, W), in units of 255, its memory still channels last.
    """
    top, left, flip = draws.unbind(1)
    crops = (windows[index, top, left] - mean[top, left]) / 255
    return torch.where(flip.bool()[:, None, None, None], crops.flip(3), crops)


def normalised(images: Tensor, mean: Tensor, scale: Tensor | float = 255) -> Tensor:
    """Less the mean, in units of 255 or of `scale`: (B, H, W, 3) -> (B, 3, H, W), its memory still channels last."""
    return ((images - mean) / scale).permute(0, 3, 1, 2)


def made_up(n: int, seed: int, size: int = 32, classes: int = 10) -> tuple[Tensor, Tensor]:
    """Stand-in images for tests, a coarse pattern for each class under noise: (n, size, size, 3), uint8, and labels (n,)."""
    patterns = torch.rand(classes, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    patterns = torch.nn.functional.interpolate(patterns, size=(size, size)).permute(0, 2, 3, 1)
    generator = torch.Generator().manual_seed(mix("made up", seed))
    labels = torch.randint(classes, (n,), generator=generator)
    noise = torch.rand(n, size, size, 3, generator=generator)
    return (128 * patterns[labels] + 127 * noise).to(torch.uint8), labels


# ImageNet. Worker processes decode, resize and crop; the rest is done on the device, a batch at a time.

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's training images, in units of 255
EIGENVALUES = (0.2175, 0.0188, 0.0045)  # "the standard color augmentation in [21]", with the values of fb.resnet.torch
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))  # p1, p2, p3 as columns


def random_crop(image: "Image", sides: tuple[int, int], size: int, generator: torch.Generator) -> Tensor:
    """Sec. 3.4: "resized with its shorter side randomly sampled in [256, 480] [...] A 224x224 crop is randomly sampled from an
    image or its horizontal flip": (size, size, 3), uint8.

    Only what the crop shows is resized: the same pixels, but for those at its margins, in a third of the time.
    """
    side, left, top, flip = torch.rand(4, generator=generator, dtype=torch.float32).tolist()
    side = sides[0] + int(side * (sides[1] + 1 - sides[0]))
    width, height = image.size
    scale = side / min(width, height)
    left = int(left * (round(width * scale) - size + 1)) / scale
    top = int(top * (round(height * scale) - size + 1)) / scale
    box = (left, top, min(left + size / scale, width), min(top + size / scale, height))
    crop = image.resize((size, size), BILINEAR, box=box)
    return pixels(crop.transpose(MIRROR) if flip < 0.5 else crop)


def resize(image: "Image", side: int) -> "Image":
    """With its shorter side so long."""
    from torchvision.transforms import functional

    return functional.resize(image, side)


def centre(image: "Image", size: int) -> Tensor:
    """1-crop testing: the middle of the image, whose shorter side is made 8/7 size, 256 for 224: (size, size, 3), uint8."""
    from torchvision.transforms import functional

    return pixels(functional.center_crop(resize(image, round(size * 8 / 7)), size))


def ten_crops(image: "Image", size: int) -> Tensor:
    """Four corners, the centre, and their flips, "the standard 10-crop testing [21]": (10, size, size, 3), uint8."""
    from torchvision.transforms import functional

    crops = torch.stack([pixels(crop) for crop in functional.five_crop(resize(image, round(size * 8 / 7)), size)])
    return torch.cat([crops, crops.flip(2)])


def pixels(image: "Image") -> Tensor:
    return torch.from_numpy(np.array(image))


def draw_colours(batch_size: int, std: float, seed: int, step: int) -> Tensor:
    """What to add to the colours of each image of a global batch: [p1, p2, p3] [a1 l1, a2 l2, a3 l3]^T, a ~ N(0, std): (B, 3)."""
    generator = torch.Generator().manual_seed(mix(seed, "colours", step))
    alpha = std * torch.randn(batch_size, 3, generator=generator)
    return (alpha * torch.tensor(EIGENVALUES)) @ torch.tensor(EIGENVECTORS).T
