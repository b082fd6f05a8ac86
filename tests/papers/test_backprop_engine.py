"""engine.py: every operation against torch in double precision, the graph, and the nets made of it."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from papers.backprop.benchmark import torch_cnn
from papers.backprop.digits import SHAPES, Weights, cnn, mlp
from papers.backprop.engine import Variable, backward, convolution, cross_entropy, max_pooling, order
from papers.backprop.model import layered
from papers.backprop.tasks import parity

random = np.random.default_rng(0)
A, B, ROW, ONE = random.normal(size=(3, 4)), random.normal(size=(4, 2)), random.normal(size=4), random.normal(size=(3, 1))
IMAGES, KERNELS = random.normal(size=(2, 3, 6, 8)), random.normal(size=(4, 3, 3, 2))
LABELS = np.array([1, 0, 3])
OPERATIONS = {  # name -> with engine.py, with torch, of what
    "+": (lambda a, b: a + b, lambda a, b: a + b, (A, A[::-1].copy())),
    "+ a row": (lambda a, b: a + b, lambda a, b: a + b, (A, ROW)),
    "a row +": (lambda a, b: a + b, lambda a, b: a + b, (ROW, A)),
    "+ a column": (lambda a, b: a + b, lambda a, b: a + b, (A, ONE)),
    "row + column": (lambda a, b: a + b, lambda a, b: a + b, (ROW, ONE)),
    "+ a number": (lambda a: a + 2.5, lambda a: a + 2.5, (A,)),
    "×": (lambda a, b: a * b, lambda a, b: a * b, (A, A + 1)),
    "× a row": (lambda a, b: a * b, lambda a, b: a * b, (A, ROW)),
    "× a column": (lambda a, b: a * b, lambda a, b: a * b, (ONE, A)),
    "square": (lambda a: a * a, lambda a: a * a, (A,)),
    "-": (lambda a, b: a - b, lambda a, b: a - b, (A, ROW)),
    "negative": (lambda a: -a, lambda a: -a, (A,)),
    "@": (lambda a, b: a @ b, lambda a, b: a @ b, (A, B)),
    "exp": (lambda a: a.exp(), lambda a: a.exp(), (A,)),
    "log": (lambda a: a.log(), lambda a: a.log(), (A**2 + 0.1,)),
    "tanh": (lambda a: a.tanh(), lambda a: a.tanh(), (A,)),
    "logistic": (lambda a: a.logistic(), torch.sigmoid, (30 * A,)),
    "relu": (lambda a: a.relu(), torch.relu, (np.concatenate([A, 0 * A]),)),
    "sum": (lambda a: a.sum(), lambda a: a.sum(), (A,)),
    "sum of rows": (lambda a: a.sum(1), lambda a: a.sum(1), (A,)),
    "sum of columns, kept": (lambda a: a.sum(0, keepdims=True), lambda a: a.sum(0, keepdim=True), (A,)),
    "reshape": (lambda a: a.reshape(2, 6), lambda a: a.reshape(2, 6), (A,)),
    "pick": (lambda a: a.pick(LABELS), lambda a: a[torch.arange(3), torch.from_numpy(LABELS)], (A,)),
    "convolution": (convolution, F.conv2d, (IMAGES, KERNELS)),
    "convolution of one pixel": (convolution, F.conv2d, (IMAGES, KERNELS[:, :, :1, :1].copy())),
    "max pooling": (max_pooling, lambda x: F.max_pool2d(x, 2), (IMAGES,)),
    "max pooling of equals": (max_pooling, lambda x: F.max_pool2d(x, 2), (np.maximum(IMAGES, 0).round(),)),
    "cross-entropy": (lambda a: cross_entropy(a, LABELS), lambda a: F.cross_entropy(a, torch.from_numpy(LABELS)), (A,)),
    "cross-entropy far out": (
        lambda a: cross_entropy(a, LABELS), lambda a: F.cross_entropy(a, torch.from_numpy(LABELS)), (1000 * A,)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_torchs(name):
    ours, theirs, arrays = OPERATIONS[name]
    variables = [Variable(array) for array in arrays]
    tensors = [torch.from_numpy(array.copy()).requires_grad_() for array in arrays]
    y, expected = ours(*variables), theirs(*tensors)
    np.testing.assert_allclose(y.value, expected.detach().numpy(), rtol=1e-12, atol=1e-12)
    weights = random.normal(size=y.value.shape)
    backward((y * weights).sum())
    (expected * torch.from_numpy(weights)).sum().backward()
    for variable, tensor in zip(variables, tensors, strict=True):
        assert variable.gradient.shape == variable.value.shape
        np.testing.assert_allclose(variable.gradient, tensor.grad.numpy(), rtol=1e-11, atol=1e-11)


def test_a_variable_that_is_used_twice_gets_both_gradients():
    x = Variable(np.array(3.0))
    y = x * x
    E = y * x + y
    backward(E)
    assert E.value == 36 and x.gradient == 3 * 9 + 2 * 3
    backward(E)
    assert x.gradient == 33, "gradients do not add up over calls"


def test_the_example_of_the_docstring():
    w, x = Variable(np.array(2.0), "w"), Variable(np.array(3.0), "x")
    E = (w * x + w).tanh()
    backward(E)
    slope = 1 - np.tanh(8) ** 2
    assert (w.gradient, x.gradient) == pytest.approx((slope * 4, slope * 2))


def test_order_puts_parents_first_and_each_once():
    x = Variable(np.ones(2), "x")
    y = x.exp()
    E = (y * y + x).sum()
    nodes = order(E)
    assert len(nodes) == len({id(node) for node in nodes}) == 5 and nodes[0] is x and nodes[-1] is E
    place = {id(node): n for n, node in enumerate(nodes)}
    assert all(place[id(parent)] < place[id(node)] for node in nodes for parent, _ in node.parents)


def test_a_long_graph_needs_no_recursion():
    x = y = Variable(np.array(1.0))
    for _ in range(20_000):
        y = y + 1.0
    backward(y)
    assert x.gradient == 1


def test_what_backprop_1986_does_by_hand(double):
    """The engine's gradients of XOR's net are Eqs. 4 to 7's."""
    torch.manual_seed(0)
    net, task = layered(2, 2, 1, start=1.0), parity(2)
    y = net(task.inputs)
    by_hand = net.backward(y, {"output": y["output"] - task.d})
    w = {name: Variable(weight[0].numpy()) for name, weight in net.weights.items()}
    flat = {name: Variable(w[name].value.T) for name in w}
    hidden = (Variable(task.inputs["input"].numpy()) @ flat["hidden"] + flat["hidden bias"]).logistic()
    error = (hidden @ flat["output"] + flat["output bias"]).logistic() - Variable(task.d.numpy())
    backward((error * error).sum() * 0.5)
    for name, gradient in by_hand.items():
        np.testing.assert_allclose(flat[name].gradient.T, gradient[0].numpy(), atol=1e-15)


@pytest.mark.parametrize("name", SHAPES)
def test_nets_learn_as_torchs_do(name):
    """Three updates of both: the benchmark compares the same work."""
    torch.manual_seed(0)
    weights = Weights(SHAPES[name])
    tensors = [torch.from_numpy(w.value.astype(np.float64)).requires_grad_() for w in weights.w]
    for i, w in enumerate(weights.w):
        w.value, weights.change[i] = w.value.astype(np.float64), weights.change[i].astype(np.float64)
    optimizer = torch.optim.SGD(tensors, lr=0.25, momentum=0.9)

    def torch_mlp(w, images):
        y = torch.tanh(images.flatten(1) @ w[0] + w[1])
        return torch.tanh(y @ w[2] + w[3]) @ w[4] + w[5]

    nets = {"mlp": (mlp, torch_mlp), "cnn": (cnn, torch_cnn)}[name]
    for _ in range(3):
        images, labels = random.random((6, 28, 28)), random.integers(10, size=6)
        E = cross_entropy(nets[0](weights.w, images), labels)
        backward(E)
        weights.step(0.25, 0.9)
        loss = F.cross_entropy(nets[1](tensors, torch.from_numpy(images)), torch.from_numpy(labels))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert float(E.value) == pytest.approx(loss.item(), abs=1e-12)
    for w, tensor in zip(weights.w, tensors, strict=True):
        np.testing.assert_allclose(w.value, tensor.detach().numpy(), atol=1e-12)


def test_weights_are_kept_and_refused():
    weights, other = Weights(SHAPES["mlp"]), Weights(SHAPES["mlp"])
    for w in weights.w:
        w.gradient = np.ones_like(w.value)
    weights.step(0.1, 0.9)
    state = weights.state_dict()
    other.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(state.values(), other.state_dict().values(), strict=True))
    weights.step(0.1, 0.9)
    assert not torch.equal(state["w0"], weights.state_dict()["w0"]), "what was kept does not change with the net"
    with pytest.raises(ValueError, match="has the shape"):
        Weights(SHAPES["cnn"]).load_state_dict(state)
