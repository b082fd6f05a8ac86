"""What Fig. 9 compares LeNet-5 with: linear classifiers, nearest neighbours, nets of one hidden layer; also on deslanted digits."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from common.data import mnist
from common.data.order import shuffled
from common.options import at_least_one
from common.run import Run
from papers.lenet.digits import BLACK, WHITE, deslanted, made_up
from papers.lenet.model import f

NETS = {  # name -> hidden units (0: none), whether the digits are deslanted
    "linear": (0, False),
    "linear_deslanted": (0, True),
    "300": (300, False),
    "1000": (1000, False),
    "300_deslanted": (300, True),
}
LINEAR = 0.3  # of the rates: above 2 / 44, by the greatest eigenvalue of the pixels' second moments, they would diverge
K = 3  # neighbours; the paper says so of the deslanted digits


@dataclass(frozen=True)
class Others:
    """The paper gives no recipe for these."""

    rates: tuple[float, ...] = (0.02, 0.05, 0.1)
    """Of gradient descent, a net for each, linear ones with 0.3 of it; held-out digits choose. A tenth of it in the second half."""
    passes: int = 20
    batch_size: int = 50
    data: Literal["mnist", "made-up"] = "mnist"
    """made-up: stand-in digits, for tests."""

    def __post_init__(self) -> None:
        at_least_one(self, "passes", "batch_size")
        if not self.rates or not all(0 < rate < float("inf") for rate in self.rates):
            raise ValueError(f"--rates needs positive ones, got {self.rates}")


class Net(nn.Module):
    """Sec. III.C.1 and 5: 10 sums of all pixels, or units f(sum) of a hidden layer in between; the greatest answers."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, hidden) if hidden else None
        self.output = nn.Linear(hidden or inputs, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, 10)."""
        return self.output(x) if self.hidden is None else f(self.output(f(self.hidden(x))))


class Nets(nn.Module):
    """Each net of `NETS`, once for each rate."""

    def __init__(self, rates: int, plain: int = 784, straight: int = 400) -> None:
        super().__init__()
        sizes = {name: (straight if deslant else plain, hidden) for name, (hidden, deslant) in NETS.items()}
        self.of = nn.ModuleDict({name: nn.ModuleList(Net(*size) for _ in range(rates)) for name, size in sizes.items()})

    def forward(self, plain: Tensor, straight: Tensor) -> Tensor:
        """The digits as they are and deslanted, (B, 784), (B, 400) -> (nets, rates, B, 10)."""
        inputs = [straight if NETS[name][1] else plain for name in self.of]
        return torch.stack([torch.stack([net(x) for net in nets]) for x, nets in zip(inputs, self.of.values(), strict=True)])


def compare(run: Run[Others]) -> dict[str, float]:
    """`test_error_<name>`, %, of the rate with the least error on held-out digits, and of nearest neighbours."""
    config, B = run.config, run.config.batch_size
    learned, held_out, test = data(run)
    nets = Nets(len(config.rates))
    groups = [
        {"params": [*net.parameters()], "rate": rate * (1 if net.hidden else LINEAR)}
        for each in nets.of.values()
        for net, rate in zip(each, config.rates, strict=True)
    ]
    nets, optimizer = run.prepare(nets=nets, optimizer=torch.optim.SGD(groups, lr=1.0))
    updates = len(learned[0]) // B  # of a pass
    total = config.passes * updates

    for step, index in run.indices(shuffled(len(learned[0]), B, run.seed), steps=total):
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * (0.1 if 2 * step >= total else 1)
        for (plain, straight, y), weight in run.micro_batches([each[index] for each in learned], nets, of=B):
            away = nets(plain, straight) - (2.0 * nn.functional.one_hot(y, 10) - 1)  # (nets, rates, B, 10), from +1 and -1
            losses = away.square().sum(-1).mean(-1) / 2
            run.backward(losses.sum() * weight)
            run.log(train_loss=losses.detach().mean() * weight)
        optimizer.step()
        optimizer.zero_grad()
        passed, rest = divmod(step + 1, updates)
        if not rest:
            run.report(**{"pass": passed}, **named(config, errors(run, nets, held_out)))

    found, tested = dict[str, float](), named(config, errors(run, nets, test))
    last = {name: values[-1] for name, values in run.curves(*tested).items()}
    for name in NETS:
        rate = min(config.rates, key=lambda rate, name=name: last[key(name, rate)])
        best = key(name, rate)
        found |= {f"rate_{name}": rate, f"held_out_error_{name}": last[best], f"test_error_{name}": tested[best]}
    known = [torch.cat(pair) for pair in zip(learned, held_out, strict=True)]
    for i, name in enumerate(("neighbours", "neighbours_deslanted")):
        found[f"test_error_{name}"] = 100 * (nearest(known[i], known[2], test[i]) != test[2]).double().mean().item()
    draw(run, found)
    return found


def data(run: Run[Others]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Learned from, held out, tested on: the digits as they are, (n, 784), and deslanted, (n, 400), and their labels."""
    if made := run.config.data == "made-up":
        digits, held_out = made_up(200, 100), 50
    else:
        run.on_main(lambda: mnist.fetch(run.data_dir))
        digits, held_out = mnist.load(run.data_dir), 10_000
    images, labels, test = digits.train_images, digits.train_labels, digits.test_images
    run.describe_data(name="mnist", sha256=digits.sha256, train=len(images), test=len(test), stand_in=made)
    sets = (images[:-held_out], labels[:-held_out]), (images[-held_out:], labels[-held_out:]), (test, digits.test_labels)
    grey = lambda ink: (WHITE + (BLACK - WHITE) * ink).flatten(1).to(run.device)
    pixels = lambda images: images.to(torch.get_default_dtype()) / 255
    return [(grey(pixels(x)), grey(deslanted(pixels(x))), y.to(run.device)) for x, y in sets]


def errors(run: Run[Any], nets: nn.Module, examples: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """In %: (nets, rates)."""
    mine = run.share(len(examples[0]))
    with run.evaluating(nets) as bare:
        pieces = zip(*(each[mine].split(1000) for each in examples), strict=True)
        wrong = torch.cat([bare(plain, straight).argmax(-1) != y for plain, straight, y in pieces], -1)  # (nets, rates, n)
    return 100 * run.gather(wrong.movedim(-1, 0), len(examples[0])).double().mean(0).cpu()


def key(name: str, rate: float) -> str:
    """Under which a net's error on held-out digits is logged."""
    return f"held_out_error_{name}_{rate:g}"


def named(config: Others, table: Tensor) -> dict[str, float]:
    """table: (nets, rates)."""
    return dict(zip((key(name, rate) for name in NETS for rate in config.rates), table.flatten().tolist(), strict=True))


def nearest(known: Tensor, labels: Tensor, x: Tensor) -> Tensor:
    """The class of most of the `K` known digits at the least Euclidean distances, the lower class where two have as many: (n,)."""
    squares, found = known.square().sum(1), []
    for part in x.split(500):
        near = (squares - 2 * part @ known.T).topk(K, largest=False).indices  # (B, K); each digit's own square is the same for all
        found.append(labels[near].mode(1).values)
    return torch.cat(found)


def draw(run: Run[Others], found: dict[str, float]) -> None:
    """Fig. 9, these rows: test errors beside the paper's."""
    from matplotlib.figure import Figure

    printed = {claim.metric: claim.value for claim in run.experiment.claims}
    rows = [name for name in found if name.startswith("test_error")][::-1]
    axes = (figure := Figure(figsize=(6, 3.2), layout="constrained")).add_subplot()
    axes.barh(rows, [found[name] for name in rows], color="black", height=0.5, label="ours")
    axes.plot([printed.get(name, float("nan")) for name in rows], rows, "r|", markersize=14, markeredgewidth=2, label="the paper's")
    axes.set(xlabel="test error, %", title=f"{run.name}, seed {run.seed}")
    axes.legend()
    run.save_figure(figure, "errors")
