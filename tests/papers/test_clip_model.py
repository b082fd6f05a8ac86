"""CLIP's models, loss and classifier: the paper's own arithmetic, identities and hand-made cases."""

import math

import pytest
import torch
from einops import rearrange
from torch.nn import functional as F

from papers.clip.model import (
    CLIP,
    LN_100,
    MODELS,
    Attention,
    AttentionPool,
    Bottleneck,
    ModifiedResNet,
    TextEncoder,
    VisionTransformer,
    clip,
    contrastive_loss,
    quick_gelu,
    zero_shot_classifier,
)  # fmt: skip

IMAGE = {
    "RN50": 38_316_896, "RN101": 56_259_936, "RN50x4": 87_137_080, "RN50x16": 167_328_912, "RN50x64": 420_380_352,
    "ViT-B/32": 87_849_216, "ViT-B/16": 86_192_640, "ViT-L/14": 303_966_208, "ViT-L/14@336px": 304_293_888,
}  # fmt: skip
TEXT = {(512, 512): 63_428_096, (512, 1024): 63_690_240, (640, 640): 91_163_520, (768, 768): 123_650_304, (1024, 1024): 202_877_952}


@pytest.mark.parametrize("name", MODELS)
def test_parameters(name):
    """Tables 19 and 20 through their models' sizes; `clip` asserts the sum."""
    with torch.device("meta"):
        model = clip(name)
    count = lambda module: sum(p.numel() for p in module.parameters())
    D, E = model.text_encoder.proj.shape
    assert count(model.image_encoder) == IMAGE[name]
    assert count(model.text_encoder) == TEXT[D, E]
    assert count(model) == IMAGE[name] + TEXT[D, E] + 1 == MODELS[name][-1]


def test_heads_are_64_wide():
    """Table 20: 8, 8, 10, 12 and 16 heads of text encoders, 12 and 16 of ViTs; of attention pooling 32 to 64."""
    with torch.device("meta"):
        assert [TextEncoder(8, D, 1).blocks[0].attn.h for D in (512, 640, 768, 1024)] == [8, 10, 12, 16]
        assert [VisionTransformer(8, D, 1, 32).blocks[0].attn.h for D in (768, 1024)] == [12, 16]


def small(side=32):
    torch.manual_seed(0)
    return CLIP(VisionTransformer(16, 64, 2, 8, side), TextEncoder(16, 64, 2, 9, 40))


def test_loss_is_figure_3(double):
    """Written out as its pseudocode."""
    torch.manual_seed(1)
    I, T = (F.normalize(torch.randn(7, 5), dim=1) for _ in range(2))
    logits = 3.0 * I @ T.T
    expected = 0.0
    for i in range(7):
        expected -= (logits[i, i] - logits[i].exp().sum().log()) / 14 + (logits[i, i] - logits[:, i].exp().sum().log()) / 14
    assert contrastive_loss(I, T, torch.tensor(3.0)) == pytest.approx(expected.item(), rel=1e-12)
    parts = [slice(0, 3), slice(3, 4), slice(4, 7)]
    whole = sum(contrastive_loss(I, T, torch.tensor(3.0), rows) * (rows.stop - rows.start) / 7 for rows in parts)
    assert whole == pytest.approx(expected.item(), rel=1e-12)


def test_loss_by_hand():
    """Two pairs with cosines 1 and 0: -log of 1 / (1 + exp(-s)), both ways. All alike: ln N."""
    eye = torch.eye(2, dtype=torch.float64)
    assert contrastive_loss(eye, eye, torch.tensor(2.0)) == pytest.approx(math.log(1 + math.exp(-2)))
    same = torch.ones(128, 1, dtype=torch.float64)
    assert contrastive_loss(same, same, torch.tensor(10.0)) == pytest.approx(math.log(128))


def test_embeddings_have_length_1(double):
    """And at the start cosines count 1 / 0.07 times (Sec. 2.5)."""
    I, T, scale = small()(torch.randn(6, 3, 32, 32), torch.randint(1, 39, (6, 9)))
    assert scale.item() == pytest.approx(1 / 0.07)
    assert torch.allclose(I.norm(dim=1), torch.ones(6)) and torch.allclose(T.norm(dim=1), torch.ones(6))


def test_scale_is_clipped_from_above_only():
    model = small()
    for t, expected in ((9.0, LN_100), (4.0, 4.0), (-1.0, -1.0)):
        model.logit_scale.data.fill_(t)
        model.clip_scale()
        assert model.logit_scale.item() == pytest.approx(expected)
    assert math.exp(LN_100) == pytest.approx(100)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_an_explicit_loop(causal, double):
    torch.manual_seed(2)
    layer = Attention(128, causal)
    torch.nn.init.normal_(layer.in_proj.bias)
    x = torch.randn(2, 5, 128)
    q, k, v = layer.in_proj(x).split(128, dim=2)
    y = torch.zeros(2, 5, 128)
    for h in (slice(0, 64), slice(64, 128)):
        for i in range(5):
            seen = i + 1 if causal else 5
            weights = torch.softmax((q[:, i : i + 1, h] * k[:, :seen, h]).sum(2) / 8, dim=1)
            y[:, i, h] = (weights[:, :, None] * v[:, :seen, h]).sum(1)
    assert torch.allclose(layer(x), layer.out_proj(y))


def test_a_caption_ends_with_its_last_token(double):
    """What comes after has no influence; what comes before has; and padding may be left away."""
    encoder = small().text_encoder
    tokens = torch.tensor([[38, 5, 6, 39, 0, 0, 0, 0, 0]])
    expected = encoder(tokens)
    assert torch.allclose(encoder(torch.tensor([[38, 5, 6, 39, 7, 8, 39, 1, 2]])), expected)
    assert torch.allclose(encoder(tokens[:, :4]), expected)
    assert not torch.allclose(encoder(torch.tensor([[38, 5, 7, 39, 0, 0, 0, 0, 0]])), expected)


def test_quick_gelu():
    x = torch.linspace(-4, 4, 9, dtype=torch.float64)
    assert torch.allclose(quick_gelu(x), x / (1 + torch.exp(-1.702 * x)))
    assert 0.005 < (quick_gelu(x) - F.gelu(x)).abs().max() < 0.03  # near it, and another


def test_blur_pooling_in_place_of_strides(double):
    """Every convolution has stride 1 but the first; a block that halves its maps averages 2 x 2 places in both branches."""
    torch.manual_seed(3)
    net = ModifiedResNet(16, (1, 1, 1, 1), 8, 64)
    strides = {name: m.stride for name, m in net.named_modules() if isinstance(m, torch.nn.Conv2d) and m.stride != (1, 1)}
    assert strides == {"conv1": (2, 2)} and not any(isinstance(m, torch.nn.MaxPool2d) for m in net.modules())
    block = Bottleneck(8, 4, 2).eval()
    x = torch.randn(1, 8, 6, 6)
    assert torch.equal(block(x), F.relu(block.downsample(x)))  # bn3 begins at zero
    torch.nn.init.ones_(block.bn3.weight)
    y = F.relu(block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x))))))
    y = rearrange(y, "b c (h p) (w q) -> b c h w (p q)", p=2, q=2).mean(-1)
    short = block.downsample.bn(block.downsample.conv(rearrange(x, "b c (h p) (w q) -> b c h w (p q)", p=2, q=2).mean(-1)))
    assert torch.allclose(block(x), F.relu(block.bn3(block.conv3(y)) + short))


def test_attention_pooling_is_multi_head_attention(double):
    torch.manual_seed(4)
    pool, x = AttentionPool(3, 128, 10), torch.randn(2, 128, 3, 3)
    tokens = torch.cat([x.mean((2, 3))[None], rearrange(x, "b c h w -> (h w) b c")]) + pool.positional_embedding[:, None]
    parts = (pool.q_proj, pool.k_proj, pool.v_proj)
    q = pool.q_proj(tokens[0]).unflatten(1, (2, 64))
    k, v = (each(tokens).unflatten(2, (2, 64)) for each in parts[1:])
    weights = torch.einsum("bhk,tbhk->bht", q, k).div(8).softmax(2)
    assert torch.allclose(pool(x), pool.c_proj(torch.einsum("bht,tbhk->bhk", weights, v).flatten(1)))


def test_initial_weights():
    """The authors' deviations: 0.02 and 0.01 of the text's embeddings, by width and depth in its blocks."""
    torch.manual_seed(5)
    text = TextEncoder(128, 256, 4, 77, 2000)
    block = text.blocks[1]
    found = [text.token_embedding.weight, text.positional_embedding, block.attn.in_proj.weight, block.attn.out_proj.weight]
    found += [block.c_fc.weight, block.c_proj.weight, text.proj]
    expected = [0.02, 0.01, 1 / 16, 1 / 16 / 8**0.5, 512**-0.5, 1 / 16 / 8**0.5, 1 / 16]
    assert [each.std().item() for each in found] == pytest.approx(expected, rel=0.03)
    pool = AttentionPool(7, 256, 128)
    assert [pool.q_proj.weight.std().item(), pool.c_proj.weight.std().item()] == pytest.approx([1 / 16] * 2, rel=0.03)
    assert pool.positional_embedding.std().item() == pytest.approx(1 / 16, rel=0.05)


def test_prompts_are_averaged_as_embeddings(double):
    """Not as logits, and not before they have length 1 (Sec. 3.1.4)."""
    model = small()
    prompts = [torch.tensor([[38, 5, 39], [38, 6, 39]]), torch.tensor([[38, 7, 39]])]
    W = zero_shot_classifier(model, prompts)
    first = [F.normalize(model.text_encoder(prompts[0][i : i + 1]), dim=1)[0] for i in (0, 1)]
    mean = (first[0] + first[1]) / 2
    assert torch.allclose(W[0], mean / mean.norm())
    assert torch.allclose(W[1], F.normalize(model.text_encoder(prompts[1]), dim=1)[0])
