"""The optimisers against torch's own and against their listings, and where they differ."""

import math

import pytest
import torch
from torch import nn

from papers.adam.model import METHODS, Adam, AdaMax, Momentum, Softmax, Uncorrected, cosine, drops, inverse_sqrt, restarts
from papers.adam.nets import MLP, VAE, Side, bag, bounded

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


def test_settings_of_each_net():
    """A decay for each of T nets, as a stepsize."""
    decays, many = torch.tensor([0.0, 0.1], dtype=D), nn.Parameter(torch.ones(2, 5, dtype=D))
    optimizer = METHODS["adamw"]([many], torch.tensor([0.01, 0.01], dtype=D), decay=decays)
    for g in gradients(3):
        many.grad = g.expand(2, 5).clone()
        optimizer.step()
    for each, decay in zip(many, decays.tolist(), strict=True):
        assert (each - path(lambda p, decay=decay: METHODS["adamw"](p, 0.01, decay=decay), 3)[-1]).abs().max() <= 1e-12


@pytest.mark.parametrize("b1, b2, size", [(0.0, 0.99, 10), (0.0, 0.9999, 100), (0.9, 0.9999, 10)])
def test_without_correction_first_steps_are_too_large(b1, b2, size):
    """Sec. 6.4: (1 - b1) / sqrt(1 - b2) stepsizes; later there is no difference, as both corrections go to 1."""
    make = lambda kind: path(lambda p: kind(p, 0.01, b1=b1, b2=b2), 1)[0][2:]
    assert (1 - make(Uncorrected)).abs() == pytest.approx(torch.full((3,), 0.01 * size).numpy(), rel=1e-4)
    assert (1 - make(Adam)).abs() == pytest.approx(torch.full((3,), 0.01).numpy(), rel=1e-4)
    last = [path(lambda p, kind=kind: kind(p, 0.01, b1=0.5, b2=0.6), 120).diff(dim=0)[-1] for kind in (Adam, Uncorrected)]
    assert torch.allclose(*last, rtol=1e-12)


def test_schedules():
    assert [inverse_sqrt(t) for t in (1, 4, 100)] == [1, 0.5, 0.1]
    assert (cosine(1, 10), cosine(6, 10), cosine(11, 10)) == (1, pytest.approx(0.5), pytest.approx(0))
    assert [restarts(t, 10) for t in (1, 11, 31, 71)] == [1, 1, 1, 1]  # cycles of 10, 20, 40
    assert restarts(21, 10) == pytest.approx(0.5) and restarts(10, 10) < 0.03 and restarts(70, 10) < 0.002
    assert restarts(15, 10, 1) == cosine(5, 10)
    assert [drops(t, 10) for t in (3, 4, 6, 7, 8, 9)] == [
        1,
        0.2,
        0.2,
        pytest.approx(0.04),
        pytest.approx(0.04),
        pytest.approx(0.008),
    ]


def linear(net, x):
    """What torch makes of each of the T nets' layers, one net after the other."""
    for T in range(len(net.W[0])):
        h = nn.functional.linear(x, net.W[0][T], net.b[0][T])
        for W, b in zip(net.W[1:], net.b[1:], strict=True):
            h = nn.functional.linear(h.relu(), W[T], b[T])
        yield h


def drawn(net):
    torch.manual_seed(0)
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.3)
    return net.double()


def test_nets_are_each_net_alone():
    x, y = torch.randn(6, 7, dtype=D), torch.tensor([0, 1, 2, 3, 1, 0])
    net = drawn(Softmax(3, 7, 4))
    each = torch.stack([nn.functional.linear(x, W, b) for W, b in zip(net.W, net.b, strict=True)])
    assert torch.allclose(net(x), each, rtol=0, atol=1e-12)
    net = drawn(MLP(3, 7, (5, 6), 4))
    each = torch.stack([*linear(net, x)])
    assert torch.allclose(net(x), each, rtol=0, atol=1e-12)
    costs = torch.stack([nn.functional.cross_entropy(logits, y, reduction="none") for logits in each])
    assert torch.allclose(net.costs(x, y, 0.0), costs, rtol=0, atol=1e-12)


def test_all_nets_begin_alike_and_have_the_papers_sizes():
    """Sec. 6.2's net has 1,796,010 weights (the sheet's arithmetic)."""
    both = Side(2, MLP(2, 784))
    assert sum(theta.numel() for theta in both.of[0].parameters()) == 2 * 1_796_010
    for one, other in zip(*(net.parameters() for net in both.of), strict=True):
        assert torch.equal(one, other) and torch.equal(one[0], one[1]) and one is not other


def test_dropout_of_hidden_units_keeps_their_mean():
    torch.manual_seed(0)
    net, x = drawn(MLP(1, 7, (4000,), 2)), torch.randn(1, 7, dtype=D).expand(64, 7)
    plain, noisy = net(x)[0], net(x, 0.5)[0]
    assert noisy.std(0).min() > 1 and (noisy.mean(0) - plain[0]).abs().max() < 4 * noisy.std(0).max() / 8


def test_bound_of_the_vae():
    """Its two parts by torch.distributions, with the same noise."""
    net, x = drawn(VAE(2, 7, hidden=5, latent=3)), torch.rand(4, 7, dtype=D)
    torch.manual_seed(1)
    costs = net.costs(x, x, 0.0)
    torch.manual_seed(1)
    noise = torch.randn(4, 3, dtype=D)
    for T in range(2):
        h = nn.functional.softplus(nn.functional.linear(x, net.W[0][T], net.b[0][T]))
        mu, log_var = nn.functional.linear(h, net.W[1][T], net.b[1][T]).chunk(2, -1)
        q = torch.distributions.Normal(mu, (log_var / 2).exp())
        z = mu + q.stddev * noise
        h = nn.functional.softplus(nn.functional.linear(z, net.W[2][T], net.b[2][T]))
        p = torch.distributions.Bernoulli(logits=nn.functional.linear(h, net.W[3][T], net.b[3][T]), validate_args=False)
        kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(-1)
        assert torch.allclose(costs[T], kl - p.log_prob(x).sum(-1), rtol=1e-12)


def test_l2_is_half_the_squares():
    side = Side(2, drawn(MLP(3, 7, (5,), 4)))
    x, y, constants = torch.randn(6, 7, dtype=D), torch.zeros(6, dtype=torch.long), torch.arange(6.0)
    more = (side(x, y, 0.0, constants) - side(x, y)).mean(1)
    squares = sum(theta[1].square().sum() for theta in side.of[1].parameters())
    assert more[4].item() == pytest.approx(4 * squares.item() / 2, rel=1e-4) and more[0] == 0


def test_bags_of_words_and_lost_nets():
    assert bag(torch.tensor([[2, 0, 4], [4, 4, 4]]), 4).tolist() == [[1, 0, 1, 0], [0, 0, 0, 0]]
    assert bounded(torch.tensor([3.0, math.nan, math.inf, 5000.0])).tolist() == [3, 1000, 1000, 1000]
