"""Back-propagation's equations: gradients by hand against autograd and finite differences, the paper's counts, the perceptron."""

import itertools
import math

import pytest
import torch

from papers.backprop.model import (
    Classes,
    Descent,
    E,
    Link,
    Net,
    Perceptron,
    beyond,
    bias,
    family_trees,
    layered,
    mistake_bound,
    t_or_c,
    unrolled,
)  # fmt: skip
from papers.backprop.tasks import RELATIONS, encoder, family, letters, parity, relatives, symmetry

pytestmark = pytest.mark.usefixtures("double")


def count(net):
    return sum(weight[0].numel() for weight in net.weights.values())


@pytest.mark.parametrize(
    ("net", "weights"),
    [
        (lambda: layered(6, 2, 1), 17), (family_trees, 630), (lambda: layered(2, 1, 1, direct=True), 7),
        (lambda: layered(2, 2, 1), 9),
        (lambda: layered(4, 4, 1), 25), (lambda: layered(8, 3, 8), 59), (lambda: layered(6, 0, 1), 7), (t_or_c, 4 * 9 + 4 + 4 + 1),
    ],
)  # fmt: skip
def test_counts_of_weights(net, weights):
    assert count(net()) == weights


def skipping():
    """Four layers, links over one and two of them."""
    units = {"a": 3, "b": 4, "c": 2, "d": 2}
    links = [Link(s, t, f"{s}{t}") for s, t in (("a", "b"), ("b", "c"), ("a", "c"), ("c", "d"), ("a", "d"), ("b", "d"))]
    return Net(units, [*links, bias("b"), bias("c"), bias("d")], 2, 1.0)


NETS = {  # net, its inputs, its outputs
    "skip links": (skipping, ["a"], ["d"]), "two outputs": (skipping, ["a"], ["b", "d"]),
    "direct": (lambda: layered(3, 2, 2, direct=True, trials=2, start=1.0), ["input"], ["output"]),
    "family": (lambda: family_trees(2, 1.0), ["person", "relation"], ["output"]),
    "tied": (lambda: t_or_c(5, 3, 2, 2, 1.0), ["input"], ["output"]),
    "unrolled": (lambda: unrolled(2, 3, 2, 4, trials=2, start=1.0), [f"input {t}" for t in range(1, 5)] + ["hidden 0"],
                 [f"output {t}" for t in range(1, 5)]),
}  # fmt: skip


def case(name):
    torch.manual_seed(0)
    make, given, outputs = NETS[name]
    net = make()
    inputs = {layer: torch.rand(5, net.units[layer]) for layer in given}
    targets = {layer: torch.rand(5, net.units[layer]).round() for layer in outputs}
    return net, inputs, targets


def error_of(net, inputs, targets):
    y = net(inputs)
    return sum(E(y[layer] - d) for layer, d in targets.items())  # (T,)


def copies(net, name):
    """How many connections have each weight."""
    found = torch.zeros(net.weights[name].shape[1:])
    for link in net.links:
        if link.weight == name:
            found += 1 if link.tie is None else torch.bincount(link.tie[link.tie >= 0], minlength=len(found))
    return found


def by_hand(net, inputs, targets):
    y = net(inputs)
    return net.backward(y, {layer: y[layer] - d for layer, d in targets.items()})


@pytest.mark.parametrize("name", NETS)
def test_gradients_are_autograds(name):
    net, inputs, targets = case(name)
    found = by_hand(net, inputs, targets)
    for weight in net.weights.values():
        weight.requires_grad_()
    error_of(net, inputs, targets).sum().backward()
    for key, weight in net.weights.items():
        assert weight.grad.abs().max() > 1e-3
        torch.testing.assert_close(found[key], weight.grad / copies(net, key), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NETS)
def test_gradients_are_finite_differences(name):
    net, inputs, targets = case(name)
    found = by_hand(net, inputs, targets)
    h = 1e-5
    for key, weight in net.weights.items():
        places = torch.randperm(weight[0].numel())[:6]
        for trial, place in itertools.product(range(2), places.tolist()):
            flat = weight.data[trial].view(-1)
            start, e = flat[place].item(), []
            for by in (-2 * h, -h, h, 2 * h):
                flat[place] = start + by
                e.append(error_of(net, inputs, targets)[trial].item())
            flat[place] = start
            difference = (e[0] - 8 * e[1] + 8 * e[2] - e[3]) / (12 * h)
            assert found[key][trial].view(-1)[place] == pytest.approx(
                difference / copies(net, key).view(-1)[place].item(), abs=1e-9
            )


def test_the_error_is_a_sum_over_cases_and_outputs():
    y, d = torch.tensor([[[0.5, 1.0], [0.0, 0.0]]]), torch.tensor([[[0.0, 0.0], [0.0, 2.0]]])
    assert E(y - d).tolist() == [(0.25 + 1 + 4) / 2]


def test_forward_is_equations_1_and_2_for_each_net():
    torch.manual_seed(1)
    net = layered(2, 1, 1, direct=True, trials=3, start=1.0)
    y = net({"input": torch.tensor([[0.0, 1.0]])})
    logistic = lambda x: 1 / (1 + math.exp(-x))
    for t in range(3):
        w = {name: weight[t].flatten().tolist() for name, weight in net.weights.items()}
        hidden = logistic(w["hidden"][1] + w["hidden bias"][0])
        output = logistic(w["output"][0] * hidden + w["direct"][1] + w["output bias"][0])
        assert y["output"][t].item() == pytest.approx(output, abs=1e-15)


def test_momentum_and_decay_are_equations_8_and_9():
    net = layered(1, 0, 1, trials=2, start=0.5)
    descent, w = Descent(net), net.weights["direct"].flatten().tolist()
    change, gradients = [0.0, 0.0], (0.3, -0.2, 0.5)
    for g in gradients:
        dE_dw = {name: torch.full_like(weight, g) for name, weight in net.weights.items()}
        descent.step(net, dE_dw, 0.1, 0.9, 0.01, torch.tensor([True, False]))
        change = [-0.1 * g + 0.9 * c for c in change]
        w = [(w[0] + change[0]) * 0.99, w[1] * 0.99]
    assert net.weights["direct"].flatten().tolist() == pytest.approx(w, abs=1e-15)


def test_a_net_that_has_stopped_stays():
    net = layered(2, 2, 1, trials=2)
    before = {name: weight.clone() for name, weight in net.weights.items()}
    descent = Descent(net)
    descent.step(net, {n: torch.ones_like(w) for n, w in net.weights.items()}, 0.1, 0.9, 0.0, torch.tensor([False, True]))
    for name, weight in net.weights.items():
        assert torch.equal(weight[0], before[name][0]) and not torch.equal(weight[1], before[name][1])


def test_no_error_beyond():
    y, d = torch.tensor([0.81, 0.79, 0.19, 0.21]), torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert beyond(y, d).tolist() == pytest.approx([0, -0.21, 0, 0.21])


def test_the_unrolled_net_is_a_recurrent_one():
    net, inputs, _ = case("unrolled")
    y = net(inputs)
    h = inputs["hidden 0"]
    w = {name: weight[1] for name, weight in net.weights.items()}
    for t in range(1, 5):
        h = torch.sigmoid(inputs[f"input {t}"] @ w["input"].T + h @ w["recurrent"].T + w["hidden bias"].T)
        torch.testing.assert_close(y[f"output {t}"][1], torch.sigmoid(h @ w["output"].T + w["output bias"].T))


def test_t_or_c_is_a_convolution_summed():
    torch.manual_seed(0)
    net, x = t_or_c(trials=2, start=1.0), letters().inputs["input"]
    for t in range(2):
        w = {name: weight[t] for name, weight in net.weights.items()}
        maps = torch.sigmoid(torch.nn.functional.conv2d(x.view(8, 1, 5, 5), w["kernels"].view(4, 1, 3, 3), w["hidden bias"]))
        y = torch.sigmoid(maps.sum((2, 3)) @ w["output"][:, None] + w["output bias"][0])
        torch.testing.assert_close(net({"input": x})["output"][t], y)


def test_letters_are_five_cells_and_all_different():
    task = letters()
    assert task.inputs["input"].sum(1).tolist() == [5] * 8 and len(task.inputs["input"].unique(dim=0)) == 8
    assert task.d.flatten().tolist() == [1] * 4 + [0] * 4


def test_small_tasks():
    assert symmetry().d.sum() == 8 and len(symmetry().d) == 64
    assert parity(2).d.flatten().tolist() == [0, 1, 1, 0]
    assert parity(4).d.sum() == 8
    assert torch.equal(encoder().d, torch.eye(8))


# Family trees.


def test_family_trees_have_104_questions_and_112_answers():
    task, answers = family(), relatives()
    assert task.d.shape == (104, 24) and task.d.sum() == 112 and (task.d.sum(1) == 2).sum() == 8
    assert len(answers) == 52 and {relation for _, relation in answers} == {*RELATIONS}
    assert task.inputs["person"].sum(1).tolist() == task.inputs["relation"].sum(1).tolist() == [1] * 104
    assert len({tuple(row) for row in torch.cat([*task.inputs.values()], 1).tolist()}) == 104


def test_colin_has_two_aunts():
    """Fig. 3: Colin has aunt, answered by two units."""
    answers = relatives()
    assert sorted(answers["Colin", "aunt"]) == ["Jennifer", "Margaret"] and sorted(answers["Colin", "uncle"]) == [
        "Arthur",
        "Charles",
    ]
    assert answers["Arthur", "nephew"] == answers["Margaret", "nephew"] == ["Colin"]
    assert answers["Victoria", "father"] == ["Christopher"] and answers["James", "sister"] == ["Jennifer"]
    assert ("Christopher", "father") not in answers


def test_the_trees_are_alike_and_apart():
    d = family().d
    assert torch.equal(d[:52, :12], d[52:, 12:]) and d[:52, 12:].sum() == d[52:, :12].sum() == 0


# The perceptron.


def test_perceptron_rule():
    one = Perceptron(2, 2)
    x, y = torch.tensor([[1.0, 2.0], [3.0, 1.0]]), torch.tensor([1.0, -1.0])
    assert one.learn(x, y).tolist() == [True, True] and one.w.tolist() == [[1, 2], [-3, -1]]
    assert one.learn(x, y).tolist() == [False, False] and one.w.tolist() == [[1, 2], [-3, -1]]


def test_mistake_bound_by_hand():
    x, y = torch.tensor([[[3.0, 4.0], [-1.0, 0.0]]]), torch.tensor([[1.0, -1.0]])
    assert mistake_bound(x, y, torch.tensor([[2.0, 0.0]])).item() == pytest.approx((5 / 1) ** 2)


def test_mistakes_stay_below_the_bound_and_without_a_margin_never_end():
    torch.manual_seed(0)
    u = torch.tensor([[1.0, 1.0, 0.0]]) / 2**0.5
    x = torch.randn(1, 200, 3)
    x = x[:, (x @ u[0]).abs()[0] > 0.2]
    y = (x @ u[0]).sign()
    one, mistakes = Perceptron(1, 3), 0
    for _ in range(100):
        mistakes += sum(int(one.learn(x[:, i], y[:, i])) for i in range(x.shape[1]))
    assert 0 < mistakes <= mistake_bound(x, y, u).item()
    assert not any(one.learn(x[:, i], y[:, i]) for i in range(x.shape[1]))

    task = parity(2)
    features, sides = torch.cat([task.inputs["input"], torch.ones(4, 1)], 1), 2 * task.d[:, 0] - 1
    one = Perceptron(1, 3)
    for _ in range(1000):
        late = [bool(one.learn(features[i][None], sides[i][None])) for i in range(4)]
    assert any(late)


def test_classes_and_their_average():
    torch.manual_seed(0)
    net, w, history = Classes(3, 4), torch.zeros(3, 4), []
    for _ in range(20):
        x, label = torch.randn(4), torch.randint(3, (1,))
        answer = int((w @ x).argmax())
        wrong = net.learn(x, label)
        assert bool(wrong) == (answer != int(label))
        if answer != int(label):
            w[label] += x
            w[answer] -= x
        history.append(w.clone())
        torch.testing.assert_close(net.w.data, w)
    torch.testing.assert_close(net.average(), torch.stack(history).mean(0))
