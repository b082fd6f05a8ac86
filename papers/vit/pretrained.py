"""Official weights in our ViT, evaluated on ImageNet with each file's own preprocessing.

make evaluate-vit ARGS="jax-imagenet21k+imagenet2012/ViT-B_16"        # the paper's own, downloaded to data/weights/
make evaluate-vit ARGS="timm-vit_base_patch16_384.orig_in21k_ft_in1k --resize 384 --bicubic"
make evaluate-vit ARGS="torchvision-vit_b_16"                         # not the paper's recipe
make evaluate-vit ARGS="ViT-B_16.npz"                                 # a file: .npz, .pth, .safetensors, or a folder of the hub's
make evaluate-vit ARGS="runs/vit/finetune-imagenet-b16/seed0"         # a run of train.py, its newest checkpoint
torchrun --nproc-per-node=8 -m papers.vit.pretrained jax-imagenet21k+imagenet2012/ViT-B_16 --data-dir /datasets
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from common import directory
from common.claims import Claim, Experiment
from common.command import evaluate_weights
from common.data import imagenet
from common.data.fetch import download
from common.data.images import MEAN, STD
from common.errors import BadInput
from common.run import Run
from common.weights import filled, fingerprint, read, refused
from papers.vit.evaluation import Look, evaluate, validation
from papers.vit.keys import from_jax, from_timm, from_torchvision, from_transformers
from papers.vit.model import ViT, resample_positions

BUCKET = "https://storage.googleapis.com/vit_models/"
LAYERS = {(768, 12): "b", (1024, 24): "l", (1280, 32): "h"}  # Table 1: width, layers


class Source(NamedTuple):
    """A library's files."""

    key: str  # which only they have
    convert: Any
    tanh: bool  # its GELU
    eps: float  # of its layer norms


SOURCES = {
    "jax": Source("embedding/kernel", from_jax, True, 1e-6),
    "timm": Source("patch_embed.proj.weight", from_timm, False, 1e-6),
    "torchvision": Source("conv_proj.weight", from_torchvision, False, 1e-6),
    "transformers": Source("embeddings.patch_embeddings.projection.weight", from_transformers, False, 1e-12),
}


class Shape(NamedTuple):
    """What the tensors of a state dict say of its net."""

    P: int
    D: int
    L: int
    k: int
    mlp: int
    grid: int  # patches down and across

    def __str__(self) -> str:
        size = LAYERS.get((self.D, self.L))
        name = f"vit_{size}_{self.P}" if size else f"a ViT with patches of {self.P}, width {self.D}, {self.L} layers"
        return f"{name} for images of {self.P * self.grid} x {self.P * self.grid}"


def shape(state: Mapping[str, Tensor]) -> Shape:
    """Of a state dict of ours. Heads are 64 wide, or 80 of H/14. Raises ValueError: it is none of a ViT on square images."""
    for name in ("E.weight", "token", "positions", "blocks.0.fc1.weight"):
        if name not in state:
            raise ValueError(f"not a ViT of the paper: it has no {name}")
    D, P = state["E.weight"].shape[0], math.isqrt(state["E.weight"].shape[1] // 3)
    N, k = state["positions"].shape[1] - 1, 16 if D == 1280 else D // 64
    if math.isqrt(N) ** 2 != N:
        raise ValueError(f"{N} positions besides the class token's are not a square: weights for square images are read")
    if k < 1 or D % k:
        raise ValueError(f"a width of {D} is none of a ViT's: heads are 64 wide")
    L = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    return Shape(P, D, L, k, len(state["blocks.0.fc1.weight"]), math.isqrt(N))


def build(
    state: Mapping[str, Tensor], *, image: int | None = None, classes: int | None = None, how: str = "bilinear",
    expected: tuple[int, int, int] | None = None, **more: Any,
) -> ViT:  # fmt: skip
    """The net whose state dict this is, with these weights, strictly.

    Args:
        image: side of its images; the weights' own by default, else positions are resampled (`how`).
        classes: put a new head, of zeros, in the place of the weights' head and its hidden layer (Sec. 3.2).
        expected: patch, width and layers that it has to have.
        more: `dropout`, and as the weights' library has them `tanh` and `eps`.

    Raises:
        ValueError: it is no ViT, another one than expected, or not whole.
    """
    found, state = shape(state), dict(state)
    if expected and expected != found[:3]:
        name = f"vit_{LAYERS[expected[1:]]}_{expected[0]}" if expected[1:] in LAYERS else f"patch, width and layers of {expected}"
        raise ValueError(f"they are of {found}, and {name} was to be filled")
    if classes is not None:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(("head.", "hidden."))}
    image, own = image or found.P * found.grid, len(state["head.bias"]) if "head.bias" in state else 0
    model = ViT(*found[:5], image=image, classes=own if classes is None else classes, hidden="hidden.0.weight" in state, **more)
    state["positions"] = resample_positions(state["positions"], (found.grid, found.grid), model.grid, how)
    if classes:
        state |= {f"head.{name}": p.detach() for name, p in model.head.named_parameters()}
    return filled(model, state, str(found))


def converted(weights: Mapping[str, Any]) -> tuple[dict[str, Tensor], Source]:
    """A state dict of ours, and whose weights they were. Raises ValueError: of none of the four libraries."""
    for source in SOURCES.values():
        if any(key.endswith(source.key) for key in weights):
            return source.convert(weights), source
    raise ValueError(f"{next(iter(weights), 'nothing')}, ... is no weight of a ViT of JAX, timm, torchvision or transformers")


def load(weights: str, cache: Path, **more: Any) -> ViT:
    """Our model with these weights, downloaded to `cache` if they are not there; `more` as `build` has it.

    Raises:
        BadInput: they cannot be had, or are no such net's; says why, and what to do.
    """
    known = ", ".join(each.removeprefix("weights-").replace("2012-", "2012/") for each in WEIGHTS)
    with refused(weights, f"name another file, or one of {known}, or jax-imagenet21k/ViT-B_16"):
        state, source = converted(found(weights, cache))
        return build(state, tanh=source.tanh, eps=source.eps, **more)


def found(weights: str, cache: Path) -> dict[str, Any]:
    """The tensors of an .npz, of jax-FOLDER/NAME of the official bucket, or of whatever `common.weights.read` takes."""
    import numpy as np

    path = Path(weights)
    if weights.startswith("jax-") and not path.exists():
        path = cache / (weights.removeprefix("jax-").replace("/", "-") + ".npz")
        if not path.exists():
            cache.mkdir(parents=True, exist_ok=True)
            download([f"{BUCKET}{weights.removeprefix('jax-')}.npz"], "", path, weights)  # no checksum is published
    if path.suffix != ".npz":
        return read(weights, cache)
    with np.load(path, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def untold(about: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json says of a net's GELU and norms, which tensors do not tell; nothing of one that was not fine-tuned."""
    data = about["data"]
    return {"tanh": data["gelu"] == "tanh", "eps": data["eps"]} if "gelu" in data else {}


def of_run(folder: Path) -> ViT:
    """The net of a run of train.py on ImageNet. Raises BadInput: it is no such run's, or has no checkpoint."""
    about, config, learned = directory.learned(folder, "vit")
    if config["data"] != "imagenet":
        raise BadInput(f"{folder} has learned {config['data']}: of a run on ImageNet, or on one's own folders there, this is for")
    with refused(str(folder), "name another run"):
        return build(learned["model"], **untold(about))


@dataclass(frozen=True)
class Weights:
    weights: str
    """jax-FOLDER/NAME of the official bucket, timm-NAME, torchvision-NAME[.VERSION], OWNER/NAME of the hub, a file, or the folder
    of a run of train.py on ImageNet, or on one's own images in its place."""
    resize: int = 0
    """Shorter side, in pixels, of which the centre is cut out; 0: the whole image becomes the square that the net sees."""
    bicubic: bool = False
    """How it is resized; otherwise bilinear."""
    statistics: bool = False
    """Pixels less ImageNet's mean, in units of its deviation; otherwise from -1 to 1."""


TIMM_CSV, VISION = "timm's results-imagenet.csv", "torchvision's documentation"
WHY = "decoders and resizing differ between versions of PIL"
RERUN = "a choice: the official re-runs of this fine-tuning have 84.53 and 84.12 for B/16, Table 5 has 83.97"


def known(weights: str, where: str, top1: float, top5: float | None = None, why: str = WHY, tolerance: float = 0.1, **more: Any):
    """The accuracies, in %, that are printed for these weights."""
    claims = [
        Claim(f"top{k}_accuracy", value, "%", where, False, tolerance, why, either_way=True)
        for k, value in ((1, top1), (5, top5)) if value
    ]  # fmt: skip
    return Experiment(
        Weights(weights, **more), kind="weights", source="Table 5, ImageNet" if "2012" in where else where,
        cap="the validation set", claims=claims, cost="an hour on one A100 or so, a guess; not run here",
        precision={"cpu": "fp32", "cuda": "tf32"},
    )  # fmt: skip


def torchvision(name: str, top1: float, resize: int = 256, swag: bool = False) -> Experiment[Weights]:
    where = f"{VISION}, {'SWAG, other pre-training' if swag else 'IMAGENET1K_V1, not the paper’s recipe'}"
    return known(f"torchvision-{name}", where, top1, resize=resize, bicubic=swag, statistics=True)


PAPERS = "jax-imagenet21k+imagenet2012/ViT-"
WEIGHTS = {
    "weights-jax-imagenet21k+imagenet2012-ViT-B_16": known(f"{PAPERS}B_16", "Table 5, I21k, ImageNet2012", 83.97, None, RERUN, 0.6),
    "weights-jax-imagenet21k+imagenet2012-ViT-B_32": known(f"{PAPERS}B_32", "Table 5, I21k, ImageNet2012", 81.28, None, RERUN, 0.6),
    "weights-jax-imagenet21k+imagenet2012-ViT-L_16": known(f"{PAPERS}L_16", "Table 5, I21k, ImageNet2012", 85.15, None, RERUN, 0.6),
    "weights-jax-imagenet21k+imagenet2012-ViT-L_32": known(f"{PAPERS}L_32", "Table 5, I21k, ImageNet2012", 80.99, None, RERUN, 0.6),
    **{
        f"weights-timm-{name}": known(f"timm-{name}", TIMM_CSV, top1, top5, resize=resize, bicubic=True)
        for name, top1, top5, resize in (
            ("vit_base_patch16_384.orig_in21k_ft_in1k", 84.212, 97.210, 384),
            ("vit_base_patch16_224.orig_in21k_ft_in1k", 81.782, 96.122, 248),
            ("vit_large_patch32_384.orig_in21k_ft_in1k", 81.508, 96.086, 384),
        )
    },
    "weights-torchvision-vit_b_16": torchvision("vit_b_16", 81.072),
    "weights-torchvision-vit_b_32": torchvision("vit_b_32", 75.912),
    "weights-torchvision-vit_l_16": torchvision("vit_l_16", 79.662, 242),
    "weights-torchvision-vit_l_32": torchvision("vit_l_32", 76.972),
    "weights-torchvision-vit_b_16.IMAGENET1K_SWAG_E2E_V1": torchvision("vit_b_16.IMAGENET1K_SWAG_E2E_V1", 85.304, 384, True),
    "weights-torchvision-vit_l_16.IMAGENET1K_SWAG_E2E_V1": torchvision("vit_l_16.IMAGENET1K_SWAG_E2E_V1", 88.064, 512, True),
    "weights-torchvision-vit_h_14.IMAGENET1K_SWAG_E2E_V1": torchvision("vit_h_14.IMAGENET1K_SWAG_E2E_V1", 88.552, 518, True),
}


def main(run: Run[Weights]) -> dict[str, float]:
    config, folder = run.config, run.data_dir / "weights"
    data = imagenet.load(run.data_dir, "val")
    own = (Path(config.weights) / "checkpoint").is_dir()
    if run.processes > 1 and not own:
        run.on_main(lambda: load(config.weights, folder) and None)  # downloads, once
    model = of_run(Path(config.weights)) if own else load(config.weights, folder)
    data = data.told_apart(getattr(model.head, "out_features", 0))
    run.describe_data(
        name="imagenet", train=0, test=len(data), test_sha256=data.sha256, stand_in=not data.official,
        weights_sha256=fingerprint(model),
    )  # fmt: skip
    mean, std = (MEAN, STD) if config.statistics else ((0.5,) * 3, (0.5,) * 3)
    look = Look(model.image[0], config.resize, config.bicubic, mean, std)
    return evaluate(run, model.to(run.device), validation(run, data, look))


if __name__ == "__main__":
    evaluate_weights(WEIGHTS, main)
