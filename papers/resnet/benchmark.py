"""Speeds of training on CIFAR-10 and ImageNet against the usual way to write it.

    make benchmark-resnet      # alternating blocks in one process; some minutes

The same network, batch size and precision each time, on a GPU where there is one. "Usual" is a torchvision data set of PIL images,
its transforms in DataLoader workers, an eager network in PyTorch's default memory layout.
"""

import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.benchmark import compare
from common.data import imagenet, standin, workers
from common.data.images import crop, draw_crops, random_crop, windows
from common.data.order import permuted
from papers.resnet.data import PAD
from papers.resnet.model import CifarResNet, resnet50

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
GPU = DEVICE.type == "cuda"


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
    mean = windows(images.double().mean(0).float().to(DEVICE), PAD)
    for step in itertools.count():
        index = permuted(len(images), 0, step * size, (step + 1) * size).to(DEVICE, non_blocking=True)
        yield crop(crops, mean, index, draw_crops(size, 2 * PAD + 1, 0, step).to(DEVICE, non_blocking=True)), labels[index]


def training(model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]], updates: int, ours: bool) -> Callable[[], None]:
    """A block of updates, in bf16."""
    model = model.to(DEVICE, memory_format=torch.channels_last if ours else torch.contiguous_format)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4, fused=ours)
    net = torch.compile(model) if ours else model

    def block() -> None:
        for images, labels in itertools.islice(batches, updates):
            with torch.autocast(DEVICE.type, torch.bfloat16):
                loss = F.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return block


def take(batches: Iterator[tuple[Tensor, Tensor]], n: int) -> Callable[[], None]:
    return lambda: [None for _ in itertools.islice(batches, n)]


def cifar(n: int) -> None:
    images, labels = standin.images(50_000, 0)
    B, both = 128, {"usual: DataLoader, PIL, torchvision": usual_batches, "train.py: on the device, in batch": our_batches}
    print(f"CIFAR-10, batches of {B} alone")
    compare({name: take(batches(images, labels, B), 10 * n) for name, batches in both.items()}, 10 * n * B, "images")
    print("\nCIFAR-10, training ResNet-20 in bf16")
    variants = {name: training(CifarResNet(20), make(images, labels, B), n, make is our_batches) for name, make in both.items()}
    compare(variants, n * B, "images")


def one_batch(size: int, ours: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """The same random batch for ever."""
    images = torch.randn(size, 3, 224, 224, device=DEVICE)
    images = images.to(memory_format=torch.channels_last) if ours else images
    return itertools.repeat((images, torch.randint(1000, (size,), device=DEVICE)))


def networks(size: int, n: int) -> None:
    import torchvision

    print(f"\nResNet-50 (stride in the 3x3, as torchvision's), updates in bf16 with one batch of {size}")
    variants = {
        "torchvision's": training(torchvision.models.resnet50(), one_batch(size, False), n, False),
        "torchvision's, channels last and compiled": training(torchvision.models.resnet50(), one_batch(size, True), n, True),
        "model.py": training(resnet50(stride_in_3x3=True), one_batch(size, False), n, False),
        "model.py, channels last and compiled (train.py)": training(resnet50(stride_in_3x3=True), one_batch(size, True), n, True),
    }
    compare(variants, n * size, "images", blocks=5)


def decoding(n: int) -> None:
    """Photographs of ImageNet's usual size, read by one worker process."""
    from PIL import Image
    from torchvision import transforms
    from torchvision.transforms import functional

    usual = transforms.Compose([transforms.RandomCrop(224), transforms.RandomHorizontalFlip(), transforms.PILToTensor()])
    with tempfile.TemporaryDirectory() as folder:
        for split in ("train", "val"):
            Path(folder, split, "noise").mkdir(parents=True)
        for i, image in enumerate(standin.images(64, 0, size=512)[0]):
            Image.fromarray(image.numpy()[:375, :500]).resize((500, 375)).save(
                Path(folder, "train", "noise", f"{i}.JPEG"), quality=90
            )
        Image.new("RGB", (500, 375)).save(Path(folder, "val", "noise", "0.JPEG"))
        data = imagenet.load(Path(folder), "train")
        samples = {
            "usual: resize, crop, flip": lambda index, generator: (
                usual(functional.resize(data.image(index), int(torch.randint(256, 481, (), generator=generator)))),
            ),
            "images.py: only the crop is resized": lambda index, generator: (
                random_crop(data.image(index), (256, 480), 224, generator),
            ),
        }  # fmt: skip
        batches = [[(i % len(data), i) for i in range(at, at + 32)] for at in range(0, n, 32)]
        print("\nImageNet, JPEG files of 500 x 375 to crops of 224 x 224, one worker process")
        readers = {name: workers.Reader(sample, workers=1) for name, sample in samples.items()}
        blocks = {name: (lambda reader=reader: list(reader.read(batches))) for name, reader in readers.items()}
        compare(blocks, n, "images", blocks=5)


def main() -> None:
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    cifar(200 if GPU else 20)
    networks(*(256, 20) if GPU else (16, 2))
    decoding(256)


if __name__ == "__main__":
    main()
