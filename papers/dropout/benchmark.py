"""Speed of our masks beside torch's dropout: forward and backward through one layer's states, alternating, in one process.

    make benchmark-dropout

Measured on 1 core: see README.md.
"""

import torch
from torch import nn

from common.benchmark import compare
from papers.dropout.model import bernoulli, gaussian

B, UNITS, PASSES = 100, 2048, 50


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator, theirs = torch.Generator(device).manual_seed(0), nn.Dropout(0.5)
    y = torch.randn(B, UNITS, device=device, requires_grad=True)

    def passes(drop):
        def block():
            for _ in range(PASSES):
                torch.autograd.grad(drop(y).sum(), y)

        return block

    variants = {
        "nn.Dropout(0.5)": passes(theirs),
        "r * y, r ~ Bernoulli(0.5)": passes(lambda y: bernoulli(y.shape, 0.5, generator) * y),
        "r * y, r ~ N(1, 1)": passes(lambda y: gaussian(y.shape, 0.5, generator) * y),
    }
    compare(variants, PASSES * B, "cases", blocks=9)


if __name__ == "__main__":
    main()
