"""MNIST with engine.py: nets, gradients and updates are NumPy's, and torch has no part but the data and the checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from common.data import mnist, standin
from common.data.order import shuffled
from common.options import at_least_one, fraction, positive
from common.run import Run
from papers.backprop import pictures
from papers.backprop.engine import Variable, backward, convolution, cross_entropy, max_pooling


@dataclass(frozen=True)
class Digits:
    """Hyper-parameters, all ours."""

    net: Literal["mlp", "cnn"] = "mlp"
    epochs: int = 5
    batch_size: int = 64
    epsilon: float = 0.05
    """The rate at the start; it falls in a straight line, to 0 at the end."""
    alpha: float = 0.9
    """Momentum (Eq. 9), of the mean gradient over the batch."""
    held_out: bool = False
    """Learn from the first 50,000 training images and test on the other 10,000, to choose the rate."""
    data: Literal["mnist", "made-up"] = "mnist"
    """made-up: stand-in digits, for tests."""

    def __post_init__(self) -> None:
        positive(self, "epsilon")
        fraction(self, "alpha")
        at_least_one(self, "epochs", "batch_size")


SHAPES = {  # every second one a bias
    "mlp": [(784, 256), (256,), (256, 128), (128,), (128, 10), (10,)],
    "cnn": [(8, 1, 5, 5), (8, 1, 1), (16, 8, 5, 5), (16, 1, 1), (256, 10), (10,)],
}


def mlp(w: list[Variable], images: ndarray) -> Variable:
    """784 - 256 - 128 - 10, tanh: (B, 28, 28) -> (B, 10)."""
    y = (Variable(images).reshape(-1, 784) @ w[0] + w[1]).tanh()
    y = (y @ w[2] + w[3]).tanh()
    return y @ w[4] + w[5]


def cnn(w: list[Variable], images: ndarray) -> Variable:
    """Two times 5x5 kernels, the positive part and the largest of 2x2, then one layer: (B, 28, 28) -> (B, 10)."""
    y = max_pooling((convolution(Variable(images[:, None]), w[0]) + w[1]).relu())  # (B, 8, 12, 12)
    y = max_pooling((convolution(y, w[2]) + w[3]).relu())  # (B, 16, 4, 4)
    return y.reshape(-1, 256) @ w[4] + w[5]


NETS: dict[str, Callable[[list[Variable], ndarray], Variable]] = {"mlp": mlp, "cnn": cnn}


class Weights:
    """A net's weights and their last changes; biases start at 0, weights uniform with variance 1 / fan-in."""

    def __init__(self, shapes: list[tuple[int, ...]]) -> None:
        self.w, self.change = [], [np.zeros(shape, np.float32) for shape in shapes]
        for number, shape in enumerate(shapes):
            fan_in = shape[0] if len(shape) == 2 else np.prod(shape[1:])
            bound = 0.0 if number % 2 else (3 / fan_in) ** 0.5
            self.w.append(Variable(((2 * torch.rand(shape, dtype=torch.float32) - 1) * float(bound)).numpy(), f"w{number}"))

    def step(self, epsilon: float, alpha: float) -> None:
        for w, change in zip(self.w, self.change, strict=True):
            change *= alpha  # Eqs. 8 and 9
            change -= np.float32(epsilon) * w.gradient
            w.value += change

    def state_dict(self) -> dict[str, Tensor]:
        named = {"w": [w.value for w in self.w], "change": self.change}
        return {f"{name}{i}": torch.from_numpy(value.copy()) for name, values in named.items() for i, value in enumerate(values)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for i, (w, change) in enumerate(zip(self.w, self.change, strict=True)):
            if state[f"w{i}"].shape != w.value.shape:
                raise ValueError(f"w{i} has the shape {tuple(state[f'w{i}'].shape)}, not {w.value.shape}")
            w.value[...], change[...] = state[f"w{i}"].numpy(), state[f"change{i}"].numpy()


def learn_digits(run: Run[Digits]) -> dict[str, float]:
    config, B = run.config, run.config.batch_size
    images, labels, test_images, test_labels = data(run)
    net = NETS[config.net]
    (weights,) = run.prepare(weights=Weights(SHAPES[config.net]))
    epoch = len(images) // B  # updates
    updates = config.epochs * epoch
    test = "held_out_error" if config.held_out else "test_error"

    for step, index in run.indices(shuffled(len(images), B, run.seed), steps=updates):
        y = net(weights.w, scaled(images[index.numpy()]))  # (B, 10)
        E = cross_entropy(y, labels[index.numpy()])
        backward(E)
        weights.step(config.epsilon * (1 - step / updates), config.alpha)
        run.log(train_loss=float(E.value))
        if (step + 1) % epoch == 0:
            run.report(**{"epoch": (step + 1) // epoch, test: error(run, net, weights, test_images, test_labels)})

    pictures.draw_errors(run, test)
    if config.net == "mlp" and config.data == "mnist":
        pictures.draw_graph(run)
    return {test: error(run, net, weights, test_images, test_labels)}


def scaled(images: ndarray) -> ndarray:
    """Grey levels, uint8 -> 0 to 1."""
    return images.astype(np.float32) / 255


def error(run: Run[Digits], net: Any, weights: Weights, images: ndarray, labels: ndarray) -> float:
    """Wrong answers, %."""
    answers = np.concatenate([net(weights.w, scaled(images[at : at + 500])).value.argmax(1) for at in range(0, len(images), 500)])
    wrong = torch.from_numpy(answers != labels).to(run.device)
    return 100 * wrong.float().mean().item()


def data(run: Run[Digits]) -> list[ndarray]:
    """Images and labels to learn, images and labels to test on."""
    config = run.config
    if config.data == "made-up":
        images, labels = standin.images(300, 0, size=28)
        digits = mnist.MNIST(images[:200, ..., 0], labels[:200], images[200:, ..., 0], labels[200:], sha256="")
    else:
        run.on_main(lambda: mnist.fetch(run.data_dir))
        digits = mnist.load(run.data_dir)
    found = [digits.train_images, digits.train_labels, digits.test_images, digits.test_labels]
    if config.held_out:
        found = [found[0][:50_000], found[1][:50_000], found[0][50_000:], found[1][50_000:]]
    run.describe_data(
        name="mnist" + ", held out: 10,000 of the training images" * config.held_out, sha256=digits.sha256,
        train=len(found[0]), test=len(found[2]), stand_in=config.data == "made-up",
    )  # fmt: skip
    return [each.numpy() for each in found]
