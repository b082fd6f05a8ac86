"""The 1-nearest-neighbour classifier of Table 3, exact, on more generated samples than memory holds."""

import io
import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from common.data.order import mix
from common.files import write_atomic
from common.run import Run
from common.weights import fingerprint

SAMPLED = 128  # digits in a batch, whose statistics its batch norms take (code); sample i is in batch i // 128
BLOCK = 125 * SAMPLED  # samples between two looks at the clock
SAVE_EVERY = 60.0  # seconds


class Nearest:
    """Of each query the nearest of all samples that were added: its squared Euclidean distance, its number, its label.

    Distances are first found as |s|^2 - 2 q.s + |q|^2 by one matrix product in single precision, and again, as the sum of squared
    differences in double precision, for every sample that may be the nearest by what single precision can be off. Of samples at
    the same distance the first one counts.
    """

    def __init__(self, queries: Tensor, tile: tuple[int, int] = (1000, 4000)) -> None:
        """queries: (n, D), fp32; tile: queries and samples whose distances are in memory at once."""
        self.queries, self.tile, self.count = queries, tile, 0
        n, device = len(queries), queries.device
        self.square = torch.full((n,), math.inf, dtype=torch.float64, device=device)
        self.index = torch.full((n,), -1, device=device)
        self.label = torch.full((n,), -1, device=device)

    def add(self, samples: Tensor, labels: Tensor) -> None:
        """(m, D) fp32, (m,)."""
        size, tf32 = self.queries.shape[1], torch.backends.cuda.matmul.allow_tf32
        longest = self.queries.norm(dim=1).max() + samples.norm(dim=1).max()
        off = 2 * (size + 2) * 2.0**-24 * longest.item() ** 2  # the bound on rounding of both distances that are compared
        torch.backends.cuda.matmul.allow_tf32 = False
        for s, their in zip(samples.split(self.tile[1]), labels.split(self.tile[1]), strict=True):
            length = s.square().sum(1)
            for start in range(0, len(self.queries), self.tile[0]):
                self._compare(slice(start, start + self.tile[0]), s, their, length, off)
            self.count += len(s)
        torch.backends.cuda.matmul.allow_tf32 = tf32

    def _compare(self, rows: slice, s: Tensor, labels: Tensor, length: Tensor, off: float) -> None:
        q, before, m = self.queries[rows], self.square[rows], len(s)
        d = torch.addmm(length, q, s.T, alpha=-2)  # (a, m), squared distances less |q|^2
        known = (before - q.double().square().sum(1)).to(d.dtype)
        row, column = (d <= (torch.minimum(d.amin(1), known) + off)[:, None]).nonzero(as_tuple=True)
        exact = (q[row].double() - s[column].double()).square().sum(1)  # of the candidates
        least = torch.full_like(before, math.inf).scatter_reduce(0, row, exact, "amin")
        best = (exact == least[row]) & (exact < before[row])
        first = row.new_full((len(q),), m).scatter_reduce(0, row[best], column[best], "amin")
        better, at = first < m, first.clamp(max=m - 1)
        self.square[rows] = torch.where(better, least, before)
        self.index[rows] = torch.where(better, self.count + at, self.index[rows])
        self.label[rows] = torch.where(better, labels[at], self.label[rows])

    def state(self) -> dict[str, Tensor | int]:
        return {"square": self.square, "index": self.index, "label": self.label, "count": self.count}

    def restore(self, state: dict[str, Tensor | int]) -> None:
        self.count = state["count"]
        for name in ("square", "index", "label"):
            getattr(self, name).copy_(state[name])


def noise(n: int, Z: int, device: torch.device, *parts: object) -> tuple[Tensor, Tensor]:
    """z, uniform in (-1, 1), and labels, uniform (code): (n, Z), (n,), a function of `parts`."""
    generator = torch.Generator(device).manual_seed(mix(*parts))
    z = 2 * torch.rand(n, Z, generator=generator, device=device) - 1
    return z, torch.randint(10, (n,), generator=generator, device=device)


def sampled(run: Run, net: nn.Module, first: int, stop: int, *parts: object) -> tuple[Tensor, Tensor]:
    """Generated digits from `first` up to `stop`, multiples of 128: (n, 784) in [0, 1], fp32, and their labels (n,).

    net: the generator, in `run.evaluating`.
    """
    digits, labels = [], []
    for number in range(first // SAMPLED, -(-stop // SAMPLED)):
        z, y = noise(SAMPLED, run.config.Z, run.device, run.seed, *parts, number)
        digits.append(net(z, nn.functional.one_hot(y, 10).to(z.dtype)).flatten(1).float())
        labels.append(y)
    return torch.cat(digits)[: stop - first], torch.cat(labels)[: stop - first]


def wrong_by_samples(run: Run, generator: nn.Module, images: Tensor, labels: Tensor, sizes: Sequence[int]) -> dict[int, Tensor]:
    """Which images a nearest-neighbour classifier on generated samples gets wrong, by how many these are: size -> (n,) bool.

    images: (n, 784). All samples are one stream, so that the first of them are those of a smaller number. Each process judges its
    share of the images. What was found so far is kept in the run's directory, and a killed run goes on from there.
    """
    mine, total = run.share(len(images)), max(sizes)
    nearest, wrong = Nearest(images[mine].float()), {}
    path = run.dir / f"neighbours-{run.rank}.pt"
    with run.evaluating(generator) as net:
        of = f"{fingerprint(net)} {run.rank}/{run.processes} {len(images)}"  # what these neighbours are those of
        if path.exists() and (kept := torch.load(path, map_location=run.device, weights_only=True))["of"] == of:
            nearest.restore(kept["nearest"])
            wrong = {size: found for size, found in kept["wrong"].items() if size in sizes}
        began = saved = time.monotonic()
        here, done = nearest.count, False
        while nearest.count < total:
            first = nearest.count // SAMPLED * SAMPLED
            stop = min([first + BLOCK, *(size for size in sizes if size > nearest.count)])
            digits, y = sampled(run, net, first, stop, "judged")
            nearest.add(digits[nearest.count - first :], y[nearest.count - first :])
            if nearest.count in sizes:
                wrong[nearest.count] = nearest.label != labels[mine]
            now, done = time.monotonic(), nearest.count == total
            if now - saved > SAVE_EVERY or done:
                buffer, saved = io.BytesIO(), now
                torch.save({"of": of, "nearest": nearest.state(), "wrong": wrong}, buffer)
                write_atomic(path, buffer.getvalue())
                left = (now - began) / (nearest.count - here) * (total - nearest.count)
                run.say(f"nearest neighbours: {nearest.count:,} of {total:,} samples, {left / 60:.0f} min to go")
    return {size: run.gather(found, len(images)) for size, found in wrong.items()}


def errors(
    run: Run, images: Tensor, labels: Tensor, sizes: Sequence[int], give: Callable[[int, int], tuple[Tensor, Tensor]]
) -> dict:
    """Of samples give(first, stop) that fit in memory: size -> (error in %, mean distance to the nearest)."""
    mine, found = run.share(len(images)), {}
    nearest = Nearest(images[mine].float())
    for size in sizes:
        nearest.add(*give(nearest.count, size))
        values = torch.stack([(nearest.label != labels[mine]).double(), nearest.square.sqrt()], 1)
        error, distance = run.gather(values, len(images)).mean(0).tolist()
        found[size] = 100 * error, distance
    return found
