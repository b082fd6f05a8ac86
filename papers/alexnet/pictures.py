"""Figures 1 and 3, and the errors of a run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from common import figures
from common.claims import Record
from common.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_errors(run: Run, names: Sequence[str], test: str) -> None:
    """Training errors (thin), where flips and crops are answered while they are learned, and test errors (bold), against passes."""
    lines = {}
    for i, name in enumerate(names):
        for curve, style in ((f"{name}train_error", f"C{i}--"), (f"{name}{test}", f"C{i}-")):
            x, y = run.curves("epoch", curve).values()
            lines |= {f"{curve.replace('_', ' ')}: {y[-1]:.2f} %": (x, y, style)} if y else {}
    levels = {f"paper: {claim.value} %": claim.value for claim in run.experiment.claims[:1] if claim.metric.endswith(test)}
    title = f"{run.name}, seed {run.seed}"
    run.save_figure(
        figures.curves(lines, levels, xlabel="passes through the training set", ylabel="error, %", title=title), "errors"
    )


def filters(weight: Tensor, columns: int) -> Tensor:
    """Fig. 3: the kernels of a first layer, (n, 3, H, W), each from its least to its greatest number, apart by a pixel."""
    kernels = weight.detach().float().cpu()
    low, high = kernels.amin((1, 2, 3), keepdim=True), kernels.amax((1, 2, 3), keepdim=True)
    kernels = (kernels - low) / (high - low).clamp(min=1e-12)
    return (
        figures.grid(nn.functional.pad(kernels, (1, 1, 1, 1), value=1.0), columns).repeat_interleave(4, 1).repeat_interleave(4, 2)
    )


def draw_filters(run: Run, model: nn.Module, name: str) -> None:
    """The first layer's kernels, pixel by pixel, four times as large; 96 of them in rows of 16, as in the paper."""
    weight = dict(model.named_parameters())[next(key for key, _ in model.named_parameters() if key.endswith("conv1.weight"))]
    run.save_figure(filters(weight, 16), f"{name}filters".replace("_", "-"))


def figure_1(records: list[Record]) -> "Figure":
    """Fig. 1: training errors of ReLU (solid) and tanh (dashed) against passes, one line for each seed, and the line at 25 %."""
    lines = {}
    for record in records:
        curves = record["curves"]
        for f, style in (("relu", "C0-"), ("tanh", "C1--")):
            at = record["metrics"][f"{f}_epochs_to_25"]
            label = f"{f}, seed {record['seed']}" + (f": 25 % after {at:.1f}" if at else "")
            lines[label] = (curves["epoch"], curves[f"{f}_train_error"], style)
    levels = {"25 %": 25.0}
    lines["paper, as others read its plot: 6 and 36"] = ([6, 36], [25, 25], "kx")
    return figures.curves(lines, levels, xlabel="passes through the training set", ylabel="training error, %", ylim=(0, 75))
