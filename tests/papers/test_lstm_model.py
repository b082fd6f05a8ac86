"""The 1997 net: its sizes (Table 10), its forward pass and its truncated gradient (appendix A.1)."""

import pytest
import torch

from papers.lstm.model import LSTM, InputGateNet, f, g, h, squared_error, weights

DOUBLE = torch.float64


def net(trials=1, inputs=3, outputs=2, blocks=2, cells=2, seed=0, **kwargs):
    torch.manual_seed(seed)
    return LSTM(trials, inputs, outputs, blocks, cells, init=0.5, **kwargs).to(DOUBLE)


TABLE_10 = {  # experiment -> (net, column W)
    "1-1": (lambda: LSTM(2, 7, 7, 4, 1, biased="gates", output_bias=False), 264),
    "1-2": (lambda: LSTM(2, 7, 7, 3, 2, biased="gates", output_bias=False), 276),
    "2a": (lambda: InputGateNet(2, 101, 101), 10504),
    "2c": (lambda: LSTM(2, 54, 2, 2, 1, biased="none", output_bias=False), 364),
    "3": (lambda: LSTM(2, 1, 1, 3, 1, output_bias=False), 102),
    "4": (lambda: LSTM(2, 2, 1, 2, 2), 93),
    "6a": (lambda: LSTM(2, 8, 4, 2, 2), 156),
    "6b": (lambda: LSTM(2, 8, 8, 3, 2), 308),
}


@pytest.mark.parametrize("experiment", TABLE_10)
def test_weight_counts_of_table_10(experiment):
    build, count = TABLE_10[experiment]
    assert weights(build()) == count


def test_squashing_functions_are_eqs_3_to_5():
    x = torch.linspace(-9, 9, 101, dtype=DOUBLE)
    logistic = 1 / (1 + torch.exp(-x))
    torch.testing.assert_close(f(x), logistic)
    torch.testing.assert_close(h(x), 2 * logistic - 1)
    torch.testing.assert_close(g(x), 4 * logistic - 2)


def test_initial_weights_and_gate_biases():
    model = LSTM(50, 8, 8, 3, 2, init=0.1, input_gate_bias=(-2, -4, -6))
    assert model.bias[:, :, 0].unique(dim=0).tolist() == [[-2, -4, -6]]
    rest = torch.cat([p.flatten() for p in (model.input_weight, model.recurrent_weight, model.output_weight, model.bias[:, :, 1:])])
    assert rest.abs().max() <= 0.1
    assert abs(rest.mean()) < 0.002 and abs(rest.std() - 0.1 / 3**0.5) < 0.002
    assert not torch.equal(model.input_weight[0], model.input_weight[1])


def by_hand(model, x, target, every_step):
    """One trial, one sequence, as appendix A.1 writes it: x (T, I), target (T or 1, K) -> outputs, {parameter: gradient}.

    Eqs. 19-28 give weight changes, alpha times what is the negative gradient of E / 2.
    """
    B, S = model.blocks, model.cells
    U = B * (2 + S)
    W = torch.cat([model.input_weight[0], model.recurrent_weight[0]], 1).detach()  # (U, I + U)
    V = model.output_weight[0].detach()  # (K, B S)
    biased = model.bias.shape[-1]
    bias = torch.zeros(B, 2 + S, dtype=DOUBLE)
    bias[:, :biased] = model.bias[0].detach()
    c = model.output_bias[0].detach() if model.output_bias is not None else torch.zeros(len(V), dtype=DOUBLE)

    def slope(y):
        return y * (1 - y)

    s = torch.zeros(B, S, dtype=DOUBLE)
    y_hidden = torch.zeros(U, dtype=DOUBLE)
    n = W.shape[1] + 1  # the last source is the bias
    ds_in, ds_c = torch.zeros(B, S, n, dtype=DOUBLE), torch.zeros(B, S, n, dtype=DOUBLE)
    change, change_v, change_c = torch.zeros(B, 2 + S, n, dtype=DOUBLE), torch.zeros_like(V), torch.zeros_like(c)
    outputs = []
    for t in range(len(x)):
        z = torch.cat([x[t], y_hidden, torch.ones(1, dtype=DOUBLE)])
        net = (W @ z[:-1]).view(B, 2 + S) + bias
        y_in, y_out = f(net[:, 0]), f(net[:, 1])
        for j in range(B):
            for v in range(S):
                g_c = g(net[j, 2 + v])
                ds_in[j, v] += g_c * slope(y_in[j]) * z  # Eq. 25
                ds_c[j, v] += (4 - g_c**2) / 4 * y_in[j] * z  # Eq. 27: g' = (4 - g^2) / 4
                s[j, v] += y_in[j] * g_c
        y_c = y_out[:, None] * h(s)
        y_k = f(V @ y_c.flatten() + c)
        outputs.append(y_k)
        if every_step or t == len(x) - 1:
            e_k = slope(y_k) * (target[t if every_step else 0] - y_k)  # Eq. 19
            change_v += torch.outer(e_k, y_c.flatten())  # Eq. 22
            change_c += e_k
            back = (V.T @ e_k).view(B, S)
            for j in range(B):
                e_out = slope(y_out[j]) * (h(s[j]) * back[j]).sum()  # Eq. 21
                change[j, 1] += e_out * z  # Eq. 22
                e_s = y_out[j] * (1 - h(s[j]) ** 2) / 2 * back[j]  # Eq. 23: h' = (1 - h^2) / 2
                change[j, 0] += (e_s[:, None] * ds_in[j]).sum(0)  # Eq. 26
                change[j, 2:] += e_s[:, None] * ds_c[j]  # Eq. 28
        y_hidden = torch.cat([torch.stack([y_in, y_out], 1), y_c], 1).flatten()
    I = x.shape[1]
    gradient = {
        "input_weight": -change.view(U, n)[:, :I],
        "recurrent_weight": -change.view(U, n)[:, I:-1],
        "bias": -change[:, :biased, -1],
        "output_weight": -change_v,
        "output_bias": -change_c,
    }
    return torch.stack(outputs), gradient


@pytest.mark.parametrize("every_step", [False, True])
@pytest.mark.parametrize("kwargs", [{}, {"biased": "gates", "output_bias": False}, {"blocks": 3, "cells": 1, "biased": "none"}])
def test_gradient_is_the_rule_of_appendix_a1(kwargs, every_step):
    model = net(seed=3, **kwargs)
    T = 30
    x = torch.randn(1, 1, T, 3, dtype=DOUBLE)
    target = torch.rand(1, 1, T if every_step else 1, 2, dtype=DOUBLE)
    last = None if every_step else torch.tensor([[T - 1]])
    y = model(x, last)
    squared_error(target if every_step else target[:, :, 0], y).sum().backward()

    outputs, gradient = by_hand(model, x[0, 0], target[0, 0], every_step)
    torch.testing.assert_close(y[0, 0], outputs if every_step else outputs[-1], rtol=0, atol=1e-12)
    for name, parameter in model.named_parameters():
        assert parameter.numel() == 0 or parameter.grad.abs().max() > 1e-6
        torch.testing.assert_close(parameter.grad[0], gradient[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kwargs", [{}, {"ranges": (1.0, 2.0), "start": 0.5}, {"blocks": 3, "cells": 1, "biased": "gates"}])
def test_the_fast_forward_pass_is_the_step_of_eqs_7_to_9(kwargs):
    model = net(trials=2, seed=4, **kwargs)
    x = torch.randn(2, 3, 15, 3, dtype=DOUBLE)
    y_in, y_out, states = model.states(x)
    s = torch.zeros(2, 3, model.blocks, model.cells, dtype=DOUBLE)
    y = torch.full((2, 3, model.blocks * (2 + model.cells)), model.start, dtype=DOUBLE)
    for t in range(15):
        y, s = model.step(x[:, :, t], y, s)
        gates = y.unflatten(-1, (model.blocks, 2 + model.cells))
        for ours, fast in zip((gates[..., :1], gates[..., 1:2], s), (y_in, y_out, states), strict=True):
            torch.testing.assert_close(fast[:, :, t], ours, rtol=0, atol=1e-13)


def test_gradient_is_that_of_detached_autograd():
    """The vectorised pass against the plain loop in which everything recurrent is detached, and against full back-propagation."""
    from papers.lstm.benchmark import step_by_step

    model = net(trials=2, seed=5)
    x, last = torch.randn(2, 4, 25, 3, dtype=DOUBLE), torch.tensor([[24, 20, 3, 0], [7, 24, 24, 11]])
    target = torch.rand(2, 4, 2, dtype=DOUBLE)

    def gradient(y):
        model.zero_grad()
        squared_error(target, y).sum().backward()
        return [p.grad.clone() for p in model.parameters()]

    ours, loop = gradient(model(x, last)), gradient(step_by_step(model, x, last))
    for a, b in zip(ours, loop, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)
    full = gradient(step_by_step(model, x, last, truncate=False))
    assert not torch.allclose(ours[0], full[0], rtol=1e-3)


def test_batched_trials_are_the_single_trials():
    model = net(trials=5, seed=1, output_gate_bias=(-1.0, -2.0))
    x, last = torch.randn(5, 2, 20, 3, dtype=DOUBLE), torch.randint(0, 20, (5, 2))
    target = torch.rand(5, 2, 2, dtype=DOUBLE)
    squared_error(target, model(x, last)).sum().backward()
    for n in range(5):
        alone = net(trials=1)
        alone.load_state_dict({name: p[n : n + 1] for name, p in model.state_dict().items()})
        y = alone(x[n : n + 1], last[n : n + 1])
        torch.testing.assert_close(y[0], model(x, last)[n], rtol=1e-12, atol=1e-13)
        squared_error(target[n : n + 1], y).sum().backward()
        for mine, theirs in zip(alone.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(mine.grad[0], theirs.grad[n], rtol=1e-12, atol=1e-14)


def test_nothing_after_the_last_step_matters_and_everything_before_does():
    model = net(seed=2)
    x, last = torch.randn(1, 1, 12, 3, dtype=DOUBLE), torch.tensor([[7]])
    y = model(x, last)
    changed = x.clone()
    changed[:, :, 8:] += 1
    assert torch.equal(model(changed, last), y)
    for t in range(8):
        changed = x.clone()
        changed[:, :, t] += 1
        assert not torch.allclose(model(changed, last), y, rtol=1e-9)


def test_input_gate_net_against_a_loop():
    torch.manual_seed(0)
    model = InputGateNet(2, 5, 5).to(DOUBLE)
    x = torch.randn(2, 3, 9, 5, dtype=DOUBLE)
    y = model(x, torch.ones(2, dtype=torch.bool))
    for n in range(2):
        for m in range(3):
            s = 0.0
            for t in range(9):
                net_in, net_c = model.input_weight[n] @ x[n, m, t]
                s = s + f(net_in) * f(net_c)
                expected = f(model.direct_weight[n] @ x[n, m, t] + model.output_weight[n][:, 0] * s)
                torch.testing.assert_close(y[n, m, t], expected)


def test_indices_are_one_hot_inputs():
    """Outputs and gradients; what stands after the last step does not matter."""
    one, other = net(trials=2, inputs=5, seed=7), net(trials=2, inputs=5, seed=7)
    symbol, last = torch.randint(5, (2, 3, 11)), torch.tensor([[10, 4, 6], [3, 10, 10]])
    target = torch.rand(2, 3, 2, dtype=DOUBLE)
    squared_error(target, one(torch.eye(5, dtype=DOUBLE)[symbol], last)).sum().backward()
    squared_error(target, other(symbol.where(torch.arange(11) <= last[..., None], 2), last)).sum().backward()
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    assert one.input_weight.grad.abs().max() > 1e-3
