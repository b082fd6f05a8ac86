"""The official weights in our models: zero-shot classification as the paper has it, and linear probes.

    make evaluate-clip ARGS="ViT-B/32 --sets cifar10 mnist"       # of OpenAI, downloaded to data/weights/
    make evaluate-clip ARGS="openai/clip-vit-base-patch32"        # of the Hugging Face hub, or a folder as it has them
    make evaluate-clip ARGS="path/to/ViT-B-32.pt --sets mnist --probe"
    make evaluate-clip ARGS="RN50 --sets path/to/folder --prompts names.json"     # {"classes": [...], "templates": ["a {}.", ...]}

Every set of Table 11 that is named has to be there; --sets cifar10 cifar100 mnist stl10 imagenet are known, anything else is a
folder with a folder of images for each class. ImageNet's edited names and 80 templates are those in open_clip_torch.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common.claims import Claim, Experiment
from common.command import evaluate_weights
from common.data import fetch
from common.data.fetch import File
from common.directory import checkpoints
from common.errors import BadInput
from common.run import Run
from common.weights import filled, fingerprint, folder_of, read, refused
from papers.clip import tokenizer
from papers.clip.keys import from_open_clip, from_openai, from_transformers
from papers.clip.model import CLIP, HEAD, MODELS, ModifiedResNet, TextEncoder, VisionTransformer
from papers.clip.probe import linear_probe
from papers.clip.zeroshot import SETS, load_set, prepared, side_of, zero_shot

URL = "https://openaipublic.azureedge.net/clip/models/{}/{}"
DIGESTS = {  # of the released files; the address holds it too
    "RN50": "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
    "RN101": "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599",
    "RN50x4": "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd",
    "RN50x16": "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa",
    "RN50x64": "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c",
    "ViT-B/32": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    "ViT-B/16": "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    "ViT-L/14": "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    "ViT-L/14@336px": "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
}


def build(state: Mapping[str, Tensor]) -> CLIP:
    """The model whose state dict this is, as the functions above give it, with these weights: its sizes follow from shapes.

    Raises:
        ValueError: it is no such model, or a tensor is missing or has another shape.
    """
    shape = lambda name: state[name].shape if name in state else _lacks(name)
    count = lambda prefix: len({key[len(prefix) :].partition(".")[0] for key in state if key.startswith(prefix)})
    (context, D), (_, E) = shape("text_encoder.positional_embedding"), shape("text_encoder.proj")
    with torch.device("meta"):
        text = TextEncoder(E, D, count("text_encoder.blocks."), context, len(state["text_encoder.token_embedding.weight"]))
        if "image_encoder.class_embedding" in state:
            width, _, patch, _ = shape("image_encoder.conv1.weight")
            side = round((len(state["image_encoder.positional_embedding"]) - 1) ** 0.5) * patch
            if width % HEAD or D % HEAD:
                raise ValueError(f"heads of {HEAD} do not divide its widths, {width} and {D}")
            image = VisionTransformer(E, width, count("image_encoder.blocks."), patch, side)
        else:
            width = shape("image_encoder.conv3.weight")[0]
            side = round((shape("image_encoder.attnpool.positional_embedding")[0] - 1) ** 0.5) * 32
            image = ModifiedResNet(E, tuple(count(f"image_encoder.layer{i}.") for i in range(1, 5)), width, side)
        model = CLIP(image, text)
    return filled(model.to_empty(device="cpu"), state, "a model of Tables 19 and 20").requires_grad_(False).eval()


def _lacks(name: str) -> torch.Size:
    raise ValueError(f"it has no {name}")


def read_openai(path: Path) -> dict[str, Tensor]:
    """The tensors of a released file. A TorchScript archive is opened by torch.jit, and nothing of it is run."""
    with warnings.catch_warnings(action="ignore"):  # that it is one
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except RuntimeError as error:
            if "TorchScript" not in str(error):
                raise
    return torch.jit.load(str(path), map_location="cpu").state_dict()


def check_activation(folder: Path) -> None:
    """Raises ValueError: config.json or open_clip_config.json names another activation than QuickGELU."""
    if (file := folder / "config.json").exists():
        config = json.loads(file.read_text(encoding="utf-8"))
        found = {config.get(f"{tower}_config", {}).get("hidden_act", "quick_gelu") for tower in ("text", "vision")}
    elif (file := folder / "open_clip_config.json").exists():
        found = {"quick_gelu" if json.loads(file.read_text(encoding="utf-8"))["model_cfg"].get("quick_gelu") else "gelu"}
    else:
        return
    if other := found - {"quick_gelu"}:
        raise ValueError(f"its activation is {min(other)}, and the paper's models have quick_gelu: they would be wrong in silence")


ADVICE = f"name one of {', '.join(MODELS)}, a file of these, OWNER/NAME of the hub or its folder, or the directory of a run"


def load(weights: str, cache: Path) -> CLIP:
    """Our model with these weights, or of a run's newest checkpoint; what is not there is downloaded to `cache`.

    Raises:
        BadInput: they cannot be had, or are no such model's; says why, and what to do.
    """
    with refused(weights, ADVICE):
        if weights in DIGESTS and not Path(weights).exists():
            name = weights.replace("/", "-") + ".pt"
            fetch.fetch(cache, "CLIP's weights", {name: File(DIGESTS[weights], [URL.format(DIGESTS[weights], name)])})
            return build(from_openai(read_openai(cache / name)))
        path = Path(weights)
        if found := checkpoints(path):
            return build(torch.load(found[0], map_location="cpu", weights_only=True)["objects"]["model"])
        if path.is_file() and path.suffix != ".safetensors":
            state = read_openai(path)
        else:
            if not path.is_file():
                path = folder_of(weights, cache, ("config.json", "open_clip_config.json"))
                check_activation(path)
            state = read(path, cache)
        state = state.get("state_dict", state)  # open_clip's checkpoints
        convert = from_transformers if "visual_projection.weight" in state else from_open_clip
        return build(convert(state))


@dataclass(frozen=True)
class Weights:
    weights: str
    """A model's name in the paper, to be downloaded, OWNER/NAME of the hub, a file or a folder."""
    sets: tuple[str, ...] = SETS
    """What it classifies: these of Table 11, or folders of images."""
    prompts: str = ""
    """A JSON file with `classes`, in the order of the folders, and `templates`; by default folders' names, "a photo of a {}."."""
    probe: bool = False
    """Fit linear classifiers to the features as well (Table 10), of cifar10, cifar100, mnist and stl10."""


ZERO_SHOT = {  # Table 11: CIFAR-10, CIFAR-100, MNIST, STL-10, ImageNet; then open_clip's results for the same weights
    "RN50": ((75.6, 41.6, 66.6, 94.3, 59.6), (71.57, 40.30, 57.55, 94.19, 59.82)),
    "RN101": ((81.0, 49.0, 59.3, 96.7, 62.2), ()),
    "RN50x4": ((79.2, 48.9, 75.2, 96.4, 65.8), ()),
    "RN50x16": ((82.2, 54.2, 80.0, 97.8, 70.5), ()),
    "RN50x64": ((86.8, 61.3, 90.8, 98.3, 73.6), ()),
    "ViT-B/32": ((91.3, 65.1, 51.9, 97.2, 63.2), (89.83, 64.23, 48.39, 97.13, 63.32)),
    "ViT-B/16": ((91.6, 68.7, 56.0, 98.2, 68.6), (90.77, 66.95, 51.35, 98.25, 68.34)),
    "ViT-L/14": ((96.2, 77.9, 87.2, 99.3, 75.3), (95.59, 75.82, 76.34, 99.36, 75.54)),
    "ViT-L/14@336px": ((95.7, 77.5, 88.3, 99.4, 76.2), (94.93, 74.36, 79.16, 99.43, 76.56)),
}
WHY = "the paper gives no spread: a choice, 0.3 points, as ImageNet's values agree with open_clip's within"


def known(name: str, paper: tuple[float, ...], again: tuple[float, ...]) -> Experiment[Weights]:
    claims = []
    for i, each in enumerate(SETS):
        beside = f"; open_clip finds {again[i]} with these weights" if again else ""
        claims.append(
            Claim(f"{each}_accuracy", paper[i], "%", f"Table 11, {name}{beside}", tolerance=0.3, why=WHY, either_way=True)
        )
    return Experiment(
        Weights(name), kind="weights", source=f"Table 11, {name}", cap="the test sets", claims=claims,
        cost="minutes on one A100, a guess; not run here", precision={"cpu": "fp32", "cuda": "tf32"},
    )  # fmt: skip


WEIGHTS = {f"weights-{name.replace('/', '-')}": known(name, *values) for name, values in ZERO_SHOT.items()}


def main(run: Run[Weights]) -> dict[str, float]:
    config, folder = run.config, run.data_dir / "weights"
    if run.processes > 1:
        run.on_main(lambda: load(config.weights, folder) and None)  # downloads, once
    model = load(config.weights, folder)
    size = len(model.text_encoder.token_embedding.weight)
    run.on_main(lambda: tokenizer.download(run.data_dir, size))
    tokens = tokenizer.load(run.data_dir, size)
    side = side_of(model)
    sets = {name: load_set(name, run.data_dir, config.prompts) for name in config.sets}
    if config.probe and (wrong := [name for name, each in sets.items() if each.train is None]):
        raise BadInput(f"--probe needs a training set, which {', '.join(wrong)} has not here: leave it out of --sets")
    run.describe_data(
        name=", ".join(sets), train=0, test=sum(each.n for each in sets.values()), stand_in=False,
        sha256={name: each.sha256 for name, each in sets.items()}, weights_sha256=fingerprint(model),
    )  # fmt: skip
    model = model.to(run.device)
    metrics = {}
    for each in sets.values():
        found = zero_shot(run, model, each, tokens, prepared(run, each.test, side))
        if config.probe:
            found |= linear_probe(run, model, each, side)
        for key, value in found.items():
            run.say(f"{each.name}: {key} {value:.2f} %")
        metrics |= {f"{each.name}_{key}": value for key, value in found.items()}
    return metrics


if __name__ == "__main__":
    evaluate_weights(WEIGHTS, main)
