"""Figures 6 and 7 of a trained net, Figure 4 in small, and the accuracies of a run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from common import figures
from common.claims import Record
from common.run import Run
from papers.vit.model import ViT, attention_rollout, embedding_filters, position_similarity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARES = (5, 20, 100)  # % of the training set


def draw_accuracies(run: Run, names: Sequence[str], test: str) -> None:
    """Training accuracy as the images are shown (thin), and test accuracy (bold), against updates."""
    lines = {}
    for i, name in enumerate(names):
        for curve, style in ((f"{name}train_accuracy", f"C{i}--"), (f"{name}{test}", f"C{i}.-")):
            x, y = run.curves("step", curve).values()
            lines |= {f"{curve.replace('_', ' ')}: {y[-1]:.1f} %": (x, y, style)} if y else {}
    levels = {f"paper: {claim.value} %": claim.value for claim in run.experiment.claims[:1] if claim.metric == test}
    title = f"{run.name}, seed {run.seed}"
    run.save_figure(figures.curves(lines, levels, xlabel="updates", ylabel="accuracy, %", title=title), "accuracies")


def stretched(images: Tensor, each: bool = True) -> Tensor:
    """Numbers of any range -> [0, 1]: of each image, or of all together; (n, ...)."""
    dims = tuple(range(1 if each else 0, images.ndim))
    low, high = images.amin(dims, keepdim=True), images.amax(dims, keepdim=True)
    return (images - low) / (high - low).clamp(min=1e-12)


def tiles(images: Tensor, columns: int, scale: int) -> Tensor:
    """(n, 3, H, W) in [0, 1], each pixel `scale` times as large, a white line apart."""
    images = images.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    return figures.grid(F.pad(images, (1, 1, 1, 1), value=1.0), columns)


def filters(model: ViT) -> Tensor:
    """Fig. 7, left: principal components of the embedding filters, 28 of them in rows of 7, each from its least to its greatest."""
    components = embedding_filters(model.E.weight.detach().cpu(), model.P).permute(0, 3, 1, 2)  # (28, C, P, P)
    return tiles(stretched(components), 7, max(1, 32 // model.P))


def similarity(model: ViT) -> Tensor:
    """Fig. 7, centre: for each patch a picture of the similarity of its position with those of all patches, dark to bright."""
    found = position_similarity(model.positions.detach().float().cpu(), model.grid)  # (h, w, h, w)
    pictures = stretched(found.flatten(0, 1)[:, None].expand(-1, 3, -1, -1), each=False)
    return tiles(pictures, model.grid[1], max(1, 64 // model.grid[1]))


@torch.no_grad()
def rollout(model: ViT, images: Tensor) -> Tensor:
    """Fig. 6: images (n, 3, H, W) from -1 to 1, and below each what the class token attends to, the rest dark."""
    model.eval()
    seen = torch.cat([attention_rollout(model.attention_weights(image[None]), model.grid) for image in images])
    seen = F.interpolate(seen[:, None].float(), size=model.image, mode="bilinear", align_corners=False)  # (n, 1, H, W)
    shown = images.float() / 2 + 0.5
    return tiles(torch.cat([shown, shown * seen]).cpu(), len(images), max(1, 96 // model.image[0]))


def draw_figures(run: Run, model: ViT, images: Tensor) -> None:
    """Of a net with a class token and positions of its own."""
    run.save_figure(filters(model), "filters")
    run.save_figure(similarity(model), "similarity")
    run.save_figure(rollout(model, images), "rollout")


def figure_4(records: list[Record]) -> "Figure":
    """Figs. 3 and 4 in small: test accuracy against the share of the training set, a line for each net and seed."""
    lines = {}
    for record in records:
        for i, (net, label) in enumerate((("vit", "ViT"), ("resnet", "ResNet"))):
            y = [record["metrics"][f"{net}_{share}_test_accuracy"] for share in SHARES]
            lines[f"{label}, seed {record['seed']}"] = (SHARES, y, f"C{i}o-")
    return figures.curves(lines, {}, xlabel="% of CIFAR-10's training images", ylabel="test accuracy, %", xscale="log")
