"""Sec. 9.1: gradient descent on a linear regression whose inputs are dropped ends at a ridge regression's weights."""

from dataclasses import dataclass

import torch
from torch import nn

from common.data.order import mix
from common.options import at_least_one, positive
from common.run import Run
from papers.dropout.model import bernoulli, ridge


@dataclass(frozen=True)
class Ridge:
    """Hyper-parameters of the regression; the paper has none."""

    examples: int = 100
    features: int = 5
    p: float = 0.5
    """With which an input is kept."""
    noise: float = 1.0
    """Standard deviation of what features do not explain."""
    rate: float = 0.1
    """At first; after a tenth of the updates it falls as 1/t, as it has to for the mean to be met."""
    updates: int = 40_000

    def __post_init__(self) -> None:
        at_least_one(self, "examples", "features", "updates")
        positive(self, "rate", "noise")
        if not 0 < self.p < 1:
            raise ValueError(f"--p must be between 0 and 1, got {self.p}")


def regress(run: Run[Ridge]) -> dict[str, float]:
    """How far p w is from the ridge's weights, and from those of least squares, relative to the latter's size."""
    config = run.config
    generator = torch.Generator().manual_seed(mix(run.seed, "regression"))
    N, D = config.examples, config.features
    X = torch.randn(N, D, generator=generator, dtype=torch.float64)
    X[:, 1:] += X[:, :-1].clone() / 2  # features of which neighbours are correlated
    y = X @ torch.randn(D, generator=generator, dtype=torch.float64)
    y += config.noise * torch.randn(N, generator=generator, dtype=torch.float64)
    X, y = X.to(run.device, torch.get_default_dtype()), y.to(run.device, torch.get_default_dtype())
    run.describe_data(
        name="a linear regression", generator="papers/dropout/ridge.py", seed=run.seed, train=N, test=0, stand_in=False
    )

    net = nn.Linear(D, 1, bias=False)
    nn.init.zeros_(net.weight)
    optimizer = torch.optim.SGD(net.parameters(), config.rate)
    net, optimizer = run.prepare(net=net, optimizer=optimizer)
    exact, plain = config.p * ridge(X, y, config.p), ridge(X, y, 1.0)
    begins = config.updates // 10

    def far(w: torch.Tensor, other: torch.Tensor) -> float:
        return ((w - other).norm() / plain.norm()).item()

    for step in run.steps(config.updates):
        r = bernoulli((N, D), config.p, torch.Generator(run.device).manual_seed(mix(run.seed, "masks", step)))
        loss = (y - net(r * X)[:, 0]).square().mean()
        run.backward(loss)
        optimizer.param_groups[0]["lr"] = config.rate / max(1, step / max(1, begins))
        optimizer.step()
        optimizer.zero_grad()
        run.log(train_loss=loss.detach())
        if run.log_step:
            run.report(ridge_distance=far(config.p * net.weight.detach()[0], exact))
    w = config.p * net.weight.detach()[0]
    found = {"ridge_distance": far(w, exact), "least_squares_distance": far(w, plain)}
    return found | {"ridge_is_nearer": found["least_squares_distance"] - found["ridge_distance"]}
