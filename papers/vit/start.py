"""Where fine-tuning starts: official weights, a run of ours, or for tests random ones; with a new head (Sec. 3.2)."""

from pathlib import Path
from typing import Any

from common import directory
from common.errors import BadInput
from common.run import Run
from common.weights import fingerprint, refused
from papers.vit.model import ViT
from papers.vit.pretrained import build, load, untold


def starting_point(run: Run, expected: tuple[int, int, int] | None, classes: int) -> tuple[ViT, dict[str, Any]]:
    """The net for images of the config's size, and what the record says of its weights.

    Args:
        expected: patch, width and layers that the weights have to have.

    Raises:
        BadInput: there are no such weights, or they are of another net; says which, and what to do.
    """
    config = run.config
    weights, fit = config.weights, {"image": config.image, "classes": classes, "expected": expected, "dropout": config.dropout}
    if weights == "made-up":
        with refused("made-up weights", "take another --image"):
            return build(ViT(8, 64, 2, 1, 64, image=16).state_dict(), **fit), {"weights": "made up"}
    for folder in (Path(weights), run.options.out / run.paper / weights / "seed0"):
        if (folder / "checkpoint").is_dir():
            return of_run(folder, run, fit)
    if weights.startswith("pretrain-"):
        how = f"`make reproduce-{run.paper} EXPERIMENT={weights} OUT={run.options.out}`"
        raise BadInput(f"no pre-trained net in {folder}: make it with {how}, or name other --weights")
    cache = run.data_dir / "weights"
    if run.processes > 1:
        run.on_main(lambda: load(weights, cache, **fit) and None)  # downloads, once
    return known(load(weights, cache, **fit), weights)


def known(net: ViT, weights: str) -> tuple[ViT, dict[str, Any]]:
    return net, {
        "weights": weights,
        "weights_sha256": fingerprint(net),
        "gelu": net.blocks[0].gelu.approximate,
        "eps": net.norm.eps,
    }


def of_run(folder: Path, run: Run, fit: dict[str, Any]) -> tuple[ViT, dict[str, Any]]:
    """The net of a finished run of pre-training. Raises BadInput: it has not ended, is damaged, or is of another net."""
    about, _, learned = directory.learned(folder, run.paper, ended=True, say=run.say)
    with refused(str(folder), "name other --weights, or another experiment"):
        net = build(learned["model"], **untold(about), **fit)
    return known(net, f"{about['experiment']}, seed {about['seed']}, commit {about['commit']}")
