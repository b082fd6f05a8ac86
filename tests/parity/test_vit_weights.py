"""Four libraries' ViTs through ours: the same outputs and gradients from the same random weights, in double precision."""

import math

import numpy as np
import pytest
import timm
import torch
import torchvision
from scipy import ndimage
from timm.layers import resample_abs_pos_embed
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

from common.errors import BadInput
from papers.vit import model as ours
from papers.vit.pretrained import (
    SOURCES,
    build,
    converted,
    found,
    from_jax,
    from_timm,
    from_torchvision,
    from_transformers,
    load,
    shape,
)

NETS = {"b16": (16, 768, 12, 3072), "b32": (32, 768, 12, 3072), "l16": (16, 1024, 16, 4096), "h14": (14, 1280, 16, 5120)}
LAYERS = {"b16": 3, "b32": 2, "l16": 2, "h14": 1}  # of 12, 12, 24, 32: they are alike


def randomised(net):
    """All weights random and none zero: norms' about 1, classifiers and class tokens too."""
    torch.manual_seed(0)
    for name, p in net.named_parameters():
        if ("norm" in name and name.endswith("weight")) or (".ln" in name and name.endswith("weight")):
            nn.init.normal_(p, 1, 0.2)
        else:
            nn.init.normal_(p, 0, 0.02 if p.ndim == 2 else 0.2)
    return net.double().eval()


def of_timm(name, image, classes=7):
    P, D, k, mlp = NETS[name]
    net = timm.models.VisionTransformer(image, P, 3, classes, embed_dim=D, depth=LAYERS[name], num_heads=k, mlp_ratio=mlp / D)
    return randomised(net), from_timm


def of_torchvision(name, image, classes=7, hidden=None):
    P, D, k, mlp = NETS[name]
    net = VisionTransformer(image, P, LAYERS[name], k, D, mlp, num_classes=classes, representation_size=hidden)
    return randomised(net), from_torchvision


def of_transformers(name, image, classes=7):
    from transformers import ViTConfig, ViTForImageClassification

    P, D, k, mlp = NETS[name]
    config = ViTConfig(
        hidden_size=D, num_hidden_layers=LAYERS[name], num_attention_heads=k, intermediate_size=mlp, image_size=image, patch_size=P,
        num_labels=classes,
    )  # fmt: skip
    net = randomised(ViTForImageClassification(config))
    return net, from_transformers


MAKE = {"timm": of_timm, "torchvision": of_torchvision, "transformers": of_transformers}


def in_ours(library, state, **more):
    return build(state, tanh=SOURCES[library].tanh, eps=SOURCES[library].eps, **more).double().eval()


def same(y, expected, tolerance=1e-10):
    assert y.shape == expected.shape and expected.std() > 1e-3 * expected.abs().max() > 0
    assert (y - expected).abs().max() <= tolerance * expected.abs().max()


def outputs(net, x):
    y = net(x)
    return y.logits if hasattr(y, "logits") else y


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("library", MAKE)
def test_outputs_are_those_of_the_reference(library, name):
    image = {"b16": 64, "b32": 96, "l16": 48, "h14": 42}[name]
    net, convert = MAKE[library](name, image)
    model = in_ours(library, convert(net.state_dict()))
    x = torch.randn(2, 3, image, image, dtype=torch.float64)
    with torch.no_grad():
        same(model(x), outputs(net, x))
    assert (model.P, len(model.blocks), model.blocks[0].attention.k) == (NETS[name][0], LAYERS[name], NETS[name][2])


@pytest.mark.parametrize("library", MAKE)
def test_gradients_are_those_of_the_reference(library):
    """Of the images and of every weight."""
    net, convert = MAKE[library]("b16", 48)
    model = in_ours(library, convert(net.state_dict()))
    x, found = torch.randn(2, 3, 48, 48, dtype=torch.float64), []
    for each in (model, net):
        image = x.clone().requires_grad_()
        nn.functional.cross_entropy(outputs(each, image), torch.tensor([2, 5])).backward()
        found.append((image.grad, {name: p.grad for name, p in each.named_parameters()}))
    (of_image, of_weights), (expected, others) = found
    same(of_image, expected)
    others = convert(others)
    assert of_weights.keys() == others.keys()
    for name, each in of_weights.items():
        if "qkv.bias" in name:  # a key's bias moves all logits of a row alike: its gradient is rounding
            each, others[name] = (torch.cat([t.chunk(3)[0], t.chunk(3)[2]]) for t in (each, others[name]))
        same(each, others[name], 1e-8)


def arrays(name, image, hidden, classes=7):
    """An .npz as the official code writes it, of random numbers: its keys, shapes and order of axes (models_vit.py)."""
    (P, D, k, mlp), random = NETS[name], np.random.default_rng(0)
    N = (image // P) ** 2
    draw = lambda *size, std=0.02: (std * random.standard_normal(size)).astype(np.float32)
    found = {
        "cls": draw(1, 1, D, std=0.2), "embedding/kernel": draw(P, P, 3, D), "embedding/bias": draw(D),
        "Transformer/posembed_input/pos_embedding": draw(1, N + 1, D, std=0.2),
        "Transformer/encoder_norm/scale": 1 + draw(D, std=0.2), "Transformer/encoder_norm/bias": draw(D),
        "head/kernel": draw(D, classes), "head/bias": draw(classes),
    }  # fmt: skip
    if hidden:
        found |= {"pre_logits/kernel": draw(D, D), "pre_logits/bias": draw(D, std=0.2)}
    for i in range(LAYERS[name]):
        at = f"Transformer/encoderblock_{i}/"
        for part in ("query", "key", "value"):
            found |= {f"{at}MultiHeadDotProductAttention_1/{part}/kernel": draw(D, k, D // k)}
            found |= {f"{at}MultiHeadDotProductAttention_1/{part}/bias": draw(k, D // k)}
        found |= {f"{at}MultiHeadDotProductAttention_1/out/kernel": draw(k, D // k, D)}
        found |= {f"{at}MultiHeadDotProductAttention_1/out/bias": draw(D)}
        found |= {f"{at}MlpBlock_3/Dense_0/kernel": draw(D, mlp), f"{at}MlpBlock_3/Dense_0/bias": draw(mlp)}
        found |= {f"{at}MlpBlock_3/Dense_1/kernel": draw(mlp, D), f"{at}MlpBlock_3/Dense_1/bias": draw(D)}
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            found |= {f"{at}{norm}/scale": 1 + draw(D, std=0.2), f"{at}{norm}/bias": draw(D)}
    return found


@pytest.mark.parametrize("name", NETS)
def test_jax_files_are_read_as_timm_reads_them(name, tmp_path):
    """timm's own loader on the same random .npz; both with the GELU of the official code."""
    image = 2 * NETS[name][0]
    np.savez(path := tmp_path / "official.npz", **arrays(name, image, hidden=False))
    net, _ = of_timm(name, image)
    net.float().load_pretrained(str(path))
    for block in net.blocks:
        block.mlp.act = nn.GELU("tanh")
    state, source = converted(found(str(path), tmp_path))
    model = build(state, tanh=source.tanh, eps=source.eps).double().eval()
    x = torch.randn(2, 3, image, image, dtype=torch.float64)
    with torch.no_grad():
        same(model(x), net.double()(x))
        same(load(str(path), tmp_path).double().eval()(x), net(x))


def test_jax_files_as_they_are_described():
    """One image through the equations, written out with the file's arrays; the hidden layer of pre-training among them."""
    w = {key: torch.from_numpy(each).double() for key, each in arrays("b16", 32, hidden=True).items()}
    x = torch.rand(3, 32, 32, dtype=torch.float64) * 2 - 1
    norm = lambda z, key: nn.functional.layer_norm(z, z.shape[-1:], w[f"{key}/scale"], w[f"{key}/bias"], 1e-6)
    dense = lambda z, key: z @ w[f"{key}/kernel"] + w[f"{key}/bias"]
    patches = [x[:, i : i + 16, j : j + 16] for i in (0, 16) for j in (0, 16)]
    z = [torch.einsum("chw,hwcd->d", patch, w["embedding/kernel"]) + w["embedding/bias"] for patch in patches]
    z = torch.cat([w["cls"][0], torch.stack(z)]) + w["Transformer/posembed_input/pos_embedding"][0]
    for i in range(LAYERS["b16"]):
        at = f"Transformer/encoderblock_{i}"
        a, y = f"{at}/MultiHeadDotProductAttention_1", norm(z, f"{at}/LayerNorm_0")
        q, k, v = (
            torch.einsum("td,dke->kte", y, w[f"{a}/{p}/kernel"]) + w[f"{a}/{p}/bias"][:, None] for p in ("query", "key", "value")
        )
        heads = (q @ k.mT / math.sqrt(64)).softmax(2) @ v
        z = z + torch.einsum("kte,ked->td", heads, w[f"{a}/out/kernel"]) + w[f"{a}/out/bias"]
        y = dense(norm(z, f"{at}/LayerNorm_2"), f"{at}/MlpBlock_3/Dense_0")
        y = 0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
        z = z + dense(y, f"{at}/MlpBlock_3/Dense_1")
    y = dense(torch.tanh(dense(norm(z, "Transformer/encoder_norm")[0], "pre_logits")), "head")
    model = build(from_jax(w), tanh=True).double()
    with torch.no_grad():
        same(model(x[None])[0], y)
    headless = {key: each for key, each in w.items() if not key.startswith("head")}
    assert build(from_jax(headless)).head.__class__ is nn.Identity


def test_torchvision_with_its_hidden_layer_and_older_names():
    net, _ = of_torchvision("b32", 64, hidden=768)
    older = {
        key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): each for key, each in net.state_dict().items()
    }
    assert older.keys() != net.state_dict().keys()
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        same(in_ours("torchvision", from_torchvision(older))(x), net(x))


def test_names_of_transformers_files_on_the_hub():
    """As google/vit-base-patch16-224 has them; and ViTModel's with its pooler, which is the hidden layer."""
    from transformers import ViTModel

    net, _ = of_transformers("b32", 64)
    renames = {
        "vit.layers.": "vit.encoder.layer.", "attention.q_proj": "attention.attention.query",
        "attention.o_proj": "attention.output.dense",
        "attention.k_proj": "attention.attention.key", "attention.v_proj": "attention.attention.value",
        "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
    }  # fmt: skip
    old = net.state_dict()
    for new, name in renames.items():
        old = {key.replace(new, name): each for key, each in old.items()}
    expected, renamed = from_transformers(net.state_dict()), from_transformers(old)
    assert old.keys() != net.state_dict().keys() and renamed.keys() == expected.keys()
    assert all(torch.equal(renamed[name], each) for name, each in expected.items())
    body = randomised(ViTModel(net.config))
    model, x = in_ours("transformers", from_transformers(body.state_dict())), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        same(model(x), body(x).pooler_output)


# Sec. 3.2: resampled positions.


@pytest.mark.parametrize(
    ("old", "new"), [((14, 14), (24, 24)), ((7, 7), (12, 12)), ((16, 16), (37, 37)), ((14, 14), (9, 17)), ((24, 24), (14, 14))]
)
def test_resampled_positions(old, new):
    """The official code's (scipy's zoom of first order), and timm's own."""
    positions = torch.randn(1, 1 + old[0] * old[1], 8, dtype=torch.float64)
    grid = ndimage.zoom(positions[0, 1:].view(*old, 8).numpy(), (new[0] / old[0], new[1] / old[1], 1), order=1)
    expected = torch.cat([positions[:, :1], torch.from_numpy(grid).reshape(1, -1, 8)], 1)
    same(ours.resample_positions(positions, old, new), expected)
    theirs = resample_abs_pos_embed(positions.float(), list(new), list(old))
    same(ours.resample_positions(positions.float(), old, new, "bicubic"), theirs, 1e-6)


def test_positions_of_one_size_stay_as_they_are():
    positions = torch.randn(1, 10, 4)
    assert ours.resample_positions(positions, (3, 3), (3, 3)) is positions
    with pytest.raises(ValueError, match="10 positions are not a grid of 4 x 4"):
        ours.resample_positions(positions, (4, 4), (5, 5))


@pytest.mark.parametrize("size", [(80, 112), (32, 48)])
def test_odd_sizes_are_those_of_timm(size):
    """timm's net of 64 pixels made for images that are no squares, its positions resampled by timm."""
    small, _ = of_timm("b16", 64)
    P, D, k, mlp = NETS["b16"]
    net = timm.models.VisionTransformer(size, P, 3, 7, embed_dim=D, depth=LAYERS["b16"], num_heads=k).double().eval()
    state = small.state_dict()
    grid = size[0] // P, size[1] // P
    state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"].float(), list(grid), [4, 4]).double()
    net.load_state_dict(state)
    model = ours.ViT(P, D, LAYERS["b16"], k, mlp, image=size, classes=7, tanh=False).double().eval()
    ours_state = from_timm(small.state_dict())
    ours_state["positions"] = ours.resample_positions(ours_state["positions"].float(), (4, 4), grid, "bicubic").double()
    model.load_state_dict(ours_state)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        same(model(x), net(x), 1e-6)


# What does not fit.


def test_a_new_head_is_zero_and_the_rest_is_the_files():
    state = from_jax(arrays("b32", 64, hidden=True))
    model = build(state, image=96, classes=10, dropout=0.1)
    assert model.head.weight.shape == (10, 768) and not model.head.weight.any() and not model.head.bias.any()
    assert isinstance(model.hidden, nn.Identity) and model.grid == (3, 3) and model.dropout.p == 0.1
    assert torch.equal(model.E.weight, state["E.weight"]) and torch.equal(model.positions[:, :1], state["positions"][:, :1])


def test_shapes_are_said():
    state = from_torchvision(meta("vit_l_32", image_size=384))
    assert str(shape(state)) == "vit_l_32 for images of 384 x 384"
    with pytest.raises(ValueError, match=r"^they are of vit_l_32 for images of 384 x 384, and vit_b_16 was to be filled$"):
        build(state, expected=(16, 768, 12))


def meta(name, **more):
    with torch.device("meta"):
        return getattr(torchvision.models, name)(**more).state_dict()


@pytest.mark.parametrize(
    ("library", "name", "said"),
    [
        (from_timm, "deit3_small_patch16_224", "gamma"), (from_timm, "vit_base_patch16_siglip_224", "attn_pool"),
        (from_timm, "vit_base_r50_s16_224", "backbone"), (from_timm, "resnet18", "conv1.weight"),
    ],
)  # fmt: skip
def test_keys_of_other_nets_are_refused(library, name, said):
    with torch.device("meta"):
        state = timm.create_model(name, pretrained=False).state_dict()
    with pytest.raises(ValueError, match=f"not a state dict of timm.* {said}|{said}.* is no weight of its"):
        library(state)


def test_what_is_missing_or_of_another_shape_is_refused():
    state = from_torchvision(meta("vit_b_16"))
    for change, said in (
        (lambda s: s.pop("blocks.3.fc2.bias"), "not vit_b_16 for images of 224 x 224: it has no blocks.3.fc2.bias"),
        (
            lambda s: s.update(positions=torch.empty(1, 190, 768, device="meta")),
            "189 positions besides the class token's are not a square",
        ),
        (lambda s: s.pop("token"), "it has no token"),
        (lambda s: s.update({"norm.weight": torch.empty(5, device="meta")}), "norm.weight is"),
    ):
        changed = dict(state)
        change(changed)
        with torch.device("meta"), pytest.raises(ValueError, match=said):
            build(changed)


def test_files_that_cannot_be_used(tmp_path):
    """One line: what, why, and what there is."""
    (tmp_path / "cut.npz").write_bytes(b"PK\3\4")
    np.savez(tmp_path / "other.npz", **{"block0/conv1/kernel": np.zeros(3)})
    for name, said in (("cut.npz", "cannot load"), ("other.npz", "block0/conv1/kernel"), ("none.npz", "none.npz")):
        with pytest.raises(BadInput, match=said) as caught:
            load(str(tmp_path / name), tmp_path)
        assert "\n" not in str(caught.value) and "jax-imagenet21k/ViT-B_16" in str(caught.value)
