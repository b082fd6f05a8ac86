"""The training of DDPMs: Algorithm 1 by hand; the bound, its estimate and its error; samples on any number of processes; judges."""

import json
import math
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from common.data import cifar, standin
from common.data.order import mix, permuted
from common.provenance import ROOT
from papers.ddpm import bound, chain, data, fid, judge, pictures, pretrained, sample, tables, train
from papers.ddpm.model import Diffusion
from tests.start import here, newest, record

SCRIPT = "papers.ddpm.train"
OUT = "ddpm/smoke/seed0"
CPU = torch.device("cpu")


@pytest.fixture
def double():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    code, output = here(SCRIPT, "smoke", "--out", out)
    assert code == 0, output
    return out / OUT


def run_of(**more):
    """What a run on one process is for the functions of this paper."""
    return SimpleNamespace(
        seed=0, device=CPU, share=lambda n: slice(0, n), gather=lambda values, n: values, say=print, main=True, **more
    )


# Algorithm 1.


def test_updates_are_algorithm_1(tmp_path, double):
    """All updates by hand: t, epsilon, flips of the global batch; both objectives, warm-up, clipping, Adam, averaged weights."""
    flags = ("--objectives", "simple-epsilon", "L-mu", "--steps", 6, "--clip", 0.5, "--samples", 4, "--dropout", 0)
    code, output = here(SCRIPT, "smoke", "--precision", "fp64", *flags, "--out", tmp_path)
    assert code == 0, output
    torch.set_default_dtype(torch.float64)
    c = train.Config(**{**vars(train.EXPERIMENTS["smoke"].config), "objectives": ("simple-epsilon", "L-mu"), "dropout": 0.0})
    torch.default_generator.manual_seed(mix(0, "start"))
    nets = train.networks(c)
    images = standin.images(160, 0, size=8)[0][:120].double().permute(0, 3, 1, 2) / 127.5 - 1
    means = {name: [p.detach().clone() for p in net.parameters()] for name, net in nets.items()}
    moments = {p: (torch.zeros_like(p), torch.zeros_like(p)) for p in nets.parameters()}
    clipped = 0
    for step in range(6):
        x0 = images[permuted(120, 0, step * 16, (step + 1) * 16)]
        generator = torch.Generator().manual_seed(mix(0, "t, epsilon", step))
        t = torch.randint(10, (16,), generator=generator)
        epsilon = torch.randn(16, 3, 8, 8, generator=generator)
        flip = torch.rand(16, generator=generator) < 0.5
        x0 = torch.stack([image.flip(2) if f else image for image, f in zip(x0, flip, strict=True)])
        for name, net in nets.items():
            d = Diffusion(10, predict="mu" if name == "L-mu" else "epsilon")
            xt = d.q_sample(x0, t, epsilon)
            output = net(xt, t)
            loss = d.L(output, x0, xt, t)[0].mean() if name == "L-mu" else (epsilon - output).square().mean()
            parameters = list(net.parameters())
            gradients = torch.autograd.grad(loss, parameters)
            norm = math.sqrt(sum(g.square().sum().item() for g in gradients))
            clipped += norm > 0.5
            rate, decay = 1e-3 * min(1, step / 4), 0 if step == 0 else min(0.9999, (1 + step) / (10 + step))
            for p, g, mean in zip(parameters, gradients, means[name], strict=True):
                g = g * min(1, 0.5 / (norm + 1e-6))
                m, v = moments[p]
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.999).add_(0.001 * g**2)
                p.data -= rate * (m / (1 - 0.9 ** (step + 1))) / ((v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
                mean.mul_(decay).add_((1 - decay) * p.data)
    assert 0 < clipped < 12
    objects = newest(tmp_path / OUT)["objects"]
    for name, net in nets.items():
        for (key, p), mean in zip(net.named_parameters(), means[name], strict=True):
            torch.testing.assert_close(objects["model"][f"nets.{name}.{key}"], p.data, rtol=1e-6, atol=1e-8)
            torch.testing.assert_close(objects["ema"][f"{name}.{key}"], mean, rtol=1e-6, atol=1e-8)
    metrics = record(tmp_path / OUT)["metrics"]
    assert {"simple_epsilon_test_bits_per_dim", "L_mu_test_rate", "L_mu_1nn", "simple_epsilon_confidence", "real_1nn"} <= {*metrics}


def test_schedules():
    c = train.Config()
    assert [c.rate_at(step) for step in (0, 2500, 5000, 799_999)] == pytest.approx([0, 1e-4, 2e-4, 2e-4])
    assert [c.decay_at(step) for step in (0, 1, 10**6)] == [0, 0.9999, 0.9999]
    short = train.Config(ramp=True)
    assert short.decay_at(0) == 0 and short.decay_at(90) == pytest.approx(0.91) and short.decay_at(10**6) == 0.9999


def test_the_headline_is_the_papers():
    c = train.EXPERIMENTS["cifar10"].config
    assert (c.steps, c.batch_size, c.lr, c.ema, c.dropout, c.T, c.beta_1, c.beta_T) == (
        800_000,
        128,
        2e-4,
        0.9999,
        0.1,
        1000,
        1e-4,
        0.02,
    )
    with torch.device("meta"):
        [net] = train.networks(c).values()
        learned = train.networks(train.EXPERIMENTS["cifar10-L-mu-learned"].config)["L-mu-learned"]
        [large] = train.networks(train.EXPERIMENTS["lsun-cat"].config).values()
    assert sum(p.numel() for p in net.parameters()) == 35_746_307 and learned.conv_out.out_channels == 6
    assert sum(p.numel() for p in large.parameters()) == 113_673_219


# The bound.


class Toy(nn.Module):
    """Wrong by a part that depends on the image: its terms vary from image to image and from t to t."""

    def forward(self, x, t):
        return 0.7 * x * (1 + 0.1 * t.to(x.dtype)[:, None, None, None] / 100)


def test_the_bound_by_hand(double):
    """Every term of every image, written out, and with them rates and distortions as Sec. 4.3 adds them up."""
    images, d, net = standin.images(5, 1, size=4)[0], Diffusion(T=20, beta_T=0.3), Toy()
    found = bound.evaluate(run_of(), d, net, images, 1, "test")
    x0 = images.double().permute(0, 3, 1, 2) / 127.5 - 1
    terms, errors = torch.zeros(20, 5), torch.zeros(20, 5)
    for t in range(20):
        epsilon = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(mix(0, "test", t, 0)))
        at = torch.full((5,), t)
        xt = d.q_sample(x0, at, epsilon)
        terms[t], predicted = d.L(net(xt, at), x0, xt, at, clip=True)
        errors[t] = (predicted - x0).square().flatten(1).mean(1)
        assert predicted.abs().max() <= 1
    whole = d.L_T(x0) + terms.sum(0)
    assert found.total == pytest.approx(whole.mean().item(), rel=1e-9)
    assert found.error() == pytest.approx(terms.sum(0).std().item() / math.sqrt(5), rel=1e-6)
    metrics = bound.metrics(found, "test")
    assert metrics["test_rate"] + metrics["test_distortion"] == pytest.approx(metrics["test_bits_per_dim"])
    assert metrics["test_distortion"] == pytest.approx(terms[0].mean().item())
    assert bound.rows(1000) == [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]
    for t in bound.rows(20):
        assert metrics[f"test_rmse_{20 - t}"] == pytest.approx(127.5 * errors[t].mean().sqrt().item())
        assert metrics[f"test_rate_{20 - t}"] == pytest.approx((d.L_T(x0) + terms[t + 1 :].sum(0)).mean().item())
    assert metrics["test_rate_20"] == metrics["test_rate"]
    assert 0 < abs(metrics["test_bits_per_dim_exact_cdf"] - metrics["test_bits_per_dim"]) < 0.02


def test_a_part_of_the_terms_estimates_the_bound(double):
    """With every fifth t of an image: as good as its standard error says, over several sets of images."""
    d, net, off = Diffusion(T=50, beta_T=0.2), Toy(), []
    for seed in range(6):
        images = standin.images(60, seed, size=4)[0]
        whole, part = (bound.evaluate(run_of(), d, net, images, each, "test") for each in (1, 5))
        assert all(part.L[t] == whole.L[t] for t in bound.rows(50)), "Table 4's t are evaluated for all images"
        assert not torch.equal(part.L, whole.L) and part.error() > 0
        off.append((part.total - whole.total) / part.error())
    assert max(map(abs, off)) < 4 and sum(abs(each) > 2 for each in off) <= 2


def test_errors_are_of_what_varies(double):
    """Of draws of independent images and terms, against the spread of the estimate over many draws."""
    estimates, errors = [], []
    for _ in range(400):
        always, sometimes = torch.randn(24), torch.randn(24) * 2
        total = always.mean() + sum(sometimes[r::4].mean() for r in range(4))
        estimates.append(total.item())
        errors.append(bound.error(always, sometimes, 4))
    spread = torch.tensor(estimates).std().item()
    assert torch.tensor(errors).mean().item() == pytest.approx(spread, rel=0.1)


@pytest.mark.skipif(not (ROOT / "data/cifar-10-batches-py").exists(), reason="no data/cifar-10-batches-py")
def test_what_the_mean_image_is_worth():
    """Table 4's first row, an RMSE of 67.60, is above that of predicting the mean of the training images for every test image."""
    found = cifar.load(ROOT / "data")
    squares = (found.test_images.float() - found.train_images.float().mean(0)).square().flatten(1).mean(1)
    assert squares.mean().sqrt().item() == pytest.approx(63.38, abs=0.005)
    assert squares.sqrt().mean().item() == pytest.approx(61.28, abs=0.005), "with the root of each image first"
    x0 = data.scaled(found.test_images[:1000])
    assert Diffusion().L_T(x0).mean().item() == pytest.approx(0.8e-5, abs=0.1e-5), "more than Table 4 has there, 0.00000"


# Samples.


def small():
    torch.manual_seed(1)
    config = train.Config(data="made-up", ch=8, multipliers=(1, 2), attention=(4,), groups=4, T=10)
    [net] = train.networks(config).values()
    for p in net.parameters():
        nn.init.normal_(p, std=0.1)
    return Diffusion(T=10), net.eval()


def drawn(numbers, **more):
    diffusion, net = small()
    about = {"seed": 3, "device": CPU, "say": lambda text: None} | more
    return chain.samples(diffusion, net, (3, 8, 8), numbers, **about)


def near(a, b):
    """Bytes that differ by rounding at most: a convolution adds up in another order for another batch."""
    return a.shape == b.shape and (a.int() - b.int()).abs().max() <= 1


def test_a_sample_follows_from_seed_and_number():
    """On 1 or 4 processes, in whatever batches: the same pictures."""
    whole = drawn(range(37))
    assert whole.dtype == torch.uint8 and whole.float().std() > 10
    assert near(torch.cat([drawn(range(37)[part]) for part in (slice(0, 10), slice(10, 19), slice(19, 28), slice(28, 37))]), whole)
    assert near(drawn(range(37), batch=5), whole)
    assert not near(drawn(range(37), seed=4), whole) and not near(whole[:16], whole[16:32])


def test_noise_is_of_its_number():
    whole = chain.noise((2, 3), range(50), CPU, 0, "x")
    for part in (range(0, 1), range(15, 17), range(16, 32), range(33, 50)):
        assert torch.equal(chain.noise((2, 3), part, CPU, 0, "x"), whole[part.start : part.stop])
    assert whole.flatten().unique().numel() == 300 and not torch.equal(chain.noise((2, 3), range(50), CPU, 0, "y"), whole)


def test_sampling_goes_on_where_it_was_killed(tmp_path, monkeypatch):
    whole, made = drawn(range(20), batch=6), []
    reverse = chain.reverse

    def killing(diffusion, net, x, *rest):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(len(x))
        return reverse(diffusion, net, x, *rest)

    monkeypatch.setattr(chain, "reverse", killing)
    monkeypatch.setattr(chain, "SAVE_EVERY", 0.0)
    with pytest.raises(KeyboardInterrupt):
        drawn(range(20), batch=6, path=tmp_path / "part")
    monkeypatch.setattr(chain, "reverse", lambda *a: made.append(len(a[2])) or reverse(*a))
    assert torch.equal(drawn(range(20), batch=6, path=tmp_path / "part"), whole) and made == [6, 6, 6, 2]
    assert torch.equal(drawn(range(20), batch=6, path=tmp_path / "part"), whole) and made == [6, 6, 6, 2]
    drawn(range(20), batch=6, path=tmp_path / "part", seed=5)  # others' are no use
    assert made[4:] == [6, 6, 6, 2]


def test_bytes():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3)
    x = data.scaled(images)
    assert x.shape == (1, 3, 16, 16) and x.min() == -1 and x.max() == 1
    assert torch.equal(data.to_bytes(x).permute(0, 2, 3, 1), images)
    assert data.to_bytes(torch.tensor([[-2.0, 2.0, 0.0]])).tolist() == [[0, 255, 128]]


def test_fewer_steps_are_some_of_the_steps():
    d = Diffusion()
    few, times = sample.fewer(d, 100)
    assert len(times) == few.T == 100 and times[0] == 0 and times[-1] == 999 and sorted({*times}) == times
    torch.testing.assert_close(few.of_x0, d.of_x0[times], rtol=1e-12, atol=0)
    torch.testing.assert_close(few.of_x0[1:] ** 2 / few.of_x0[:-1] ** 2, 1 - few.log_sigma2[1:].exp(), rtol=1e-9, atol=0)
    assert torch.equal(sample.fewer(d, 1000)[0].of_x0, d.of_x0)
    assert sample.fewer(d, 1)[1] == [999]


def test_the_command_draws_a_grid(smoke, tmp_path, capsys):
    from PIL import Image

    code = sample.main([str(smoke), "--n", "6", "--columns", "3", "--out", str(tmp_path / "a" / "grid.png")])
    assert code == 0, capsys.readouterr()
    with Image.open(tmp_path / "a" / "grid.png") as image:
        assert image.size == (24, 16) and str(smoke) in image.text["Description"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["grid.png"]
    assert sample.main([str(smoke), "--n", "2", "--steps", "3", "--out", str(tmp_path / "few.png")]) == 0


def test_the_command_takes_the_averaged_weights(smoke):
    _, net, shape = sample.of_run(smoke, "")
    state = newest(smoke)["objects"]
    assert shape == (3, 8, 8) and torch.equal(net.conv_in.weight, state["ema"]["simple-epsilon.conv_in.weight"])
    assert not torch.equal(net.conv_in.weight, state["model"]["nets.simple-epsilon.conv_in.weight"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--steps", "1001"), "--steps 1001: must be from 1 to 10"), (("--n", "0"), "must be at least 1"),
        (("--objective", "L-mu"), "--objective L-mu"),
    ],
)  # fmt: skip
def test_the_command_refuses(flags, said, smoke, tmp_path, capsys):
    assert sample.main([str(smoke), *flags, "--out", str(tmp_path / "grid.png")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_run_without_a_checkpoint_is_refused(smoke, tmp_path, capsys):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "config.json").write_text((smoke / "config.json").read_text())
    assert sample.main([str(tmp_path), "--out", str(tmp_path / "grid.png")]) == 2
    error = capsys.readouterr().err
    assert "no checkpoint" in error and error.count("\n") == 1


# Pictures.


def test_pictures_of_a_known_model(tmp_path):
    """With the ideal epsilon of data that is one image: x_0 as it is predicted is that image at all times, as is every sample."""
    from PIL import Image

    T, drawings, ramp = 20, {}, torch.linspace(-0.9, 0.9, 64).reshape(1, 1, 8, 8).expand(1, 3, 8, 8)
    diffusion = Diffusion(T=T, beta_T=0.4)
    net = lambda x, t: (x - diffusion.at("of_x0", t, x) * ramp) / diffusion.at("of_epsilon", t, x)
    (tmp_path / "figures").mkdir()

    def save_figure(figure, name):
        drawings[name] = figure
        (tmp_path / "figures").mkdir(exist_ok=True)
        (tmp_path / "figures" / f"{name}.png").write_bytes(pictures.figures.png(figure, name, "about"))

    real = standin.images(8, 0, size=8)[0]
    run = run_of(save_figure=save_figure, dir=tmp_path)
    parts = data.Data(8, real, None, real, None)
    samples = chain.samples(diffusion, nn.Identity(), (3, 8, 8), range(64), seed=0, device=CPU, called=net)
    pictures.draw(run, diffusion, net, parts, samples)
    tiles = {
        name: d.unfold(1, 8, 8).unfold(2, 8, 8).permute(1, 2, 0, 3, 4) for name, d in drawings.items()
    }  # rows, columns, 3, 8, 8
    is_ramp = lambda tile: (tile - (ramp[0] + 1) / 2).abs().amax((-3, -2, -1)) < 0.01
    assert tiles["samples"].shape[:2] == (8, 8) and is_ramp(tiles["samples"]).all()
    assert tiles["progress"].shape[:2] == (8, 10) and is_ramp(tiles["progress"]).all()
    assert tiles["shared-latents"].shape[:2] == (4, 9) and is_ramp(tiles["shared-latents"][:, 1:]).all()
    assert not is_ramp(tiles["shared-latents"][:, 0]).any(), "x_t, the less noisy the lower"
    off = (tiles["shared-latents"][:, 0] - (ramp[0] + 1) / 2).abs().mean((-3, -2, -1))
    assert (off.diff() < 0).all()
    assert tiles["interpolation"].shape[:2] == (4, 11) and is_ramp(tiles["interpolation"][:, 1:-1]).all()
    for i in range(4):
        for column, image in ((0, real[2 * i]), (-1, real[2 * i + 1])):
            torch.testing.assert_close(tiles["interpolation"][i, column], image.permute(2, 0, 1) / 255)
    with Image.open(tmp_path / "figures" / "one-sample.png") as image:
        assert image.n_frames == 20 and image.size == (64, 32) and image.text["Title"] == "one-sample"


# Judges.


def test_neighbours_tell_sets_apart():
    generator = torch.Generator().manual_seed(0)
    bytes_ = lambda n, low, high: torch.randint(low, high, (n, 3, 3, 1), generator=generator, dtype=torch.uint8)
    assert judge.neighbours(bytes_(300, 0, 256), bytes_(300, 0, 256)) == pytest.approx(50, abs=8)
    assert judge.neighbours(bytes_(300, 0, 100), bytes_(300, 150, 256)) == 100
    same = bytes_(300, 0, 256)
    assert judge.neighbours(same, same.clone()) == 0


def test_a_classifier_judges(tmp_path):
    """It learns stand-in images; a set of one class has no class entropy, and the real images nearly all there is."""
    images, labels = standin.images(1100, 0, size=8)
    parts = data.Data(1000, images[:1000], labels[:1000], images[1000:], labels[1000:])
    run = run_of(seed_all=lambda *parts: torch.manual_seed(0))
    one = images[labels == 3][:60]
    metrics = judge.judge(run, parts, {"one_": one, "": images[1000:1060]}, epochs=6)
    assert metrics["classifier_accuracy"] > 90
    assert metrics["one_class_entropy"] < 0.5 and metrics["class_entropy"] > 2.0 and metrics["real_class_entropy"] > 2.0
    assert metrics["one_1nn"] > metrics["real_1nn"] and metrics["confidence"] > 50


def test_fid_is_a_librarys(monkeypatch, capsys):
    """Or there is none, and a line says so. The library gets bytes, the samples first."""
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.setattr(fid.importlib.util, "find_spec", lambda name: None)
    assert not fid.installed(run_of()) and "torch-fidelity is not installed" in capsys.readouterr().out
    monkeypatch.undo()
    asked = []

    def calculate_metrics(input1, input2, fid, isc, cuda, verbose):
        asked.append((len(input1), len(input2), input1[0].shape, input2[0].shape, input2[0].dtype, isc))
        return {"frechet_inception_distance": len(input2)} | ({"inception_score_mean": 9.0} if isc else {})

    monkeypatch.setitem(sys.modules, "torch_fidelity", SimpleNamespace(calculate_metrics=calculate_metrics))
    images, labels = standin.images(30, 0, size=8)
    found = fid.scores(run_of(), torch.zeros(7, 3, 8, 8, dtype=torch.uint8), data.Data(20, images[:20], labels[:20], images[20:]))
    assert found == {"fid_train_torch_fidelity": 20, "inception_score_torch_fidelity": 9.0, "fid_test_torch_fidelity": 10}
    assert asked == [(7, 20, (3, 8, 8), (3, 8, 8), torch.uint8, True), (7, 10, (3, 8, 8), (3, 8, 8), torch.uint8, False)]


# Bad input.


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--multipliers", 1, 2, 2, 2, 2), "--multipliers"), (("--ch", 6), "--ch"), (("--T", 5), "--T"), (("--ema", 1), "--ema"),
        (("--objectives", "L-mu", "L-mu"), "--objectives"), (("--warmup", -1), "--warmup"), (("--each", 0), "--each"),
        (("--each", 9), "--test-images"), (("--data", "lsun-cat"), "--judge"),
        (("--objectives", "L-x0"), "--objectives"),
    ],
)  # fmt: skip
def test_impossible_values(flags, word, tmp_path):
    code, output = here(SCRIPT, "smoke", *flags, "--out", tmp_path)
    assert code == 2 and word in output and "Traceback" not in output


def pixels(path, width, height):
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (10, 200, 30)).save(path)


def test_images_of_odd_sizes(tmp_path, monkeypatch):
    """The shorter side is resized and the centre taken; what is smaller than the network's images is refused, in one line."""
    pixels(tmp_path / "cats" / "a.png", 12, 20)
    pixels(tmp_path / "cats" / "b.png", 8, 8)
    pixels(tmp_path / "cats" / "c.png", 7, 30)
    folder = data.folders.load(tmp_path / "cats", "cats")
    show = data.square(folder, 8)
    for i in (0, 1):
        [image] = show(i, torch.Generator())
        assert image.shape == (8, 8, 3) and image[4, 4].tolist() == [10, 200, 30]
    with pytest.raises(data.BadInput, match=r"cats: .*c\.png is 7 x 30 pixels, and 8 are needed each way"):
        show(2, torch.Generator())


def test_a_folder_is_trained_on(tmp_path, monkeypatch):
    """Read by workers, without a bound, since there are no test images; a folder that is not there is one line."""
    flags = ("smoke", "--data", "lsun-cat", "--judge", "inception", "--data-dir", tmp_path / "data", "--out", tmp_path / "runs")
    monkeypatch.setitem(data.SIDE, "lsun-cat", 8)
    monkeypatch.setitem(data.FOLDERS, "lsun-cat", 8)
    code, output = here(SCRIPT, *flags)
    assert code == 2 and "lsun-cat" in output and "is not there" in output and "Traceback" not in output
    for i in range(20):
        pixels(tmp_path / "data" / "lsun-cat" / f"{i}.png", 9 + i, 10)
    monkeypatch.setattr(pictures, "SHOWN", 2)
    code, output = here(SCRIPT, *flags, "--steps", 3)
    assert code == 0, output
    found = json.loads((tmp_path / "runs" / OUT / "result.json").read_text())
    assert (
        found["data"]["name"] == "lsun-cat" and found["data"]["train"] == 20 and not any("bits" in key for key in found["metrics"])
    )


# Claims and tables.


def test_claims_can_fail():
    """An untrained network meets none of Table 4, and no gap alone; nor does one that is as good as an ideal one."""
    claims = {claim.metric: claim for claim in pretrained.WEIGHTS["weights-google-ddpm-cifar10-32"].claims}
    assert {claim.metric for claim in train.EXPERIMENTS["cifar10"].claims} < {*claims}
    word = lambda name, value: claims[name].verdict("paper", [value]).word
    assert len([name for name in claims if "rmse" in name]) == len([name for name in claims if "rate_" in name]) == 10
    assert word("test_bits_per_dim", 3.73) == word("test_rmse_100", 67.0) == "reproduced"
    assert word("test_bits_per_dim", 3.70) == word("test_bits_per_dim", 3.80) == word("test_rmse_100", 62.0) == "short"
    assert word("test_rate_100", 0.0001) == word("test_rate_1000", 1.5) == word("fid_train_torch_fidelity", 12.1) == "short"
    assert claims["bits_per_dim_gap"].stands_on == "test_bits_per_dim"
    [sign] = train.EXPERIMENTS["objective"].claims
    assert sign.verdict("paper", [-0.02]).word == "short" and sign.verdict("paper", [0.005]).reason == "within noise"


def test_tables_and_pictures_of_records():
    claims = [claim for step in tables.TABLE_4 for claim in tables.row(step)]
    metrics = {claim.metric: claim.value for claim in claims} | {"test_rmse_100": 80.0}
    small = {"experiment": "cifar10-small", "seed": 0, "metrics": metrics}
    found = {row[1]: row[-1] for row in tables.table_4([small])[1:]}
    assert found == {"100": "no"} | {str(step): "yes" for step in tables.TABLE_4 if step != 100}
    assert tables.table_4([])[1][0] == "not run" and tables.table_4([small])[1][:4] == [
        "`cifar10-small`",
        "1000",
        "1.77581",
        "1.77581",
    ]
    keys = [f"{a}_{b}_{c}" for a in ("simple", "L") for b in ("epsilon", "mu") for c in ("test_bits_per_dim", "confidence")]
    keys += [f"{a}_{b}_{c}" for a in ("simple", "L") for b in ("epsilon", "mu") for c in ("class_entropy", "1nn")]
    rows = tables.objectives([{"experiment": "objective", "metrics": dict.fromkeys(keys, 1.5)}])
    assert [row[0] for row in rows[1:]] == ["`simple-epsilon`", "`simple-mu`", "`L-epsilon`", "`L-mu`"] and rows[1][2:] == [
        "1.5"
    ] * 4
    assert tables.objectives([])[1][2:] == ["–"] * 4
    for _, draw in train.PICTURES.values():
        assert len(draw([small]).axes[0].lines) == 2
