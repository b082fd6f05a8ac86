"""The ways of the methods over two surfaces, as a moving picture: not in the paper."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.options import at_least_one
from common.run import Run
from papers.adam.model import METHODS


def valley(x: Tensor, y: Tensor) -> Tensor:
    """Rosenbrock's: narrow, bent, with its lowest point at (1, 1)."""
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def saddle(x: Tensor, y: Tensor) -> Tensor:
    """Falls along y only, and hardly at first; lowest at (0, -2) and (0, 2)."""
    return x**2 + (y**2 / 4 - 1) ** 2 - 1


SURFACES = {
    # name -> (function, where all begin, what is shown of x and y, method -> stepsize)
    "valley": (valley, (-1.2, 1.0), ((-1.7, 1.7), (-0.6, 1.6)), {
        "sgd": 1e-3, "momentum": 2e-4, "nesterov": 2e-4, "adagrad": 0.3, "rmsprop": 0.01, "adadelta": 1.0, "adam": 0.05,
    }),
    "saddle": (saddle, (-1.5, 0.01), ((-1.8, 1.8), (-0.6, 2.4)), {
        "sgd": 0.03, "momentum": 0.01, "nesterov": 0.01, "adagrad": 0.1, "rmsprop": 0.02, "adadelta": 1.0, "adam": 0.05,
    }),
}  # fmt: skip


def height(key: str, spot: Tensor) -> Tensor:
    """key: surface and method."""
    return SURFACES[key.partition("_")[0]][0](*spot)


@dataclass(frozen=True)
class Surfaces:
    """Stepsizes are in `SURFACES`."""

    updates: int = 320

    def __post_init__(self) -> None:
        at_least_one(self, "updates")


def walk(run: Run[Surfaces]) -> dict[str, float]:
    """`f_<surface>_<method>`: how high each method ends."""
    run.describe_data(
        name="two surfaces", generator="papers/adam/paths.py", seed=run.seed, train=run.config.updates, test=0, stand_in=False
    )
    starts = {f"{name}_{method}": start for name, (_, start, _, methods) in SURFACES.items() for method in methods}
    alphas = {f"{name}_{method}": alpha for name, (*_, methods) in SURFACES.items() for method, alpha in methods.items()}
    spots = nn.ParameterDict({key: nn.Parameter(torch.tensor(start)) for key, start in starts.items()})
    made = {key: METHODS[key.partition("_")[2]]([spots[key]], alpha) for key, alpha in alphas.items()}
    spots, *optimizers = run.prepare(spots=spots, **made)

    for _ in run.steps(run.config.updates):
        run.backward(sum(height(key, spot) for key, spot in spots.items()))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if run.log_step:
            places = {
                f"{axis}_{key}": value for key, spot in spots.items() for axis, value in zip("xy", spot.tolist(), strict=True)
            }
            run.report(updates=run.step + 1, **places)
    draw(run, starts)
    return {f"f_{key}": height(key, spot).item() for key, spot in spots.items()}


def draw(run: Run[Surfaces], starts: dict[str, tuple[float, float]]) -> None:
    """A moving picture, each method's way so far."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), dpi=65, layout="constrained")
    canvas, lines = FigureCanvasAgg(figure), {}
    for axes, (name, (f, start, sides, methods)) in zip(figure.subplots(1, 2), SURFACES.items(), strict=True):
        x, y = torch.meshgrid(*(torch.linspace(*side, 200) for side in sides), indexing="xy")
        axes.contour(x, y, (f(x, y) - f(x, y).min() + 0.01).log(), 20, cmap="Greys_r", linewidths=0.5)
        axes.plot(*start, "ko")
        lines |= {
            f"{name}_{method}": axes.plot([], [], marker="o", markevery=[-1], label=f"{method}, {alpha:g}")[0]
            for method, alpha in methods.items()
        }
        axes.set(title=name, xlim=sides[0], ylim=sides[1])
        axes.legend(fontsize="x-small", loc="lower right")
    curves, frames = run.curves("updates", *(f"{axis}_{key}" for key in starts for axis in "xy")), []
    for frame in range(1, len(curves["updates"]) + 1):
        for key, line in lines.items():
            line.set_data(*([at, *curves[f"{axis}_{key}"][:frame]] for axis, at in zip("xy", starts[key], strict=True)))
        canvas.draw()
        frames.append(torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    run.save_figure(torch.stack(frames).permute(0, 3, 1, 2) / 255, "paths")
