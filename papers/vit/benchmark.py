"""Speeds of training: B/16 against timm's and torchvision's, and a small net from scratch against a plain script.

    make benchmark-vit                       # alternating blocks in one process; some minutes
    make benchmark-vit ARGS=memory           # on a GPU: memory of fine-tuning at 384 pixels by --micro-batch

The same sizes, batches, optimizer and number of threads each time, on a GPU where there is one. "Usual" is a data set of PIL images
with torchvision's transforms in DataLoader workers, and timm's net.
"""

import itertools
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.benchmark import compare
from common.data import standin, workers
from common.data.images import crop, draw_crops, windows
from common.data.order import permuted
from papers.vit.data import PAD
from papers.vit.model import ViT, vit_b_16

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
GPU = DEVICE.type == "cuda"


def usual_batches(images: Tensor, labels: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """As in most scripts: an endless stream of batches from DataLoader workers."""
    from PIL import Image
    from torchvision import transforms

    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, PAD),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.5,) * 3, (0.5,) * 3),
        ]
    )

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
    """As in data.py."""
    grey, labels = torch.full((32, 32, 3), 127.5, device=DEVICE), labels.to(DEVICE)
    crops, greys = windows(images.to(DEVICE), PAD), windows(grey, PAD)
    for step in itertools.count():
        index = permuted(len(images), 0, step * size, (step + 1) * size).to(DEVICE, non_blocking=True)
        yield crop(crops, greys, index, draw_crops(size, 2 * PAD + 1, 0, step).to(DEVICE), scale=127.5), labels[index]


def training(
    model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]], updates: int, bf16: bool, fused: bool
) -> Callable[[], None]:
    """A block of updates."""
    model = model.to(DEVICE).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.1, fused=fused)

    def block() -> None:
        for images, labels in itertools.islice(batches, updates):
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
                logits = model(images)
            F.cross_entropy(logits.float(), labels).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return block


def forward_backward(model: nn.Module, batch: Tensor, bf16: bool) -> Callable[[], None]:
    model = model.to(DEVICE).train()

    def block() -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
            loss = model(batch).float().square().mean()
        loss.backward()
        model.zero_grad()

    return block


def networks(size: int) -> None:
    import timm
    import torchvision

    batch = torch.randn(size, 3, 224, 224, device=DEVICE)
    for bf16 in (True, False):
        print(f"\nB/16 at 224 pixels, forward and backward of {size} images in {'bf16' if bf16 else 'fp32'}")
        nets = {
            "timm's": timm.create_model("vit_base_patch16_224"),
            "torchvision's": torchvision.models.vit_b_16(),
            "model.py": vit_b_16(),
            "model.py with PyTorch's exact GELU": vit_b_16(tanh=False),
        }
        for net in nets.values():  # a head of zeros would send nothing back
            nn.init.normal_(list(net.parameters())[-2], std=0.02)
        blocks = {name: forward_backward(net, batch, bf16) for name, net in nets.items()}
        compare(blocks, 3 * 17.56 * size, "10^9 multiply-adds", blocks=5)


def scratch(n: int) -> None:
    import timm

    images, labels = standin.images(50_000, 0)
    B = 128
    theirs = lambda: timm.models.VisionTransformer(32, 4, 3, 10, embed_dim=96, depth=4, num_heads=3, mlp_ratio=2)
    ours = lambda: ViT(4, 96, 4, 3, 192, image=32, classes=10)
    print(f"\nFrom scratch on CIFAR-10, patches of 4, width 96, 4 layers, batches of {B}")
    variants = {
        "usual: DataLoader, PIL, timm, fp32": training(theirs(), usual_batches(images, labels, B), n, False, False),
        "the same in bf16": training(theirs(), usual_batches(images, labels, B), n, True, False),
        "train.py": training(ours(), our_batches(images, labels, B), n, True, True),
        "train.py in fp32": training(ours(), our_batches(images, labels, B), n, False, True),
    }
    compare(variants, n * B, "images", blocks=5)


def memory() -> None:
    """Of fine-tuning B/16 at 384 pixels in bf16: the most that is allocated in two updates of so many images at once."""
    for size in (32, 64, 128, 256, 512):
        model = vit_b_16(image=384, classes=10)
        batch = torch.randn(size, 3, 384, 384, device=DEVICE), torch.zeros(size, dtype=torch.long, device=DEVICE)
        torch.cuda.reset_peak_memory_stats()
        training(model, itertools.repeat(batch), 2, True, True)()
        print(f"--micro-batch {size}: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB", flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["memory"]:
        sys.exit(memory() if GPU else "error: memory is measured on a GPU, and there is none here")
    networks(64 if GPU else 1)
    scratch(50 if GPU else 3)
