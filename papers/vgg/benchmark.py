"""Speeds of VGG-16 and of training on CIFAR-10 against the usual way to write it.

    make benchmark-vgg      # alternating blocks in one process; some minutes

The same nets, batch sizes and images each time, on a GPU where there is one. "Usual" is as kuangliu's script: a torchvision data
set of PIL images, its transforms in DataLoader workers, an eager net in PyTorch's default memory layout, in fp32.
"""

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.benchmark import compare
from common.data import standin, workers
from common.data.images import crop, draw_crops, windows
from common.data.order import permuted
from papers.vgg.data import PAD
from papers.vgg.model import VGG, WIDTHS, vgg16

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
GPU = DEVICE.type == "cuda"


def training(net: nn.Module, batches: Iterator[tuple[Tensor, Tensor]], updates: int, ours: bool, bf16: bool) -> Callable[[], None]:
    """A block of updates."""
    net = net.to(DEVICE, memory_format=torch.channels_last if ours else torch.contiguous_format)
    optimizer = torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9, weight_decay=5e-4, fused=ours)

    def block() -> None:
        for images, labels in itertools.islice(batches, updates):
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
                logits = net(images)
            F.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    return block


def usual_batches(images: Tensor, labels: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """As in most scripts: an endless stream of batches from DataLoader workers."""
    from PIL import Image
    from torchvision import transforms

    transform = transforms.Compose([transforms.RandomCrop(32, 4), transforms.RandomHorizontalFlip(), transforms.ToTensor()])

    class Images(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, i: int) -> tuple[Tensor, int]:
            return transform(Image.fromarray(images[i].numpy())), labels[i]

    loader = torch.utils.data.DataLoader(
        Images(), size, shuffle=True, num_workers=workers.count(), persistent_workers=True, pin_memory=GPU, drop_last=True
    )
    while True:
        for x, y in loader:
            yield x.to(DEVICE, non_blocking=True), y.to(DEVICE, non_blocking=True)


def our_batches(images: Tensor, labels: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """As in train.py."""
    crops, labels = windows(images.to(DEVICE), PAD), labels.to(DEVICE)
    means = windows(images.double().mean((0, 1, 2)).float().to(DEVICE).expand(32, 32, 3), PAD)
    for step in itertools.count():
        index = permuted(len(images), 0, step * size, (step + 1) * size).to(DEVICE, non_blocking=True)
        yield crop(crops, means, index, draw_crops(size, 2 * PAD + 1, 0, step).to(DEVICE, non_blocking=True)), labels[index]


def cifar(n: int, size: int = 128) -> None:
    images, labels = standin.images(50_000, 0)
    net = lambda: VGG("D", widths=tuple(w // 2 for w in WIDTHS), units=512, side=1, classes=10, start="glorot")
    print(f"CIFAR-10, training D with half the maps in batches of {size}")
    variants = {
        "usual: DataLoader, PIL, eager, fp32": training(net(), usual_batches(images, labels, size), n, False, False),
        "train.py in fp32: on the device, channels last": training(net(), our_batches(images, labels, size), n, True, False),
        "train.py: the same in bf16": training(net(), our_batches(images, labels, size), n, True, True),
    }
    compare(variants, n * size, "images", blocks=5)


def one_batch(size: int, last: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """The same random batch for ever."""
    images = torch.randn(size, 3, 224, 224, device=DEVICE)
    images = images.to(memory_format=torch.channels_last) if last else images
    return itertools.repeat((images, torch.randint(1000, (size,), device=DEVICE)))


def networks(size: int, n: int) -> None:
    import torchvision

    print(f"\nVGG-16, updates with one batch of {size}")
    theirs = lambda: torchvision.models.vgg16(init_weights=False)
    variants = {
        "torchvision's, usual form: fp32": training(theirs(), one_batch(size, False), n, False, False),
        "torchvision's, channels last, bf16": training(theirs(), one_batch(size, True), n, True, True),
        "model.py, channels last, fp32": training(vgg16(start="glorot"), one_batch(size, True), n, True, False),
        "model.py, channels last, bf16 (train.py)": training(vgg16(start="glorot"), one_batch(size, True), n, True, True),
    }
    compare(variants, n * size, "images", blocks=3)


def main() -> None:
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    cifar(200 if GPU else 5)
    networks(*(256, 20) if GPU else (4, 1))


if __name__ == "__main__":
    main()
