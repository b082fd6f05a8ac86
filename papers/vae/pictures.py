"""Pictures of one run, and Figs. 2 and 3 from several."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common import figures
from common.claims import Record
from common.data.order import mix
from common.run import Run
from papers.vae.model import VAE

NAMES = {"aevb": "AEVB", "wake_sleep": "Wake-Sleep", "mcem": "MCEM"}
COLOURS = {"aevb": "red", "wake_sleep": "green", "mcem": "blue"}


def plot(axes: Any, runs: Sequence[dict[str, list[float]]], measure: str, title: str) -> None:
    """One panel of Fig. 2 or Fig. 3: means over runs, with the range of the runs where there are several."""
    samples = torch.tensor(runs[0]["samples"]) / (1 if measure == "bound" else 1e6)
    for name in (name for name in runs[0] if name.endswith(("train_" + measure, "test_" + measure))):
        method, split = next(m for m in NAMES if name.startswith(m)), "test" if "_test_" in name else "train"
        values = torch.tensor([points[name] for points in runs], dtype=torch.float64)
        line = {"color": COLOURS[method], "linestyle": "-" if split == "test" else "--", "linewidth": 1}
        axes.plot(samples, values.mean(0), label=f"{NAMES[method]} ({split})", **line)
        if len(values) > 1:
            axes.fill_between(samples, *values.aminmax(dim=0), color=COLOURS[method], alpha=0.2, linewidth=0)
    axes.set_title(title, fontsize="small")
    axes.tick_params(labelsize="x-small")
    if measure == "bound":
        axes.set_xscale("log")
    axes.set_xlabel("training samples" + (", millions" if measure == "marginal" else ""), fontsize="x-small")


def panels(records: Sequence[Record], measure: str, title: str, by: str, bottom: float, top: float | dict[int, float]) -> Any:
    """Panels of published records side by side, by one hyper-parameter, the longest runs of each.

    bottom, top: of the vertical axis, as the paper has it; top may differ from panel to panel.
    """
    from matplotlib.figure import Figure

    longest = {}
    for record in sorted(records, key=lambda record: (record["config"][by], record["config"]["samples"])):
        group = longest.setdefault(record["config"][by], [])
        if group and group[0]["config"]["samples"] < record["config"]["samples"]:
            group.clear()
        group.append(record)
    figure = Figure(figsize=(2.4 * max(2, len(longest)), 2.6), layout="constrained")
    for axes, (value, group) in zip(figure.subplots(1, len(longest), squeeze=False)[0], longest.items(), strict=True):
        seeds = f"{len(group)} seed" + "s" * (len(group) > 1)
        plot(axes, [record["curves"] for record in group], measure, f"{title} = {value}, {seeds}")
        axes.set_ylim(bottom, top[value] if isinstance(top, dict) else top)
        for line in axes.lines:
            if max(line.get_ydata()) < bottom and line.get_label().endswith("(test)"):
                said = f"{line.get_label()}:\nbelow, {line.get_ydata()[-1]:.4g} at the end"
                axes.text(0.04, 0.96, said, color=line.get_color(), fontsize="xx-small", va="top", transform=axes.transAxes)
    figure.axes[0].set_ylabel("bound, nats" if measure == "bound" else "log-likelihood, nats", fontsize="x-small")
    handles, labels = max((axes.get_legend_handles_labels() for axes in figure.axes), key=lambda found: len(found[1]))
    figure.legend(handles, labels, fontsize="xx-small", loc="outside right center")
    return figure


def draw_run(run: Run, points: dict[str, list[float]], methods: nn.Module, test_images: Tensor) -> None:
    """This run's pictures: its curves, reconstructions, samples (Fig. 5) and the manifold of two latent variables (Fig. 4)."""
    from matplotlib.figure import Figure

    config, width = run.config, 20
    figure = Figure(figsize=(5, 3.5))
    axes = figure.add_subplot()
    plot(axes, [points], config.measure, f"{run.name}, seed {run.seed}")
    axes.set_ylabel("bound, nats" if config.measure == "bound" else "log-likelihood, nats")
    axes.legend(fontsize="small")
    run.save_figure(figure, "curves")

    x = test_images[:width]
    rows = [x]
    with run.evaluating(methods), torch.autocast(run.device.type, enabled=False):
        for net in (net for net in methods.children() if isinstance(net, VAE)):
            rows.append(net.decoder.mean(net.encoder(x)[0]))
        z = torch.randn(10 * width, config.latent, generator=torch.Generator().manual_seed(mix(run.seed, "samples")))
        samples = methods.aevb.decoder.mean(z.to(run.device))
        run.save_figure(figures.grid(field(torch.cat(rows)), width), "reconstructions")
        run.save_figure(figures.grid(field(samples), width), "samples")
        if config.latent == 2:  # coordinates on the unit square through the inverse CDF of the Gaussian (Fig. 4)
            line = torch.special.ndtri((torch.arange(width, device=run.device) + 0.5) / width)
            square = torch.cartesian_prod(-line, line).flip(1)  # rows from above, columns from the left
            run.save_figure(figures.grid(field(methods.aevb.decoder.mean(square)), width), "manifold")


def field(images: Tensor) -> Tensor:
    """Digits or frames (n, D) as they look: (n, height, width)."""
    return images.view(len(images), 28, -1)
