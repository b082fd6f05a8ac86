"""What a net is shown of an image: crops, flips, colours, in pure functions. An image is (height, width, RGB) in bytes.

A set that fits on the device is cropped there, a batch at a time: `windows`, `draw_crops`, `crop`. Of a larger one worker processes
decode, resize and crop the images (PIL's), each with its own generator; colours and the mean are taken on the device.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from common.data.order import mix

if TYPE_CHECKING:
    from PIL.Image import Image

BILINEAR, BICUBIC, MIRROR = 2, 3, 0  # PIL's numbers for them: importing it takes longer than --help


def windows(images: Tensor, pad: int = 0, size: int | None = None) -> Tensor:
    """All crops of each image padded with zeros: (..., H, W, 3) -> (..., places, places, 3, size, size), a view."""
    H, W = (size, size) if size else images.shape[-3:-1]
    return torch.nn.functional.pad(images, (0, 0, pad, pad, pad, pad)).unfold(-3, H, 1).unfold(-3, W, 1)


def draw_crops(batch_size: int, places: int, seed: int, step: int) -> Tensor:
    """Where to crop each image of a global batch, and whether to flip it: (B, 3), int64, each of top, left, flip in turn."""
    generator = torch.Generator().manual_seed(mix(seed, "crops", step))
    uniform = torch.rand(batch_size, 3, generator=generator, dtype=torch.float32)
    return (uniform * torch.tensor([places, places, 2])).long()


def crop(windows: Tensor, mean: Tensor, index: Tensor, draws: Tensor, scale: float = 255) -> Tensor:
    """Crops of some images or of their flips, less the mean, in units of `scale`: (B, 3, H, W), their memory still channels last.

    windows, mean: of the images and of the mean image by `windows`, so that margins are zeros in the end; draws: from `draw_crops`.
    """
    top, left, flip = draws.unbind(1)
    crops = (windows[index, top, left] - mean[top, left]) / scale
    return torch.where(flip.bool()[:, None, None, None], crops.flip(3), crops)


def normalised(images: Tensor, mean: Tensor | float, scale: Tensor | float = 255) -> Tensor:
    """Less the mean, in units of 255 or of `scale`: (B, H, W, 3) -> (B, 3, H, W), its memory still channels last."""
    return ((images - mean) / scale).permute(0, 3, 1, 2)


# AlexNet's random colours (Sec. 4.1): "we perform PCA on the set of RGB pixel values throughout the [...] training set".

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's training images, in units of 255
EIGENVALUES = (0.2175, 0.0188, 0.0045)  # of fb.resnet.torch, and of most who name none: square roots, apparently
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))  # p1, p2, p3 as columns


def draw_colours(batch_size: int, std: float, values: Tensor, vectors: Tensor, seed: int, step: int) -> Tensor:
    """What to add to the colours of each image of a global batch: [p1, p2, p3] [a1 l1, a2 l2, a3 l3]^T, a ~ N(0, std): (B, 3)."""
    generator = torch.Generator().manual_seed(mix(seed, "colours", step))
    return (std * torch.randn(batch_size, 3, generator=generator) * values) @ vectors.T


def random_crop(image: "Image", sides: tuple[int, int], size: int, generator: torch.Generator) -> Tensor:
    """A random square or its flip, after the shorter side was resized at random within `sides`: (size, size, 3), uint8.

    Only what the crop shows is resized: the same pixels, but for those at its margins, in a third of the time.
    """
    side, left, top, flip = torch.rand(4, generator=generator, dtype=torch.float32).tolist()
    side = sides[0] + int(side * (sides[1] + 1 - sides[0]))
    width, height = image.size
    scale = side / min(width, height)
    left = int(left * (round(width * scale) - size + 1)) / scale
    top = int(top * (round(height * scale) - size + 1)) / scale
    box = (left, top, min(left + size / scale, width), min(top + size / scale, height))
    return shown(image, box, size, flip < 0.5)


def area_crop(image: "Image", area: tuple[float, float], size: int, generator: torch.Generator) -> Tensor:
    """Inception's crop as torchvision draws it, or its flip: a share of the image within `area`, its sides as 3:4 to 4:3."""
    from torchvision.transforms import RandomResizedCrop

    with torch.random.fork_rng([]):  # that is where it draws from
        torch.default_generator.manual_seed(int(torch.randint(1 << 62, (), generator=generator)))
        top, left, h, w = RandomResizedCrop.get_params(image, list(area), [3 / 4, 4 / 3])
        return shown(image, (left, top, left + w, top + h), size, bool(torch.rand(()) < 0.5))


def shown(image: "Image", box: tuple[float, float, float, float], size: int, flip: bool) -> Tensor:
    """What is in the box, resized: (size, size, 3)."""
    crop = image.resize((size, size), BILINEAR, box=box)
    return pixels(crop.transpose(MIRROR) if flip else crop)


def resize(image: "Image", side: int, how: int = BILINEAR) -> "Image":
    """With its shorter side so long."""
    (width, height), short = image.size, min(image.size)
    return image.resize((int(side * width / short), int(side * height / short)), how)


CENTRE = ((0.5, 0.5),)
FIVE = ((0, 0), (0, 1), (1, 0), (1, 1), *CENTRE)  # four corners and the centre


def views(image: "Image", size: int, places: Iterable[tuple[float, float]]) -> Tensor:
    """Squares at these places, (0, 0) top and left, (1, 1) bottom and right; then their flips: (2 n, size, size, 3), uint8."""
    whole, crops = pixels(image), []
    for place in places:
        top, left = (round(share * (length - size)) for share, length in zip(place, whole.shape, strict=False))
        crops.append(whole[top : top + size, left : left + size])
    return torch.stack([*crops, *(crop.flip(1) for crop in crops)])


def pixels(image: "Image") -> Tensor:
    return torch.from_numpy(np.array(image))
