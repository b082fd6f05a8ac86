"""How the four starts fare, and error against depth."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from common import figures
from common.claims import Record
from common.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LAYERS = {"a": 11, "b": 13, "c": 16, "d": 16, "e": 19}  # with weights


def draw_losses(run: Run, names: Sequence[str]) -> None:
    """Training loss of each net against its updates; a net that has none is at the upper edge."""
    lines = {}
    for i, name in enumerate(names):
        x, y = run.curves("update", f"{name}train_loss").values()
        lines |= {f"{name.replace('_', ' ')}: {y[-1]:.2f}": (x, y, f"C{i}-")} if y else {}
    axes = {"xlabel": "updates", "ylabel": "training loss, nats", "ylim": (0, 4), "title": f"{run.name}, seed {run.seed}"}
    run.save_figure(figures.curves(lines, {"chance": 2.3026}, **axes), "losses")


def draw_errors(run: Run, names: Sequence[str], test: str) -> None:
    """Training error (thin), of what is cropped and flipped, with dropout, and test error (bold) against updates."""
    lines = {}
    for i, name in enumerate(names):
        for curve, style in ((f"{name}train_error", f"C{i}--"), (f"{name}{test}", f"C{i}-")):
            x, y = run.curves("update", curve).values()
            lines |= {f"{curve.replace('_', ' ')}: {y[-1]:.2f} %": (x, y, style)} if y else {}
    title = f"{run.name}, seed {run.seed}"
    run.save_figure(figures.curves(lines, {}, xlabel="updates", ylabel="error, %", title=title), "errors")


def depth(records: list[Record]) -> "Figure":
    """Errors on CIFAR-10 against layers with weights, a line for each seed; the paper's order is A > B > C > D."""
    lines = {}
    for i, record in enumerate(records):
        errors = [record["metrics"][f"{net}_test_error"] for net in LAYERS]
        lines[f"seed {record['seed']}"] = ([0, 1, 2, 3, 4], errors, f"C{i}o-")
        for net, marker in (("a_lrn", "x"), ("shallow", "^")):
            lines[f"{net.replace('_', '-').replace('a-lrn', 'A-LRN')}, seed {record['seed']}"] = (
                [0 if net == "a_lrn" else 1], [record["metrics"][f"{net}_test_error"]], f"C{i}{marker}"
            )  # fmt: skip
    names = [f"{net.upper()}\n{layers}" for net, layers in LAYERS.items()]
    axes = {"xlabel": "net, layers with weights", "ylabel": "test error, %", "title": "cifar10-depth"}
    return figures.curves(lines, {}, xticks=range(5), xticklabels=names, **axes)
