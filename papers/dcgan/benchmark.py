"""Updates per second on MNIST: the loop that most DCGANs are written after, and what train.py does.

    make benchmark-dcgan     # alternating blocks in one process, some minutes on two CPU cores; and nearest neighbours

The same nets, minibatches of 128 and Adam with L2. The usual loop is that of pytorch/examples: a DataLoader over a data set of
images, both nets updated on each minibatch, D's gradient worked out in G's update as well. It makes two updates of a minibatch, and
train.py one: so the ratio that is printed is of pairs of updates, one of each net, in the same precision, and an epoch of train.py
has half as many of these besides.
"""

import copy
import itertools
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from common.benchmark import compare
from common.data import standin
from common.data.order import shuffled
from papers.dcgan.neighbours import Nearest, noise
from papers.dcgan.train import Mnist, networks, one_hot, shown
from papers.dcgan.updates import Pair

PAIRS, BLOCKS, IMAGES = 4, 5, 2000
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Digits(Dataset):
    """As torchvision's MNIST with ToTensor: PIL images, one at a time."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        from torchvision.transforms import ToTensor

        self.images, self.labels, self.transform = images, labels, ToTensor()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[i].numpy())), int(self.labels[i])


def usual(config: Mnist, images: Tensor, labels: Tensor, start: tuple) -> Callable[[], None]:
    G, D = (copy.deepcopy(net).to(DEVICE) for net in start)
    adams = [torch.optim.Adam(net.parameters(), config.lr, (config.beta1, 0.999), weight_decay=config.l2) for net in (G, D)]
    loader = DataLoader(
        Digits(images, labels), config.batch_size, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True
    )
    batches, bce = itertools.chain.from_iterable(itertools.repeat(loader)), F.binary_cross_entropy_with_logits

    def block() -> None:
        for x, numbers in itertools.islice(batches, PAIRS):
            x, y = x.to(DEVICE), F.one_hot(numbers.to(DEVICE), 10).float()
            ones, zeros = torch.ones(len(x), device=DEVICE), torch.zeros(len(x), device=DEVICE)
            D.zero_grad()
            bce(D(x, y), ones).backward()
            fake = G(2 * torch.rand(len(x), config.Z, device=DEVICE) - 1, y)
            bce(D(fake.detach(), y), zeros).backward()
            adams[1].step()
            G.zero_grad()
            bce(D(fake, y), ones).backward()
            adams[0].step()

    return block


def ours(config: Mnist, images: Tensor, labels: Tensor, start: tuple, bf16: bool) -> Callable[[], None]:
    run = SimpleNamespace(  # what a run on one process does for these
        config=config, autocast=lambda: torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16),
        prepare=lambda **objects: tuple(thing.to(DEVICE) if hasattr(thing, "to") else thing for thing in objects.values()),
        micro_batches=lambda batch, net, of: [(batch, 1.0)], backward=lambda loss: loss.backward(), log=lambda **values: None,
    )  # fmt: skip
    pair, draw, steps = Pair(run, *copy.deepcopy(start)), shuffled(len(images), config.batch_size, 0), itertools.count()
    images, labels = images.to(DEVICE), labels.to(DEVICE)

    def block() -> None:
        for step in itertools.islice(steps, 2 * PAIRS):
            z, index = noise(config.batch_size, config.Z, DEVICE, 0, "z", step)[0], draw(step).to(DEVICE)
            pair.take_turn(step, config.lr, z, shown(images[index]), one_hot(labels[index], z.dtype))

    return block


def main() -> None:
    torch.manual_seed(0)
    config = Mnist()
    images, labels = standin.images(IMAGES, 0, size=28)
    images, start = images[..., 0].contiguous(), networks(config)
    variants = {
        "pytorch/examples' loop, fp32": usual(config, images, labels, start),
        "train.py, fp32": ours(config, images, labels, start, bf16=False),
        "train.py, bf16": ours(config, images, labels, start, bf16=True),
    }
    compare(variants, 2 * PAIRS, "updates", blocks=BLOCKS)

    nearest, samples = Nearest(torch.rand(10_000, 784, device=DEVICE)), torch.rand(16_000, 784, device=DEVICE)
    nearest.add(samples, torch.zeros(16_000, dtype=torch.int64, device=DEVICE))
    began = time.perf_counter()
    nearest.add(samples, torch.zeros(16_000, dtype=torch.int64, device=DEVICE))
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    took = time.perf_counter() - began
    print(f"nearest of 10,000 digits among 16,000 more: {took:.2f} s, so {took * 625 / 3600:.2f} h for 10 million")


if __name__ == "__main__":
    main()
