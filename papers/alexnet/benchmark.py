"""Speeds of training on CIFAR-10, of response normalisation and of unshared layers, against the usual ways to write them.

    make benchmark-alexnet      # alternating blocks in one process; some minutes

The same network, batch size and number of threads each time, on a GPU where there is one. "Usual" is a data set of PIL images with
torchvision's transforms in DataLoader workers, an eager network in PyTorch's default memory layout and in fp32, and
torch.nn.LocalResponseNorm; in bf16 the latter does not run on a CPU.
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
from papers.alexnet.model import Local, ResponseNorm, net_11, net_18, net_19
from papers.alexnet.momentum import Momentum

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
GPU = DEVICE.type == "cuda"


def usual_batches(images: Tensor, labels: Tensor, size: int, crops: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """As in most scripts: an endless stream of batches from DataLoader workers."""
    from PIL import Image
    from torchvision import transforms

    random = [transforms.RandomCrop(24), transforms.RandomHorizontalFlip()] if crops else []
    mean = images.float().mean((0, 1, 2)).tolist()
    transform = transforms.Compose([*random, transforms.PILToTensor(), lambda x: x.float(), transforms.Normalize(mean, (1, 1, 1))])

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


def our_batches(images: Tensor, labels: Tensor, size: int, crops: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """As in data.py."""
    side = 24 if crops else 32
    places, labels = 33 - side, labels.to(DEVICE)
    mean = windows(images.double().mean(0).float().to(DEVICE), 0, side)[places // 2, places // 2]
    all_, mean = windows(images.to(DEVICE), 0, side), mean.expand(places, places, 3, side, side)
    for step in itertools.count():
        index = permuted(len(images), 0, step * size, (step + 1) * size).to(DEVICE, non_blocking=True)
        draws = draw_crops(size, places, 0, step)
        draws[:, 2] *= crops
        yield crop(all_, mean, index, draws.to(DEVICE, non_blocking=True), scale=1), labels[index]


class Usual(ResponseNorm):
    """torch's own."""

    def forward(self, a: Tensor) -> Tensor:
        return F.local_response_norm(a, self.n, self.alpha * self.n, self.beta, self.k)


def usual(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, ResponseNorm):
            module.__class__ = Usual
    return model


def training(model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]], updates: int, ours: bool) -> Callable[[], None]:
    """A block of updates."""
    model = model.to(DEVICE, memory_format=torch.channels_last if ours else torch.contiguous_format)
    groups = [{"params": [p], "lr": 1e-4, "weight_decay": 0.004} for p in model.parameters()]
    optimizer = Momentum(groups, 0.9) if ours else torch.optim.SGD(groups, momentum=0.9)

    def block() -> None:
        for images, labels in itertools.islice(batches, updates):
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=ours):
                logits = model(images)
            F.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    return block


def cifar(n: int) -> None:
    images, labels = standin.images(50_000, 0)
    for make, crops in ((net_19, False), (net_18, False), (net_11, True)):
        print(f"\nCIFAR-10, training {make.__name__} in batches of 128")
        variants = {
            "usual: DataLoader, eager, fp32": training(usual(make()), usual_batches(images, labels, 128, crops), n, False),
            "train.py: on the device, bf16": training(make(), our_batches(images, labels, 128, crops), n, True),
        }
        compare(variants, n * 128, "images", blocks=5)


def both_ways(layer: Callable[[Tensor], Tensor], x: Tensor, repeats: int) -> Callable[[], None]:
    """Forward and backward."""
    x = x.clone().requires_grad_()

    def block() -> None:
        for _ in range(repeats):
            y = layer(x)
            y.backward(torch.ones_like(y))
            x.grad = None

    return block


def norms(repeats: int) -> None:
    for shape, towers, n in (((128, 64, 12, 12), 1, 9), ((16, 96, 55, 55), 2, 5), ((16, 256, 27, 27), 2, 5)):
        ours, x = ResponseNorm(towers, n, divided=True), torch.randn(shape, device=DEVICE)
        torchs = lambda a, n=n, towers=towers: torch.cat(
            [F.local_response_norm(each, n, 1e-4, 0.75, 2.0) for each in a.chunk(towers, 1)], 1
        )
        print(f"\nresponse normalisation of {shape}, {towers} towers, n = {n}, forward and backward, fp32")
        last = x.to(memory_format=torch.channels_last)
        variants = {
            "torch.nn.LocalResponseNorm": both_ways(torchs, x, repeats),
            "model.py": both_ways(ours, x, repeats),
            "model.py, channels last": both_ways(ours, last, repeats),
        }
        compare(variants, repeats * shape[0], "images", blocks=5)


class Unfolded(Local):
    """By F.unfold and einsum."""

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, 3, padding=1)  # (B, 9 C, P)
        y = torch.einsum("bcp,pcf->bfp", patches, self.weight) + self.bias.permute(1, 2, 0)
        return y.unflatten(2, (self.size, self.size))


def unshared(repeats: int) -> None:
    print("\nthe first unshared layer of net_11, batches of 128, forward and backward, fp32")
    layers, x = [Unfolded(64, 64, 6).to(DEVICE), Local(64, 64, 6).to(DEVICE)], torch.randn(128, 64, 6, 6, device=DEVICE)
    for layer in layers:
        nn.init.normal_(layer.weight, 0.0, 0.04), nn.init.zeros_(layer.bias)
    x = x.to(memory_format=torch.channels_last)
    names = ("F.unfold, einsum", "model.py: one batched product")
    variants = {name: both_ways(layer, x, repeats) for name, layer in zip(names, layers, strict=True)}
    compare(variants, repeats * 128, "images", blocks=5)


def main() -> None:
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    norms(100 if GPU else 5)
    unshared(100 if GPU else 10)
    cifar(200 if GPU else 15)


if __name__ == "__main__":
    main()
