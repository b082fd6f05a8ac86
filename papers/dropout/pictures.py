"""Pictures of a run: errors while nets learn, Figs. 8 to 11."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from common import figures
from common.run import Run


def title(run: Run[Any]) -> str:
    return f"{run.name}, seed {run.seed}"


def draw_errors(run: Run[Any], keys: Sequence[str]) -> None:
    """Fig. 4: test errors of the nets while they learn, those of half of them and less in sight."""
    lines = {}
    for key in keys:
        found = run.curves("updates", name := f"test_error_{key}")
        lines[key.replace("_", " ")] = (found["updates"], found[name], "-")
    ends = [y[-1] for _, y, _ in lines.values()]
    limits = (max(0.01, 0.8 * min(ends)), min(100, 2 * max(ends)))
    axes = {"xlabel": "updates", "ylabel": "test error, %", "yscale": "log", "ylim": limits, "title": title(run)}
    run.save_figure(figures.curves(lines, {}, **axes), "errors")


def draw_values(run: Run[Any], rows: Sequence[str], what: str, values: Sequence[float], errors: Sequence[Sequence[float]]) -> None:
    """Figs. 9 and 10: test error against p, or against the number of training images; errors: of each row, of each value."""
    lines = {row: (values, mine, ".-") for row, mine in zip(rows, errors, strict=True)}
    label, scale = ("training images", "log") if what == "images" else ("p", "linear")
    axes = {"xlabel": label, "ylabel": "test error, %", "xscale": scale, "yscale": "log", "title": title(run)}
    run.save_figure(figures.curves(lines, {}, **axes), "values")


def draw_averages(run: Run[Any], k: Sequence[int], errors: Sequence[float], scaled: float) -> None:
    """Fig. 11: the error of averages over k thinned nets, beside that of weight scaling."""
    axes = {"xlabel": "k, thinned nets", "ylabel": "test error, %", "xscale": "log", "title": title(run)}
    run.save_figure(figures.curves({"Monte Carlo": (k, errors, ".-")}, {"weight scaling": scaled}, **axes), "averages")


def draw_activations(run: Run[Any], names: Sequence[str], hidden: Tensor) -> None:
    """Fig. 8: histograms of hidden units' activations over the test images, right, and of each unit's mean, left."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    for axes, values, label in zip(
        figure.subplots(1, 2), (hidden.mean(1), hidden.flatten(1)), ("mean activation", "activation"), strict=True
    ):
        top = values.quantile(0.99).item() if values.numel() < 1e6 else values[:, ::37].quantile(0.99).item()
        for name, mine in zip(names, values, strict=True):
            counts = torch.histc(mine.float().cpu(), 50, 0, max(top, 1e-3))
            axes.plot((torch.arange(50) + 0.5) * top / 50, counts / counts.sum(), label=name, linewidth=1)
        axes.set(xlabel=label, ylabel="share", title=title(run), yscale="log" if label == "activation" else "linear")
        axes.legend(fontsize="small")
    run.save_figure(figure, "activations")
