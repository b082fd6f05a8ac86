"""The authors' weights in our network, and CIFAR-10's numbers by evaluation: the bound, Table 4, FID where there is an Inception.

    make evaluate-ddpm ARGS="google/ddpm-cifar10-32"             # Hugging Face's port, downloaded to data/weights/
    make evaluate-ddpm ARGS="model-790000.ckpt"                  # a PyTorch port of the authors' checkpoint, EMA or not
    torchrun --nproc-per-node=8 -m papers.ddpm.pretrained google/ddpm-cifar10-32 --data-dir /datasets

Whether Hugging Face's are the averaged weights is not said there; FID tells (3.2 with them, 12.1 without).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from common.claims import Experiment
from common.command import evaluate_weights
from common.options import at_least_one
from common.run import Run
from common.weights import filled, fingerprint, folder_of, read, refused
from papers.ddpm import pictures
from papers.ddpm.data import layout
from papers.ddpm.data import load as images_of
from papers.ddpm.keys import OF, from_authors, from_diffusers
from papers.ddpm.model import Diffusion, UNet
from papers.ddpm.tables import TABLE_4, row
from papers.ddpm.train import CIFAR10, FIGURES, measure

MULTIPLIERS = (1, 2, 2, 2)
FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")  # as diffusers has them in a folder


def build(state: Mapping[str, Tensor]) -> UNet:
    """The network whose state dict this is, as `from_diffusers` and `from_authors` give it, with these weights.

    Raises:
        ValueError: a tensor is missing, or has another shape.
    """
    if not {"conv_in.weight", "conv_out.weight", "down.0.block.0.conv1.weight"} <= state.keys():
        raise ValueError(f"not a state dict of {OF}: it has no conv_in, conv_out or down.0")
    ch, channels = state["conv_in.weight"].shape[:2]
    levels = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("down."))
    blocks = 1 + max(int(key.split(".")[3]) for key in state if key.startswith("down.0.block."))
    multipliers = [state[f"down.{i}.block.0.conv1.weight"].shape[0] // ch for i in range(levels)]
    size = 2**levels
    attention = [size >> i for i in range(levels) if f"down.{i}.attn.0.q.weight" in state]
    about = {"size": size, "channels": channels, "outputs": len(state["conv_out.weight"]), "blocks": blocks}
    return filled(UNet(ch, multipliers, attention, **about), state, OF)


@dataclass(frozen=True)
class Weights:
    weights: str
    """OWNER/NAME of the Hugging Face hub, a folder as it is there, or a file."""
    data: str = "cifar10"
    each: int = 1
    """As in train.py: of the t that are not Table 4's, every so manieth is evaluated for an image."""
    train_images: int = 10_000
    """Training images whose bound is evaluated: the first ones."""
    test_images: int = 10_000
    """Test images, likewise."""
    samples: int = 50_000
    """Samples for FID and Inception score."""
    judge: str = "inception"

    def __post_init__(self) -> None:
        at_least_one(self, "each", "train_images", "test_images", "samples")
        if (self.data, self.judge) != ("cifar10", "inception"):
            raise ValueError("--data and --judge: these weights are CIFAR-10's, and judged by an Inception network")


WEIGHTS = {
    "weights-google-ddpm-cifar10-32": Experiment(
        Weights("google/ddpm-cifar10-32"), kind="weights", source="Tables 1 and 4", cap="the test set",
        claims=[*CIFAR10, *(claim for step in TABLE_4 for claim in row(step))],
        cost="2 h on one H100 by its multiply-adds at 100 TFLOP/s, of which samples are most; not run",
        precision={"cpu": "fp32", "cuda": "tf32"}, figures=FIGURES,
    ),
}  # fmt: skip


def load(weights: str, cache: Path) -> UNet:
    """Our model with these weights, which are downloaded to `cache` if they are no file or folder here.

    Raises:
        BadInput: they cannot be had, or are no such net's; says why, and what to do.
    """
    with refused(weights, "name a file, a folder, or google/ddpm-cifar10-32"):
        if Path(weights).is_file():
            state = read(weights, cache)
        else:
            folder = folder_of(weights, cache, (), FILES)
            found = [folder / name for name in FILES if (folder / name).exists()]
            if not found:
                raise ValueError(f"it has neither {' nor '.join(FILES)}")
            state = read(found[0], cache)
        return build((from_diffusers if any(key.startswith("down_blocks.") for key in state) else from_authors)(state))


def of_cifar10(net: UNet) -> UNet:
    """Raises ValueError: it is another network than CIFAR-10's."""
    multipliers = tuple(level.block[0].conv1.out_channels // net.ch for level in net.down)
    if multipliers != MULTIPLIERS or net.conv_in.in_channels != 3:
        raise ValueError(f"its channel multipliers are {multipliers}, and CIFAR-10's network has {MULTIPLIERS}")
    return net


def main(run: Run[Weights]) -> dict[str, float]:
    config, folder = run.config, run.data_dir / "weights"
    if run.processes > 1:
        run.on_main(lambda: load(config.weights, folder) and None)  # downloads, once
    with refused(config.weights, "name weights of that network"):
        net = of_cifar10(load(config.weights, folder))
    data = images_of(run, weights_sha256=fingerprint(net))
    net, diffusion = net.requires_grad_(False).to(run.device, memory_format=layout(run)), Diffusion().to(run.device)
    with run.evaluating(net) as net:
        metrics, _, images = measure(run, diffusion, net, data, "samples")
        run.on_main(lambda: pictures.draw(run, diffusion, net, data, images))
    return metrics


if __name__ == "__main__":
    evaluate_weights(WEIGHTS, main)
