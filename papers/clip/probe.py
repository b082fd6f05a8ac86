"""Linear probes (Sec. 3.2, Appendix A.3): logistic regression on features, its regularisation by a sweep on held-out images."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from common.run import Run
from papers.clip.model import CLIP
from papers.clip.zeroshot import Images, Set, prepared

HELD_OUT = 0.2  # of the training set, to choose C by, where a set has no validation set; the paper uses those that sets have
COARSE, FINEST = (-6, -4, -2, 0, 2, 4, 6), 1 / 8  # "8 steps per decade": 96 values of C between 1e-6 and 1e6


def sweep(score: Callable[[float], float]) -> float:
    """The exponent of C with the best score, by the paper's parametric binary search: seven values, then nearer to the best.

    score: of 10**exponent, higher being better; asked once for each value. Of equals the smaller C.
    """
    scores = {float(each): score(10.0**each) for each in COARSE}
    step = 1.0
    while step >= FINEST:
        best = max(scores, key=lambda each: (scores[each], -each))
        for each in (best - step, best + step):
            if each not in scores and COARSE[0] <= each <= COARSE[-1]:
                scores[each] = score(10.0**each)
        step /= 2
    return max(scores, key=lambda each: (scores[each], -each))


def fit(x: np.ndarray, y: np.ndarray, C: float) -> Callable[[np.ndarray], np.ndarray]:
    """scikit-learn's L-BFGS, "maximum 1,000 iterations", on features as they are."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=C, max_iter=1000).fit(x, y).predict


def features(run: Run, model: CLIP, images: Images, side: int) -> Tensor:
    """I_f (n, D): "the features before the linear projection to the embedding space"; of a ResNet what its pooling gives."""
    batches = prepared(run, images, side)
    with run.evaluating(model) as net:
        found = [net.image_encoder.features(each).float() for each in batches()]
    return run.gather(torch.cat(found), images.n).cpu()


def linear_probe(run: Run, model: CLIP, data: Set, side: int) -> dict[str, float]:
    """Test accuracy in % of a linear classifier, for all training images, with the C that is best on held-out ones."""
    x, x_test = (features(run, model, each, side).numpy() for each in (data.train, data.test))
    y, y_test = data.train.labels.numpy(), data.test.labels.numpy()

    def whole() -> tuple[float, float]:
        order = np.random.default_rng(0).permutation(len(y))
        held = int(HELD_OUT * len(y))
        a, b = order[held:], order[:held]
        exponent = sweep(lambda C: float((fit(x[a], y[a], C)(x[b]) == y[b]).mean()))
        return exponent, 100 * float((fit(x, y, 10**exponent)(x_test) == y_test).mean())

    exponent, accuracy = run.on_main(whole)
    return {"probe_accuracy": accuracy, "probe_log10_c": exponent}
