"""The training of RNNsearch and RNNencdec: updates, words, evaluation, and what each experiment of the paper changes."""

import itertools
import math

import numpy as np
import pytest
import torch
from sacrebleu.metrics import BLEU

from common.data.order import mix, permuted
from papers.seq2seq_attention import evaluation, sentences, train
from papers.seq2seq_attention.model import beam_search, nll
from papers.seq2seq_attention.sentences import END, PAD, UNKNOWN, Words, alike, shortlist
from tests.start import compiling, finish, here, judged, newest, processes, record, refuses, rows

SCRIPT = "papers.seq2seq_attention.train"
OUT = "seq2seq_attention/smoke/seed0"
SMOKE = train.EXPERIMENTS["smoke"].config


def one_by_one(sequences):
    """A Ragged as tensors."""
    return [sequences.padded(torch.tensor([i]))[0] for i in range(len(sequences))]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A smoke run in double precision: its directory."""
    out = tmp_path_factory.mktemp("trained")
    code, output = here(SCRIPT, "smoke", "--precision", "fp64", "--out", out)
    assert code == 0, output
    return out / OUT


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """What the smoke experiment learns from."""
    splits, words, _ = sentences.load(SMOKE, tmp_path_factory.mktemp("none"), spare=tmp_path_factory.mktemp("kept"), seed=0)
    return splits, words


def networks(words, state=None):
    model = train.Networks({name: SMOKE.network(len(words[0]), len(words[1]), name) for name in ("search", "encdec")})
    if state is not None:
        model.load_state_dict(state)
    return model.eval()


def test_training_is_the_recipe(trained, data, double):
    """All updates written out: the mean over sentences of - log p, each net's gradient cut to norm 1, Adadelta of Sec. B.2."""
    (pairs, val, _), words = data
    torch.default_generator.manual_seed(mix(0, "start"))
    model = networks(words)
    xs, ys = one_by_one(pairs.source), one_by_one(pairs.target)
    draw, losses, clipped, best = alike(pairs.lengths(), 16, 4, 0), [], 0, {}
    moments = {p: (torch.zeros_like(p), torch.zeros_like(p)) for p in model.parameters()}
    for step in range(12):
        model.zero_grad()
        total = {name: 0.0 for name in model}
        for i in draw(step).tolist():  # sentence by sentence: no padding
            for name, net in model.items():
                log_p = net(xs[i][None], ys[i][None])[0].log_softmax(1)
                total[name] = total[name] - log_p[range(len(ys[i])), ys[i]].sum() / 16
        sum(total.values()).backward()
        losses.append({name: value.item() for name, value in total.items()})
        for net in model.values():
            norm = math.sqrt(sum(p.grad.square().sum().item() for p in net.parameters()))
            clipped += norm > 1
            with torch.no_grad():
                for p in net.parameters():
                    g, (g2, d2) = p.grad * min(1, 1 / (norm + 1e-6)), moments[p]
                    g2.mul_(0.95).add_(0.05 * g * g)
                    delta = ((d2 + 1e-6) / (g2 + 1e-6)).sqrt() * g
                    d2.mul_(0.95).add_(0.05 * delta * delta)
                    p -= delta
        if (step + 1) % 4 == 0:
            for name, net in model.items():
                nats = sum(
                    nll(net(x[None], y[None]), y[None]).item()
                    for x, y in zip(*map(one_by_one, (val.source, val.target)), strict=True)
                )
                if nats < best.get(name, (math.inf,))[0]:
                    best[name] = nats, {key: value.clone() for key, value in net.state_dict().items()}
    assert clipped > 6
    objects = newest(trained)["objects"]
    for name, p in model.named_parameters():
        torch.testing.assert_close(objects["model"][name], p.detach(), rtol=1e-5, atol=1e-9, msg=name)
    for name, (nats, state) in best.items():
        for key, value in state.items():
            torch.testing.assert_close(objects["best"][f"{name}.{key}"], value, rtol=1e-5, atol=1e-9, msg=key)
        lines = rows(trained)
        expected = [sum(each[name] for each in losses[i : i + 2]) / 2 for i in range(0, 12, 2)]
        assert [row[f"train_nll_{name}"] for row in lines] == pytest.approx(expected, rel=1e-6)
        assert min(row[f"val_nll_{name}"] for row in lines[1::2]) == pytest.approx(nats / len(val), rel=1e-6)
        tokens = val.target.lengths.sum().item()
        assert record(trained)["metrics"][f"val_ppl_{name}"] == pytest.approx(math.exp(nats / tokens), rel=1e-6)


def test_better_weights_are_kept_until_there_are_better_ones(data, tmp_path, double):
    """At a rate at which the last weights are worse than earlier ones."""
    assert here(SCRIPT, "smoke", "--precision", "fp64", "--optimizer", "adam", "--rate", 5, "--out", tmp_path)[0] == 0
    lines, metrics = rows(tmp_path / OUT)[1::2], record(tmp_path / OUT)["metrics"]
    for name in ("search", "encdec"):
        seen = [row[f"val_nll_{name}"] for row in lines]
        assert metrics[f"val_nll_{name}"] == pytest.approx(min(seen), rel=1e-9)
    assert any(seen[-1] > min(seen) for seen in ([row[f"val_nll_{name}"] for row in lines] for name in ("search", "encdec")))


def test_the_record_is_of_the_translations_that_the_weights_give(trained, data, double):
    """Each sentence alone, with the best weights; BLEU as sacreBLEU counts it from tokens."""
    (_, _, test), words = data
    metrics, model = record(trained)["metrics"], networks(words, newest(trained)["objects"]["best"])
    known = [i for i, pair in enumerate(zip(test.tokens, test.references, strict=True)) if not unknown(words, pair)]
    assert 0 < len(known) < len(test) and metrics["known"] == pytest.approx(100 * len(known) / len(test))
    for name, net in model.items():
        for how, K, forbidden, some in (
            ("greedy", 1, (), range(len(test))),
            ("beam3", 3, (), range(len(test))),
            ("no_unk_beam3", 3, (UNKNOWN,), known),
        ):
            found = [beam_search(net, x[None], end=END, K=K, forbidden=forbidden)[0] for x in one_by_one(test.source)]
            ours = [words[1].decode(each)[0] for each in found]
            assert how.startswith("no_unk") or (trained / f"test_{name}_{how}.txt").read_text().splitlines() == ours
            expected = reference_bleu([ours[i] for i in some], [test.references[i] for i in some])
            assert metrics[f"test_tokenised_bleu_{name}_{how}"] == pytest.approx(expected, abs=1e-9)
        short = [i for i, text in enumerate(test.tokens) if len(text.split()) < 5]
        assert f"test_tokenised_bleu_{name}_beam3_words_2_to_4" in metrics and short


def unknown(words, pair):
    return any(UNKNOWN in each.encode(text) for each, text in zip(words, pair, strict=True))


def reference_bleu(hypotheses, references):
    return BLEU(tokenize="none", smooth_method="none", force=True).corpus_score(hypotheses, [references]).score


@pytest.mark.slow
def test_two_processes_give_the_same_record(trained, tmp_path):
    finish(processes(2, tmp_path / "log", SCRIPT, "smoke", "--precision", "fp64", "--out", tmp_path))
    one, two = record(trained), record(tmp_path / OUT)
    assert two["processes"] == 2
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-7)


def test_bf16_and_the_compiled_loss_train_alike(tmp_path):
    curves = {}
    for name, precision, compiled in (("fp32", "fp32", False), ("bf16", "bf16", False), ("compiled", "fp32", True)):
        torch._dynamo.reset()
        with compiling(compiled):
            code, output = here(SCRIPT, "smoke", "--precision", precision, "--out", tmp_path / name)
        assert code == 0, output
        curves[name] = [row["train_nll_search"] for row in rows(tmp_path / name / OUT)]
    assert curves["compiled"] == pytest.approx(curves["fp32"], rel=1e-5) and curves["compiled"] != curves["fp32"]
    assert curves["bf16"] == pytest.approx(curves["fp32"], rel=0.01) and curves["bf16"] != curves["fp32"]


def test_whole_sequences_and_symbols_in_their_places(monkeypatch, tmp_path):
    """Of a net that forgets the last symbol of sequences beyond what was learned, and one that writes nothing."""

    def written(run, model, name, source, K):
        rows = [[END] if name == "encdec" else each[:-1].flip(0).tolist() for each in one_by_one(source)]
        rows = [[*row[:-1], END] if len(row) > 3 else row + [END] * (row != [END]) for row in rows]
        return torch.tensor([row + [PAD] * (30 - len(row)) for row in rows])

    monkeypatch.setattr(evaluation, "translate", written)
    size = ["--n", 4, "--m", 4, "--l", 4, "--n-align", 4, "--max-length", 3, "--steps", 2, "--evaluate-every", 1]
    code, output = here(SCRIPT, "reverse", *size, "--out", tmp_path)
    assert code == 0, output
    metrics = record(tmp_path / "seq2seq_attention/reverse/seed0")["metrics"]
    assert (metrics["whole_search_within"], metrics["whole_search_beyond"], metrics["whole_encdec_within"]) == (100, 0, 0)
    share = 100 * (3 / 5 + 4 / 6 + 5 / 7) / 3
    assert metrics["symbols_search_beyond"] == pytest.approx(share) and metrics["symbols_encdec_beyond"] == 0
    assert metrics["gain_within"] == 100 and metrics["gain_beyond"] == pytest.approx(share)


@pytest.mark.slow
def test_reversing_is_learned_with_attention(tmp_path):
    flags = ["--networks", "search", "--max-length", 5, "--vocabulary", 8, "--n", 64, "--m", 32, "--l", 32, "--n-align", 64]
    code, output = here(SCRIPT, "reverse", *flags, "--steps", 1600, "--evaluate-every", 1600, "--out", tmp_path)
    assert code == 0, output
    assert record(tmp_path / "seq2seq_attention/reverse/seed0")["metrics"]["whole_search_within"] > 90


# Minibatches and words.


def test_minibatches_are_cut_from_twenty_sorted_together():
    """Sec. B.2: 1,600 pairs sorted by length and cut into 20; every pair once in an epoch."""
    lengths = torch.randint(2, 50, (3200, 2), generator=torch.Generator().manual_seed(0))
    draw, longest = alike(lengths, 80, 20, seed=3), lengths.max(1).values
    seen, orders = [], []
    for group in range(2):
        batches = [draw(step) for step in range(20 * group, 20 * group + 20)]
        pool = permuted(3200, 3, 1600 * group, 1600 * group + 1600)
        assert sorted(torch.cat(batches).tolist()) == sorted(pool.tolist()) and {len(each) for each in batches} == {80}
        batches.sort(key=lambda rows: longest[rows].min().item())
        bounds = [(longest[rows].min().item(), longest[rows].max().item()) for rows in batches]
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(bounds))
        orders.append([longest[draw(step)].min().item() for step in range(20 * group, 20 * group + 20)])
        seen += pool.tolist()
    assert sorted(seen) == list(range(3200))
    assert all(order != sorted(order) for order in orders)
    assert torch.equal(draw(7), alike(lengths, 80, 20, seed=3)(7)) and not torch.equal(draw(7), alike(lengths, 80, 20, seed=4)(7))


def test_the_shortlist_is_of_the_most_frequent_words():
    texts = ["b a a", "c a b", "d [UNK]"]
    assert shortlist(texts, 10, 1) == ["a", "b", "[UNK]", "c", "d"] and shortlist(texts, 2, 1) == ["a", "b"]
    assert shortlist(texts, 10, 2) == ["a", "b"]
    words = Words(["a", "b"])
    assert words.encode("b x </s> <pad> [UNK] a") == [4, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, 3, END] and len(words) == 5
    assert words.decode(torch.tensor([[4, UNKNOWN, 3, END, PAD]])) == ["b [UNK] a"]


def test_words_of_multi30k_and_of_wmt():
    """The tutorial's have no capitals; the paper's have: no lowercasing (Sec. 4.1)."""
    text, papers = ['It\'s a "Rich-Text" format – here.'], train.EXPERIMENTS["wmt14-en-fr"].config
    config = train.EXPERIMENTS["multi30k-de-en"].config
    assert sentences.tokenised(text, "en", config) == ["it &apos;s a &quot; rich-text &quot; format - here ."]
    assert sentences.tokenised(text, "en", papers) == ["It &apos;s a &quot; Rich-Text &quot; format – here ."]
    assert evaluation.readable(["it &apos;s &quot; fun &quot; ."], config) == ['it\'s "fun".']


@pytest.mark.parametrize("backwards", [True, False])
def test_sequences(backwards):
    pairs = sentences.sequences(200, 10, 7, backwards, "val", evenly=True)
    for x, y in zip(one_by_one(pairs.source), one_by_one(pairs.target), strict=True):
        assert x[-1] == y[-1] == END and torch.equal(y[:-1], x[:-1].flip(0) if backwards else x[:-1])
        assert x[:-1].min() >= 3 and x[:-1].max() < 10
    assert pairs.source.lengths.bincount().tolist() == [0, 0, *[20] * 10]
    other = sentences.sequences(200, 10, 7, backwards, 0)
    assert not torch.equal(other.source.tokens[:99], pairs.source.tokens[:99]) and other.source.lengths.max() == 11


# Scores.


def test_statistics_give_sacrebleus_score():
    cases = {
        "some": (["the cat sat on a mat today", "a dog runs home"], ["the cat sat on the mat today", "a dog runs home"]),
        "shorter": (["the cat sat on", "a dog runs"], ["the cat sat on the mat", "a small dog runs home now"]),
        "repeated": (["the the the cat sat on the mat the the", "a a dog"], ["the cat sat on the mat", "a dog"]),
        "an empty one": (["the cat sat on the mat", ""], ["the cat sat on the mat again", "yes"]),
        "no 4-gram": (["a dog"], ["a dog runs home"]),
    }
    for name, (ours, references) in cases.items():
        found = float(evaluation.score(evaluation.statistics(ours, references).sum(0)))
        assert found == pytest.approx(reference_bleu(ours, references), abs=1e-9), name
    assert found == 0 and math.isnan(evaluation.score(np.zeros(10)))


def test_gains_and_their_noise():
    """RNNencdec is worse by one word on long sentences only; the noise is that of resampling, and none where nothing differs."""
    generator = np.random.default_rng(1)
    references = [" ".join(f"w{k}" for k in generator.integers(9, size=n)) for n in generator.integers(5, 30, size=300)]
    long = np.array([len(each.split()) > 15 for each in references])
    worse = [each.replace(each.split()[2], "x", 1) if is_long else each for each, is_long in zip(references, long, strict=True)]
    good, bad = (evaluation.statistics(each, references) for each in (references, worse))
    found = evaluation.gains(good, bad, long)
    assert found["attention_gain"] == pytest.approx(100 - reference_bleu(worse, references))
    some = long.nonzero()[0]
    expected = 100 - reference_bleu([worse[i] for i in some], [references[i] for i in some])
    assert found["gain_growth"] == pytest.approx(expected) and expected > 5
    halves = [evaluation.gains(good[i::2], bad[i::2], long[i::2])["attention_gain"] for i in range(2)]
    assert 0 < found["attention_gain_noise"] < 2 and abs(halves[0] - halves[1]) < 8 * found["attention_gain_noise"]
    half = evaluation.gains(good[::2], bad[::2], long[::2])["attention_gain_noise"]
    assert half == pytest.approx(found["attention_gain_noise"] * math.sqrt(2), rel=0.3)
    assert evaluation.gains(good, good, long) == dict.fromkeys(found, 0.0)


def test_bins_say_which_lengths_they_hold():
    length = np.array([3, 9, 11, 30, 8, 20])
    assert evaluation.labels(np.searchsorted((9, 12, 15, 19), length, side="right"), length) == [
        "3_to_8",
        "9_to_11",
        "none_2",
        "none_3",
        "20_to_30",
    ]


# Experiments.


def test_rows_of_tables_1_and_2():
    """Typed from the paper: BLEU of all and of sentences without unknown words, updates, and log-likelihoods of Table 2."""
    table = {
        "wmt14-en-fr": ({}, 26.75, 34.16, 288_000, 40.7, 38.1),
        "wmt14-en-fr-search-30": ({"max_length": 30}, 21.50, 31.44, 471_000, 26.7, 47.2),
        "wmt14-en-fr-encdec-50": ({"networks": "encdec"}, 17.82, 26.71, 600_000, 44.0, 43.6),
        "wmt14-en-fr-encdec-30": ({"networks": "encdec", "max_length": 30}, 13.93, 24.19, 846_000, 28.1, 53.0),
        "wmt14-en-fr-converged": ({}, 28.45, 36.15, 667_000, 36.7, 35.2),
    }  # fmt: skip
    assert {*table} == {name for name, e in train.EXPERIMENTS.items() if e.kind == "paper"}
    base = vars(train.Config())
    sizes = {
        "n": 1000,
        "m": 620,
        "l": 500,
        "n_align": 1000,
        "vocabulary": 30_000,
        "batch_size": 80,
        "sort_batches": 20,
        "clip": 1.0,
    }
    assert (
        base.items()
        >= {**sizes, "max_length": 50, "optimizer": "adadelta", "rate": 1.0, "dropout": 0.0, "checkpoint": "last"}.items()
    )
    search_50 = [26.75, 34.16, 40.7, 38.1]
    for name, (changes, *values) in table.items():
        experiment = train.EXPERIMENTS[name]
        ours = vars(experiment.config)
        assert {key: value for key, value in ours.items() if value != base[key] and key != "steps"} == changes
        score, known, steps, *nats = values
        assert ours["steps"] == steps and [claim.value for claim in experiment.claims] == [score, known, *nats]
        better = name in ("wmt14-en-fr", "wmt14-en-fr-converged")
        assert [claim.either_way for claim in experiment.claims] == [not better] * 4
        assert all(claim.at == (steps if "train" in claim.metric else None) for claim in experiment.claims)
        as_search_50 = [judged(claim, "paper", [value]) for claim, value in zip(experiment.claims, search_50, strict=True)]
        assert (as_search_50 == ["reproduced"] * 4) == (name == "wmt14-en-fr"), "no row passes with another's numbers"


def write_wmt(folder, **lines):
    (folder / "wmt14").mkdir()
    for split, texts in (
        ("train", sentences.made_up(60, 0)), ("newstest2013", sentences.made_up(7, 1)), ("newstest2014", sentences.made_up(4, 2))
    ):  # fmt: skip
        for language, side in (("en", texts.source), ("fr", texts.target)):
            written = lines.get(f"{split}_{language}", [*side])
            (folder / "wmt14" / f"{split}.{language}").write_text("".join(f"{line}\n" for line in written))


SMALL = ["--n", 8, "--m", 4, "--l", 4, "--n-align", 6, "--steps", 4, "--batch-size", 8, "--sort-batches", 2, "--evaluate-every", 2]


@pytest.mark.parametrize("name", ["wmt14-en-fr", "wmt14-en-fr-encdec-30"])
def test_wmt14_experiments_run_on_plain_files(name, tmp_path):
    """At a size for tests. With other beams it measures by other names, and the claims stay open."""
    write_wmt(tmp_path)
    code, output = here(SCRIPT, name, *SMALL, "--beam", 3, "--data-dir", tmp_path, "--out", tmp_path)
    assert code == 0, output
    metrics = record(tmp_path / f"seq2seq_attention/{name}/seed0")["metrics"]
    net = "encdec" if "encdec" in name else "search"
    bleu = f"newstest2014_tokenised_bleu_{net}"
    assert {f"{bleu}_beam3", f"{bleu}_no_unk_beam3", f"newstest2013_nll_{net}"} <= metrics.keys()
    assert "did not draw" not in output and ("alignments" in train.EXPERIMENTS[name].figures) == (net == "search")
    claimed = [claim.metric for claim in train.EXPERIMENTS[name].claims if claim.at is None]
    assert [metrics[each] is None for each in claimed] == ["beam12" in each for each in claimed]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ({"train_fr": ["ein", "satz"]}, "it has 2 lines, the other 60"),
        ({"newstest2014_fr": ["a", "", "b", "c"]}, "a side of pair 2 is empty"),
    ],
)
def test_files_that_do_not_fit_are_refused(lines, said, tmp_path):
    write_wmt(tmp_path, **lines)
    refuses(SCRIPT, "wmt14-en-fr", *SMALL, "--data-dir", tmp_path, "--out", tmp_path, said=said)


def test_an_empty_line_of_the_training_texts_is_left_out_and_counted(tmp_path):
    write_wmt(tmp_path, train_fr=["", *sentences.made_up(60, 0).target[1:]])
    code, output = here(SCRIPT, "wmt14-en-fr", *SMALL, "--beam", 1, "--data-dir", tmp_path, "--out", tmp_path)
    assert code == 0 and "left out of training: 1 pairs with an empty side" in " ".join(output.split()), output
    assert record(tmp_path / "seq2seq_attention/wmt14-en-fr/seed0")["data"]["left_out"] == {"empty": 1, "long": 0}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["smoke", "--clip", 0], "--clip must be positive"),
        (["smoke", "--n", 0], "--n must be at least 1"),
        (["smoke", "--dropout", 1], "--dropout must be in [0, 1)"),
        (["smoke", "--evaluate-every", 13], "no look for the best weights in --steps 12"),
        (["smoke", "--max-length", 1], "no training pair has 1 words or fewer"),
        (["multi30k-de-en", "--target", "de"], "--source and --target are both de"),
        (["multi30k-de-en", "--source", "nl"], "Multi30k: no"),
        (["multi30k-de-en", "--data-dir", "/proc/nowhere"], "Multi30k"),
    ],
)
def test_bad_input(flags, said, tmp_path):
    refuses(SCRIPT, *flags, "--out", tmp_path, said=said)
