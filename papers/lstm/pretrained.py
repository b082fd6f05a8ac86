"""The weights of the published run, papers/lstm/weights/, on its test sequences: the published numbers, in seconds.

make evaluate-lstm                                            # those of temporal-order-6a, seed 0
make evaluate-lstm ARGS=runs/lstm/temporal-order-6a/seed1     # a run of one's own, of any of the experiments 2c to 6
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from common import directory
from common.claims import Experiment
from common.command import evaluate_weights
from common.run import Run
from common.weights import filled, fingerprint, refused
from papers.lstm.model import LSTM
from papers.lstm.sequence_end import Config, evaluate

OURS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Weights:
    weights: str
    """A name in papers/lstm/weights, a file that `make export-lstm` wrote, or the folder of a run."""


WEIGHTS = {
    "weights-temporal-order-6a-seed0": Experiment(
        Weights("temporal-order-6a-seed0"), kind="weights", source="Sec. 5.6, Table 9",
        cap="2,560 test sequences for each of 20 nets", cost="10 s on one CPU core",
        note="the nets that temporal-order-6a, seed 0, has learned",
        precision={"cpu": "fp64", "cuda": "fp64"}, per_sample=True,
    )
}  # fmt: skip


def load(weights: str) -> tuple[Config, LSTM]:
    """The nets, and how they were trained.

    Raises:
        BadInput: there are no such weights, or they are other nets'.
    """
    path = OURS / f"{weights}.safetensors"
    path = path if path.exists() else Path(weights)
    if (path / "checkpoint").is_dir():
        _, config, learned = directory.learned(path, "lstm", Config)
        state = learned["model"]
    else:
        names = ", ".join(sorted(each.stem for each in OURS.glob("*.safetensors")))
        with refused(weights, f"name a run's folder, or one of {names}"), safe_open(path, "pt") as file:
            values = json.loads(file.metadata()["config"])
            config = Config(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    with refused(weights, "make it anew"):
        return config, filled(config.network(), state, "the nets of their configuration")


def main(run: Run[Weights]) -> dict[str, float]:
    """Means over all nets, solved or not."""
    config, model = load(run.config.weights)
    n = config.test_sequences
    run.describe_data(
        name=f"{config.task}, generated", generator="papers/lstm/tasks.py", seed=run.seed, train=0, test=n, stand_in=False,
        weights_sha256=fingerprint(model),
    )  # fmt: skip
    wrong, error, _ = evaluate(run, config, model.to(run.device), n, "test")
    return {f"wrong_of_{n}": wrong.mean().item(), "wrong_max": wrong.max().item(), "test_error": error.mean().item()}


if __name__ == "__main__":
    if len(sys.argv) < 2 or (sys.argv[1].startswith("-") and sys.argv[1] not in ("-h", "--help")):
        sys.argv.insert(1, "temporal-order-6a-seed0")
    evaluate_weights(WEIGHTS, main)
