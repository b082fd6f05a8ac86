"""The training of ResNets: what a net is shown, its updates, its evaluation, on CIFAR-10 and on a small generated ImageNet."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from common.data import standin
from common.data.images import draw_crops
from common.data.order import mix, permuted
from papers.resnet import data, train
from papers.resnet.model import CifarResNet
from papers.resnet.responses import layer_responses
from tests.start import compiling, here, judged, newest, record, refuses, rows

SCRIPT = "papers.resnet.train"


def padded_crop(image, mean, top, left, flip):
    """Sec. 4.2 for one image, in the paper's order of words: mean subtracted, padded, cropped, flipped."""
    padded = torch.zeros(40, 40, 3, dtype=mean.dtype)
    padded[4:36, 4:36] = image - mean
    crop = padded[top : top + 32, left : left + 32]
    return (crop.flip(1) if flip else crop).permute(2, 0, 1) / 255


# The recipe.


def test_rates_are_the_papers():
    cifar, deep, large = (
        train.EXPERIMENTS[f"{name}"].config for name in ("cifar10-resnet20", "cifar10-resnet110", "imagenet-resnet50")
    )
    at = (0, 399, 400, 31_999, 32_000, 47_999, 48_000, 63_999)
    assert [cifar.lr_at(step) for step in at] == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert [deep.lr_at(step) for step in at] == pytest.approx([0.01, 0.01, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert [large.lr_at(step) for step in (0, 149_999, 150_000, 300_000, 450_000)] == pytest.approx([0.1, 0.1, 0.01, 1e-3, 1e-4])
    assert (cifar.steps, cifar.batch_size, large.steps, large.batch_size) == (64_000, 128, 600_000, 256)


def test_experiments_have_the_papers_networks():
    parameters = {  # Table 6, Table 1 with each option
        "cifar10-resnet20": 269_722, "cifar10-resnet32": 464_154, "cifar10-resnet44": 658_586, "cifar10-resnet56": 853_018,
        "cifar10-resnet110": 1_727_962, "cifar10-resnet1202": 19_421_274, "cifar10-plain20": 269_722, "cifar10-plain56": 853_018,
        "imagenet-resnet18": 11_515_688, "imagenet-resnet34": 21_623_848, "imagenet-resnet34-b": 21_797_672,
        "imagenet-resnet34-c": 22_716_840,
        "imagenet-plain34": 21_623_848, "imagenet-resnet50": 25_557_032, "imagenet-resnet101": 44_549_160,
        "imagenet-resnet152": 60_192_808,
    }  # fmt: skip
    with torch.device("meta"):
        counts = {name: sum(p.numel() for p in train.EXPERIMENTS[name].config.network().parameters()) for name in parameters}
    assert counts == parameters
    kinds = {name: hasattr(e.config, "residual") and not e.config.residual for name, e in train.EXPERIMENTS.items()}
    assert {name for name, plain in kinds.items() if plain} == {f"cifar10-plain{depth}" for depth in (20, 32, 44, 56, 110)}


ERRORS = {  # Tables 2, 3 and 4: ten crops, several scales
    "resnet50": (22.85, 6.71, 20.74, 5.25), "resnet101": (21.75, 6.05, 19.87, 4.60), "resnet152": (21.43, 5.71, 19.38, 4.49),
    "resnet18": (27.88,), "resnet34": (25.03, 7.76), "resnet34-b": (24.52, 7.46, 21.84, 5.71),
    "resnet34-c": (24.19, 7.40, 21.53, 5.60), "plain18": (27.94,), "plain34": (28.54, 10.02),
}  # fmt: skip


def test_claims_on_imagenet():
    """A plain net that is as good as another one does not reproduce its row."""
    metrics = ("top1_error_10crop", "top5_error_10crop", "top1_error_multiscale", "top5_error_multiscale")
    for name, values in ERRORS.items():
        claims = train.EXPERIMENTS[f"imagenet-{name}"].claims
        assert [(claim.metric, claim.value) for claim in claims] == list(zip(metrics, values, strict=False)), name
        assert all(claim.lower_is_better and claim.either_way == name.startswith("plain") for claim in claims)
    shallow, deep = (train.EXPERIMENTS[f"imagenet-plain{depth}"].claims[0] for depth in (18, 34))
    assert judged(deep, "paper", [24.0]) == "short by 4.5%" and judged(deep, "paper", [27.94]) == "short by 0.6%"
    assert judged(shallow, "paper", [27.94]) == judged(deep, "paper", [28.54]) == "reproduced"


def test_claims_on_cifar10():
    """Table 6. What a broken net has as well is no claim: 90 % reproduces nothing, and 1,202 layers are worse than 110."""
    table = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.61, 1202: 7.93}
    cifar = {name: each for name, each in train.EXPERIMENTS.items() if name.startswith("cifar10") and each.kind == "paper"}
    found = {name: [claim.value for claim in each.claims] for name, each in cifar.items()}
    plain = {f"cifar10-plain{depth}": [] for depth in (20, 32, 44, 56, 110)}
    assert found == {f"cifar10-resnet{depth}": [error] for depth, error in table.items()} | plain
    assert not any(judged(claim, "paper", [90.0]) == "reproduced" for each in cifar.values() for claim in each.claims)
    (deepest,) = cifar["cifar10-resnet1202"].claims
    assert judged(deepest, "paper", [6.61]) == "short by 1.3%"


def test_degradation_is_judged_by_both_signs():
    """A difference within the noise shows nothing, whatever its sign."""
    plain, residual = train.EXPERIMENTS["cifar10-degradation"].claims
    for claim, papers in ((plain, -1), (residual, 1)):
        said = [judged(claim, "paper", [papers * points]) for points in (1.78, 0.2, -1.78)]
        assert said == ["reproduced", "short, within noise", "short by 1.8 points"], claim.metric


SMALL = ("smoke", "--steps", 6, "--drops", 3, 5, "--batch-size", 16, "--evaluate-every", 3, "--precision", "fp64")


@pytest.mark.parametrize("residual", [True, False])
def test_training_is_the_papers_recipe(residual, tmp_path, double):
    """Six updates, written out with each image cropped alone and momentum and weight decay by hand."""
    flags = [] if residual else ["--no-residual"]
    code, output = here(SCRIPT, *SMALL, *flags, "--warm-up", 2, "--out", tmp_path)
    assert code == 0, output
    directory = tmp_path / "resnet/smoke/seed0"
    trained = newest(directory)["objects"]["model"]

    torch.set_default_dtype(torch.float64)  # the run has left it as it was before
    torch.default_generator.manual_seed(mix(0, "start"))
    model = CifarResNet(8, residual)
    (data, labels), (test, test_labels) = standin.images(256, 0), standin.images(100, 1)
    mean = data.double().mean(0)
    velocity = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    losses, errors = [], []
    for step, rate in enumerate((0.01, 0.01, 0.1, 0.01, 0.01, 0.001)):
        index = permuted(256, 0, 16 * step, 16 * step + 16)
        draws = draw_crops(16, 9, 0, step).tolist()
        batch = torch.stack([padded_crop(data[i], mean, *draw) for i, draw in zip(index, draws, strict=True)])
        model.train()
        loss = -model(batch).log_softmax(1)[range(16), labels[index]].mean()
        losses.append(loss.item())
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for name, p in model.named_parameters():
                velocity[name] = 0.9 * velocity[name] + p.grad + 1e-4 * p
                p -= rate * velocity[name]
            if step % 3 == 2:
                wrong = model.eval()(((test - mean) / 255).permute(0, 3, 1, 2)).argmax(1) != test_labels
                errors.append(100 * wrong.double().mean().item())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(trained[name], value, rtol=1e-5, atol=1e-7, msg=name)
    lines = rows(directory)
    assert [row["test_error"] for row in lines] == pytest.approx(errors) and len(errors) == 2
    assert record(directory)["metrics"]["test_error"] == pytest.approx(errors[-1])
    assert [row["train_loss"] for row in lines] == pytest.approx([sum(losses[:3]) / 3, sum(losses[3:]) / 3], rel=1e-6)


def test_nets_side_by_side_learn_as_alone(tmp_path):
    """The plain net of 8 layers, which draws the first weights: its errors and losses are those of a run of its own."""
    flags = ["--steps", 8, "--drops", 4, 6, "--batch-size", 16, "--evaluate-every", 8, "--precision", "fp64"]
    for name, more in (("smoke", ["--no-residual"]), ("smoke-degradation", [])):
        code, output = here(SCRIPT, name, *flags, *more, "--out", tmp_path)
        assert code == 0, output
    alone, beside = (rows(tmp_path / "resnet" / name / "seed0") for name in ("smoke", "smoke-degradation"))
    assert [row["step"] for row in alone] == [6, 8] and [row["step"] for row in beside] == [2, 4, 6, 8]
    for key in ("train_loss", "train_error"):
        first, second = [row[f"plain8_{key}"] for row in beside[:3]], beside[3][f"plain8_{key}"]
        assert [sum(first) / 3, second] == pytest.approx([row[key] for row in alone])
    metrics = record(tmp_path / "resnet/smoke-degradation/seed0")["metrics"]
    assert metrics["plain8_test_error"] == alone[-1]["test_error"]
    assert metrics["residual14_train_error"] == beside[-1]["residual14_train_error"], "of the last tenth, which is one line"
    for kind in ("plain", "residual"):
        for part in ("train", "test"):
            errors = [metrics[f"{kind}{depth}_{part}_error"] for depth in (8, 14)]
            assert metrics[f"{kind}_{part}_gain"] == pytest.approx(errors[0] - errors[1])


@pytest.mark.slow
def test_bf16_and_the_compiled_net_train_alike(tmp_path):
    """Losses of 40 updates: bf16 within a few per cent of fp32, the compiled net's those of the eager one."""
    curves = {}
    for name, precision, compiled in (("fp32", "fp32", False), ("bf16", "bf16", False), ("compiled", "fp32", True)):
        torch._dynamo.reset()
        with compiling(compiled):
            code, output = here(SCRIPT, "smoke", "--precision", precision, "--out", tmp_path / name)
        assert code == 0, output
        curves[name] = [row["train_loss"] for row in rows(tmp_path / name / "resnet/smoke/seed0")]
    assert curves["compiled"] == pytest.approx(curves["fp32"], rel=1e-2) and curves["compiled"] != curves["fp32"]
    assert curves["bf16"] == pytest.approx(curves["fp32"], rel=0.05) and curves["bf16"] != curves["fp32"]


class Scores(nn.Module):
    """Scores that were written down beforehand, by the first number of each image."""

    def __init__(self, table):
        super().__init__()
        self.table = table

    def forward(self, images):
        return self.table[images[:, 0, 0, 0].long()]


def evaluated(table, batches, n, errors):
    """`evaluate` on one process."""
    from contextlib import nullcontext

    run = SimpleNamespace(evaluating=nullcontext, gather=lambda hits, count: hits if len(hits) == count else pytest.fail("count"))
    return data.evaluate(run, Scores(table), data.Tests(n, ("1crop",), errors, lambda kind: batches), "1crop")


def numbered(*rows):
    """Images whose first number is that row of the table."""
    return torch.tensor(rows, dtype=torch.float32)[:, None, None, None].expand(-1, 3, 1, 1)


def test_errors_count_the_first_and_the_first_five():
    """Label 0 has rank 0, 1, 4, 5 among the scores of four images."""
    table = torch.zeros(4, 8)
    for row, rank in enumerate((0, 1, 4, 5)):
        table[row] = torch.arange(8).float() - 8
        table[row, 0] = -rank - 0.5
    batches = [([numbered(i, i + 1)], torch.zeros(2, dtype=torch.long)) for i in (0, 2)]
    expected = {"top1_error_1crop": 75.0, "top5_error_1crop": 25.0}
    assert evaluated(table, batches, 4, ("top1_error_{}", "top5_error_{}")) == expected
    assert evaluated(table, batches, 4, ("test_error",)) == {"test_error": 75.0}


@pytest.mark.parametrize("several", [[numbered(0, 1, 2, 3)], [numbered(0, 2), numbered(1, 3)]], ids=["crops", "scales"])
def test_views_are_averaged_as_probabilities(several):
    """Of two views one is sure and one leans the other way: the mean of logits would say otherwise than that of softmaxes."""
    table = torch.tensor([[0.0, 9.0, 0.0], [12.0, 0.0, 0.0], [0.0, 1.0, -30.0], [0.0, 1.0, 4.0]])
    table = F.pad(table, (0, 3), value=-40)
    expected = table.softmax(1).view(2, 2, 6).mean(1).argmax(1)
    errors = evaluated(table, [(several, torch.tensor([0, 1]))], 2, ("{}",))
    assert errors == {"1crop": 100 * (expected != torch.tensor([0, 1])).double().mean().item()}
    assert expected.tolist() == [0, 2] and table.view(2, 2, 6).mean(1).argmax(1).tolist() == [0, 1]


def test_layer_responses_are_the_std_of_batch_norm_outputs(tmp_path):
    """Fig. 7: 6n + 1 layers in their order, over all test images, after batch norm and before ReLU or addition."""
    model = CifarResNet(14)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 2)
    model.eval()
    x = torch.randn(60, 3, 32, 32)
    outputs = []
    with torch.no_grad():
        y = model.bn1(model.conv1(x))
        outputs.append(y)
        y = F.relu(y)
        for block in (*model.stage1, *model.stage2, *model.stage3):
            inner = block.bn1(block.conv1(y))
            last = block.bn2(block.conv2(F.relu(inner)))
            outputs += [inner, last]
            y = F.relu(last + block.shortcut(y))
    from contextlib import nullcontext

    with torch.no_grad():
        run = SimpleNamespace(evaluating=nullcontext, gather=lambda values, n: values, processes=1)
        responses = layer_responses(run, model, ([part] for part in x.split(25)))
    expected = torch.stack([output.double().std(correction=0) for output in outputs])
    assert len(responses) == 13
    torch.testing.assert_close(responses, expected, rtol=1e-5, atol=0)
    assert len(model.bn1._forward_hooks) == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["smoke", "--depth", 21], "--depth must be 6n + 2"),
        (["smoke", "--batch-size", 0], "--batch-size must be at least 1"),
        (["smoke", "--momentum", 1.5], "--momentum must be in [0, 1)"),
        (["imagenet-resnet50", "--depth", 20], "no B net of --depth 20 in Table 1"),
        (["imagenet-resnet50", "--option", "plain"], "no plain net of --depth 50 in Table 1"),
        (["imagenet-resnet50", "--crop", 300], "--sides must be a range that begins at --crop 300 or above"),
        (["imagenet-resnet50", "--data-dir", "/nowhere"], "ImageNet"),
        (["cifar10-resnet20", "--data-dir", "/proc/nowhere"], "CIFAR-10"),
    ],
)
def test_bad_input(flags, said, tmp_path):
    refuses(SCRIPT, *flags, "--out", tmp_path, said=said)
