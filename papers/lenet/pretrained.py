"""The weights of the published run, papers/lenet/weights/, on MNIST's test set: the published number, in seconds.

make evaluate-lenet                                      # those of mnist, seed 0
make evaluate-lenet ARGS=runs/lenet/mnist/seed0          # a run of one's own, its newest checkpoint
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors.torch import load_file

from common.claims import Experiment
from common.command import evaluate_weights
from common.data import mnist
from common.run import Run
from common.weights import filled, fingerprint, refused
from papers.lenet.export import of_run
from papers.lenet.model import LeNet5, printed
from papers.lenet.train import evaluate

OURS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Weights:
    weights: str
    """A name in papers/lenet/weights, a file that `make export-lenet` wrote, or the folder of a run."""


WEIGHTS = {
    "weights-mnist-seed0": Experiment(
        Weights("mnist-seed0"), kind="weights", source="Sec. III, Fig. 5", cap="the test set", cost="5 s on one CPU core",
        note="the net that mnist, seed 0, has learned",
    )
}  # fmt: skip


def load(weights: str) -> LeNet5:
    """Raises BadInput: there are no such weights, or they are another net's."""
    path = OURS / f"{weights}.safetensors"
    path = path if path.exists() else Path(weights)
    if (path / "checkpoint").is_dir():
        return of_run(path)
    with refused(weights, f"name a run's folder, or one of {', '.join(sorted(each.stem for each in OURS.glob('*.safetensors')))}"):
        return filled(LeNet5(printed, None), load_file(path), "a LeNet-5")


def main(run: Run[Weights]) -> dict[str, float]:
    model = load(run.config.weights)
    run.on_main(lambda: mnist.fetch(run.data_dir))
    digits = mnist.load(run.data_dir)
    run.describe_data(
        name="mnist", sha256=digits.sha256, train=0, test=len(digits.test_images), stand_in=False, weights_sha256=fingerprint(model)
    )
    digits = replace(digits, test_images=digits.test_images.to(run.device), test_labels=digits.test_labels.to(run.device))
    wrong = (evaluate(run, model.to(run.device), digits) != digits.test_labels).sum().item()
    return {"test_error": 100 * wrong / len(digits.test_labels), "errors": wrong}


if __name__ == "__main__":
    if len(sys.argv) < 2 or (sys.argv[1].startswith("-") and sys.argv[1] not in ("-h", "--help")):
        sys.argv.insert(1, "mnist-seed0")
    evaluate_weights(WEIGHTS, main)
