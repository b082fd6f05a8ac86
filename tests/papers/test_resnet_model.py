"""The ResNets: the sizes and FLOPs that the paper prints, the blocks and whole nets against plain formulas, and the identity."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from papers.resnet.model import (
    BasicBlock,
    Bottleneck,
    CifarResNet,
    ResNet,
    ZeroPadding,
    plain18,
    plain34,
    projection,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    stage,
)

pytestmark = pytest.mark.usefixtures("double")


def on_meta(build, *args, **kwargs):
    with torch.device("meta"):
        return build(*args, **kwargs).eval()


def watch(model, kinds, size):
    """One image of size x size through a model on meta -> [(name, module, its input, its output)] of these modules, in order."""
    seen = []
    for name, module in model.named_modules():
        if isinstance(module, kinds):
            module.register_forward_hook(lambda module, x, y, name=name: seen.append((name, module, x[0], y)))
    model(torch.empty(1, 3, size, size, device="meta"))
    return seen


def multiply_adds(model, size):
    """Of convolutions and of fc: each output is a sum of as many products as a filter has weights."""
    return sum(y.numel() * module.weight[0].numel() for _, module, _, y in watch(model, (nn.Conv2d, nn.Linear), size))


def parameters(model):
    return sum(p.numel() for p in model.parameters())


# The paper's arithmetic

IMAGENET = {  # -> parameters, multiply-adds in 1e9, FLOPs of Table 1, layers
    "plain18": (plain18, 11_515_688, 1.8, 18),
    "plain34": (plain34, 21_623_848, 3.6, 34),
    "18 A": (lambda: resnet18("A"), 11_515_688, 1.8, 18),
    "18 B": (lambda: resnet18("B"), 11_689_512, 1.8, 18),
    "34 A": (lambda: resnet34("A"), 21_623_848, 3.6, 34),
    "34 B": (lambda: resnet34("B"), 21_797_672, 3.6, 34),
    "34 C": (lambda: resnet34("C"), 22_716_840, None, 34),
    "50": (resnet50, 25_557_032, 3.8, 50),
    "101": (resnet101, 44_549_160, 7.6, 101),
    "152": (resnet152, 60_192_808, 11.3, 152),
}
CIFAR = {  # depth -> parameters, as the paper rounds them in 1e6, multiply-adds in 1e6
    20: (269_722, 0.27, 40.6),
    32: (464_154, 0.46, 68.9),
    44: (658_586, 0.66, 97.2),
    56: (853_018, 0.85, 125.5),
    110: (1_727_962, 1.7, 252.9),
    1202: (19_421_274, 19.4, 2829),
}


@pytest.mark.parametrize("name", IMAGENET)
def test_parameters_flops_and_layers_of_table_1(name):
    """Layers are those with weights on the way through the blocks: convolutions and fc. FLOPs are multiply-adds, within 2 %."""
    build, count, flops, depth = IMAGENET[name]
    model = on_meta(build)
    assert parameters(model) == count
    assert flops is None or multiply_adds(model, 224) / 1e9 == pytest.approx(flops, rel=0.02)
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len([name for name in layers if "shortcut" not in name]) == depth


@pytest.mark.parametrize(
    "build, giga",
    [
        (lambda: resnet18("B"), 1.814),
        (lambda: resnet34("A"), 3.644),
        (lambda: resnet34("B"), 3.664),
        (resnet50, 3.858),
        (resnet101, 7.570),
        (resnet152, 11.282),
        (lambda: resnet50(stride_in_3x3=True), 4.089),
        (lambda: resnet101(stride_in_3x3=True), 7.801),
        (lambda: resnet152(stride_in_3x3=True), 11.514),
    ],
)
def test_multiply_adds(build, giga):
    """Table 1 is met by a stride in the first 1x1 of a bottleneck, not by one in its 3x3."""
    assert multiply_adds(on_meta(build), 224) / 1e9 == pytest.approx(giga, abs=5e-4)


def test_stride_in_3x3_has_the_same_tensors():
    v1, v1_5 = (on_meta(resnet50, stride_in_3x3=each).state_dict() for each in (False, True))
    assert {name: each.shape for name, each in v1.items()} == {name: each.shape for name, each in v1_5.items()}


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("depth", CIFAR)
def test_cifar_sizes(depth, residual):
    """Plain and residual nets have the same 6n + 2 layers, parameters and multiply-adds; 3n shortcuts, two of them option A."""
    count, millions, mega = CIFAR[depth]
    model = on_meta(CifarResNet, depth, residual)
    assert parameters(model) == count == pytest.approx(millions * 1e6, rel=0.02)
    assert multiply_adds(model, 32) / 1e6 == pytest.approx(mega, abs=0.05 if mega < 1000 else 0.5)
    modules = list(model.modules())
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in modules) == depth
    shortcuts = [module.shortcut for module in modules if isinstance(module, BasicBlock)]
    kinds = [sum(isinstance(each, kind) for each in shortcuts) for kind in (nn.Identity, ZeroPadding)]
    assert len(shortcuts) == (depth - 2) // 2 and kinds == ([len(shortcuts) - 2, 2] if residual else [0, 0])


@pytest.mark.parametrize("depth", [-4, 0, 1, 2, 7, 18, 19, 21, 34, 49, 51, 1000])
def test_cifar_depths_other_than_6n_plus_2_are_refused(depth):
    with pytest.raises(ValueError, match=f"6n \\+ 2 layers .* not {depth}$"):
        CifarResNet(depth)


@pytest.mark.parametrize("build, expansion", [(plain34, 1), (resnet18, 1), (resnet34, 1), (resnet50, 4), (resnet152, 4)])
def test_output_sizes_of_table_1(build, expansion):
    """Each stage has its size from its first block on, and 64, 128, 256, 512 filters (four times that for bottlenecks)."""
    model = on_meta(build)
    seen = watch(model, (nn.Conv2d, nn.MaxPool2d, BasicBlock, Bottleneck), 224)
    sizes = {name: tuple(y.shape[1:]) for name, _, _, y in seen}
    assert sizes["conv1"] == (64, 112, 112) and sizes["pool"] == (64, 56, 56)
    for i, (filters, size) in enumerate([(64, 56), (128, 28), (256, 14), (512, 7)], 2):
        blocks = {sizes[f"conv{i}_x.{j}"] for j in range(len(getattr(model, f"conv{i}_x")))}
        assert blocks == {(filters * expansion, size, size)}


@pytest.mark.parametrize(
    "build, layer",
    [
        (plain18, "conv1"),
        (resnet34, "conv1"),
        (resnet50, "conv1"),
        (lambda: resnet50(stride_in_3x3=True), "conv2"),
        (lambda: resnet101(stride_in_3x3=True), "conv2"),
    ],
)
def test_conv3_1_conv4_1_and_conv5_1_downsample(build, layer):
    """With a stride of 2; and nothing does after them, nor in conv2_x."""
    halve = [
        name
        for name, _, x, y in watch(on_meta(build), (nn.Conv2d, nn.MaxPool2d), 224)
        if x.shape[2:] != y.shape[2:] and "shortcut" not in name
    ]
    assert halve == ["conv1", "pool", *[f"conv{i}_x.0.{layer}" for i in (3, 4, 5)]]


def test_cifar_output_sizes():
    """2n layers each at 32 x 32, 16 x 16 and 8 x 8, with 16, 32 and 64 filters, and the first at 32 x 32."""
    seen = [tuple(y.shape[1:]) for _, _, _, y in watch(on_meta(CifarResNet, 20), nn.Conv2d, 32)]
    assert seen == [(16, 32, 32)] * 7 + [(32, 16, 16)] * 6 + [(64, 8, 8)] * 6


def test_projections_of_the_options():
    """A has none, B three (four with bottlenecks), C one per block: "many (thirteen)" in ResNet-34 are what C adds to B."""

    def count(model):
        return sum("shortcut" in name and isinstance(module, nn.Conv2d) for name, module in model.named_modules())

    a, b, c = (count(on_meta(resnet34, option)) for option in "ABC")
    assert (a, b, c) == (0, 3, 16) and c - b == 13
    assert [count(on_meta(build)) for build in (resnet50, resnet101, resnet152)] == [4, 4, 4]


def test_shortcuts_of_table_2():
    """Without a word, none in plain nets; option A in ResNet-18 and 34, so identities but for three."""
    for build, blocks in ((plain18, 8), (plain34, 16)):
        assert [block.shortcut for block in on_meta(build).modules() if isinstance(block, BasicBlock)] == [None] * blocks
    for build, blocks in ((resnet18, 8), (resnet34, 16)):
        shortcuts = [type(block.shortcut) for block in on_meta(build).modules() if isinstance(block, BasicBlock)]
        assert shortcuts.count(ZeroPadding) == 3 and shortcuts.count(nn.Identity) == blocks - 3


# Blocks and nets, written out


def randomised(model, seed=0):
    """Random statistics and affine parameters: a fresh batch norm in eval mode is next to the identity."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def norm(layer, x):
    """Algorithm 1 of Ioffe & Szegedy, and its inference: the statistics of each channel over batch, rows and columns."""
    mean, variance = layer.running_mean, layer.running_var
    if layer.training:
        mean = x.mean((0, 2, 3))
        variance = (x - mean.view(-1, 1, 1)).square().mean((0, 2, 3))
    mean, variance, gamma, beta = (each.view(-1, 1, 1) for each in (mean, variance, layer.weight, layer.bias))
    return gamma * (x - mean) / (variance + 1e-5).sqrt() + beta


def zero_padded(x, filters, stride):
    """Option A, pixel by pixel."""
    B, C, H, W = x.shape
    y = torch.zeros(B, filters, -(-H // stride), -(-W // stride))
    for c, i, j in itertools.product(range(C), range(y.shape[2]), range(y.shape[3])):
        y[:, c, i, j] = x[:, c, stride * i, stride * j]
    return y


def block_by_hand(block, x, option, stride, stride_in_3x3=False):
    """Strides, paddings and the kind of shortcut are told, not asked of the block; its weights and batch norms are used."""
    if isinstance(block, Bottleneck):
        first, second = (1, stride) if stride_in_3x3 else (stride, 1)
        y = norm(block.bn1, F.conv2d(x, block.conv1.weight, stride=first)).relu()
        y = norm(block.bn2, F.conv2d(y, block.conv2.weight, stride=second, padding=1)).relu()
        y = norm(block.bn3, F.conv2d(y, block.conv3.weight))
    else:
        y = norm(block.bn1, F.conv2d(x, block.conv1.weight, stride=stride, padding=1)).relu()
        y = norm(block.bn2, F.conv2d(y, block.conv2.weight, padding=1))
    grows = stride > 1 or x.shape[1] != y.shape[1]
    if option == "C" or (option == "B" and grows):
        conv, bn = block.shortcut
        y = y + norm(bn, torch.einsum("bchw,fc->bfhw", x[:, :, ::stride, ::stride], conv.weight[:, :, 0, 0]))
    elif option:
        y = y + (zero_padded(x, y.shape[1], stride) if grows else x)
    return y.relu()


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("option", ["A", "B", "C", None])
@pytest.mark.parametrize("block, channels, filters, stride, stride_in_3x3", [
    (BasicBlock, 6, 6, 1, False),
    (BasicBlock, 3, 6, 2, False),
    (BasicBlock, 6, 6, 2, False),
    (Bottleneck, 12, 3, 1, False),
    (Bottleneck, 3, 3, 1, False),
    (Bottleneck, 6, 3, 2, False),
    (Bottleneck, 6, 3, 2, True),
])  # fmt: skip
def test_block_is_written_out(block, channels, filters, stride, stride_in_3x3, option, train):
    """By the statistics of the batch and by the running ones, on an image of odd size."""
    torch.manual_seed(1)
    module, x = randomised(block(channels, filters, stride, option, stride_in_3x3)).train(train), torch.randn(2, channels, 7, 5)
    y = module(x)
    torch.testing.assert_close(y, block_by_hand(module, x, option, stride, stride_in_3x3))
    assert y.min() == 0 and 0.1 < (y == 0).double().mean() < 0.9  # the ReLU after the addition


@pytest.mark.parametrize("extra, stride", [(0, 2), (3, 1), (3, 2), (3, 3)])
def test_option_a_takes_every_second_pixel_and_appends_zeros(extra, stride):
    x = torch.randn(2, 3, 8, 5)
    assert torch.equal(ZeroPadding(extra, stride)(x), zero_padded(x, 3 + extra, stride))
    assert not list(ZeroPadding(extra, stride).state_dict())


def test_projection_is_linear_then_batch_norm():
    """W_s x at every second pixel, with mean beta and standard deviation gamma over the batch."""
    conv, bn = module = randomised(projection(3, 5, 2))
    x = torch.randn(4, 3, 6, 6)
    y = module(x).transpose(0, 1).flatten(1)  # (5, 4 * 3 * 3)
    W_s_x = conv.weight.flatten(1) @ x[:, :, ::2, ::2].transpose(0, 1).flatten(1)
    torch.testing.assert_close(torch.corrcoef(torch.cat([y, W_s_x])).diagonal(5), torch.ones(5))
    torch.testing.assert_close(y.mean(1), bn.bias)
    torch.testing.assert_close(y.std(1, correction=0), bn.weight, rtol=1e-4, atol=0)


def net_by_hand(model, x, stages, option, stride_in_3x3=False):
    """From after the first batch norm's ReLU to the logits."""
    for i, blocks in enumerate(stages):
        for j, block in enumerate(blocks):
            x = block_by_hand(block, x, option, 2 if i > 0 and j == 0 else 1, stride_in_3x3)
    return x.flatten(2).sum(2) / x[0, 0].numel() @ model.fc.weight.T + model.fc.bias


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_cifar_net_is_written_out(residual, train):
    model, x = randomised(CifarResNet(14, residual)).train(train), torch.randn(2, 3, 18, 14)
    y = norm(model.bn1, F.conv2d(x, model.conv1.weight, padding=1)).relu()
    torch.testing.assert_close(
        model(x), net_by_hand(model, y, [model.stage1, model.stage2, model.stage3], "A" if residual else None)
    )


@pytest.mark.parametrize("option", ["A", "C", None])
@pytest.mark.parametrize("block, stride_in_3x3", [(BasicBlock, False), (Bottleneck, False), (Bottleneck, True)])
def test_imagenet_net_is_written_out(block, stride_in_3x3, option):
    model = randomised(ResNet(block, (1, 2, 1, 1), option, stride_in_3x3, classes=11)).eval()
    x = torch.randn(2, 3, 47, 34)
    y = norm(model.bn1, F.conv2d(x, model.conv1.weight, stride=2, padding=3)).relu()
    assert y.shape[2:] == (24, 17)
    y = F.pad(y, (1, 1, 1, 1))  # a zero is never more than the largest of what ReLU leaves
    y = y.unfold(2, 3, 2).unfold(3, 3, 2).amax((4, 5))
    stages = [model.conv2_x, model.conv3_x, model.conv4_x, model.conv5_x]
    torch.testing.assert_close(model(x), net_by_hand(model, y, stages, option, stride_in_3x3))


# Identities


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("block, last", [(BasicBlock, "bn2"), (Bottleneck, "bn3")])
def test_a_block_whose_residual_is_zero_is_the_identity(block, last, train):
    """F(x) = 0 where its last batch norm is zero: then a block is ReLU(x), three of them too, and a plain one is zero."""
    x = torch.randn(2, 8, 6, 6)
    for option, expected in (("A", x.relu()), ("B", x.relu()), (None, 0 * x)):
        blocks = randomised(stage(block, 3, 8, 8 // block.expansion, 1, option)).train(train)
        for module in blocks:
            nn.init.zeros_(getattr(module, last).weight)
            nn.init.zeros_(getattr(module, last).bias)
        assert torch.equal(blocks(x), expected)


@pytest.mark.parametrize("build", [lambda: resnet18("C"), lambda: ResNet(Bottleneck, (2, 2, 2, 2), "B"), lambda: CifarResNet(56)])
def test_initial_weights(build):
    """Normal with mean zero and standard deviation sqrt(2 / fan-in), within five standard errors; batch norm starts as 1, 0."""
    torch.manual_seed(0)
    everything = []
    for name, module in build().float().named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            w = module.weight.detach().flatten(1)
            z = (w / math.sqrt(2 / w.shape[1])).flatten()
            assert abs(z.mean()) < 5 / math.sqrt(len(z)), name
            assert abs(z.std() - 1) < 5 / math.sqrt(2 * len(z)), name
            everything.append(z[:5000])
        if isinstance(module, nn.Conv2d):
            assert module.bias is None
        elif isinstance(module, nn.Linear):
            assert not module.bias.any()
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and not module.bias.any() and not module.running_mean.any()
            assert (module.running_var == 1).all() and (module.eps, module.momentum) == (1e-5, 0.1)
    z = torch.cat(everything)
    assert abs(z.abs().mean() - math.sqrt(2 / math.pi)) < 0.01 and abs((z.abs() > 2).float().mean() - 0.0455) < 0.003


@pytest.mark.parametrize("residual", [True, False])
def test_gradients_are_finite_differences(residual):
    """Of weights in each stage, of a batch norm, of fc and of a pixel, by the statistics of the batch."""
    model = randomised(CifarResNet(8, residual))
    x, labels = torch.randn(3, 3, 12, 12, requires_grad=True), torch.tensor([1, 5, 5])
    of = dict(model.named_parameters()) | {"x": x}
    loss = F.cross_entropy(model(x), labels)
    gradients = dict(zip(of, torch.autograd.grad(loss, list(of.values())), strict=True))
    for name in ("conv1.weight", "stage1.0.conv1.weight", "stage2.0.conv2.weight", "stage3.0.bn2.weight", "fc.bias", "x"):
        at = gradients[name].abs().argmax()
        value, losses = of[name].detach().view(-1), []
        for step in (1e-6, -2e-6):
            value[at] += step
            losses.append(F.cross_entropy(model(x), labels).item())
        value[at] += 1e-6
        gradient = gradients[name].view(-1)[at].item()
        assert abs(gradient) > 1e-3
        assert (losses[0] - losses[1]) / 2e-6 == pytest.approx(gradient, rel=1e-5), name


@pytest.mark.parametrize("build, size", [(lambda: CifarResNet(8), 32), (lambda: ResNet(Bottleneck, (1, 1, 1, 1), "B"), 64)])
def test_channels_last_gives_the_same(build, size):
    model, x = randomised(build()), torch.randn(2, 3, size, size)
    y = model(x)
    last = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert (y - last).abs().max() < 1e-10 * y.abs().max()


def test_own_classes():
    """Of every constructor: the last layer has as many outputs, and all else is as it was."""
    for make in (plain18, plain34, resnet18, resnet34, resnet50, resnet101, resnet152):
        with torch.device("meta"):
            few, all_ = make(classes=7), make()
        assert few.fc.out_features == 7 and all_.fc.out_features == 1000
        count = lambda net: sum(p.numel() for p in net.parameters())
        assert count(all_) - count(few) == 993 * (few.fc.in_features + 1)
    assert CifarResNet(8, classes=100).fc.out_features == 100
