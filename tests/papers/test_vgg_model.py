"""VGG's nets: the paper's arithmetic, their starts, and dense evaluation against sliding the classifier."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from papers.vgg import model as nets
from papers.vgg.model import TABLE_1, VGG, ResponseNorm

COUNTS = {  # Table 2 in thousands of millions: parameters, and multiply-adds for 224 pixels, of the fact sheet
    "A": (132_863_336, 7.609), "A-LRN": (132_863_336, 7.609), "B": (133_047_848, 11.308), "C": (133_638_952, 11.771),
    "D": (138_357_544, 15.470), "E": (143_667_240, 19.632),
}  # fmt: skip
MILLIONS = {"A": 133, "A-LRN": 133, "B": 133, "C": 134, "D": 138, "E": 144}  # Table 2
LAYERS = {"A": 11, "A-LRN": 11, "B": 13, "C": 16, "D": 16, "E": 19}


def small(configuration="D", side=2, **more):
    torch.manual_seed(0)
    net = VGG(configuration, widths=(4, 8, 8, 12, 16), units=24, side=side, classes=7, start="glorot", **more).double().eval()
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.bias, 0, 0.1)
    return net


@pytest.mark.parametrize("configuration", COUNTS)
def test_table_1_and_2(configuration):
    with torch.device("meta"):
        net = VGG(configuration)
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    macs = []
    for layer in layers:
        layer.register_forward_hook(lambda layer, _, y: macs.append(layer.weight[0].numel() * y[0].numel()))
    assert net.eval()(torch.zeros(1, 3, 224, 224, device="meta")).shape == (1, 1000)
    parameters, giga = COUNTS[configuration]
    assert sum(p.numel() for p in net.parameters()) == parameters and round(parameters / 1e6) == MILLIONS[configuration]
    assert round(sum(macs) / 1e9, 3) == giga and len(layers) == LAYERS[configuration]
    assert sum(p.numel() for p in net.parameters()) - sum(p.numel() for p in net.features.parameters()) == 123_642_856
    kernels = [layer.kernel_size[0] for layer in layers if isinstance(layer, nn.Conv2d)]
    assert kernels.count(1) == (3 if configuration == "C" else 0) and set(kernels) <= {1, 3}
    assert any(isinstance(layer, ResponseNorm) for layer in net.modules()) == (configuration == "A-LRN")


def test_names_and_letters():
    with torch.device("meta"):
        found = {name: getattr(nets, name)().configuration for name in ("vgg11", "vgg13", "vgg16", "vgg19", "shallow")}
    assert found == {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E", "shallow": "shallow"}


def test_a_pair_of_3x3_sees_what_a_5x5_sees():
    """Sec. 2.3: the receptive field of two layers of 3x3 is 5x5, of three 7x7; and 27 C^2 weights to 49 C^2."""
    for configuration, sees in (("B", 5), ("shallow", 5), ("D", 7), ("E", 9)):
        net = VGG(configuration, widths=(1,) * 5, units=1, side=1, classes=1).double()
        layers = [layer for name, layer in net.features.named_children() if name.startswith("conv3")]
        for layer in layers:
            nn.init.ones_(layer.weight)
        x = torch.zeros(1, 1, 21, 21, dtype=torch.float64)
        x[0, 0, 10, 10] = 1
        for layer in layers:
            x = layer(x)
        assert (x[0, 0, 10] > 0).sum() == sees


@pytest.mark.parametrize("configuration", ["A", "A-LRN", "C", "E"])
def test_forward_is_the_layers_in_their_order(configuration):
    """By hand, from the table: conv, ReLU, (norm), pool; then the classifier."""
    net, x = small(configuration), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    y, weights = x, dict(net.features.named_parameters())
    for i, kernels in enumerate(TABLE_1[configuration], 1):
        for j, kernel in enumerate(kernels, 1):
            y = F.conv2d(y, weights[f"conv{i}_{j}.weight"], weights[f"conv{i}_{j}.bias"], padding=kernel // 2).clamp(min=0)
        if configuration == "A-LRN" and i == 1:
            y = F.local_response_norm(y, 5, 5e-4, 0.75, 2.0)  # alpha of a mean of five
        y = F.max_pool2d(y, 2)
    y = net.fc8(net.fc7(net.fc6(y.flatten(1)).clamp(min=0)).clamp(min=0))
    torch.testing.assert_close(net(x), y, rtol=1e-12, atol=1e-12)


def test_response_norm_is_the_sum_over_five_maps():
    a = 100 * torch.randn(2, 9, 3, 3, dtype=torch.float64, requires_grad=True)
    expected = torch.stack(
        [a[:, i] / (2 + 1e-4 * (a[:, max(0, i - 2) : i + 3] ** 2).sum(1)) ** 0.75 for i in range(9)], 1
    )  # fmt: skip
    torch.testing.assert_close(ResponseNorm()(a), expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(ResponseNorm(), a[:1, :, :1, :2])


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_after_the_first_two_fully_connected_layers(training):
    """In expectation nothing changes, and in training some of fc7's inputs and of fc8's are zero."""
    net, seen = small().train(training), []
    for layer in (net.fc7, net.fc8, net.fc6):
        layer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach()))
    with torch.no_grad():
        nn.init.constant_(net.fc6.bias, 1e3)
        nn.init.constant_(net.fc7.bias, 1e6)
        net(torch.randn(50, 3, 64, 64, dtype=torch.float64))
    shares = [(inputs == 0).double().mean().item() for inputs in seen[1:]]
    assert shares == (pytest.approx([0.5, 0.5], abs=0.05) if training else [0, 0])


# Sec. 3.2: dense evaluation.


@pytest.mark.parametrize("batch_norm", [False, True])
def test_dense_is_the_net_itself_on_its_own_size(batch_norm):
    net, x = small(batch_norm=batch_norm), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(net.dense(x), net(x)[:, :, None, None], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(96, 96), (97, 131), (160, 70)])
def test_dense_is_the_classifier_slid_over_the_maps(shape):
    """At each place the scores of the classifier for the window of the last maps that begins there."""
    net, x = small(), torch.randn(1, 3, *shape, dtype=torch.float64)
    maps, found = net.features(x), net.dense(x)
    H, W = maps.shape[2] - 1, maps.shape[3] - 1
    assert found.shape == (1, 7, H, W) == (1, 7, shape[0] // 32 - 1, shape[1] // 32 - 1)
    for i in range(H):
        for j in range(W):
            y = maps[:, :, i : i + 2, j : j + 2].flatten(1)
            y = net.fc8(F.relu(net.fc7(F.relu(net.fc6(y)))))
            torch.testing.assert_close(found[:, :, i, j], y, rtol=1e-12, atol=1e-12)
    assert found.std() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(224, 224), (256, 256), (384, 500)])
def test_dense_of_the_whole_net(shape):
    """D as it is, in float64: on 224 x 224 the net itself, on more the classifier slid over the maps."""
    torch.manual_seed(0)
    net = nets.vgg16(start="glorot", classes=10).double().eval()
    x = 60 * torch.randn(1, 3, *shape, dtype=torch.float64)
    with torch.no_grad():
        maps, found = net.features(x), net.dense(x)
        if shape == (224, 224):
            torch.testing.assert_close(found, net(x)[:, :, None, None], rtol=1e-12, atol=1e-12)
        assert found.shape[2:] == (shape[0] // 32 - 6, shape[1] // 32 - 6)
        for i, j in {(0, 0), (found.shape[2] - 1, found.shape[3] - 1), (found.shape[2] // 2, 0)}:
            y = net.fc8(F.relu(net.fc7(F.relu(net.fc6(maps[:, :, i : i + 7, j : j + 7].flatten(1))))))
            torch.testing.assert_close(found[:, :, i, j], y, rtol=1e-11, atol=1e-11)


# Sec. 3.1: where nets begin.


@pytest.mark.parametrize(("start", "std"), [("variance", 0.1), ("deviation", 0.01)])
def test_normal_starts(start, std):
    net = VGG("A", widths=(64, 64, 64, 64, 64), units=64, side=1, start=start)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert layer.weight.std().item() == pytest.approx(std, rel=0.1) and not layer.bias.any()
    assert net.fc7.weight.std().item() ** 2 == pytest.approx({"variance": 1e-2, "deviation": 1e-4}[start], rel=0.1)


def test_glorots_start():
    """Uniform, its variance 2 / (units before + units after), those of a kernel with its places."""
    net = VGG("A", widths=(64, 64, 64, 64, 64), units=64, side=1, start="glorot")
    for layer, fans in ((net.features.conv1_1, 27 + 576), (net.features.conv4_2, 1152), (net.fc7, 128)):
        bound = math.sqrt(6 / fans)
        assert layer.weight.abs().max() <= bound and layer.weight.abs().max() > 0.95 * bound and not layer.bias.any()
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fans), rel=0.1)


@pytest.mark.parametrize("configuration", ["A-LRN", "B", "C", "D", "E"])
def test_deep_nets_start_from_a(configuration):
    """A's first four convolutional layers and its fully-connected ones; all others are as they were."""
    a, net = small("A"), small(configuration)
    for p in net.parameters():
        nn.init.normal_(p)
    before = {name: p.clone() for name, p in net.state_dict().items()}
    net.start_from(a)
    taken = {name for name, p in net.state_dict().items() if not torch.equal(p, before[name])}
    names = ["features.conv1_1", "features.conv2_1", "features.conv3_1", "features.conv3_2", "fc6", "fc7", "fc8"]
    assert taken == {f"{name}.{part}" for name in names for part in ("weight", "bias")}
    for name in taken:
        assert torch.equal(net.state_dict()[name], a.state_dict()[name])
    convolutions = [name for name, layer in a.features.named_children() if isinstance(layer, nn.Conv2d)]
    assert [f"features.{name}" for name in convolutions[:4]] == names[:4]


def test_starts_that_fit_not():
    with pytest.raises(ValueError, match="deep nets start from A, not from B"):
        small("D").start_from(small("B"))
    with pytest.raises(ValueError, match=r"fc6.weight of A is \(24, 64\), which fits no layer of D"):
        small("D", side=1).start_from(small("A"))
