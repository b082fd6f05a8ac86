"""RNNsearch and RNNencdec: the paper's sizes, the nets against its formulas written out, decoding against exhaustive search."""

import itertools
import math

import pytest
import torch
from torch import nn

from papers.seq2seq_attention import model as paper
from papers.seq2seq_attention.model import EncoderDecoder, GatedUnit, beam_search, nll, rnnencdec, rnnsearch

pytestmark = pytest.mark.usefixtures("double")

PAD, END, UNKNOWN = 0, 1, 2
BOTH = pytest.mark.parametrize("search", [True, False], ids=["search", "encdec"])


def small(seed=0, K=9, search=True, scale=0.5, **changes):
    """A model that shows each mistake: no weight is small, no two sizes are equal."""
    torch.manual_seed(seed)
    sizes = {"n": 6, "m": 5, "l": 4, "n_align": 7, "search": search, "pad": PAD, **changes}
    model = EncoderDecoder(K + 2, K, **sizes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, scale)
    return model


def sentences(lengths, K=9, seed=0):
    """Words, and END."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.cat([torch.randint(UNKNOWN, K, (n,), generator=generator), torch.tensor([END])]) for n in lengths]


def padded(each):
    return nn.utils.rnn.pad_sequence(each, batch_first=True, padding_value=PAD)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


# Appendix A, written out for one sentence, a number of the state at a time


def sigm(x):
    return 1 / (1 + math.exp(-x))


def dot(row, x):
    return sum(a * b for a, b in zip(row.tolist(), x, strict=True))


def unit(u, below, h):
    """Sec. A.1.1: below has what W and C give the update gate, the reset gate, and the new state."""
    n = len(h)
    z = [sigm(below[k] + dot(u.U_z.weight[k], h)) for k in range(n)]
    r = [sigm(below[n + k] + dot(u.U_r.weight[k], h)) for k in range(n)]
    gated = [a * b for a, b in zip(r, h, strict=True)]
    new = [math.tanh(below[2 * n + k] + dot(u.U.weight[k], gated)) for k in range(n)]
    return [(1 - z[k]) * h[k] + z[k] * new[k] for k in range(n)]


def rnn(r, vectors):
    h, states = [0.0] * r.n, []
    for x in vectors:
        h = unit(r.unit, (r.W.weight @ x + r.W.bias).tolist(), h)
        states.append(h)
    return states


def written_out(model, x, y):
    """x (S,), y (T,) -> logits (T, K_y), alpha (T, S)."""
    vectors = [model.E_x.weight[word] for word in x.tolist()]
    ahead = torch.tensor(rnn(model.forwards, vectors))
    if model.alignment:
        back = torch.tensor(rnn(model.backwards, vectors[::-1])[::-1])
        h, s = torch.cat([ahead, back], 1), torch.tanh(model.W_s.weight @ back[0] + model.W_s.bias)
    else:
        h, s = ahead[-1:], torch.tanh(model.W_s.weight @ ahead[-1] + model.W_s.bias)
    Ey, logits, alphas = torch.zeros_like(model.E_y.weight[0]), [], []
    for word in y.tolist():
        if model.alignment:
            a = model.alignment
            e = [a.v_a.weight[0] @ torch.tanh(a.W_a.weight @ s + a.U_a.weight @ h_j + a.U_a.bias) for h_j in h]
            alpha = [e_j.exp() / sum(each.exp() for each in e) for e_j in e]
        else:
            alpha = [torch.tensor(1.0)]
        c = sum(a_j * h_j for a_j, h_j in zip(alpha, h, strict=True))
        s_i = torch.tensor(unit(model.unit, (model.W.weight @ Ey + model.W.bias + model.C.weight @ c).tolist(), s.tolist()))
        t = model.U_o.weight @ (s_i if model.present else s) + model.U_o.bias + model.V_o.weight @ Ey + model.C_o.weight @ c
        t = torch.stack([torch.max(t[2 * j], t[2 * j + 1]) for j in range(len(t) // 2)])
        logits.append(model.W_o.weight @ t + model.W_o.bias)
        alphas.append(torch.stack(alpha))
        s, Ey = s_i, model.E_y.weight[word]
    return torch.stack(logits), torch.stack(alphas)


@pytest.mark.parametrize("present", [False, True], ids=["s_{i-1}", "s_i"])
@BOTH
def test_the_net_is_appendix_a_written_out(search, present):
    model = small(search=search, present=present).requires_grad_(False)
    for seed, (S, T) in enumerate([(5, 4), (1, 6), (7, 0)]):
        x, y = sentences((S, T), seed=seed)
        logits, alpha = model.decode(x[None], y[None])
        expected, weights = written_out(model, x, y)
        close(logits[0], expected)
        close(alpha[0], weights)
        close(model(x[None], y[None]), logits)


def test_the_gated_unit_is_not_torchs_gru():
    """With the same weights: equal where r is 1 or the state is 0, and with its z for 1 - z; nowhere else."""
    torch.manual_seed(0)
    ours, n = GatedUnit(4), 4
    gru = nn.GRUCell(1, n)
    with torch.no_grad():
        for p in (*ours.parameters(), *gru.parameters()):
            p.normal_()
        gru.weight_hh.copy_(torch.cat([ours.U_r.weight, -ours.U_z.weight, ours.U.weight]))
        gru.bias_hh.zero_()
        gru.weight_ih.zero_()
        below, h = torch.randn(3, 3 * n), torch.randn(3, n)

        def theirs(below, h):
            out = []
            for b, state in zip(below, h, strict=True):
                z, r, new = b.chunk(3)
                gru.bias_ih.copy_(torch.cat([r, -z, new]))
                out.append(gru(torch.zeros(1), state))
            return torch.stack(out)

        assert (ours(below, h) - theirs(below, h)).abs().max() > 0.05
        close(ours(below, 0 * h), theirs(below, 0 * h))
        open_ = below.clone()
        open_[:, n : 2 * n] = 1000  # r = 1
        close(ours(open_, h), theirs(open_, h))
        for b, state, expected in zip(below, h, ours(below, h), strict=True):
            close(torch.tensor(unit(ours, b.tolist(), state.tolist())), expected)


@BOTH
def test_padding_changes_nothing(search):
    """Logits, alignments, log-likelihoods and all gradients of a padded batch are those of its sentences one by one."""
    model = small(search=search)
    xs, ys = sentences((3, 1, 8, 5), seed=1), sentences((6, 2, 0, 5), seed=2)
    logits, alpha = model.decode(padded(xs), padded(ys))
    together = nll(logits, padded(ys))
    gradients = torch.autograd.grad(together.sum(), list(model.parameters()))
    alone = []
    for b, (x, y) in enumerate(zip(xs, ys, strict=True)):
        one, weights = model.decode(x[None], y[None])
        close(logits[b, : len(y)], one[0])
        S = len(x) if search else 1
        close(alpha[b, : len(y), :S], weights[0])
        assert not alpha[b, :, S:].any()
        alone.append(nll(one, y[None])[0])
        close(alone[-1], -one[0].log_softmax(1)[range(len(y)), y].sum())
    close(together, torch.stack(alone))
    for a, b in zip(gradients, torch.autograd.grad(sum(alone), list(model.parameters())), strict=True):
        close(a, b)
        assert a.any()


def test_a_logit_depends_on_all_of_the_source_and_on_no_later_word():
    model = small().requires_grad_(False)
    x, y = (each[None] for each in sentences((5, 6)))
    before = model(x, y)
    for t in range(7):
        other = y.clone()
        other[0, t] = 2 + (y[0, t] - 1) % 7
        after = (model(x, other) - before).abs().amax((0, 2))
        assert (after[: t + 1] < 1e-12).all() and (after[t + 1 :] > 1e-6).all()
    for j in range(6):
        other = x.clone()
        other[0, j] = 2 + (x[0, j] - 1) % 7
        assert ((model(other, y) - before).abs().amax((0, 2)) > 1e-6).all(), j


def test_dropout_is_of_words_vectors_alone():
    """With all of them dropped, every word is the same to the net, in training only."""
    model = small(dropout=1.0).requires_grad_(False)
    xs, ys = sentences((4, 4)), sentences((3, 3), seed=5)
    close(*(model.train()(x[None], y[None]) for x, y in zip(xs, ys, strict=True)))
    assert (model.eval()(xs[0][None], ys[0][None]) - model(xs[1][None], ys[0][None])).abs().max() > 1e-3


def test_nll_by_hand():
    """p = (3/4, 1/4), twice the second and then padding; a sentence of the first alone."""
    logits = torch.tensor([[math.log(3), 0.0]]).expand(2, 3, 2).clone()
    logits[0, 2], logits[1, 1:] = torch.tensor([50.0, -50.0]), 9.0
    values = nll(logits, torch.tensor([[1, 1, 2], [0, 2, 2]]), pad=2)
    close(values, torch.tensor([2 * math.log(4), math.log(4 / 3)]))


# Sizes, Sec. A.2.3, and initial weights, Sec. B.1


def test_parameters_part_by_part():
    """n = 1000, m = 620, 2 l = 1000, n' = 1000, 30,000 words and one more: 80.4 million without biases."""
    with torch.device("meta"):
        model, baseline = rnnsearch(), rnnencdec()

    def weights(*modules):
        return sum(p.numel() for module in modules for name, p in module.named_parameters() if "bias" not in name)

    n, m, l, K = 1000, 620, 500, 30_001
    direction, decoder = 3 * m * n + 3 * n * n, 3 * m * n + 3 * n * n + 3 * 2 * n * n
    assert weights(model.forwards) == weights(model.backwards) == direction == 4_860_000
    assert weights(model.W, model.C, model.unit) == decoder == 10_860_000
    assert weights(model.alignment) == n * n + 2 * n * n + n == 3_001_000
    assert weights(model.U_o, model.V_o, model.C_o, model.W_o) == 2 * l * (n + m + 2 * n) + l * K == 18_620_500
    assert weights(model.E_x, model.E_y) == 2 * K * m == 37_201_240
    assert weights(model.W_s) == n * n
    assert weights(model) == 80_402_740
    assert weights(model) - weights(baseline) == direction + weights(model.alignment) + 3 * n * n + 2 * l * n
    biases = sum(p.numel() for p in model.parameters()) - weights(model)
    assert biases == 2 * 3 * n + n + n + 3 * n + 2 * l + K, "one for each sum"
    assert "b" not in {name.split(".")[0] for name, _ in baseline.named_parameters()} and baseline.alignment is None


@BOTH
def test_initial_weights(search):
    torch.manual_seed(0)
    model = EncoderDecoder(300, 400, n=96, m=80, l=64, n_align=112, search=search)
    orthogonal = 0
    for name, p in model.named_parameters():
        if name.endswith("bias") or "v_a" in name:
            assert not p.any(), name
        elif "unit.U" in name:
            close(p @ p.T, torch.eye(96))
            orthogonal += 1
        else:
            std = 0.001 if "W_a" in name or "U_a" in name else 0.01
            assert p.std().item() == pytest.approx(std, rel=0.05) and abs(p.mean().item()) < std / 20, name
    assert orthogonal == (9 if search else 6)
    if search:  # v_a = 0: "soft" alignment begins even
        x, y = torch.randint(3, 300, (2, 7)), torch.randint(3, 400, (2, 5))
        close(model.decode(x, y)[1], torch.full((2, 5, 7), 1 / 7))


# Decoding


def log_p(model, x, y):
    """log p of each word after y, of which padding is none."""
    target = torch.tensor([[*y, END]])
    p = model(x[None], target)[0, -1].log_softmax(0)
    p[PAD] = -math.inf
    return p.tolist()


def slow_beam_search(model, x, K, forbidden=()):
    """The authors' loop for one sentence, all prefixes anew at each step -> (log p, words)."""
    S, live, beams, finished = len(x), K, [((), 0.0)], []
    for i in range(1, 3 * S + 1):
        longer = []
        for y, so_far in beams:
            for word, p in enumerate(log_p(model, x, y)):
                may = p > -math.inf and word not in forbidden and (word != END or i > S // 2) and (word == END or i < 3 * S)
                longer += [((*y, word), so_far + p)] * may
        best = sorted(longer, key=lambda each: -each[1])[:live]
        finished += [(p, y) for y, p in best if y[-1] == END]
        beams = [each for each in best if each[0][-1] != END]
        live = K - len(finished)
        if not live or not beams:
            break
    return max(finished)


def fast_beam_search(model, xs, K, forbidden=()):
    found, scores = beam_search(model, padded(xs), end=END, K=K, forbidden=forbidden)
    results = []
    for x, y, p in zip(xs, found.tolist(), scores.tolist(), strict=True):
        n = y.index(END) + 1
        assert PAD not in y[:n] and set(y[n:]) <= {PAD} and n <= 3 * len(x) and not {*y} & {*forbidden}
        results.append((p, tuple(y[:n])))
    return results


def agree(fast, slow):
    assert [y for _, y in fast] == [y for _, y in slow]
    assert [p for p, _ in fast] == pytest.approx([p for p, _ in slow], abs=1e-10)


def talkative(seed, K=5, **changes):
    """Its translations are of many lengths."""
    model = small(seed, K, scale=0.8, **changes).requires_grad_(False)
    model.W_o.weight *= 4
    return model


@BOTH
@pytest.mark.parametrize("forbidden", [(), (UNKNOWN,)], ids=["UNK", "no UNK"])
def test_a_wide_beam_finds_what_exhaustive_search_finds(search, forbidden):
    """All translations of a source of one word and its end: two to six words long, their ends counted."""
    lengths = set()
    for seed in range(6):
        model, (x,) = talkative(seed, search=search), sentences((1,), 5, seed)
        prefixes, every = {(): 0.0}, []
        for i in range(1, 7):
            longer = {}
            for y, so_far in prefixes.items():
                row = log_p(model, x, y)
                every += [(so_far + row[END], (*y, END))] * (i > 1)
                longer |= {(*y, word): so_far + row[word] for word in {2, 3, 4} - {*forbidden}} if i < 6 else {}
            prefixes = longer
        width = 3 - len(forbidden)
        assert len(every) == sum(width**i for i in range(1, 6))
        agree(fast_beam_search(model, [x], 250, forbidden), [max(every)])
        lengths.add(len(max(every)[1]))
    assert len(lengths) > 1


@pytest.mark.parametrize("K", [1, 2, 3, 5])
def test_beam_search_is_the_authors_loop(K):
    """Also where the beams become fewer, and the search is stopped because no beam can do better."""
    lengths = set()
    for seed, search in itertools.product(range(4), (True, False)):
        model = talkative(seed, search=search, present=seed == 3)
        xs = sentences((1, 4, 2), 5, seed)
        slow = [slow_beam_search(model, x, K) for x in xs]
        agree(fast_beam_search(model, xs, K), slow)  # in a padded batch
        lengths |= {len(y) for _, y in slow}
    assert len(lengths) > 4


def test_a_finished_translation_stays_as_it_is():
    """That one of two ends early does not cut or change the other, and none is worth less for being done."""
    model = talkative(1)
    x, other = sentences((1, 6), 5, 3)
    (alone,) = fast_beam_search(model, [x], 3)
    agree(fast_beam_search(model, [x, other], 3)[:1], [alone])
    assert alone[0] == pytest.approx(-nll(model(x[None], torch.tensor([alone[1]])), torch.tensor([alone[1]])).item())


def test_one_beam_is_greedy():
    for seed in range(4):
        model, (x,) = talkative(seed), sentences((3,), 5, seed)
        ((p, y),) = fast_beam_search(model, [x], 1)
        total = 0.0
        for i, word in enumerate(y):
            row = log_p(model, x, y[:i])
            total += row[word]
            if i + 1 < 12:
                allowed = [w for w in range(5) if w != END or i + 1 > 2]
                assert word == max(allowed, key=row.__getitem__)
        assert p == pytest.approx(total, abs=1e-10)


def test_constructors():
    with torch.device("meta"):
        search, encdec = rnnsearch(10, 12, n=4, m=3, l=2, n_align=5), rnnencdec(10, 12, n=4, m=3, l=2, n_align=5)
    assert search.alignment and not encdec.alignment and encdec.backwards is None
    assert search.E_x.num_embeddings == 10 and search.W_o.out_features == 12
    assert paper.__doc__.startswith("RNNsearch. Dzmitry Bahdanau")
