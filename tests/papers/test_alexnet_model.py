"""AlexNet's networks and those for CIFAR-10: the paper's arithmetic, norms and unshared layers against explicit sums."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from papers.alexnet import model as nets
from papers.alexnet.model import AlexNet, AuthorsNet, Local, MapNorm, ResponseNorm, alexnet, half


def traced(net, *shape):
    """name -> (multiply-adds, shape of the output), of layers with weights, as an image goes through them."""
    found = {}

    def hook(name):
        def look(module, inputs, output):
            per = module.weight[0].numel() if not isinstance(module, Local) else module.weight.shape[1]
            found[name] = (per * output[0].numel(), tuple(output.shape[1:]))

        return look

    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | Local):
            module.register_forward_hook(hook(name))
    net.eval()(torch.zeros(1, *shape, device=next(net.parameters()).device))
    return found


# Fig. 2 and the fact sheet's table: parameters, millions of multiply-adds, output.
TABLE = {
    "conv1": (34_944, 105.4, (96, 55, 55)), "conv2": (307_456, 223.9, (256, 27, 27)), "conv3": (885_120, 149.5, (384, 13, 13)),
    "conv4": (663_936, 112.1, (384, 13, 13)), "conv5": (442_624, 74.8, (256, 13, 13)), "fc6": (37_752_832, 37.7, (4096,)),
    "fc7": (16_781_312, 16.8, (4096,)), "fc8": (4_097_000, 4.1, (1000,)),
}  # fmt: skip


@pytest.mark.parametrize("make", [alexnet, AuthorsNet, lambda: AlexNet(pool=nn.MaxPool2d(2, 2))], ids=["paper", "authors", "z=2"])
def test_layers_of_figure_2(make):
    with torch.device("meta"):
        net = make()
    layers = traced(net, 3, 224, 224)
    assert {name: shape for name, (_, shape) in layers.items()} == {name: row[2] for name, row in TABLE.items()}
    for name, (macs, _) in layers.items():
        assert round(macs / 1e6, 1) == TABLE[name][1], name
        assert sum(p.numel() for p in getattr(net, name).parameters()) == TABLE[name][0], name
    assert sum(p.numel() for p in net.parameters()) == 60_965_224
    assert round(sum(macs for macs, _ in layers.values()) / 1e6) == 724
    neurons = 3 * 224 * 224, sum(math.prod(shape) for _, shape in layers.values())
    assert neurons == (150_528, 659_272)  # "150,528-dimensional", "650,000 neurons"


def test_the_half_net_has_the_same_last_layers():
    """Sec. 3.2: half the kernels, but for the last convolutional layer, so that both have about as many parameters."""
    with torch.device("meta"):
        whole, one = alexnet(), half()
    sizes = {name: (getattr(whole, name).weight.shape[0], getattr(one, name).weight.shape[0]) for name in TABLE}
    assert all(a == 2 * b for a, b in (sizes[f"conv{i}"] for i in (1, 2, 3, 4)))
    assert all(a == b for a, b in (sizes[name] for name in ("conv5", "fc6", "fc7", "fc8")))
    assert {getattr(one, f"conv{i}").groups for i in range(1, 6)} == {1}
    ours = 48 * 364 + 128 * 1201 + 192 * 1153 + 192 * 1729 + 256 * 1729 + 37_752_832 + 16_781_312 + 4_097_000
    assert sum(p.numel() for p in one.parameters()) == ours == 59_798_312


def test_the_first_layer_sees_zeros_beyond_the_right_and_the_lower_edge():
    """55 places of 224 pixels: the last begins at 216, and three rows and columns of it are zeros."""
    net = AlexNet((4, 4, 4, 4, 4, 8), classes=3).double().eval()
    x = torch.randn(2, 3, 224, 224, dtype=torch.float64)
    padded = torch.zeros(2, 3, 227, 227, dtype=torch.float64)
    padded[:, :, :224, :224] = x
    torch.testing.assert_close(net(x), net(padded), rtol=0, atol=0)
    assert not torch.equal(net(x), net(torch.roll(padded, (3, 3), (2, 3))))


def test_initial_weights():
    """Sec. 5, and layers-145.cfg."""
    for net, stds in ((alexnet(), (0.01,) * 5), (AuthorsNet(), (0.01, 0.01, 0.03, 0.03, 0.03))):
        for i, std in enumerate(stds, 1):
            assert getattr(net, f"conv{i}").weight.std().item() == pytest.approx(std, rel=0.05)
        assert net.fc6.weight.std().item() == pytest.approx(0.01, rel=0.01)
        biases = {name: {*getattr(net, name).bias.tolist()} for name in TABLE}
        assert biases == {name: {float(name in ("conv2", "conv4", "conv5", "fc6", "fc7"))} for name in TABLE}


# Towers.


def test_towers_meet_in_layer_3_alone():
    """What one tower's kernels of layer 1 find reaches all maps of layer 3, and before that its own tower only."""
    net = AlexNet((8, 8, 6, 6, 4, 8), classes=3).double().eval()
    x = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    first = F.relu(net.conv1(F.pad(x, (0, 3, 0, 3)))).detach().requires_grad_()
    second = net.pool(net.norm2(F.relu(net.conv2(net.pool(net.norm1(first))))))
    (gradient,) = torch.autograd.grad(second[:, :4].square().sum(), first, retain_graph=True)
    assert (gradient[:, 4:] == 0).all() and (gradient[:, :4] != 0).any()
    (gradient,) = torch.autograd.grad(net.conv3(second)[:, :3].square().sum(), first)
    assert (gradient[:, 4:] != 0).any() and (gradient[:, :4] != 0).any()
    fourth = torch.randn(1, 6, 13, 13, dtype=torch.float64, requires_grad=True)
    for layer in (net.conv4, net.conv5):
        out = layer(fourth)
        (gradient,) = torch.autograd.grad(out[:, : out.shape[1] // 2].sum(), fourth)
        assert (gradient[:, 3:] == 0).all() and (gradient[:, :3] != 0).any()


# Norms.


def across_maps(a, n, k, alpha, beta, towers):
    """Sec. 3.3, map by map."""
    b, N = torch.empty_like(a), a.shape[1] // towers
    for t in range(towers):
        tower = a[:, t * N : (t + 1) * N]
        for i in range(N):
            total = sum(tower[:, j] ** 2 for j in range(max(0, i - n // 2), min(N - 1, i + n // 2) + 1))
            b[:, t * N + i] = tower[:, i] / (k + alpha * total) ** beta
    return b


def within_maps(a, size, k, alpha, beta):
    """cuda-convnet's rnorm, pixel by pixel."""
    b, H, W = torch.empty_like(a), *a.shape[2:]
    for y in range(H):
        for x in range(W):
            around = a[:, :, max(0, y - size // 2) : y + size // 2 + 1, max(0, x - size // 2) : x + size // 2 + 1]
            b[:, :, y, x] = a[:, :, y, x] / (k + alpha / size**2 * (around**2).sum((2, 3))) ** beta
    return b


NORMS = {
    "paper": (ResponseNorm(2), lambda a: across_maps(a, 5, 2.0, 1e-4, 0.75, 2)),
    "divided": (ResponseNorm(1, divided=True), lambda a: across_maps(a, 5, 2.0, 2e-5, 0.75, 1)),
    "strong": (ResponseNorm(3, 3, 1.5, 0.3, 0.6), lambda a: across_maps(a, 3, 1.5, 0.3, 0.6, 3)),
    "11pct": (nets.net_11().norm1, lambda a: across_maps(a, 9, 1.0, 1e-3 / 9, 0.75, 1)),
    "within": (MapNorm(3, 0.5), lambda a: within_maps(a, 3, 1.0, 0.5, 0.75)),
    "18pct": (nets.net_18().norm2, lambda a: within_maps(a, 3, 1.0, 5e-5, 0.75)),
    "145": (AuthorsNet(widths=(4, 4, 4, 4, 4, 8), classes=2).map_norm, lambda a: within_maps(a, 5, 1.0, 1e-3, 0.75)),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=["rows", "channels last"])
def test_norms_are_the_explicit_sum(name, memory):
    """Values and gradients in float64; twelve maps, where all windows are cut at an edge somewhere."""
    norm, explicit = NORMS[name]
    a = (20 * torch.randn(2, 12, 6, 5, dtype=torch.float64)).to(memory_format=memory).requires_grad_()
    weight = torch.randn(2, 12, 6, 5, dtype=torch.float64)
    ours, theirs = norm(a), explicit(a)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad((b * weight).sum(), a)[0] for b in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(ours, a, rtol=1e-3) or name == "18pct"


def test_gradients_of_norms():
    a = torch.randn(2, 6, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ResponseNorm(2, 3, alpha=0.5), a) and torch.autograd.gradcheck(MapNorm(3, alpha=2.0), a)
    (gradient,) = torch.autograd.grad(ResponseNorm(2)(a).square().sum(), a, create_graph=True)
    with pytest.raises(RuntimeError):  # a second derivative is refused, not wrong
        torch.autograd.grad(gradient.sum(), a)


def test_torchs_norm_divides():
    """nn.LocalResponseNorm is the authors' code, not the text: of the same constants its sum is a fifth."""
    a = 50 * torch.randn(2, 16, 5, 5, dtype=torch.float64)
    torchs = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0)
    torch.testing.assert_close(ResponseNorm(divided=True)(a), torchs(a), rtol=1e-12, atol=1e-12)
    torchs = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
    torch.testing.assert_close(ResponseNorm()(a), torchs(a), rtol=1e-12, atol=1e-12)


def test_the_authors_layers_1_and_2():
    """layers-145.cfg: rnorm1 takes conv1 as it is, pool1 has the ReLU; conv2 has its ReLU, then rnorm2, cnorm2, pool2."""
    net = AuthorsNet(widths=(4, 6, 4, 4, 4, 8), classes=3).double()
    x = 50 * torch.randn(2, 3, 47, 47, dtype=torch.float64)
    y = net.conv1(x)
    y = F.relu(F.max_pool2d(across_maps(y, 5, 2.0, 2e-5, 0.75, 2), 3, 2, ceil_mode=True))
    y = within_maps(across_maps(F.relu(net.conv2(y)), 5, 2.0, 2e-5, 0.75, 2), 5, 1.0, 1e-3, 0.75)
    torch.testing.assert_close(net.layers12(x), F.max_pool2d(y, 3, 2, ceil_mode=True))


# CIFAR-10.


def test_unshared_layers_are_the_explicit_loop():
    layer = Local(3, 4, 5).double()
    nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    padded, expected = F.pad(x, (1, 1, 1, 1)), torch.empty(2, 4, 5, 5, dtype=torch.float64)
    for row in range(5):
        for column in range(5):
            patch = padded[:, :, row : row + 3, column : column + 3]
            kernels = layer.weight[5 * row + column].T.view(4, 3, 3, 3)
            for f in range(4):
                expected[:, f, row, column] = (patch * kernels[f]).sum((1, 2, 3)) + layer.bias[5 * row + column, 0, f]
    torch.testing.assert_close(layer(x), expected)
    ours, theirs = (torch.autograd.grad(y.square().sum(), (x, layer.weight, layer.bias)) for y in (layer(x), expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_unshared_layers_with_equal_weights_are_a_convolution():
    layer, conv = Local(3, 4, 6), nn.Conv2d(3, 4, 3, padding=1)
    with torch.no_grad():
        layer.weight.copy_(conv.weight.flatten(1).T.expand(36, 27, 4))
        layer.bias.copy_(conv.bias.expand(36, 1, 4))
    x = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(layer(x), conv(x))


LAYERS = {  # cuda-convnet's files: parameters, std of the initial weights, output
    nets.net_26: (32, {
        "conv1": (2_432, 1e-4, (32, 32, 32)), "conv2": (25_632, 0.01, (32, 16, 16)), "conv3": (51_264, 0.01, (64, 8, 8)),
        "fc64": (65_600, 0.1, (64,)), "fc10": (650, 0.1, (10,)),
    }),
    nets.net_19: (32, {
        "conv1": (2_432, 1e-4, (32, 32, 32)), "conv2": (25_632, 0.01, (32, 16, 16)), "conv3": (51_264, 0.01, (64, 8, 8)),
        "fc10": (10_250, 0.01, (10,)),
    }),
    nets.net_13: (24, {
        "conv1": (4_864, 1e-4, (64, 24, 24)), "conv2": (102_464, 0.01, (64, 12, 12)), "local3": (664_704, 0.04, (32, 6, 6)),
        "local4": (332_928, 0.04, (32, 6, 6)), "fc10": (11_530, 0.01, (10,)),
    }),
    nets.net_11: (24, {
        "conv1": (4_864, 1e-4, (64, 24, 24)), "conv2": (102_464, 0.01, (64, 12, 12)), "local3": (1_329_408, 0.04, (64, 6, 6)),
        "local4": (664_704, 0.04, (32, 6, 6)), "fc10": (11_530, 0.01, (10,)),
    }),
}  # fmt: skip


@pytest.mark.parametrize("make", LAYERS, ids=lambda make: make.__name__)
def test_layers_of_cuda_convnet(make):
    (size, expected), net = LAYERS[make], make()
    found = traced(net, 3, size, size)
    for name, (count, std, shape) in expected.items():
        layer = getattr(net, name)
        assert (sum(p.numel() for p in layer.parameters()), found[name][1]) == (count, shape), name
        assert layer.weight.std().item() == pytest.approx(std, rel=0.15) and not layer.bias.any(), name
    assert found.keys() == expected.keys()


def test_parameters_of_the_cifar_nets():
    count = lambda net: sum(p.numel() for p in net.parameters())
    assert [count(make()) for make in (nets.net_13, nets.net_11)] == [1_116_490, 2_112_970]
    assert count(nets.net_11(norms=False)) == 2_112_970 and count(nets.net_18()) == count(nets.net_19()) == 89_578
    macs = sum(macs for macs, _ in traced(nets.net_13(), 3, 24, 24).values())
    assert 18.3e6 < macs < 18.7e6


def order(net):
    return [name for name, module in net.named_children() if not isinstance(module, nn.Identity)]


def test_order_of_layers():
    """As the files have it: where the norms are, and which pooling is which."""
    assert order(nets.net_11()) == (
        ["conv1", "f1", "pool1", "norm1", "conv2", "f2", "norm2", "pool2", "local3", "f3", "local4", "f4", "flat", "fc10"]
    )  # fmt: skip
    assert order(nets.net_13()) == [name for name in order(nets.net_11()) if not name.startswith("norm")]
    assert order(nets.net_11(norms=False)) == order(nets.net_13())
    small = ["conv1", "pool1", "f1", "norm1", "conv2", "f2", "pool2", "norm2", "conv3", "f3", "pool3", "flat", "fc10"]
    assert order(nets.net_18()) == small
    assert order(nets.net_19()) == [name for name in order(nets.net_18()) if not name.startswith("norm")]
    assert order(nets.net_26()) == [*order(nets.net_19())[:-1], "fc64", "f4", "fc10"]
    kinds = [type(module) for module in nets.net_19().children() if "Pool" in type(module).__name__]
    assert kinds == [nn.MaxPool2d, nn.AvgPool2d, nn.AvgPool2d]
    assert {type(module) for module in nets.net_19(nn.Tanh).children()} & {nn.ReLU, nn.Tanh} == {nn.Tanh}


@pytest.mark.parametrize("kind", ["max", "mean"])
def test_pooling_at_the_edge(kind):
    """32 pixels are pooled to 16: the last window has two of them, and a mean is over these."""
    x = torch.randn(1, 2, 32, 32, dtype=torch.float64)
    y = nets.pool(kind)(x)
    assert y.shape == (1, 2, 16, 16)
    for row, column in ((0, 0), (15, 3), (4, 15), (15, 15)):
        window = x[0, 1, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
        torch.testing.assert_close(y[0, 1, row, column], window.max() if kind == "max" else window.mean())
