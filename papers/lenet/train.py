"""LeNet-5 on MNIST (Sec. III): 20 passes, one pattern at a time, a step size for every weight.

    make reproduce-lenet                                      # the paper's 0.95 % test error, 4 minutes on one CPU core
    make reproduce-lenet EXPERIMENT=mnist-distorted           # the paper's 0.8 %
    make reproduce-lenet EXPERIMENT=mnist-minibatch           # for people in a hurry
    python -m papers.lenet.train mnist --seed 1               # the same without make
    make reproduce-lenet SEEDS="0 1 2" GPUS=3                 # one process for each seed, side by side

The net learns after every pattern, so one run cannot be split among processes or machines. At the end it prints, for each claim,
the paper's value, ours and the verdict, and writes three figures: the errors pass by pass (Figure 5), the misclassified test
digits (Figure 8), and the kernels of C1.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from common import figures
from common.claims import Claim, Experiment, Record
from common.command import reproduce
from common.data import mnist
from common.data.order import mix, permuted
from common.options import at_least_one, positive
from common.run import Run
from common.words import spread
from papers.lenet.digits import BLACK, WHITE, distort, field, made_up, random_distortions
from papers.lenet.model import LeNet5, curvature, map_criterion, mse, printed, root
from papers.lenet.others import Others, compare

COPIES = 10  # of each training image in the distorted set, one of them as it is


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of Sec. III.B, unless another place is named."""

    eta: tuple[float, ...] = (0.0005,) * 2 + (0.0002,) * 3 + (0.0001,) * 3 + (0.00005,) * 4 + (0.00001,) * 8
    """Global learning rate of each pass through the training set."""
    mu: float = 0.02
    """Keeps step sizes eta / (mu + h_kk) finite (Appendix C)."""
    curvature_samples: int = 500
    """Patterns over which h_kk is averaged before each pass."""
    loss: Literal["mse", "map"] = "map"
    """Eq. 8 or Eq. 9 (Sec. II.C; which one gave the results is not said)."""
    j: float = 10.0
    """Penalty of the background class in Eq. 9 (Sec. II.C; no value is given)."""
    loss_scale: float = 0.05
    """The loss is multiplied by it, which is as if mu were divided by it (the equations have 1)."""
    init: Literal["printed", "root"] = "printed"
    """Range of the initial weights: 2.4 / fan-in (Appendix A), or 1 / sqrt(fan-in)."""
    coefficient: float | None = 0.6
    """Where subsampling coefficients start, 2.4 / fan-in; None: at random, as all weights (Appendix A does not name them)."""
    train_size: int = 60_000
    """Training patterns; a random part of them where it is less (Fig. 6)."""
    distortion: float = 0.0
    """Strength of the random distortions of nine copies in ten; 0: no copies."""
    batch_size: int = 1
    """Patterns whose gradients are averaged for one update."""
    held_out: bool = False
    """Learn from the first 50,000 training images and test on the other 10,000, to choose among readings."""
    data: Literal["mnist", "made-up"] = "mnist"
    """made-up: stand-in digits, for tests."""

    def __post_init__(self) -> None:
        positive(self, "mu", "loss_scale", "j")
        at_least_one(self, "curvature_samples", "train_size", "batch_size")
        if not self.eta or not all(0 < eta < float("inf") for eta in self.eta):
            raise ValueError(f"--eta needs a positive rate for each pass, got {self.eta}")
        if self.train_size % self.batch_size:
            raise ValueError(f"--train-size {self.train_size} is not a multiple of --batch-size {self.batch_size}")
        if self.distortion < 0:
            raise ValueError(f"--distortion must not be negative, got {self.distortion}")
        if self.train_size > (limit := 50_000 if self.held_out else 60_000) and self.data == "mnist":
            raise ValueError(f"--train-size {self.train_size}: there are {limit} training images")


def train(run: Run[Any]) -> dict[str, float]:
    return compare(run) if isinstance(run.config, Others) else learn(run)


def learn(run: Run[Config]) -> dict[str, float]:
    config, passes, B = run.config, len(run.config.eta), run.config.batch_size
    digits = data(run)
    updates = config.train_size // B  # in a pass
    criterion = mse if config.loss == "mse" else functools.partial(map_criterion, j=config.j)
    test = "held_out_error" if config.held_out else "test_error"

    model = LeNet5({"printed": printed, "root": root}[config.init], config.coefficient)
    model, state = run.prepare(model=model, state=Passes(model, passes))
    step_sizes = state.step_sizes()
    update = run.compile(learning(model, step_sizes, lambda y, labels: config.loss_scale * criterion(y, labels)))
    prepared = None
    for step in run.steps(passes * updates, samples=B):
        number, i = divmod(step, updates)
        if prepared is None or (number != prepared and config.distortion):
            images, labels = patterns(run, digits, number)
            prepared = number
        if i == 0:
            some = torch.randperm(config.train_size)[: config.curvature_samples].to(run.device)
            h = curvature(model, images[some])
            for epsilon, h_kk in zip(step_sizes, h.values(), strict=True):
                epsilon.copy_(config.eta[number] / (config.mu + config.loss_scale * h_kk))
            if number == 0:
                state.range.copy_(torch.stack(torch.cat([epsilon.flatten() for epsilon in step_sizes]).aminmax()))
            state.wrong.zero_()

        loss, wrong = update(images[i * B : (i + 1) * B], labels[i * B : (i + 1) * B])
        state.wrong += wrong
        run.log(train_loss=loss)
        if i == updates - 1:
            train_error = 100 * state.wrong.item() / config.train_size
            test_error = 100 * (evaluate(run, model, digits) != digits.test_labels).double().mean().item()
            state.errors[number] = torch.tensor([train_error, test_error], dtype=torch.float64)
            run.report(**{"pass": number + 1, "train_error": train_error, test: test_error})

    answers = evaluate(run, model, digits)
    wrong = (answers != digits.test_labels).nonzero().squeeze(1)
    draw_errors(run, state.errors.cpu())
    draw_misclassified(run, digits, answers, wrong)
    draw_kernels(run, model.C1)
    if config.distortion:
        draw_distortions(run, digits)
    metrics = {test: 100 * len(wrong) / len(answers), "errors": len(wrong)}
    metrics |= {f"train_error_pass{n}": state.errors[n - 1, 0].item() for n in (19,) if n <= passes}
    metrics |= {f"{test}_pass{n}": state.errors[n - 1, 1].item() for n in (1, 10) if n <= passes}
    return metrics | {"step_size_min": state.range[0].item(), "step_size_max": state.range[1].item()}


class Passes(nn.Module):
    """What lasts from one update to the next, besides the weights: each weight's step size, and the errors."""

    def __init__(self, model: LeNet5, passes: int) -> None:
        super().__init__()
        for name, weight in model.named_parameters():
            self.register_buffer(f"epsilon {name}".replace(".", " "), torch.zeros_like(weight))
        self.register_buffer("wrong", torch.zeros((), dtype=torch.int64))  # in this pass, each pattern before the net learns it
        self.register_buffer("errors", torch.zeros(passes, 2, dtype=torch.float64))  # %, of each pass: training (on the fly), test
        self.register_buffer("range", torch.zeros(2))  # least and greatest step size of the first pass

    def step_sizes(self) -> list[Tensor]:
        return [buffer for name, buffer in self.named_buffers() if name.startswith("epsilon")]


def learning(model: nn.Module, step_sizes: list[Tensor], loss: Callable[[Tensor, Tensor], Tensor]) -> Callable:
    """The update of all weights by one pattern, or by the mean over a few (Appendix C); torch.compile takes it as a whole."""
    weights = list(model.parameters())
    torch._dynamo.config.trace_autograd_ops = True  # the gradient too, which halves the time

    def update(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, 32, 32), (B,) -> the loss, and how many answers were wrong before this update."""
        y = model(images)  # (B, 10)
        E = loss(y, labels)
        gradient = torch.autograd.grad(E, weights)
        with torch.no_grad():
            for w, epsilon, dE_dw in zip(weights, step_sizes, gradient, strict=True):
                w.addcmul_(epsilon, dE_dw, value=-1)  # w_k <- w_k - epsilon_k dE/dw_k
        return E.detach(), (y.argmin(1) != labels).sum()

    return update


def data(run: Run[Config]) -> mnist.MNIST:
    """The digits of this run, on its device: those to learn, those to test on."""
    config = run.config
    if config.data == "made-up":
        digits = made_up(config.train_size, 200)
    else:
        run.on_main(lambda: mnist.fetch(run.data_dir))
        digits = mnist.load(run.data_dir)
    images, labels, test_images, test_labels = digits.train_images, digits.train_labels, digits.test_images, digits.test_labels
    if config.held_out:
        images, labels, test_images, test_labels = images[:50_000], labels[:50_000], images[50_000:], labels[50_000:]
    if config.train_size < len(images):
        part = permuted(len(images), mix(run.seed, "part"), 0, config.train_size)
        images, labels = images[part], labels[part]
    run.describe_data(
        name="mnist" + ", held out: 10,000 of the training images" * config.held_out, sha256=digits.sha256,
        train=len(images), test=len(test_images), stand_in=config.data == "made-up",
    )  # fmt: skip
    tensors = (each.to(run.device) for each in (images, labels, test_images, test_labels))
    return mnist.MNIST(*tensors, sha256=digits.sha256)


def patterns(run: Run[Config], digits: mnist.MNIST, number: int) -> tuple[Tensor, Tensor]:
    """What one pass shows, in a constant random order: (n, 1, 32, 32), (n,).

    With distortions (Sec. III.B) the training set has ten copies of each image, one as it is and nine distorted, once and for all:
    a pass shows a tenth of it, so that twenty passes show each copy twice.
    """
    n, seed, copies = run.config.train_size, run.seed, COPIES if run.config.distortion else 1
    start = number % copies * n
    order = permuted(copies * n, mix(seed, "order"), start, start + n).to(run.device)
    images, labels = field(digits.train_images[order % n]), digits.train_labels[order % n]
    if copies > 1:
        maps = distortions(n, run.config.distortion, seed).to(run.device)[order]
        for at in range(0, n, 1000):
            images[at : at + 1000] = distort(images[at : at + 1000], maps[at : at + 1000])
    return images, labels


@functools.lru_cache(maxsize=1)
def distortions(n: int, strength: float, seed: int) -> Tensor:
    """The affine map of every copy, the first n of them the originals: (COPIES n, 2, 3)."""
    maps = random_distortions(COPIES * n, strength, torch.Generator().manual_seed(mix(seed, "distort")))
    maps[:n] = torch.eye(2, 3)
    return maps


def evaluate(run: Run[Config], model: LeNet5, digits: mnist.MNIST) -> Tensor:
    """The net's answers to the test digits: (n,). The class of the least penalty."""
    with run.evaluating(model) as net:
        return torch.cat([net(field(part)).argmin(1) for part in digits.test_images.split(500)])


def draw_errors(run: Run[Config], errors: Tensor) -> None:
    """Figure 5: errors in % against passes; errors (passes, 2)."""
    passes, names = range(1, len(errors) + 1), ("training, on the fly", "held out" if run.config.held_out else "test")
    lines = {f"{name}: {curve[-1]:.2f} % at the end": (passes, curve, ".-") for name, curve in zip(names, errors.T, strict=True)}
    levels = {f"paper {claim.value} %": claim.value for claim in run.experiment.claims if claim.unit == "%"}
    figure = figures.curves(
        lines, levels, xlabel="passes through the training set", ylabel="error rate, %", ylim=(0, 5),
        xticks=range(0, len(errors) + 1, 4), title=f"{run.name}, seed {run.seed}",
    )  # fmt: skip
    run.save_figure(figure, "errors-by-pass")


def draw_misclassified(run: Run[Config], digits: mnist.MNIST, answers: Tensor, wrong: Tensor) -> None:
    """Figure 8: every misclassified test digit with the correct answer and the net's; the first 200 of them."""
    from matplotlib.figure import Figure

    wrong, columns, high = wrong[:200], 10, 38  # pixels: a digit, and its answers below
    images = nn.functional.pad(255 - digits.test_images[wrong].cpu().float(), (2, 2, 0, high - 28), value=255) / 255
    images = torch.cat([images, torch.ones(columns - len(wrong) % columns, high, 32)])
    picture = figures.grid(images, columns)  # (3, rows 38, 320)
    figure = Figure(figsize=(picture.shape[2] / 50, picture.shape[1] / 50))
    (axes := figure.add_axes((0, 0, 1, 1))).axis("off")
    axes.imshow(picture.permute(1, 2, 0))
    for i, n in enumerate(wrong.tolist()):
        x, y = i % columns * 32 + 16, i // columns * high + 29
        axes.text(x, y, f"{digits.test_labels[n]}→{answers[n]}", fontsize=7, ha="center", va="top")
    run.save_figure(figure, "misclassified")


def draw_kernels(run: Run[Config], layer: nn.Module) -> None:
    """The six kernels of C1, on one scale."""
    from matplotlib.figure import Figure

    kernels = layer.kernels.detach().view(6, 5, 5).cpu()
    figure = Figure(figsize=(6, 1.4))
    for number, (axes, kernel) in enumerate(zip(figure.subplots(1, 6), kernels, strict=True)):
        axes.imshow(kernel, cmap="gray", vmin=-kernels.abs().max(), vmax=kernels.abs().max())
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"C1, map {number}", fontsize=8)
    run.save_figure(figure, "c1-kernels")


def draw_distortions(run: Run[Config], digits: mnist.MNIST) -> None:
    """Figure 7: ten training digits, and five distortions of each."""
    generator = torch.Generator().manual_seed(mix(run.seed, "figure"))
    maps = random_distortions(50, run.config.distortion, generator).to(run.device)
    originals = field(digits.train_images[:10])
    rows = torch.cat([originals, distort(originals.repeat(5, 1, 1, 1), maps)])
    run.save_figure(figures.grid((BLACK - rows[:, 0]) / (BLACK - WHITE), 10), "distortions")


FIGURES = ("errors-by-pass", "misclassified", "c1-kernels")
COST = "4 min on one CPU core"
RUN = {"cap": "20 passes", "per_sample": True, "log_every": 1000}


def fig_9(test_error: float, row: str, *more: Claim) -> list[Claim]:
    why = "the uncertainty that the paper states for error rates on its 10,000 test digits"
    return [Claim("test_error", test_error, "%", f"Fig. 9, {row}", True, 0.1, why), *more]


def other(name: str, test_error: float) -> Claim:
    why = "the uncertainty that the paper states for error rates on its 10,000 test digits; a baseline's in either direction"
    return Claim(
        f"test_error_{name}", test_error, "%", f"Fig. 9, {name.replace('_', ' ')}", tolerance=0.1, why=why, either_way=True
    )


OTHERS = [
    other("linear", 12.0), other("linear_deslanted", 8.4), other("neighbours", 5.0), other("neighbours_deslanted", 2.4),
    other("300", 4.7), other("1000", 4.5), other("300_deslanted", 1.6),
]  # fmt: skip


def sec_3b(metric: str, value: float, unit: str, where: str, tolerance: float, why: str) -> Claim:
    """What Sec. III.B says of the training itself, where neither direction is better."""
    return Claim(metric, value, unit, f"Sec. III.B, {where}", tolerance=tolerance, why=why, either_way=True)


HALF = "a choice, half of it: the paper prints it roughly"


def reading(note: str, **changes: object) -> Experiment[Config]:
    """A reading of what the paper leaves open, judged on images held out from training: the test set chooses nothing."""
    config = Config(**{"held_out": True, "train_size": 50_000, **changes})
    return Experiment(config, kind="reading", source="Secs. II.C, III.B, Apps. A, C", cost=COST, note=note, **RUN)


EXPERIMENTS = {
    "mnist": Experiment(
        Config(), kind="paper", source="Sec. III.B, Figs. 5 and 9", cost=COST, figures=FIGURES, **RUN,
        claims=fig_9(
            0.95, "LeNet-5",
            sec_3b("train_error_pass19", 0.35, "%", "on the training set, after 19 passes", 0.05,
                   "two standard errors of a rate of 0.35 % among 60,000 answers; off in either direction is another training"),
            sec_3b("step_size_min", 7e-5, "", "the least step size of the first pass", 3.5e-5, HALF),
            sec_3b("step_size_max", 0.016, "", "the greatest step size of the first pass", 0.008,
                   f"{HALF}, and eta / mu = 0.025, which any weight with h_kk = 0 has, is no reproduction"),
        ),
    ),
    "mnist-distorted": Experiment(
        Config(distortion=1.0), kind="paper", source="Sec. III.B, Figs. 7, 8 and 9", cost=COST, **RUN,
        claims=fig_9(0.8, "[dist] LeNet-5"), figures=(*FIGURES, "distortions"),
    ),
    "mnist-15k": Experiment(
        Config(train_size=15_000), kind="paper", source="Sec. III.B, Fig. 6", cost="1 min on one CPU core", **RUN,
    ),
    "mnist-30k": Experiment(
        Config(train_size=30_000), kind="paper", source="Sec. III.B, Fig. 6", cost="2 min on one CPU core", **RUN,
    ),
    "figure9": Experiment(
        Others(), kind="paper", source="Fig. 9", cap="20 passes", cost="10 min on one CPU core", log_every=1000, claims=OTHERS,
        figures=("errors",),
    ),
    "mnist-minibatch": Experiment(
        Config(batch_size=16, eta=tuple(4 * eta for eta in Config.eta)), kind="scaled", source="Sec. III.B",
        cost="2 min on one CPU core", **{**RUN, "log_every": 125}, claims=fig_9(0.95, "LeNet-5"), figures=FIGURES[:1],
        note="scaled: one update for 16 patterns, at four times the rates",
    ),
    "held-out": reading("the recipe of mnist, its loss divided by 20, for comparison with the readings"),
    "held-out-mse": reading("Eq. 8 for the loss instead of Eq. 9", loss="mse"),
    "held-out-j1": reading("j = 1 instead of 10", j=1.0),
    "held-out-j100": reading("j = 100 instead of 10", j=100.0),
    "held-out-random-coefficients": reading("subsampling coefficients and biases at random, as all weights", coefficient=None),
    "held-out-root": reading("initial weights within 1 / sqrt(fan-in), coefficients 0.5", init="root", coefficient=0.5),
    "held-out-scale-1": reading("the loss not divided", loss_scale=1.0),
    "held-out-scale-84th": reading("the loss divided by 84, a mean over the units of F6", loss_scale=1 / 84),
    "held-out-as-printed": reading(
        "Eq. 8, the loss not divided, coefficients at random as all weights", loss="mse", loss_scale=1.0, coefficient=None
    ),
    "held-out-root-as-printed": reading(
        "Eq. 8, the loss not divided, initial weights within 1 / sqrt(fan-in), coefficients 0.5",
        loss="mse", loss_scale=1.0, init="root", coefficient=0.5,
    ),
    "held-out-distorted": reading("the distortions of mnist-distorted", distortion=1.0),
    "held-out-distorted-half": reading("distortions half as far", distortion=0.5),
    "held-out-distorted-double": reading("distortions twice as far", distortion=2.0),
    "smoke": Experiment(
        Config(eta=(0.0005, 0.0002), train_size=100, curvature_samples=50, data="made-up", distortion=0.5),
        kind="smoke", source="Sec. III.B", cap="2 passes", cost="5 s", per_sample=True, log_every=50, checkpoint_every=0,
    ),
    "smoke-figure9": Experiment(
        Others(passes=2, data="made-up"), kind="smoke", source="Fig. 9", cap="2 passes", cost="1 s", log_every=2, checkpoint_every=0
    ),
}  # fmt: skip


def sizes(records: list[Record]) -> list[list[str]]:
    """Figure 6 as a table for README.md: the test error by the size of the training set; means over seeds."""
    rows = [["experiment", "training patterns", "`test_error`, %"]]
    for name in ("mnist-15k", "mnist-30k", "mnist"):
        errors = [record["metrics"]["test_error"] for record in records if record["experiment"] == name]
        rows.append([f"`{name}`", f"{EXPERIMENTS[name].config.train_size:,}", spread(errors)])
    return rows


TABLES = {"sizes": sizes}


if __name__ == "__main__":
    reproduce(EXPERIMENTS, train)
