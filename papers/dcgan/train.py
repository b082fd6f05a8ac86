"""DCGANs: Table 3, digits that are generated with labels as the training set of a nearest-neighbour classifier of real ones.

    make reproduce-dcgan                                         # MNIST, 200 epochs, judged by 10 million samples
    make reproduce-dcgan SEEDS="0 1 2"                           # one seed after the other
    torchrun --nproc-per-node 2 -m papers.dcgan.train mnist      # the batch of 128 is shared out; statistics are per process
    make reproduce-dcgan GPUS=8 NODES=2 NODE_RANK=0 MASTER=first-host  # on the first of two machines, NODE_RANK=1 on the other

Generator and discriminator are updated in turn, each on its own minibatch, as in the authors' code. At the end a run prints each
claim with the verdict, and writes samples, how they came to be (an animated picture), interpolations, and the training images that
are nearest to samples.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common import figures
from common.claims import Claim, Experiment, Record
from common.command import reproduce
from common.data import mnist, standin
from common.data.order import shuffled
from common.options import at_least_one
from common.run import Run
from common.words import spread
from papers.dcgan import unlabelled
from papers.dcgan.model import MLP, ConditionalDiscriminator, ConditionalGenerator, Norm
from papers.dcgan.neighbours import errors, noise, sampled, wrong_by_samples
from papers.dcgan.pictures import draw_digits, draw_epoch
from papers.dcgan.unlabelled import Images
from papers.dcgan.updates import Config, Pair, epoch_ends


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


def train(run: Run[Mnist] | Run[Images]) -> dict[str, float]:
    return unlabelled.train(run) if isinstance(run.config, Images) else train_on_digits(run)


def train_on_digits(run: Run[Mnist]) -> dict[str, float]:
    config, B = run.config, run.config.batch_size
    digits = data(run)
    n = config.train_size
    ends = epoch_ends(config, n)  # updates -> epoch
    pair = Pair(run, *networks(config))
    for step, index in run.indices(shuffled(n, B, run.seed), steps=max(ends)):
        z = noise(B, config.Z, run.device, run.seed, "z", step)[0][run.share(B)]
        index = index.to(run.device, non_blocking=True)
        x, y = shown(digits.images[index]), one_hot(digits.labels[index], z.dtype)
        pair.take_turn(step, rate := config.rate_at(step * B // n), z, x, y, joint=config.broken == "joint-batch")
        if (epoch := ends.get(step + 1)) and (epoch == 1 or epoch % config.evaluate_every == 0 or epoch == config.epochs):
            run.report(epoch=epoch, lr=rate, **validate(run, pair.generator, digits))
            draw_epoch(run, pair.generator, epoch)

    metrics = validate(run, pair.generator, digits) | judge(run, pair.generator, digits)
    draw_digits(run, pair.generator, digits.images)
    return metrics | {name: value.item() for name, value in pair.latest.values().items()}


def networks(config: Mnist) -> tuple[nn.Module, nn.Module]:
    if config.net == "mlp":
        return MLP(config.Z, config.units, 784, slope=0, first_norm=True), MLP(784, config.units, 1, slope=0.2, first_norm=False)
    norms: dict[str, Norm] = {"no-batch-norm": "nowhere", "batch-norm-everywhere": "everywhere"}
    norm, slope = norms.get(config.broken, "inside"), 0.0 if config.broken == "relu-in-d" else 0.2
    generator = ConditionalGenerator(config.Z, 10, config.maps, config.units, norm)
    return generator, ConditionalDiscriminator(10, config.maps, config.units, norm, config.broken == "max-pooling", slope)


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
CITED = "The value as a later paper cites it; the table was not at hand"


def twice(error: float) -> tuple[float, str]:
    """Two standard errors of an error in % on 10,000 images, and where they come from."""
    size = 2 * math.sqrt(error * (100 - error) / 10_000)
    return round(size, 2), f"two standard errors of an error rate on 10,000 test images; the paper gives no spread. {CITED}"


TWO_ERRORS, TWO_ERRORS_SVHN = (
    f"two standard errors of a share of {n} test images; the paper gives no spread" for n in ("10,000", "26,032")
)
UNLABELLED = ("samples", "training", "interpolation", "features")
BROKEN = {
    "none": "the conditional pair as it is", "no-batch-norm": "no batch norm",
    "batch-norm-everywhere": "batch norm in G's output layer and D's input layer, too",
    "max-pooling": "max pooling in D in place of strides", "relu-in-d": "ReLU in D in place of LeakyReLU",
    "joint-batch": "real and generated images in one batch of D, and so in one batch norm",
}  # fmt: skip


def ablation(broken: Any) -> Experiment[Mnist]:
    """A rule of Sec. 3 that is broken, in 10 epochs."""
    return Experiment(
        Mnist(broken=broken, epochs=10, decay=0, samples=10_000, evaluate_every=2), kind="scaled", source="Sec. 3", cap="10 epochs",
        cost="20 min on one CPU core", figures=("samples",),
        note=f"{BROKEN[broken]}; the first 10 epochs at the rate of the paper's, and 10,000 samples", **RUN,
    )  # fmt: skip


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
    "cifar10-features": Experiment(
        Images(data="imagenet", Z=256, epochs=30, labelled=(0, 400)), kind="paper", source="Sec. 5.1, Table 1", cap="30 epochs",
        cost="5 h on one A100, by its multiply-adds; not run", figures=UNLABELLED, checkpoint_every=300,
        claims=[
            Claim("test_accuracy_svm_all_labels", 82.8, "%", "Table 1, DCGAN + L2-SVM", tolerance=0.75, why=TWO_ERRORS),
            Claim(
                "test_accuracy_svm_400_a_class", 73.8, "%", "Table 1, DCGAN + L2-SVM, 400 per class", tolerance=0.88,
                why=f"{TWO_ERRORS}. {CITED}",
            ),
        ],
    ),
    "svhn-1000": Experiment(
        Images(data="svhn", epochs=200, batch_size=64, lr=0.0005, prior="normal", width=64, labelled=(100,)), kind="paper",
        source="Sec. 5.2, Table 2", cap="200 epochs", cost="8 h on one CPU core, by its multiply-adds; not run",
        claims=[Claim("test_error_svm_100_a_class", 22.48, "%", "Table 2, DCGAN + L2-SVM", True, 0.52, TWO_ERRORS_SVHN)],
        figures=UNLABELLED, checkpoint_every=300,
    ),
    "lsun": Experiment(
        Images(data="lsun"), kind="paper", source="Sec. 4.1, Figs. 2 and 3", cap="5 epochs", figures=UNLABELLED,
        cost="5 h on one A100, by its multiply-adds; not run", checkpoint_every=300,
    ),
    "faces": Experiment(
        Images(data="faces", epochs=25), kind="paper", source="Sec. 4.2, Fig. 10", cap="25 epochs", figures=UNLABELLED,
        cost="3 h on one A100 for 350,000 faces, by its multiply-adds; not run", checkpoint_every=300,
    ),
    "cifar10-features-scaled": Experiment(
        Images(data="cifar10", Z=256, epochs=10, width=64, labelled=(400,), trials=2, draws=5, controls=True), kind="scaled",
        source="Sec. 5.1", cap="10 epochs", cost="2 h on one CPU core", figures=UNLABELLED, precision=PRECISION,
        note="learned from CIFAR-10's own images, without labels, in 10 epochs, half as wide; 5 draws of labels",
    ),
    "mnist-mlp-gan": Experiment(
        Mnist(net="mlp", samples=50_000), kind="reading", source="Appendix, Table 3, GAN", cap="200 epochs", **RUN,
        cost="1 h on one CPU core",
        note="a permutation-invariant GAN, of which Table 3 says no more: two hidden layers of 1,024 units, and what else is the "
        "DCGAN's; the paper has 6.28 % with 50,000 samples, by memory",
    ),
    **{f"rules-{broken}": ablation(broken) for broken in BROKEN},
    "smoke": Experiment(
        Mnist(
            Z=10, batch_size=16, epochs=4, decay=2, maps=4, units=16, train_size=100, samples=300, evaluate_every=2, data="made-up"
        ),
        kind="smoke", source="Appendix", cap="4 epochs", cost="5 s", log_every=4, checkpoint_every=0, precision=PRECISION,
    ),
    "smoke-features": Experiment(
        Images(
            data="made-up", Z=10, batch_size=16, epochs=2, width=2, labelled=(4,), trials=1, draws=2, controls=True,
        ),
        kind="smoke", source="Sec. 5", cap="2 epochs", cost="5 s", log_every=4, checkpoint_every=0, precision=PRECISION,
    ),
}  # fmt: skip


COLLAPSED = 0.5  # digits of a class that vary less than half as much as real ones: a choice


def rules(records: list[Record]) -> list[list[str]]:
    """What each rule of Sec. 3 is for, as a table for README.md; means over seeds."""
    rows = [["experiment", "broken rule", "`test_error_1nn_10k`, %", "`diversity`", "collapsed"]]
    for broken, what in BROKEN.items():
        mine = [record["metrics"] for record in records if record["experiment"] == f"rules-{broken}"]
        errors, varied = ([each[name] for each in mine] for name in ("test_error_1nn_10k", "diversity"))
        fallen = f"{sum(each < COLLAPSED for each in varied)} of {len(varied)}" if mine else "not run"
        rows.append([f"`rules-{broken}`", what, *(spread(v) if v else "–" for v in (errors, varied)), fallen])
    return rows


def errors_by_samples(records: list[Record]) -> Any:
    """Errors on test images by how many samples are sought among, beside real images and the paper's two numbers."""
    lines = {}
    for record in records:
        sizes = [size for size in SIZES if f"test_error_1nn_{named(size)}" in record["metrics"]]
        errors = [record["metrics"][f"test_error_1nn_{named(size)}"] for size in sizes]
        lines[f"generated, seed {record['seed']}"] = sizes, errors, "o-"
    real = [records[0]["metrics"][f"real_error_1nn_{n}"] for n in ("50k", "60k")]
    lines |= {"real images": ([50_000, 60_000], real, "ks:"), "the paper's": ([50_000, 10_000_000], [2.98, 1.48], "r^--")}
    axes = {"xlabel": "samples", "ylabel": "errors on test images, %", "xscale": "log", "yscale": "log"}
    return figures.curves(lines, {}, **axes)


def validation(records: list[Record]) -> Any:
    """Errors on validation images by epochs."""
    lines = {}
    for record in records:
        for n, style in (("1k", "--"), ("10k", "-")):
            curve = record["curves"][f"validation_error_1nn_{n}"]
            lines[f"{n} samples, seed {record['seed']}"] = record["curves"]["epoch"], curve, f"C{record['seed']}{style}"
    return figures.curves(lines, {}, xlabel="epochs", ylabel="errors on validation images, %", ylim=(0, 20))


TABLES = {"rules": rules}
PICTURES = {"errors-by-samples": (["mnist"], errors_by_samples), "validation": (["mnist"], validation)}


if __name__ == "__main__":
    reproduce(EXPERIMENTS, train)
