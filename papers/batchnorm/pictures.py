"""Fig. 1: test accuracy while nets learn, and what goes into a sigmoid of the last hidden layer."""

from typing import Any

from common.run import Run


def draw_course(run: Run[Any], nets: list[str]) -> None:
    """(a), and (b, c) of each norm's net: the 15th, 50th and 85th percentiles of a unit. nets: the ends of their metrics' names."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * (1 + len(nets)), 3.4), layout="constrained")
    first, *others = figure.subplots(1, 1 + len(nets))
    for axes, key in zip(others, nets, strict=True):
        percentiles = [f"{p}_{key}" for p in ("p15", "p50", "p85")]
        course = run.curves("updates", accuracy := f"test_accuracy_{key}", *percentiles)
        first.plot(course["updates"], course[accuracy], label=key.replace("_", " "))
        for name in percentiles:
            axes.plot(course["updates"], course[name], color="black", linewidth=1.5 if "p50" in name else 0.7)
        axes.set(title=key.replace("_", " "), xlabel="updates", ylabel="input of a unit, 15, 50, 85 %")
    least = min(min(line.get_ydata()) for line in first.lines)
    first.set(title=f"{run.name}, seed {run.seed}", xlabel="updates", ylabel="test accuracy, %", ylim=(max(least, 80), 100))
    first.legend(fontsize="small")
    run.save_figure(figure, "course")
