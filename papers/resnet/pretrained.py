"""The weights of torchvision and timm in our ResNet-18, 34, 50, 101 and 152, evaluated on ImageNet as the paper does.

    make evaluate-resnet ARGS="torchvision-resnet50"              # downloaded to data/weights/
    make evaluate-resnet ARGS="timm-resnet50.tv_in1k"
    make evaluate-resnet ARGS="resnet50-0676ba61.pth"             # a file of either: .pth, .safetensors
    make evaluate-resnet ARGS="runs/resnet/imagenet-resnet50/seed0"    # a run of train.py, its newest checkpoint
    torchrun --nproc-per-node=8 -m papers.resnet.pretrained torchvision-resnet50 --data-dir /datasets

Errors with the centre crop, with ten crops (Tables 2 and 3), and fully convolutional at five scales (Table 4). All of these weights
have option B shortcuts, and a bottleneck that downsamples in its 3x3: `stride_in_3x3=True` of model.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from common import directory
from common.claims import Claim, Experiment
from common.command import evaluate_weights
from common.data import imagenet
from common.data.images import STD
from common.run import Run
from common.weights import filled, fingerprint, read, refused
from papers.resnet.data import evaluate, validation
from papers.resnet.keys import from_timm, from_torchvision
from papers.resnet.model import BasicBlock, Bottleneck, ResNet
from papers.resnet.train import ImageNet

NETS = {  # block, how many in conv2_x, conv3_x, conv4_x, conv5_x -> depth
    (BasicBlock, (2, 2, 2, 2)): 18,
    (BasicBlock, (3, 4, 6, 3)): 34,
    (Bottleneck, (3, 4, 6, 3)): 50,
    (Bottleneck, (3, 4, 23, 3)): 101,
    (Bottleneck, (3, 8, 36, 3)): 152,
}


def build(state: Mapping[str, Tensor]) -> ResNet:
    """The net whose state dict this is, as `from_torchvision` and `from_timm` give it, with these weights.

    Raises:
        ValueError: it is of none of the five depths, or a tensor is missing or has another shape.
    """
    block = Bottleneck if any(".conv3." in key for key in state) else BasicBlock
    found = [{key.split(".")[1] for key in state if key.startswith(f"conv{i}_x.")} for i in range(2, 6)]
    blocks = tuple(len(numbers) for numbers in found)
    if (block, blocks) not in NETS:
        raise ValueError(f"{blocks} blocks of type {block.__name__} are none of ResNet-18, 34, 50, 101 and 152")
    classes = len(state["fc.bias"]) if "fc.bias" in state else 1000
    model = ResNet(block, blocks, "B", stride_in_3x3=True, classes=classes)
    return filled(model, state, f"a ResNet-{NETS[block, blocks]}")


@dataclass(frozen=True)
class Weights:
    weights: str
    """torchvision-NAME or timm-NAME, to be downloaded, a file of either, or the folder of a run of train.py."""
    crop: int = 224
    """Pixels of a crop; shorter sides for testing are 8/7 of it, and several scales in proportion."""


def known(source: str, name: str, top1: float, top5: float | None, where: str) -> Experiment[Weights]:
    """The accuracies, in %, that a library publishes for its weights."""
    why = "decoders and resizing differ between versions of PIL"
    claims = [Claim("top1_error_1crop", round(100 - top1, 3), "%", where, True, 0.1, why, either_way=True)]
    if top5 is not None:
        claims.append(Claim("top5_error_1crop", round(100 - top5, 3), "%", where, True, 0.1, why, either_way=True))
    return Experiment(
        Weights(f"{source}-{name}"), kind="weights", source="Tables 2 to 4", cap="the validation set", claims=claims,
        cost="an hour on one A100 or so, a guess; not run here", precision={"cpu": "fp32", "cuda": "tf32"},
    )  # fmt: skip


TORCHVISION, TIMM = "torchvision's documentation, IMAGENET1K_V1", "timm's results-imagenet.csv"
WEIGHTS = {
    "weights-torchvision-resnet18": known("torchvision", "resnet18", 69.758, 89.078, TORCHVISION),
    "weights-torchvision-resnet34": known("torchvision", "resnet34", 73.314, 91.420, TORCHVISION),
    "weights-torchvision-resnet50": known("torchvision", "resnet50", 76.130, 92.862, TORCHVISION),
    "weights-torchvision-resnet101": known("torchvision", "resnet101", 77.374, 93.546, TORCHVISION),
    "weights-torchvision-resnet152": known("torchvision", "resnet152", 78.312, 94.046, TORCHVISION),
    "weights-timm-resnet18.tv_in1k": known("timm", "resnet18.tv_in1k", 69.752, None, TIMM),
    "weights-timm-resnet50.tv_in1k": known("timm", "resnet50.tv_in1k", 76.156, None, TIMM),
}


def load(weights: str, cache: Path) -> ResNet:
    """Our model with these weights, which torchvision or timm download to `cache` if they are not there.

    Raises:
        BadInput: they cannot be had, or are no such net's; says why, and what to do.
    """
    library, _, name = weights.partition("-")
    with refused(weights, f"name another file, or one of {', '.join(each.removeprefix('weights-') for each in WEIGHTS)}"):
        if library == "timm" and name.partition(".")[0] not in [f"resnet{depth}" for depth in NETS.values()]:
            raise ValueError("other nets of timm have the same keys and shapes (resnetblur50, ...)")
        convert = from_timm if library == "timm" or weights.endswith(".safetensors") else from_torchvision
        return build(convert(read(weights, cache)))


def of_run(folder: Path, *kinds: type) -> nn.Module:
    """The net of a run of train.py, of these configs. Raises BadInput: it is no such run's, or has no checkpoint that fits."""
    _, config, learned = directory.learned(folder, "resnet", *kinds)
    directory.restore(folder, {"model": learned["model"]}, {"model": (net := config.network())})
    return net


def main(run: Run[Weights]) -> dict[str, float]:
    config, folder = run.config, run.data_dir / "weights"
    data = imagenet.load(run.data_dir, "val")
    own = (Path(config.weights) / "checkpoint").is_dir()
    if run.processes > 1 and not own:
        run.on_main(lambda: load(config.weights, folder) and None)  # downloads, once
    model = of_run(Path(config.weights), ImageNet) if own else load(config.weights, folder)
    data = data.told_apart(model.fc.out_features)
    tests = validation(run, data, config.crop, scale=255 if own else 255 * torch.tensor(STD, device=run.device))
    run.describe_data(
        name="imagenet", train=0, test=len(data), test_sha256=data.sha256, stand_in=not data.official,
        weights_sha256=fingerprint(model),
    )  # fmt: skip
    model = model.to(run.device, memory_format=torch.channels_last)
    metrics = {}
    for kind in tests.kinds:
        metrics |= evaluate(run, model, tests, kind)
    for name, value in metrics.items():
        run.say(f"{name} {value:.3f} %")
    return metrics


if __name__ == "__main__":
    evaluate_weights(WEIGHTS, main)
