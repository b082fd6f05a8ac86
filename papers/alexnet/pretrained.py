"""The weights of BVLC's AlexNet, from the ONNX model zoo, in our AlexNet, evaluated on ILSVRC-2012 as the paper does.

    make evaluate-alexnet ARGS="bvlcalexnet-12"                   # downloaded to data/weights/
    make evaluate-alexnet ARGS="bvlcalexnet-9.onnx"               # a file of the zoo's
    make evaluate-alexnet ARGS="runs/alexnet/imagenet-2012/seed0" # a run of train.py, its newest checkpoint
    torchrun --nproc-per-node=8 -m papers.alexnet.pretrained bvlcalexnet-12 --data-dir /datasets

No other public weights come as near to the paper's network: towers, norms before pooling, overlapping pooling. Theirs has norms
that cross the towers, with k = 1 and alpha divided by n, and sees 227 pixels (the zoo's file says 224, on which its layers are
smaller); it was trained without random colours, from biases of 0.1.
Errors with the centre and with ten patches.
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
from common.data.images import windows
from common.run import Run
from common.weights import filled, fingerprint, folder_of, refused
from papers.alexnet.data import CLASSES, SIDE, load, means_of, statistics, validation
from papers.alexnet.keys import from_onnx, from_torchvision
from papers.alexnet.model import AlexNet, ResponseNorm
from papers.alexnet.train import ImageNet, evaluate

CROP = 227
MEAN = (123.0, 117.0, 104.0)  # RGB, of ILSVRC-2012's training images, as everybody rounds it
NORM = {"size": 5, "alpha": 1e-4, "beta": 0.75, "bias": 1.0}


def build(state: Mapping[str, Tensor]) -> AlexNet:
    """Our network with BVLC's norms and these weights. Raises ValueError: a tensor is missing, or has another shape."""
    classes = len(state["fc8.bias"]) if "fc8.bias" in state else 1000
    model = AlexNet(norm=lambda towers: ResponseNorm(1, k=1.0, divided=True), classes=classes)
    return filled(model, state, "BVLC's AlexNet")


def read_onnx(path: Path) -> dict[str, Tensor]:
    """The initializers of a file. Raises ValueError: it has other norms than BVLC's AlexNet, or none."""
    import onnx

    graph = onnx.load(path).graph
    norms = [{a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} for node in graph.node if node.op_type == "LRN"]
    defaults = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0}
    if [{name: round(value, 9) for name, value in (defaults | norm).items()} for norm in norms] != [NORM, NORM]:
        raise ValueError(f"its norms are {norms}, where BVLC's AlexNet has two of {NORM}")
    return {each.name: torch.from_numpy(onnx.numpy_helper.to_array(each).copy()) for each in graph.initializer}


@dataclass(frozen=True)
class Weights:
    weights: str
    """A name of the ONNX model zoo, to be downloaded, a file of its, or the folder of a run of train.py on ILSVRC."""
    mean_image: bool = False
    """Take the mean image of the training images away, as they did, which needs them, and not the mean of each channel."""


WHERE = "BVLC's readme, bvlc_alexnet, iteration 360,000"
WHY = "their images were warped to 256 x 256, not cut, and lost the mean image; OpenVINO, with means of channels, has 43.4 and 20.2"
WEIGHTS = {
    "weights-bvlcalexnet-12": Experiment(
        Weights("bvlcalexnet-12"), kind="weights", source="Table 2, 1 CNN", cap="the validation set",
        cost="10 min on eight CPU cores or so; not run here", precision={"cpu": "fp32", "cuda": "tf32"},
        claims=[
            Claim("top1_error_1view", 42.9, "%", WHERE, True, 1.0, WHY, either_way=True),
            Claim("top5_error_1view", 19.8, "%", WHERE, True, 1.0, WHY, either_way=True),
        ],
    ),
}  # fmt: skip


def loaded(weights: str, cache: Path) -> AlexNet:
    """Our model with these weights, which are downloaded to `cache` if they are not there.

    Raises:
        BadInput: they cannot be had, or are no such net's; says why, and what to do.
    """
    with refused(weights, "name bvlcalexnet-12, or a file bvlcalexnet-N.onnx of the ONNX model zoo"):
        if weights.startswith("torchvision"):
            return build(from_torchvision({}))
        path = Path(weights)
        if path.suffix in (".pth", ".pt", ".safetensors"):
            return build(from_torchvision({}))
        if not path.exists():
            path = next(folder_of(f"onnxmodelzoo/{weights}", cache, ("*.onnx",), ()).glob("*.onnx"))
        return build(from_onnx(read_onnx(path)))


def of_run(folder: Path) -> tuple[nn.Module, ImageNet]:
    """The net of a run of train.py on ILSVRC, and its recipe. Raises BadInput: it is no such run's, or has no checkpoint."""
    _, config, learned = directory.learned(folder, "alexnet", ImageNet)
    directory.restore(folder, {"model": learned["model"]}, {"model": (net := config.networks()[""])})
    return net, config


def main(run: Run[Weights]) -> dict[str, float]:
    config, folder, year = run.config, run.data_dir / "weights", 2012
    if (Path(config.weights) / "checkpoint").is_dir():
        model, recipe = of_run(Path(config.weights))
        train, test = load(run.data_dir, year := recipe.year, recipe.classes)
        means = means_of(statistics(run, train).mean, recipe.authors)
    else:
        test = imagenet.load(run.data_dir, "val").told_apart(CLASSES)
        if config.mean_image:
            means = windows(statistics(run, load(run.data_dir, year)[0]).mean, 0, CROP)
        else:
            means = torch.tensor(MEAN)[:, None, None].expand(SIDE - CROP + 1, SIDE - CROP + 1, 3, 1, 1)
        if run.processes > 1:
            run.on_main(lambda: loaded(config.weights, folder) and None)  # downloads, once
        model = loaded(config.weights, folder)
    tests = validation(run, test, means.to(run.device))
    run.describe_data(
        name=f"ilsvrc-{year}", train=0, test=len(test.labels), test_sha256=test.sha256, stand_in=not test.official,
        weights_sha256=fingerprint(model),
    )  # fmt: skip
    model = model.to(run.device, memory_format=torch.channels_last)
    metrics = {}
    for kind in tests.kinds:
        metrics |= evaluate(run, model, tests, kind)
    return metrics


if __name__ == "__main__":
    evaluate_weights(WEIGHTS, main)
