"""What the nets have come to: costs and errors, the best stepsize of each method, and how methods differ."""

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor, nn

from common import figures
from common.run import Run
from papers.adam.data import Examples
from papers.adam.nets import bounded

CHUNK = 2000  # examples at once


def over(run: Run[Any], nets: nn.Module, x: Tensor, y: Tensor, *, errors: bool) -> list[float]:
    """Of each net the mean cost over these examples, with dropout as in training, or its error in %, without."""
    mine = run.share(len(x))
    with run.evaluating(nets) as bare:
        measure = bare.wrong if errors else lambda x, y: bounded(bare(x, y, run.config.dropout))
        found = [measure(*piece) for piece in zip(x[mine].split(CHUNK), y[mine].split(CHUNK), strict=True)]  # (nets, B) each
    mean = run.gather(torch.cat(found, 1).T, len(x)).double().mean(0)
    return (100 * mean if errors else mean).tolist()


def judged(run: Run[Any], nets: nn.Module, data: Examples, methods: Sequence[Any]) -> dict[str, float]:
    """`cost_<label>_<alpha>` on the training examples, or `error_<label>_<alpha>_<decay>` on those held out."""
    x, y = data.held_out or (data.x, data.y)
    return dict(zip(names(run.config, methods), over(run, nets, x, y, errors=data.held_out is not None), strict=True))


def names(config: Any, methods: Sequence[Any]) -> list[str]:
    """Of each net, in the order of `Side`; methods: the groups of train.py."""
    kind, several = "error" if config.judged == "held-out" else "cost", len(config.decays) > 1
    return [
        f"{kind}_{group.label}_{alpha:g}" + (f"_{decay:g}" if several else "")
        for group in methods
        for alpha, decay in product(group.alphas, config.decays)
    ]


def compared(run: Run[Any], nets: nn.Module, data: Examples, methods: Sequence[Any]) -> dict[str, float]:
    """Of each method the cost at its best stepsize after some passes, its test error there, and how methods differ."""
    config, found, lines = run.config, dict[str, float](), {}
    every, kind = names(config, methods), "error" if data.test else "cost"
    curves = run.curves("pass", *every)
    tested = dict(zip(every, over(run, nets, *data.test, errors=True), strict=True)) if data.test else {}
    ends: dict[str, dict[str, float]] = {}  # of each method, after each pass and on the test images
    for group in methods:
        places = zip(names(config, [group]), product(group.alphas, config.decays), strict=True)
        name, (alpha, decay) = min(places, key=lambda place: curves[place[0]][-1])
        passes = {f"pass{passed:g}": value for passed, value in zip(curves["pass"], curves[name], strict=True)}
        found |= {f"alpha_{group.label}": alpha} | ({f"decay_{group.label}": decay} if len(config.decays) > 1 else {})
        found |= {f"{kind}_{group.label}_{after}": value for after, value in passes.items()}
        if tested:
            found[f"test_error_{group.label}"] = passes["test"] = tested[name]
        ends[group.label] = passes
        lines[f"{group.label}, {alpha:g}"] = (curves["pass"], curves[name], ".-")
    for one, other in combinations(ends, 2):
        found |= {f"{one}_less_{other}_{after}": value - ends[other][after] for after, value in ends[one].items()}
    axes = {"xlabel": "passes over the training set", "ylabel": "held-out error, %" if tested else "training cost, nats"}
    run.save_figure(figures.curves(lines, {}, **axes, title=f"{run.name}, seed {run.seed}"), "costs")
    return found
