"""Figure 7: how strongly the layers of a CIFAR-10 net respond."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from common.run import Run


def layer_responses(run: Run, model: nn.Module, batches: Iterable[list[Tensor]]) -> Tensor:
    """Standard deviation of the outputs of each 3x3 layer, after batch norm, before ReLU or addition: (layers,)."""
    with run.evaluating(model) as net:
        moments: dict[nn.Module, Tensor] = {}  # layer -> sums of 1, y, y^2

        def count(layer: nn.Module, inputs: tuple[Tensor], y: Tensor) -> None:
            y = y.double()
            moments[layer] = moments.get(layer, 0) + torch.stack([torch.ones_like(y).sum(), y.sum(), y.square().sum()])

        hooks = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        for (images,) in batches:
            net(images)
        for hook in hooks:
            hook.remove()
    n, sums, squares = run.gather(torch.stack(list(moments.values()))[None], run.processes).sum(0).T  # in the order of the layers
    return (squares / n - (sums / n).square()).sqrt().cpu()


def draw_responses(run: Run, responses: Tensor) -> None:
    """One net: in the order of the layers, and sorted."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4.5))
    for axes, values, order in zip(
        figure.subplots(2, 1), (responses, responses.sort(descending=True).values), ("original", "sorted by magnitude"), strict=True
    ):
        axes.plot(range(1, len(values) + 1), values, label=run.name)
        axes.set(xlabel=f"layer index ({order})", ylabel="std", ylim=(0, None))
        axes.legend(fontsize="small")
    figure.tight_layout()
    run.save_figure(figure, "layer-responses")
