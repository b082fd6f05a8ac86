"""Hyper-parameters, with the nets, optimizers and examples that follow from them: fine-tuning, pre-training, and from scratch."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from common.options import at_least_one, fraction, positive
from common.run import Run
from papers.vit import data as sets
from papers.vit import model as nets
from papers.vit.pictures import SHARES
from papers.vit.start import starting_point

Networks = tuple[dict[str, nn.Module], dict[str, Any]]  # by their names, and what the record says of given weights


@dataclass(frozen=True)
class Config:
    """Hyper-parameters that all have in common."""

    lr: float
    """The highest rate."""
    steps: int
    """Updates."""
    batch_size: int
    """Images for one update, on all processes together."""
    warmup: int
    """Updates in which the rate rises from zero, in a line; then it falls to zero along a cosine (Tables 3 and 4)."""
    clip: float = 1.0
    """Longest gradient."""
    dropout: float = 0.0
    evaluate_every: int = 1_000
    """Updates between two looks at the test set."""
    held_out: bool = False
    """Test on images that are held out from training instead: to choose rates (Appendix B.1.1)."""

    def __post_init__(self) -> None:
        positive(self, "lr", "clip")
        at_least_one(self, "batch_size", "steps", "evaluate_every")
        fraction(self, "dropout")
        if not 0 <= self.warmup < self.steps:
            raise ValueError(f"--warmup must be at least 0 and below --steps {self.steps:,}, got {self.warmup:,}")

    def rate(self, name: str, step: int) -> float:
        """Of the net of this name. Steps count from 0, where with a warm-up the rate is 0, as in the official code."""
        done = max(0, step - self.warmup) / (self.steps - self.warmup)
        rising = step / self.warmup if step < self.warmup else 1.0
        return self.lr * rising * (1 + math.cos(math.pi * done)) / 2

    def share(self, name: str) -> float:
        """Of the training images, that this net learns from."""
        return 1.0

    @property
    def outputs(self) -> int:
        return sets.CLASSES[self.data]


@dataclass(frozen=True)
class Finetuning(Config):
    """Hyper-parameters of Table 4 and Sec. 3.2."""

    lr: float = 0.03
    """Table 4 sweeps four rates on a part of the training set; these are the official code's."""
    steps: int = 10_000
    batch_size: int = 512
    warmup: int = 500
    data: Literal["imagenet", "cifar10", "cifar100", "pets", "flowers", "made-up"] = "cifar10"
    """made-up: stand-in images, for tests."""
    net: Literal["b16", "b32", "l16", "l32", "h14", "any"] = "b16"
    """What the weights have to be."""
    weights: str = "jax-imagenet21k/ViT-B_16"
    """Pre-trained ones: what `pretrained.py` takes, the directory of a run of ours, or the name of an experiment of ours, whose run
    with seed 0 lies in OUT. made-up: random ones, for tests."""
    image: int = 384
    """Side of the images, for which the positions are resampled (Sec. 3.2)."""
    momentum: float = 0.9
    classes: int = 0
    """Of one's own folders in ImageNet's place; 0: the set's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction(self, "momentum")
        at_least_one(self, "image")

    def networks(self, run: Run) -> Networks:
        width = {"b": (768, 12), "l": (1024, 24), "h": (1280, 32)}
        expected = None if self.net == "any" else (int(self.net[1:]), *width[self.net[0]])
        net, about = starting_point(run, expected, self.outputs)
        return {"": net}, about

    @property
    def outputs(self) -> int:
        return self.classes or super().outputs

    def optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(net.parameters(), self.lr, momentum=self.momentum, fused=True)

    def examples(self, run: Run, about: dict[str, Any]) -> sets.Data:
        on_device = self.data in ("cifar10", "cifar100", "made-up")
        return (sets.large if on_device else sets.photographs)(run, about)


@dataclass(frozen=True)
class FromScratch(Config):
    """Adam's hyper-parameters (Sec. 4.1)."""

    weight_decay: float = 0.3
    """Decoupled and times the rate; of matrices, not of biases, norms, positions and the class token."""
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"--weight-decay must not be negative, got {self.weight_decay}")

    def optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        whole = [
            p for name, p in net.named_parameters() if p.ndim > 1 and not name.endswith(("positions", "token", "offsets", "X", "Y"))
        ]
        rest = [p for p in net.parameters() if all(p is not other for other in whole)]
        groups = [{"params": whole, "weight_decay": self.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, self.lr, betas=self.betas, fused=True)


@dataclass(frozen=True)
class Pretraining(FromScratch):
    """Hyper-parameters of Table 3, ImageNet."""

    lr: float = 3e-3
    steps: int = 93_835
    """300 passes through 1,281,167 images."""
    batch_size: int = 4096
    warmup: int = 10_000
    dropout: float = 0.1
    data: Literal["imagenet"] = "imagenet"
    net: Literal["b16", "b32", "l16", "l32"] = "b16"
    image: int = 224

    def networks(self, run: Run) -> Networks:
        make = {"b16": nets.vit_b_16, "b32": nets.vit_b_32, "l16": nets.vit_l_16, "l32": nets.vit_l_32}[self.net]
        return {"": make(image=self.image, hidden=True, dropout=self.dropout)}, {}

    def examples(self, run: Run, about: dict[str, Any]) -> sets.Data:
        return sets.photographs(run, about)


@dataclass(frozen=True)
class Small(FromScratch):
    """Hyper-parameters of nets that two CPU cores can train from scratch; none of them is the paper's."""

    lr: float = 1e-3
    steps: int = 1_000
    batch_size: int = 128
    warmup: int = 100
    weight_decay: float = 0.1
    data: Literal["cifar10", "made-up"] = "cifar10"
    """made-up: stand-in images, for tests."""
    beside: Literal["nothing", "positions", "pooling", "resnet"] = "nothing"
    """What is compared: the four of Table 8; class token and averages (Fig. 9); with a ResNet, on 5, 20 and 100 % of the images."""
    patch: int = 4
    width: int = 96
    layers: int = 4
    heads: int = 3
    mlp: int = 192
    resnet: tuple[int, int, int, int] = (1, 1, 1, 1)
    """Blocks in the stages of the ResNet beside it, of `channels`, twice, four and eight times as many channels."""
    channels: int = 64
    resnet_lr: float = 1e-3
    """Its highest rate."""
    slow: float = 0.375
    """The second rate of averages, in terms of the first: Fig. 9 has 8e-4 and 3e-4."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "resnet_lr", "slow")
        at_least_one(self, "patch", "width", "layers", "heads", "mlp")
        if 32 % self.patch or self.width % self.heads or self.width % 2:
            raise ValueError(
                "--patch must divide 32, and --width be even and a multiple of --heads, "
                f"got {self.patch}, {self.width} and {self.heads}"
            )

    def networks(self, run: Run) -> Networks:
        def vit(**more: str) -> nets.ViT:
            run.seed_all("net")
            return nets.ViT(
                self.patch, self.width, self.layers, self.heads, self.mlp, image=32, classes=10, dropout=self.dropout, **more
            )

        if self.beside == "positions":
            return {f"{name}_": vit(positions=how) for name, how in POSITIONS.items()}, {}
        if self.beside == "pooling":
            return {"token_": vit(), "average_": vit(pool="average"), "average_slow_": vit(pool="average")}, {}
        if self.beside == "resnet":
            return {f"{name}_{share}_": make() for share in SHARES for name, make in (("vit", vit), ("resnet", self.cnn))}, {}
        return {"": vit()}, {}

    def cnn(self) -> nn.Module:
        """timm's ResNet, whose stem for small images is a 3 x 3 with stride 2 and no pooling."""
        from timm.models.resnet import BasicBlock, ResNet

        net = ResNet(BasicBlock, self.resnet, 10, channels=tuple(self.channels * 2**i for i in range(4)))
        net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, 2, 1, bias=False), nn.Identity()
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")  # as timm's other convolutions
        return net.to(memory_format=torch.channels_last)

    def rate(self, name: str, step: int) -> float:
        rate = super().rate(name, step)
        return rate * {"resnet": self.resnet_lr / self.lr, "average_slow": self.slow}.get(name.rstrip("_0123456789"), 1.0)

    def share(self, name: str) -> float:
        return int(name.split("_")[1]) / 100 if self.beside == "resnet" else 1.0

    def examples(self, run: Run, about: dict[str, Any]) -> sets.Data:
        return sets.small(run, about)


POSITIONS = {"none": "none", "1d": "1-D", "2d": "2-D", "relative": "relative"}  # Table 8
