"""Pictures of a run, as PNG files."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def curves(lines: Mapping[str, tuple[Sequence[float], Sequence[float], str]], levels: Mapping[str, float], **axes: Any) -> "Figure":
    """Curves beside the paper's values.

    Args:
        lines: label -> (x, y, style); what is not solid is thin.
        levels: label -> the height of a line; the label stands beside the axes.
        axes: what `Axes.set` takes; where a line ends below `ylim`, that goes down to it.
    """
    from matplotlib.figure import Figure

    picture = (figure := Figure(figsize=(5, 3.5))).add_subplot()
    for label, (x, y, style) in lines.items():
        picture.plot(x, y, style, markersize=4, linewidth=0.8 if ":" in style or "--" in style else 1.5, label=label)
    for label, y in levels.items():
        picture.axhline(y, color="black", linewidth=0.8, linestyle=":")
        picture.text(1.01, y, label, fontsize="x-small", va="center", transform=picture.get_yaxis_transform())
    if "ylim" in axes and (ends := [y[-1] for _, y, _ in lines.values() if len(y)]):
        axes["ylim"] = (min(axes["ylim"][0], *ends), axes["ylim"][1])
    picture.set(**axes)
    picture.legend(fontsize="small")
    return figure


def attention(panels: Sequence[tuple[Tensor, Sequence[str], Sequence[str], str]]) -> "Figure":
    """How much rows look at columns, brighter being more: (weights (T, S), words of T, words of S, title)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(panels), 4.8), layout="tight")
    for axes, (weights, rows, columns, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axes.imshow(weights.float().cpu(), cmap="gray", vmin=0)
        rows, columns = ([word.replace("$", r"\$") for word in words] for words in (rows, columns))
        axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize="x-small")
        axes.set_yticks(range(len(rows)), rows, fontsize="x-small")
        axes.set_title(title)
    return figure


def grid(images: Tensor, columns: int) -> Tensor:
    """The pixels of images in [0, 1], row after row: (n, H, W) or (n, 3, H, W) -> (3, rows H, columns W)."""
    from torchvision.utils import make_grid

    return make_grid(images[:, None] if images.ndim == 3 else images, columns, padding=0)


def png(figure: "Figure | Tensor", title: str, description: str) -> bytes:
    """A matplotlib figure, or a picture (3, H, W) or (H, W) of values in [0, 1], or a moving one (n, 3, H, W), as a PNG."""
    file, texts = io.BytesIO(), {"Title": title, "Description": description}
    if not isinstance(figure, Tensor):
        figure.savefig(file, dpi=150, bbox_inches="tight", metadata=texts)
        return file.getvalue()
    from PIL.PngImagePlugin import PngInfo
    from torchvision.transforms.functional import to_pil_image

    about = PngInfo()
    for text in texts.items():
        about.add_text(*text)
    first, *others = map(to_pil_image, figure.detach().float().clamp(0, 1).cpu().view(-1, *figure.shape[-3:]))
    first.save(file, "PNG", pnginfo=about, save_all=bool(others), append_images=others, duration=100)
    return file.getvalue()
