"""CLIP on any set of images with captions (Sec. 2), and at small size on emoji drawings and on CIFAR-10 with captions.

    make reproduce-clip EXPERIMENT=emoji SEEDS="0 1 2"                  # drawings and their names; half an hour on one CPU core
    make reproduce-clip EXPERIMENT=efficiency                           # Fig. 2 in small: three ways to learn from captions
    make reproduce-clip GPUS=8 NODES=16 NODE_RANK=0 MASTER=host:29500 ARGS="--pairs /shards/yfcc15m"      # the first of 16 machines
    torchrun --nproc-per-node=8 -m papers.clip.train cc3m-b16 --data-dir /data --pairs /data/cc3m --micro-batch 64

Shards (*.tar) are WebDataset's; a folder with captions.jsonl serves as well. ImageNet, on which they are tested zero-shot, is
looked for in --data-dir. Every number of processes and of micro-batches gives the contrast of the whole global batch. At the end a
run prints, for each claim, the paper's value, ours and the verdict.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from common.claims import Claim, Experiment
from common.command import reproduce
from common.data.order import shuffled
from common.options import at_least_one, fraction, positive
from common.processes import bare
from common.run import Run
from papers.clip.contrast import learn
from papers.clip.data import Data, any_pairs, cifar10, emoji
from papers.clip.evaluation import evaluate, gains
from papers.clip.model import CLIP, MODELS, ModifiedResNet, TextEncoder, VisionTransformer, clip
from papers.clip.objectives import BagOfWords, CaptionPrediction, Supervised, WordPrediction
from papers.clip.pictures import draw_curves, draw_retrieval
from papers.clip.zeroshot import zero_shot


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of Table 18."""

    steps: int
    """Updates of each net."""
    evaluate_every: int
    """Updates between two looks at the test set."""
    batch_size: int = 32_768
    """Pairs for one update, on all processes together, each compared with all."""
    lr: float = 5e-4
    """Learning rate after the warm-up (Tables 19 and 20)."""
    warmup: int = 2_000
    """Updates in which it rises in a line; then it falls to 0 as a cosine."""
    weight_decay: float = 0.2
    """Decoupled, of all weights that are not gains or biases."""
    beta2: float = 0.98
    """Adam's; 0.999 for ResNets."""
    eps: float = 1e-6
    """Adam's; 1e-8 for ResNets."""

    def __post_init__(self) -> None:
        positive(self, "lr", "eps")
        at_least_one(self, "batch_size", "steps", "evaluate_every", "warmup")
        fraction(self, "weight_decay", "beta2")

    def lr_at(self, step: int) -> float:
        rising, left = min(1.0, (step + 1) / self.warmup), max(0, step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * rising * (1 + math.cos(math.pi * left)) / 2


@dataclass(frozen=True)
class Paper(Config):
    """Hyper-parameters of Sec. 2 and Table 18."""

    model: Literal[*MODELS] = "RN50"
    """Of Tables 19 and 20."""
    set: str = "yfcc15m"
    """The name of the pairs; their folder in --data-dir, where --pairs names none."""
    pairs_in_set: int = 14_829_396
    """How many it has; fewer are a stand-in."""
    pairs: str = ""
    """A folder of WebDataset shards, or one with captions.jsonl."""
    skip_broken: bool = False
    """Take the next pair where an image does not decode or a caption is empty; the run's metrics say how many, in %."""
    test: str = "imagenet"
    """What it classifies zero-shot: a set that pretrained.py knows, or a folder of images."""
    prompts: str = ""
    """Classes and templates of a folder, as pretrained.py takes them."""
    narrow: int = 1
    """Widths and the embedding are divided by it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "narrow")
        _, _, _, width, text_width, _ = MODELS[self.model]
        if any(each % (64 * self.narrow) for each in ((width[0], text_width) if "ViT" in self.model else (text_width,))):
            raise ValueError(f"--narrow must leave heads of 64 in both encoders, got {self.narrow}")

    @property
    def side(self) -> int:
        return MODELS[self.model][1]

    def networks(self, data: Data) -> dict[str, nn.Module]:
        if self.narrow == 1:
            return {"": clip(self.model)}
        E, side, layers, width, D, _ = MODELS[self.model]
        E, D, k = E // self.narrow, D // self.narrow, self.narrow
        vit = "ViT" in self.model
        image = VisionTransformer(E, width[0] // k, layers, width[1], side) if vit else ModifiedResNet(E, layers, width // k, side)
        return {"": CLIP(image, TextEncoder(E, D))}


@dataclass(frozen=True)
class Small(Config):
    """Hyper-parameters of nets for two cores, which the paper does not have."""

    data: Literal["emoji", "cifar10", "made-up"] = "emoji"
    """made-up: stand-in images, for tests."""
    compare: Literal["supervised", "objectives"] = "supervised"
    """Nets that learn from the same images: with captions and with labels; or by the three objectives of Fig. 2."""
    judged_on: Literal["test", "val"] = "test"
    """val: what is held out of the training set, to choose hyper-parameters by."""
    among: int = 0
    """Classes of which one is to be found; 0: all."""
    image: Literal["vit", "resnet"] = "resnet"
    image_layers: tuple[int, ...] = (1, 1, 1, 1)
    """Of a ViT its layers, of a ResNet the blocks of each of its four stages."""
    image_width: int = 32
    """Of a ViT's layers, or of a ResNet's first stage."""
    patch: int = 8
    embedding: int = 128
    """E, what images and captions have in common."""
    text_layers: int = 2
    text_width: int = 128
    vocabulary: int = 4_096
    """Tokens: the authors' first ones."""
    batch_size: int = 256
    lr: float = 1e-3
    warmup: int = 100
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "image_width", "patch", "embedding", "text_layers", "text_width", *(["among"] if self.among else []))
        if not 514 <= self.vocabulary <= 49_408:
            raise ValueError(f"--vocabulary must be 514, which are bytes, to 49408, got {self.vocabulary}")
        if len(self.image_layers) != (1 if self.image == "vit" else 4) or min(self.image_layers) < 1:
            raise ValueError(f"--image-layers must be one number for a ViT and four for a ResNet, got {self.image_layers}")
        if self.text_width % 64 or (self.image == "vit" and self.image_width % 64):
            raise ValueError("--text-width and a ViT's --image-width must be multiples of 64, the width of a head")
        if self.compare == "objectives" and not self.among:
            raise ValueError("--compare objectives asks for --among: a caption has to be predicted for each of the classes")

    def encoder(self, data: Data) -> nn.Module:
        if self.image == "vit":
            return VisionTransformer(self.embedding, self.image_width, self.image_layers[0], self.patch, data.side)
        return ModifiedResNet(self.embedding, self.image_layers, self.image_width, data.side)

    def networks(self, data: Data) -> dict[str, nn.Module]:
        E, D, V, image = self.embedding, self.text_width, data.vocabulary.size, lambda: self.encoder(data)
        if self.compare == "supervised":
            text = TextEncoder(E, D, self.text_layers, data.context, V)
            return {"": CLIP(image(), text), "supervised_": Supervised(image(), E, len(data.prompts))}
        return {
            "contrastive_": CLIP(image(), BagOfWords(E, D, V)),
            "words_": WordPrediction(image(), E, V),
            "caption_": CaptionPrediction(image(), E, D, self.text_layers, data.context, V),
        }


LOADERS = {"emoji": emoji, "cifar10": cifar10, "made-up": cifar10}


def train(run: Run[Paper | Small]) -> dict[str, float]:
    config, N = run.config, run.config.batch_size
    torch.backends.cudnn.benchmark = True  # all batches have one shape
    data = any_pairs(run) if isinstance(config, Paper) else LOADERS[config.data](run)
    objects: dict[str, Any] = {}
    for name, net in config.networks(data).items():
        objects[f"{name}model"] = net = net.to(memory_format=torch.channels_last)
        objects[f"{name}optimizer"] = adam(net, config)
    names = [name.removesuffix("model") for name in objects if name.endswith("model")]
    objects = dict(zip(objects, run.prepare(**objects), strict=True))
    models = {name: objects[f"{name}model"] for name in names}
    draw = shuffled(data.n, N, run.seed)
    for step, drawn in run.loaded(data.reader, draw, steps=config.steps) if data.reader else run.indices(draw, steps=config.steps):
        batch = data.shown(step, drawn)  # images (b, 3, H, W), tokens (b, T), and labels (b,) where there are any
        for name, model in models.items():
            optimizer = objects[f"{name}optimizer"]
            for group in optimizer.param_groups:
                group["lr"] = config.lr_at(step)
            if isinstance(bare(model), CLIP):
                run.log(**{f"{name}train_loss": learn(run, model, *batch[:2], N)})
            else:
                for piece, weight in run.micro_batches(batch, model, of=N):
                    with run.autocast():
                        loss = model(*piece)
                    run.backward(loss * weight)
                    run.log(**{f"{name}train_loss": loss.detach() * weight})
            optimizer.step()
            optimizer.zero_grad()
            if isinstance(bare(model), CLIP):
                bare(model).clip_scale()
        if data.labels is not None:
            run.log(floor=floor(data.labels[draw(step)]))
        if (step + 1) % config.evaluate_every == 0 or step + 1 == config.steps:
            run.report(**tested(run, models, data), images=float((step + 1) * N))

    metrics = tested(run, models, data)
    for name, model in models.items():
        if isinstance(bare(model), CLIP):
            metrics[f"{name}scale"] = bare(model).logit_scale.exp().item()
    if data.labels is not None and "" in models:
        losses = run.curves("train_loss", "floor")
        metrics["excess_loss"] = losses["train_loss"][-1] - losses["floor"][-1]
    for key in ("captions_cut", "images_skipped"):
        if values := run.curves(key)[key]:
            metrics[key] = sum(values) / len(values)
    draw_curves(run, [key for key in metrics if key.endswith("accuracy")], run.name)
    if data.retrieval and "" in models:
        draw_retrieval(run, models[""], data)
    return metrics | gains(metrics)


def adam(net: nn.Module, config: Config) -> torch.optim.AdamW:
    """Table 18: "decoupled weight decay regularization applied to all weights that are not gains or biases"."""
    decayed = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim < 2]  # the logit scale, and a ViT's class embedding, among them
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, config.lr, betas=(0.9, config.beta2), eps=config.eps, fused=True)


def floor(labels: Tensor) -> Tensor:
    """The least contrastive loss of a batch whose captions say no more than labels (N,): the mean of ln(how many have this one)."""
    n = labels.bincount().double()
    return (n * n.clamp(min=1).log()).sum() / len(labels)  # about ln(N / K) for K classes


def tested(run: Run, models: dict[str, nn.Module], data: Data) -> dict[str, float]:
    if data.zero_shot is None:
        return evaluate(run, models, data)
    test, images = data.zero_shot
    return {f"{test.name}_{key}": value for key, value in zero_shot(run, models[""], test, data.vocabulary, images).items()}


RESNET = {"beta2": 0.999, "eps": 1e-8}
SCALED = {"kind": "scaled", "precision": {"cpu": "bf16", "cuda": "bf16"}}
LOOK = {"source": "Sec. 3.1", "cap": "1,200 updates", "figures": ("accuracy",)}
NOISE = "noise: two accuracies on 1,240 drawings"

EXPERIMENTS = {
    "yfcc15m-rn50": Experiment(
        Paper(steps=14_482, evaluate_every=1_000, **RESNET), kind="paper", source="Table 12, Table 18",
        cap="32 epochs", figures=("accuracy",),
        cost="9 days on one A100, by open_clip's 773 pairs/s for ViT-B/32 and by multiply-adds; not run here",
        precision={"cpu": "bf16", "cuda": "bf16"}, checkpoint_every=600,
        claims=[
            Claim(
                "imagenet_accuracy", 31.3, "%", "Table 12, RN50 on YFCC-15M, zero-shot", tolerance=1.0,
                why="the paper gives no spread: a choice; open_clip's run with this set has 32.7",
            )
        ],
    ),
    "cc3m-b16": Experiment(
        Paper(
            model="ViT-B/16", set="cc3m", pairs_in_set=3_318_333, steps=97_200, batch_size=1_024, lr=1e-3, warmup=2_000,
            evaluate_every=10_000,
        ),
        source="none: open_clip's issue 1028", cap="30 epochs",
        cost="3.5 days on one A100, by open_clip's 332 pairs/s; not run here",
        claims=[Claim("imagenet_accuracy", 16.7, "%", "open_clip, issue 1028: B/16, 30 epochs", tolerance=1.0, why="a choice")],
        note="scaled: Conceptual Captions for WIT; batch and rate are chosen here", figures=("accuracy",),
        checkpoint_every=600, **SCALED,
    ),
    "emoji": Experiment(
        Small(steps=1_200, evaluate_every=300), cost="35 min on one CPU core",
        claims=[
            Claim(
                "zero_shot_gain", 0, "points", "Sec. 3.1.5, Fig. 5: zero-shot CLIP is competitive with a supervised classifier",
                tolerance=2.0, noise=1.9, why="the paper's words, of other nets; " + NOISE,
            )
        ],
        note="scaled: 4,432 drawings of 1,240 concepts and their names; small nets",
        **(LOOK | {"figures": ("accuracy", "matrix", "found")}), **SCALED,
    ),
    "efficiency": Experiment(
        Small(compare="objectives", among=20, steps=600, evaluate_every=100), cost="30 min on one CPU core",
        claims=[
            Claim(
                "contrastive_gain", 0, "points", "Fig. 2: contrasting bags of words is 4 times as efficient as predicting them",
                noise=2.0, why="the order of Fig. 2 in accuracy after equal images, judged by its sign; " + NOISE,
            ),
            Claim(
                "words_gain", 0, "points", "Fig. 2: predicting bags of words is 3 times as efficient as predicting captions",
                noise=2.0, why="the same",
            ),
        ],
        note="scaled: emoji drawings and names, among 20; small nets",
        curves=("images", "contrastive_accuracy", "words_accuracy", "caption_accuracy"),
        **(LOOK | {"source": "Sec. 2.3, Fig. 2", "cap": "600 updates of each net"}), **SCALED,
    ),
    "cifar10-captions": Experiment(
        Small(data="cifar10", steps=2_400, evaluate_every=600), cost="40 min on one CPU core",
        claims=[
            Claim(
                "excess_loss", 0, "nats", "none: the least loss, as captions of ten classes repeat in a batch", True, 0.5,
                "a surrogate, fitted as far as its updates go",
            ),
            Claim(
                "zero_shot_gain", 0, "points", "Sec. 3.1.5, Fig. 5: zero-shot CLIP is competitive with a supervised classifier",
                tolerance=1.0, noise=0.6, why="the paper's words, of other nets; noise: two accuracies on 10,000 images",
            ),
        ],
        note="a surrogate: CIFAR-10 with captions made of 18 templates and its ten classes",
        **(LOOK | {"cap": "2,400 updates"}), **SCALED,
    ),
    "smoke": Experiment(
        Small(
            data="made-up", steps=8, evaluate_every=4, batch_size=16, warmup=2, image="vit", image_layers=(1,), image_width=64,
            patch=16, embedding=16, text_layers=1, text_width=64, vocabulary=514,
        ),
        kind="smoke", source="Sec. 2", cap="8 updates", cost="5 s", log_every=2, checkpoint_every=0,
        precision={"cpu": "bf16", "cuda": "bf16"},
    ),
}  # fmt: skip


if __name__ == "__main__":
    reproduce(EXPERIMENTS, train)
