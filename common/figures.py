"""Pictures of a run, and how they are kept."""

from pathlib import Path
from typing import Any

from torch import Tensor


def save(figure: Any, path: Path, title: str, description: str) -> None:
    """A matplotlib figure, or a picture (3, H, W) or (H, W) of values in [0, 1] pixel by pixel, as a PNG that says what it is."""
    path.parent.mkdir(exist_ok=True)
    if not isinstance(figure, Tensor):
        figure.savefig(path, dpi=150, bbox_inches="tight", metadata={"Title": title, "Description": description})
        return
    from PIL.PngImagePlugin import PngInfo
    from torchvision.transforms.functional import to_pil_image

    about = PngInfo()
    about.add_text("Title", title)
    about.add_text("Description", description)
    to_pil_image(figure.detach().float().clamp(0, 1).cpu()).save(path, pnginfo=about)
