"""Speeds: engine.py's convolutional net beside torch's, both with one thread; and a hundred symmetry nets beside one at a time.

    make benchmark-backprop       # all in one process, in alternating blocks; a minute on one core

The nets learn from the same batches of 64 digits, made up, by the same updates (tests/papers/test_backprop_engine.py).
"""

import functools

import torch
from torch.nn import functional as F

from common.benchmark import compare
from papers.backprop.digits import SHAPES, Weights, cnn
from papers.backprop.engine import backward, cross_entropy
from papers.backprop.model import Descent, layered
from papers.backprop.tasks import symmetry

UPDATES, BATCH, SWEEPS, TRIALS = 20, 64, 50, 100


def torch_cnn(w: list[torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """`cnn` of digits.py in torch: (B, 28, 28) -> (B, 10)."""
    y = F.max_pool2d(F.relu(F.conv2d(images[:, None], w[0], w[1].flatten())), 2)
    y = F.max_pool2d(F.relu(F.conv2d(y, w[2], w[3].flatten())), 2)
    return y.flatten(1) @ w[4] + w[5]


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    images, labels = torch.rand(BATCH, 28, 28), torch.randint(10, (BATCH,))
    weights = Weights(SHAPES["cnn"])
    tensors = [torch.from_numpy(w.value.copy()).requires_grad_() for w in weights.w]
    descent = torch.optim.SGD(tensors, lr=0.01, momentum=0.9)

    def engine() -> None:
        for _ in range(UPDATES):
            backward(cross_entropy(cnn(weights.w, images.numpy()), labels.numpy()))
            weights.step(0.01, 0.9)

    def reference() -> None:
        for _ in range(UPDATES):
            F.cross_entropy(torch_cnn(tensors, images), labels).backward()
            descent.step()
            descent.zero_grad()

    compare({"torch": reference, "engine.py": engine}, UPDATES, "updates")

    torch.set_default_dtype(torch.float64)
    task = symmetry()

    def learn(net, descent, sweeps: int) -> None:
        learning = torch.ones(len(net.weights["hidden"]), dtype=torch.bool)
        for _ in range(sweeps):
            y = net(task.inputs)
            descent.step(net, net.backward(y, {"output": y["output"] - task.d}), 0.1, 0.9, 0.0, learning)

    nets = [layered(6, 2, 1) for _ in range(TRIALS)]
    one = [(net, Descent(net)) for net in nets]
    many = layered(6, 2, 1, trials=TRIALS)

    def each() -> None:
        for net, descent in one:
            learn(net, descent, SWEEPS)

    variants = {"symmetry, a hundred nets one by one": each, "side by side": functools.partial(learn, many, Descent(many), SWEEPS)}
    compare(variants, SWEEPS * TRIALS, "sweeps", blocks=5)


if __name__ == "__main__":
    main()
