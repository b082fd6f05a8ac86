"""torchvision's and timm's ResNets through our model: the same outputs, statistics and gradients from the same weights."""

import copy
import shutil
import subprocess
import sys

import pytest
import timm
import torch
import torchvision
from torch import nn

from common.provenance import ROOT
from papers.resnet import model as ours
from papers.resnet.pretrained import build, from_timm, from_torchvision

DEPTHS = [18, 34, 50, 101, 152]
LIBRARIES = {
    "torchvision": (lambda name, **kwargs: getattr(torchvision.models, name)(weights=None, **kwargs), from_torchvision),
    "timm": (lambda name, **kwargs: timm.create_model(name, pretrained=False, **kwargs), from_timm),
}


def pair(library, depth, **kwargs):
    """-> our model, the reference: random weights, gamma about 1, beta about 0, the statistics of a random batch; in double."""
    torch.manual_seed(depth)
    net = LIBRARIES[library][0](f"resnet{depth}", **kwargs)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.normal_(norm.weight, 1, 0.2)  # timm's are zero where a branch ends
        nn.init.normal_(norm.bias, 0, 0.2)
        norm.momentum = 1
    with torch.no_grad():
        net(torch.randn(4, 3, 64, 64))
    for norm in norms:
        norm.momentum = 0.1
    return build(LIBRARIES[library][1](net.state_dict())).double().eval(), net.double().eval()


def images(*size):
    return torch.randn(size, dtype=torch.float64)


def same(y, expected):
    assert y.shape == expected.shape and expected.std() > 1e-3 * expected.abs().max() > 0
    assert (y - expected).abs().max() <= 1e-9 * expected.abs().max()


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_outputs_are_those_of_the_reference(library, depth):
    """By running statistics, at odd sizes too; and by those of the batch, which then move the running ones alike."""
    model, net = pair(library, depth)
    with torch.no_grad():
        for size in ((224, 224) if library == "torchvision" else (97, 131), (65, 33)):
            x = images(1, 3, *size)
            same(model(x), net(x))
        x, before = images(2, 3, 65, 33), copy.deepcopy(model.state_dict())
        same(model.train()(x), net.train()(x))
    expected = LIBRARIES[library][1](net.state_dict())
    for name, each in model.state_dict().items():
        if "running" in name:
            same(each, expected[name])
            assert not torch.equal(each, before[name])
        else:
            assert torch.equal(each, expected[name])


def test_gradients_are_those_of_the_reference():
    """Of the images and of every weight."""
    x, gradients = images(2, 3, 65, 33), []
    for each in pair("torchvision", 50, num_classes=7):
        image = x.clone().requires_grad_()
        nn.functional.cross_entropy(each.train()(image), torch.tensor([2, 5])).backward()
        gradients.append((image.grad, {name: p.grad for name, p in each.named_parameters()}))
    (of_image, of_weights), (expected, others) = gradients
    same(of_image, expected)
    others = from_torchvision(others)
    assert of_weights.keys() == others.keys()
    for name, each in of_weights.items():
        same(each, others[name])


def test_stride_in_1x1_loads_the_same_weights_and_is_wrong():
    model, net = pair("torchvision", 50)
    wrong, x = ours.resnet50().double().eval(), images(2, 3, 64, 64)
    wrong.load_state_dict(from_torchvision(net.state_dict()))
    with torch.no_grad():
        y, expected = wrong(x), net(x)
        same(model(x), expected)
    assert (y - expected).abs().max() > 0.1 * expected.abs().max()


# build


def on_meta(library, name, **kwargs):
    with torch.device("meta"):
        return LIBRARIES[library][0](name, **kwargs).state_dict()


@pytest.mark.parametrize("depth", DEPTHS)
def test_build_finds_the_depth_and_the_classes(depth):
    with torch.device("meta"):
        model = build(from_timm(on_meta("timm", f"resnet{depth}", num_classes=21)))
        expected = getattr(ours, f"resnet{depth}")("B")
    blocks = ours.Bottleneck if depth >= 50 else ours.BasicBlock
    assert [len(stage) for stage in (model.conv2_x, model.conv3_x, model.conv4_x, model.conv5_x)] == [
        len(stage) for stage in (expected.conv2_x, expected.conv3_x, expected.conv4_x, expected.conv5_x)
    ]
    assert all(isinstance(block, blocks) for block in model.conv4_x) and model.fc.out_features == 21
    strides = [block.conv2.stride for block in (model.conv3_x[0], model.conv4_x[0], model.conv5_x[0])]
    assert strides == [(2, 2) if depth >= 50 else (1, 1)] * 3


def test_weights_older_than_num_batches_tracked_load():
    state = torchvision.models.resnet18().state_dict()
    old = {name: each for name, each in state.items() if "num_batches_tracked" not in name}
    model = build(from_torchvision(old)).state_dict()
    for name, each in from_torchvision(state).items():
        assert torch.equal(model[name], each)


@pytest.mark.parametrize("name", ["resnet50d", "resnet50c", "seresnet50", "resnetv2_50", "resnet50_clip"])
def test_keys_of_other_nets_are_refused(name):
    with pytest.raises(ValueError, match=r"^not a state dict of resnet18, .* is no weight of its$"):
        from_timm(on_meta("timm", name))


def test_wrapped_weights_are_refused():
    state = on_meta("torchvision", "resnet18")
    for wrapped in ({"state_dict": state}, {f"module.{name}": each for name, each in state.items()}):
        with pytest.raises(ValueError, match=r"state_dict is no weight|module.conv1.weight is no weight"):
            from_torchvision(wrapped)


@pytest.mark.parametrize(
    "name, words",
    [
        ("resnet26", r"\(2, 2, 2, 2\) blocks of type Bottleneck"),
        ("resnet14t", "is no weight of its"),
        ("resnext50_32x4d", r"not a ResNet-50: conv2_x.0.conv1.weight is \("),
        ("wide_resnet50_2", r"not a ResNet-50: conv2_x.0.conv1.weight is \("),
    ],
)
def test_nets_of_the_same_names_but_other_shapes_are_refused(name, words):
    with torch.device("meta"), pytest.raises(ValueError, match=words) as caught:
        build(from_timm(on_meta("timm", name)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["fc.weight", "fc.bias", "layer4.2.bn3.running_var", "layer1.0.conv3.weight", "conv1.weight"])
def test_missing_weights_are_refused(missing):
    state = on_meta("torchvision", "resnet50")
    del state[missing]
    with torch.device("meta"), pytest.raises(ValueError, match=r"not a ResNet-50: it has no |none of ResNet"):
        build(from_torchvision(state))


def test_model_and_keys_copied_into_an_empty_folder_take_a_file_of_torchvision(tmp_path):
    """As the README has it: neither common nor anything else of ours is there."""
    net = torchvision.models.resnet50(weights=None, num_classes=7).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.save([net.state_dict(), x, net(x)], tmp_path / "theirs.pt")
    for name in ("model.py", "keys.py"):
        shutil.copy(ROOT / "papers/resnet" / name, tmp_path)
    code = """import torch
from model import resnet50
from keys import from_torchvision
weights, x, expected = torch.load("theirs.pt")
net = resnet50(classes=7, stride_in_3x3=True).eval()
net.load_state_dict(from_torchvision(weights))
with torch.no_grad():
    print((net(x) - expected).abs().max().item() <= 1e-5 * expected.abs().max().item())
"""
    (tmp_path / "use.py").write_text(code)
    ran = subprocess.run([sys.executable, "use.py"], cwd=tmp_path, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "True\n"), ran.stderr
