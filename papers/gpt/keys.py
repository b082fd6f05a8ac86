"""Names and layouts of the weights of transformers' openai-gpt and of the authors' own files -> ours.

Of torch and the standard library alone: copied beside model.py it works anywhere. This file: MIT licence.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten

import torch
from torch import Tensor

SHARDS, SHAPES = tuple(f"params_{i}.npy" for i in range(10)), "params_shapes.json"  # the authors' files
PARTS = {  # of a layer, in the order of the authors' files; each has a weight, or gain, and a bias
    "attn.c_attn": "attention.qkv", "attn.c_proj": "attention.out", "ln_1": "norm1",
    "mlp.c_fc": "mlp.0", "mlp.c_proj": "mlp.2", "ln_2": "norm2",
}  # fmt: skip
LAYER = re.compile(r"h\.(\d+)\.")
MASK = re.compile(r"(transformer\.)?(h\.\d+\.attn\.(masked_)?bias|position_ids)")  # buffers of older files


def names(depth: int) -> dict[str, str]:
    """Name of each weight in transformers -> in our GPT, in the order of the authors' files."""
    parts = [(i, theirs, ours, kind) for i in range(depth) for theirs, ours in PARTS.items() for kind in ("weight", "bias")]
    layers = {f"h.{i}.{theirs}.{kind}": f"blocks.{i}.{ours}.{kind}" for i, theirs, ours, kind in parts}
    return {"positions_embed.weight": "positions.weight", "tokens_embed.weight": "embedding.weight", **layers}


def from_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of OpenAIGPTLMHeadModel, with or without "transformer." before its keys -> state dict of our GPT.

    Their Conv1D holds its matrix as (in, out), nn.Linear as (out, in).

    Raises:
        ValueError: there is a key that such a model does not have, or one is missing, or the head is not the embeddings.
    """
    theirs = {key.removeprefix("transformer."): tensor for key, tensor in weights.items() if not MASK.fullmatch(key)}
    head = theirs.pop("lm_head.weight", None)
    if head is not None and not torch.equal(theirs.setdefault("tokens_embed.weight", head), head):
        raise ValueError("lm_head.weight is not tokens_embed.weight, as it is in our model")
    ours = names(max([0, *(int(match[1]) for match in map(LAYER.match, theirs) if match)]) + 1)
    if unknown := [name for name in theirs if name not in ours]:
        raise ValueError(f"not a state dict of OpenAIGPTLMHeadModel: {unknown[0]} is no weight of its")
    state = {ours[name]: tensor for name, tensor in theirs.items()}
    if missing := [name for name in ours if name not in theirs]:
        raise ValueError(shorten(f"it has no {', '.join(missing)}", 200))
    for name in (name for name in theirs if ".c_" in name and name.endswith("weight")):
        if theirs[name].ndim != 2:
            raise ValueError(f"{name} has shape {tuple(theirs[name].shape)}, not (in, out)")
        state[ours[name]] = theirs[name].T
    return state


def from_openai(folder: Path) -> dict[str, Tensor]:
    """The authors' params_0.npy to params_9.npy, all weights in a row, cut as params_shapes.json says -> state dict of our GPT.

    Raises:
        ValueError, OSError, EOFError: files are missing, damaged, or of another network.
    """
    import numpy as np

    shapes = json.loads((folder / SHAPES).read_text(encoding="utf-8"))
    flat = torch.from_numpy(np.concatenate([np.load(folder / name).ravel() for name in SHARDS]))
    sizes, (depth, rest) = [math.prod(shape) for shape in shapes], divmod(len(shapes) - 2, 2 * len(PARTS))
    if rest or depth < 1:
        raise ValueError(f"{SHAPES} has {len(shapes)} shapes, not two and {2 * len(PARTS)} for each layer")
    if sum(sizes) != len(flat):
        raise ValueError(f"params_*.npy hold {len(flat):,} numbers, {SHAPES} has {sum(sizes):,}")
    tensors = [piece.view(*shape) for piece, shape in zip(flat.split(sizes), shapes, strict=True)]
    return from_transformers({name: x[0] if x.ndim == 3 else x for name, x in zip(names(depth), tensors, strict=True)})
