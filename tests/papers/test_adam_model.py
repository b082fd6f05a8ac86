"""The optimisers against torch's own and against their listings, and where they differ."""

import math

import pytest
import torch
from torch import nn

from papers.adam.model import METHODS, Adam, AdaMax, Momentum, Softmax, cosine, inverse_sqrt, restarts

D = torch.float64


def gradients(n=40, seed=0):
    """Of a problem with scales that differ, the same for all."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 5, generator=generator, dtype=D) * torch.tensor([1e-3, 0.1, 1, 10, 1e3], dtype=D)


def path(make, n=40):
    """Where a method goes, given these gradients."""
    theta = nn.Parameter(torch.ones(5, dtype=D))
    optimizer, points = make([theta]), []
    for g in gradients(n):
        theta.grad = g.clone()
        optimizer.step()
        points.append(theta.detach().clone())
    return torch.stack(points)


THEIRS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.01),
    "momentum": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, nesterov=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.01, eps=1e-8),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, alpha=0.9, eps=1e-8),
    "adadelta": lambda p: torch.optim.Adadelta(p, 0.01, rho=0.95, eps=1e-6),
    "adam": lambda p: torch.optim.Adam(p, 0.01, eps=1e-8),
}


@pytest.mark.parametrize("name", THEIRS)
def test_as_torch(name):
    assert (path(lambda p: METHODS[name](p, 0.01)) - path(THEIRS[name])).abs().max() <= 1e-12


def test_adam_by_hand():
    """Algorithm 1 and AMSGrad's listing, number by number."""
    theta = amsgrad = 1.0
    m = v = v_hat = 0.0
    ours, theirs = (path(lambda p, name=name: METHODS[name](p, 0.01))[:, 2] for name in ("adam", "amsgrad"))
    for t, g in enumerate(gradients()[:, 2].tolist(), 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        theta -= 0.01 * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)
        v_hat = max(v_hat, v)
        amsgrad -= 0.01 * m / (math.sqrt(v_hat) + 1e-8)
        assert ours[t - 1] == pytest.approx(theta, abs=1e-12) and theirs[t - 1] == pytest.approx(amsgrad, abs=1e-12)


def test_adamax():
    """As torch's where its eps does not matter; a step is at most alpha; no gradient, no step."""
    ours = path(lambda p: AdaMax(p, 0.01))
    assert (ours - path(lambda p: torch.optim.Adamax(p, 0.01, eps=0))).abs().max() <= 1e-12
    steps = torch.cat([torch.ones(1, 5, dtype=D), ours]).diff(dim=0).abs()
    assert steps.max() <= 0.01 * (1 + 1e-12) and steps.max() > 0.0099
    theta = nn.Parameter(torch.ones(2, dtype=D))
    theta.grad = torch.tensor([0.0, 1.0], dtype=D)
    AdaMax([theta], 0.1).step()
    assert theta.tolist() == [1.0, pytest.approx(0.9)]


def test_adamw_decays_apart_from_alpha():
    """torch multiplies its decay by the stepsize: lambda_torch = lambda / alpha. And the schedule eta scales both parts."""
    ours = path(lambda p: METHODS["adamw"](p, 0.01, decay=0.002))
    assert (ours - path(lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.2, eps=1e-8))).abs().max() <= 1e-12
    assert (ours - path(lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.002, eps=1e-8))).abs().max() > 1e-3
    assert torch.equal(path(lambda p: METHODS["adamw"](p, 0.01, eta=0.0)), torch.ones(40, 5, dtype=D))


def test_adam_does_not_see_the_scale_of_gradients():
    """Sec. 2.1, but for epsilon: and a first step is alpha, whatever the gradient."""
    first = [nn.Parameter(torch.zeros(3, dtype=D)) for _ in range(2)]
    for theta, scale in zip(first, (1.0, 1e6), strict=True):
        optimizer = Adam([theta], 0.01)
        for g in (torch.tensor([1.0, -2.0, 50.0]), torch.tensor([3.0, 1.0, -7.0])):
            theta.grad = scale * g.to(D)
            optimizer.step()
    assert (first[0] - first[1]).abs().max() < 1e-9
    assert path(lambda p: Adam(p, 0.01))[0] == pytest.approx(1 - 0.01 * gradients()[0].sign().numpy(), abs=1e-6)


def test_stepsize_is_inside_the_velocity():
    """As Sutskever et al. print it: torch's form is another where the stepsize changes."""

    def moved(make, name):
        theta = nn.Parameter(torch.ones(5, dtype=D))
        optimizer = make([theta], 0.1)
        for t, g in enumerate(gradients(4)):
            theta.grad = g.clone()
            optimizer.param_groups[0][name] = 0.1 / (t + 1)
            optimizer.step()
        return theta.detach()

    torchs = moved(lambda p, a: torch.optim.SGD(p, a, momentum=0.9), "lr")
    ours, v, theta = moved(Momentum, "alpha"), torch.zeros(5, dtype=D), torch.ones(5, dtype=D)
    for t, g in enumerate(gradients(4)):
        v = 0.9 * v - 0.1 / (t + 1) * g
        theta = theta + v
    assert torch.allclose(ours, theta, rtol=0, atol=1e-12)
    assert (ours - torchs).abs().max() > 1e-3


@pytest.mark.parametrize("name", METHODS)
def test_nets_side_by_side_have_their_own_stepsizes(name):
    """T stacked nets, a stepsize each, move as each would alone; and a method that was stopped goes on from its state."""
    alphas, many = torch.tensor([0.001, 0.1], dtype=D), nn.Parameter(torch.ones(2, 5, dtype=D))
    together, alone = METHODS[name]([many], alphas), []
    for g in gradients(3):
        many.grad = g.expand(2, 5).clone()
        together.step()
        again = METHODS[name]([many], alphas)
        again.load_state_dict(together.state_dict())
        together = again
    for alpha in alphas.tolist():
        alone.append(path(lambda p, alpha=alpha: METHODS[name](p, alpha), 3)[-1])
    assert (many - torch.stack(alone)).abs().max() <= 1e-12


def test_schedules():
    assert [inverse_sqrt(t) for t in (1, 4, 100)] == [1, 0.5, 0.1]
    assert (cosine(1, 10), cosine(6, 10), cosine(11, 10)) == (1, pytest.approx(0.5), pytest.approx(0))
    assert [restarts(t, 10) for t in (1, 11, 31, 71)] == [1, 1, 1, 1]  # cycles of 10, 20, 40
    assert restarts(21, 10) == pytest.approx(0.5) and restarts(10, 10) < 0.03 and restarts(70, 10) < 0.002
    assert restarts(15, 10, 1) == cosine(5, 10)


def test_softmax_is_each_net_alone():
    torch.manual_seed(0)
    nets, x = Softmax(3, 7, 4).double(), torch.randn(6, 7, dtype=D)
    for weight in nets.parameters():
        nn.init.normal_(weight)
    each = torch.stack([nn.functional.linear(x, W, b) for W, b in zip(nets.W, nets.b, strict=True)])
    assert torch.allclose(nets(x), each, rtol=0, atol=1e-12)
