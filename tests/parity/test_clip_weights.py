"""transformers', open_clip's and the authors' CLIP through our model: the same embeddings and logits from the same weights."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel

from common.errors import BadInput
from papers.clip.keys import NO_WEIGHTS
from papers.clip.model import CLIP, ModifiedResNet, TextEncoder, VisionTransformer
from papers.clip.pretrained import build, from_open_clip, from_openai, from_transformers, load
from papers.clip.zeroshot import side_of

V, CONTEXT = 99, 12


def theirs_of_transformers(text_width=64, width=128, layers=2, side=32, patch=8, **more):
    """Its smallest model with heads of 64."""
    common = {"num_hidden_layers": layers, "projection_dim": 24, "hidden_act": "quick_gelu", **more}
    text = {
        "vocab_size": V,
        "hidden_size": text_width,
        "intermediate_size": 4 * text_width,
        "num_attention_heads": text_width // 64,
    }
    text |= {"max_position_embeddings": CONTEXT, "eos_token_id": 2, **common}
    vision = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 64, "image_size": side}
    config = CLIPConfig(text_config=text, vision_config=vision | {"patch_size": patch, **common}, projection_dim=24)
    config.text_config.bos_token_id = 0
    torch.manual_seed(0)
    return stirred(CLIPModel(config))


def stirred(model):
    """Weights as random as they come, so that each of them matters."""
    torch.manual_seed(1)
    for p in model.parameters():
        with torch.no_grad():
            p.copy_(p + 0.1 * torch.randn_like(p) if p.ndim else torch.tensor(3.0))
    for name, b in model.named_buffers():
        if name.endswith("running_mean"):
            b.normal_(0, 0.1)
        elif name.endswith("running_var"):
            b.uniform_(0.5, 2)
    return model.double().eval()


def captions(n=5):
    """The last token, V - 1, ends them at various places; zeros follow."""
    torch.manual_seed(2)
    tokens = torch.randint(1, V - 1, (n, CONTEXT))
    for row, end in zip(tokens, (3, 5, 11, 1, 8), strict=False):
        row[end], row[end + 1 :] = V - 1, 0
    return tokens


def logits(ours, images, tokens):
    I, T, scale = ours(images, tokens)
    return scale * I @ T.mT


def close(a, b):
    assert a.dtype == b.dtype == torch.float64
    assert (a - b).abs().max() <= 1e-10 * b.abs().max()


@pytest.mark.parametrize(("text_width", "width", "side", "patch"), [(64, 128, 32, 8), (128, 64, 28, 14)])
def test_transformers_vit(text_width, width, side, patch, double):
    theirs = theirs_of_transformers(text_width, width, side=side, patch=patch)
    ours = build(from_transformers(theirs.state_dict()))
    assert side_of(ours) == side
    images, tokens = torch.randn(3, 3, side, side), captions()
    with torch.no_grad():
        expected = theirs(input_ids=tokens, pixel_values=images)
        close(ours.encode_image(images), expected.image_embeds)
        close(ours.encode_text(tokens), expected.text_embeds)
        close(logits(ours, images, tokens), expected.logits_per_image)
        close(ours.encode_text(tokens[3:4, :2]), expected.text_embeds[3:4])  # cut after its end
        changed = tokens.clone()
        changed[0, 4:] = 7  # after the end
        close(ours.encode_text(changed)[:1], expected.text_embeds[:1])


def test_gradients_are_transformers_too(double):
    theirs = theirs_of_transformers()
    ours = build(from_transformers(theirs.state_dict())).requires_grad_(True)
    images, tokens = torch.randn(5, 3, 32, 32), captions()
    theirs(input_ids=tokens, pixel_values=images, return_loss=True).loss.backward()
    I, T, scale = ours(images, tokens)
    from papers.clip.model import contrastive_loss

    contrastive_loss(I, T, scale).backward()
    expected = from_transformers({name: p.grad for name, p in theirs.named_parameters()})
    for name, p in ours.named_parameters():
        assert torch.allclose(p.grad, expected[name], rtol=1e-8, atol=1e-12), name


def open_clip_model(config):
    open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
    torch.manual_seed(0)
    return stirred(open_clip.model.CLIP(**config, quick_gelu=True))


TEXT = {"context_length": CONTEXT, "vocab_size": V, "width": 64, "heads": 1, "layers": 2}


@pytest.mark.parametrize(
    "vision",
    [
        {"layers": 2, "width": 128, "patch_size": 8, "image_size": 32},
        {"layers": [1, 2, 1, 1], "width": 16, "patch_size": None, "image_size": 64},
        {"layers": [2, 1, 1, 2], "width": 32, "patch_size": None, "image_size": 96},
    ],
    ids=["vit", "resnet", "resnet-wide"],
)
def test_open_clip(vision, double):
    theirs = open_clip_model({"embed_dim": 24, "vision_cfg": dict(vision), "text_cfg": dict(TEXT)})
    ours = build(from_open_clip(theirs.state_dict()))
    side = vision["image_size"]
    assert side_of(ours) == side
    images, tokens = torch.randn(3, 3, side, side), captions()
    with torch.no_grad():
        close(ours.encode_image(images), F.normalize(theirs.encode_image(images), dim=1))
        close(ours.encode_text(tokens), F.normalize(theirs.encode_text(tokens), dim=1))
        close(logits(ours, images, tokens), theirs.get_logits(images, tokens)[0])


def authors(state):
    """A state dict of ours by the authors' names, in half precision where theirs is, with what else is in their files."""
    found = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(CONTEXT), "vocab_size": torch.tensor(V)}
    for key, value in state.items():
        key = key.replace("text_encoder.blocks", "transformer.resblocks").replace("text_encoder.proj", "text_projection")
        key = key.replace("image_encoder.blocks", "visual.transformer.resblocks")
        key = key.replace("image_encoder.", "visual.").replace("text_encoder.", "").replace("in_proj.", "in_proj_")
        key = key.replace("downsample.conv", "downsample.0").replace("downsample.bn", "downsample.1")
        key = key.replace(".c_", ".mlp.c_") if "resblocks" in key else key
        halved = value.ndim > 1 and "embedding" not in key
        found[key] = value.half() if halved else value
    return found


def small(kind):
    torch.manual_seed(3)
    image = VisionTransformer(24, 64, 1, 16, 32) if kind == "vit" else ModifiedResNet(24, (1, 1, 1, 1), 8, 32)
    return CLIP(image, TextEncoder(24, 64, 1, CONTEXT, V)).eval()


class Archive(nn.Module):
    """As the released files: tensors, and code that would say so if it ran."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for key, value in state.items():
            parent = self
            *path, last = key.split(".")
            for part in path:
                if not hasattr(parent, part):
                    parent.add_module(part, nn.Module())
                parent = getattr(parent, part)
            parent.register_buffer(last, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.sum() > 1e9, "its code was run"
        return x


@pytest.mark.parametrize("kind", ["vit", "resnet"])
@pytest.mark.parametrize("form", ["plain", "torchscript", "checkpoint"])
def test_files(kind, form, tmp_path):
    """The authors' archives, plain state dicts, open_clip's checkpoints: strictly, in single precision."""
    model, path = small(kind), tmp_path / "weights.pt"
    state = authors(model.state_dict())
    if form == "torchscript":
        torch.jit.save(torch.jit.script(Archive(state)), str(path))
    elif form == "plain":
        torch.save(state, path)
    else:
        torch.save(
            {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items() if key not in NO_WEIGHTS}},
            path,
        )
    found = load(str(path), tmp_path)
    expected = {
        key: value.half().float() if value.ndim > 1 and "embedding" not in key else value
        for key, value in model.state_dict().items()
    }
    assert found.state_dict().keys() == expected.keys()
    for key, value in found.state_dict().items():
        assert torch.equal(value, expected[key]), key
    I, T, scale = found(torch.randn(2, 3, 32, 32), captions(2))
    assert I.dtype == T.dtype == torch.float32 and scale == pytest.approx(1 / 0.07)


def test_strict(tmp_path):
    state = from_openai(authors(small("vit").state_dict()))
    with pytest.raises(ValueError, match=r"it has no image_encoder\.ln_pre\.bias"):
        build({key: value for key, value in state.items() if key != "image_encoder.ln_pre.bias"})
    with pytest.raises(ValueError, match="no weight of its"):
        build(state | {"image_encoder.more": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"ln_post\.weight is \(7,\), not \(64,\)"):
        build(state | {"image_encoder.ln_post.weight": torch.zeros(7)})
    with pytest.raises(ValueError, match=r"logit_bias is no weight of its"):
        from_open_clip({"logit_bias": torch.zeros(())})
    with pytest.raises(ValueError, match="roberta"):
        from_open_clip({"text.transformer.roberta.weight": torch.zeros(1)})
    torch.save({"a": 1.0}, tmp_path / "other.pt")
    with pytest.raises(BadInput, match=r"cannot load .*other\.pt .*name one of RN50"):
        load(str(tmp_path / "other.pt"), tmp_path)
    (tmp_path / "code.pt").write_bytes(b"\x80\x02cos\nsystem\n.")
    with pytest.raises(BadInput, match="cannot load"):
        load(str(tmp_path / "code.pt"), tmp_path)


def test_another_activation_is_refused(tmp_path):
    """A model that was trained with GELU would be wrong in silence."""
    from safetensors.torch import save_file

    model = theirs_of_transformers(hidden_act="gelu").float()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(model.config.to_dict(), default=str))
    with pytest.raises(BadInput, match="its activation is gelu, and the paper's models have quick_gelu"):
        load(str(tmp_path), tmp_path)
    model = theirs_of_transformers().float()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(model.config.to_dict(), default=str))
    assert side_of(load(str(tmp_path), tmp_path)) == 32
    (tmp_path / "config.json").unlink()
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"embed_dim": 24}}))
    with pytest.raises(BadInput, match=r"gelu.*quick_gelu"):
        load(str(tmp_path), tmp_path)
