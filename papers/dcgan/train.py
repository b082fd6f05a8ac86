"""DCGANs: Table 3, digits that are generated with labels as the training set of a nearest-neighbour classifier of real ones.

    make reproduce-dcgan                                         # MNIST, 200 epochs, judged by 10 million samples
    make reproduce-dcgan SEEDS="0 1 2" GPUS=3                    # one process for each seed, side by side
    torchrun --nproc-per-node 2 -m papers.dcgan.train mnist      # the batch of 128 is shared out; statistics are per process
    make reproduce-dcgan GPUS=8 NODES=2 NODE_RANK=0 MASTER=first-host  # on the first of two machines, NODE_RANK=1 on the other

Generator and discriminator are updated in turn, each on its own minibatch, as in the authors' code. At the end a run prints each
claim with the verdict, and writes samples, how they came to be (an animated picture), interpolations, and the training images that
are nearest to samples.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.claims import Claim, Experiment
from common.command import reproduce
from common.data import mnist, standin
from common.data.order import shuffled
from common.options import at_least_one, fraction, positive
from common.run import Run
from papers.dcgan.model import MLP, ConditionalDiscriminator, ConditionalGenerator, Norm
from papers.dcgan.neighbours import errors, noise, sampled, wrong_by_samples
from papers.dcgan.pictures import draw_digits, draw_epoch


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


@dataclass(frozen=True)
class Mnist(Config):
    """Of the conditional pair on MNIST (appendix), as the authors' code has it."""

    net: Literal["convolutional", "mlp"] = "convolutional"
    """mlp: Table 3's permutation-invariant GAN."""
    broken: Literal["none", "no-batch-norm", "batch-norm-everywhere", "max-pooling", "relu-in-d", "joint-batch"] = "none"
    """A rule of Sec. 3 that is broken, to see what it is for; joint-batch: D sees real and generated images in one batch."""
    maps: int = 64
    """Feature maps of 14 x 14."""
    units: int = 1024
    """Of a fully connected layer."""
    train_size: int = 50_000
    """Training images: the first ones; the next 10,000 are for validation."""
    samples: int = 10_000_000
    """Generated digits that the nearest neighbours of test images are sought among."""
    evaluate_every: int = 5
    """Epochs between two looks at the validation images."""
    data: Literal["mnist", "made-up"] = "mnist"
    """made-up: stand-in images, for tests."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "maps", "units", "train_size", "samples", "evaluate_every")
        if self.train_size > 50_000:
            raise ValueError(f"--train-size {self.train_size}: must be at most 50,000, the other images are for validation")
        if self.train_size < self.batch_size:
            raise ValueError(f"--train-size {self.train_size} is less than --batch-size {self.batch_size}")
        if self.net == "mlp" and self.broken != "none":
            raise ValueError(f"--broken {self.broken}: its rule is one of convolutional nets, not of --net mlp")


def train(run: Run[Mnist]) -> dict[str, float]:
    config, B = run.config, run.config.batch_size
    digits = data(run)
    n = config.train_size
    steps = config.epochs * n // B
    ends = {-(-epoch * n // B): epoch for epoch in range(1, config.epochs + 1)}  # after so many updates an epoch is over
    ends[steps] = config.epochs

    G, D = networks(config)
    G, D = G.to(memory_format=torch.channels_last), D.to(memory_format=torch.channels_last)
    generator, model, latest, g_adam, d_adam = run.prepare(
        generator=G, model=D, latest=Latest(), g_adam=adam(G, config), d_adam=adam(D, config)
    )
    for step, index in run.indices(shuffled(n, B, run.seed), steps=steps):
        turn, adam_of_turn = (generator, g_adam) if step % 2 == 0 else (model, d_adam)  # each on minibatches of its own (code)
        adam_of_turn.param_groups[0]["lr"] = rate = config.rate_at(step * B // n)
        D.requires_grad_(turn is model)  # what is not updated needs no gradient
        z = noise(B, config.Z, run.device, run.seed, "z", step)[0][run.share(B)]
        index = index.to(run.device, non_blocking=True)
        batch = z, shown(digits.images[index]), one_hot(digits.labels[index], z.dtype)
        latest.begin(turn is model)
        for (z, x, y), weight in run.micro_batches(batch, turn, of=B):
            loss, *found = d_loss(run, G, model, z, x, y) if turn is model else g_loss(run, generator, D, z, y)
            run.backward(loss * weight)
            latest.add(weight, loss, *found)
        adam_of_turn.step()
        adam_of_turn.zero_grad()
        run.log(**latest.values())
        if (epoch := ends.get(step + 1)) and (epoch == 1 or epoch % config.evaluate_every == 0 or epoch == config.epochs):
            run.report(epoch=epoch, lr=rate, **validate(run, generator, digits))
            draw_epoch(run, generator, epoch)

    metrics = validate(run, generator, digits) | judge(run, generator, digits)
    draw_digits(run, generator, digits.images)
    return metrics | {name: value.item() for name, value in latest.values().items()}


def g_loss(run: Run[Mnist], generator: nn.Module, D: nn.Module, z: Tensor, y: Tensor) -> tuple[Tensor]:
    """-log D(G(z)), a mean over the minibatch: what does not saturate (code)."""
    with run.autocast():
        fake = D(generator(z, y), y)  # log-odds (b,)
    return (F.softplus(-fake.to(z.dtype)).mean(),)


def d_loss(run: Run[Mnist], G: nn.Module, discriminator: nn.Module, z: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """-log D(x) - log(1 - D(G(z))), means of D(x) and of D(G(z)). Batch norm sees real and generated images apart (code)."""
    with run.autocast():
        with torch.no_grad():
            generated = G(z, y)
        if run.config.broken == "joint-batch":
            real, fake = discriminator(torch.cat([x, generated.to(x.dtype)]), torch.cat([y, y])).chunk(2)
        else:
            real, fake = discriminator(x, y), discriminator(generated, y)
    real, fake = real.to(z.dtype), fake.to(z.dtype)
    return F.softplus(-real).mean() + F.softplus(fake).mean(), real.sigmoid().mean(), fake.sigmoid().mean()


class Latest(nn.Module):
    """What the latest minibatch of each net gave, so that every line of the log has both. At first: what a coin would."""

    NAMES = ("g_loss", "d_loss", "d_real", "d_fake")

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("numbers", torch.tensor([math.log(2), 2 * math.log(2), 0.5, 0.5]))

    def begin(self, of_discriminator: bool) -> None:
        self.part = self.numbers[1:] if of_discriminator else self.numbers[:1]
        self.part.zero_()

    def add(self, weight: float, *values: Tensor) -> None:
        self.part += weight * torch.stack(values).detach()

    def values(self) -> dict[str, Tensor]:
        return dict(zip(self.NAMES, self.numbers.clone(), strict=True))


def networks(config: Mnist) -> tuple[nn.Module, nn.Module]:
    if config.net == "mlp":
        return MLP(config.Z, config.units, 784, slope=0, first_norm=True), MLP(784, config.units, 1, slope=0.2, first_norm=False)
    norms: dict[str, Norm] = {"no-batch-norm": "nowhere", "batch-norm-everywhere": "everywhere"}
    norm, slope = norms.get(config.broken, "inside"), 0.0 if config.broken == "relu-in-d" else 0.2
    generator = ConditionalGenerator(config.Z, 10, config.maps, config.units, norm)
    return generator, ConditionalDiscriminator(10, config.maps, config.units, norm, config.broken == "max-pooling", slope)


def adam(net: nn.Module, config: Config) -> torch.optim.Adam:
    return torch.optim.Adam(net.parameters(), config.lr, (config.beta1, 0.999), eps=1e-8, weight_decay=config.l2, fused=True)


class Digits(NamedTuple):
    """Bytes (n, 28, 28) and labels (n,): those to learn, those to look at in training, those to test on."""

    images: Tensor
    labels: Tensor
    validation_images: Tensor
    validation_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def data(run: Run[Mnist]) -> Digits:
    """On the run's device."""
    config, n, sha256 = run.config, run.config.train_size, ""
    if config.data == "made-up":
        images, labels = standin.images(n + 100, 0, size=28)
        parts = [part for pair in zip(images[..., 0].split([n, 50, 50]), labels.split([n, 50, 50]), strict=True) for part in pair]
    else:
        run.on_main(lambda: mnist.fetch(run.data_dir))
        official = mnist.load(run.data_dir)
        sha256, images, labels = official.sha256, official.train_images, official.train_labels
        parts = [images[:n], labels[:n], images[50_000:], labels[50_000:], official.test_images, official.test_labels]
    digits = Digits(*(part.to(run.device) for part in parts))
    run.describe_data(name="mnist", sha256=sha256, train=n, test=len(digits.test_images), stand_in=config.data == "made-up")
    return digits


def shown(digits: Tensor) -> Tensor:
    """Bytes (n, 28, 28) -> (n, 1, 28, 28) in [0, 1] (code)."""
    return digits[:, None].to(torch.get_default_dtype()) / 255


def flat(digits: Tensor) -> Tensor:
    """Bytes (n, 28, 28) -> (n, 784) in [0, 1], fp32."""
    return digits.flatten(1).float() / 255


def one_hot(labels: Tensor, dtype: torch.dtype) -> Tensor:
    return F.one_hot(labels, 10).to(dtype)


SIZES = (1000, 10_000, 50_000, 100_000, 1_000_000, 10_000_000)  # numbers of generated samples; the first two in training, too


def named(size: int) -> str:
    """1k, 50k, 10m."""
    return next((f"{size // unit}{name}" for unit, name in ((10**6, "m"), (1000, "k")) if size % unit == 0), str(size))


def validate(run: Run[Mnist], generator: nn.Module, digits: Digits) -> dict[str, float]:
    """Errors in % on the validation images of nearest neighbours among generated samples, and how these vary within a class."""
    sizes = [size for size in SIZES[:2] if size <= run.config.samples] or [run.config.samples]
    with run.evaluating(generator) as net:
        x, y = sampled(run, net, 0, sizes[-1], "validation")
    found = errors(run, flat(digits.validation_images), digits.validation_labels, sizes, lambda a, b: (x[a:b], y[a:b]))
    metrics = {f"validation_error_1nn_{named(size)}": error for size, (error, _) in found.items()}
    metrics[f"validation_distance_{named(sizes[-1])}"] = found[sizes[-1]][1]
    real = variance(flat(digits.images[:10_000]), digits.labels[:10_000])
    return metrics | {"diversity": variance(x, y) / real}


def variance(x: Tensor, y: Tensor) -> float:
    """Of images (n, D) of one class, summed over pixels: the mean over the classes y (n,)."""
    return torch.stack([x[y == k].double().var(0).sum() for k in range(10)]).mean().item()


def judge(run: Run[Mnist], generator: nn.Module, digits: Digits) -> dict[str, float]:
    """Table 3: errors in % on the test images of nearest neighbours among generated samples, and among real ones."""
    config, images, labels = run.config, flat(digits.test_images), digits.test_labels
    real = flat(torch.cat([digits.images, digits.validation_images])), torch.cat([digits.labels, digits.validation_labels])
    found = errors(run, images, labels, [config.train_size, len(real[0])], lambda a, b: (real[0][a:b], real[1][a:b]))
    metrics = {f"real_error_1nn_{named(size)}": error for size, (error, _) in found.items()}
    sizes = sorted({config.samples, *(size for size in SIZES if size < config.samples)})
    wrong = wrong_by_samples(run, generator, images, labels, sizes)
    metrics |= {f"test_error_1nn_{named(size)}": 100 * wrong[size].double().mean().item() for size in sizes}
    if (few := 50_000) in wrong and (many := max(wrong)) > few:  # of the same test images, so that those count that change sides
        change = wrong[few].double() - wrong[many].double()
        metrics["fewer_errors"] = 100 * change.mean().item()
        metrics["fewer_errors_noise"] = 100 * (change.square().sum().sqrt() / len(change)).item()
    return metrics


PRECISION = {"cpu": "bf16", "cuda": "fp32"}
CURVES = ("epoch", "validation_error_1nn_1k", "validation_error_1nn_10k", "validation_distance_10k", "diversity")
RUN = {"precision": PRECISION, "curves": CURVES, "checkpoint_every": 240}
TABLE_3 = "Table 3, DCGAN"


def twice(error: float) -> tuple[float, str]:
    """Two standard errors of an error in % on 10,000 images, and where they come from."""
    size = 2 * math.sqrt(error * (100 - error) / 10_000)
    return round(size, 2), "two standard errors of an error rate on 10,000 test images; the paper gives no spread"


FEWER = Claim(
    "fewer_errors", 0, "%", "Table 3, DCGAN, 50K and 10M samples", noise=0.16,
    why="the sign is what is claimed: that more samples make fewer errors. The standard error by the test images that are right "
    "with one of the two and wrong with the other, a record's `fewer_errors_noise`: 0.16 if these are 250",
)  # fmt: skip
EXPERIMENTS = {
    "mnist": Experiment(
        Mnist(), kind="paper", source="Appendix, Table 3", cap="200 epochs", cost="8 h on one CPU core",
        claims=[
            Claim("test_error_1nn_50k", 2.98, "%", f"{TABLE_3}, 50K samples", True, *twice(2.98)),
            Claim("test_error_1nn_10m", 1.48, "%", f"{TABLE_3}, 10M samples", True, *twice(1.48)),
            FEWER,
        ],
        figures=("samples", "training", "interpolation", "nearest-training-images"), **RUN,
    ),
    "smoke": Experiment(
        Mnist(
            Z=10, batch_size=16, epochs=4, decay=2, maps=4, units=16, train_size=100, samples=300, evaluate_every=2, data="made-up"
        ),
        kind="smoke", source="Appendix", cap="4 epochs", cost="5 s", log_every=4, checkpoint_every=0, precision=PRECISION,
    ),
}  # fmt: skip


if __name__ == "__main__":
    reproduce(EXPERIMENTS, train)
