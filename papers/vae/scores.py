"""What the methods reach, in full precision: bounds (Sec. 5), marginal likelihoods (Appendix D), what the paper says of them."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.claims import reached
from common.data.order import mix
from common.run import Run
from papers.vae.model import marginal_likelihood

SCORED = 10_000  # training images, at most, on which curves are measured
MARGINAL = 1000  # datapoints of each set whose marginal likelihood is estimated (Appendix E)


def curves(methods: Sequence[str], measure: str) -> list[str]:
    """The names of a run's curves: bounds or marginal likelihoods of each method, and how far AEVB is above wake-sleep."""
    names = [f"{method}_{split}_{measure}" for method in methods for split in ("train", "test")]
    return ["samples", *names] + ([f"test_{measure}_difference"] if "wake_sleep" in methods else [])


def evaluations(config: Any) -> list[int]:
    """The updates after which curves are measured: eight in a decade of samples from 10^5 on (Fig. 2), or eight in all (Fig. 3)."""
    updates = config.samples // config.batch_size
    if config.measure == "marginal":
        shares = [1 / 60, 1 / 30, 1 / 12, 1 / 6, 1 / 3, 1 / 2, 3 / 4, 1]
    else:
        first = min(100_000, config.samples // 20) / config.samples
        shares = [10 ** (-k / 8) for k in range(round(-8 * math.log10(first)), -1, -1)]
    return [max(1, round(share * updates)) for share in shares]


def scores(run: Run, methods: nn.Module, images: Tensor, test_images: Tensor) -> dict[str, float]:
    """The points of all curves, in nats: means over the datapoints."""
    measure, points = run.config.measure, {}
    with run.evaluating(methods):
        for split, x in (("train", images[:SCORED]), ("test", test_images)):
            for method, net in methods.named_children():
                if measure == "bound":
                    values = run.gather(score(run, methods, net, x, split, run.step, mine=run.share(len(x))), len(x))
                else:
                    values = run.on_main(lambda net=net, x=x, split=split: score(run, methods, net, x, split, run.step))
                points[f"{method}_{split}_{measure}"] = values.mean().item()
    if "wake_sleep" in run.config.methods:
        points[f"test_{measure}_difference"] = points[f"aevb_test_{measure}"] - points[f"wake_sleep_test_{measure}"]
    return points


def score(run: Run, methods: nn.Module, net: nn.Module, x: Tensor, *parts: Any, mine: slice = slice(None)) -> Tensor:
    """Bounds or marginal likelihoods of datapoints x (n, D), or of some of them, with noise that is a function of `parts`."""
    with torch.autocast(run.device.type, enabled=False):
        if run.config.measure == "marginal":
            run.seed_all("score", *parts)
            return log_marginal(methods, getattr(net, "decoder", net), x[:MARGINAL])
        generator = torch.Generator(run.device).manual_seed(mix(run.seed, "score", *parts))
        epsilon = torch.randn(len(x), 1, run.config.latent, generator=generator, device=run.device)
        chunks = zip(x[mine].split(1000), epsilon[mine].split(1000), strict=True)
        return torch.cat([net.estimator_b(x, epsilon) for x, epsilon in chunks])


def log_marginal(methods: nn.Module, decoder: nn.Module, x: Tensor) -> Tensor:
    """log p(x) by Appendix D: (n, D) -> (n,). Each chain starts at one of 50 draws of the prior, by their likelihoods."""
    prior = torch.randn(50, next(decoder.parameters()).shape[1], device=x.device)  # (50, J)
    likelihoods = torch.cat([decoder.log_likelihood(part.unsqueeze(1), prior) for part in x.split(50)])  # (n, 50)
    start = prior[torch.distributions.Categorical(logits=likelihoods).sample()]
    return marginal_likelihood(functools.partial(methods.log_joint, decoder, x), start)


def estimator_variance(run: Run, methods: nn.Module, x: Tensor, draws: int = 20) -> float:
    """Variance, by the noise, of the average bound of a minibatch (Eq. 8, for each datapoint) of AEVB, in nats^2: x (n, D)."""
    with run.evaluating(methods):
        bounds = torch.stack([score(run, methods, methods.aevb, x, "variance", draw) for draw in range(draws)])  # (draws, n)
    return bounds.var(0).mean().item() / run.config.batch_size


def results(run: Run, points: dict[str, list[float]], methods: nn.Module, test_images: Tensor) -> dict[str, float]:
    """The record's numbers: the ends of the curves, and what the paper says of them in words."""
    config = run.config
    metrics = {name: curve[-1] for name, curve in points.items() if name != "samples"}
    if config.measure == "bound":
        metrics["aevb_train_minus_test"] = metrics["aevb_train_bound"] - metrics["aevb_test_bound"]
        metrics["test_bound_fall"] = max(points["aevb_test_bound"]) - metrics["aevb_test_bound"]
        metrics["estimator_variance"] = estimator_variance(run, methods, test_images[:1000])
        if "wake_sleep" in config.methods:
            needed = reached(points["samples"], points["aevb_test_bound"], metrics["wake_sleep_test_bound"])
            metrics["speedup"] = points["samples"][-1] / needed
    elif "mcem" in config.methods:
        metrics["mcem_minus_aevb_train"] = metrics["mcem_train_marginal"] - metrics["aevb_train_marginal"]
        metrics["mcem_minus_aevb_test"] = metrics["mcem_test_marginal"] - metrics["aevb_test_marginal"]
    return metrics
