"""The training of the VAE: its updates, step sizes, Monte Carlo EM, curves, Frey Face, and what was published."""

import copy
import functools
import hashlib
import itertools
import json
import math
import re
import statistics
from types import SimpleNamespace

import pytest
import torch

from common.claims import interpolated, measured
from common.data import standin
from common.data.order import mix, permuted, shuffled
from common.directory import checkpoints
from papers.vae import faces, pictures, scores, train
from papers.vae import model as vae
from tests.start import compiling, here, newest, record, rows
from tools.repository import records

SCRIPT = "papers.vae.train"
OUT = "vae/smoke/seed0"


def trained(directory):
    return newest(directory / OUT)["objects"]["model"]


@pytest.fixture
def quick(monkeypatch):
    """The marginal likelihood in a moment, and not well."""
    monkeypatch.setattr(scores, "marginal_likelihood", functools.partial(vae.marginal_likelihood, L=3, burn_in=1))


FIG_3 = ("smoke", "--measure", "marginal", "--methods", "aevb", "wake_sleep", "mcem", "--step-sizes", 0.05)


# Updates.


def test_training_is_algorithm_1_with_adagrad_and_the_map_criterion(tmp_path):
    """A hundred updates of both methods written out."""
    code, output = here(SCRIPT, "smoke", "--step-sizes", 0.004, "--precision", "fp64", "--out", tmp_path)
    assert code == 0, output
    config = train.EXPERIMENTS["smoke"].config
    torch.set_default_dtype(torch.float64)
    try:
        torch.default_generator.manual_seed(mix(0, "start"))
        aevb = vae.mnist(config.latent, config.hidden)
        for parameter in aevb.parameters():
            parameter.data.normal_(0, 0.1)
        wake_sleep = copy.deepcopy(aevb)
        start = copy.deepcopy(aevb.state_dict())
        images, test_images = standin.decoded(150, 784).split([100, 50])
        squares = {p: torch.zeros_like(p) for net in (aevb, wake_sleep) for p in net.parameters()}
        for step in range(100):
            x = images[permuted(100, 0, 20 * step, 20 * step + 20)]
            generator = torch.Generator().manual_seed(mix(0, "noise", step))
            epsilon, z = torch.randn(20, 1, 2, generator=generator)[:, 0], torch.randn(20, 2, generator=generator)
            u = torch.rand(20, 784, generator=generator)

            mu, log_var = aevb.encoder(x)
            y = torch.sigmoid(aevb.decoder(mu + (0.5 * log_var).exp() * epsilon))
            divergence = 0.5 * (mu**2 + log_var.exp() - 1 - log_var).sum(1)
            loss = (divergence - (x * y.log() + (1 - x) * (1 - y).log()).sum(1)).mean()
            with torch.no_grad():
                mu, log_var = wake_sleep.encoder(x)
                explanation = mu + (0.5 * log_var).exp() * epsilon
                dream = (u < torch.sigmoid(wake_sleep.decoder(z))).double()
            y = torch.sigmoid(wake_sleep.decoder(explanation))
            mu, log_var = wake_sleep.encoder(dream)
            loss -= (x * y.log() + (1 - x) * (1 - y).log()).sum(1).mean()
            loss -= torch.distributions.Normal(mu, (0.5 * log_var).exp()).log_prob(z).sum(1).mean()

            for p, gradient in zip(squares, torch.autograd.grad(loss, list(squares)), strict=True):
                gradient = gradient + p.detach() / 100  # -log N(theta; 0, I) / N
                squares[p] += gradient**2
                p.data -= 0.004 * gradient / (squares[p].sqrt() + 1e-10)

        ours = trained(tmp_path)
        for method, net in (("aevb", aevb), ("wake_sleep", wake_sleep)):
            for name, value in net.state_dict().items():
                torch.testing.assert_close(ours[f"{method}.{name}"], value, rtol=0, atol=1e-9)
                assert not torch.allclose(value, start[name], atol=1e-3), name
        # The last point of the curve: one sample of z for each test image, not its mean.
        epsilon = torch.randn(50, 1, 2, generator=torch.Generator().manual_seed(mix(0, "score", "test", 99)))
        bound = aevb.estimator_a(test_images, epsilon) + vae.log_normal(  # by another route than the estimator of the curve
            vae.g(epsilon[:, 0], *aevb.encoder(test_images)), *aevb.encoder(test_images)
        )
        z = vae.g(epsilon[:, 0], *aevb.encoder(test_images))
        bound = bound - vae.log_prior(z) - vae.kl_divergence(*aevb.encoder(test_images))
        assert record(tmp_path / OUT)["metrics"]["aevb_test_bound"] == pytest.approx(bound.mean().item(), rel=1e-9)
    finally:
        torch.set_default_dtype(torch.float32)


def test_bf16_and_compiled_objectives_are_the_eager_ones():
    """What the CPU runs: the objectives to 0.3 nats of about 500, the gradients in direction."""
    torch.manual_seed(0)
    config = train.Config(latent=5, hidden=50)
    methods, batch = train.Methods(config), [torch.rand(30, 784), torch.randn(30, 1, 5), torch.randn(30, 5), torch.rand(30, 784)]

    def gradients(function, **autocast):
        methods.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, **autocast):
            objectives = function(*batch)
        (-objectives.sum()).backward()
        return objectives.detach(), torch.cat([p.grad.flatten() for p in methods.parameters()])

    exact, gradient = gradients(methods, enabled=False)
    rounded, rounded_gradient = gradients(methods, enabled=True)
    torch._dynamo.reset()
    with compiling():
        compiled, its_gradient = gradients(torch.compile(methods), enabled=True)
    for objective, direction in ((rounded, rounded_gradient), (compiled, its_gradient)):
        torch.testing.assert_close(objective, exact, rtol=0, atol=0.3)
        assert torch.cosine_similarity(direction, gradient, dim=0) > 0.999


def test_all_methods_start_from_the_same_weights():
    torch.manual_seed(0)
    methods = train.Methods(train.Config(latent=3, hidden=7, methods=("aevb", "wake_sleep", "mcem"), measure="marginal"))
    for name, weight in methods.aevb.named_parameters():
        assert torch.equal(weight, methods.wake_sleep.get_parameter(name))
        if name.startswith("decoder."):
            assert torch.equal(weight, methods.mcem.get_parameter(name.removeprefix("decoder.")))
    spread = lambda init: train.Methods(train.Config(latent=3, init=init)).aevb.encoder.W3.weight.std().item()
    assert [spread(init) for init in ("variance", "std", "fan-in")] == pytest.approx([0.1, 0.01, 784**-0.5], rel=0.02)


def test_each_method_takes_its_best_step_size_and_the_trial_leaves_no_trace(tmp_path):
    """The run ends with the weights of one that knew its step sizes from the start; a step size that diverges is not taken."""
    code, output = here(SCRIPT, "smoke", "--step-sizes", 0.001, 0.05, 1e12, "--out", tmp_path / "both")
    assert code == 0, output
    scores = r"step size (\S+): AEVB (\S+), Wake-Sleep (\S+)"
    said = {float(size): (float(aevb), float(sleep)) for size, aevb, sleep in re.findall(scores, output)}
    assert said.keys() == {0.001, 0.05, 1e12}
    metrics = record(tmp_path / "both" / OUT)["metrics"]
    for i, method in enumerate(("aevb", "wake_sleep")):
        chosen = metrics[f"{method}_step_size"]
        assert chosen == max((0.001, 0.05), key=lambda size: said[size][i])
        assert here(SCRIPT, "smoke", "--step-sizes", chosen, "--out", tmp_path / str(chosen))[0] == 0
        alone, ours = trained(tmp_path / str(chosen)), trained(tmp_path / "both")
        assert all(torch.equal(ours[name], alone[name]) for name in ours if name.startswith(method))


# Monte Carlo EM.


def em(train_size=20, batch=4):
    """A run's worth of Monte Carlo EM, without the run."""
    config = train.Config(
        latent=2, hidden=5, methods=("aevb", "mcem"), measure="marginal", batch_size=batch, train_size=train_size, samples=100_000
    )
    torch.manual_seed(0)
    seed_all = lambda *parts: torch.default_generator.manual_seed(mix(3, *parts))
    run = SimpleNamespace(config=config, seed=3, device=torch.device("cpu"), seed_all=seed_all)
    return run, train.Methods(config), torch.rand(train_size, 784)


def test_monte_carlo_em_samples_once_for_five_updates():
    run, methods, images = em()
    for step in range(10):
        before = methods.chains.clone()
        torch.manual_seed(100 + step)  # on another process the default generator is elsewhere
        x, *_, em_x, z = train.minibatch(run, methods, images, shuffled(20, 4, 3), step)
        start = step - step % 5
        index = permuted(20, 3, 4 * start, 4 * start + 4)
        assert torch.equal(em_x, images[index]) and torch.equal(z, methods.chains[index])
        assert torch.equal(x, images[permuted(20, 3, 4 * step, 4 * step + 4)]), "the other methods have a new minibatch each time"
        moved = (methods.chains != before).any(1).nonzero().squeeze(1)
        assert set(moved.tolist()) <= (set(index.tolist()) if step == start else set())
        assert len(moved) or step != start
        objectives = methods(x, torch.randn(4, 1, 2), None, None, em_x, z)
        torch.testing.assert_close(objectives[1], methods.mcem.log_likelihood(em_x, z).mean())


def test_noise_is_drawn_for_the_methods_there_are():
    images, drawn = torch.rand(20, 784), {}
    for methods in (("aevb",), ("aevb", "wake_sleep")):
        run = SimpleNamespace(config=train.Config(methods=methods, batch_size=4), seed=3, device=torch.device("cpu"))
        drawn[methods] = train.minibatch(run, None, images, shuffled(20, 4, 3), 5)
    alone, both = drawn.values()
    assert [t.shape for t in alone] == [(4, 784), (4, 1, 20)] and [t.shape for t in both[2:]] == [(4, 20), (4, 784)]
    assert all(map(torch.equal, alone, both)), "the same for AEVB beside wake-sleep"


def test_the_e_step_is_the_same_on_all_processes():
    results = []
    for other in (1, 2):
        run, methods, images = em()
        torch.manual_seed(other)
        train.minibatch(run, methods, images, shuffled(20, 4, 3), 0)
        results.append(methods.chains.clone())
    assert torch.equal(*results)


@pytest.mark.slow
def test_chains_of_monte_carlo_em_sample_the_posterior():
    """With the decoder held still the chains of one image spread as p(z|x), by quadrature in two dimensions."""
    _, methods, _ = em(train_size=400, batch=400)
    vae.normal_(methods.mcem, 0.5)
    x = (torch.rand(1, 784) < 0.5).float()
    images, index = x.expand(400, -1), torch.arange(400)
    for _ in range(60):
        z = methods.e_step(images, index)
    line = torch.linspace(-4, 4, 161)
    cells = torch.cartesian_prod(line, line)
    with torch.no_grad():
        log_joint = vae.log_joint(methods.mcem, x, cells)[0]
    p = (log_joint - log_joint.logsumexp(0)).exp().unsqueeze(1)
    mean = (p * cells).sum(0)
    sd = ((p * cells**2).sum(0) - mean**2).sqrt()
    assert ((z.mean(0) - mean).abs() < 0.25 * sd + 0.06).all()
    assert (sd > 0.01).all()


def test_figure_3_goes_on_where_it_was_stopped(quick, tmp_path):
    code, output = here(SCRIPT, *FIG_3, "--out", tmp_path)
    assert code == 0, output
    directory = tmp_path / OUT
    lines, metrics, weights = rows(directory), record(directory)["metrics"], trained(tmp_path)
    assert metrics["mcem_minus_aevb_train"] == pytest.approx(metrics["mcem_train_marginal"] - metrics["aevb_train_marginal"])
    assert [row["samples"] for row in lines if "samples" in row] == [40, 60, 160, 340, 660, 1000, 1500, 2000]

    (directory / "result.json").unlink()
    last, before = checkpoints(directory)
    last.unlink()
    code, output = here(SCRIPT, *FIG_3, "--out", tmp_path)
    assert code == 0 and f"from step {before.stem[4:]}" in output, output
    assert rows(directory) == lines and record(directory)["metrics"] == metrics
    assert all(torch.equal(weights[name], value) for name, value in trained(tmp_path).items())


# Curves.


def test_curves_are_measured_where_the_figures_have_them():
    panel = [100 * update for update in scores.evaluations(train.EXPERIMENTS["mnist-nz20"].config)]
    assert panel[0] == 100_000 and panel[-1] == 10_000_000 and len(panel) == 17 and panel[8] == 1_000_000
    assert all(b / a == pytest.approx(10 ** (1 / 8), rel=1e-2) for a, b in itertools.pairwise(panel))
    whole = [100 * update for update in scores.evaluations(train.EXPERIMENTS["mnist-nz20-1e8"].config)]
    assert whole[0] == 100_000 and whole[-1] == 100_000_000 and {1_000_000, 10_000_000} <= {*whole}
    figure_3 = [100 * update for update in scores.evaluations(train.EXPERIMENTS["marginal-n1000"].config)]
    assert figure_3[0] == 1_000_000 and figure_3[-1] == 60_000_000


def results(curves, monkeypatch, **config):
    monkeypatch.setattr(scores, "estimator_variance", lambda *_: 0.25)
    return scores.results(SimpleNamespace(config=train.Config(**config)), curves, None, torch.zeros(1))


def test_what_is_said_of_the_curves(monkeypatch):
    curves = {
        "samples": [100, 200, 400, 800], "aevb_train_bound": [-150, -120, -108, -100], "aevb_test_bound": [-150, -120, -110, -111],
        "wake_sleep_train_bound": [-170, -150, -140, -129], "wake_sleep_test_bound": [-170, -150, -140, -130],
        "test_bound_difference": [20, 30, 30, 19],
    }  # fmt: skip
    metrics = results(curves, monkeypatch)
    assert metrics["speedup"] == pytest.approx(800 / (100 + 100 * 20 / 30)), "-130 is reached between 100 and 200 samples"
    assert metrics["test_bound_fall"] == 1 and metrics["aevb_train_minus_test"] == 11 and metrics["estimator_variance"] == 0.25
    assert metrics["aevb_test_bound"] == -111 and metrics["test_bound_difference"] == 19
    curves["wake_sleep_test_bound"] = [-170, -150, -140, -105]
    assert math.isnan(results(curves, monkeypatch)["speedup"]), "a level that is never reached"


def test_estimator_variance_is_that_of_a_minibatch():
    """A decoder that ignores z but for one log-odds: its variance over the noise is known."""
    config = train.Config(latent=1, hidden=1, batch_size=10, train_size=10)
    methods = train.Methods(config)
    for parameter in methods.parameters():
        parameter.data.zero_()
    methods.aevb.decoder.W1.weight.data.fill_(1e-3)  # tanh is the identity here
    methods.aevb.decoder.W2.weight.data.fill_(1000.0)
    methods.aevb.decoder.W2.bias.data.fill_(-50.0)  # log(1 + e^a) is nothing, x a counts
    from contextlib import contextmanager

    @contextmanager
    def evaluating(model):
        with torch.no_grad():
            yield model

    run = SimpleNamespace(config=config, seed=0, device=torch.device("cpu"), evaluating=evaluating)
    x = torch.full((2000, 784), 1 / 784)  # sum_i x_i a_i = z - 50: variance 1 for an image
    assert scores.estimator_variance(run, methods, x) == pytest.approx(1 / 10, rel=0.05)


def test_panels_show_the_longest_runs_of_each_size_and_their_mean():
    def one(latent, samples, height, seed=0):
        config = {"latent": latent, "samples": samples}
        points = {"samples": [samples / 10, samples], "aevb_train_bound": [-140, height + 1], "aevb_test_bound": [-141, height]}
        return {"config": config, "seed": seed, "curves": points}

    figure = pictures.panels(
        [one(20, 1000, -110), one(20, 1000, -100, seed=1), one(3, 10_000, -130), one(3, 1000, -135)],
        "bound", "MNIST, $N_z$", "latent", -150, -100,
    )  # fmt: skip
    three, twenty = figure.axes
    assert three.get_title() == "MNIST, $N_z$ = 3, 1 seed" and twenty.get_title() == "MNIST, $N_z$ = 20, 2 seeds"
    assert three.get_xscale() == "log" and three.get_ylim() == (-150, -100)
    train_line, test_line = twenty.lines
    assert list(test_line.get_xdata()) == [100, 1000] and list(test_line.get_ydata()) == [-141, -105]
    assert (train_line.get_label(), test_line.get_label()) == ("AEVB (train)", "AEVB (test)")
    assert list(three.lines[1].get_xdata()) == [1000, 10_000] and not three.collections and twenty.collections
    assert not three.texts and not twenty.texts


def test_a_panel_says_what_lies_below_its_axis_and_may_have_its_own():
    def one(latent, height):
        points = {"samples": [10, 100], "aevb_test_bound": [-140, -110], "wake_sleep_test_bound": [height - 50, height]}
        return {"config": {"latent": latent, "samples": 100}, "seed": 0, "curves": points}

    figure = pictures.panels([one(3, -150.5), one(200, -154.57)], "bound", "$N_z$", "latent", -151, {3: -100, 200: -120})
    three, many = figure.axes
    assert three.get_ylim() == (-151, -100) and many.get_ylim() == (-151, -120)
    assert not three.texts and [text.get_text() for text in many.texts] == ["Wake-Sleep (test):\nbelow, -154.6 at the end"]


# Data and bad input.


def face_file(folder, name="ff", shape=faces.SHAPE, dtype="uint8"):
    import numpy
    from scipy.io import savemat

    folder.mkdir(exist_ok=True)
    pixels = numpy.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    savemat(folder / faces.FILE, {name: pixels})
    return torch.from_numpy(pixels)


def test_frey_face(tmp_path):
    pixels = face_file(tmp_path)
    images, digest = faces.load(tmp_path)
    assert digest == hashlib.sha256((tmp_path / faces.FILE).read_bytes()).hexdigest()
    assert images.shape == (1965, 560) and torch.equal((256 * images[7]).to(torch.uint8), pixels[:, 7])
    small = ("--hidden", 5, "--samples", 5000, "--step-sizes", 0.01, "--precision", "fp32")
    code, output = here(SCRIPT, "frey-nz2", *small, "--data-dir", tmp_path, "--out", tmp_path / "runs")
    assert code == 0, output
    result = record(tmp_path / "runs/vae/frey-nz2/seed0")
    assert result["data"] == {"name": "frey-face", "sha256": digest, "train": 1600, "test": 365, "stand_in": False}
    assert math.isfinite(result["metrics"]["aevb_test_bound"]) and result["curves"]["samples"][-1] == 5000
    assert (tmp_path / "runs/vae/frey-nz2/seed0/figures/manifold.png").exists()


@pytest.mark.parametrize("state", ["missing", "empty", "a web page", "another variable", "another shape", "another type"])
def test_a_file_that_is_not_frey_face(state, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    if state in ("empty", "a web page"):
        (data / faces.FILE).write_text("" if state == "empty" else "<!DOCTYPE html>" + "x" * 500)
    elif state != "missing":
        changes = {
            "another variable": {"name": "gg"},
            "another shape": {"shape": (1965, 560)},
            "another type": {"dtype": "float64"},
        }
        face_file(data, **changes[state])
    code, output = here(SCRIPT, "frey-nz20", "--data-dir", data, "--out", tmp_path / "runs")
    error = output.splitlines()[-1]
    assert code == 2 and error.startswith("error: Frey Face: ") and "Traceback" not in output
    assert str(data / faces.FILE) in error and faces.SOURCE in error


def test_missing_mnist_is_one_line(tmp_path, monkeypatch):
    from common.data import mnist

    nobody = {name: file._replace(urls=["http://127.0.0.1:9/"]) for name, file in mnist.FILES.items()}
    monkeypatch.setattr(mnist, "FILES", nobody)
    code, output = here(SCRIPT, "mnist-nz20", "--data-dir", tmp_path / "data", "--out", tmp_path / "runs")
    assert code == 2 and output.splitlines()[-1].startswith("error: MNIST: ") and "cannot be downloaded" in output


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--step-sizes", "0.1", "-1"], "--step-sizes needs positive numbers"),
        (["--methods", "aevb", "aevb"], "--methods needs aevb, and none of them twice"),
        (["--methods", "wake_sleep"], "--methods needs aevb, and none of them twice"),
        (["--methods", "aevb", "mcem"], "Monte Carlo EM has no encoder"),
        (["--measure", "marginal", "--latent", "5"], "needs fewer than 5 (Appendix D)"),
        (["--samples", "100"], "--samples must be at least 1000 for batches of 20"),
        (["--train-size", "60001", "--data", "mnist"], "--train-size 60001: must be at most 60000"),
        (["--latent", "0"], "--latent must be at least 1"),
    ],
)
def test_impossible_values_are_refused(flags, words, tmp_path):
    code, output = here(SCRIPT, "smoke", *flags, "--out", tmp_path / "runs")
    assert code == 2 and words in " ".join(output.split()).replace("│ ", "") and not (tmp_path / "runs").exists()


# What was published.


def published(name):
    return [record for record in records("vae") if record["experiment"] == name]


def test_standard_errors_of_claims_are_those_of_the_records():
    """As the reasons of the claims say: by seeds for Fig. 2, from point to point for Fig. 3."""
    differences = [record["metrics"]["test_bound_difference"] for record in published("mnist-nz20")]
    assert statistics.stdev(differences) == pytest.approx(train.SEEDS_DIFFER, abs=0.05)
    (curves,) = (record["curves"] for record in published("marginal-n1000"))
    points = zip(*(curves[name] for name in ("samples", "mcem_train_marginal", "aevb_train_marginal")), strict=True)
    swing = statistics.stdev(mcem - aevb for samples, mcem, aevb in points if samples >= 10_000_000)
    assert swing == pytest.approx(train.SWING, abs=0.05)
    for experiment in train.EXPERIMENTS.values():
        for claim in experiment.claims:
            if claim.metric in ("test_bound_difference", "test_marginal_difference", "mcem_minus_aevb_train"):
                here_too = {"mnist": train.SEEDS_DIFFER if "bound" in claim.metric else train.SWING, "frey-face": 0}
                assert claim.noise == here_too[experiment.config.data], claim.metric


INDEPENDENT = {  # experiment -> test bound in nats of an independent run, at so many samples; one seed each
    "mnist-nz20-fan-in": {1e6: -111.6, 1e7: -102.8}, "mnist-nz3-fan-in": {1e6: -146.4}, "mnist-nz5-fan-in": {1e6: -128.2},
    "mnist-nz10-fan-in": {1e6: -115.1}, "mnist-nz200-fan-in": {1e6: -120.2}, "mnist-nz20-std": {1e6: -122.0},
    "mnist-nz20-fan-in-1e6": {1e6: -111.6},
}  # fmt: skip


@pytest.mark.parametrize("name", INDEPENDENT)
def test_readings_agree_with_independent_runs(name):
    """Another implementation (NumPy, its own noise and order), the same settings: within 1.5 nats."""
    mine = [record["curves"] for record in published(name)]
    assert mine, "make reproduce-vae EXPERIMENT=... and make publish-vae"
    for samples, bound in INDEPENDENT[name].items():
        ours = [interpolated(curves["samples"], curves["aevb_test_bound"], samples) for curves in mine]
        assert sum(ours) / len(ours) == pytest.approx(bound, abs=1.5)


def test_records_say_what_their_curves_say():
    """Every number that a claim is judged by follows from the record's curves."""
    bounds = [record for record in records("vae") if record["kind"] == "paper" and record["config"]["measure"] == "bound"]
    assert bounds
    for one in bounds:
        curves, metrics = one["curves"], one["metrics"]
        assert one["config"]["samples"] == pytest.approx(curves["samples"][-1], abs=100)
        assert len(curves["samples"]) == {3_000_000: 13, 10_000_000: 17, 100_000_000: 25}[one["config"]["samples"]]
        for claim in train.EXPERIMENTS[one["experiment"]].claims:
            if claim.at is not None:
                assert measured(claim, one) == curves[claim.metric][curves["samples"].index(claim.at)]
        assert metrics["test_bound_fall"] == max(curves["aevb_test_bound"]) - curves["aevb_test_bound"][-1]
        if "speedup" in metrics:
            assert interpolated(curves["samples"], curves["aevb_test_bound"], curves["samples"][-1] / metrics["speedup"]) == (
                pytest.approx(metrics["wake_sleep_test_bound"])
            ) or metrics["speedup"] == pytest.approx(curves["samples"][-1] / curves["samples"][0])
    json.dumps(bounds, allow_nan=False)


def test_samples_of_a_run(tmp_path, capsys):
    """The picture that the command draws of a finished run's checkpoint; what is no run is one line."""
    from PIL import Image

    from papers.vae import sample

    assert here(SCRIPT, "smoke", "--out", tmp_path)[0] == 0
    for n in ("6", "4"):
        assert (
            sample.main([str(tmp_path / "vae/smoke/seed0"), "--n", n, "--columns", "2", "--out", str(tmp_path / f"{n}.png")]) == 0
        )
    with Image.open(tmp_path / "6.png") as six, Image.open(tmp_path / "4.png") as four:
        width, height = six.size
        assert width % 2 == 0 and height % 3 == 0 and six.crop((0, 0, *four.size)).tobytes() == four.tobytes()
    capsys.readouterr()
    assert sample.main([str(tmp_path), "--out", str(tmp_path / "x.png")]) == 2
    error = capsys.readouterr().err
    assert "is no folder of a run" in error and error.count("\n") == 1
