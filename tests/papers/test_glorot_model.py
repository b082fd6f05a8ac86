"""Initial weights: their ranges and variances, the paper's parameter counts, and its statistics against plain ones."""

import itertools
import math

import pytest
import torch
from torch import nn

from papers.glorot.model import ACTIVATIONS, INITS, Nets, activations, cost, gradients, jacobians
from papers.glorot.shapeset import PAIR, objects, shapeset


def drawn(init, n_out, n_in):
    torch.manual_seed(0)
    return INITS[init](torch.empty(n_out, n_in, dtype=torch.float64))


@pytest.mark.parametrize(("n_out", "n_in"), [(1000, 784), (10, 1000), (1000, 1000)])
def test_ranges_and_variances(n_out, n_in):
    W = drawn("standard", n_out, n_in)  # Eqs. 1 and 15
    assert W.abs().max() <= n_in**-0.5 and n_in * W.var() == pytest.approx(1 / 3, rel=0.03)
    W = drawn("normalized", n_out, n_in)  # Eqs. 12 and 16
    assert W.abs().max() <= (6 / (n_in + n_out)) ** 0.5 and W.var() == pytest.approx(2 / (n_in + n_out), rel=0.03)
    assert n_in * drawn("he", n_out, n_in).var() / 2 == pytest.approx(1, rel=0.05)
    assert n_in * drawn("xavier", n_out, n_in).var() == pytest.approx(1, rel=0.05)


def test_libraries_have_the_same():
    """Keras's and torch's xavier_uniform_ are Eq. 16; torch's Linear has Eq. 1's range, for biases too."""
    torch.manual_seed(0)
    W = nn.init.xavier_uniform_(torch.empty(30, 50))
    torch.manual_seed(0)
    torch.testing.assert_close(W, INITS["normalized"](torch.empty(30, 50)))
    linear = nn.Linear(50, 3000)
    ours = Nets([50, 3000, 2], [("tanh", "torch"), ("tanh", "standard")])
    for mine, theirs in ((ours.W[0][0], linear.weight), (ours.b[0][0], linear.bias)):
        assert mine.abs().max() <= 50**-0.5 and mine.std().item() == pytest.approx(theirs.std().item(), rel=0.03)
    assert not ours.b[0][1].any()


@pytest.mark.parametrize(("sizes", "count"), [((784, 10), 4_799_010), ((3072, 10), 7_087_010), ((1024, 9), 5_038_009)])
def test_parameter_counts(sizes, count):
    n = [sizes[0], *[1000] * 5, sizes[1]]
    assert sum(a * b + b for a, b in itertools.pairwise(n)) == count
    small = Nets([sizes[0], 3, 3, sizes[1]], [("tanh", "standard")])
    assert sum(p[0].numel() for p in small.parameters()) == sizes[0] * 3 + 3 + 12 + 3 * sizes[1] + sizes[1]


def sequential(nets, net):
    """One of the nets, of nn.Linear layers."""
    layers, kind = [], {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "softsign": nn.Softsign, "relu": nn.ReLU}[nets.kinds[net][0]]
    for W, b in zip(nets.W, nets.b, strict=True):
        linear = nn.Linear(W.shape[2], W.shape[1])
        linear.weight.data, linear.bias.data = W.data[net].clone(), b.data[net, 0].clone()
        layers += [linear, kind()]
    return nn.Sequential(*layers[:-1])


KINDS = [("softsign", "standard"), ("tanh", "normalized"), ("tanh", "torch"), ("sigmoid", "standard"), ("relu", "he")]


@pytest.fixture
def nets(double):
    torch.manual_seed(0)
    return Nets([6, 7, 7, 7, 3], KINDS)


def test_nets_side_by_side_are_nets(nets):
    x, y = torch.randn(5, 6), torch.randint(3, (5,))
    C = cost(nets(x), y)
    C.sum().backward()
    for net in range(len(KINDS)):
        alone = sequential(nets, net)
        loss = nn.functional.cross_entropy(alone(x), y)
        torch.testing.assert_close(C[net], loss)
        loss.backward()
        for W, b, linear in zip(nets.W, nets.b, alone[::2], strict=True):
            torch.testing.assert_close(W.grad[net], linear.weight.grad)
            torch.testing.assert_close(b.grad[net, 0], linear.bias.grad)
    s, z = nets.layers(x)
    torch.testing.assert_close(s[-1], nets(x))
    assert len(s) == 4 and len(z) == 4


def test_softsign():
    x = torch.tensor([-3.0, 0.0, 1.0])
    assert ACTIVATIONS["softsign"](x).tolist() == [-0.75, 0, 0.5]


def test_gradients_are_those_of_the_summed_cost(nets):
    x, y = torch.randn(5, 6), torch.randint(3, (5,))
    ds, dW = gradients(nets, x, y)
    for net in range(len(KINDS)):
        alone, kept = sequential(nets, net), []
        z = x
        for n, layer in enumerate(alone):
            z = layer(z)
            if n % 2 == 0:
                z.retain_grad()
                kept.append(z)
        nn.functional.cross_entropy(z, y, reduction="sum").backward()
        for i, linear in enumerate(alone[::2]):
            torch.testing.assert_close(ds[i][net], kept[i].grad)
            torch.testing.assert_close(dW[i][net], linear.weight.grad)


def test_jacobians_are_torchs(nets):
    x = torch.randn(2, 6)
    found = jacobians(nets, x)
    assert found.shape == (5, 2)
    for net in range(len(KINDS)):
        alone = sequential(nets, net)
        for i in range(2):
            means = []
            for one in x:
                z = alone[: 2 * i + 2](one)
                J = torch.autograd.functional.jacobian(alone[2 * i + 2 : 2 * i + 4], z)
                means.append(torch.linalg.svdvals(J).mean())
            torch.testing.assert_close(found[net, i], torch.stack(means).mean())


def test_singular_values_of_a_random_matrix():
    """8 / (3 pi) sqrt(v) for entries of variance v / n: 0.849 and 0.490, which slopes make 0.8 and 0.5 (Sec. 4.2.1)."""
    for init, v in (("normalized", 1), ("standard", 1 / 3)):
        W = drawn(init, 400, 400)
        assert torch.linalg.svdvals(W).mean().item() == pytest.approx(8 / (3 * math.pi) * v**0.5, rel=0.01)


def test_activations_by_hand(double):
    nets = Nets([1, 2, 2, 2], [("tanh", "standard")])
    for W in nets.W:
        W.data.fill_(0)
    nets.b[0].data[:] = torch.tensor([0.5, -0.5])
    found = activations(nets, torch.zeros(100, 1))
    edge = math.tanh(0.5)
    assert found["mean"][0].tolist() == pytest.approx([0, 0]) and found["p98"][0].tolist() == pytest.approx([edge, 0])
    assert found["std"][0, 0].item() == pytest.approx(edge * (200 / 199) ** 0.5)


def test_linear_nets_follow_equation_5(double):
    """In the linear regime the variance grows by n Var W a layer: Xavier's 1, Eq. 1's 1/3, He's 1/2 of 2 in rectifiers."""
    torch.manual_seed(0)
    nets = Nets([300] * 6, [("tanh", "standard"), ("tanh", "normalized"), ("relu", "he"), ("relu", "xavier")])
    x = torch.randn(200, 300) / 100
    s, _ = nets.layers(x)
    growth = [(s[4][net].var() / s[0][net].var()).item() ** 0.25 for net in range(4)]
    assert growth == pytest.approx([1 / 3, 1, 1, 1 / 2], rel=0.1)


# Shapeset.


def test_shapeset_is_a_function_of_its_seed():
    x, y = shapeset(40, 3)
    again, other = shapeset(40, 3), shapeset(40, 4)
    assert torch.equal(x, again[0]) and torch.equal(y, again[1]) and not torch.equal(x, other[0])
    assert x.shape == (40, 1024) and x.min() >= -1 and x.max() <= 1 and y.min() >= 0 and y.max() <= 8


def test_shares_of_classes():
    """Singles 1/6 each, equal pairs 1/18, mixed pairs 1/9: always one single shape errs 83.3 %."""
    shares = torch.bincount(shapeset(20_000, 0)[1], minlength=9) / 20_000
    expected = [1 / 6] * 3 + [1 / 18, 1 / 9, 1 / 9, 1 / 18, 1 / 9, 1 / 18]
    assert shares.tolist() == pytest.approx(expected, abs=0.012)
    assert sorted(PAIR.values()) == [3, 4, 5, 6, 7, 8]


def test_greys_and_borders():
    x, y = shapeset(500, 1)
    greys = (x.view(500, 32, 32) + 1) / 2
    edge = torch.cat([greys[:, 0], greys[:, -1], greys[:, :, 0], greys[:, :, -1]], 1)
    assert (edge.amax(1) - edge.amin(1)).max() == 0, "one pixel from the edges"
    colours = torch.tensor([len(image.unique()) for image in greys])
    assert (colours[y < 3] <= 2).all() and (colours[y >= 3] == 3).float().mean() > 0.95
    ground = edge[:, :1]
    inside = greys.flatten(1) != ground
    other = torch.where(inside, greys.flatten(1), torch.nan)
    dark = ground[:, 0] < 0.5
    assert 0.4 < dark.float().mean() < 0.6
    assert other[dark].nan_to_num(1.0).min() >= 0.549 and other[~dark].nan_to_num(0.0).max() <= 0.451


def test_objects_are_what_they_are_called():
    """By their share of the smallest box: a triangle has at most half, a parallelogram more, an ellipse pi / 4 when upright."""
    kind = torch.arange(3000) % 3
    within = objects(kind, torch.Generator().manual_seed(0))
    area = within.sum((1, 2)).float()
    tall, wide = within.any(2).sum(1), within.any(1).sum(1)
    share = area / (tall * wide).clamp(min=1)
    big = area > 60
    assert share[big & (kind == 0)].max() < 0.62 and share[big & (kind == 1)].max() > 0.9
    assert share[big & (kind == 2)].min() > 0.35
