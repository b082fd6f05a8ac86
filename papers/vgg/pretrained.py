"""The weights of torchvision, of timm, and the authors' own, in our nets, evaluated on ImageNet as the paper does.

    make evaluate-vgg ARGS="vgg19-caffe2-9"                       # the authors' E, of the ONNX model zoo, to data/weights/
    make evaluate-vgg ARGS="torchvision-vgg16"
    make evaluate-vgg ARGS="vgg16-397923af.pth"                   # a file: .pth, .safetensors of torchvision or timm, .onnx
    make evaluate-vgg ARGS="runs/vgg/imagenet-d/seed0"            # a run of train.py, its newest checkpoint
    torchrun --nproc-per-node=8 -m papers.vgg.pretrained vgg19-caffe2-9 --data-dir /datasets --multicrop

Errors with the centre crop, dense at one scale and at three (Tables 3 and 4), and with --multicrop with 150 crops as well (Table
5). torchvision trained its nets by another recipe, on random crops and without scale jitter; timm has torchvision's. The zoo's
vgg16-* and vgg19-7 are others' as well, trained by MXNet.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common import directory
from common.claims import Claim, Experiment
from common.command import evaluate_weights
from common.data import imagenet
from common.data.images import STD
from common.run import Run
from common.weights import filled, fingerprint, folder_of, read, refused
from papers.vgg.data import KINDS, validation
from papers.vgg.keys import from_onnx, from_timm, from_torchvision
from papers.vgg.model import TABLE_1, VGG
from papers.vgg.train import ImageNet, evaluate

MADE_FOR = (
    "torchvision's vgg11, 13, 16, 19 are nets A, B, D, E: `vgg11()`, ..., with `batch_norm=True` of files whose names have `_bn`; "
    "C and A-LRN were never released"
)


def build(state: Mapping[str, Tensor]) -> VGG:
    """The net whose state dict this is, as the functions above give it, with these weights.

    Raises:
        ValueError: it is of no column of Table 1, or a tensor is missing or has another shape.
    """
    kernels = tuple(
        tuple(state[key].shape[-1] for key in state if re.fullmatch(rf"features\.conv{i}_\d\.weight", key)) for i in range(1, 6)
    )
    found = next((name for name, table in TABLE_1.items() if table == kernels and name != "A-LRN"), None)
    if found is None:
        raise ValueError(f"kernels {kernels} are no column of Table 1; {MADE_FOR}")
    classes = len(state["fc8.bias"]) if "fc8.bias" in state else 1000
    with torch.device("meta"):  # 140 million numbers need not be drawn
        model = VGG(found, classes=classes, batch_norm=any(".bn" in key for key in state))
    return filled(model.to_empty(device="cpu"), state, f"net {found} of Table 1")


@dataclass(frozen=True)
class Weights:
    weights: str
    """torchvision-NAME, timm-NAME or vgg19-caffe2-9 of the ONNX model zoo, to be downloaded; a file of these; a run of train.py."""
    test_sides: tuple[int, int, int] = (256, 384, 512)
    """Q: shorter sides of images, the middle one at a single scale: the paper's for nets trained with scale jitter."""
    multicrop: bool = False
    """Test with 150 crops as well (Table 5)."""

    def __post_init__(self) -> None:
        if min(self.test_sides) < 224:
            raise ValueError(f"--test-sides must be 224 or above, got {self.test_sides}")


TORCHVISION, TIMM = "torchvision's documentation, IMAGENET1K_V1", "timm's results-imagenet.csv"
ZOO = "the authors' E: Tables 3 and 4, E, S in [256; 512]"
OTHERS = "their resizing is another"
RESIZED = "decoders and resizing differ between versions of PIL"
RUN = {"kind": "weights", "cap": "the validation set", "precision": {"cpu": "fp32", "cuda": "tf32"}}
COST = "an hour on one A100 or so, a guess; not run here"


def known(source: str, name: str, top1: float, top5: float | None) -> Experiment[Weights]:
    """The accuracies, in %, that a library publishes for its weights: with the centre crop."""
    where = TORCHVISION if source == "torchvision" else TIMM
    claims = [
        Claim(f"top{k}_error_1crop", round(100 - accuracy, 3), "%", where, True, 0.1, RESIZED, either_way=True)
        for k, accuracy in ((1, top1), (5, top5))
        if accuracy
    ]
    return Experiment(Weights(f"{source}-{name}", (224, 256, 288)), source="Tables 3 and 4", cost=COST, claims=claims, **RUN)


AUTHORS = [
    Claim(metric, value, "%", ZOO, True, 0.1, RESIZED, either_way=True)
    for metric, value in (
        ("top1_error_dense", 25.5), ("top5_error_dense", 8.0), ("top1_error_multiscale", 24.8), ("top5_error_multiscale", 7.5),
    )
] + [
    Claim(f"top{k}_error_1crop", value, "%", "OpenVINO's model zoo, vgg19-caffe2", True, 0.3, OTHERS, either_way=True)
    for k, value in ((1, 28.938), (5, 10.168))
]  # fmt: skip
WEIGHTS = {
    "weights-vgg19-caffe2-9": Experiment(Weights("vgg19-caffe2-9"), source="Tables 3, 4, 5, E", cost=COST, claims=AUTHORS, **RUN),
    "weights-torchvision-vgg11": known("torchvision", "vgg11", 69.020, 88.628),
    "weights-torchvision-vgg13": known("torchvision", "vgg13", 69.928, 89.246),
    "weights-torchvision-vgg16": known("torchvision", "vgg16", 71.592, 90.382),
    "weights-torchvision-vgg19": known("torchvision", "vgg19", 72.376, 90.876),
    "weights-torchvision-vgg11_bn": known("torchvision", "vgg11_bn", 70.370, 89.810),
    "weights-torchvision-vgg13_bn": known("torchvision", "vgg13_bn", 71.586, 90.374),
    "weights-torchvision-vgg16_bn": known("torchvision", "vgg16_bn", 73.360, 91.516),
    "weights-torchvision-vgg19_bn": known("torchvision", "vgg19_bn", 74.218, 91.842),
    "weights-timm-vgg11.tv_in1k": known("timm", "vgg11.tv_in1k", 69.050, None),
    "weights-timm-vgg13.tv_in1k": known("timm", "vgg13.tv_in1k", 69.950, None),
    "weights-timm-vgg16.tv_in1k": known("timm", "vgg16.tv_in1k", 71.594, None),
    "weights-timm-vgg19.tv_in1k": known("timm", "vgg19.tv_in1k", 72.400, None),
}


def read_onnx(path: Path) -> dict[str, Tensor]:
    """The initializers of a file."""
    import onnx

    return {each.name: torch.from_numpy(onnx.numpy_helper.to_array(each).copy()) for each in onnx.load(path).graph.initializer}


def load(weights: str, cache: Path) -> tuple[VGG, bool]:
    """Our model with these weights, which are downloaded to `cache` if they are not there; whether they are the authors'.

    Raises:
        BadInput: they cannot be had, or are no such net's; says why, and what to do.
    """
    library, _, name = weights.partition("-")
    with refused(weights, f"name another file, or one of {', '.join(each.removeprefix('weights-') for each in WEIGHTS)}"):
        path = Path(weights)
        if path.suffix == ".onnx" or re.fullmatch(r"vgg\d\d-caffe2-\d+", weights):
            if not path.exists():
                path = next(folder_of(f"onnxmodelzoo/{weights}", cache, ("*.onnx",), ()).glob("*.onnx"))
            return build(from_onnx(read_onnx(path))), True
        if library == "timm" and not re.match(r"vgg(11|13|16|19)(_bn)?(\.|$)", name):
            raise ValueError("timm's other nets of this family (repvgg, ...) are none of Table 1")
        convert = from_timm if library == "timm" or weights.endswith(".safetensors") else from_torchvision
        return build(convert(read(weights, cache))), False


def of_run(folder: Path) -> tuple[VGG, int]:
    """The net of a run of train.py on ImageNet, and the pixels that it sees. Raises BadInput: it is no such run's."""
    _, config, learned = directory.learned(folder, "vgg", ImageNet)
    directory.restore(folder, {"model": learned["model"]}, {"model": (net := config.networks()[""])})
    return net, config.crop


def main(run: Run[Weights]) -> dict[str, float]:
    config, folder = run.config, run.data_dir / "weights"
    data = imagenet.load(run.data_dir, "val")
    own = (Path(config.weights) / "checkpoint").is_dir()
    if run.processes > 1 and not own:
        run.on_main(lambda: load(config.weights, folder) and None)  # downloads, once
    if own:
        (model, crop), authors = of_run(Path(config.weights)), False
    else:
        (model, authors), crop = load(config.weights, folder), 224
    data = data.told_apart(model.fc8.out_features)
    run.describe_data(
        name="imagenet", train=0, test=len(data), test_sha256=data.sha256, stand_in=not data.official,
        weights_sha256=fingerprint(model),
    )  # fmt: skip
    model = model.to(run.device, memory_format=torch.channels_last)
    mean = torch.tensor((123.68, 116.779, 103.939), device=run.device) if authors else None  # as their release says
    scale = 1 if authors or own else 255 * torch.tensor(STD, device=run.device)
    tests = validation(run, data, crop, config.test_sides, mean, scale)
    metrics = evaluate(run, model, tests, KINDS if config.multicrop else KINDS[:3])
    for name, value in metrics.items():
        run.say(f"{name} {value:.3f} %")
    return metrics


if __name__ == "__main__":
    evaluate_weights(WEIGHTS, main)
