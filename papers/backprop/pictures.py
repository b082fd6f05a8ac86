"""Pictures of what was learned: Fig. 1's net, Fig. 4's units, an error surface, kernels, solved trials, a graph of engine.py."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from common import figures
from common.run import Run
from papers.backprop.engine import Variable, backward, order
from papers.backprop.model import E, Net
from papers.backprop.tasks import Task


def new(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def draw_solved(run: Run[Any], nets: dict[str, Tensor]) -> None:
    """The share of nets that are right after so many sweeps; after: (T,), -1 for never."""
    axes = (figure := new(5, 3)).add_subplot()
    for key, after in nets.items():
        solved = sorted(after[after >= 0].tolist())
        shares = [100 * n / len(after) for n in (*range(len(solved) + 1), len(solved))]
        axes.step(
            [0, *solved, run.step],
            shares,
            where="post",
            label=f"{key[1:].replace('_', ' ') or 'nets'}: {len(solved)} of {len(after)}",
        )
    for claim in run.experiment.claims:
        if claim.metric == "sweeps_median":
            axes.axvline(claim.value, color="black", linestyle="--", label=f"the paper's run, {claim.value:,}")
    axes.set(xlabel="sweeps", ylabel="% of nets that are right", ylim=(0, 103), title=f"{run.name}, seed {run.seed}")
    axes.set_xlim(left=0)
    axes.legend(fontsize="x-small", loc="lower right")
    run.save_figure(figure, "solved")


def draw_net(run: Run[Any], net: Net, task: Task, trial: int) -> None:
    """Fig. 1: a symmetry net, weights beside their links and biases in their units; the first one that was solved."""
    w, v = (net.weights[name][trial].cpu() for name in ("hidden", "output"))  # (2, 6), (1, 2)
    bias, output_bias = net.weights["hidden bias"][trial, :, 0].tolist(), net.weights["output bias"][trial, 0, 0].item()
    axes = (figure := new(7, 4.2)).add_subplot()
    inputs, hidden, output = [(x, 0.0) for x in range(6)], [(1.0, 2.0), (4.0, 2.0)], (2.5, 3.4)
    colour = lambda weight: "C3" if weight < 0 else "C0"
    for j, (x, y) in enumerate(hidden):
        for i, (x0, y0) in enumerate(inputs):
            at, weight = 0.22 + 0.2 * j, w[j, i].item()
            axes.plot([x0, x], [y0, y], color=colour(weight), linewidth=0.3 + abs(weight) / 4, zorder=1)
            place = x0 + at * (x - x0), y0 + at * (y - y0)
            axes.text(*place, f"{weight:.1f}", fontsize=7, ha="center", bbox={"color": "white", "pad": 0.5})
        weight = v[0, j].item()
        axes.plot([x, output[0]], [y, output[1]], color=colour(weight), linewidth=0.3 + abs(weight) / 4, zorder=1)
        axes.text(
            (x + output[0]) / 2, (y + output[1]) / 2, f"{weight:.1f}", fontsize=8, ha="center", bbox={"color": "white", "pad": 0.5}
        )
    for (x, y), text in [
        *zip(inputs, "123456", strict=True),
        *zip(hidden, [f"{b:.1f}" for b in bias], strict=True),
        (output, f"{output_bias:.1f}"),
    ]:
        axes.scatter([x], [y], s=700, color="white", edgecolor="black", zorder=2)
        axes.text(x, y, text, ha="center", va="center", fontsize=9, zorder=3)
    axes.set(title=f"{run.name}, seed {run.seed}, net {trial}: inputs below, biases in the units, the output on top")
    axes.axis("off")
    run.save_figure(figure, "net")


def draw_surface(run: Run[Any], net: Net, task: Task, trial: int, steps: int = 81, far: float = 12.0) -> None:
    """E of the first solved XOR net if two of its weights were others: the hidden unit's bias, and its weight to the output."""
    from matplotlib.colors import LogNorm

    values = torch.linspace(-far, far, steps, dtype=torch.float64)
    many = Net(net.units, net.links, steps**2, 1.0)
    for name, weight in net.weights.items():
        many.weights[name].data = weight[trial].cpu().expand(steps**2, *weight.shape[1:]).clone()
    vertical, across = torch.meshgrid(values, values, indexing="ij")
    many.weights["hidden bias"][:, 0, 0], many.weights["output"][:, 0, 0] = across.flatten(), vertical.flatten()
    error = E(many(task.inputs)["output"] - task.d).view(steps, steps)
    axes = (figure := new(5, 4)).add_subplot()
    shown = axes.pcolormesh(values, values, error, norm=LogNorm(), cmap="viridis")
    axes.contour(values, values, error, levels=np.geomspace(error.min(), error.max(), 12), colors="white", linewidths=0.4)
    here = net.weights["hidden bias"][trial, 0, 0].item(), net.weights["output"][trial, 0, 0].item()
    axes.plot(*here, "*", color="C3", markersize=12, label="the solution")
    figure.colorbar(shown, label="E")
    axes.set(
        xlabel="bias of the hidden unit", ylabel="weight from it to the output", title=f"{run.name}, seed {run.seed}, net {trial}"
    )
    axes.legend(fontsize="small")
    run.save_figure(figure, "error-surface")


def draw_kernels(run: Run[Any], net: Net, task: Task, trial: int) -> None:
    """T-C: the kernels of the first solved net, each with its weight to the output."""
    kernels = net.weights["kernels"][trial].view(-1, 3, 3).cpu()
    figure, most = new(1.6 * len(kernels), 1.9), kernels.abs().max()
    for axes, kernel, weight in zip(
        figure.subplots(1, len(kernels), squeeze=False)[0], kernels, net.weights["output"][trial], strict=True
    ):
        axes.imshow(kernel, cmap="RdBu", vmin=-most, vmax=most)
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"to T: {weight.item():.1f}", fontsize=8)
    run.save_figure(figure, "kernels")


OF = {"symmetry": draw_net, "xor": draw_surface, "t-or-c": draw_kernels}  # of experiments, the first solved net


def draw_persons(run: Run[Any], net: Net, task: Task, trial: int) -> None:
    """Fig. 4: the weights from the 24 persons to the six units of one net, white for on; English above, Italians below."""
    w = net.weights["person to of person"][trial].cpu().view(6, 2, 12)
    figure = new(10, 2.9)
    for number, axes in enumerate(figure.subplots(2, 3).flatten()):
        axes.set_facecolor("0.6")
        for row in range(2):
            for column in range(12):
                weight = w[number, row, column].item()
                side = 0.9 * (abs(weight) / w.abs().max().item()) ** 0.5
                corner = column - side / 2, 1 - row - side / 2
                axes.add_patch(square(corner, side, "white" if weight > 0 else "black"))
        axes.set(xlim=(-0.6, 11.6), ylim=(-0.6, 1.6), yticks=(0, 1), yticklabels=("Italian", "English"), aspect="equal")
        axes.set_xticks(range(12), [person.name[:5] for person in task.people[:12]], rotation=90, fontsize=6)
        axes.set_title(f"unit {number + 1}", fontsize=8)
    figure.suptitle(f"{run.name}, seed {run.seed}, net {trial}; the largest square is a weight of {w.abs().max():.2g}", fontsize=9)
    run.save_figure(figure, "persons")


def square(corner: tuple[float, float], side: float, colour: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, side, side, color=colour)


def draw_errors(run: Run[Any], test: str) -> None:
    """Errors epoch by epoch, and the mark."""
    found = run.curves("epoch", test)
    levels = {f"mark {claim.value:g} %": claim.value for claim in run.experiment.claims}
    figure = figures.curves(
        {f"{test.replace('_', ' ')}, {found[test][-1]:.2f} % at the end": (found["epoch"], found[test], ".-")}, levels,
        xlabel="epochs", ylabel="wrong, %", title=f"{run.name}, seed {run.seed}",
    )  # fmt: skip
    figure.axes[0].set_ylim(bottom=0)
    run.save_figure(figure, "errors")


def draw_graph(run: Run[Any]) -> None:
    """A small graph of engine.py: E = 1/2 (tanh(w x + b) - 1)^2, values and gradients in it."""
    w, x, b = (Variable(np.array(value), name) for value, name in ((0.5, "w"), (2.0, "x"), (-0.3, "b")))
    y = (w * x + b).tanh() + -1.0
    E = y * y * 0.5
    backward(E)
    nodes = order(E)
    depth: dict[int, int] = {}
    for node in nodes:
        depth[id(node)] = 1 + max((depth[id(parent)] for parent, _ in node.parents), default=-1)
    for node in reversed(nodes):  # what is given stands just before its use
        for parent, _ in node.parents:
            if not parent.parents:
                depth[id(parent)] = depth[id(node)] - 1
    rows: dict[int, int] = {}
    place = {}
    for node in sorted(nodes, key=lambda node: not node.parents):
        row = rows.get(depth[id(node)], 0)
        rows[depth[id(node)]] = row + 1
        place[id(node)] = depth[id(node)], -row
    axes = (figure := new(10, 2.6)).add_subplot()
    for node in nodes:
        for parent, _ in node.parents:
            arrow = {"arrowstyle": "->", "shrinkA": 26, "shrinkB": 26}
            axes.annotate("", place[id(node)], place[id(parent)], arrowprops=arrow)
        text = f"{node.name or 'constant'}\n{float(node.value):.3g}\ndE: {float(node.gradient):.3g}"
        box = {"boxstyle": "round", "facecolor": "white" if node.parents else "0.9"}
        axes.text(*place[id(node)], text, ha="center", va="center", fontsize=7, bbox=box)
    axes.set(xlim=(-0.6, max(depth.values()) + 0.6), ylim=(-max(rows.values()) + 0.4, 0.6))
    axes.set_title("E = ½ (tanh(w x + b) - 1)²: in each box the operation, its value, and dE / d(it)", fontsize=9)
    axes.axis("off")
    run.save_figure(figure, "graph")
