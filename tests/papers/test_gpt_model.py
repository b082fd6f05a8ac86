"""GPT: the network and its classifier against plain formulas, sampling against no cache, schedules, inputs and losses by hand."""

import itertools
import math
import shutil

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from papers.gpt.model import (
    GPT,
    LSTM,
    Classifier,
    auxiliary_loss,
    finetuning_rate,
    gpt,
    inputs,
    language_model_loss,
    pretraining_rate,
    sample,
)
from tests.start import compiling

pytestmark = pytest.mark.usefixtures("double")

V, CONTEXT = 11, 8


def shaken(model):
    """A model that shows each mistake: no bias is zero, no gain one, all weights large."""
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, 1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.4)
    return model.eval()


def small(seed=0, **changes):
    torch.manual_seed(seed)
    return shaken(GPT(V, **{"n_layer": 2, "n_head": 3, "D": 12, "context": CONTEXT, "dropout": 0.0, **changes}))


def small_lstm(seed=0, **changes):
    torch.manual_seed(seed)
    return shaken(LSTM(V, **{"units": 5, "D": 6, "context": CONTEXT, "dropout": 0.0, **changes}))


def random_tokens(*shape, seed=0, below=V):
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(seed))


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


# Eq. (2), written out for one sequence: x (T, D)


def softmax(scores):
    e = [math.exp(score) for score in scores]
    return [each / sum(e) for each in e]


def attention(m, x, dropout):
    """Each head and each position alone, at which it looks at itself and those before it."""
    T, D = x.shape
    k, W, b = D // m.h, m.qkv.weight, m.qkv.bias
    weights, values = torch.zeros(m.h, T, T), []
    for head in range(m.h):
        Q, K, values_of_head = (
            x @ W[part * D + head * k :][:k].T + b[part * D + head * k :][:k] for part in range(3)
        )  # the rows of all queries, those of all keys, those of all values
        values.append(values_of_head)
        for t in range(T):
            weights[head, t, : t + 1] = torch.tensor(softmax([(Q[t] @ K[s]).item() / math.sqrt(k) for s in range(t + 1)]))
    weights = dropout(weights)
    return torch.cat([weights[head] @ values[head] for head in range(m.h)], 1) @ m.out.weight.T + m.out.bias


def gelu(x):
    return 0.5 * x * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh())


def mlp(block, x):
    first, _, second = block.mlp
    return gelu(x @ first.weight.T + first.bias) @ second.weight.T + second.bias


def norm(m, x):
    centred = x - x.mean(1, keepdim=True)
    return m.weight * centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt() + m.bias


def states(model, tokens, dropout=lambda x: x):
    x = dropout(torch.stack([model.embedding.weight[token] + model.positions.weight[i] for i, token in enumerate(tokens)]))
    for block in model.blocks:
        x = norm(block.norm1, x + dropout(attention(block.attention, x, dropout)))
        x = norm(block.norm2, x + dropout(mlp(block, x)))
    return x


def written_out(model, tokens, dropout=lambda x: x):
    return states(model, tokens, dropout) @ model.embedding.weight.T


# The network, Sec. 3.1 and 4.1


def test_parameters_of_section_4_1():
    """Rows of tokens (40,000 merges and 478 symbols) and positions; in each block Q K V, out, two norms, and 768 -> 3072 -> 768."""
    with torch.device("meta"):
        model = gpt()
    block = (768 * 2304 + 2304) + (768 * 768 + 768) + 2 * (768 + 768) + (768 * 3072 + 3072) + (3072 * 768 + 768)
    assert sum(p.numel() for p in model.parameters()) == (40_000 + 478) * 768 + 512 * 768 + 12 * block == 116_534_784
    assert len(model.blocks) == 12 and model.embedding.weight.shape == (40_478, 768)
    assert model.context == len(model.positions.weight) == 512
    assert {(block.attention.h, block.mlp[0].out_features) for block in model.blocks} == {(12, 3072)}
    rates = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    assert rates + [block.attention.dropout for block in model.blocks] == [0.1] * (1 + 12 + 12)
    with torch.device("meta"):
        lstm = LSTM()
    gates = 4 * (768 * 2048 + 2048 * 2048 + 2 * 2048)
    assert sum(p.numel() for p in lstm.parameters()) == 40_478 * 768 + gates + 2048 * 768 + 768


@pytest.mark.parametrize("changes", [{}, {"n_head": 1, "n_layer": 1}, {"n_head": 6, "n_layer": 3}, {"n_layer": 0}])
def test_the_whole_net_written_out(changes):
    model = small(**changes)
    tokens = random_tokens(3, CONTEXT)
    together = model(tokens)
    for b, row in enumerate(tokens.tolist()):
        close(together[b], written_out(model, row))
        close(model(tokens[b : b + 1, :1])[0], written_out(model, row[:1]))


def test_weights_for_pictures_are_those_of_attention():
    m, x = small().blocks[0].attention, torch.randn(2, 5, 12)
    weights = m.weights(*m.heads(x)[:2])
    assert not weights.triu(1).any()
    values = m.heads(x)[2]
    close(m.out((weights @ values).transpose(1, 2).flatten(2)), m(x)[0])
    close(weights.sum(3), torch.ones(2, 3, 5))


@pytest.mark.parametrize("make", [small, small_lstm])
def test_a_logit_depends_on_all_before_and_on_nothing_after(make):
    model, tokens = make(), random_tokens(1, CONTEXT)
    before = model(tokens)
    for t in range(CONTEXT):
        other = tokens.clone()
        other[0, t] = (tokens[0, t] + 3) % V
        moved = (model(other) - before).abs().amax((0, 2))
        assert (moved[:t] < 1e-12).all() and (moved[t:] > 1e-5).all()
        padding = torch.zeros(1, CONTEXT - t - 1, dtype=torch.int64)
        close(model(torch.cat([tokens[:, : t + 1], padding], 1))[:, : t + 1], before[:, : t + 1])


def test_nothing_is_normalised_before_the_first_block_and_after_the_last():
    model, tokens, seen = small(), random_tokens(2, 5), []
    assert sum(isinstance(module, nn.LayerNorm) for module in model.modules()) == 2 * len(model.blocks)
    model.blocks[0].attention.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    model.blocks[-1].norm2.register_forward_hook(lambda module, given, out: seen.append(out))
    h, _ = model.states(tokens)
    assert torch.equal(seen[0], model.embedding(tokens) + model.positions.weight[:5]) and torch.equal(seen[1], h)
    last = model.blocks[-1].norm2
    plain = (h - last.bias) / last.weight
    close(plain.mean(2), torch.zeros(2, 5))
    torch.testing.assert_close(plain.var(2, correction=0), torch.ones(2, 5), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "make", [lambda: GPT(700, n_layer=2, n_head=2, D=64, context=40), lambda: LSTM(700, units=80, D=64)], ids=["GPT", "LSTM"]
)
def test_initial_weights(make):
    """N(0, 0.02): deviation, mean, and tails that a uniform distribution has not; biases 0, gains 1."""
    torch.manual_seed(0)
    model = make()
    for name, p in model.named_parameters():
        if p.ndim == 1:
            assert (p == float("norm" in name and "bias" not in name)).all(), name
        else:
            n = p.numel()
            assert p.std().item() / 0.02 == pytest.approx(1, abs=5 / math.sqrt(2 * n)), name
            assert abs(p.mean().item()) < 5 * 0.02 / math.sqrt(n) and p.abs().max() > 3 * 0.02, name


# Dropout, Sec. 4.1


def test_dropout_is_where_section_4_1_puts_it(monkeypatch):
    """An imitation that multiplies by numbers of its own at each call: the result is as written out, so calls have their places."""

    def imitation():
        calls = []

        def dropout(x, p=None, training=None, inplace=False):
            calls.append((p, training))
            return x * (len(calls) + torch.arange(x.numel()).view_as(x)).cos()

        return dropout, calls

    def attend(queries, keys, values, dropout_p, is_causal):
        assert is_causal
        scores = queries @ keys.mT / math.sqrt(queries.shape[3])
        scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -math.inf)
        return F.dropout(scores.softmax(3), dropout_p, True) @ values

    model, tokens = small(dropout=0.3).train(), random_tokens(1, 5)
    dropout, calls = imitation()
    monkeypatch.setattr(F, "dropout", dropout)
    monkeypatch.setattr(F, "scaled_dot_product_attention", attend)
    out = model(tokens)[0]
    assert calls == [(0.3, True)] * (1 + 2 * 3)
    close(out, written_out(model, tokens[0].tolist(), imitation()[0]))


PLACES = {  # a place -> how to switch it on
    "embedding": lambda model, p: setattr(model.dropout, "p", p),
    "attention": lambda model, p: [setattr(block.attention, "dropout", p) for block in model.blocks],
    "residuals": lambda model, p: [setattr(block.dropout, "p", p) for block in model.blocks],
}


@pytest.mark.parametrize("place", PLACES)
def test_each_dropout_acts_in_training_alone(place):
    model, tokens = small(), random_tokens(2, 6)
    expected = model(tokens)
    assert torch.equal(model.train()(tokens), expected)
    PLACES[place](model, 0.5)
    assert not torch.allclose(model(tokens), expected) and not torch.allclose(model(tokens), model(tokens))
    assert torch.equal(model.eval()(tokens), expected)


def test_dropout_of_attention_keeps_the_mean():
    """Weights are dropped with probability p and the others divided by 1 - p, position by position and head by head."""
    m, x = small().blocks[0].attention, torch.randn(1, 6, 12)
    expected = m(x)[0][0]
    m.dropout = 0.4
    found = m.train()(x.expand(4000, -1, -1))[0]
    error = found.std(0) / math.sqrt(4000)
    assert ((found.mean(0) - expected).abs() < 5 * error).all() and (found.std(0) > 0).all()


@pytest.mark.parametrize("place", ["embedding", "output"])
def test_dropout_of_the_lstm(place):
    """Of its embeddings, and of what meets W_e."""
    model, tokens, calls = small_lstm(dropout=0.5).train(), random_tokens(1, 6), []

    def here_alone(module, given, out):
        calls.append(out)
        return out if ("embedding", "output")[(len(calls) - 1) % 2] == place else given[0]

    hook = model.dropout.register_forward_hook(here_alone)
    assert not torch.allclose(model(tokens), model(tokens)) and len(calls) == 4
    hook.remove()
    assert torch.equal(model.eval()(tokens), model(tokens))


# The LSTM of Table 5


def test_the_lstm_written_out():
    """i, f, o = sigmoid(...), g = tanh(...); c = f c + i g; h = o tanh(c); logits of (W h + b) W_e^T."""
    model, tokens = small_lstm(), random_tokens(2, CONTEXT)
    m, units = model.lstm, 5
    logits, (h_n, c_n) = model(tokens), model.states(tokens)[1]
    for b, row in enumerate(tokens.tolist()):
        h, c = torch.zeros(units), torch.zeros(units)
        for t, token in enumerate(row):
            z = m.weight_ih_l0 @ model.embedding.weight[token] + m.bias_ih_l0 + m.weight_hh_l0 @ h + m.bias_hh_l0
            i, f, g, o = (z[j * units :][:units] for j in range(4))
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            close(logits[b, t], model.embedding.weight @ (model.out.weight @ h + model.out.bias))
        close(h_n[0, b], h)
        close(c_n[0, b], c)


def test_the_lstm_in_bf16_on_any_processor():
    """Many have no such LSTM, and torch ends with an error there."""
    model, tokens = small_lstm(units=8).float(), random_tokens(2, CONTEXT)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(tokens)
    half.sum().backward()
    assert half.dtype == torch.bfloat16 and model.lstm.weight_ih_l0.grad.abs().sum() > 0
    assert torch.allclose(half.double(), model(tokens).double(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("make", [small, small_lstm])
def test_one_token_after_a_past(make):
    model, tokens = make(), random_tokens(2, CONTEXT)
    whole, _ = model.states(tokens)
    h, past = model.states(tokens[:, :3])
    close(h, whole[:, :3])
    for t in range(3, CONTEXT):
        h, past = model.states(tokens[:, t : t + 1], past)
        close(h[:, 0], whole[:, t])


# Sampling


def uncached(model, tokens, n, temperature=1.0, top_k=None, generator=None):
    """The whole window again for each token. All positions taken, it goes on from the last context // 2 tokens."""
    start = max(0, tokens.shape[1] - model.context)
    for i in range(n):
        if i > 0 and tokens.shape[1] - start > model.context:
            start = tokens.shape[1] - model.context // 2
        logits = model(tokens[:, start:])[:, -1] / temperature
        if top_k is not None:
            order = logits.argsort(1, descending=True)
            logits = logits.scatter(1, order[:, top_k:], -math.inf)
        tokens = torch.cat([tokens, logits.softmax(1).multinomial(1, generator=generator)], 1)
    return tokens


@pytest.mark.parametrize("make", [small, small_lstm])
@pytest.mark.parametrize("context", [2, 7, 8])
@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (2.5, 4), (0.7, 50)])
def test_sampling_is_the_same_without_its_cache(make, context, temperature, top_k):
    """Prompts of one token, of all positions but one, of all, and longer ones; far past the last position."""
    model, limit = make(context=context), {"temperature": temperature, "top_k": top_k}
    for T in {1, context - 1, context, context + 3}:
        prompt = random_tokens(3, T)
        found = sample(model, prompt, 20, **limit, generator=torch.Generator().manual_seed(T))
        assert torch.equal(found, uncached(model, prompt, 20, **limit, generator=torch.Generator().manual_seed(T)))
        assert torch.equal(found[:, :T], prompt) and len(found[:, T:].unique()) > 2
    prompt = random_tokens(3, context)
    longer = torch.cat([random_tokens(3, 4, seed=1), prompt], 1)  # what fell out of the window changes nothing
    found, other = (sample(model, x, 20, **limit, generator=torch.Generator().manual_seed(5)) for x in (prompt, longer))
    assert torch.equal(other[:, 4:], found)


def test_one_of_the_likeliest_is_greedy():
    model, tokens = small(), random_tokens(2, 3)
    found = sample(model, tokens, CONTEXT - 3, top_k=1)
    for _ in range(CONTEXT - 3):
        tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(2)], 1)
    assert torch.equal(found, tokens)
    assert torch.equal(sample(model, tokens[:, :3], CONTEXT - 3, temperature=1e-4), tokens)


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (3.0, None), (3.0, 4)])
def test_frequencies_are_the_probabilities(temperature, top_k):
    model, prompt, N = small(), random_tokens(1, 4), 20_000
    logits = model(prompt)[0, -1].tolist()
    kept = sorted(range(V), key=lambda j: -logits[j])[:top_k]
    probabilities = softmax([logits[j] / temperature for j in kept])
    generator = torch.Generator().manual_seed(0)
    found = sample(model, prompt.expand(N, -1), 1, temperature=temperature, top_k=top_k, generator=generator)[:, -1]
    counts = found.bincount(minlength=V)
    assert counts.sum() == counts[kept].sum() == N and max(probabilities) < 0.99
    for j, p in zip(kept, probabilities, strict=True):
        assert abs(counts[j].item() / N - p) < 5 * math.sqrt(p * (1 - p) / N) + 1e-4


# Schedules, Sec. 4.1


def test_rate_of_pre_training():
    """2,000 updates up to 2.5e-4, then a cosine: all of it, three quarters and more, half, nothing."""
    rate = lambda step: pretraining_rate(step, 10_000)
    points = {0: 1.25e-7, 999: 1.25e-4, 1998: 1999 * 1.25e-7, 1999: 2.5e-4, 2000: 2.5e-4, 6000: 1.25e-4, 10_000: 0}
    points |= {4000: 2.5e-4 * (1 + math.sqrt(0.5)) / 2, 8000: 2.5e-4 * (1 - math.sqrt(0.5)) / 2}
    assert {step: rate(step) for step in points} == pytest.approx(points, abs=1e-18)
    assert 0 < rate(9999) == pytest.approx(2.5e-4 * (math.pi / 8000) ** 2 / 4, rel=1e-6)
    nanogpt = [pretraining_rate(step, 2100, 1e-3, 100, 1e-4) for step in (0, 99, 100, 1100, 2100)]
    assert nanogpt == pytest.approx([1e-5, 1e-3, 1e-3, 5.5e-4, 1e-4])
    assert pretraining_rate(4, 5, 1.0, 5) == pretraining_rate(5, 5, 1.0, 5) == 1, "no cosine is left"


def test_rate_of_fine_tuning():
    """That of the authors' code, opt.py: s = (x <= w); (s * (x / w) + (1 - s)) * (1 - x)."""
    for steps, warmup, step in itertools.product((1, 7, 1000, 5000), (0.002, 0.1), range(0, 5000, 3)):
        if step < steps:
            x = step / steps
            s = x <= warmup
            assert finetuning_rate(step, steps, 6.25e-5, warmup) == pytest.approx(
                6.25e-5 * (s * (x / warmup) + (1 - s)) * (1 - x), abs=1e-20
            )
    points = {0: 0, 1: 6.25e-5 / 2 * 0.999, 2: 6.25e-5 * 0.998, 500: 6.25e-5 / 2, 999: 6.25e-8}
    assert {step: finetuning_rate(step, 1000) for step in points} == pytest.approx(points)


# The classifier, Sec. 3.2


def padded(sequences, pad=0):
    """Examples of K sequences -> tokens (B, K, T), lengths (B, K)."""
    T = max(len(each) for example in sequences for each in example)
    lengths = torch.tensor([[len(each) for each in example] for example in sequences])
    return torch.tensor([[[*each, *[pad] * (T - len(each))] for each in example] for example in sequences]), lengths


def examples(*lengths, seed=0):
    """Examples of K sequences of these lengths, of tokens and specials."""
    return [
        [random_tokens(n, seed=seed + 10 * b + k, below=V + 3).tolist() for k, n in enumerate(row)] for b, row in enumerate(lengths)
    ]


def classifier(make=small, classes=3, **changes):
    model = Classifier(make(), classes, dropout=0.0, **changes)
    return shaken(model)


def test_embeddings_of_the_three_tokens_and_the_output():
    """Sec. 3.2: "the only extra parameters we require during fine-tuning are W_y, and embeddings for delimiter tokens"."""
    torch.manual_seed(0)
    body = GPT(50, n_layer=0, n_head=1, D=4096)
    before, positions = body.embedding.weight.clone(), body.positions.weight.clone()
    model = Classifier(body, 3)
    weight = model.body.embedding.weight
    assert weight.shape == (53, 4096) and torch.equal(weight[:50], before) and torch.equal(body.positions.weight, positions)
    for new in (*weight[50:], *model.W_y.weight):
        assert new.std().item() == pytest.approx(0.02, rel=0.06) and abs(new.mean().item()) < 5 * 0.02 / 64
    assert not model.W_y.bias.any() and model.W_y.weight.shape == (3, 4096) and model.dropout.p == 0.1
    assert Classifier(body, 4, choice=True).W_y.out_features == 1


@pytest.mark.parametrize("make", [small, small_lstm])
def test_an_example_in_a_padded_batch_is_as_it_is_alone(make):
    """Eq. (3): the state at each sequence's last token, whatever the padding is."""
    model, given = classifier(make), examples((5,), (8,), (2,), (7,))
    for pad in (0, V + 2):
        logits, next_tokens = model(*padded(given, pad))
        for b, (sequence,) in enumerate(given):
            state = model.body.states(torch.tensor([sequence]))[0][0]
            close(logits[b], model.W_y.weight @ state[-1] + model.W_y.bias)
            close(next_tokens[b, 0, : len(sequence)], state @ model.body.embedding.weight.T)
    assert next_tokens.shape[3] == V + 3
    without, nothing = model(*padded(given, pad), auxiliary=False)
    assert torch.equal(without, logits) and nothing is None


def test_similarity_adds_the_states_of_both_orders():
    model, given = classifier(classes=1), examples((5, 3), (4, 8))
    logits, _ = model(*padded(given))
    turned, _ = model(*padded([example[::-1] for example in given]))
    close(turned, logits)
    for b, example in enumerate(given):
        summed = sum(states(model.body, each)[-1] for each in example)
        close(logits[b], model.W_y.weight @ summed + model.W_y.bias)


def test_choice_scores_each_answer():
    model, given, order = classifier(choice=True), examples((5, 3, 8, 2), (4, 8, 6, 6)), [2, 0, 3, 1]
    logits, _ = model(*padded(given))
    permuted, _ = model(*padded([[example[k] for k in order] for example in given]))
    close(permuted, logits[:, order])
    for b, k in itertools.product(range(2), range(4)):
        close(logits[b, k], model.W_y.weight[0] @ states(model.body, given[b][k])[-1] + model.W_y.bias[0])


def test_dropout_of_the_classifier():
    """Before W_y alone: the language model's logits stay."""
    model, given = classifier(), padded(examples((5,), (3,)))
    (logits, next_tokens), model.dropout.p = model(*given), 0.5
    dropped, same = model.train()(*given)
    assert not torch.allclose(dropped, logits) and torch.equal(same, next_tokens)
    assert torch.equal(model.eval()(*given)[0], logits)


@pytest.mark.parametrize(("make", "K", "choice"), [(small, 1, False), (small, 2, False), (small, 3, True), (small_lstm, 1, False)])
def test_gradients_reach_every_weight(make, K, choice):
    model = classifier(make, choice=choice)
    tokens, lengths = padded(examples(*[[CONTEXT] * K] * 4))
    logits, next_tokens = model(tokens, lengths)
    loss = F.cross_entropy(logits, torch.tensor([0, 1, 2, 0])) + auxiliary_loss(next_tokens, tokens, lengths).mean()
    loss.backward()
    zero = {name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9}
    assert zero == ({"W_y.bias"} if choice else set()), "a number that is added to all scores changes no probability"


# Losses


def test_language_model_loss_by_hand():
    """-log 1/2, -log 3/4, -log 1/4."""
    logits = torch.tensor([[[0.0, 0.0], [math.log(3), 0.0], [math.log(3), 0.0]]])
    expected = (math.log(2) + math.log(4 / 3) + math.log(4)) / 3
    assert language_model_loss(logits, torch.tensor([[1, 0, 1]])).item() == pytest.approx(expected)


def test_auxiliary_loss_is_a_mean_over_each_sequence_first():
    """Sequences of 2 and of 5 tokens count alike; a mean over all tokens is another number. Padding counts for nothing."""
    lengths = torch.tensor([[2, 5], [4, 3]])
    logits, tokens = torch.randn(2, 2, 5, 7) * 2, random_tokens(2, 2, 5, below=7)
    expected, of_all = [], []
    for b in range(2):
        means = []
        for k in range(2):
            p = [softmax(row) for row in logits[b, k].tolist()]
            nats = [-math.log(p[t][tokens[b, k, t + 1]]) for t in range(lengths[b, k] - 1)]
            means.append(sum(nats) / len(nats))
            of_all += nats
        expected.append(sum(means) / 2)
    found = auxiliary_loss(logits, tokens, lengths)
    close(found, torch.tensor(expected))
    assert abs(found.mean().item() - sum(of_all) / len(of_all)) > 0.05
    for b, k in itertools.product(range(2), range(2)):
        tokens[b, k, lengths[b, k] :] = 0
        logits[b, k, lengths[b, k] - 1 :] = 50.0
    close(auxiliary_loss(logits, tokens, lengths), torch.tensor(expected))


@pytest.mark.parametrize("K", [1, 2])
def test_equation_5_written_out(K):
    """L3 = L2 + 0.5 L1 of two examples, from formulas alone."""
    model, labels = classifier(), [2, 0]
    given = examples(*[(5, 3)[:K], (4, 8)[:K]])
    tokens, lengths = padded(given)
    logits, next_tokens = model(tokens, lengths)
    found = F.cross_entropy(logits, torch.tensor(labels)) + 0.5 * auxiliary_loss(next_tokens, tokens, lengths).mean()
    total = 0.0
    for label, example in zip(labels, given, strict=True):
        h = [states(model.body, each) for each in example]
        p_label = softmax((model.W_y.weight @ sum(each[-1] for each in h) + model.W_y.bias).tolist())[label]
        nats = 0.0
        for each, sequence in zip(h, example, strict=True):
            p = [softmax(row) for row in (each @ model.body.embedding.weight.T).tolist()]
            nats += sum(-math.log(p[t][u]) for t, u in enumerate(sequence[1:])) / (len(sequence) - 1) / K
        total += (-math.log(p_label) + 0.5 * nats) / 2
    assert found.item() == pytest.approx(total, abs=1e-10)


# Inputs, Fig. 1

START, DELIMITER, EXTRACT = 100, 101, 102
CASES = {  # form, texts, context -> sequences
    "classification": ([[1, 2, 3]], 9, [[START, 1, 2, 3, EXTRACT]]),
    "entailment": ([[1, 2], [3]], 9, [[START, 1, 2, DELIMITER, 3, EXTRACT]]),
    "similarity": (
        [[1, 2], [3]], 9, [[START, 1, 2, DELIMITER, 3, EXTRACT], [START, 3, DELIMITER, 1, 2, EXTRACT]],
    ),
    "choice": (
        [[1, 2], [], [3], [4, 5], [], [6]], 9,
        [
            [START, 1, 2, DELIMITER, 3, EXTRACT], [START, 1, 2, DELIMITER, 4, 5, EXTRACT],
            [START, 1, 2, DELIMITER, EXTRACT], [START, 1, 2, DELIMITER, 6, EXTRACT],
        ],
    ),
    "classification, too long": ([[1, 2, 3, 4]], 5, [[START, 1, 2, 3, EXTRACT]]),
    "classification, fits exactly": ([[1, 2, 3]], 5, [[START, 1, 2, 3, EXTRACT]]),
    "entailment, first too long": ([[1, 2, 3, 4, 5], [6, 7]], 7, [[START, 1, 2, DELIMITER, 6, 7, EXTRACT]]),
    "entailment, second too long": ([[1], [2, 3, 4, 5]], 7, [[START, 1, DELIMITER, 2, 3, 4, EXTRACT]]),
    "similarity, too long": (
        [[1, 2, 3, 4, 5], [6]], 6, [[START, 1, 2, DELIMITER, 6, EXTRACT], [START, 6, DELIMITER, 1, 2, EXTRACT]],
    ),
    "choice, a question": (
        [[1, 2], [7, 8], [3], [4, 5]], 9,
        [[START, 1, 2, 7, 8, DELIMITER, 3, EXTRACT], [START, 1, 2, 7, 8, DELIMITER, 4, 5, EXTRACT]],
    ),
    "choice, some too long": (  # the article is cut, alike for all answers; question and answers are whole
        [[1, 2, 3], [9], [4], [5, 6], []], 7,
        [
            [START, 1, 9, DELIMITER, 4, EXTRACT], [START, 1, 9, DELIMITER, 5, 6, EXTRACT], [START, 1, 9, DELIMITER, EXTRACT],
        ],
    ),
    "choice, too long without an article": (
        [[1, 2, 3], [9, 8], [4], [5, 6, 7, 8]], 6, [[START, 9, 8, DELIMITER, 4, EXTRACT], [START, 9, DELIMITER, 5, 6, EXTRACT]],
    ),
    "classification, empty": ([[]], 5, [[START, EXTRACT]]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_inputs_of_figure_1(case):
    texts, context, expected = CASES[case]
    given = [list(text) for text in texts]
    assert inputs(given, case.split(",")[0], 100, context) == expected
    assert given == texts, "texts are not modified"


def test_inputs_fit_the_context():
    """By default 512 positions; what is lost is the end of the longest text."""
    one, two = list(range(400)), list(range(400, 650))
    for form, texts in (("classification", [one + two]), ("entailment", [one, two]), ("choice", [two, [], one, one[:100], []])):
        found = inputs(texts, form, 1000)
        assert max(map(len, found)) == 512 and all(each[0] == 1000 and each[-1] == 1002 for each in found)
    (found,) = inputs([one, two], "entailment", 1000)
    assert found == [1000, *one[:259], 1001, *two, 1002]
    turned = inputs([two, one], "similarity", 1000)
    assert turned[1] == found and turned == inputs([one, two], "similarity", 1000)[::-1]


def test_a_long_article_leaves_the_question_and_the_answers():
    """Sec. 3.3, [z; q; $; a_k]: of 600 + 10 + 6 tokens the article loses its end, as much for every answer."""
    article, question, answers = list(range(600)), list(range(700, 710)), [[800 + i] * (i + 3) for i in range(4)]
    found = inputs([article, question, *answers], "choice", 1000)
    kept = 512 - 3 - len(question) - len(answers[-1])
    for sequence, answer in zip(found, answers, strict=True):
        assert sequence == [1000, *article[:kept], *question, 1001, *answer, 1002]
    assert max(map(len, found)) == 512


# Compiled, as a GPU runs it


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler here")
def test_the_compiled_net_is_the_eager_one():
    model, tokens = small(n_layer=1, n_head=2, D=8), random_tokens(2, CONTEXT + 1)

    def gradients(net):
        model.zero_grad()
        loss = language_model_loss(net(tokens[:, :-1]), tokens[:, 1:])
        loss.backward()
        return [loss.detach(), *(p.grad.clone() for p in model.parameters())]

    eager = gradients(model)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with compiling():
        compiled = gradients(torch.compile(model))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    for a, b in zip(compiled, eager, strict=True):
        close(a, b)


@pytest.mark.parametrize("past", [0, 4])
def test_attention_on_a_cpu_is_that_on_a_gpu(past):
    """Written out and fused; on both the last position sees everything."""
    m, x = small().blocks[0].attention, torch.randn(2, 5, 12)
    queries, keys, values = m.heads(x)
    queries = queries[:, :, past:]
    fused = F.scaled_dot_product_attention(queries, keys, values, is_causal=not past)
    close(m.weights(queries, keys) @ values, fused)


def test_the_benchmark_compares_the_same_networks(double):
    from papers.gpt.benchmark import networks
    from papers.gpt.pretrain import Pretraining

    theirs, plain, ours = (net.double().eval() for net in networks(Pretraining(n_layer=2, n_head=2, width=16, context=12), 30))
    tokens = torch.randint(30, (3, 12))
    for logits in (theirs(tokens).logits, plain(tokens)):
        torch.testing.assert_close(ours(tokens), logits, rtol=0, atol=1e-9)
