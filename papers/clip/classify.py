"""Which of some labels an image shows, by given weights or by a run.

    python -m papers.clip.classify cat.jpg dog.jpg --labels "a dog" "a cat" "a diagram"                 # ViT-B/32, downloaded
    python -m papers.clip.classify drawing.png --labels cat dog --weights runs/clip/emoji/seed0         # what a run has learned

For each image its labels, the likeliest first, with their probabilities. Labels are whole captions, without a template.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from common.data.folders import decoded
from common.data.rows import reading
from common.errors import BadInput
from papers.clip import tokenizer
from papers.clip.model import CLIP, MODELS
from papers.clip.pretrained import load
from papers.clip.tokenizer import Tokenizer
from papers.clip.zeroshot import preprocessed, shown, side_of


@torch.no_grad()
def probabilities(model: CLIP, tokens: Tokenizer, images: Sequence[Path], labels: Sequence[str]) -> torch.Tensor:
    """(images, labels). Raises BadInput: an image cannot be read, or a label is empty."""
    pixels = []
    for path in images:
        with reading("classify", path, "name an image"):
            content = path.read_bytes()
        pixels.append(preprocessed(decoded(content, f"classify: {path}"), side_of(model)))
    found, _ = tokens(labels, len(model.text_encoder.positional_embedding))
    I, T, scale = model(shown(torch.stack(pixels), torch.device("cpu")), found)
    return (scale * I @ T.mT).softmax(1)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m papers.clip.classify", description=__doc__.partition("\n")[0])
    parser.add_argument("images", nargs="+", type=Path, help="image files")
    parser.add_argument("--labels", nargs="+", required=True, help="captions to choose from")
    parser.add_argument("--weights", default="ViT-B/32", help=f"{', '.join(MODELS)}, a file, a folder, or a run's directory")
    parser.add_argument("--data-dir", type=Path, default=Path(os.environ.get("DATA_DIR", "data")), help="where weights go")
    options = parser.parse_args(argv)
    try:
        model = load(options.weights, options.data_dir / "weights")
        size = len(model.text_encoder.token_embedding.weight)
        tokenizer.download(options.data_dir, size)
        tokens = tokenizer.load(options.data_dir, size)
        for path, row in zip(options.images, probabilities(model, tokens, options.images, options.labels), strict=True):
            print(path)
            for p, i in zip(*row.sort(descending=True), strict=True):
                print(f"  {100 * p.item():6.2f} %  {options.labels[i]}")
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
