"""What nets have learned, read from their weights."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from common.claims import Record
from common.words import spread
from papers.backprop.model import Net
from papers.backprop.tasks import Task

STRUCTURE = ("mirrored", "flipped", "biases", "ratio_middle", "ratio_largest", "one_two_four", "hidden_bias", "output_bias")
NEAR = 0.1  # two weights are equal, or equal and opposite, if they differ by less than a tenth of their size


def median(counts: Tensor) -> float:
    """Of (n,) counts, the mean of the two in the middle where there are two; nan if it is infinite, or of none."""
    counts = counts.double().sort().values
    middle = counts[(len(counts) - 1) // 2 : len(counts) // 2 + 1].mean().item()
    return middle if math.isfinite(middle) else math.nan


def when(after: Tensor) -> dict[str, float]:
    """The share of nets that became right, in %, the median of their sweeps, and of all nets', those that never did as last.

    after: (T,), -1 for never.
    """
    done = after[after >= 0]
    every = after.double().masked_fill(after < 0, torch.inf)
    return {"success_rate": 100 * len(done) / len(after), "sweeps_median": median(done), "sweeps_median_of_all": median(every)}


def structure(net: Net, solved: Tensor) -> dict[str, float]:
    """What Fig. 1 shows of the symmetry net, over the nets that solve it, solved (T,): shares in %, medians of weights."""
    w, bias = net.weights["hidden"][solved], net.weights["hidden bias"][solved][..., 0]  # (n, 2, 6), (n, 2)
    output_bias = net.weights["output bias"][solved][:, 0, 0]
    if not len(w):
        return dict.fromkeys(STRUCTURE, math.nan)
    share = lambda which: 100 * which.double().mean().item()
    size = w.abs()
    mirrored = ((w + w.flip(2)).abs() < NEAR * (size + size.flip(2)) / 2).all((1, 2))
    flipped = ((w[:, 0] + w[:, 1]).abs() < NEAR * (size[:, 0] + size[:, 1]) / 2).all(1)
    pairs = size.unflatten(2, (2, 3))  # the second half is the first's mirror image
    pairs = ((pairs[:, :, 0] + pairs[:, :, 1].flip(2)) / 2).mean(1).sort(1).values  # (n, 3): the pairs, in whatever order they lie
    ratios = pairs / pairs[:, :1]
    near = ((ratios - torch.tensor([1.0, 2.0, 4.0]).to(ratios)).abs() < NEAR * torch.tensor([1.0, 2.0, 4.0]).to(ratios)).all(1)
    return {
        "mirrored": share(mirrored), "flipped": share(flipped), "biases": share((bias < 0).all(1) & (output_bias > 0)),
        "ratio_middle": median(ratios[:, 1]), "ratio_largest": median(ratios[:, 2]), "one_two_four": share(near),
        "hidden_bias": median(bias.flatten()), "output_bias": median(output_bias),
    }  # fmt: skip


def codes(net: Net, task: Task, solved: Tensor) -> dict[str, float]:
    """Of the encoder's nets that solve it: whose eight codes differ when rounded, and how many values lie between 0.2 and 0.8."""
    y = net({layer: x.to(solved.device) for layer, x in task.inputs.items()})["hidden"][solved]  # (n, 8, 3)
    number = ((y > 0.5) * torch.tensor([4, 2, 1], device=y.device)).sum(2)  # (n, 8)
    distinct = number.sort(1).values.diff(dim=1).ne(0).all(1)
    between = (y > 0.2) & (y < 0.8)
    return {"binary_codes": 100 * distinct.double().mean().item(), "intermediate": 100 * between.double().mean().item()}


def features(net: Net, task: Task) -> dict[str, float]:
    """|r| of a person's nationality, generation, branch with the weight to the one of six units that tells it best, over nets."""
    w = net.weights["person to of person"]  # (T, 6, 24)
    w = w - w.mean(2, keepdim=True)
    found = {}
    for name in ("nationality", "generation", "branch"):
        of = torch.tensor([getattr(person, name) for person in task.people]).to(w)
        of = of - of.mean()
        r = (w @ of) / (w.norm(dim=2) * of.norm())  # (T, 6)
        found[name] = r.abs().amax(1).mean().item()
    return found


def sizes(published: Sequence[Record]) -> list[list[str]]:
    """For README.md: two-bit addition by hidden units, the head first."""
    mine = [record for record in published if record["experiment"] == "addition"]
    rows = [["hidden units", "direct links", "weights", "nets that solve it, %", "sweeps, median"]]
    for hidden, direct in zip(mine[0]["config"]["hidden"], mine[0]["config"]["direct"], strict=True) if mine else ():
        key = f"_h{hidden}" + "_direct" * direct
        found = [[v for r in mine if (v := r["metrics"][f"{name}{key}"]) is not None] for name in ("success_rate", "sweeps_median")]
        weights = 5 * hidden + 3 * (hidden + 1) + 12 * direct
        rows.append([str(hidden), "yes" if direct else "no", str(weights), *map(spread, found)])
    return rows
