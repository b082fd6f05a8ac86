"""The weights of torchvision and timm in our ResNet-18, 34, 50, 101 and 152, evaluated on ImageNet as the paper does.

    make evaluate-resnet ARGS="torchvision-resnet50"              # downloaded to data/weights/
    make evaluate-resnet ARGS="timm-resnet50.tv_in1k"
    make evaluate-resnet ARGS="resnet50-0676ba61.pth"             # a file of either: .pth, .safetensors
    torchrun --nproc-per-node=8 -m papers.resnet.pretrained torchvision-resnet50 --data-dir /datasets

Errors with the centre crop, with ten crops (Tables 2 and 3), and fully convolutional at five scales (Table 4). All of these weights
have option B shortcuts, and a bottleneck that downsamples in its 3x3: `stride_in_3x3=True` of model.py.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

import torch
from torch import Tensor

from common.claims import Claim, Experiment
from common.command import evaluate_weights
from common.data import imagenet
from common.data.images import STD
from common.errors import BadInput
from common.run import Run
from common.weights import fingerprint
from papers.resnet.model import BasicBlock, Bottleneck, ResNet
from papers.resnet.train import evaluate, validation

NETS = {  # block, how many in conv2_x, conv3_x, conv4_x, conv5_x -> depth
    (BasicBlock, (2, 2, 2, 2)): 18,
    (BasicBlock, (3, 4, 6, 3)): 34,
    (Bottleneck, (3, 4, 6, 3)): 50,
    (Bottleneck, (3, 4, 23, 3)): 101,
    (Bottleneck, (3, 8, 36, 3)): 152,
}
KEY = re.compile(
    r"((conv1|bn1|fc)|layer[1-4]\.\d+\.(conv[123]|bn[123]|downsample\.[01]))"
    r"\.(weight|bias|running_mean|running_var|num_batches_tracked)"
)


def _renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """layer1..layer4 are conv2_x..conv5_x of Table 1, a downsample is a shortcut; the other names are the same."""
    for key in weights:
        if not KEY.fullmatch(key):
            raise ValueError(f"not a state dict of resnet18, 34, 50, 101 or 152: {key} is no weight of theirs")
    stages = {f"layer{i}": f"conv{i + 1}_x" for i in range(1, 5)}
    parts = {key: key.replace("downsample", "shortcut").split(".") for key in weights}
    return {".".join([stages.get(part[0], part[0]), *part[1:]]): weights[key] for key, part in parts.items()}


# Two functions, as in all papers, because there are two libraries: a user names the one that a file is from, and either may
# rename its layers. Today they use the same names.


def from_torchvision(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of torchvision.models.resnet18, 34, 50, 101 or 152 -> state dict of our ResNet.

    Raises:
        ValueError: there is a key that such a net does not have.
    """
    return _renamed(weights)


def from_timm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of timm's resnet18, 34, 50, 101 or 152, not of its variants (resnet50d, ...) -> state dict of our ResNet.

    Raises:
        ValueError: there is a key that such a net does not have.
    """
    return _renamed(weights)


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
    try:
        model.load_state_dict(state)
    except RuntimeError as error:  # its second line names the first tensors that are wrong
        raise ValueError(f"not a ResNet-{NETS[block, blocks]}: {shorten(str(error).splitlines()[1], 200)}") from error
    return model


@dataclass(frozen=True)
class Weights:
    weights: str
    """torchvision-NAME or timm-NAME, to be downloaded, or a file of either."""
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
        cost="an hour on one GPU or so; not run here", precision={"cpu": "fp32", "cuda": "tf32"},
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


def read(weights: str, folder: Path) -> dict[str, Tensor]:
    """The state dict of our model from a file, or from torchvision or timm, which download it to `folder` if it is not there.

    Raises:
        BadInput: it cannot be had, or is no such net's; says why, and what to do.
    """
    library, _, name = weights.partition("-")
    path = Path(weights)
    try:
        if path.exists():
            if path.suffix == ".safetensors":
                from safetensors.torch import load_file

                return from_timm(load_file(path))
            return from_torchvision(torch.load(path, map_location="cpu", weights_only=True))
        if library == "torchvision":
            from torchvision.models import get_model_weights

            url = get_model_weights(name).IMAGENET1K_V1.url
            return from_torchvision(torch.hub.load_state_dict_from_url(url, str(folder), map_location="cpu", check_hash=True))
        if library == "timm" and name.partition(".")[0] in [f"resnet{depth}" for depth in NETS.values()]:
            import timm  # other nets of its have the same keys and shapes (resnetblur50, ...)

            return from_timm(timm.create_model(name, pretrained=True, cache_dir=folder).state_dict())
    except Exception as error:  # of six libraries, from a file that is cut to a server that is silent
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise BadInput(f"cannot load {weights} ({reason[:300]}): name another file, or one of {', '.join(names())}") from error
    raise BadInput(f"no weights {weights}: no such file here, and none of {', '.join(names())}")


def names() -> list[str]:
    return [name.removeprefix("weights-") for name in WEIGHTS]


def main(run: Run[Weights]) -> dict[str, float]:
    config, folder = run.config, run.data_dir / "weights"
    data = imagenet.load(run.data_dir, "val")
    tests = validation(run, data, config.crop, scale=255 * torch.tensor(STD, device=run.device))
    if run.processes > 1:
        run.on_main(lambda: read(config.weights, folder) and None)  # downloads, once
    try:
        model = build(read(config.weights, folder))
    except ValueError as error:
        raise BadInput(f"{config.weights}: {error}") from error
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
