"""A run of this folder for other programs: `make export-clip RUN=runs/clip/emoji/seed0 FORMAT=open_clip`."""

from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel

from common import directory
from common.errors import BadInput
from common.weights import refused
from papers.clip.keys import from_open_clip, from_transformers
from papers.clip.model import CLIP, HEAD, VisionTransformer
from papers.clip.pretrained import build
from papers.clip.zeroshot import side_of

SHOWN = "images (n, 3, H, W) and captions as tokens (m, T) of our tokenizer; outputs are embeddings of both, and the cosines' scale"


def of_run(folder: Path) -> CLIP:
    """The net that learns from captions. Raises BadInput: it is no folder of such a run, or has no checkpoint, or no such net."""
    learned = directory.learned(folder, "clip")[2]
    with refused(str(folder), "name a run whose net is CLIP alone, or beside a supervised one"):
        return build(learned.get("model", {})).eval()


def inputs(net: CLIP, n: int) -> dict[str, Tensor]:
    (T, _), V = net.text_encoder.positional_embedding.shape, len(net.text_encoder.token_embedding.weight)
    tokens = torch.randint(1, V - 1, (n + 2, min(T, 4 + n)))
    tokens[:, -1], tokens[0, 2] = V - 1, V - 1
    return {"images": torch.randn(n, 3, side_of(net), side_of(net)), "tokens": tokens}


def of_transformers(net: CLIP) -> nn.Module:
    """Raises BadInput: the image encoder is a ResNet."""
    if not isinstance(net.image_encoder, VisionTransformer):
        raise BadInput("transformers has no CLIP with a ResNet: take open_clip, safetensors or onnx")
    text, image = (
        {"hidden_size": (D := each.proj.shape[0]), "intermediate_size": 4 * D, "num_attention_heads": D // HEAD,
         "num_hidden_layers": len(each.blocks), "projection_dim": each.proj.shape[1], "hidden_act": "quick_gelu"}
        for each in (net.text_encoder, net.image_encoder)
    )  # fmt: skip
    T, V = len(net.text_encoder.positional_embedding), len(net.text_encoder.token_embedding.weight)
    text |= {"vocab_size": V, "max_position_embeddings": T, "bos_token_id": V - 2, "eos_token_id": V - 1}
    image |= {"image_size": side_of(net), "patch_size": net.image_encoder.conv1.stride[0]}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=image, projection_dim=text["projection_dim"]))


def of_open_clip(net: CLIP) -> nn.Module:
    (T, D), text, image = net.text_encoder.positional_embedding.shape, net.text_encoder, net.image_encoder
    if isinstance(image, VisionTransformer):
        about = {"layers": len(image.blocks), "width": image.proj.shape[0], "patch_size": image.conv1.stride[0]}
    else:
        stages = [image.layer1, image.layer2, image.layer3, image.layer4]
        about = {"layers": [len(stage) for stage in stages], "width": image.conv3.out_channels, "patch_size": None}
    words = {"context_length": T, "vocab_size": len(text.token_embedding.weight), "width": D, "heads": D // HEAD}
    words["layers"] = len(text.blocks)
    return open_clip.model.CLIP(text.proj.shape[1], about | {"image_size": side_of(net)}, words, quick_gelu=True)


def by_transformers(net: nn.Module, images: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
    found = net(tokens, images)
    return found.image_embeds, found.text_embeds, net.logit_scale.exp()


def by_open_clip(net: nn.Module, images: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
    tokens = F.pad(tokens, (0, net.context_length - tokens.shape[1]))
    return net.encode_image(images, True), net.encode_text(tokens, True), net.logit_scale.exp()


LIBRARIES = {
    "transformers": (of_transformers, from_transformers, by_transformers),
    "open_clip": (of_open_clip, from_open_clip, by_open_clip),
}
