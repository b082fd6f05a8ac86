"""Names and layouts of the weights of openai/CLIP, open_clip and transformers -> ours.

Of torch and the standard library alone: copied beside model.py it works anywhere. This file: MIT licence.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

NO_WEIGHTS = {"input_resolution", "context_length", "vocab_size"}  # numbers beside the weights, in the released files
TEXT = r"(token_embedding|ln_final)\.|(positional_embedding|text_projection)$"
PARTS = {"attn.in_proj_": "attn.in_proj.", "attn.out_proj.": "attn.out_proj.", "mlp.c_fc.": "c_fc.", "mlp.c_proj.": "c_proj."}
PARTS |= {"ln_1.": "ln_1.", "ln_2.": "ln_2."}
LAYER = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(" + "|".join(map(re.escape, PARTS)) + ")(weight|bias)")
SHORTCUT = {"0": "conv", "1": "bn"}


def from_openai(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of openai/CLIP's model, in half precision or not -> state dict of our CLIP, in single precision.

    Raises:
        ValueError: there is a key that such a model does not have.
    """

    def name(key: str) -> str:
        if match := LAYER.fullmatch(key):
            tower = "image_encoder" if match[1] else "text_encoder"
            return f"{tower}.blocks.{match[2]}.{PARTS[match[3]]}{match[4]}"
        if key == "logit_scale":
            return key
        if re.match(TEXT, key):
            return "text_encoder." + key.replace("text_projection", "proj")
        if not key.startswith("visual.") or "transformer" in key:
            raise ValueError(f"not a state dict of openai/CLIP: {key} is no weight of its")
        key = re.sub(r"downsample\.([01])\.", lambda match: f"downsample.{SHORTCUT[match[1]]}.", key)
        return key.replace("visual.", "image_encoder.", 1)

    state = {name(key): value for key, value in weights.items() if key not in NO_WEIGHTS}
    return {key: value.float() if value.dtype == torch.float16 else value for key, value in state.items()}


def from_open_clip(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of open_clip's CLIP, with or without "module." before its keys -> state dict of our CLIP. The names are OpenAI's.

    Raises:
        ValueError: there is a key that such a model does not have: that of another text encoder, or of SigLIP.
    """
    bare = {key.removeprefix("module."): value for key, value in weights.items()}
    return from_openai({key: value for key, value in bare.items() if key != "attn_mask"})


THEIRS = {  # of transformers, but for layers -> ours
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "text_encoder.token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "text_encoder.positional_embedding",
    "text_model.final_layer_norm.weight": "text_encoder.ln_final.weight",
    "text_model.final_layer_norm.bias": "text_encoder.ln_final.bias",
    "text_projection.weight": "text_encoder.proj",
    "vision_model.embeddings.class_embedding": "image_encoder.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "image_encoder.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "image_encoder.positional_embedding",
    "vision_model.pre_layrnorm.weight": "image_encoder.ln_pre.weight",  # so spelt
    "vision_model.pre_layrnorm.bias": "image_encoder.ln_pre.bias",
    "vision_model.post_layernorm.weight": "image_encoder.ln_post.weight",
    "vision_model.post_layernorm.bias": "image_encoder.ln_post.bias",
    "visual_projection.weight": "image_encoder.proj",
}
ROWS = {f"self_attn.{each}_proj": f"attn.in_proj.{each}" for each in "qkv"}
ROWS |= {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "c_fc",
    "mlp.fc2": "c_proj",
}
ROW = re.compile(r"(text|vision)_model\.encoder\.layers\.(\d+)\.(" + "|".join(map(re.escape, ROWS)) + r")\.(weight|bias)")


def from_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of transformers' CLIPModel, a ViT -> state dict of our CLIP.

    Their projections are nn.Linear, (out, in); queries, keys and values have matrices of their own.

    Raises:
        ValueError: there is a key that such a model does not have.
    """

    def name(key: str) -> str:
        if match := ROW.fullmatch(key):
            tower = "text_encoder" if match[1] == "text" else "image_encoder"
            return f"{tower}.blocks.{match[2]}.{ROWS[match[3]]}.{match[4]}"
        if key not in THEIRS:
            raise ValueError(f"not a state dict of CLIPModel: {key} is no weight of its")
        return THEIRS[key]

    state = {name(key): value for key, value in weights.items() if not key.endswith("position_ids")}
    for key in [key for key in state if ".in_proj.q." in key]:
        parts = [state.pop(key.replace(".q.", f".{each}."), None) for each in "qkv"]
        if any(part is None for part in parts):
            raise ValueError(f"{key} lacks its keys or values")
        state[key.replace(".q.", ".")] = torch.cat(parts)
    return {key: value.mT if key.endswith("encoder.proj") else value for key, value in state.items()}
