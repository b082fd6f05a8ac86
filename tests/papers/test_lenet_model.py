"""LeNet-5: the sizes that the paper prints, its layers and losses against plain ones, and the second derivatives of Appendix C."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from papers.lenet.model import (
    Convolution,
    FullConnection,
    LeNet5,
    Subsampling,
    curvature,
    f,
    figure_3,
    map_criterion,
    mse,
    printed,
    root,
    table_i,
)

# Table I by columns: the maps of S2 that feed each map of C3.
COLUMNS = [
    *[(0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)],
    *[(0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)],
    *[(0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5), (0, 1, 2, 3, 4, 5)],
]
FIGURE_3_ROWS = """
    1c 22 41 41 41 41 41 41 41 41 22 1c
    08 18 28 08 08 08 08 08 08 08 08 3e
    3e 41 01 01 02 04 08 10 20 40 40 7f
    7f 01 02 04 0c 02 01 01 01 41 22 1c
    02 06 0a 12 22 42 42 7f 02 02 02 02
    7f 40 40 40 5c 62 01 01 01 41 22 1c
    1e 20 40 40 5c 62 41 41 41 41 22 1c
    7f 01 01 02 02 04 04 08 08 10 10 10
    1c 22 41 41 22 1c 22 41 41 41 22 1c
    1c 22 41 41 41 23 1d 01 01 01 02 3c
"""  # the bits of a row of seven pixels

pytestmark = pytest.mark.usefixtures("double")


def net(seed=0, bound=root):
    torch.manual_seed(seed)
    return LeNet5(bound)


# Sizes


def test_parameters_of_each_layer():
    model = net()
    counts = {name: sum(p.numel() for p in layer.parameters()) for name, layer in model.layers().items()}
    assert counts == {"C1": 156, "S2": 12, "C3": 1_516, "S4": 32, "C5": 48_120, "F6": 10_164}
    assert sum(p.numel() for p in model.parameters()) == 60_000


def test_connections_of_each_layer():
    """With every weight, bias and input at one, the sum of a unit is the number of its connections."""
    model, counts, x = net(), {}, torch.ones(1, 1, 32, 32)
    for name, layer in model.layers().items():
        a = functional_call(layer, {key: torch.ones_like(p) for key, p in layer.named_parameters()}, (x,))
        counts[name] = int(a.sum())
        x = torch.ones_like(a)
    counts["RBF"] = int(torch.autograd.functional.jacobian(model.output, 0.5 * x).count_nonzero())
    expected = {"C1": 122_304, "S2": 5_880, "C3": 151_600, "S4": 2_000, "C5": 48_120, "F6": 10_164, "RBF": 840}
    assert counts == expected and sum(counts.values()) == 340_908


# Layers


def test_c3_is_connected_as_in_table_i():
    assert [tuple(inputs.nonzero().flatten().tolist()) for inputs in table_i()] == COLUMNS
    model, x = net(), torch.randn(1, 6, 14, 14)
    for s2 in range(6):
        changed = x.clone()
        changed[:, s2] += torch.randn(14, 14)
        difference = (model.C3(changed) - model.C3(x)).abs().amax((0, 2, 3))
        feeds = torch.tensor([s2 in inputs for inputs in COLUMNS])
        assert (difference[feeds] > 1e-3).all() and (difference[~feeds] == 0).all()


def dense(layer, columns, inputs):
    """All kernels of a Convolution for F.conv2d, zero where two maps are not connected."""
    weight = torch.zeros(len(columns), inputs, 5, 5)
    kernels = iter(layer.kernels.detach().view(-1, 5, 5))
    for k, column in enumerate(columns):
        for i in column:
            weight[k, i] = next(kernels)
    assert next(kernels, None) is None
    return weight


@pytest.mark.parametrize("columns", [[(0, 1, 2)] * 4, [(0, 2), (1,), (0, 1, 2), (2,)]])
def test_convolution_is_conv2d(columns):
    torch.manual_seed(0)
    layer = Convolution(torch.tensor([[i in column for i in range(3)] for column in columns]), root)
    x = torch.randn(2, 3, 9, 12)
    torch.testing.assert_close(layer(x), F.conv2d(x, dense(layer, columns, 3), layer.bias.flatten()))


def test_subsampling_is_the_sum_of_four_times_a_coefficient_and_a_bias():
    torch.manual_seed(0)
    layer, x = Subsampling(3, root, None), torch.randn(2, 3, 6, 8)
    y = layer(x)
    for m in range(3):
        for r in range(3):
            for c in range(4):
                total = sum(x[:, m, 2 * r + u, 2 * c + v] for u in (0, 1) for v in (0, 1))
                torch.testing.assert_close(y[:, m, r, c], layer.coefficient[m].item() * total + layer.bias[m].item())


def test_forward_is_the_plain_network():
    model = net(seed=1)
    everything = [(0,)] * 6, COLUMNS, [tuple(range(16))] * 120
    images = torch.randn(3, 1, 32, 32)
    y = model(images)
    for image, penalties in zip(images, y, strict=True):
        x = image[None]
        for conv, sub, columns in zip((model.C1, model.C3, model.C5), (model.S2, model.S4, None), everything, strict=True):
            x = 1.7159 * torch.tanh(2 / 3 * F.conv2d(x, dense(conv, columns, x.shape[1]), conv.bias.flatten()))
            if sub:
                four = x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]
                x = 1.7159 * torch.tanh(2 / 3 * (four * sub.coefficient.view(1, -1, 1, 1) + sub.bias.view(1, -1, 1, 1)))
        x = 1.7159 * torch.tanh(2 / 3 * (model.F6.weight @ x.flatten() + model.F6.bias))
        expected = torch.stack([sum((x[j] - w[j]) ** 2 for j in range(84)) for w in figure_3()])
        torch.testing.assert_close(penalties, expected)
        torch.testing.assert_close(model(image[None])[0], expected)


def test_squashing_function():
    """f(1) = 1, f(-1) = -1, and the curvature is greatest there (to the precision of the constants); it saturates at 1.7159."""
    one = torch.tensor([1.0, -1.0])
    torch.testing.assert_close(f(one), one, rtol=0, atol=5e-5)
    torch.testing.assert_close(f(100 * one), 1.7159 * one)
    step = 1e-3
    a = torch.arange(-4, 4, step)
    second = (f(a + step) - 2 * f(a) + f(a - step)) / step**2
    assert abs(a[second.argmin()] - 1) < 0.02 and abs(a[second.argmax()] + 1) < 0.02


# The RBF units


def test_centres_are_figure_3():
    rows = [[int(byte, 16) for byte in line.split()] for line in FIGURE_3_ROWS.split("\n")[1:-1]]
    bits = torch.tensor([[byte >> (6 - column) & 1 for byte in digit for column in range(7)] for digit in rows])
    centres = figure_3()
    assert torch.equal(centres, 2.0 * bits - 1) and centres.shape == (10, 84)
    apart = (centres[:, None] != centres).sum(2) + 84 * torch.eye(10, dtype=torch.int64)
    assert apart.min() == 8 and (apart == 8).nonzero().tolist() == [[5, 6], [6, 5]]


def test_rbf_penalties_are_log_densities_of_gaussians():
    """y_i is minus the log density of a Gaussian of variance 1/2 about the centre, but for a constant (Sec. II.B)."""
    torch.manual_seed(0)
    x = f(torch.randn(20, 84))
    y = net().output(x)
    density = torch.distributions.Normal(figure_3(), math.sqrt(0.5)).log_prob(x[:, None]).sum(2)
    torch.testing.assert_close(y[:, :1] - y, density - density[:, :1])
    assert torch.equal(y.argmin(1), density.argmax(1)) and len(y.argmin(1).unique()) > 3


# Losses


def test_losses_of_known_numbers():
    y = torch.tensor([[2, 4, 4], [2, 4, 4]]).log()
    labels = torch.tensor([0, 1])
    assert mse(y, labels).item() == pytest.approx((math.log(2) + math.log(4)) / 2)
    # e^-y: 1/2, 1/4, 1/4 and rubbish 1/2, so the posteriors of the correct classes are 1/3 and 1/6
    assert map_criterion(y, labels, j=math.log(2)).item() == pytest.approx((math.log(3) + math.log(6)) / 2)


def posteriors(y, j):
    """Of the classes, and of rubbish as the last: (B, 11)."""
    odds = torch.cat([torch.exp(-y), torch.full((len(y), 1), math.exp(-j))], 1)
    return odds / odds.sum(1, keepdim=True)


@pytest.mark.parametrize("j", [0.1, 3.0, 10.0])
def test_map_criterion_is_minus_log_posterior(j):
    torch.manual_seed(0)
    y, labels = (6 * torch.rand(8, 10)).requires_grad_(), torch.randint(10, (8,))
    p = posteriors(y.detach(), j)
    loss = map_criterion(y, labels, j)
    torch.testing.assert_close(loss, -p[range(8), labels].log().mean())
    assert loss > 0
    (gradient,) = torch.autograd.grad(loss, y)  # 1 - p_c for the correct class, -p_i for others, a mean over patterns
    torch.testing.assert_close(8 * gradient, F.one_hot(labels, 10) - p[:, :10])
    torch.testing.assert_close(8 * gradient.sum(1), p[:, 10])


def test_map_criterion_without_rubbish_is_cross_entropy():
    torch.manual_seed(0)
    y, labels = 50 * torch.rand(8, 10), torch.randint(10, (8,))
    torch.testing.assert_close(map_criterion(y, labels, j=200.0), F.cross_entropy(-y, labels))


@pytest.mark.parametrize("j", [10.0, 700.0])
def test_map_criterion_of_the_greatest_penalties(j):
    """84 (1.7159 + 1)^2 = 620 is as far as a penalty goes; e^-620 is zero in single precision, though not in double."""
    y, labels = torch.full((3, 10), 620.0), torch.tensor([0, 0, 3])
    y[1:, 3] = 0
    p = posteriors(y, j)
    y = y.float().requires_grad_()
    loss = map_criterion(y, labels, j)
    torch.testing.assert_close(loss.double(), -p[range(3), labels].log().mean(), rtol=0, atol=1e-4)
    (gradient,) = torch.autograd.grad(loss, y)
    torch.testing.assert_close(3 * gradient.double(), F.one_hot(labels, 10) - p[:, :10], rtol=0, atol=1e-4)


# Initial weights


@pytest.mark.parametrize("bound, limit", [(printed, lambda n: 2.4 / n), (root, lambda n: 1 / math.sqrt(n))])
def test_initial_weights_fill_their_ranges(bound, limit):
    c3 = [25 * len(column) for column in COLUMNS]
    fan_in = {"C1": 25, "S2": 4, "S4": 4, "C5": 400, "F6": 120}
    of_rows = {"C3.bias": c3, "C3.kernels": [n for n in c3 for _ in range(n // 25)]}  # 75, 100 or 150
    groups = {}  # (parameter, fan-in) -> values of many nets
    for seed in range(100):
        for name, p in net(seed, bound).named_parameters():
            of_row = torch.tensor(of_rows[name] if name in of_rows else [fan_in[name[:2]]] * len(p))
            for n in of_row.unique().tolist():
                values = p.detach()[of_row == n].flatten() / limit(n)
                assert values.abs().max() <= 1, (name, n)
                groups.setdefault((name, n), []).append(values[:1000])
    assert len(groups) == 10 + 2 * 3
    for group, values in groups.items():
        values = torch.cat(values)
        assert values.min() < -0.9 and values.max() > 0.9, group
        assert abs(values.mean()) < 4 / math.sqrt(3 * len(values)), group  # of a uniform distribution, by four standard errors
        assert abs(values.square().mean() - 1 / 3) < 4 * math.sqrt(4 / 45 / len(values)), group


def test_coefficients_that_start_at_a_number():
    torch.manual_seed(0)
    model = LeNet5(root, coefficient=0.5)
    for layer in (model.S2, model.S4):
        assert layer.coefficient.unique().tolist() == [0.5] and layer.bias.unique().tolist() == [0]
        assert layer.coefficient.requires_grad and layer.bias.requires_grad
    assert model.C1.bias.std() > 0.05


# Second derivatives (Appendix C), connection by connection. A wired layer is a list of units, a unit the list of its
# connections (j, k): number of a state of the layer below, -1 for the constant one of biases; number of a weight of this layer.


def wired_convolution(columns, size):
    kernels = [(k, i) for k, column in enumerate(columns) for i in column]
    out = range(size - 4)
    return [
        [
            ((i * size + r + u) * size + c + v, 25 * number + 5 * u + v)
            for number, (of, i) in enumerate(kernels)
            if of == k
            for u in range(5)
            for v in range(5)
        ]
        + [(-1, 25 * len(kernels) + k)]
        for k in range(len(columns))
        for r in out
        for c in out
    ]


def wired_subsampling(maps, size):
    out = range(size // 2)
    return [
        [((m * size + 2 * r + u) * size + 2 * c + v, m) for u in (0, 1) for v in (0, 1)] + [(-1, maps + m)]
        for m in range(maps)
        for r in out
        for c in out
    ]


def wired_full(inputs, units):
    return [[(j, i * inputs + j) for j in range(inputs)] + [(-1, units * inputs + i)] for i in range(units)]


@pytest.fixture(scope="module")
def lenet_wires():
    return {
        "C1": wired_convolution([(0,)] * 6, 32),
        "S2": wired_subsampling(6, 28),
        "C3": wired_convolution(COLUMNS, 14),
        "S4": wired_subsampling(16, 10),
        "C5": wired_convolution([tuple(range(16))] * 120, 5),
        "F6": wired_full(120, 84),
    }


def flat(model, values):
    """{parameter: value} -> {layer: the values of its parameters, one after the other}."""
    return {
        name: torch.cat([values[f"{name}.{key}"].flatten() for key, _ in layer.named_parameters()])
        for name, layer in model.layers().items()
    }


def weights_of(model):
    return flat(model, {name: p.detach() for name, p in model.named_parameters()})


def appendix_c(wires, weights, image):
    """h_kk of one pattern by the recursion of Appendix C, in plain loops over connections -> states of F6, {layer: h}."""
    weights = {name: w.tolist() for name, w in weights.items()}
    states, sums = [[*image.flatten().tolist(), 1.0]], []
    for name, layer in wires.items():
        x, w = states[-1], weights[name]
        sums.append([sum(w[k] * x[j] for j, k in unit) for unit in layer])
        states.append([*(1.7159 * math.tanh(2 / 3 * a) for a in sums[-1]), 1.0])
    h, of_states = {}, [2.0] * (len(states[-1]) - 1)  # d2E/dx_j^2
    for name, x, a in zip(reversed(wires), states[-2::-1], sums[::-1], strict=True):
        w, h[name], below = weights[name], [0.0] * len(weights[name]), [0.0] * len(x)
        for unit, a_i, of_state in zip(wires[name], a, of_states, strict=True):
            of_sum = (1.7159 * 2 / 3 / math.cosh(2 / 3 * a_i) ** 2) ** 2 * of_state  # d2E/da_i^2
            for j, k in unit:
                h[name][k] += of_sum * x[j] ** 2
                below[j] += of_sum * w[k] ** 2
        of_states = below[:-1]
    return torch.tensor(states[-1][:-1]), {name: torch.tensor(each) for name, each in h.items()}


def gauss_newton(wires, weights, image, names):
    """Exactly 2 J^T J of one pattern, its diagonal: each connection has a weight of its own; a sum over those that share."""
    table = {name: torch.tensor([(i, j, k) for i, unit in enumerate(wires[name]) for j, k in unit]).T for name in wires}

    def states(*own):
        own, x = dict(zip(names, own, strict=True)), image.flatten()
        for name, (i, j, k) in table.items():
            u = own[name] if name in own else weights[name][k]
            x = 1.7159 * torch.tanh(2 / 3 * torch.zeros(len(wires[name])).index_add(0, i, u * torch.cat([x, torch.ones(1)])[j]))
        return x

    J = torch.autograd.functional.jacobian(states, tuple(weights[name][table[name][2]] for name in names))  # of states by u
    return {
        n: torch.zeros_like(weights[n]).index_add(0, table[n][2], 2 * J_n.square().sum(0)) for n, J_n in zip(names, J, strict=True)
    }


def mean(patterns):
    return {name: sum(each[name] for each in patterns) / len(patterns) for name in patterns[0]}


def same(ours, expected, names):
    for name in names:
        assert expected[name].max() > 1e-3
        torch.testing.assert_close(ours[name], expected[name], rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


def test_curvature_is_the_recursion_of_appendix_c(lenet_wires):
    model, images = net(seed=2), torch.rand(2, 1, 32, 32) * 1.275 - 0.1
    assert sum(len(unit) for layer in lenet_wires.values() for unit in layer) == 340_908 - 840
    states, h = zip(*(appendix_c(lenet_wires, weights_of(model), image) for image in images), strict=True)
    torch.testing.assert_close(model(images), model.output(torch.stack(states)))  # the wires are those of the model
    same(flat(model, curvature(model, images)), mean(h), lenet_wires)


class Chain(nn.Module):
    """Layers one after the other, with all that `curvature` asks for."""

    def __init__(self, **layers):
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def layers(self):
        return dict(self.named_children())


def test_curvature_is_exact_where_no_two_paths_meet():
    """One unit in C5: each unit below it feeds one unit, and F6 squashes each sum on its own, so no term is dropped.

    What the recursion leaves out are second derivatives between two units that one unit feeds. Here only the C5 unit feeds
    several, those of F6, and E is a sum over the states of F6.
    """
    torch.manual_seed(3)
    one = torch.ones(2, 1, dtype=torch.bool)
    model = Chain(
        C3=Convolution(one, root), S4=Subsampling(2, root, None), C5=Convolution(one.T, root), F6=FullConnection(1, 3, root)
    )
    wires = {
        "C3": wired_convolution([(0,), (0,)], 14),
        "S4": wired_subsampling(2, 10),
        "C5": wired_convolution([(0, 1)], 5),
        "F6": wired_full(1, 3),
    }
    images = torch.randn(4, 1, 14, 14)
    exact = mean([gauss_newton(wires, weights_of(model), image, list(wires)) for image in images])
    same(flat(model, curvature(model, images)), exact, wires)


def test_curvature_of_lenet5_is_exact_in_its_last_two_layers(lenet_wires):
    """F6: its sums do not meet before the loss. C5: its units feed F6 alone, whose second derivatives are diagonal.

    From S4 down it is an approximation: units of S4 feed all of C5, whose second derivatives are not diagonal.
    """
    model, image = net(seed=4), torch.rand(1, 1, 32, 32) * 1.275 - 0.1
    exact = gauss_newton(lenet_wires, weights_of(model), image, ["S4", "C5", "F6"])
    ours = flat(model, curvature(model, image))
    same(ours, exact, ["C5", "F6"])
    assert not torch.allclose(ours["S4"], exact["S4"], rtol=0.01)


def test_curvature_of_the_loss():
    """d2E/dx^2 of Eq. 8 by the states of F6 is twice the identity, for any label: where the recursion starts."""
    model = net()
    for label in (0, 7):
        H = torch.autograd.functional.hessian(
            lambda x, label=label: mse(model.output(x[None]), torch.tensor([label])), torch.randn(84)
        )
        torch.testing.assert_close(H, 2 * torch.eye(84))


def test_curvature_is_a_mean_over_patterns_and_positive():
    model, images = net(seed=5), torch.randn(3, 1, 32, 32)
    h = curvature(model, images)
    alone = [curvature(model, image[None]) for image in images]
    assert {name: each.shape for name, each in h.items()} == {name: p.shape for name, p in model.named_parameters()}
    for name, each in h.items():
        assert (each > 0).all() and not each.requires_grad
        torch.testing.assert_close(each, (alone[0][name] + alone[1][name] + alone[2][name]) / 3)
        assert not torch.allclose(each, alone[0][name], rtol=1e-3)


def test_pixels_that_are_always_zero_give_no_curvature():
    model, images = net(seed=6), torch.zeros(2, 1, 32, 32)
    images[:, :, 31, 31] = 1.0  # the last pixel meets the last weight of each kernel
    h = curvature(model, images)
    assert (h["C1.kernels"][:, :-1] == 0).all() and (h["C1.kernels"][:, -1] > 0).all() and (h["C1.bias"] > 0).all()
