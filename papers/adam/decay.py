"""AdamW (Loshchilov and Hutter, 2019), Fig. 2: how the best decay depends on the stepsize."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from common.run import Run
from papers.adam.findings import names


def slopes(run: Run[Any], methods: Sequence[Any]) -> dict[str, float]:
    """By how many decades the best decay moves with a decade of the stepsize: `slope_<method>`, a least-squares line;
    `less_diagonal`, how much less of two methods the second's; and a picture.

    A stepsize whose best decay is 0 has no logarithm: grids that are asked this have none.
    """
    from matplotlib.figure import Figure

    config, found = run.config, dict[str, float]()
    figure = Figure(figsize=(4 * len(methods), 3.6), layout="constrained")
    last = {name: values[-1] for name, values in run.curves("pass", *names(config, methods)).items()}
    for group, axes in zip(methods, figure.subplots(1, len(methods), squeeze=False)[0], strict=True):
        label = group.label
        table = [[last[f"error_{label}_{alpha:g}_{decay:g}"] for decay in config.decays] for alpha in config.alphas]
        least = [config.decays[row.index(min(row))] for row in table]
        logs = [[math.log10(value) for value in each] for each in (config.alphas, least)]
        found[f"slope_{label}"] = statistics.linear_regression(*logs).slope
        low = min(map(min, table))
        shown = axes.imshow(table, vmin=low, vmax=2 * low, cmap="viridis_r", aspect="auto", origin="lower")
        axes.set_xticks(range(len(config.decays)), [f"{each:g}" for each in config.decays], rotation=60)
        axes.set_yticks(range(len(config.alphas)), [f"{each:g}" for each in config.alphas])
        axes.set(title=label, xlabel="decay", ylabel="alpha")
        axes.plot([config.decays.index(each) for each in least], range(len(least)), "r.")
        figure.colorbar(shown, ax=axes, label="held-out error, %")
    run.save_figure(figure, "grid")
    if len(found) == 2:
        first, second = found.values()
        found["less_diagonal"] = abs(first) - abs(second)
    return found
