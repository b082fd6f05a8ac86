"""Runs that leave the house: what other programs read gives our outputs."""

import hashlib
import json
import subprocess
import sys

import pytest
import timm
import torch
import torchvision
from safetensors import safe_open
from torch import nn
from transformers import OpenAIGPTLMHeadModel

from common import directory
from common.errors import BadInput, Failed
from common.options import config_dict
from common.provenance import ROOT
from papers.gpt.pretrain import Pretraining
from papers.lenet.train import EXPERIMENTS as LENET
from papers.resnet.train import Cifar, ImageNet
from papers.vgg.train import ImageNet as VGGImageNet
from papers.vit.recipes import Finetuning
from tests.start import record, weights
from tools import export, publish
from tools.repository import papers, records


def written(folder, paper, experiment, config, net, name="model", **data):
    """A run's folder with a checkpoint of this net."""
    identity = {"paper": paper, "experiment": experiment, "seed": 0}
    folder.mkdir(parents=True)
    about = {**identity, "config": config_dict(config) | {"--precision": "fp32"}, "commit": "c0ffee", "data": {"name": "d", **data}}
    (folder / "config.json").write_text(json.dumps(about))
    optimizer = {"state": {}, "param_groups": []}
    directory.save(folder, {"run": identity, "step": 3, "objects": {name: net.state_dict(), "optimizer": optimizer}})
    return folder


def shaken(net):
    """Whose norms have statistics, gains and biases of their own."""
    torch.manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for each, low, high in ((module.weight, 0.5, 1), (module.bias, -0.1, 0.1), (module.running_var, 0.5, 2)):
                nn.init.uniform_(each, low, high)
    return net.eval()


@pytest.fixture
def resnet(tmp_path):
    config = ImageNet(depth=18, classes=7)
    net = shaken(config.network())
    return written(tmp_path / "run", "resnet", "imagenet-resnet18", config, net), net


def agree(ours, theirs):
    assert ours.std() > 0 and (ours - theirs).abs().max() <= 1e-4 * ours.abs().max()


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_resnet_for_its_libraries(resnet, library, capsys):
    folder, net = resnet
    assert export.main("resnet", str(folder), library) == 0
    from safetensors.torch import load_file

    make = torchvision.models.resnet18 if library == "torchvision" else timm.create_model
    theirs = make(num_classes=7) if library == "torchvision" else make("resnet18", num_classes=7)
    theirs.load_state_dict(load_file(folder / "export" / f"{library}.safetensors"))
    x = 60 * torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        agree(net(x), theirs.eval()(x))
    assert f"{library}.safetensors" in capsys.readouterr().out


def test_nets_that_the_libraries_do_not_have(tmp_path):
    for name, config in {"plain": ImageNet(depth=18, option="plain"), "deep": ImageNet(depth=50), "cifar": Cifar()}.items():
        folder = written(tmp_path / name, "resnet", name, config, config.network())
        with pytest.raises(BadInput, match="take safetensors or onnx"):
            export.main("resnet", str(folder), "torchvision")
        assert not (folder / "export/torchvision.safetensors").exists()


def test_safetensors_say_what_they_are_and_fill_a_copied_model(tmp_path):
    """model.py alone, in an empty folder, with the exported file: the outputs of the run's net."""
    config = Cifar(depth=8)
    net = shaken(config.network())
    folder = written(tmp_path / "run", "resnet", "cifar10-resnet20", config, net)
    assert export.main("resnet", str(folder), to=str(tmp_path / "copy")) == 0
    with safe_open(tmp_path / "copy/model.safetensors", "pt") as file:
        facts = file.metadata()
    assert (facts["paper"], facts["commit"], json.loads(facts["config"])["depth"]) == ("resnet", "c0ffee", 8)
    card = (tmp_path / "copy/README.md").read_text()
    assert "# resnet/cifar10-resnet20" in card and "make reproduce-resnet EXPERIMENT=cifar10-resnet20 SEEDS=0" in card
    (tmp_path / "copy/model.py").write_text((ROOT / "papers/resnet/model.py").read_text())
    x = 60 * torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.save([x, net(x)], tmp_path / "copy/x.pt")
    code = """import torch
from safetensors.torch import load_file
from model import CifarResNet
net = CifarResNet(8).eval()
net.load_state_dict(load_file("model.safetensors"))
x, y = torch.load("x.pt")
with torch.no_grad():
    print((net(x) - y).abs().max().item() <= 1e-5 * y.abs().max().item())
"""
    (tmp_path / "copy/use.py").write_text(code)
    ran = subprocess.run([sys.executable, "use.py"], cwd=tmp_path / "copy", capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "True\n"), ran.stderr


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"name": "multi30k de-en"}, "derived from Flickr30K"),
        ({"name": "mnist, held out: 10,000 of the training images"}, "none stated by its authors"),
        ({"name": "adding-4, generated", "generator": "papers/lstm/tasks.py"}, "made by this repository's code"),
        ({"name": "my photographs"}, "of the data not known"),
        ({}, "of the data not known"),
    ],
)
def test_the_card_has_the_datas_licence(data, said):
    about = {"experiment": "x", "seed": 0, "commit": "c0ffee", "data": data}
    (line,) = [each for each in export.card("lenet", about, None, [], "", "pytorch").splitlines() if each.startswith("- licence: ")]
    assert said in line and "of the code MIT" in line


def onnx(path, all_of=False, **inputs):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the onnxruntime package is not installed")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = [torch.from_numpy(y) for y in session.run(None, {name: x.numpy() for name, x in inputs.items()})]
    return found if all_of else found[0]


def test_lenet_as_onnx(tmp_path):
    from papers.lenet.export import inputs, of_run
    from papers.lenet.model import LeNet5, printed

    torch.manual_seed(2)
    net = LeNet5(printed, LENET["mnist"].config.coefficient).eval()
    folder = written(tmp_path / "run", "lenet", "mnist", LENET["mnist"].config, net)
    assert export.main("lenet", str(folder), "onnx") == 0
    x = inputs(of_run(folder), 5)["images"]
    with torch.no_grad():
        agree(net(x), onnx(folder / "export/model.onnx", images=x))


def test_gpt_for_transformers_and_as_onnx(tmp_path):
    """Tied embeddings have one place; any number of sequences of any length up to the context's."""
    config = Pretraining(n_layer=2, n_head=2, width=16, context=12, corpus="made-up")
    torch.manual_seed(3)
    net = config.net(40).eval()
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    folder = written(tmp_path / "run", "gpt", "smoke", config, net)
    assert export.main("gpt", str(folder), "transformers") == 0 and export.main("gpt", str(folder), "onnx") == 0
    theirs = OpenAIGPTLMHeadModel.from_pretrained(folder / "export/transformers").eval()
    for size in ((3, 12), (5, 1), (1, 9)):
        tokens = torch.randint(40, size)
        with torch.no_grad():
            agree(net(tokens), theirs(tokens).logits)
            agree(net(tokens), onnx(folder / "export/model.onnx", tokens=tokens))
    files = {line for line in (folder / "export/README.md").read_text().splitlines() if line.startswith("- `")}
    assert files == {"- `model.onnx`", "- `transformers`"}


@pytest.mark.parametrize("gelu", ["tanh", "none"])
def test_vit_for_timm(tmp_path, gelu):
    """With the GELU of the weights that it was fine-tuned from, which its tensors do not tell."""
    from papers.vit.model import ViT

    torch.manual_seed(4)
    net = ViT(8, 64, 2, 1, 96, image=32, classes=5, tanh=gelu == "tanh", eps=1e-6).eval()
    for p in net.parameters():
        nn.init.normal_(p, std=0.5)
    config = Finetuning(data="imagenet", net="any", image=32, classes=5)
    folder = written(tmp_path / "run", "vit", "finetune-imagenet-b16", config, net, gelu=gelu, eps=1e-6)
    assert export.main("vit", str(folder), "timm") == 0


def test_vgg_for_torchvision(tmp_path, monkeypatch):
    from papers.vgg import pretrained
    from papers.vgg.model import VGG

    torch.manual_seed(5)
    net = VGG("A", classes=3)
    folder = written(tmp_path / "run", "vgg", "imagenet-a", VGGImageNet(configuration="A", classes=3), nn.Linear(1, 1))
    monkeypatch.setattr(pretrained, "of_run", lambda _: (net, 224))  # 500 MB need not be written
    assert export.main("vgg", str(folder), "torchvision") == 0


def test_what_gives_other_outputs_is_not_kept(resnet, monkeypatch):
    from papers.resnet import export as hooks

    folder, _ = resnet
    flipped = lambda state: state | {"fc.weight": state["fc.weight"].flip(0)}
    wrong = lambda weights: flipped(hooks.from_timm(weights))
    monkeypatch.setitem(hooks.LIBRARIES, "timm", (hooks.LIBRARIES["timm"][0], wrong))
    with pytest.raises(Failed, match="timm gives other outputs than our net"):
        export.main("resnet", str(folder), "timm")
    assert not list((folder / "export").glob("timm*"))


def test_what_cannot_be_exported(tmp_path, resnet):
    said = {
        ("resnet", str(resnet[0]), "keras"): "exported as safetensors, onnx, torchvision, timm, not as keras",
        ("adam", "x", "onnx"): "adam is exported as safetensors, not as onnx",
        ("resnet", "", "onnx"): "name the run: RUN=runs/resnet/EXPERIMENT/seed0",
        ("resnet", str(tmp_path / "none"), "onnx"): "is no folder of a run that will do",
        ("lenet", str(resnet[0]), "onnx"): "it holds resnet/imagenet-resnet18",
        ("reznet", "x", "onnx"): "no paper 'reznet'",
    }
    for arguments, line in said.items():
        with pytest.raises(BadInput, match=line):
            export.main(*arguments)


def lenet(tmp_path):
    from papers.lenet.model import LeNet5, printed

    torch.manual_seed(6)
    net = LeNet5(printed, 0.6)
    return written(tmp_path / "run", "lenet", "mnist", LENET["mnist"].config, net), net


def test_small_weights_are_published_with_their_record(tmp_path, monkeypatch):
    from safetensors.torch import load_file

    folder, net = lenet(tmp_path)
    monkeypatch.setattr(publish, "ROOT", tmp_path)
    (tmp_path / "papers/lenet").mkdir(parents=True)
    record = {"paper": "lenet", "experiment": "mnist", "seed": 0, "commit": "c0ffee", "metrics": {"test_error": 1.5}}
    publish.keep_weights(folder, "lenet", record)
    path = tmp_path / "papers/lenet" / record["weights"]["file"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == record["weights"]["sha256"]
    assert all(torch.equal(each, net.state_dict()[key]) for key, each in load_file(path).items())
    path.unlink()
    monkeypatch.setattr(publish, "SMALL", 1000)
    publish.keep_weights(folder, "lenet", other := {"paper": "lenet", "experiment": "mnist", "seed": 1})
    assert "weights" not in other and not list(path.parent.iterdir())


def published():
    return [(paper, record) for paper in papers() for record in records(paper) if "weights" in record]


@pytest.mark.parametrize(("paper", "record"), published(), ids=[f"{paper}-{r['experiment']}" for paper, r in published()])
def test_published_weights_are_their_records(paper, record):
    path = ROOT / "papers" / paper / record["weights"]["file"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == record["weights"]["sha256"] and path.stat().st_size <= publish.SMALL
    with safe_open(path, "pt") as file:
        facts = file.metadata()
    assert (facts["commit"], json.loads(facts["metrics"])) == (record["commit"], record["metrics"])


def test_the_published_number_comes_from_the_published_weights(tmp_path, monkeypatch, capfd):
    """`make evaluate-lenet`."""
    from common.data import mnist
    from papers.lenet import pretrained

    try:
        mnist.load(ROOT / "data")
    except BadInput:
        pytest.skip("MNIST is not in data/")
    evaluate = weights(pretrained, tmp_path, monkeypatch, capfd)
    assert evaluate("mnist-seed0", "--data-dir", ROOT / "data") == (0, [])
    ours = next(r for r in records("lenet") if (r["experiment"], r["seed"]) == ("mnist", 0))
    assert record(tmp_path / "lenet/weights-mnist-seed0/seed0")["metrics"]["errors"] == ours["metrics"]["errors"]


@pytest.mark.slow
def test_the_published_lstms_give_their_numbers(tmp_path, monkeypatch, capfd):
    """`make evaluate-lstm`; all twenty have learned, so that a mean over them is the record's over those that have."""
    from papers.lstm import pretrained

    evaluate = weights(pretrained, tmp_path, monkeypatch, capfd)
    assert evaluate("temporal-order-6a-seed0") == (0, [])
    ours = next(r for r in records("lstm") if (r["experiment"], r["seed"]) == ("temporal-order-6a", 0))["metrics"]
    assert ours["success_rate"] == 100
    found = record(tmp_path / "lstm/weights-temporal-order-6a-seed0/seed0")["metrics"]
    assert found == pytest.approx({key: ours[key] for key in found}, rel=1e-6)


def test_a_lenet_of_ones_own_is_evaluated(tmp_path, monkeypatch, capfd):
    from common.data import mnist
    from papers.lenet import digits, pretrained

    folder, net = lenet(tmp_path)
    made_up = digits.made_up(20, 200)
    monkeypatch.setattr(mnist, "fetch", lambda data_dir: None)
    monkeypatch.setattr(mnist, "load", lambda data_dir: made_up)
    evaluate = weights(pretrained, tmp_path / "out", monkeypatch, capfd)
    assert evaluate(folder) == (0, [])
    with torch.no_grad():
        wrong = (net(digits.field(made_up.test_images)).argmin(1) != made_up.test_labels).sum().item()
    (made,) = (tmp_path / "out").rglob("seed0")
    assert record(made)["metrics"] == {"test_error": wrong / 2, "errors": wrong}
    code, errors = evaluate("none")
    assert code == 2 and "name a run's folder, or one of" in errors[0]
