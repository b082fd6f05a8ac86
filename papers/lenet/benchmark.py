"""Updates per second, one pattern each: how one would write LeNet-5 down first, and how it is here.

    make benchmark-lenet       # all in one process, in alternating blocks; a minute on one core

The same network, loss and step sizes four times (tests/papers/test_lenet_train.py): F.conv2d and autograd; the convolutions as
products of matrices (model.py); the same with forward and backward compiled; the whole update compiled (train.py).
"""

import copy
import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.benchmark import compare
from papers.lenet.model import Convolution, LeNet5, map_criterion
from papers.lenet.train import learning

UPDATES, BLOCKS = 300, 9


class PlainConvolution(nn.Module):
    """`Convolution` with F.conv2d, and zeros for kernels that Table I does not have."""

    def __init__(self, layer: Convolution, inputs: int) -> None:
        super().__init__()
        kernels = layer.kernels.detach()
        place = torch.arange(layer.maps * inputs) if layer.place is None else layer.place
        dense = kernels.new_zeros(layer.maps * inputs, 25).index_copy(0, place, kernels)
        self.weight = nn.Parameter(dense.view(layer.maps, inputs, 5, 5))
        self.bias = nn.Parameter(layer.bias.detach().squeeze(1).clone())
        self.register_buffer("connected", (self.weight.detach() != 0).any((2, 3), keepdim=True).float())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.connected, self.bias)


def plain(model: LeNet5) -> LeNet5:
    """The same network with `PlainConvolution`."""
    model = copy.deepcopy(model)
    model.C1, model.C3, model.C5 = (PlainConvolution(c, n) for c, n in ((model.C1, 1), (model.C3, 6), (model.C5, 16)))
    return model


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # as in training
    images, labels = torch.randn(UPDATES, 1, 32, 32), torch.randint(10, (UPDATES,))
    loss = lambda y, label: 0.05 * map_criterion(y, label, 10.0)
    start = LeNet5(coefficient=0.6)

    def parts(model, function=lambda f: f):
        """Forward and backward by autograd, then one operation for all weights."""
        weights = list(model.parameters())
        step_sizes = [torch.full_like(w, 1e-5) for w in weights]
        forward = function(lambda image, label: loss(model(image), label))

        def update(image, label):
            gradient = torch.autograd.grad(forward(image, label), weights)
            with torch.no_grad():
                torch._foreach_addcmul_(weights, gradient, step_sizes, value=-1)

        return update

    whole = copy.deepcopy(start)
    variants = {
        "F.conv2d, eager": parts(plain(start)),
        "matrix products, eager": parts(copy.deepcopy(start)),
        "the same, compiled forward and backward": parts(copy.deepcopy(start), torch.compile),
        "the whole update compiled (train.py)": torch.compile(
            learning(whole, [torch.full_like(w, 1e-5) for w in whole.parameters()], loss)
        ),
    }

    def block(update):
        for i in range(UPDATES):
            update(images[i : i + 1], labels[i : i + 1])

    compare({name: functools.partial(block, update) for name, update in variants.items()}, UPDATES, "updates", blocks=BLOCKS)


if __name__ == "__main__":
    main()
