"""Fig. 2 in small; what captions of held-out concepts are near to which drawings; and drawings found by texts."""

from typing import TYPE_CHECKING

import torch

from common import figures
from common.run import Run
from papers.clip.data import Data
from papers.clip.evaluation import embedded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from papers.clip.model import CLIP

SHOWN, BEST, QUERIES = 24, 8, 10  # concepts of the matrix; drawings to each text, and texts


def draw_curves(run: Run, names: list[str], title: str) -> None:
    """Accuracies against the images that training has gone through."""
    lines = {}
    for i, name in enumerate(names):
        x, y = run.curves("images", name).values()
        lines |= {f"{name.replace('_', ' ')}: {y[-1]:.1f} %": (x, y, f"C{i}o-")} if y else {}
    axes = {"xlabel": "images processed", "ylabel": "accuracy, %", "title": f"{title}, seed {run.seed}"}
    run.save_figure(figures.curves(lines, {}, **axes), "accuracy")


def draw_retrieval(run: Run, model: "CLIP", data: Data) -> None:
    """`matrix`: cosines of captions and drawings of held-out concepts. `found`: for ten of their captions the nearest drawings."""
    sets = list(data.retrieval.values())
    with run.evaluating(model) as net:
        I = [embedded(run, lambda some: net.encode_image(data.look(some)), pairs.images) for pairs in sets]
        T = embedded(run, net.encode_text, sets[0].tokens)
    if run.main:
        words = [data.vocabulary.decode(row) for row in sets[0].tokens.tolist()]
        step = max(1, len(words) // SHOWN)
        some = slice(0, step * SHOWN, step)
        run.save_figure(matrix((T[some] @ I[0][some].mT).float().cpu(), words[some], sets[0].images[some].cpu()), "matrix")
        texts = range(0, len(words), max(1, len(words) // QUERIES))[:QUERIES]
        images = torch.cat([pairs.images for pairs in sets]).cpu()
        best = (T[list(texts)] @ torch.cat(I).mT).topk(min(BEST, len(images))).indices.cpu()
        run.save_figure(found([words[i] for i in texts], images[best]), "found")


def matrix(cosines: torch.Tensor, words: list[str], images: torch.Tensor) -> "Figure":
    """Captions as rows, drawings as columns: the diagonal is theirs."""
    from matplotlib.figure import Figure
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    axes = (figure := Figure(figsize=(8, 7))).add_subplot()
    figure.colorbar(axes.imshow(cosines, cmap="viridis"), ax=axes, shrink=0.7, label="cosine")
    axes.set_yticks(range(len(words)), words, fontsize="x-small")
    axes.set_xticks([])
    for i, image in enumerate(images):
        box = AnnotationBbox(OffsetImage(image.numpy(), zoom=0.25), (i, len(words) + 0.3), frameon=False, annotation_clip=False)
        axes.add_artist(box)
    return figure


def found(words: list[str], images: torch.Tensor) -> "Figure":
    """A row for each text: (n, k, H, W, 3)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.75 * len(words)))
    for i, (axes, row) in enumerate(zip(figure.subplots(len(words), 1, squeeze=False)[:, 0], images, strict=True)):
        axes.imshow(torch.cat([*row], 1).numpy())
        axes.set_axis_off()
        axes.text(-8, row.shape[1] / 2, words[i], ha="right", va="center", fontsize="small")
    return figure
