"""How a net is tested, and how images are shown to it then."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from common.data.images import BICUBIC, BILINEAR, CENTRE, normalised, pixels, resize, views
from common.run import Run

if TYPE_CHECKING:
    from PIL.Image import Image


class Tests(NamedTuple):
    """Images that a net is tested on."""

    n: int
    accuracies: tuple[str, ...]  # names: of the likeliest answer, and of the five likeliest where these count
    batches: Callable[[], Iterator[tuple[Tensor, Tensor]]]  # this process's: images (b, 3, H, W), labels (b,)


def evaluate(run: Run, model: nn.Module, tests: Tests, name: str = "") -> dict[str, float]:
    """Accuracies over the test images in %: of the answer, and of the five likeliest ones."""
    hits = []
    with run.evaluating(model) as net:
        for images, labels in tests.batches():
            logits = net(images)  # (b, classes)
            hits.append(logits.topk(min(5, logits.shape[1])).indices == labels[:, None])  # (b, 5)
    hits = run.gather(torch.cat(hits), tests.n)
    right = (100 * each.double().mean().item() for each in (hits[:, 0], hits.any(1)))
    return {name + accuracy: each for accuracy, each in zip(tests.accuracies, right, strict=False)}


class Look(NamedTuple):
    """What a net is shown of a test image."""

    side: int  # pixels, of a square
    resize: int = 0  # shorter side, of which the centre is cut out; 0: the whole image, squeezed into the square
    bicubic: bool = False
    mean: Sequence[float] = (0.5,) * 3  # of pixels, in units of 255: the official code's are from -1 to 1
    std: Sequence[float] = (0.5,) * 3

    def view(self, image: "Image") -> Tensor:
        """(side, side, 3), uint8."""
        how = BICUBIC if self.bicubic else BILINEAR
        if not self.resize:
            return pixels(image.resize((self.side, self.side), how))
        return views(resize(image, self.resize, how), self.side, CENTRE)[0]

    def scaled(self, images: Tensor) -> Tensor:
        """Pixels (b, H, W, 3) -> (b, 3, H, W) in the default type, which the net sees."""
        make = lambda values: 255 * torch.tensor(values, device=images.device, dtype=torch.get_default_dtype())
        return normalised(images, make(self.mean), make(self.std))


def validation(run: Run, data: Any, look: Look) -> Tests:
    """A set of photographs (`image(index)`, `labels`), read by worker processes."""
    n = len(data.labels)
    reader = run.reader(lambda index, generator: (look.view(data.image(index)), data.labels[index]))

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in run.examples(reader, n, 100):
            yield look.scaled(images), labels

    return Tests(n, ("top1_accuracy", "top5_accuracy"), batches)
