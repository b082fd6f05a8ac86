"""BERT's own arithmetic: masks, the schedule, the optimizer, attention both ways, left to right, initial weights."""

import math
from unittest import mock

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from papers.bert.adam import Adam, adamw
from papers.bert.model import Bert, Classifier, Pretraining, Spans, Tagger, masked, rate, span_loss


def small(**more):
    torch.manual_seed(0)
    return Bert(60, L=2, D=24, h=3, positions=40, **more).eval()


def some(lengths=(12, 30, 5), V=60):
    torch.manual_seed(1)
    T = max(lengths)
    real = torch.arange(T) < torch.tensor(lengths)[:, None]
    return torch.randint(1, V, (len(lengths), T)), (torch.arange(T) > 4).long() * real, real


# Masked LM.


def drawn(lengths, T, seed=0):
    """Tokens from 10 on, which may be masked (all but the first, the fourth and the last), and uniform numbers."""
    draw = torch.Generator().manual_seed(seed)
    able = (torch.arange(T) > 0) & (torch.arange(T) != 3) & (torch.arange(T) < torch.tensor(lengths)[:, None] - 1)
    return torch.randint(10, 1000, (len(lengths), T), generator=draw), able, torch.rand(3, len(lengths), T, generator=draw)


def test_how_many_are_masked():
    """min(most, max(1, round(0.15 n))), n with [CLS] and both [SEP]: as create_masked_lm_predictions has it."""
    lengths = [5, 6, 10, 17, 23, 64, 100, 127, 128]
    tokens, able, u = drawn(lengths, 128)
    hidden, chosen = masked(tokens, able, u, mask=4, V=1000)
    assert chosen.sum(1).tolist() == [min(20, max(1, round(0.15 * n))) for n in lengths]
    assert not (chosen & ~able).any() and torch.equal(hidden[~chosen], tokens[~chosen])
    again = masked(tokens[2:5], able[2:5], u[:, 2:5], mask=4, V=1000)
    assert torch.equal(again[0], hidden[2:5]), "a row's masks do not depend on the others"


@pytest.mark.parametrize("kinds", [(0.8, 0.1, 0.1), (1.0, 0.0, 0.0), (0.0, 0.2, 0.8), (0.0, 1.0, 0.0)])
def test_what_becomes_of_them(kinds):
    n = 4000
    tokens, able, u = drawn([60] * n, 60)
    hidden, chosen = masked(tokens, able, u, mask=4, V=1000, kinds=kinds)
    total = int(chosen.sum())
    assert total == 9 * n
    masks, same = (hidden[chosen] == 4).float().mean(), (hidden[chosen] == tokens[chosen]).float().mean()
    for found, share in ((masks, kinds[0] + kinds[2] / 1000), (same, kinds[1] + kinds[2] / 1000)):
        assert abs(found - share) < 4 * math.sqrt(share * (1 - share) / total) + 1e-9
    if kinds[2]:
        others = hidden[chosen & (hidden != 4) & (hidden != tokens)]
        assert others.min() < 5 and others.max() > 990, "of the whole vocabulary"
        assert abs(others.float().mean() - 499.5) < 4 * 1000 / math.sqrt(12 * len(others))
    where = chosen.float().mean(0)[able[0]]  # each place as often as another
    assert (where - where.mean()).abs().max() < 4.5 * math.sqrt(0.16 * 0.84 / n)


# The schedule and the optimizer.


def test_rate():
    assert [rate(step, 100, 2.0, 10) for step in (0, 5, 10, 55, 99)] == pytest.approx([0, 1, 1.8, 0.9, 0.02])


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("clip", [False, True])
def test_adam_is_that_of_the_authors(clip):
    """w -= lr (m / (sqrt(v) + 1e-6) + 0.01 w), written out; a norm's gain and biases do not decay, embeddings do."""
    torch.manual_seed(0)
    model = Classifier(small(), 2)
    optimizer, names = Adam(model, 1.0), [name for name, _ in model.named_parameters()]
    weights = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    m, v = ({name: np.zeros_like(w) for name, w in weights.items()} for _ in range(2))
    decayed = [name for name in names if not any(word in name for word in ("norm", "bias"))]
    assert any("tokens" in name for name in decayed) and len(decayed) == 3 + 2 * 4 + 2
    for step in range(6):
        for p in model.parameters():
            p.grad = torch.randn_like(p) * 10.0**-step
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        lr = 0.1 / (1 + step)
        for group in optimizer.param_groups:
            group["lr"] = lr
        for name, p in model.named_parameters():
            g = p.grad.numpy()
            m[name], v[name] = 0.9 * m[name] + 0.1 * g, 0.999 * v[name] + 0.001 * g * g
            update = m[name] / (np.sqrt(v[name]) + 1e-6) + 0.01 * (name in decayed) * weights[name]
            weights[name] = weights[name] - lr * update
        optimizer.step()
        if step == 2:  # as a run that goes on from its checkpoint
            other = Adam(model, 1.0)
            other.load_state_dict(optimizer.state_dict())
            optimizer = other
    for name, p in model.named_parameters():
        assert np.abs(p.detach().numpy() - weights[name]).max() < 1e-9, name


def test_adamw_corrects_the_bias():
    steps = []
    for make in (Adam, adamw):
        model = torch.nn.Linear(1, 1)
        torch.nn.init.zeros_(model.weight)
        optimizer = make(model, 1e-3)
        model.weight.grad, model.bias.grad = torch.ones(1, 1), torch.ones(1)
        optimizer.step()
        steps.append(model.weight.item())
    assert steps == pytest.approx([-1e-3 * 0.1 / math.sqrt(0.001), -1e-3], rel=1e-4)


# The network.


@torch.no_grad()
def test_fused_attention_is_the_same():
    """Written out where a CPU trains, fused in evaluation and on a GPU."""
    for causal in (False, True):
        model, batch = small(causal=causal, dropout=0.0), some()
        fused, plain = model(*batch), model.train()(*batch)
        with mock.patch.object(torch.Tensor, "is_cuda", property(lambda _: True)):
            assert torch.equal(model(*batch), fused)
        assert 0 < (plain - fused)[batch[2]].abs().max() < 1e-5 < plain.std()


@torch.no_grad()
def test_which_tokens_are_seen():
    """A changed token changes all states; left to right, only its own and those after it."""
    for causal in (False, True):
        model, (tokens, segments, real) = small(causal=causal), some((30, 30))
        before = model(tokens, segments, real)
        tokens[:, 11] = (tokens[:, 11] + 1) % 60
        changed = (model(tokens, segments, real) - before).abs().amax((0, 2)) > 1e-6
        assert changed.tolist() == [not causal or i >= 11 for i in range(30)]


@torch.no_grad()
def test_the_pooled_state_left_to_right_is_that_of_the_last_token():
    model, (tokens, segments, real) = small(causal=True), some()
    states = model(tokens, segments, real)
    last = torch.stack([states[i, n - 1] for i, n in enumerate(real.sum(1))])
    assert torch.equal(model.pooled(states, real), torch.tanh(model.pooler(last)))


def test_initial_weights():
    torch.manual_seed(0)
    model = Pretraining(Bert(2000, L=1, D=64, h=4))
    for name, p in model.named_parameters():
        if p.ndim > 1:
            assert p.abs().max() <= 0.04 and (p.numel() < 1000 or abs(p.std() - 0.02 * 0.8796) < 4e-4), name
        else:
            assert (p == float("norm" in name or name == "transform.2.weight") * ("weight" in name)).all(), name


def test_dropout_is_where_it_should_be():
    """Of embeddings, attention weights, both outputs and the pooled state: nothing of it in evaluation."""
    net = Classifier(small(dropout=0.5), 2, dropout=0.5)
    batch = some()
    assert torch.equal(net.eval()(*batch), net(*batch))
    calls = []
    real = F.dropout
    with mock.patch.object(F, "dropout", lambda x, p, training, *_: calls.append((tuple(x.shape), p)) or real(x, p, training)):
        net.train()(*batch)
    inside = [((3, 3, 30, 30), 0.5), ((3, 30, 24), 0.5), ((3, 30, 24), 0.5)]
    assert calls == [((3, 30, 24), 0.5), *inside, *inside, ((3, 24), 0.5)]


def test_span_loss():
    logits = torch.tensor([[[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]], [[1.0, 1.0, 1.0], [0.0, 0.0, 5.0]]])
    starts, ends = torch.tensor([2, 0]), torch.tensor([0, 2])
    p = logits.softmax(2)
    expected = -(p[0, 0, 2].log() + p[1, 0, 0].log() + p[0, 1, 0].log() + p[1, 1, 2].log()) / 4
    assert span_loss(logits, starts, ends).item() == pytest.approx(expected.item())


def test_each_output_learns():
    """Every weight but the pooler, where nothing looks at C, gets a gradient."""
    batch = some()
    for net in (Classifier(small(), 3), Spans(small()), Tagger(small(), 5), Pretraining(small())):
        if isinstance(net, Pretraining):
            words, following = net(*batch, batch[2])
            y = words.pow(2).sum() + following.pow(2).sum()
        else:
            y = (net(*batch) * batch[2].any()).clamp(min=-100).pow(2).sum()
        y.backward()
        without = {name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
        expected = {"bert.pooler.weight", "bert.pooler.bias"} if isinstance(net, Spans | Tagger) else set()
        assert without == expected, type(net)
