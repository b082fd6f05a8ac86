"""Fig. 1: test accuracy while nets learn, and what goes into a sigmoid of the last hidden layer."""

from typing import Any

from common.run import Run


def draw_course(run: Run[Any], nets: list[str], others: list[str]) -> None:
    """(a), dotted those of others too, and (b, c): the 15th, 50th and 85th percentiles of a unit of each of the nets."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * (1 + len(nets)), 3.4), layout="constrained")
    first, *panels = figure.subplots(1, 1 + len(nets))
    for key in (*nets, *others):
        course = run.curves("updates", accuracy := f"test_accuracy_{key}")
        first.plot(course["updates"], course[accuracy], "-" if key in nets else ":", label=key.replace("_", " "))
    first.set(title=f"{run.name}, seed {run.seed}", xlabel="updates", ylabel="test accuracy, %", ylim=(90, 100))
    first.legend(fontsize="x-small")
    for axes, key in zip(panels, nets, strict=True):
        axes.sharey(panels[0])
        for percentile, width in (("p15", 0.7), ("p50", 1.5), ("p85", 0.7)):
            course = run.curves("updates", name := f"{percentile}_{key}")
            axes.plot(course["updates"], course[name], color="black", linewidth=width)
        axes.set(title=key.replace("_", " "), xlabel="updates", ylabel="input of a unit, 15, 50, 85 %")
    run.save_figure(figure, "course")
