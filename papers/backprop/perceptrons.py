"""The perceptron (annex): its mistakes on separable examples beside the bound, and ten digits from pixels."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.data import mnist, standin
from common.data.order import mix, permuted, shuffled
from common.options import at_least_one, fraction
from common.run import Run
from papers.backprop.model import Classes, Perceptron, mistake_bound


@dataclass(frozen=True)
class Separable:
    """Unit vectors on either side of a random plane, none nearer to it than a margin."""

    features: int = 20
    examples: int = 200
    margin: float = 0.05
    trials: int = 100
    """Data sets, and perceptrons."""
    passes: int = 500
    """Cap."""

    def __post_init__(self) -> None:
        at_least_one(self, "features", "examples", "trials", "passes")
        fraction(self, "margin")


class Count(nn.Module):
    """Mistakes of each perceptron so far, and after which example its last one was: (T,)."""

    def __init__(self, trials: int) -> None:
        super().__init__()
        self.register_buffer("mistakes", torch.zeros(trials, dtype=torch.int64))
        self.register_buffer("last", torch.zeros(trials, dtype=torch.int64))


def separable(config: Separable, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """x (T, n, D), y (T, n), and u (T, D), the normal of the plane that separates them."""
    xs, ys, us = [], [], []
    for trial in range(config.trials):
        generator = torch.Generator().manual_seed(mix(seed, "separable", trial))
        u, x = F.normalize(torch.randn(config.features, generator=generator), dim=0), torch.empty(0, config.features)
        while len(x) < config.examples:
            new = F.normalize(torch.randn(4 * config.examples, config.features, generator=generator))
            x = torch.cat([x, new[(new @ u).abs() > config.margin]])
        xs, us = [*xs, x[: config.examples]], [*us, u]
        ys.append((xs[-1] @ u).sign())
    return torch.stack(xs), torch.stack(ys), torch.stack(us)


def learn_separable(run: Run[Separable]) -> dict[str, float]:
    config, n = run.config, run.config.examples
    run.describe_data(
        name=f"unit vectors, margin {config.margin}", generator="papers/backprop/perceptrons.py", seed=run.seed,
        train=n, test="none", stand_in=False,
    )  # fmt: skip
    x, y, u = (each.to(run.device) for each in separable(config, run.seed))
    model, count = run.prepare(model=Perceptron(config.trials, config.features), count=Count(config.trials))
    draw = shuffled(n, 1, run.seed)
    for step in run.steps(config.passes * n, samples=config.trials):
        i = int(draw(step))
        wrong = model.learn(x[:, i], y[:, i])
        count.mistakes += wrong
        count.last.masked_fill_(wrong, step + 1)
        if run.log_step:
            run.report(mistakes=count.mistakes.double().mean().item())
            if (step + 1 - count.last >= 2 * n).all():  # a whole pass without a mistake, wherever the last one was
                run.end_loop()
    right = (y * (x @ model.w[..., None]).squeeze(-1) > 0).all(1)
    mistakes, bound = count.mistakes.double(), mistake_bound(x, y, u).double()
    return {
        "separated": 100 * right.double().mean().item(),
        "mistakes_median": mistakes.median().item(), "mistakes_max": mistakes.max().item(), "bound_median": bound.median().item(),
        "mistakes_of_bound_max": (mistakes / bound).max().item(), "mistakes_of_bound_median": (mistakes / bound).median().item(),
    }  # fmt: skip


@dataclass(frozen=True)
class TenDigits:
    """A perceptron of ten classes, one digit at a time; its features are the pixels, and one that is always on."""

    passes: int = 2
    data: Literal["mnist", "made-up"] = "mnist"
    """made-up: stand-in digits, for tests."""

    def __post_init__(self) -> None:
        at_least_one(self, "passes")


class Errors(nn.Module):
    """After each pass, of the last weights and of their average: (passes, 2), %."""

    def __init__(self, passes: int) -> None:
        super().__init__()
        self.register_buffer("test", torch.full((passes, 2), math.nan))


def learn_ten_digits(run: Run[TenDigits]) -> dict[str, float]:
    config = run.config
    if config.data == "made-up":
        images, labels = standin.images(150, 0, size=28)
        data = mnist.MNIST(images[:100, ..., 0], labels[:100], images[100:, ..., 0], labels[100:], sha256="")
    else:
        run.on_main(lambda: mnist.fetch(run.data_dir))
        data = mnist.load(run.data_dir)
    n = len(data.train_images)
    run.describe_data(name="mnist", sha256=data.sha256, train=n, test=len(data.test_images), stand_in=config.data == "made-up")
    (x, label), (test_x, test_label) = (
        (F.pad(images.flatten(1) / 255, (0, 1), value=1.0).to(run.device), labels.to(run.device))
        for images, labels in ((data.train_images, data.train_labels), (data.test_images, data.test_labels))
    )
    model, errors = run.prepare(model=Classes(10, 785), errors=Errors(config.passes))
    number = None
    for step in run.steps(config.passes * n, samples=1):
        if number != step // n:
            number = step // n
            order = permuted(n, run.seed, number * n, (number + 1) * n).to(run.device)
        i = order[step % n : step % n + 1]
        run.log(train_error=100 * model.learn(x[i].squeeze(0), label[i]).squeeze(0))
        if (step + 1) % n == 0:
            wrong = [(test_x @ w.T).argmax(1) != test_label for w in (model.w, model.average())]
            errors.test[number] = torch.stack([100 * each.float().mean() for each in wrong])
    found = {}
    for number, (last, average) in enumerate(errors.test.tolist(), 1):
        found |= {f"test_error_pass{number}": last, f"averaged_test_error_pass{number}": average}
    return found
