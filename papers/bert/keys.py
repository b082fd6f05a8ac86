"""Names and layouts of the weights of transformers and of the authors' TensorFlow checkpoints -> ours.

Of torch and the standard library alone: copied beside model.py it works anywhere. This file: MIT licence.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

PARTS = {  # of a layer; each has a weight, or gain, and a bias
    "attention.self.query": "q", "attention.self.key": "k", "attention.self.value": "v", "attention.output.dense": "attention.out",
    "attention.output.LayerNorm": "norm1", "intermediate.dense": "ffn.0", "output.dense": "ffn.2", "output.LayerNorm": "norm2",
}  # fmt: skip
OTHERS = {
    "embeddings.word_embeddings.weight": "tokens.weight", "embeddings.token_type_embeddings.weight": "segments.weight",
    "embeddings.position_embeddings.weight": "positions.weight", "embeddings.LayerNorm.weight": "norm.weight",
    "embeddings.LayerNorm.bias": "norm.bias", "pooler.dense.weight": "pooler.weight", "pooler.dense.bias": "pooler.bias",
}  # fmt: skip
HEADS = {
    "cls.predictions.transform.dense.": "transform.0.", "cls.predictions.transform.LayerNorm.": "transform.2.",
    "cls.predictions.": "", "cls.seq_relationship.": "next.", "classifier.": "W.", "qa_outputs.": "SE.",
}  # fmt: skip
LAYER = re.compile(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)")
TIED = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")


def ours(key: str, wrapped: bool) -> str:
    """Our name of a weight of transformers; q, k and v, which we have as one, end what we have of them. ValueError: none."""
    before = "bert." if wrapped else ""
    if match := LAYER.fullmatch(key):
        part = PARTS.get(match[2])
        if part in ("q", "k", "v"):
            return f"{before}layers.{match[1]}.attention.qkv.{match[3]}.{part}"
        if part:
            return f"{before}layers.{match[1]}.{part}.{match[3]}"
    if key in OTHERS:
        return before + OTHERS[key]
    for theirs, head in HEADS.items():
        if key.startswith(theirs):
            return head + key.removeprefix(theirs)
    raise ValueError(f"not a state dict of BertModel, or of one with a head that is known here: {key} is no weight of its")


def from_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of BertModel, BertForPreTraining, ...ForSequenceClassification or ...ForQuestionAnswering -> of our network.

    Also of older files: gamma and beta for LayerNorm's, buffers of positions, no decoder (it is the embeddings).

    Raises:
        ValueError: there is a key that such a model does not have, or part of a matrix is missing, or the decoder is not tied.
    """
    theirs = {key.removeprefix("bert."): tensor for key, tensor in weights.items() if not key.endswith(".position_ids")}
    theirs = {re.sub("gamma$", "weight", re.sub("beta$", "bias", key)): tensor for key, tensor in theirs.items()}
    for key, tied in zip(TIED, ("embeddings.word_embeddings.weight", "cls.predictions.bias"), strict=True):
        if (given := theirs.pop(key, None)) is not None and not torch.equal(theirs.setdefault(tied, given), given):
            raise ValueError(f"{key} is not {tied}, as it is in our model")
    wrapped = any(key.startswith(tuple(HEADS)) for key in theirs)
    found = {ours(key, wrapped): tensor for key, tensor in theirs.items()}
    for name in sorted(name for name in found if name.endswith(".q")):
        stem = name.removesuffix(".q")
        if lost := [part for part in "kv" if f"{stem}.{part}" not in found]:
            raise ValueError(f"{stem}: it has no {' and '.join(lost)}")
        found[stem] = torch.cat([found.pop(f"{stem}.{part}") for part in "qkv"])
    return found


def from_tensorflow(arrays: Mapping[str, Any]) -> dict[str, Tensor]:
    """Variables of the authors' checkpoints, as NumPy arrays -> state dict of our network. Their kernels are (in, out)."""
    state = {}
    for name, array in arrays.items():
        if name == "global_step" or "adam" in name:
            continue
        key = re.sub(r"layer_(\d+)", r"layer.\1", name).replace("/", ".")
        key = key.replace("output_weights", "weight").replace("output_bias", "bias")
        key = f"{key}.weight" if key.endswith("_embeddings") else key
        tensor = torch.as_tensor(array)
        state[key.replace("kernel", "weight")] = tensor.T if key.endswith("kernel") else tensor
    return from_transformers(state)
