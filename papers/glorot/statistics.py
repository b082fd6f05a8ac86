"""Sec. 4.2: signals up and gradients down in nets that have not learned yet, on Shapeset."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.data.order import mix
from common.options import at_least_one
from common.run import Run
from papers.glorot import pictures
from papers.glorot.model import Nets, activations, gradients, jacobians
from papers.glorot.shapeset import CLASSES, SIZE, shapeset

KINDS = [("tanh", "standard"), ("tanh", "normalized"), ("sigmoid", "standard"), ("sigmoid", "normalized")]


@dataclass(frozen=True)
class Statistics:
    """Nets and examples to look at."""

    depth: int = 5
    """Hidden layers (Sec. 2.3)."""
    width: int = 1000
    """Units in each (Sec. 2.3)."""
    examples: int = 300
    """Fixed ones (Sec. 3.1)."""
    draws: int = 3
    """Of all initial weights; the metrics are means over them."""
    jacobian_examples: int = 1
    """Examples for whose Jacobians singular values are computed."""

    def __post_init__(self) -> None:
        at_least_one(self, "width", "examples", "draws", "jacobian_examples")
        if self.depth < 2:
            raise ValueError(f"--depth must be at least 2, got {self.depth}")


class Seen(nn.Module):
    """Of each draw, net and layer: the standard deviations of activations and gradients; the mean singular values."""

    def __init__(self, draws: int, depth: int) -> None:
        super().__init__()
        for name, layers in (("z", depth), ("ds", depth), ("dW", depth), ("J", depth - 1)):
            self.register_buffer(name, torch.zeros(draws, len(KINDS), layers))


def new(config: Statistics, device: Any) -> Nets:
    return Nets([SIZE**2, *[config.width] * config.depth, CLASSES], KINDS).to(device)


def look(run: Run[Statistics]) -> dict[str, float]:
    config, n = run.config, run.config.examples
    run.describe_data(
        name="Shapeset-3x2, made anew", generator="papers/glorot/shapeset.py", seed=run.seed, train="none", test=n, stand_in=False
    )  # fmt: skip
    x, y = (each.to(run.device) for each in shapeset(n, mix(run.seed, "test")))
    (seen,) = run.prepare(seen=Seen(config.draws, config.depth))
    for draw in run.steps(config.draws, samples=n):
        nets = new(config, run.device)
        ds, dW = gradients(nets, x, y)
        spread = lambda parts: torch.stack([part.flatten(1).std(1) for part in parts[: config.depth]], 1)
        seen.z[draw], seen.ds[draw], seen.dW[draw] = activations(nets, x)["std"], spread(ds), spread(dW)
        seen.J[draw] = jacobians(nets, x[: config.jacobian_examples])
        run.report(jacobian_standard=seen.J[draw, 0].mean().item(), jacobian_normalized=seen.J[draw, 1].mean().item())

    run.seed_all("figure")
    nets = new(config, run.device)
    pictures.draw_layers(run, "activations", "activation", [layer.detach() for layer in nets.layers(x)[1][1:]])
    pictures.draw_layers(run, "gradients", "dCost / ds", gradients(nets, x, y)[0][:-1])
    return ratios(seen)


def ratios(seen: Seen) -> dict[str, float]:
    """What shrinks: activations upwards, gradients downwards, each as the far end's over the near end's; means over draws."""

    def mean(values: Tensor) -> float:
        return values.mean().item()

    found = {}
    for net, (activation, init) in enumerate(KINDS):
        key = init if activation == "tanh" else f"{activation}_{init}"
        found |= {
            f"activation_ratio_{key}": mean(seen.z[:, net, -1] / seen.z[:, net, 0]),
            f"gradient_ratio_{key}": mean(seen.ds[:, net, 0] / seen.ds[:, net, -1]),
            f"weight_gradient_ratio_{key}": mean(seen.dW[:, net, 0] / seen.dW[:, net, -1]),
            f"jacobian_{key}": mean(seen.J[:, net]),
        }
    for ratio in ("activation", "gradient"):
        found[f"{ratio}_gain"] = found[f"{ratio}_ratio_normalized"] - found[f"{ratio}_ratio_standard"]
    return found
