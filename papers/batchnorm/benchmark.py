"""Updates per second of nets with batch norm: torch's own, and model.py's.

    make benchmark-batchnorm       # all in one process, in alternating blocks, one thread; a few minutes on a CPU

The layer by itself, forward and backward, is timed as well.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from common.benchmark import compare
from papers.batchnorm.model import BatchNorm, ConvNet


def dense(norm: Callable[[int], nn.Module], width: int = 100) -> nn.Module:
    """Sec. 4.1's net as one writes it in torch, with its batch norm or with ours."""
    sizes = (784, width, width, width)
    layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b, bias=False), norm(b), nn.Sigmoid())]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def convolutional(norm: Callable[[int], nn.Module]) -> nn.Module:
    net = ConvNet("bn")
    for name, each in [*net.named_children()]:
        if isinstance(each, BatchNorm):
            setattr(net, name, norm(each.gamma.numel()))
    return net


def updates(net: nn.Module, x: Tensor, times: int) -> Callable[[], None]:
    y = torch.arange(len(x)) % 10
    optimizer = torch.optim.SGD(net.parameters(), 0.1, fused=True)

    def block() -> None:
        for _ in range(times):
            cross_entropy(net(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()

    return block


def alone(norm: nn.Module, x: Tensor, times: int) -> Callable[[], None]:
    x, dy = x.clone().requires_grad_(), torch.randn_like(x)

    def block() -> None:
        for _ in range(times):
            norm(x).backward(dy)

    return block


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    ours, ours_2d = lambda n: BatchNorm(1, n), lambda n: BatchNorm(1, n, 1, 1, axes=(0, 2, 3))
    cases = {
        "the net of Fig. 1, batches of 60": (dense, nn.BatchNorm1d, ours, torch.rand(60, 784).round(), 100),
        "1,000 units a layer, batches of 128": (partial(dense, width=1000), nn.BatchNorm1d, ours, torch.rand(128, 784), 10),
        "six convolutions, batches of 32": (convolutional, nn.BatchNorm2d, ours_2d, torch.randn(32, 3, 32, 32), 10),
    }
    for title, (net, theirs, norm, x, times) in cases.items():
        print(title)
        nets = {"torch's": net(theirs), "model.py": net(norm)}
        if net is dense:
            nets["model.py, compiled"] = torch.compile(net(norm))
        compare({name: updates(each, x, times) for name, each in nets.items()}, times, "updates", blocks=15)
    print("the layer alone, (60, 100) and (32, 16, 16, 16)")
    for theirs, norm, shape in ((nn.BatchNorm1d(100), ours(100), (60, 100)), (nn.BatchNorm2d(16), ours_2d(16), (32, 16, 16, 16))):
        x = torch.randn(shape)
        compare({"torch's": alone(theirs, x, 100), "model.py": alone(norm, x, 100)}, 100, "calls", blocks=15)


if __name__ == "__main__":
    main()
