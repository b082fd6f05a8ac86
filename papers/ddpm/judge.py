"""How good samples are, without a network from elsewhere: a classifier that is trained here, and nearest neighbours."""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.data.order import permuted
from common.run import Run
from papers.ddpm.data import Data, scaled


class Classifier(nn.Sequential):
    """Three convolutions, each with half the side of the one before, and a linear layer: not the paper's."""

    def __init__(self, channels: int, classes: int = 10) -> None:
        maps = (channels, 16, 32, 64)
        layers = []
        for a, b in itertools.pairwise(maps):
            layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * maps[-1], classes))


def trained(run: Run, data: Data, epochs: int) -> Classifier:
    """A classifier of the training images, by Adam, a function of the seed alone."""
    run.seed_all("classifier")
    net = Classifier(data.images.shape[3]).to(run.device)
    n, batch = len(data.images), 100
    updates = epochs * n // batch
    adam = torch.optim.Adam(net.parameters(), 2e-3)
    for step in range(updates):
        index = permuted(n, run.seed, step * batch, (step + 1) * batch).to(run.device)
        adam.param_groups[0]["lr"] = 2e-3 * (1 - step / updates)
        loss = F.cross_entropy(net(scaled(data.images[index])), data.labels[index])
        loss.backward()
        adam.step()
        adam.zero_grad()
    return net.eval()


def entropy(p: Tensor) -> float:
    """In nats, of a distribution over classes (K,)."""
    return torch.special.entr(p).sum().item()


@torch.no_grad()
def classes_of(net: Classifier, images: Tensor) -> Tensor:
    """Probabilities of the classes, for bytes (n, H, W, C): (n, K)."""
    return torch.cat([net(scaled(part)).float().softmax(1) for part in images.split(500)])


def neighbours(a: Tensor, b: Tensor) -> float:
    """The 1-NN two-sample test (Lopez-Paz and Oquab, 2017): the share, in %, of images whose nearest other is of their own set.

    Bytes (n, ...) each, as many of both. About 50 if the sets cannot be told apart, 100 if they have nothing in common; less
    than 50 if one has copies of the other.
    """
    x = torch.cat([a, b]).flatten(1).double()
    distance = torch.cdist(x, x).fill_diagonal_(math.inf)
    own = torch.arange(len(x), device=x.device) < len(a)
    return 100 * (own[distance.argmin(1)] == own).double().mean().item()


def judge(run: Run, data: Data, sets: dict[str, Tensor], epochs: int) -> dict[str, float]:
    """Metrics of each set of samples, bytes (n, H, W, C), by what their names begin with; and of as many training images.

    confidence: mean probability of the likeliest class. class_entropy: of the distribution over classes, of which the most is
    log 10 = 2.303. 1nn: against as many test images.
    """
    net = trained(run, data, epochs)
    found = classes_of(net, data.test_images).argmax(1)
    metrics = {"classifier_accuracy": 100 * (found == data.test_labels).double().mean().item()}
    n = min(len(next(iter(sets.values()))), len(data.test_images))
    for name, images in {**sets, "real_": data.images[:n]}.items():
        p = classes_of(net, images)
        metrics[f"{name}confidence"] = 100 * p.amax(1).mean().item()
        metrics[f"{name}class_entropy"] = entropy(F.one_hot(p.argmax(1), p.shape[1]).double().mean(0))
        metrics[f"{name}1nn"] = neighbours(images[:n], data.test_images[:n])
    return metrics
