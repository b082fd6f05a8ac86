"""What the three loops share: how many trials are solved, in the log and as a picture, and looking at some of them."""

from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from common.run import Run

SOLVED = "solved-trials"  # the picture


def report_solved(run: Run[Any], after: Tensor, counted: Tensor) -> None:
    """At a log line: the share of solved trials, and their number where it has changed; ends the loop with the last trial.

    after: (N,), training sequences until a trial was solved, -1 for not yet. counted: their number at the last line, kept here.
    """
    count = int((after >= 0).sum())
    run.report(success_rate=100 * count / len(after))
    if count != counted:
        run.report(solved_trials=count)
        counted.fill_(count)
    if count == len(after):
        run.end_loop()


def outputs_of(trials: Tensor, model: nn.Module, *inputs: Tensor) -> Tensor:
    """The outputs of some trials, indices (n,), of a net of N; its inputs are theirs alone."""
    return functional_call(model, {name: p[trials] for name, p in model.named_parameters()}, inputs)


def solved_metrics(after: Tensor, suffix: str = "") -> dict[str, float]:
    """The share of solved trials, and the mean, least and most of their training sequences; after: (N,), -1 for not solved."""
    done = after[after >= 0].double()
    metrics = {f"success_rate{suffix}": 100 * len(done) / len(after), f"sequences{suffix}": done.mean().item()}
    if len(done):
        metrics |= {f"sequences_min{suffix}": done.min().item(), f"sequences_max{suffix}": done.max().item()}
    return metrics


def draw_solved(run: Run[Any], **trials: Tensor) -> None:
    """Solved trials over training sequences up to the end of the run, a line for each group of trials, and the paper's mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3))
    axes = figure.add_subplot()
    for name, after in trials.items():
        solved = sorted(after[after >= 0].tolist())
        counts, label = [*range(len(solved) + 1), len(solved)], f"{name.replace('_', ' ')}, {len(solved)} of {len(after)} trials"
        axes.step([0, *solved, run.step], counts, where="post", label=label)
    for claim in run.experiment.claims:
        if claim.metric == "sequences":
            axes.axvline(claim.value, color="black", linestyle="--", label=f"paper's mean, {claim.value:,}")
    axes.set(xlabel="training sequences", ylabel="solved trials", ylim=(0, len(after) * 1.05), title=run.name)
    axes.set_xlim(left=0)
    axes.legend(fontsize="small", loc="lower right")
    run.save_figure(figure, SOLVED)
