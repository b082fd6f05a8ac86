"""Updates per second of our optimisers and of torch's, on the weights of Sec. 6.2's multilayer perceptron.

make benchmark-adam       # all in one process, in alternating blocks, one thread; a minute on a CPU
"""

import torch
from torch import nn

from common.benchmark import compare
from papers.adam.model import METHODS, Method

UPDATES, BLOCKS = 20, 9
TORCHS = {
    "adam": lambda params, **how: torch.optim.Adam(params, 0.001, **how),
    "adamw": lambda params, **how: torch.optim.AdamW(params, 0.001, **how),
    "adagrad": lambda params, **how: torch.optim.Adagrad(params, 0.001, **how),
    "nesterov": lambda params, **how: torch.optim.SGD(params, 0.001, momentum=0.9, nesterov=True, **how),
}


def block(make):
    params = [nn.Parameter(torch.zeros(shape)) for shape in ((1000, 784), (1000,), (1000, 1000), (1000,), (10, 1000), (10,))]
    for theta in params:
        theta.grad = torch.randn_like(theta)
    optimizer: torch.optim.Optimizer | Method = make(params)
    return lambda: [optimizer.step() for _ in range(UPDATES)]


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for name, torchs in TORCHS.items():
        variants = {
            f"{name}, torch's foreach": block(lambda params, make=torchs: make(params, foreach=True)),
            f"{name}, torch's fused": block(lambda params, make=torchs: make(params, fused=True)),
            f"{name}, ours (train.py)": block(METHODS[name]),
        }
        compare(variants, UPDATES, "updates", blocks=BLOCKS)


if __name__ == "__main__":
    main()
