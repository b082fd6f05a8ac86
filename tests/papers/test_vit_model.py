"""The Vision Transformer's own arithmetic, and its equations written out."""

import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from papers.vit import model as vit
from papers.vit.model import ViT

SIZES = {  # parameters without a head, with one of 1000 classes; 10^9 multiply-adds at 224 pixels, and at 384 (H: 518)
    "vit_b_16": (85_798_656, 86_567_656, 17.56, 55.48),
    "vit_b_32": (87_455_232, 88_224_232, 4.41, 13.04),
    "vit_l_16": (303_301_632, 304_326_632, 61.55, 191.07),
    "vit_l_32": (305_510_400, 306_535_400, 15.38, 45.27),
    "vit_h_14": (630_764_800, 632_045_800, 167.29, 1016.7),
}
TABLE_1 = {"b": (12, 768, 3072, 12, 86), "l": (24, 1024, 4096, 16, 307), "h": (32, 1280, 5120, 16, 632)}


@pytest.fixture(autouse=True)
def in_double(double):
    torch.manual_seed(0)


def small(**more):
    """With all weights random, none zero."""
    net = ViT(4, 16, 2, 2, 24, **{"image": (8, 12), "classes": 5} | more).eval()
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    return net


def count(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("name", SIZES)
def test_table_1(name):
    headless, whole, _, _ = SIZES[name]
    with torch.device("meta"):
        net, body, pretraining = getattr(vit, name)(), getattr(vit, name)(classes=0), getattr(vit, name)(hidden=True)
    L, D, mlp, k, millions = TABLE_1[name[4]]
    block = net.blocks[0]
    assert (len(net.blocks), block.fc1.in_features, block.fc1.out_features, block.attention.k) == (L, D, mlp, k)
    assert (count(body), count(net), count(pretraining)) == (headless, whole, whole + D * D + D)
    assert int(name[6:]) == net.P and abs(whole - millions * 1e6) < 3e6


@pytest.mark.parametrize("name", SIZES)
def test_multiply_adds(name):
    """Linear layers, and both products of attention, as torchvision counts them."""
    for image, expected in zip((224, 518 if name == "vit_h_14" else 384), SIZES[name][2:], strict=True):
        with torch.device("meta"):
            net, x = getattr(vit, name)(image=image), torch.empty(1, 3, image, image)
            with FlopCounterMode(display=False) as counter:
                net(x)
        assert counter.get_total_flops() / 2e9 == pytest.approx(expected, rel=1e-3)


def test_equation_1():
    """The linear map of flattened patches is the convolution with as large a stride, and a loop over patches in raster order."""
    net, x = small(), torch.randn(2, 3, 8, 12)
    kernels = net.E.weight.unflatten(1, (4, 4, 3)).permute(0, 3, 1, 2)
    convolved = nn.functional.conv2d(x, kernels, net.E.bias, stride=4).flatten(2).mT  # (B, N, D)
    z = torch.cat([net.token.expand(2, 1, -1), convolved], 1) + net.positions
    torch.testing.assert_close(net.embedded(x), z)
    n = 0
    for i in range(0, 8, 4):
        for j in range(0, 12, 4):
            patch = x[:, :, i : i + 4, j : j + 4].permute(0, 2, 3, 1).flatten(1)  # (B, P^2 C)
            n += 1
            torch.testing.assert_close(z[:, n], patch @ net.E.weight.T + net.E.bias + net.positions[:, n])
    assert n == 6 and net.positions.shape == (1, 7, 16)


def by_loops(attention, z, bias=lambda q, p: 0.0):
    """Eqs. (5)-(8), token by token."""
    D = z.shape[1]
    Uq, Uk, Uv = attention.qkv.weight.chunk(3)
    bq, bk, bv = attention.qkv.bias.chunk(3)
    q, k, v = z @ Uq.T + bq, z @ Uk.T + bk, z @ Uv.T + bv
    found, width = [], D // attention.k
    for head in range(attention.k):
        part = slice(head * width, head * width + width)
        rows = []
        for i in range(len(z)):
            logits = torch.stack([(q[i, part] @ k[j, part] + bias(q[i, part], i - j)) / math.sqrt(width) for j in range(len(z))])
            weights = logits.exp() / logits.exp().sum()
            rows.append(sum(weights[j] * v[j, part] for j in range(len(z))))
        found.append(torch.stack(rows))
    return torch.cat(found, 1) @ attention.msa.weight.T + attention.msa.bias


@pytest.mark.parametrize("how", ["1-D", "relative"])
def test_equations_2_to_8(how, monkeypatch):
    """The whole net, written out; with relative positions the query meets a second key, of the offset."""
    net, x = small(positions=how), torch.randn(1, 3, 8, 12)
    norm = lambda layer, z: (
        (z - z.mean(1, keepdim=True)) / (z.var(1, False, keepdim=True) + 1e-6).sqrt() * layer.weight + layer.bias
    )
    gelu = lambda y: 0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
    z = net.embedded(x)[0]
    for block in net.blocks:
        offsets = block.attention.offsets
        assert (offsets is None) == (how == "1-D") and (offsets is None or offsets.shape == (13, 8))
        bias = (lambda q, p, offsets=offsets: q @ offsets[p + 6]) if how == "relative" else (lambda q, p: 0.0)
        z = by_loops(block.attention, norm(block.norm1, z), bias) + z
        y = gelu(norm(block.norm2, z) @ block.fc1.weight.T + block.fc1.bias)
        z = y @ block.fc2.weight.T + block.fc2.bias + z
    y = norm(net.norm, z[:1])
    torch.testing.assert_close(net.features(x), y)
    torch.testing.assert_close(net(x), y @ net.head.weight.T + net.head.bias)
    # On a CPU attention is written out in bf16: here as if double were that.
    monkeypatch.setattr(torch, "bfloat16", torch.float64)
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", None)
    torch.testing.assert_close(net(x), y @ net.head.weight.T + net.head.bias)


def test_heads():
    """Pre-training has a tanh layer before the last one."""
    net, x = small(hidden=True), torch.randn(2, 3, 8, 12)
    expected = net.head(torch.tanh(net.features(x) @ net.hidden[0].weight.T + net.hidden[0].bias))
    torch.testing.assert_close(net(x), expected)
    assert small(classes=0)(x).shape == (2, 16)


def shuffled_patches(x, order):
    """The same patches of 4 x 4 in another order."""
    patches = x.unfold(2, 4, 4).unfold(3, 4, 4).flatten(2, 3)[:, :, order]  # (B, C, N, 4, 4)
    rows = [torch.cat([patches[:, :, 3 * i + j] for j in range(3)], 3) for i in range(2)]
    return torch.cat(rows, 2)


@pytest.mark.parametrize("pool", ["token", "average"])
@pytest.mark.parametrize("how", ["none", "1-D", "2-D", "relative"])
def test_positions_tell_patches_apart(how, pool):
    """Without positions it sees a bag of patches, and only then."""
    net, x = small(positions=how, pool=pool), torch.randn(2, 3, 8, 12)
    moved = shuffled_patches(x, torch.tensor([4, 2, 5, 0, 1, 3]))
    torch.testing.assert_close(shuffled_patches(x, torch.arange(6)), x)
    assert torch.allclose(net(moved), net(x)) == (how == "none")


def test_two_dimensional_positions():
    """D.4: X- and Y-embedding, each half as wide, side by side; the class token has none."""
    net, x = small(positions="2-D"), torch.randn(1, 3, 8, 12)
    z = net.embedded(x)[0]
    assert net.X.shape == (3, 8) and net.Y.shape == (2, 8)
    bare = net.E(x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 4, 5, 1).flatten(3))[0]  # (2, 3, D)
    torch.testing.assert_close(z[0], net.token[0, 0])
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(z[1 + 3 * i + j] - bare[i, j], torch.cat([net.X[j], net.Y[i]]))


def test_average_pooling():
    """No class token; the mean of the normalised patches."""
    net, x = small(pool="average"), torch.randn(2, 3, 8, 12)
    z = net.embedded(x)
    assert net.token is None and net.positions.shape == (1, 6, 16) and z.shape == (2, 6, 16)
    for block in net.blocks:
        z = block(z)
    torch.testing.assert_close(net.features(x), sum(net.norm(z[:, n]) for n in range(6)) / 6)


def test_dropout_is_where_the_paper_has_it(monkeypatch):
    """B.1: after embeddings and positions, and after every dense layer but q, k, v: one and three in a layer."""
    net, seen = ViT(4, 16, 2, 2, 24, image=8, classes=5, dropout=0.5), []
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: seen.append((self.p, x.shape[2])) or torch.zeros_like(x))
    assert not net(torch.randn(1, 3, 8, 8)).any()
    assert seen == [(0.5, 16)] + 2 * [(0.5, 16), (0.5, 24), (0.5, 16)]


@torch.no_grad()
def test_initial_weights():
    """The official code's: Xavier's uniform of each matrix, q, k and v apart; LeCun's cut normal for patches; heads of zeros."""
    net = ViT(16, 192, 2, 3, 768, image=64, classes=10, hidden=True, positions="1-D")
    bound = lambda fan_in, fan_out: math.sqrt(6 / (fan_in + fan_out))
    for block in net.blocks:
        matrices = [(part, 192, 192) for part in block.attention.qkv.weight.chunk(3)] + [(block.attention.msa.weight, 192, 192)]
        for weight, *fans in [*matrices, (block.fc1.weight, 192, 768), (block.fc2.weight, 768, 192)]:
            assert 0.99 * bound(*fans) < weight.abs().max() <= bound(*fans)
            assert weight.std() == pytest.approx(bound(*fans) / math.sqrt(3), rel=0.02)
        assert not block.attention.qkv.bias.any() and not block.attention.msa.bias.any()
        assert 0 < block.fc1.bias.abs().max() < 1e-5 and 0 < block.fc2.bias.abs().max() < 1e-5
    for layer in (net.E, net.hidden[0]):
        assert layer.weight.std() == pytest.approx(layer.in_features**-0.5, rel=0.02) and not layer.bias.any()
        assert layer.weight.abs().max() <= 2.28 * layer.in_features**-0.5
    assert net.positions.std() == pytest.approx(0.02, rel=0.1) and not net.token.any()
    assert not net.head.weight.any() and not net.head.bias.any()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ViT(16, image=12), "images of 12 x 12 are not whole patches of 16 x 16"),
        (lambda: ViT(16, image=(32, 40)), "images of 32 x 40 are not whole patches of 16 x 16"),
        (lambda: ViT(4, 10, 1, 3, 4, image=8), "a width of 10 cannot be divided among 3 heads"),
        (lambda: ViT(4, 8, 1, 2, 4, image=8, positions="3-D"), "positions are 1-D, none, 2-D or relative, not 3-D"),
        (lambda: small()(torch.randn(1, 3, 12, 8)), "images are 12 x 8, and the net is for 8 x 12: resample_positions"),
    ],
)
def test_what_does_not_fit_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


# Figs. 6 and 7.


def test_attention_weights_are_those_of_the_pass():
    net, x = small(), torch.randn(2, 3, 8, 12)
    A = net.attention_weights(x)
    assert A.shape == (2, 2, 2, 7, 7)
    torch.testing.assert_close(A.sum(4), torch.ones(2, 2, 2, 7))
    z = net.embedded(x)
    for block, weights in zip(net.blocks, A, strict=True):
        v = block.attention.qkv(block.norm1(z))[..., 32:].unflatten(2, (2, 8)).transpose(1, 2)
        torch.testing.assert_close(
            block.attention.msa((weights @ v).transpose(1, 2).flatten(2)) + z, block.attention(block.norm1(z)) + z
        )
        z = block(z)


def test_attention_rollout():
    """Two layers by hand: paths through attention and past it."""
    A = torch.rand(2, 1, 3, 5, 5).softmax(4)
    first, second = ((layer[0].mean(0) + torch.eye(5)) / 2 for layer in A)
    expected = torch.tensor([sum(second[0, m] * first[m, n] for m in range(5)) for n in range(1, 5)]).view(2, 2)
    found = vit.attention_rollout(A, (2, 2))
    torch.testing.assert_close(found[0], expected / expected.max())
    assert found.shape == (1, 2, 2)


def test_position_similarity():
    net = small()
    found = vit.position_similarity(net.positions.detach(), net.grid)
    p = net.positions.detach()[0, 1:]
    for a in range(6):
        for b in range(6):
            expected = p[a] @ p[b] / (p[a].norm() * p[b].norm())
            assert found[a // 3, a % 3, b // 3, b % 3] == pytest.approx(expected.item())


def test_embedding_filters():
    """Directions of the largest variance among the filters, the first one first, as scikit-learn finds them."""
    from sklearn.decomposition import PCA

    E = torch.randn(40, 48) * torch.linspace(3, 0.1, 48)
    found = vit.embedding_filters(E, 4, 6).double()
    assert found.shape == (6, 4, 4, 3)
    expected = torch.from_numpy(PCA(6).fit(E.numpy()).components_)
    torch.testing.assert_close((found.flatten(1) * expected).sum(1).abs(), torch.ones(6), atol=1e-5, rtol=0)
