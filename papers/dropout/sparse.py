"""Fig. 8: hidden units of an autoencoder are less active, and fewer of them are, with dropout."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from common.data.order import shuffled
from common.options import at_least_one, positive
from common.run import Run
from papers.dropout import pictures
from papers.dropout.model import Net
from papers.dropout.nets import Nets, digits, gathered, masks

NAMES = ("plain", "dropout")


@dataclass(frozen=True)
class Autoencoder:
    """Hyper-parameters of Sec. 7.2, where it has them."""

    hidden: int = 256
    p: float = 0.5
    """With which a hidden unit is kept."""
    rate: float = 0.001
    """Adam's; falls linearly to 0 (the paper names neither)."""
    updates: int = 6000
    batch_size: int = 100
    loss: Literal["squared", "cross-entropy"] = "squared"
    """Summed over pixels (the paper does not say which)."""
    data: Literal["mnist", "made-up"] = "mnist"
    """made-up: stand-in digits, for tests."""

    def __post_init__(self) -> None:
        at_least_one(self, "hidden", "updates", "batch_size")
        positive(self, "rate")
        if not 0 < self.p < 1:
            raise ValueError(f"--p must be between 0 and 1, got {self.p}")


def encode(run: Run[Autoencoder]) -> dict[str, float]:
    """The hidden units of an autoencoder without dropout and with it, over the test images."""
    config, B = run.config, run.config.batch_size
    images, _, _, _, test_images, _ = digits(run)
    n = images.shape[1]
    nets = Nets([Net([n, config.hidden, n], (1, p), init=0.1) for p in (1, config.p)])
    nets[1].load_state_dict(nets[0].state_dict())
    optimizer = torch.optim.Adam(nets.parameters(), config.rate, fused=True)
    nets, optimizer = run.prepare(nets=nets, optimizer=optimizer)

    for step, index in run.indices(shuffled(len(images), B, run.seed), steps=config.updates):
        optimizer.param_groups[0]["lr"] = config.rate * (1 - step / config.updates)
        for (x, *r), weight in run.micro_batches((images[index], *masks(run, nets, step)), nets, of=B):
            losses = distance(nets([x, x], *r), x, config.loss)
            run.backward(losses.sum() * weight)
            run.log(**dict(zip((f"loss_{name}" for name in NAMES), losses.detach() * weight, strict=True)))
        optimizer.step()
        optimizer.zero_grad()

    hidden = gathered(
        run, nets, test_images, lambda net, x: net.layers(x)[1]
    )  # (2, n, n_1), weights scaled where units were dropped
    pictures.draw_activations(run, NAMES, hidden)
    found = {}
    for name, y in zip(NAMES, hidden, strict=True):
        found |= {f"mean_activation_{name}": y.mean().item(), f"share_at_zero_{name}": 100 * (y == 0).double().mean().item()}
        found[f"share_dead_{name}"] = 100 * (y == 0).all(0).double().mean().item()
    decoded = gathered(run, nets, test_images, lambda net, x: net(x))
    losses = distance(decoded, test_images, config.loss).tolist()
    found |= {f"test_loss_{name}": loss for name, loss in zip(NAMES, losses, strict=True)}
    return found | {"plain_is_more_active": found["mean_activation_plain"] - found["mean_activation_dropout"]}


def distance(decoded: Tensor, x: Tensor, loss: str) -> Tensor:
    """Of each net, a sum over pixels, a mean over images: (T, B, n_0), (B, n_0) -> (T,)."""
    if loss == "squared":
        return (decoded - x).square().sum(2).mean(1) / 2
    return binary_cross_entropy_with_logits(decoded, x.expand_as(decoded), reduction="none").sum(2).mean(1)
