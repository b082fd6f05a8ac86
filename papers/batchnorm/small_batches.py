"""Wu and He (2018), Table 2 and Sec. 4.1 in small: batch norm and group norm as batches shrink, and layer and instance norm."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from common.data import cifar, standin
from common.data.order import mix, shuffled
from common.options import at_least_one, positive
from common.run import Run
from papers.batchnorm.model import CONVOLUTIONAL, ConvNet, population

COLLECTED = 2000  # training images for the population statistics, in batches of the net's own size


@dataclass(frozen=True)
class SmallBatches:
    """Hyper-parameters of Wu and He's Sec. 4.1, unless scaled."""

    nets: tuple[str, ...] = (
        *(f"{norm}-{batch}" for batch in (32, 16, 8, 4, 2) for norm in ("bn", "gn")), "ln-32", "in-32",
    )  # fmt: skip
    """Norm (bn, gn, ln, in) and images in a batch; each net learns from the same images in the same order."""
    images: int = 50_000
    """So many in all, one pass."""
    groups: int = 8
    rate: float = 0.1
    """For 32 images, and less in proportion; it falls to 0 in a straight line."""
    momentum: float = 0.9
    decay: float = 1e-4
    """L2, on all parameters."""
    data: Literal["cifar10", "made-up"] = "cifar10"
    """made-up: stand-in images, for tests."""

    def __post_init__(self) -> None:
        at_least_one(self, "images", "groups")
        positive(self, "rate")
        parts = {net: net.partition("-") for net in self.nets}
        malformed = [net for net, (norm, _, n) in parts.items() if norm not in CONVOLUTIONAL or not n.isdigit() or not int(n)]
        if wrong := malformed or [net for net in self.nets if self.largest % self.batch(net)]:
            raise ValueError(f"--nets: no '{wrong[0]}'; bn, gn, ln or in, and a size that divides the largest, as in gn-4")

    @property
    def largest(self) -> int:
        """Images of a step, which nets take in pieces of their own size."""
        return max(map(self.batch, self.nets))

    def batch(self, net: str) -> int:
        return int(net.partition("-")[2])


def compare(run: Run[SmallBatches]) -> dict[str, float]:
    config, of = run.config, run.config.largest
    images, labels, test = data(run)
    shown = scaled(images)
    nets = {}
    for name in config.nets:
        run.seed_all("weights")  # all nets begin with the same
        nets[name] = ConvNet(name.partition("-")[0], config.groups)
    rates = {name: config.rate * config.batch(name) / 32 for name in nets}
    made = {
        f"optimizer_{name}": torch.optim.SGD(net.parameters(), rates[name], config.momentum, weight_decay=config.decay, fused=True)
        for name, net in nets.items()
    }
    prepared = run.prepare(**nets, **made)
    nets, optimizers = dict(zip(nets, prepared, strict=False)), dict(zip(nets, prepared[len(nets) :], strict=True))
    steps = config.images // of

    for step, index in run.indices(shuffled(len(images), of, run.seed), steps=steps):
        index = index.to(run.device)
        x, y = shown(images[index]), labels[index]
        for name, net in nets.items():
            optimizers[name].param_groups[0]["lr"] = rates[name] * (1 - step / steps)
            size = config.batch(name)
            for a, b in zip(x.split(size), y.split(size), strict=True):
                loss = cross_entropy(net(a), b)
                run.backward(loss)
                optimizers[name].step()
                optimizers[name].zero_grad()
                run.log(**{f"train_loss_{name.replace('-', '_')}": loss.detach() * size / of})
    running = {name: error(run, net, shown, *test) for name, net in nets.items()}
    final = dict(running)
    for name, net in nets.items():
        if name.startswith("bn"):  # Algorithm 2 comes after training
            size = config.batch(name)
            draw = shuffled(len(images), size, mix(run.seed, "population"))
            with run.evaluating(net) as bare:
                population(bare, (shown(images[draw(k).to(run.device)]) for k in range(min(COLLECTED, len(images)) // size)))
            final[name] = error(run, net, shown, *test)
    return differences(running, final)


def data(run: Run[SmallBatches]) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Images (n, H, W, 3), uint8, and labels, and those of the test set, on the run's device."""
    if made_up := run.config.data == "made-up":
        learned, test = standin.images(256, 0, size=8), standin.images(128, 1, size=8)
        digest = {"generator": "common/data/standin.py", "seed": 0}
    else:
        run.on_main(lambda: cifar.fetch(run.data_dir))
        found = cifar.load(run.data_dir)
        learned, test = (found.train_images, found.train_labels), (found.test_images, found.test_labels)
        digest = {"sha256": found.sha256}
    run.describe_data(name="cifar10", train=len(learned[0]), test=len(test[0]), stand_in=made_up, **digest)
    (images, labels), test = ([part.to(run.device) for part in pair] for pair in (learned, test))
    return images, labels, test


def scaled(images: Tensor):
    """(B, H, W, 3), uint8 -> (B, 3, H, W), each channel with mean 0 and variance 1 over these images."""
    some = images[:10_000].to(torch.get_default_dtype())
    mean, std = some.mean((0, 1, 2)), some.std((0, 1, 2))
    return lambda x: ((x - mean) / std).permute(0, 3, 1, 2).contiguous()


def error(run: Run[SmallBatches], net: nn.Module, shown, images: Tensor, labels: Tensor) -> float:
    """Wrong answers, %."""
    mine = run.share(len(images))
    with run.evaluating(net) as bare:
        wrong = [bare(shown(x)).argmax(1) != y for x, y in zip(images[mine].split(500), labels[mine].split(500), strict=True)]
    return 100 * run.gather(torch.cat(wrong), len(images)).double().mean().item()


def differences(running: dict[str, float], final: dict[str, float]) -> dict[str, float]:
    """Errors, and how norms differ at a size, and sizes at a norm from batches of 32."""
    found = {f"test_error_{name.replace('-', '_')}": value for name, value in final.items()}
    for name, value in final.items():
        norm, _, size = name.partition("-")
        if norm == "bn":
            found[f"population_less_running_{size}"] = value - running[name]
            if f"gn-{size}" in final:
                found[f"bn_less_gn_{size}"] = value - final[f"gn-{size}"]
        if size != "32" and f"{norm}-32" in final:
            found[f"{norm}_rise_{size}"] = value - final[f"{norm}-32"]
        elif size == "32" and norm in ("ln", "in") and "bn-32" in final:
            found[f"{norm}_less_bn_32"] = value - final["bn-32"]
    return found
