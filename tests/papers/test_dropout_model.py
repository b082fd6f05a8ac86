"""Dropout against torch's own, against its expectation over all masks, and where they differ."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from papers.dropout.model import Net, bernoulli, expected_loss, gaussian, l1, max_norm_, monte_carlo, ridge, sparsity

D = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def net(double):
    torch.manual_seed(0)
    return Net([6, 5, 4, 3], (0.8, 0.5, 0.5))


def layers_of(net, q=False):
    """The same net of nn.Linear layers; where q in torch's inverted form, nn.Dropout(1 - p) before weights times p."""
    modules = []
    for n, (W, b, p) in enumerate(zip(net.W, net.b, net.p, strict=True)):
        linear = nn.Linear(W.shape[1], W.shape[0])
        linear.weight.data, linear.bias.data = (p if q else 1) * W.data, b.data.clone()
        modules += [nn.Dropout(1 - p)] * q + [linear] + [nn.ReLU()] * (n < len(net.W) - 1)
    return nn.Sequential(*modules)


def test_thinned_nets_are_torchs_inverted_ones(net, monkeypatch):
    """Masks r on W are masks r / p on p W: the same function, given the same masks."""
    x, r = torch.randn(7, 6), net.masks(7, generator())
    left = [mask / p for mask, p in zip(r, net.p, strict=True)]
    monkeypatch.setattr(F, "dropout", lambda y, q, training, inplace: y * left.pop(0) if training else y)
    theirs = layers_of(net, q=True)
    assert (net(x, r) - theirs(x)).abs().max() <= 1e-12 and not left
    assert (net(x) - theirs.eval()(x)).abs().max() <= 1e-12  # weight scaling


def test_where_torch_differs(net):
    """Of equal weights torch's thinned nets are 1 / p larger, its whole net is not scaled, and an update moves it otherwise."""
    x = torch.randn(7, 6)
    single = Net([6, 3], (0.5,))
    theirs, r = layers_of(single), [torch.ones(7, 6, dtype=torch.bool)]
    torch.testing.assert_close(theirs(x), single(x, r))
    assert (theirs(x) - single(x)).abs().max() > 0.1  # test time
    gradient = torch.autograd.grad(single(x, r).sum(), single.W[0])[0]
    inverted = theirs[0].weight.detach().clone().mul_(0.5).requires_grad_()
    theirs_gradient = torch.autograd.grad(F.linear(x / 0.5, inverted, single.b[0].detach()).sum(), inverted)[0]
    torch.testing.assert_close(theirs_gradient, gradient / 0.5)  # p W moves 1 / p^2 as far at the same rate


def test_p_is_the_probability_of_keeping():
    for p in (0.2, 0.8):
        assert bernoulli((200, 500), p, generator()).double().mean().item() == pytest.approx(p, abs=0.01)


def test_masks_are_drawn_for_each_case_and_layer():
    net = Net([300, 200, 100, 10], (0.8, 1, 0.5))
    r = net.masks(50, generator())
    assert [tuple(mask.shape) for mask in r] == [(50, 300), (50, 100)]
    assert all(not torch.equal(a, b) for mask in r for a, b in itertools.combinations(mask[:5], 2))
    again, other = net.masks(50, generator()), net.masks(50, generator(1))
    assert torch.equal(r[0], again[0]) and not torch.equal(r[0], other[0])


def test_weight_scaling_is_the_mean_of_a_linear_layer(double):
    """Exactly, over all masks and their probabilities; not that of a deeper net, for which it is approximate."""
    torch.manual_seed(0)
    x = torch.randn(1, 4)

    def mean(net, *rest):
        total = 0
        for bits in itertools.product((0, 1), repeat=4):
            chance = torch.tensor([p if bit else 1 - p for bit, p in zip(bits, [net.p[0]] * 4, strict=True)]).prod()
            total = total + chance * net(x, [torch.tensor([bits]).bool(), *rest])
        return total

    flat = Net([4, 3], (0.7,))
    assert (mean(flat) - flat(x)).abs().max() <= 1e-12
    deep = Net([4, 8, 3], (0.7, 1))
    assert 1e-3 < (mean(deep) - deep(x)).abs().max() < 1


def test_gaussian_noise_has_the_moments_of_scaled_masks(double):
    r, scaled = gaussian((400, 500), 0.8, generator()), bernoulli((400, 500), 0.8, generator()) / 0.8
    for mine in (r, scaled):
        assert mine.mean().item() == pytest.approx(1, abs=0.005) and mine.var().item() == pytest.approx(0.25, rel=0.02)
    net = Net([6, 3], (0.8,), noise=gaussian)
    x = torch.randn(2, 6)
    torch.testing.assert_close(net(x), F.linear(x, net.W[0], net.b[0]))  # nothing is scaled at test time


@pytest.mark.parametrize("noise", [bernoulli, gaussian])
@pytest.mark.parametrize("p", [0.2, 0.5])
def test_signals_of_thinned_nets_keep_their_size(noise, p, double):
    torch.manual_seed(0)
    net, x = Net([400] * 6, [p] * 5, noise=noise), torch.randn(200, 400).abs()
    y = net.layers(x, net.masks(200, generator()))
    squares = [layer.square().mean().item() for layer in y[:-1]]
    assert all(0.6 < b / a < 1.6 for a, b in itertools.pairwise(squares)), squares


def test_max_norm():
    """Of incoming vectors, rows of W; as torch.renorm up to the 1e-7 that it adds; what is shorter stays as it is, in every bit."""
    W = torch.randn(30, 50, generator=generator(), dtype=D) * torch.linspace(0, 1, 30, dtype=D)[:, None]
    before = W.clone()
    assert max_norm_(W, 2.0) is W
    assert W.norm(dim=1).max() <= 2 + 1e-12 and not W[0].any()  # not nan
    short = before.norm(dim=1) <= 2
    assert 0 < short.sum() < 30 and torch.equal(W[short], before[short])
    apart = (W - torch.renorm(before, 2, 0, 2.0)).abs().max()
    assert 1e-12 < apart < 1e-6
    cosines = F.cosine_similarity(W[~short], before[~short])
    assert (cosines - 1).abs().max() <= 1e-12


def test_monte_carlo_tends_to_the_mean_over_masks(double):
    torch.manual_seed(0)
    net, x = Net([3, 2], (0.5,)), 5 * torch.randn(1, 3)
    each = torch.cat([net(x, [torch.tensor([bits]).bool()]).softmax(1) for bits in itertools.product((0, 1), repeat=3)])
    estimate = monte_carlo(net, x.expand(40_000, 3), generator()).mean(0)
    torch.testing.assert_close(estimate, each.mean(0), atol=0.005, rtol=0)
    geometric = each.log().mean(0).exp()
    scaled = net(x).softmax(1)[0]
    assert (geometric / geometric.sum() - scaled).abs().max() <= 1e-12  # which weight scaling is, of a single softmax layer
    assert (scaled - each.mean(0)).abs().max() > 0.01


def test_penalties_by_hand(net):
    assert l1(net).item() == pytest.approx(sum(W.abs().sum().item() for W in net.W))
    hidden = [torch.tensor([[0.0, 2.0], [0.4, 0.0]], dtype=D)]  # means 0.2 and 1
    assert sparsity(hidden, 0.1).item() == pytest.approx((0.1**2 + 0.9**2) / 2)


# Sec. 9.1.


def regression(features=4):
    X = torch.randn(20, features, generator=generator(), dtype=D)
    return X, torch.randn(20, generator=generator(1), dtype=D), torch.randn(features, generator=generator(2), dtype=D)


@pytest.mark.parametrize("p", [0.3, 0.8])
def test_the_expected_loss_over_all_masks_is_a_ridge(p):
    """Masks of each example are independent: so are the terms of the sum over examples, each a mean over 2^D masks."""
    X, y, w = regression()
    total = 0
    for bits in itertools.product((0.0, 1.0), repeat=4):
        r = torch.tensor(bits, dtype=D)
        total += (p**r * (1 - p) ** (1 - r)).prod() * (y - (r * X) @ w).square().sum()
    assert (total - expected_loss(w, X, y, p)).abs() <= 1e-12 * total


def test_the_closed_form_is_the_least():
    X, y, _ = regression()
    w = ridge(X, y, 0.5).requires_grad_()
    (gradient,) = torch.autograd.grad(expected_loss(w, X, y, 0.5), w)
    assert gradient.abs().max() <= 1e-12
    assert (ridge(X, y, 1.0) - torch.linalg.lstsq(X, y[:, None]).solution[:, 0]).abs().max() <= 1e-12
    Q, _ = torch.linalg.qr(X)  # uncorrelated features: p w is p times least squares
    assert (0.5 * ridge(Q, y, 0.5) - 0.5 * ridge(Q, y, 1.0)).abs().max() <= 1e-12


@pytest.mark.parametrize(("hidden", "count"), [((1024,) * 3, 2_913_290), ((1024, 1024, 2048), 3_973_130), ((800, 800), 1_276_810)])
def test_parameter_counts(hidden, count):
    with torch.device("meta"):
        assert sum(w.numel() for w in Net([784, *hidden, 10], [0.5] * (len(hidden) + 1)).parameters()) == count
