"""Names and layouts of the weights of the official code, timm, torchvision and transformers -> ours.

Of torch and the standard library alone: copied beside model.py it works anywhere. This file: MIT licence.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

NORMS = {"weight": "weight", "bias": "bias", "scale": "weight"}


# Patterns of each library's keys -> ours; {} is the number of the block. q, k and v are put side by side afterwards.
JAX = {
    "embedding": "E", "cls": "token", "Transformer/posembed_input/pos_embedding": "positions",
    "Transformer/encoderblock_{}/LayerNorm_0": "norm1", "Transformer/encoderblock_{}/LayerNorm_2": "norm2",
    "Transformer/encoderblock_{}/MultiHeadDotProductAttention_1/query": "attention.q",
    "Transformer/encoderblock_{}/MultiHeadDotProductAttention_1/key": "attention.k",
    "Transformer/encoderblock_{}/MultiHeadDotProductAttention_1/value": "attention.v",
    "Transformer/encoderblock_{}/MultiHeadDotProductAttention_1/out": "attention.msa",
    "Transformer/encoderblock_{}/MlpBlock_3/Dense_0": "fc1", "Transformer/encoderblock_{}/MlpBlock_3/Dense_1": "fc2",
    "Transformer/encoder_norm": "norm", "pre_logits": "hidden.0", "head": "head",
}  # fmt: skip
TIMM = {
    "patch_embed.proj": "E", "cls_token": "token", "pos_embed": "positions", "blocks.{}.norm1": "norm1",
    "blocks.{}.norm2": "norm2", "blocks.{}.attn.qkv": "attention.qkv", "blocks.{}.attn.proj": "attention.msa",
    "blocks.{}.mlp.fc1": "fc1", "blocks.{}.mlp.fc2": "fc2", "norm": "norm", "pre_logits.fc": "hidden.0", "head": "head",
}  # fmt: skip
TORCHVISION = {
    "conv_proj": "E", "class_token": "token", "encoder.pos_embedding": "positions",
    "encoder.layers.encoder_layer_{}.ln_1": "norm1", "encoder.layers.encoder_layer_{}.ln_2": "norm2",
    "encoder.layers.encoder_layer_{}.self_attention.in_proj": "attention.qkv",
    "encoder.layers.encoder_layer_{}.self_attention.out_proj": "attention.msa",
    "encoder.layers.encoder_layer_{}.mlp.0": "fc1", "encoder.layers.encoder_layer_{}.mlp.linear_1": "fc1",
    "encoder.layers.encoder_layer_{}.mlp.3": "fc2", "encoder.layers.encoder_layer_{}.mlp.linear_2": "fc2",
    "encoder.ln": "norm", "heads.pre_logits": "hidden.0", "heads.head": "head",
}  # fmt: skip
TRANSFORMERS = {  # names since version 5, then those of the files on the hub
    "embeddings.patch_embeddings.projection": "E", "embeddings.cls_token": "token",
    "embeddings.position_embeddings": "positions", "layers.{}.layernorm_before": "norm1", "layers.{}.layernorm_after": "norm2",
    "layers.{}.attention.q_proj": "attention.q", "layers.{}.attention.k_proj": "attention.k",
    "layers.{}.attention.v_proj": "attention.v", "layers.{}.attention.o_proj": "attention.msa", "layers.{}.mlp.fc1": "fc1",
    "layers.{}.mlp.fc2": "fc2", "encoder.layer.{}.layernorm_before": "norm1", "encoder.layer.{}.layernorm_after": "norm2",
    "encoder.layer.{}.attention.attention.query": "attention.q", "encoder.layer.{}.attention.attention.key": "attention.k",
    "encoder.layer.{}.attention.attention.value": "attention.v", "encoder.layer.{}.attention.output.dense": "attention.msa",
    "encoder.layer.{}.intermediate.dense": "fc1", "encoder.layer.{}.output.dense": "fc2", "layernorm": "norm",
    "pooler.dense": "hidden.0", "classifier": "head",
}  # fmt: skip


def _named(weights: Mapping[str, Tensor], table: Mapping[str, str], of: str) -> dict[str, Tensor]:
    """Our names, q, k and v still apart. Raises ValueError: there is a key that `of` has not."""
    state = {}
    for key, tensor in weights.items():
        base, kind = re.fullmatch(r"(.*?)(?:[._/](weight|bias|kernel|scale))?", key).groups()
        block = re.search(r"(?<=[._])\d+(?=[./])", base)
        form = base[: block.start()] + "{}" + base[block.end() :] if block and base not in table else base
        if form not in table:  # "mlp.0" has a number of its own
            raise ValueError(f"not a state dict of {of}: {key} is no weight of its")
        name = f"blocks.{block[0]}.{table[form]}" if "{}" in form else table[form]
        state[name + (f".{ {'scale': 'weight', 'kernel': 'weight'}.get(kind, kind) }" if kind else "")] = tensor
    return state


def _joined(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """attention.q, .k and .v side by side, as U_qkv has them."""
    for name in [name for name in state if ".attention.q." in name]:
        parts = [state.pop(name.replace(".attention.q.", f".attention.{part}."), None) for part in "qkv"]
        if any(part is None for part in parts):
            raise ValueError(f"{name} is there, and not all of q, k and v")
        state[name.replace(".attention.q.", ".attention.qkv.")] = torch.cat(parts)
    return state


def _of_torch(weights: Mapping[str, Tensor], table: Mapping[str, str], of: str) -> dict[str, Tensor]:
    """A convolution's kernels (D, C, P, P) become rows (D, P P C)."""
    state = _joined(_named(weights, table, of))
    if "E.weight" in state and state["E.weight"].ndim == 4:
        state["E.weight"] = state["E.weight"].permute(0, 2, 3, 1).flatten(1)
    return state


def from_jax(weights: Mapping[str, Any]) -> dict[str, Tensor]:
    """Arrays of the official code's .npz, by their keys -> state dict of our ViT (its GELU is the tanh approximation).

    Raises:
        ValueError: there is a key that such a file does not have (hybrids, MLP-Mixers, files of big_vision).
    """
    weights = {key.removeprefix("opt/target/"): torch.as_tensor(array) for key, array in weights.items()}
    state = _named(weights, JAX, "an official ViT")
    for name, tensor in state.items():
        if name == "E.weight":
            state[name] = tensor.flatten(0, 2).T  # (P, P, C, D)
        elif re.search(r"attention\.[qkv]\.weight", name):
            state[name] = tensor.flatten(1).T  # (D, k, D_h)
        elif re.search(r"attention\.[qkv]\.bias", name):
            state[name] = tensor.flatten()  # (k, D_h)
        elif name.endswith("msa.weight"):
            state[name] = tensor.flatten(0, 1).T  # (k, D_h, D)
        elif name.endswith("weight") and tensor.ndim == 2:
            state[name] = tensor.T
    return _joined(state)


def from_timm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of timm's vit_base_patch16_224 and so on -> state dict of our ViT. Raises ValueError: a key that it has not."""
    return _of_torch(weights, TIMM, "timm's vit_base_patch16, ...")


def from_torchvision(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of torchvision's vit_b_16 and so on -> state dict of our ViT. Raises ValueError: a key that it has not."""
    return _of_torch(weights, TORCHVISION, "torchvision's vit_b_16, ...")


def from_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of ViTModel or ViTForImageClassification -> state dict of our ViT. Raises ValueError: a key that it has not."""
    return _of_torch({key.removeprefix("vit."): each for key, each in weights.items()}, TRANSFORMERS, "transformers' ViT")
