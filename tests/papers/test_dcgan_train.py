"""The training of DCGANs: whose turn it is, on which minibatch, with which gradients; exact nearest neighbours, resumed."""

import copy
import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from common.data import standin
from common.data.order import mix, permuted
from papers.dcgan import neighbours, train, updates
from papers.dcgan.model import ConditionalDiscriminator, ConditionalGenerator
from papers.dcgan.neighbours import Nearest
from tests.start import here, newest, record, rows

SCRIPT = "papers.dcgan.train"
OUT = "dcgan/smoke/seed0"


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_updates_are_the_authors(tmp_path, double):
    """All updates written out: G and D in turn on minibatches of their own, two passes of D, L2 in the gradient, Adam, its rate."""
    code, output = here(SCRIPT, "smoke", "--precision", "fp64", "--out", tmp_path)
    assert code == 0, output
    c = train.EXPERIMENTS["smoke"].config
    torch.set_default_dtype(torch.float64)
    torch.default_generator.manual_seed(mix(0, "start"))
    G, D = ConditionalGenerator(c.Z, 10, c.maps, c.units), ConditionalDiscriminator(10, c.maps, c.units)
    images, labels = standin.images(c.train_size + 100, 0, size=28)
    images = images[: c.train_size, None, ..., 0].double() / 255
    moments = {p: [torch.zeros_like(p), torch.zeros_like(p), 0] for net in (G, D) for p in net.parameters()}
    for step in range(c.epochs * c.train_size // c.batch_size):
        index = permuted(c.train_size, 0, step * c.batch_size, (step + 1) * c.batch_size)
        x, y = images[index], F.one_hot(labels[index], 10).double()
        z = 2 * torch.rand(c.batch_size, c.Z, generator=torch.Generator().manual_seed(mix(0, "z", step))) - 1
        if step % 2 == 0:
            net, loss = G, -D(G(z, y), y).sigmoid().log().mean()
        else:
            fake = G(z, y).detach()
            net, loss = D, -D(x, y).sigmoid().log().mean() - (1 - D(fake, y).sigmoid()).log().mean()
        epoch = step * c.batch_size // c.train_size
        rate = c.lr * (1, 1, 1, 0.5)[epoch]
        for p, gradient in zip(net.parameters(), torch.autograd.grad(loss, list(net.parameters())), strict=True):
            m, v, t = moments[p]
            gradient = gradient + c.l2 * p.detach()
            m, v, t = c.beta1 * m + (1 - c.beta1) * gradient, 0.999 * v + 0.001 * gradient**2, t + 1
            moments[p] = [m, v, t]
            p.data -= rate * m / (1 - c.beta1**t) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    objects = newest(tmp_path / OUT)["objects"]
    for name, net in (("generator", G), ("model", D)):
        for key, value in net.state_dict().items():
            torch.testing.assert_close(objects[name][key], value, rtol=1e-6, atol=1e-9)


def test_the_rate_is_the_authors():
    """100 epochs, and by their order of lines one more; then 1/100 less in each."""
    c = train.Mnist()
    rates, rate = [], c.lr
    for epoch in range(1, 201):
        rates.append(rate)
        if epoch > 100:
            rate -= c.lr / 100
    assert [c.rate_at(epoch) for epoch in range(200)] == pytest.approx(rates)
    assert c.epochs * c.train_size // c.batch_size == 78_125


class Passes(nn.Module):
    """Counts what it is asked, with gradients or without."""

    def __init__(self, net):
        super().__init__()
        self.net, self.passes = net, []

    def forward(self, *args):
        self.passes.append((len(args[0]), torch.is_grad_enabled()))
        return self.net(*args)


@pytest.mark.parametrize("joint", [False, True])
def test_what_an_update_does_not_work_out(joint):
    """D's: no gradient of G, whose pass keeps no graph; real and generated images apart. G's: no gradient of D's weights."""
    config = train.Mnist(maps=2, units=4, broken="joint-batch" if joint else "none")
    G, D = map(Passes, train.networks(config))
    run = SimpleNamespace(config=config, autocast=lambda: torch.autocast("cpu", torch.bfloat16, enabled=False))
    z, x, y = torch.rand(6, 100), torch.rand(6, 1, 28, 28), F.one_hot(torch.arange(6), 10).float()
    loss, d_real, d_fake = updates.d_loss(run, G, D, z, x, y, joint=joint)
    loss.backward()
    assert all(p.grad is None for p in G.parameters()) and all(p.grad is not None for p in D.parameters())
    assert G.passes == [(6, False)] and D.passes == ([(12, True)] if joint else [(6, True), (6, True)])
    if not joint:
        real, fake = D.net(x, y).sigmoid(), D.net(G.net(z, y), y).sigmoid()
        assert loss.item() == pytest.approx((-real.log().mean() - (1 - fake).log().mean()).item(), rel=1e-5)
        assert (d_real.item(), d_fake.item()) == pytest.approx((real.mean().item(), fake.mean().item()))
    D.zero_grad()
    D.requires_grad_(False)
    updates.g_loss(run, G, D, z, y)[0].backward()
    assert all(p.grad is None for p in D.parameters()) and all(p.grad is not None for p in G.parameters())


def test_a_run_that_is_not_a_number_names_both_losses(tmp_path, monkeypatch):
    d_loss = updates.d_loss
    calls = itertools.count()
    monkeypatch.setattr(updates, "d_loss", lambda *a, **k: tuple(v * (math.nan if next(calls) > 8 else 1) for v in d_loss(*a, **k)))
    code, output = here(SCRIPT, "smoke", "--out", tmp_path)
    assert code == 1 and "is not finite" in output and "g_loss" in output and "d_loss" in output


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--decay", 5, "--epochs", 4), "--decay"), (("--l2", -1), "--l2"), (("--samples", 0), "--samples"),
        (("--train-size", 60_000), "--train-size"), (("--train-size", 8), "--batch-size"),
        (("--net", "mlp", "--broken", "relu-in-d"), "--net mlp"),
    ],
)  # fmt: skip
def test_impossible_values(flags, word, tmp_path):
    code, output = here(SCRIPT, "smoke", *flags, "--out", tmp_path)
    assert code == 2 and word in output and "Traceback" not in output


# Nearest neighbours.


def test_nearest_neighbours_are_those_of_scikit_learn():
    from sklearn.neighbors import KNeighborsClassifier

    generator = torch.Generator().manual_seed(0)
    images, labels = standin.images(5500, 0, size=28)
    samples = (images[..., 0].flatten(1) / 255 + 0.01 * torch.rand(5500, 784, generator=generator)).float()
    queries, samples, labels = samples[5000:], samples[:5000], labels[:5000]
    nearest = Nearest(queries, tile=(300, 700))
    for start, stop in itertools.pairwise([0, 1, 1300, 2600, 5000]):
        nearest.add(samples[start:stop], labels[start:stop])
    theirs = KNeighborsClassifier(1, algorithm="brute").fit(samples.double().numpy(), labels.numpy())
    distance, index = theirs.kneighbors(queries.double().numpy())
    assert (nearest.index.numpy() == index[:, 0]).all()
    assert (nearest.label.numpy() == theirs.predict(queries.double().numpy())).all()
    assert nearest.square.sqrt().numpy() == pytest.approx(distance[:, 0], rel=1e-9)


def test_distances_that_single_precision_cannot_tell_apart():
    """A thousand samples whose distances differ in the tenth digit, far from the origin."""
    generator = torch.Generator().manual_seed(0)
    query = torch.rand(1, 784, generator=generator)
    away = torch.zeros(1000, 784)
    away[torch.arange(1000), torch.randint(784, (1000,), generator=generator)] = 0.5
    samples = query + away
    exact = (samples.double() - query.double()).square().sum(1)
    nearest = Nearest(query, tile=(1, 100))
    nearest.add(samples, torch.arange(1000))
    assert nearest.index.item() == exact.argmin().item() and nearest.square.item() == exact.min().item()


def test_of_samples_at_the_same_distance_the_first_counts():
    query, sample = torch.zeros(1, 4), torch.eye(4)
    nearest = Nearest(query, tile=(1, 2))
    nearest.add(sample[:1] * 2, torch.tensor([9]))
    nearest.add(sample, torch.arange(4))
    nearest.add(sample, torch.arange(4, 8))
    assert (nearest.index.item(), nearest.label.item(), nearest.square.item()) == (1, 0, 1)


def test_a_sample_does_not_depend_on_how_many_are_asked_for(tmp_path):
    config = train.Mnist(Z=5, maps=2, units=4)
    net = train.networks(config)[0]
    run = SimpleNamespace(config=config, device=torch.device("cpu"), seed=3)
    with torch.no_grad():
        x, y = neighbours.sampled(run, net, 0, 300, "judged")
        again, same = neighbours.sampled(run, net, 128, 290, "judged")
    assert torch.equal(x[128:290], again) and torch.equal(y[128:290], same) and x.shape == (300, 784)


FLAGS = ("smoke", "--samples", 1500)


def test_judging_goes_on_where_it_was_killed(tmp_path, monkeypatch):
    """After its training a run is killed between two blocks of samples: what was found is kept, and the end is the same."""
    monkeypatch.setattr(neighbours, "BLOCK", 256)
    monkeypatch.setattr(neighbours, "SAVE_EVERY", 0.0)
    assert here(SCRIPT, *FLAGS, "--out", tmp_path / "straight")[0] == 0

    class Killed(BaseException):
        pass

    asked, killed, sample = [], [], neighbours.sampled

    def killing(run, net, first, stop, *parts):
        asked.append(first)
        if parts == ("judged",) and first == 512 and not killed:
            killed.append(first)
            raise Killed
        return sample(run, net, first, stop, *parts)

    monkeypatch.setattr(neighbours, "sampled", killing)
    with pytest.raises(Killed):
        here(SCRIPT, *FLAGS, "--out", tmp_path / "killed")
    kept = torch.load(tmp_path / "killed" / OUT / "neighbours-0.pt", weights_only=True)
    assert kept["nearest"]["count"] == 512
    asked.clear()
    assert here(SCRIPT, *FLAGS, "--out", tmp_path / "killed")[0] == 0
    assert min(asked) == 512 and rows(tmp_path / "killed" / OUT) == rows(tmp_path / "straight" / OUT)
    assert record(tmp_path / "killed" / OUT)["metrics"] == record(tmp_path / "straight" / OUT)["metrics"]
    assert {"test_error_1nn_1k", "test_error_1nn_1500"} <= record(tmp_path / "killed" / OUT)["metrics"].keys()


def test_neighbours_of_another_generator_do_not_count(tmp_path):
    net = ConditionalGenerator(5, 10, 2, 4)
    other = copy.deepcopy(net)
    assert neighbours.fingerprint(net) == neighbours.fingerprint(other)
    other.fc1.weight.data[0, 0] += 1e-6
    assert neighbours.fingerprint(net) != neighbours.fingerprint(other)


# Claims.


def test_claims_can_fail():
    """A collapsed generator, copies of the training images, and more samples that make no difference reproduce nothing."""
    claims = {claim.metric: claim for claim in train.EXPERIMENTS["mnist"].claims}
    few, many, fewer = (claims[name] for name in ("test_error_1nn_50k", "test_error_1nn_10m", "fewer_errors"))
    word = lambda claim, value: claim.verdict("paper", [value]).word
    assert (few.value, many.value) == (2.98, 1.48)
    assert word(few, 90.0) == word(many, 90.0) == word(few, 3.34) == word(many, 3.09) == "short"
    assert word(few, 3.3) == word(many, 1.7) == word(fewer, 1.0) == "reproduced"
    assert word(fewer, -1.0) == word(fewer, 0.1) == "short"
    assert few.tolerance + many.tolerance < few.value - many.value


def test_what_a_record_says_of_samples_and_rules():
    sizes = dict(zip(map(train.named, train.SIZES), (9.0, 5.0, 3.1, 2.8, 2.0, 1.6), strict=True))
    assert [*sizes] == ["1k", "10k", "50k", "100k", "1m", "10m"] and train.named(300) == "300"
    metrics = {f"test_error_1nn_{name}": value for name, value in sizes.items()}
    curves = {"epoch": [1, 5], "validation_error_1nn_1k": [20, 10], "validation_error_1nn_10k": [15, 7]}
    drawn = {"experiment": "mnist", "seed": 0, "metrics": metrics | {"real_error_1nn_50k": 3.34, "real_error_1nn_60k": 3.09}}
    for _, draw in train.PICTURES.values():
        assert len(draw([drawn | {"curves": curves}]).axes[0].lines) >= 2
    runs = [{"experiment": "rules-none", "metrics": {"test_error_1nn_10k": 5.0, "diversity": d}} for d in (0.4, 0.9)]
    _, first, *others = train.rules(runs)
    assert first[0] == "`rules-none`" and first[-1] == "1 of 2" and {row[-1] for row in others} == {"not run"} and len(others) == 5


def test_diversity_is_that_of_real_digits():
    x, y = torch.rand(2000, 9), torch.arange(2000) % 10
    assert train.variance(x, y) == pytest.approx(9 / 12, rel=0.05) and train.variance(x[:1].expand(2000, 9), y) == 0


@pytest.mark.parametrize("name", ["smoke", "smoke-features"])
def test_samples_of_a_run(name, tmp_path, capsys):
    """The picture that the command draws of a finished run's checkpoint, the same again; what is no run is one line."""
    from PIL import Image

    from papers.dcgan import sample

    flags = ("--epochs", 1, "--decay", 0) if name == "smoke" else ("--epochs", 1, "--draws", 1, "--no-controls")
    assert here(SCRIPT, name, *flags, "--out", tmp_path)[0] == 0
    run = str(tmp_path / "dcgan" / name / "seed0")
    for n in ("130", "20"):
        assert sample.main([run, "--n", n, "--columns", "10", "--out", str(tmp_path / f"{n}.png")]) == 0
    with Image.open(tmp_path / "130.png") as many, Image.open(tmp_path / "20.png") as few:
        side = few.size[0] // 10
        assert side in (28, 32) and many.size == (10 * side, 13 * side)
        assert many.crop((0, 0, *few.size)).tobytes() == few.tobytes() and len(many.getcolors(1 << 20)) > 10
    capsys.readouterr()
    assert sample.main([str(tmp_path), "--out", str(tmp_path / "x.png")]) == 2
    error = capsys.readouterr().err
    assert "is no folder of a run" in error and error.count("\n") == 1
