"""Names and layouts of the weights of transformers' MarianMTModel -> ours.

Of torch and the standard library alone: copied beside model.py it works anywhere. This file: MIT licence.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

KEY = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.(.+)\.(weight|bias)")
EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")  # all the same
POSITIONS = ("encoder.embed_positions.weight", "decoder.embed_positions.weight")  # sinusoids; some files hold them
_SELF = {
    f"self_attn.{theirs}_proj": f"self_attention.W_{ours}" for theirs, ours in zip(("q", "k", "v", "out"), "QKVO", strict=True)
}
_BOTH = {**_SELF, "self_attn_layer_norm": "norm1", "fc1": "feed_forward.W_1", "fc2": "feed_forward.W_2"}
_CROSS = {theirs.replace("self_attn", "encoder_attn"): ours.replace("self", "cross") for theirs, ours in _SELF.items()}
PARTS = {
    "encoder": {**_BOTH, "final_layer_norm": "norm2"},
    "decoder": {**_BOTH, **_CROSS, "encoder_attn_layer_norm": "norm2", "final_layer_norm": "norm3"},
}


def from_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of MarianMTModel, with or without "model." before its keys -> state dict of our Transformer, and `bias`.

    Marian's positions are encoded as [sines | cosines], ours as sine, cosine, sine, ... (Sec. 3.5). So what reads or writes the
    model dimension gets that in another order, which changes nothing else: no layer tells one of these numbers from another.

    Raises:
        ValueError: there is a key that such a model does not have, or weights that are not tied or are no sinusoids.
    """
    state, tied, positions = {}, [], []
    for key, tensor in weights.items():
        name = key.removeprefix("model.")
        match = KEY.fullmatch(name)
        if match and match[3] in PARTS[match[1]]:
            state[f"{match[1]}.{match[2]}.{PARTS[match[1]][match[3]]}.{match[4]}"] = tensor
        elif name == "final_logits_bias":
            state["bias"] = tensor.flatten()
        elif name in EMBEDDINGS:
            tied.append(tensor)
        elif name in POSITIONS:
            positions.append(tensor)
        else:
            raise ValueError(f"not a state dict of MarianMTModel: {key} is no weight of its")
    if not tied or not all(torch.equal(tied[0], other) for other in tied[1:]):
        raise ValueError("embeddings of source, target and output are not one matrix" if tied else "no embeddings")
    state["embedding.weight"], d_model = tied[0], tied[0].shape[-1]
    if d_model % 2:
        raise ValueError(f"d_model {d_model} is odd")

    order = torch.arange(d_model).view(2, -1).T.flatten()  # 0, D / 2, 1, D / 2 + 1, ...
    for name, tensor in state.items():
        reads = re.search(r"(W_[QKV1]|embedding)\.weight$", name)
        writes = re.search(r"(W_[O2]|norm\d)\.(weight|bias)$", name)
        if reads or writes:
            dimension = tensor.ndim - 1 if reads else 0
            if not tensor.ndim or tensor.shape[dimension] != d_model:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)} in a model of d_model {d_model}")
            state[name] = tensor.index_select(dimension, order.to(tensor.device))
    for table in positions:
        i, pos = torch.arange(d_model // 2, device=table.device), torch.arange(len(table), device=table.device)
        angles = pos[:, None] * 10000 ** (-2 * i / d_model)
        if table.shape[1:] != (d_model,) or (table - torch.cat([angles.sin(), angles.cos()], 1)).abs().max() > 1e-3:
            raise ValueError("the encoding of positions is not [sines | cosines]")
    return state
