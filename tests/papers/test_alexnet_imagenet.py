"""ILSVRC through the commands that people type, on a small generated one; BVLC's weights; the mean image and the colours."""

import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from papers.alexnet import pretrained
from papers.alexnet.data import square
from papers.alexnet.model import AlexNet, ResponseNorm
from tests.start import Started, finish, here, newest, processes, record, rows, until, weights

TRAIN = "papers.alexnet.train"
SMALL = ("--narrow", 16, "--batch-size", 4, "--epochs", 1, "--drops", 1, "--precision", "fp32", "--dropout", 0)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Three classes, 4 training images each, 7 to test on, of 2012 and of 2010; one is grey."""
    root, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split, counts in (("imagenet/train", (4, 4, 4)), ("imagenet/val", (2, 2, 3))):
        for label, n in enumerate(counts):
            folder = root / split / f"n{label}"
            folder.mkdir(parents=True)
            for i in range(n):
                image = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
                image = image.resize(tuple(random.integers(230, 300, 2).tolist()))
                (image.convert("L") if i == 2 else image).save(folder / f"{i}.JPEG")
    for name, other in (("train", "train"), ("test", "val")):
        shutil.copytree(root / "imagenet" / other, root / "imagenet-2010" / name)
    return root


def images(data_dir, split):
    paths = sorted((data_dir / split).glob("*/*.JPEG"))
    return [(square(Image.open(path).convert("RGB")), int(path.parent.name[1:])) for path in paths]


def test_the_square_is_the_centre():
    """The shorter side is 256, and what is beyond the centre of the longer one is cut off."""
    pixels = torch.zeros(320, 512, 3, dtype=torch.uint8)
    pixels[:, 96:416] = 255  # 320 of 512
    assert (square(Image.fromarray(pixels.numpy()))[:, 2:-2] == 255).all()
    pixels[:, 96:116] = 0  # a sixteenth of the square
    left = square(Image.fromarray(pixels.numpy()))
    assert left.shape == (256, 256, 3) and (left[:, :15] == 0).all() and (left[:, 17:-2] == 255).all()


def test_training_on_one_process_and_on_two(data_dir, tmp_path):
    """2012: the same numbers, and in them the statistics of the training set; its data is marked as not ILSVRC's."""
    flags = ["imagenet-2012", *SMALL, "--data-dir", data_dir, "--out"]
    finish([Started(tmp_path / "log", TRAIN, *flags, tmp_path / "1")])
    finish(processes(2, tmp_path / "two.log", TRAIN, *flags, tmp_path / "2"))
    one, two = (tmp_path / out / "alexnet/imagenet-2012/seed0" for out in "12")
    assert (record(one)["processes"], record(two)["processes"], record(one)["steps"]) == (1, 2, 3)
    for a, b in zip(rows(one), rows(two), strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    data = record(one)["data"]
    assert (data["name"], data["train"], data["test"], data["stand_in"]) == ("ilsvrc-2012", 12, 7, True)
    assert record(one)["metrics"] == record(two)["metrics"]
    assert record(one)["metrics"].keys() == {f"top{k}_error_{views}view" for k in (1, 5) for views in (1, 10)}
    (kept,) = (data_dir / "kept").glob("alexnet-statistics-*/statistics.pt")
    found, all_ = torch.load(kept), torch.stack([image for image, _ in images(data_dir, "imagenet/train")]).double()
    torch.testing.assert_close(found["mean"], all_.mean(0).float())
    covariance = torch.cov(all_.view(-1, 3).T, correction=0)
    p, l = found["components"].double(), found["deviations"].double() ** 2
    torch.testing.assert_close(p @ l.diag() @ p.T, covariance, rtol=1e-4, atol=1e-2)
    assert (one / "figures/filters.png").exists() and (one / "figures/errors.png").exists()


def test_the_first_update(data_dir, tmp_path, double):
    """Crops, flips and colours of a batch by hand, in float64; momentum's first step is the rate times the gradient."""
    from common.data.images import draw_colours, draw_crops
    from common.data.order import mix, permuted

    flags = ["imagenet-2010", *SMALL, "--epochs", 1, "--batch-size", 12, "--precision", "fp64", "--data-dir", data_dir]
    finish([Started(tmp_path / "log", TRAIN, *flags, "--out", tmp_path)])
    directory = tmp_path / "alexnet/imagenet-2010/seed0"
    (kept,) = list((data_dir / "kept").glob("alexnet-statistics-*/statistics.pt"))[:1]
    found, all_ = torch.load(kept), images(data_dir, "imagenet-2010/train")
    mean = torch.stack([image for image, _ in all_]).double().mean(0).float().double()
    torch.set_default_dtype(torch.float64)
    torch.default_generator.manual_seed(mix(0, "start"))
    model = AlexNet(tuple(n // 16 for n in (96, 256, 384, 384, 256, 4096)), dropout=0.0)
    index, draws = permuted(12, 0, 0, 12), draw_crops(12, 33, 0, 0).tolist()
    colours = draw_colours(12, 0.1, found["deviations"].double(), found["components"].double(), 0, 0)
    batch = []
    for i, (top, left, flip), colour in zip(index, draws, colours, strict=True):
        patch = (all_[i][0] - mean)[top : top + 224, left : left + 224]
        batch.append(((patch.flip(1) if flip else patch) + colour).permute(2, 0, 1))
    loss = F.cross_entropy(model(torch.stack(batch).double()), torch.tensor([all_[i][1] for i in index]))
    loss.backward()
    (row,) = [row for row in rows(directory) if "train_loss" in row]
    assert row["train_loss"] == pytest.approx(loss.item(), rel=1e-5)
    trained = newest(directory)["objects"]["model"]
    for name, p in model.named_parameters():
        decay = 0.0 if name.endswith("bias") else 5e-4
        expected = p.detach() - 0.01 * (p.grad + decay * p.detach())
        torch.testing.assert_close(trained[name].double(), expected, rtol=1e-4, atol=1e-7)


def test_training_stops_and_resumes(data_dir, tmp_path):
    """The authors' recipe, with dropout, in two sittings and in one."""
    flags = ["authors-2010", *SMALL[:-2], "--epochs", 4, "--batch-size", 3, "--data-dir", data_dir, "--out"]
    straight, stopped = (tmp_path / name / "alexnet/authors-2010/seed0" for name in ("straight", "stopped"))
    finish([Started(tmp_path / "log", TRAIN, *flags, tmp_path / "straight")])
    run = Started(tmp_path / "log", TRAIN, *flags, tmp_path / "stopped")
    until(lambda: (stopped / "metrics.jsonl").exists() and (stopped / "metrics.jsonl").read_bytes().count(b"\n") >= 2)
    run.kill(signal.SIGTERM)
    assert run.wait() in (0, 143), run.output()
    finish([Started(tmp_path / "log", TRAIN, *flags, tmp_path / "stopped")])
    assert rows(stopped) == rows(straight)
    for name, weight in newest(straight)["objects"]["model"].items():
        assert torch.equal(newest(stopped)["objects"]["model"][name], weight)
    assert record(straight)["metrics"] == record(stopped)["metrics"]


def test_as_many_outputs_as_ones_own_classes(data_dir, tmp_path, monkeypatch, capfd):
    """And such a run is evaluated again, by its own recipe, to the same errors."""
    flags = ["imagenet-2012", *SMALL, "--data-dir", data_dir, "--out", tmp_path]
    code, output = here(TRAIN, *flags, "--classes", 3)
    assert code == 0 and "not the paper's data: " in output, output
    trained = tmp_path / "alexnet/imagenet-2012/seed0"
    assert newest(trained)["objects"]["model"]["fc8.bias"].shape == (3,)
    evaluate = weights(pretrained, tmp_path / "evaluated", monkeypatch, capfd)
    assert evaluate(trained, "--data-dir", data_dir, "--precision", "fp32") == (0, [])
    again = record(tmp_path / "evaluated/alexnet/weights-imagenet-2012-seed0/seed0")
    assert again["metrics"] == record(trained)["metrics"] and again["data"]["stand_in"]
    code, output = here(TRAIN, *flags, "--classes", 2, "--restart")
    assert code == 2 and "3 classes are there, and 2 outputs: other weights, or --classes" in output


def test_too_many_classes(data_dir, tmp_path):
    root = tmp_path / "imagenet-2010"
    for i in range(1001):
        (root / "train" / f"n{i}").mkdir(parents=True)
        Image.new("RGB", (2, 2)).save(root / "train" / f"n{i}" / "0.png")
    code, output = here(TRAIN, "imagenet-2010", "--data-dir", tmp_path, "--out", tmp_path / "out")
    assert code == 2 and "1,001 classes" in output and "Traceback" not in output


# BVLC's weights.


def exported(path, model, side=227, bias=1.0):
    """A file of the zoo's layout: BGR in, norms with theirs, pooling that rounds up by padding, Softmax out."""
    onnx = pytest.importorskip("onnx", reason="the onnx package is not installed")
    from onnx import TensorProto, helper, numpy_helper

    node, nodes, x, initializers = helper.make_node, [], "data_0", []
    for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"):
        layer = getattr(model, name)
        weight = layer.weight.detach().flip(1) if name == "conv1" else layer.weight.detach()
        for key, value in (("w", weight), ("b", layer.bias.detach())):
            initializers.append(numpy_helper.from_array(value.numpy(), f"{name}_{key}_0"))
        inputs = [x, f"{name}_w_0", f"{name}_b_0"]
        if name.startswith("fc"):
            if name == "fc6":
                initializers.append(numpy_helper.from_array(np.array([-1, weight.shape[1]], dtype=np.int64), "OC2_DUMMY_1"))
                nodes.append(node("Reshape", [x, "OC2_DUMMY_1"], ["flat"]))
                inputs[0] = "flat"
            nodes.append(node("Gemm", inputs, [name], transB=1))
        else:
            pad, stride = (0, 4) if name == "conv1" else (layer.padding[0], 1)
            nodes.append(node("Conv", inputs, [name], group=layer.groups, strides=[stride] * 2, pads=[pad] * 4))
        x = name
        if name != "fc8":
            nodes.append(node("Relu", [x], [f"{name}_relu"]))
            x = f"{name}_relu"
        if name in ("conv1", "conv2"):
            nodes.append(node("LRN", [x], [f"{name}_norm"], size=5, alpha=1e-4, beta=0.75, bias=bias))
            x = f"{name}_norm"
        if name in ("conv1", "conv2", "conv5"):
            nodes.append(node("MaxPool", [x], [f"{name}_pool"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1))
            x = f"{name}_pool"
    nodes.append(node("Softmax", [x], ["prob_1"], axis=1))
    value = lambda name, *shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    graph = helper.make_graph(
        nodes, "AlexNet", [value("data_0", None, 3, side, side)], [value("prob_1", None, model.fc8.out_features)], initializers
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=8), path)


@pytest.fixture(scope="module")
def bvlc(tmp_path_factory):
    """A file of that layout whose answers depend on the image, and the net that it is of."""
    torch.manual_seed(1)
    model = AlexNet(norm=lambda towers: ResponseNorm(1, k=1.0, divided=True), classes=7)
    for layer in (model.conv2, model.conv3, model.conv4, model.conv5, model.fc6, model.fc7, model.fc8):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.normal_(layer.bias, 0.0, 0.1)
    nn.init.normal_(model.fc8.weight, 0.0, 0.001)
    path = tmp_path_factory.mktemp("weights") / "bvlcalexnet-9.onnx"
    exported(path, model)
    return path, model.eval()


def session(path):
    runtime = pytest.importorskip("onnxruntime", reason="the onnxruntime package is not installed")
    return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_weights_give_onnxruntimes_outputs(bvlc):
    """The scores of images in BGR, less the mean, by onnxruntime, and of the same in RGB by our network."""
    x = 60 * torch.randn(4, 3, 227, 227)
    (theirs,) = session(bvlc[0]).run(None, {"data_0": x.flip(1).numpy()})
    model = pretrained.build(pretrained.from_onnx(pretrained.read_onnx(bvlc[0]))).eval()
    with torch.no_grad():
        ours, logits = model(x).softmax(1), model(x)
        others = bvlc[1](x)
    theirs = torch.from_numpy(theirs)
    assert logits.std() > 0.1 and (ours.argmax(1) == theirs.argmax(1)).all()
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(logits, others, rtol=0, atol=0)
    for change in ({"k": 2.0}, {"towers": 2, "k": 1.0}, {"towers": 1, "alpha": 1e-4}):  # the paper's
        vars(model.norm1).update(change)
        with torch.no_grad():
            assert not torch.allclose(model(x).softmax(1), theirs, rtol=1e-3, atol=1e-4)


def test_weights_are_evaluated_exactly(bvlc, data_dir, tmp_path, monkeypatch, capfd):
    """What onnxruntime gives on patches cut by hand, for the centre and for ten of them."""
    path = shutil.copy(bvlc[0], tmp_path / "bvlcalexnet-9.onnx")
    code, errors = weights(pretrained, tmp_path / "out", monkeypatch, capfd)(path, "--data-dir", data_dir)
    assert code == 0, errors
    made = record(tmp_path / "out/alexnet/weights-bvlcalexnet-9/seed0")
    net, hits = session(path), {1: [], 10: []}
    for image, label in images(data_dir, "imagenet/val"):
        image = (image.float() - torch.tensor([123.0, 117.0, 104.0])).permute(2, 0, 1)
        patches = [image[:, t : t + 227, l : l + 227] for t, l in ((14, 14), (0, 0), (0, 29), (29, 0), (29, 29))]
        patches += [patch.flip(2) for patch in patches]
        scores = torch.from_numpy(net.run(None, {"data_0": torch.stack(patches).flip(1).numpy()})[0])
        for n in hits:
            order = scores[:n].mean(0).argsort(descending=True)
            hits[n].append((order == label).nonzero().item())
    expected = {f"top{k}_error_{n}view": 100 * np.mean([rank >= k for rank in ranks]) for n, ranks in hits.items() for k in (1, 5)}
    assert made["metrics"] == pytest.approx(expected)
    assert made["data"]["stand_in"] and made["kind"] == "weights"


def test_other_weights_are_refused(bvlc, data_dir, tmp_path, monkeypatch, capfd):
    """torchvision's by the line that says why; a file with other norms; one that is none; a state dict with other keys."""
    import torchvision

    evaluate = weights(pretrained, tmp_path / "out", monkeypatch, capfd)
    with torch.device("meta"):
        keys = torchvision.models.alexnet().state_dict()
    with pytest.raises(ValueError, match="One weird trick"):
        pretrained.from_torchvision(keys)
    with pytest.raises(ValueError, match=r"features\.0\.weight is no weight of its"):
        pretrained.from_onnx(keys)
    (tmp_path / "tv.pth").write_bytes(b"anything")
    (tmp_path / "cut.onnx").write_bytes(bvlc[0].read_bytes()[:5000])
    exported(tmp_path / "other.onnx", bvlc[1], bias=2.0)
    cases = {"tv.pth": "One weird trick", "cut.onnx": "cut.onnx", "other.onnx": "its norms are"}
    for name, said in cases.items():
        code, errors = evaluate(tmp_path / name, "--data-dir", data_dir)
        assert code == 2 and len(errors) == 1 and said in errors[0], errors
