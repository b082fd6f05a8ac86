"""The training of LeNet-5: its updates, what a pass shows, what it learns from, bad data."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from common.data import mnist
from common.data.order import mix, permuted
from papers.lenet import others, train
from papers.lenet.digits import deslanted, field, made_up
from papers.lenet.model import LeNet5, curvature, f, map_criterion, mse, printed, root
from tests.start import compiling, here, judged, newest, record, rows

SCRIPT = "papers.lenet.train"
SMALL = ("smoke", "--train-size", 40, "--distortion", 0, "--curvature-samples", 20)


@pytest.mark.parametrize(("loss", "batch"), [("mse", 1), ("map", 1), ("map", 4)])
def test_training_is_the_update_rule_of_appendix_c(loss, batch, tmp_path):
    """Two passes over forty patterns, written out with autograd and step sizes eta / (mu + h)."""
    flags = ["--loss", loss, "--eta", 4e-4, 2e-4, "--mu", 0.03, "--j", 2, "--loss-scale", 0.5, "--batch-size", batch]
    code, output = here(SCRIPT, *SMALL, *flags, "--init", "root", "--out", tmp_path)
    assert code == 0, output
    directory = tmp_path / "lenet/smoke/seed0"
    trained = newest(directory)["objects"]["model"]

    torch.default_generator.manual_seed(mix(0, "start"))
    model = LeNet5(root, 0.6)
    start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    digits = made_up(40, 200)
    order = permuted(40, mix(0, "order"), 0, 40)
    images, labels = field(digits.train_images[order]), digits.train_labels[order]
    errors, sizes = [], []
    for number, eta in enumerate((4e-4, 2e-4)):
        torch.default_generator.manual_seed(mix(0, 40 // batch * number, 0))
        some = torch.randperm(40)[:20]
        epsilon = {name: eta / (0.03 + 0.5 * h) for name, h in curvature(model, images[some]).items()}
        sizes += [min(e.min().item() for e in epsilon.values()), max(e.max().item() for e in epsilon.values())]
        wrong = 0
        for image, label in zip(images.split(batch), labels.split(batch), strict=True):
            y = model(image)
            wrong += (y.argmin(1) != label).sum().item()
            model.zero_grad()
            (0.5 * (mse(y, label) if loss == "mse" else map_criterion(y, label, 2.0))).backward()
            for name, weight in model.named_parameters():
                weight.data -= epsilon[name] * weight.grad
        errors.append(100 * wrong / 40)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(trained[name], weight.detach(), rtol=0, atol=2e-6)
        assert not torch.allclose(trained[name], start[name], rtol=0, atol=1e-4), name
    answers = model(field(digits.test_images)).argmin(1)
    wrong = (answers != digits.test_labels).sum().item()
    lines = [row for row in rows(directory) if "pass" in row]
    assert [row["train_error"] for row in lines] == errors
    assert lines[-1]["test_error"] == pytest.approx(wrong / 2)
    metrics = record(directory)["metrics"]
    assert metrics["errors"] == wrong and metrics["test_error"] == pytest.approx(wrong / 2)
    assert [metrics["step_size_min"], metrics["step_size_max"]] == pytest.approx(sizes[:2])


@pytest.mark.parametrize(("scale", "saturated"), [(1, True), (0.05, False)])
def test_with_sums_the_printed_recipe_saturates_at_once(scale, saturated):
    """README.md, Deviations: after fifty patterns of the first pass hardly any gradient passes F6, unless the loss is scaled."""
    torch.manual_seed(0)
    digits, model = made_up(200, 1), LeNet5(printed, 0.6)
    images = field(digits.train_images)
    step_sizes = [0.0005 / (0.02 + scale * h) for h in curvature(model, images).values()]
    update = train.learning(model, step_sizes, lambda y, labels: scale * mse(y, labels))
    for image, label in zip(images[:50], digits.train_labels[:50], strict=True):
        update(image[None], label[None])
    states = images
    with torch.no_grad():
        for layer in model.layers().values():
            states = f(layer(states))
    assert ((states.abs() > 1.7).float().mean() > 0.8) == saturated


@pytest.mark.slow
def test_compiled_update_is_the_eager_one(tmp_path):
    """torch.compile changes rounding only."""
    assert here(SCRIPT, *SMALL, "--out", tmp_path / "eager")[0] == 0
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with compiling():
        assert here(SCRIPT, *SMALL, "--out", tmp_path / "compiled")[0] == 0
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, "the update is one graph"
    eager, compiled = (newest(tmp_path / out / "lenet/smoke/seed0")["objects"]["model"] for out in ("eager", "compiled"))
    for name, weight in eager.items():
        torch.testing.assert_close(compiled[name], weight, rtol=0, atol=2e-6)


def pretend(digits, monkeypatch, seed=3, **config):
    """A run as far as `data` and `patterns` know it, with these digits for MNIST's."""
    monkeypatch.setattr(mnist, "fetch", lambda data_dir: None)
    monkeypatch.setattr(mnist, "load", lambda data_dir: digits)
    described = {}
    return SimpleNamespace(
        config=train.Config(**config), seed=seed, data_dir=None, device="cpu", on_main=lambda f: f(), described=described,
        describe_data=lambda **about: described.update(about),
    )  # fmt: skip


@pytest.fixture(scope="module")
def numbered():
    """As many images as MNIST has, each with its number in its first four pixels, and its last digit for a label."""
    number = torch.arange(70_000)
    images = torch.zeros(70_000, 28, 28, dtype=torch.uint8)
    images[:, 0, :4] = torch.stack([number // 256**k % 256 for k in range(4)], 1).to(torch.uint8)
    return mnist.MNIST(images[:60_000], number[:60_000] % 10, images[60_000:], number[60_000:] % 10, sha256="x")


def numbers(images):
    return sum(images[:, 0, k].long() * 256**k for k in range(4))


def test_what_it_learns_from(numbered, monkeypatch):
    """All 60,000; a random part of them, by the seed; or, to choose among readings, the first 50,000."""
    run = pretend(numbered, monkeypatch)
    digits = train.data(run)
    assert torch.equal(numbers(digits.train_images), torch.arange(60_000))
    assert torch.equal(numbers(digits.test_images), torch.arange(60_000, 70_000))
    assert (run.described["train"], run.described["test"], run.described["stand_in"]) == (60_000, 10_000, False)

    parts = [train.data(pretend(numbered, monkeypatch, seed, train_size=15_000)) for seed in (0, 1)]
    for part in parts:
        mine = numbers(part.train_images)
        assert len(mine.unique()) == 15_000 and torch.equal(mine % 10, part.train_labels)
        assert 28_000 < mine.double().mean() < 32_000, "from the whole set"
        assert torch.equal(numbers(part.test_images), torch.arange(60_000, 70_000))
    assert not torch.equal(*(numbers(part.train_images) for part in parts))

    held_out = train.data(pretend(numbered, monkeypatch, held_out=True, train_size=50_000))
    assert torch.equal(numbers(held_out.train_images), torch.arange(50_000))
    assert torch.equal(numbers(held_out.test_images), torch.arange(50_000, 60_000))
    assert torch.equal(held_out.test_labels, torch.arange(50_000, 60_000) % 10)


def test_a_pass_shows_every_pattern_once_in_a_constant_order(monkeypatch):
    digits = made_up(60, 5)
    run = pretend(digits, monkeypatch, train_size=60)
    images, labels = train.patterns(run, digits, 0)
    again = train.patterns(run, digits, 7)
    assert torch.equal(images, again[0]) and torch.equal(labels, again[1])
    found = (images[:, None] == field(digits.train_images)[None]).flatten(2).all(2).double()  # (shown, originals)
    assert torch.equal(found.sum(0), torch.ones(60).double()) and torch.equal(labels, digits.train_labels[found.argmax(1)])
    assert not torch.equal(found.argmax(1), torch.arange(60))
    other = pretend(digits, monkeypatch, seed=4, train_size=60)
    assert not torch.equal(images, train.patterns(other, digits, 0)[0])


def test_twenty_passes_show_each_of_ten_copies_twice(monkeypatch):
    """One copy in ten is the original; the others are distorted, each in its own way, the same both times (Sec. III.B)."""
    digits = made_up(30, 5)
    run = pretend(digits, monkeypatch, train_size=30, distortion=1.0)
    shown = [train.patterns(run, digits, number) for number in range(20)]
    images, labels = torch.cat([images for images, _ in shown]), torch.cat([labels for _, labels in shown])
    assert torch.equal(images[:300], images[300:]) and torch.equal(labels[:300], labels[300:])
    assert len(images[:300].flatten(1).unique(dim=0)) == 300
    assert Counter(labels[:300].tolist()) == {label: 10 * n for label, n in Counter(digits.train_labels.tolist()).items()}
    near = (images[:300, None] - field(digits.train_images)[None]).abs().flatten(2).amax(2) < 1e-4
    assert near.sum() == 30 and torch.equal(near.sum(0), torch.ones(30, dtype=torch.int64))
    assert torch.equal(labels[:300][near.any(1)], digits.train_labels[near[near.any(1)].int().argmax(1)])


def test_the_figure_of_errors_shows_the_papers_rates_beside_the_axes():
    """Figure 5: rates alone, no step sizes, and no words across a curve."""
    drawn, experiment = {}, train.EXPERIMENTS["mnist"]
    save = lambda figure, name: drawn.update({name: figure})
    run = SimpleNamespace(config=experiment.config, experiment=experiment, name="mnist", seed=0, save_figure=save)
    train.draw_errors(run, torch.stack([torch.linspace(4, 0.25, 20), torch.linspace(3, 1, 20)], 1))
    (axes,) = drawn["errors-by-pass"].axes
    assert [line.get_ydata()[0] for line in axes.lines[2:]] == [0.95, 0.35]
    assert [text.get_text() for text in axes.texts] == ["paper 0.95 %", "paper 0.35 %"]
    drawn["errors-by-pass"].draw_without_rendering()
    assert all(text.get_window_extent().x0 > axes.get_window_extent().x1 for text in axes.texts)
    assert list(axes.get_xticks()) == [0, 4, 8, 12, 16, 20]


def test_the_bounds_of_what_is_said_of_the_training():
    """Half the binomial tolerance is one standard error; what a weight without curvature gives is no reproduction."""
    config, claims = train.Config(), {claim.metric: claim for claim in train.EXPERIMENTS["mnist"].claims}
    rate, size, greatest = (claims[name] for name in ("train_error_pass19", "test_error", "step_size_max"))
    assert rate.tolerance / 2 == pytest.approx(100 * (0.0035 * 0.9965 / 60_000) ** 0.5, rel=0.05)
    assert judged(rate, "paper", [0.25]).startswith("short") and judged(rate, "paper", [0.45]).startswith("short")
    assert judged(size, "paper", [0.5]) == "reproduced"
    assert judged(greatest, "paper", [config.eta[0] / config.mu]).startswith("short")


@pytest.mark.parametrize("state", ["empty", "missing", "truncated"])
def test_bad_data_is_one_line(state, tmp_path, monkeypatch):
    """tests/data/test_fetch.py has every other kind."""
    nobody = {name: file._replace(urls=["http://127.0.0.1:9/"]) for name, file in mnist.FILES.items()}
    monkeypatch.setattr(mnist, "FILES", nobody)
    directory = tmp_path / "data"
    if state != "missing":
        (directory / "MNIST/raw").mkdir(parents=True)
    if state == "truncated":
        (directory / "MNIST/raw/train-images-idx3-ubyte").write_bytes(
            bytes([0, 0, 8, 3, 0, 0, 234, 96, 0, 0, 0, 28, 0, 0, 0, 28, 7])
        )
    code, output = here(SCRIPT, "mnist", "--data-dir", directory, "--out", tmp_path / "out")
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(lines) == 1 and "Traceback" not in output, output
    assert str(directory / "MNIST/raw/train-images-idx3-ubyte") in lines[0]
    assert ("(17 bytes, sha256 " if state == "truncated" else "cannot be downloaded") in lines[0]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--eta", "0.1", "-1"], "--eta needs a positive rate for each pass"),
        (["--mu", "0"], "--mu must be positive, got 0.0"),
        (["--train-size", "70000"], "--train-size 70000: there are 60000 training images"),
        (["--held-out"], "--train-size 60000: there are 50000 training images"),
        (["--batch-size", "7"], "--train-size 60000 is not a multiple of --batch-size 7"),
        (["--distortion", "-1"], "--distortion must not be negative"),
    ],
)
def test_impossible_values_are_refused(flags, words, tmp_path, capfd):
    code, output = here(SCRIPT, "mnist", *flags, "--out", tmp_path / "out")
    output += "".join(capfd.readouterr())
    assert code == 2 and "Traceback" not in output
    assert words in " ".join(output.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_deslanted_digits_are_upright():
    """A slanted bar becomes a vertical one, its ink kept; what is upright stays."""
    y, x = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    bar = lambda slope: (1.5 - (x - 13.5 - slope * (y - 13.5)).abs()).clamp(0, 1) * ((y - 13.5).abs() < 8)
    slanted, upright = deslanted(torch.stack([bar(0.5), bar(0.0)]))
    assert (slanted - upright).abs().mean() < (bar(0.5) - bar(0.0))[4:24, 4:24].abs().mean() / 3
    assert upright == pytest.approx(bar(0.0)[4:24, 4:24], abs=1e-5)


def test_nearest_neighbours_by_hand():
    """The class of most of the three nearest."""
    known, labels = torch.tensor([[0.0], [1.0], [1.2], [5.0], [6.0]]), torch.tensor([0, 1, 1, 2, 2])
    assert others.nearest(known, labels, torch.tensor([[0.1], [5.6], [3.3]])).tolist() == [1, 2, 1]


def test_held_out_digits_choose_among_rates(tmp_path):
    """Of each net of Fig. 9, and a killed run goes on to the same end (the standing tests)."""
    assert here(SCRIPT, "smoke-figure9", "--passes", 3, "--out", tmp_path)[0] == 0
    found, last = record(tmp_path / "lenet/smoke-figure9/seed0")["metrics"], rows(tmp_path / "lenet/smoke-figure9/seed0")[-1]
    for name in others.NETS:
        each = {rate: last[f"held_out_error_{name}_{rate:g}"] for rate in (0.02, 0.05, 0.1)}
        assert found[f"held_out_error_{name}"] == min(each.values()) == each[found[f"rate_{name}"]]
    assert found["test_error_neighbours"] < 20  # stand-in digits are easily told apart
