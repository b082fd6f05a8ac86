"""Fig. 4: what the correction of Sec. 3 is good for."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from common.run import Run
from papers.adam.findings import names
from papers.adam.model import METHODS

SETTINGS = [f"b1={b1} b2={b2}" for b1 in ("0", "0.9") for b2 in ("0.99", "0.999", "0.9999")]
PAIRS = tuple(f"{method} {setting}" for setting in SETTINGS for method in ("adam", "uncorrected"))


def gained(run: Run[Any], methods: Sequence[Any]) -> dict[str, float]:
    """By how much the cost without is above that with correction; how long a first step is; a picture.

    `gain_<setting>_pass<n>` at the best stepsize of each, `least_gain` and `most_gain` over all settings, stepsizes and passes;
    `first_step_<method>-<setting>`, in stepsizes, of a weight whose gradient is 1.
    """
    from matplotlib.figure import Figure

    config, found, gains = run.config, dict[str, float](), list[float]()
    curves = run.curves("pass", *names(config, methods))
    for place, passed in enumerate(curves["pass"]):
        for setting in (text.replace(" ", "-") for text in SETTINGS):
            costs = [
                [curves[f"cost_{method}-{setting}_{alpha:g}"][place] for alpha in config.alphas]
                for method in ("uncorrected", "adam")
            ]
            found[f"gain_{setting}_pass{passed:g}"] = min(costs[0]) - min(costs[1])
            gains += [without - corrected for without, corrected in zip(*costs, strict=True)]
    found |= {"least_gain": min(gains), "most_gain": max(gains)}
    for group in methods:
        weight = nn.Parameter(torch.zeros((), dtype=torch.float64))
        weight.grad = torch.ones_like(weight)
        METHODS[group.method]([weight], 1.0, **group.settings).step()
        found[f"first_step_{group.label}"] = weight.abs().item()

    figure = Figure(figsize=(9, 5.4), layout="constrained")
    for axes, setting in zip(figure.subplots(2, 3, sharex=True, sharey=True).flat, SETTINGS, strict=True):
        for method, colour in (("adam", "green"), ("uncorrected", "red")):
            for place, style in ((0, "--"), (-1, "-")):
                costs = [curves[f"cost_{method}-{setting.replace(' ', '-')}_{alpha:g}"][place] for alpha in config.alphas]
                axes.plot(config.alphas, costs, style, color=colour, marker=".", label=f"{method}, pass {curves['pass'][place]:g}")
        axes.set(title=setting, xscale="log", ylim=(90, 260))
    axes.legend(fontsize="x-small")
    figure.supxlabel("alpha")
    figure.supylabel("training cost, nats")
    run.save_figure(figure, "correction")
    return found
