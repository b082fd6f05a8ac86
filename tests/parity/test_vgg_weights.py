"""torchvision's, timm's and onnxruntime's VGG through our model: the same outputs and gradients from the same weights."""

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from papers.vgg.model import TABLE_1, VGG
from papers.vgg.pretrained import build, from_onnx, from_timm, from_torchvision, load

NAMES = [f"vgg{depth}{bn}" for depth in (11, 13, 16, 19) for bn in ("", "_bn")]
LETTERS = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}


def narrow(net):
    """The same layers with an eighth of the maps and units, in double: weights of random nets of 140 million take long to draw."""
    C = 3
    for name, layer in [*net.named_modules()]:
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            parent = net.get_submodule(name.rpartition(".")[0])
            if isinstance(layer, nn.Conv2d):
                thin = nn.Conv2d(C, max(layer.out_channels // 8, 1), layer.kernel_size, padding=layer.padding)
                C = thin.out_channels
            elif isinstance(layer, nn.BatchNorm2d):
                thin = nn.BatchNorm2d(C)
            else:
                flat = C * 49 if layer.in_features == 25_088 else C
                thin = nn.Linear(flat, 11 if layer.out_features == 1000 else layer.out_features // 8)
                C = thin.out_features
            setattr(parent, name.rpartition(".")[2], thin)
    return net


def random(net):
    """Weights that let the signal through, biases and statistics of batch norm that matter."""
    torch.manual_seed(1)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.normal_(layer.bias, 0, 0.2)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1, 0.2)
            nn.init.normal_(layer.bias, 0, 0.2)
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.5, 2)
    return net.double().eval()


def thin(monkeypatch):
    """Our own nets as narrow as `narrow` makes the others."""
    from papers.vgg import pretrained

    made = lambda configuration, **more: VGG(configuration, widths=(8, 16, 32, 64, 64), units=512, **more)
    monkeypatch.setattr(pretrained, "VGG", made)


def same(y, expected):
    assert y.shape == expected.shape and expected.std() > 1e-3 * expected.abs().max() > 0
    assert (y - expected).abs().max() <= 1e-10 * expected.abs().max()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_outputs_and_gradients_are_those_of_the_reference(library, name, monkeypatch):
    """On 224 pixels, on odd sizes that give maps of 7 x 7 too, and of the input's gradient; what batch norm learns as well."""
    with torch.device("meta"):
        net = torchvision.models.get_model(name) if library == "torchvision" else timm.create_model(name)
    if library == "timm":  # its head is convolutional
        layers = {"fc1": nn.Conv2d(64, 512, 7), "fc2": nn.Conv2d(512, 512, 1)}
        net.head.fc = nn.Linear(4096, 1000, device="meta")
        head, net.pre_logits.fc1, net.pre_logits.fc2 = net.head.fc, nn.Identity(), nn.Identity()
        narrow(net)
        net.pre_logits.fc1, net.pre_logits.fc2, net.head.fc = layers["fc1"], layers["fc2"], nn.Linear(512, 11)
        assert head.in_features == 4096
    else:
        narrow(net)
    net = random(net)
    thin(monkeypatch)
    model = build((from_torchvision if library == "torchvision" else from_timm)(net.state_dict())).double().eval()
    assert model.configuration == LETTERS[name.removesuffix("_bn")]
    for size in ((224, 224), (225, 251)):
        x = torch.randn(1, 3, *size, dtype=torch.float64, requires_grad=True)
        ours, theirs = model(x), net(x)
        same(ours, theirs)
        weights = torch.randn(11, dtype=torch.float64)
        same(*(torch.autograd.grad((y * weights).sum(), x)[0] for y in (ours, theirs)))
    if library == "timm":  # which slides its head as well, and then takes the mean over places
        x = torch.randn(1, 3, 256, 320, dtype=torch.float64)
        hidden = model.features(x)
        s = F.relu(F.conv2d(hidden, model.fc6.weight.view(-1, 64, 7, 7), model.fc6.bias))
        s = F.relu(F.conv2d(s, model.fc7.weight[:, :, None, None], model.fc7.bias))
        same(net(x), model.fc8(s.mean((2, 3))))
        same(model.dense(x).mean((2, 3)), net(x))  # the last layer is linear


@pytest.mark.parametrize("name", ["vgg11", "vgg16_bn"])
def test_whole_state_dicts_fit(name):
    """Of the real widths: shapes alone, for the numbers are compared above."""
    with torch.device("meta"):
        for net, convert in ((torchvision.models.get_model(name), from_torchvision), (timm.create_model(name), from_timm)):
            state = {key: torch.zeros(()).expand(value.shape) for key, value in net.state_dict().items()}
            ours = VGG(LETTERS[name.removesuffix("_bn")], batch_norm=name.endswith("_bn")).state_dict()
            with torch.device("cpu"):
                state = {key: torch.zeros(()).expand(value.shape) for key, value in net.state_dict().items()}
                found = convert(state)
            assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in ours.items()}


def zoo(path, net):
    """A file as the zoo's vgg19-caffe2: BGR in, names of the authors' layers, Softmax out."""
    onnx = pytest.importorskip("onnx", reason="the onnx package is not installed")
    from onnx import TensorProto, helper, numpy_helper

    nodes, x, initializers = [], "data_0", []
    layers = {key: layer for key, layer in net.features.named_children() if not key.startswith("relu")}
    for name, layer in {**layers, "fc6": net.fc6, "fc7": net.fc7, "fc8": net.fc8}.items():
        if name.startswith("pool"):
            nodes.append(helper.make_node("MaxPool", [x], [name], kernel_shape=[2, 2], strides=[2, 2]))
            x = name
            continue
        weight = layer.weight.detach().float()
        weight = weight.flip(1) if name == "conv1_1" else weight
        for key, value in (("w", weight), ("b", layer.bias.detach().float())):
            initializers.append(numpy_helper.from_array(value.numpy(), f"{name}_{key}_0"))
        inputs = [x, f"{name}_w_0", f"{name}_b_0"]
        if name == "fc6":
            initializers.append(numpy_helper.from_array(np.array([-1, weight.shape[1]], dtype=np.int64), "OC2_DUMMY_1"))
            nodes.append(helper.make_node("Reshape", [x, "OC2_DUMMY_1"], ["flat"]))
            inputs[0] = "flat"
        more = {"transB": 1} if name.startswith("fc") else {"pads": [1] * 4, "strides": [1, 1]}
        nodes.append(helper.make_node("Gemm" if name.startswith("fc") else "Conv", inputs, [name], **more))
        x = name
        if name != "fc8":
            nodes.append(helper.make_node("Relu", [x], [f"{name}_relu"]))
            x = f"{name}_relu"
    nodes.append(helper.make_node("Softmax", [x], ["prob_1"], axis=1))
    value = lambda name, *shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    graph = helper.make_graph(
        nodes, "VGG", [value("data_0", None, 3, 224, 224)], [value("prob_1", None, net.fc8.out_features)], initializers
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=8), path)


@pytest.mark.parametrize("configuration", ["D", "E"])
def test_the_zoos_file_gives_onnxruntimes_outputs(configuration, tmp_path, monkeypatch):
    runtime = pytest.importorskip("onnxruntime", reason="the onnxruntime package is not installed")
    thin(monkeypatch)
    net = random(VGG(configuration, widths=(8, 16, 32, 64, 64), units=512, classes=11))
    nn.init.normal_(net.fc8.weight, 0, 1e-3)
    zoo(tmp_path / "vgg19-caffe2-9.onnx", net)
    model, authors = load(str(tmp_path / "vgg19-caffe2-9.onnx"), tmp_path)
    x = 60 * torch.randn(3, 3, 224, 224)
    session = runtime.InferenceSession(str(tmp_path / "vgg19-caffe2-9.onnx"), providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {"data_0": x.flip(1).numpy()})
    with torch.no_grad():
        ours = model.eval()(x).softmax(1)
    assert authors and model.configuration == configuration and ours.std() > 1e-3
    torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=1e-3, atol=1e-5)
    with torch.no_grad():
        assert not torch.allclose(model(x.flip(1)).softmax(1), ours, rtol=1e-2)


def test_files_that_fit_not(tmp_path):
    """What a file holds instead, and which net each file is for."""
    from common.errors import BadInput

    made = lambda name: torchvision.models.get_model(name)
    with torch.device("meta"):
        other, bn = made("resnet18").state_dict(), made("vgg11_bn").state_dict()
    with pytest.raises(ValueError, match=r"not a state dict of vgg11, 13, 16 or 19: conv1\.weight is no weight of its"):
        from_torchvision(other)
    zeros = {key: torch.zeros(()).expand(value.shape) for key, value in bn.items()}
    assert any(".bn" in key for key in from_torchvision(zeros))
    features = zeros | {"classifier.0.weight": torch.full((), float("nan")).expand(4096, 25_088)}
    with pytest.raises(ValueError, match="IMAGENET1K_FEATURES are features alone"):
        from_torchvision(features)
    cut = {key: value for key, value in zeros.items() if not key.startswith("features.25.") and not key.startswith("features.26.")}
    with pytest.raises(ValueError, match=r"no column of Table 1; .*vgg11, 13, 16, 19 are nets A, B, D, E"):
        build(from_torchvision(cut))
    with pytest.raises(ValueError, match="is no weight of its"):
        from_onnx({"vgg0_conv0_weight": torch.zeros(1)})  # of the zoo's vgg16-7
    (tmp_path / "cut.pth").write_bytes(b"PK\3\4")
    with pytest.raises(BadInput, match=r"cannot load .*cut\.pth"):
        load(str(tmp_path / "cut.pth"), tmp_path)
    with pytest.raises(BadInput, match="none of Table 1"):
        load("timm-repvgg_a0", tmp_path)
    assert len(TABLE_1) == 7
