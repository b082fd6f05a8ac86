"""Figures 2, 3, 4, 6 and 7: layers of nets before, while and after they learn."""

from typing import Any

import torch
from torch import Tensor

from common.run import Run


def new(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def histogram(axes: Any, values: Tensor, low: float, high: float, label: str) -> None:
    """A line: the density of values between low and high."""
    counts = torch.histc(values.float().flatten().cpu(), 101, low, high)
    middle = low + (torch.arange(101) + 0.5) * (high - low) / 101
    axes.plot(middle, counts / counts.sum() * 101 / (high - low), label=label, linewidth=1)


def draw_layers(run: Run[Any], name: str, label: str, layers: list[Tensor]) -> None:
    """Figures 6 and 7: histograms of the tanh nets' layers, standard above, normalized below; layers: (T, B, n) each."""
    figure = new(6, 5)
    for net, (axes, title) in enumerate(zip(figure.subplots(2, 1, sharex=True), ("standard", "normalized"), strict=True)):
        far = max(layer[:2].abs().max().item() for layer in layers) if name == "activations" else 3 * layers[-1][0].std().item()
        for number, layer in enumerate(layers, 1):
            histogram(axes, layer[net], -far, far, f"layer {number}")
        axes.set(title=title, ylabel="density", yscale="log" if name == "gradients" else "linear")
        axes.legend(fontsize="x-small")
    axes.set_xlabel(f"{label} ({run.name}, seed {run.seed})")
    run.save_figure(figure, name)


def draw_course(run: Run[Any], keys: list[str], layers: int) -> None:
    """Figures 2 and 3: means (sigmoid) or standard deviations of the activations, layer by layer, while nets learn."""
    figure = new(4 * len(keys), 3.4)
    for axes, key in zip(figure.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
        what = "mean" if key.startswith("sigmoid") else "std"
        for layer in range(1, layers + 1):
            found = run.curves("updates", name := f"{what}_{key}_layer{layer}")
            axes.plot(found["updates"], found[name], label=f"layer {layer}", linewidth=1)
        axes.set(title=key.replace("_n", ", normalized"), xlabel="updates", ylabel=f"{what} of activations")
        axes.legend(fontsize="x-small")
    run.save_figure(figure, "course")


def draw_ends(run: Run[Any], keys: list[str], layers: list[Tensor]) -> None:
    """Figure 4: histograms of activations after learning; layers: (T, B, n) each."""
    figure = new(4 * len(keys), 3.4)
    for net, (axes, key) in enumerate(zip(figure.subplots(1, len(keys), squeeze=False)[0], keys, strict=True)):
        for number, layer in enumerate(layers, 1):
            histogram(axes, layer[net], 0.0 if key.startswith("sigmoid") else -1.0, 1.0, f"layer {number}")
        axes.set(title=key.replace("_n", ", normalized"), xlabel="activation", ylabel="density")
        axes.legend(fontsize="x-small")
    run.save_figure(figure, "ends")


def draw_losses(run: Run[Any], keys: list[str]) -> None:
    """He et al., Figures 2 and 3: the training cost of each net."""
    axes = (figure := new(5, 3.4)).add_subplot()
    for key in keys:
        found = run.curves("updates", name := f"cost_{key}")
        axes.plot(found["updates"], found[name], label=key.replace("_", ", "), linewidth=1)
    axes.set(xlabel="updates", ylabel="training cost, nats", title=f"{run.name}, seed {run.seed}")
    axes.legend(fontsize="x-small")
    run.save_figure(figure, "costs")
