"""What is common to all DCGANs' training: hyper-parameters of Sec. 4, both losses, and whose turn it is."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.options import at_least_one, fraction, positive
from common.run import Run


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of Sec. 4, unless another place is named."""

    Z: int = 100
    """Components of z, uniform in (-1, 1)."""
    batch_size: int = 128
    """Images in a minibatch, of which each updates one net."""
    epochs: int = 200
    """Passes through the training images, half of whose minibatches are the generator's (code)."""
    decay: int = 100
    """Of these the last ones, in which the rate falls to 0 by a straight line (code)."""
    lr: float = 0.0002
    """Adam's."""
    beta1: float = 0.5
    """Adam's; beta2 is 0.999 and epsilon 1e-8 (code)."""
    l2: float = 2.5e-5
    """Times each parameter is added to its gradient, in both nets (code)."""

    def __post_init__(self) -> None:
        at_least_one(self, "Z", "batch_size", "epochs")
        positive(self, "lr")
        fraction(self, "beta1")
        if not 0 <= self.decay <= self.epochs:
            raise ValueError(f"--decay must be from 0 to --epochs {self.epochs}, got {self.decay}")
        if not 0 <= self.l2 < math.inf:
            raise ValueError(f"--l2 must not be negative, got {self.l2}")

    def rate_at(self, epoch: int) -> float:
        """In the epoch of this number, the first being 0."""
        return self.lr * (1 - max(0, epoch - (self.epochs - self.decay)) / max(1, self.decay))


class Pair:
    """A generator and a discriminator that are updated in turn, `take_turn` by `take_turn`; prepared for this run."""

    def __init__(self, run: Run, G: nn.Module, D: nn.Module) -> None:
        G, D = G.to(memory_format=torch.channels_last), D.to(memory_format=torch.channels_last)
        self.run, self.config, self.G, self.D = run, run.config, G, D
        self.generator, self.discriminator, self.latest, self.g_adam, self.d_adam = run.prepare(
            generator=G, model=D, latest=Latest(), g_adam=adam(G, run.config), d_adam=adam(D, run.config)
        )

    def take_turn(self, step: int, rate: float, *batch: Tensor, joint: bool = False) -> None:
        """The update of one net: the generator's at even steps, the discriminator's at odd ones, each on its own minibatch (code).

        batch: z (b, Z), x (b, C, H, W), and y (b, K) where nets are conditional: this process's part of a minibatch.
        """
        run, g_turn = self.run, step % 2 == 0
        net, optimizer = (self.generator, self.g_adam) if g_turn else (self.discriminator, self.d_adam)
        optimizer.param_groups[0]["lr"] = rate
        self.D.requires_grad_(not g_turn)  # what is not updated needs no gradient
        self.latest.begin(g_turn)
        for (z, x, *y), weight in run.micro_batches(batch, net, of=self.config.batch_size):
            if g_turn:
                loss, *found = g_loss(run, self.generator, self.D, z, *y)
            else:
                loss, *found = d_loss(run, self.G, self.discriminator, z, x, *y, joint=joint)
            run.backward(loss * weight)
            self.latest.add(weight, loss, *found)
        optimizer.step()
        optimizer.zero_grad()
        run.log(**self.latest.values())


def g_loss(run: Run, generator: nn.Module, D: nn.Module, z: Tensor, *y: Tensor) -> tuple[Tensor]:
    """-log D(G(z)), a mean over the minibatch: what does not saturate (code)."""
    with run.autocast():
        fake = D(generator(z, *y), *y)  # log-odds (b,)
    return (F.softplus(-fake.to(z.dtype)).mean(),)


def d_loss(
    run: Run, G: nn.Module, discriminator: nn.Module, z: Tensor, x: Tensor, *y: Tensor, joint: bool = False
) -> tuple[Tensor, ...]:
    """-log D(x) - log(1 - D(G(z))), means of D(x) and of D(G(z)). Batch norm sees real and generated images apart (code).

    joint: it sees them in one batch, to see what for.
    """
    with run.autocast():
        with torch.no_grad():
            generated = G(z, *y)
        if joint:
            real, fake = discriminator(torch.cat([x, generated.to(x.dtype)]), *(torch.cat([t, t]) for t in y)).chunk(2)
        else:
            real, fake = discriminator(x, *y), discriminator(generated, *y)
    real, fake = real.to(z.dtype), fake.to(z.dtype)
    return F.softplus(-real).mean() + F.softplus(fake).mean(), real.sigmoid().mean(), fake.sigmoid().mean()


class Latest(nn.Module):
    """What the latest minibatch of each net gave, so that every line of the log has both. At first: what a coin would."""

    NAMES = ("g_loss", "d_loss", "d_real", "d_fake")

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("numbers", torch.tensor([math.log(2), 2 * math.log(2), 0.5, 0.5]))

    def begin(self, g_turn: bool) -> None:
        self.part = self.numbers[:1] if g_turn else self.numbers[1:]
        self.part.zero_()

    def add(self, weight: float, *values: Tensor) -> None:
        self.part += weight * torch.stack(values).detach()

    def values(self) -> dict[str, Tensor]:
        return dict(zip(self.NAMES, self.numbers.clone(), strict=True))


def adam(net: nn.Module, config: Config) -> torch.optim.Adam:
    return torch.optim.Adam(net.parameters(), config.lr, (config.beta1, 0.999), eps=1e-8, weight_decay=config.l2, fused=True)


def epoch_ends(config: Config, n: int) -> dict[int, int]:
    """Updates after which an epoch of n images is over -> its number; the last is that of all updates."""
    total = config.epochs * n // config.batch_size
    return {min(-(-epoch * n // config.batch_size), total): epoch for epoch in range(1, config.epochs + 1)}
