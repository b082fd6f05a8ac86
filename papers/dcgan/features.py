"""Sec. 5: a discriminator as a feature extractor, and a linear L2-SVM on top of it; random weights and pixels as controls."""

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.data.images import normalised
from common.data.order import mix, permuted
from common.run import Run
from papers.dcgan.model import Discriminator, population_statistics

CS = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)  # the authors' list (code)
BATCH = 128

Features = Callable[[Tensor], np.ndarray]  # images (n, H, W, 3), bytes -> (n, F), fp32


class Labelled(NamedTuple):
    """Images (n, H, W, 3), bytes, and their classes (n,), on the CPU."""

    images: Tensor
    labels: Tensor

    def some(self, index: Tensor) -> "Labelled":
        return Labelled(self.images[index], self.labels[index])


class Sets(NamedTuple):
    train: Labelled
    validation: Labelled
    test: Labelled


def of_network(run: Run, net: Discriminator, some: Tensor) -> Features:
    """Of a discriminator whose batch norms take the population's statistics, those of the images `some`."""
    net.eval()
    shown = lambda images: normalised(images.to(run.device), 127.5, 127.5)
    with run.autocast():
        population_statistics(net, map(shown, some.split(BATCH)))

    def features(images: Tensor) -> np.ndarray:
        with torch.no_grad(), run.autocast():
            return np.concatenate([net.features(shown(part)).float().cpu().numpy() for part in images.split(BATCH)])

    return features


def of_pixels(images: Tensor) -> np.ndarray:
    return normalised(images, 127.5, 127.5).flatten(1).float().numpy()


def few(labels: Tensor, per_class: int, *parts: object) -> Tensor:
    """The numbers of so many samples of each class, drawn by `parts`: (classes per_class,)."""
    chosen = []
    for k in labels.unique().tolist():
        members = (labels == k).nonzero().squeeze(1)
        chosen.append(members[permuted(len(members), mix("few", k, *parts), 0, min(per_class, len(members)))])
    return torch.cat(chosen)


def svm_errors(features: Features, sets: Sets, per_class: int, trials: int, draws: int, seed: int) -> tuple[list[float], float]:
    """(test errors in %, of an SVM on each of `draws` draws of so many labels of each class; C).

    C is that of the least mean error on the validation images over `trials` draws (code). per_class 0: on all labels, once.
    """
    from sklearn.svm import LinearSVC

    validation, test = features(sets.validation.images), features(sets.test.images)

    def error(C: float, draw: int, x: np.ndarray, labels: Tensor) -> float:
        some = sets.train.some(few(sets.train.labels, per_class, seed, draw)) if per_class else sets.train
        svm = LinearSVC(C=C, dual=True, random_state=abs(draw)).fit(features(some.images), some.labels.numpy())
        return 100 * float((svm.predict(x) != labels.numpy()).mean())

    trials, draws = (trials, draws) if per_class else (1, 1)
    mean = {C: statistics.fmean(error(C, -1 - i, validation, sets.validation.labels) for i in range(trials)) for C in CS}
    best = min(mean, key=lambda C: mean[C])
    return [error(best, i, test, sets.test.labels) for i in range(draws)], best


def judge(run: Run, nets: Sequence[tuple[str, Discriminator | None]], sets: Sets, some: Tensor) -> dict[str, float]:
    """Errors and accuracies in % on the test images, of features by the names of `nets`; None: the pixels.

    some: images, bytes (n, H, W, 3), over which the statistics of batch norms are taken.
    """
    config, metrics = run.config, {}
    for name, net in nets:
        features = of_pixels if net is None else of_network(run, net, some)
        for per_class in config.labelled:
            errors, C = svm_errors(features, sets, per_class, config.trials, config.draws, run.seed)
            mean, of = statistics.fmean(errors), f"svm_{per_class}_a_class" if per_class else "svm_all_labels"
            run.say(f"{name} features, {of}: {mean:.2f} % errors with C {C}")
            found = {f"test_error_{of}": mean, f"test_accuracy_{of}": 100 - mean, f"C_{of}": C}
            if len(errors) > 1:
                found[f"spread_{of}"] = 1.96 * statistics.pstdev(errors)  # as the paper has it (code)
            metrics |= {key if name == "learned" else f"{name}_{key}": value for key, value in found.items()}
            if name != "learned":
                key = f"test_accuracy_{of}"
                metrics[f"learned_minus_{name}_{of}"] = metrics[key] - metrics[f"{name}_{key}"]
    return metrics
