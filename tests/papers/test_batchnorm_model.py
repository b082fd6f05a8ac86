"""Batch norm against its listing and torch's own, and where they differ; the other norms; the nets."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from papers.batchnorm.model import (
    CONVOLUTIONAL,
    EPSILON,
    BatchNorm,
    ConvNet,
    GroupNorm,
    LayerNorm,
    Nets,
    Transform,
    population,
)  # fmt: skip

D = torch.float64


def filled(norm, seed=3):
    """With gamma and beta of a net that has learned."""
    generator = torch.Generator().manual_seed(seed)
    for p in norm.double().parameters():
        p.data = 1 + torch.randn(p.shape, generator=generator, dtype=D) / 2
    return norm


def like(norm, ours):
    """Torch's, with our gamma and beta."""
    norm.double().weight.data, norm.bias.data = ours.gamma.detach().flatten(), ours.beta.detach().flatten()
    return norm


CASES = {
    "dense": ((60, 7), lambda: BatchNorm(1, 7), lambda: nn.BatchNorm1d(7)),
    "convolutional": ((5, 6, 4, 3), lambda: BatchNorm(1, 6, 1, 1, axes=(0, 2, 3)), lambda: nn.BatchNorm2d(6)),
    "layer": ((9, 7), lambda: LayerNorm(7), lambda: nn.LayerNorm(7)),
    "group": ((5, 6, 4, 3), lambda: GroupNorm(2, 6), lambda: nn.GroupNorm(2, 6)),
    "layer, convolutional": ((5, 6, 4, 3), lambda: CONVOLUTIONAL["ln"](6, 2), lambda: nn.GroupNorm(1, 6)),
    "instance": ((5, 6, 4, 3), lambda: CONVOLUTIONAL["in"](6, 2), lambda: nn.InstanceNorm2d(6, affine=True)),
}


@pytest.mark.parametrize("case", CASES)
def test_as_torch(case):
    """Outputs and all gradients; of batch norm also what it is after three batches, in evaluation."""
    shape, ours, theirs = CASES[case]
    ours = filled(ours())
    theirs = like(theirs(), ours)
    for seed in range(3):
        x = 5 + 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=D)
        g = torch.randn(shape, generator=torch.Generator().manual_seed(seed + 10), dtype=D)
        xs = [x.clone().requires_grad_() for _ in range(2)]
        ys = [norm(each) for norm, each in zip((ours, theirs), xs, strict=True)]
        assert (ys[0] - ys[1]).abs().max() <= 1e-12
        one = torch.autograd.grad(ys[0], [xs[0], ours.gamma, ours.beta], g)
        two = torch.autograd.grad(ys[1], [xs[1], theirs.weight, theirs.bias], g)
        for a, b in zip(one, two, strict=True):
            assert (a.flatten() - b.flatten()).abs().max() <= 1e-12
    if isinstance(ours, BatchNorm):
        ours.eval(), theirs.eval()
        assert (ours(x) - theirs(x)).abs().max() <= 1e-12
        assert (ours.running_var.flatten() - theirs.running_var).abs().max() <= 1e-12


def test_the_papers_lines():
    """Algorithm 1 and the six derivatives of Sec. 3 as they are printed, case by case."""
    x, dy = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0), dtype=D)
    norm, m, eps = filled(BatchNorm(1, 3)), 8, EPSILON
    mu = sum(x) / m
    s2 = sum((each - mu) ** 2 for each in x) / m
    xhat = [(each - mu) / (s2 + eps).sqrt() for each in x]
    dxhat = [each * norm.gamma[0].detach() for each in dy]
    ds2 = sum(d * (each - mu) * -0.5 * (s2 + eps) ** -1.5 for d, each in zip(dxhat, x, strict=True))
    dmu = sum(d * -1 / (s2 + eps).sqrt() for d in dxhat) + ds2 * sum(-2 * (each - mu) for each in x) / m
    dx = [d / (s2 + eps).sqrt() + ds2 * 2 * (each - mu) / m + dmu / m for d, each in zip(dxhat, x, strict=True)]
    x.requires_grad_()
    y = norm(x)
    assert (y - torch.stack(xhat) * norm.gamma - norm.beta).abs().max() <= 1e-12
    found = torch.autograd.grad(y, [x, norm.gamma, norm.beta], dy)
    wanted = torch.stack(dx), sum(d * h for d, h in zip(dy, xhat, strict=True)), sum(dy)
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).abs().max() <= 1e-12


def test_backward_by_finite_differences():
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1), dtype=D, requires_grad=True)
    norm = filled(BatchNorm(2, 1, 3))
    assert torch.autograd.gradcheck(lambda *of: Transform.apply(*of, (-2,))[0], (x, norm.gamma, norm.beta))


def test_where_torch_differs():
    """Running averages are not Algorithm 2; the variance of a batch is biased, the population's is not; a batch of one case."""
    data = torch.randn(64, 4, generator=torch.Generator().manual_seed(0), dtype=D) * 3 + 2
    norm, theirs = BatchNorm(1, 4).double(), nn.BatchNorm1d(4).double()
    for x in data.split(16):
        norm(x), theirs(x)
    assert (norm.running_mean[0] - theirs.running_mean).abs().max() <= 1e-12
    population(norm, data.split(16))
    batches = data.view(4, 16, 4)
    wanted = 16 / 15 * batches.var(1, correction=0).mean(0)
    assert (norm.running_mean[0] - data.mean(0)).abs().max() <= 1e-12
    assert (norm.running_var[0] - wanted).abs().max() <= 1e-12 and norm.momentum == 0.1
    assert (theirs.running_mean - data.mean(0)).abs().min() > 0.5  # four steps from 0 with weight 0.1

    y = BatchNorm(1, 4).double()(x)
    assert torch.allclose(y.var(0, correction=0), x.var(0, correction=0) / (x.var(0, correction=0) + EPSILON), atol=1e-12)

    one = filled(BatchNorm(1, 4))
    assert torch.equal(one(data[:1]), one.beta)
    assert one.running_var.isfinite().all()
    with pytest.raises(ValueError, match="more than 1 value"):
        nn.BatchNorm1d(4).double()(data[:1])


def test_evaluation_is_one_affine_map():
    """Algorithm 2, line 11: what the other cases are does not matter."""
    norm, x = filled(BatchNorm(1, 4)), torch.randn(32, 4, dtype=D)
    norm(x)
    norm.eval()
    assert torch.allclose(norm(x[:1]), norm(x)[:1], rtol=0, atol=1e-14)
    a, b = x[0], x[1]
    assert torch.allclose(norm((a + b)[None] / 2), (norm(a[None]) + norm(b[None])) / 2, atol=1e-12)


def test_scale_of_weights():
    """Sec. 3.3: BN((aW) u) = BN(W u), the same gradient by u, and 1 / a of that by W; eps aside."""
    u = 100 * torch.randn(40, 6, generator=torch.Generator().manual_seed(2), dtype=D)
    W = torch.randn(5, 6, generator=torch.Generator().manual_seed(3), dtype=D)
    found = {}
    for a in (1.0, 7.0):
        V, v = (a * W).requires_grad_(), u.clone().requires_grad_()
        y = BatchNorm(1, 5).double()(v @ V.T)
        found[a] = [y, *torch.autograd.grad((y**3).sum(), [v, V])]
    assert torch.allclose(found[7.0][0], found[1.0][0], rtol=1e-6)
    assert torch.allclose(found[7.0][1], found[1.0][1], atol=1e-6)
    assert torch.allclose(7 * found[7.0][2], found[1.0][2], rtol=1e-6, atol=1e-6)


def test_nets_are_those_of_figure_1():
    """784-100-100-100-10 has 99,710 parameters, and 100,010 with batch norm, which takes the place of hidden biases."""
    count = lambda norm: sum(p.numel() for p in Nets(norm, [0.1]).parameters())
    assert (count("plain"), count("bn"), count("ln")) == (99_710, 100_010, 100_010)


@pytest.mark.parametrize("norm", ["plain", "bn", "ln"])
def test_nets_side_by_side(norm):
    """Each by torch's layers: the normalization is before the nonlinearity, none on the logits; scales alone set weights apart."""
    nets = Nets(norm, [0.1, 0.3], (12, 6, 5, 4), generator=torch.Generator().manual_seed(0)).double()
    assert torch.allclose(nets.W[0][1], 3 * nets.W[0][0]) and 0.05 < nets.W[0][0].std() < 0.15
    x = torch.rand(20, 12, dtype=D)
    for each in nets.norms:
        filled(each)
    found = nets(x)
    for net in range(2):
        z = x
        for W, layer in zip(nets.W[:-1], nets.norms[:-1], strict=True):
            s = F.linear(z, W[net])
            if norm == "bn":
                s = F.batch_norm(s, None, None, layer.gamma[net, 0], layer.beta[net, 0], True)
            elif norm == "ln":
                s = F.layer_norm(s, s.shape[1:], layer.gamma[net, 0], layer.beta[net, 0])
            else:
                s = s + layer.beta[net, 0]
            z = torch.sigmoid(s)
        assert (F.linear(z, nets.W[-1][net], nets.norms[-1].beta[net, 0]) - found[net]).abs().max() <= 1e-12


def test_population_is_collected_layer_by_layer_from_batches():
    """Each layer's from what the layers below give with the batch's own statistics, in training mode (Algorithm 2, line 1)."""
    nets = Nets("bn", [0.3], (6, 5, 4, 3), generator=torch.Generator().manual_seed(0)).double()
    batches = torch.rand(4, 10, 6, dtype=D)
    population(nets, batches)
    first, means = nets.norms[0], []
    for x in batches:
        z = torch.sigmoid(F.batch_norm(x @ nets.W[0][0].T, None, None, training=True))
        means.append((z @ nets.W[1][0].T).mean(0))
    assert (nets.norms[1].running_mean[0, 0] - torch.stack(means).mean(0)).abs().max() <= 1e-12
    assert not nets.training and first.momentum == 0.1


@pytest.mark.parametrize("norm", CONVOLUTIONAL)
def test_convolutional_net(norm):
    """Groups are as asked; only batch norm lets the other images of a batch matter."""
    net, x = ConvNet(norm, groups=4), torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert net(x).shape == (6, 10)
    if norm != "bn":
        assert {each.groups for each in net.modules() if isinstance(each, GroupNorm)} >= {{"gn": 4, "ln": 1, "in": 16}[norm]}
    alone = torch.allclose(net(x)[:2], net(x[:2]), atol=1e-5)
    assert alone == (norm != "bn")
