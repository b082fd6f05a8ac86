"""Hugging Face's MarianMTModel through our Transformer: the same logits, gradients, translations, scores from the same weights."""

import copy
import json
import math
import os
import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import MarianConfig, MarianMTModel, MarianTokenizer

from common.bleu import sacrebleu
from papers.transformer import model as ours
from papers.transformer import pretrained
from papers.transformer.model import beam_search
from papers.transformer.pretrained import WEIGHTS, Weights, build, from_transformers, settings
from tests.start import finish, processes, record, weights

PRETRAINED = "papers.transformer.pretrained"


def marian(seed=0, V=60, d_model=32, N=2, h=4, d_ff=48, end=0.0, **config):
    """A net with everything random. end: what is added to the logit of the end."""
    sizes = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in
             (("layers", N), ("attention_heads", h), ("ffn_dim", d_ff))}  # fmt: skip
    tokens = {"pad_token_id": V - 1, "decoder_start_token_id": V - 1, "eos_token_id": 0}
    facts = {"activation_function": "swish", "scale_embedding": True, "max_position_embeddings": 128, "vocab_size": V}
    net = MarianMTModel(MarianConfig(**(sizes | tokens | facts | {"d_model": d_model, "dropout": 0.0} | config))).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "layer_norm" in name or name.endswith("bias"):
                p.normal_(float(name.endswith("norm.weight")), 0.2)
            elif "embed_positions" not in name:
                p.normal_(0, p.shape[1] ** -0.5)
        net.final_logits_bias.normal_(0, 0.5)[0, 0] += end
    return net


def in_double(net):
    """Its table of positions holds the numbers of its formula rounded to single precision; here in double."""
    net = net.double()
    for side in (net.model.encoder, net.model.decoder):
        table = side.embed_positions.weight
        n, d = table.shape
        angles = np.arange(n)[:, None] / 10000 ** (2 * np.arange(d // 2) / d)
        exact = torch.tensor(np.concatenate([np.sin(angles), np.cos(angles)], 1))
        assert (table - exact).abs().max() < 1e-6
        table.data.copy_(exact)
    return net


def converted(net):
    return build(from_transformers(net.state_dict()), **settings(net.config.to_dict())).to(net.dtype).eval()


def sources(V, lengths):
    """Random sentences with their end, padded: (B, S)."""
    return padded([F.pad(torch.randint(1, V - 1, (length - 1,)), (0, 1)) for length in lengths], V)


def padded(rows, V):
    return pad_sequence(rows, batch_first=True, padding_value=V - 1)


def examples(V):
    """source (B, S), target shifted right (B, T), and where both the target and the vocabulary are real (B, T, V)."""
    source, target = sources(V, (1, 4, 9, 17)), sources(V, (12, 1, 5, 8))
    real = (target != V - 1)[:, :, None] & (torch.arange(V) != V - 1)
    return source, F.pad(target, (1, -1), value=V - 1), real


def theirs(net, source, target):
    return net(input_ids=source, attention_mask=(source != net.config.pad_token_id).long(), decoder_input_ids=target).logits


def same(y, expected):
    assert y.shape == expected.shape and expected.std() > 1e-3 * expected.abs().max() > 0
    assert (y - expected).abs().max() <= 1e-9 * expected.abs().max()


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    "sizes", [{}, {"V": 100, "d_model": 64, "N": 3, "h": 8}, {"h": 1, "d_ff": 7, "N": 1}, {"activation_function": "relu"}]
)
def test_logits_and_gradients_are_those_of_the_reference(sizes):
    """With padding of several lengths on both sides. The token that is padding has no probability in our model."""
    net = in_double(marian(**sizes))
    model, V, gradients = converted(net), net.config.vocab_size, []
    source, target, real = examples(V)
    outputs = model(source, target), theirs(net, source, target)
    same(outputs[0][real], outputs[1][real])
    assert (outputs[0][:, :, V - 1] == -math.inf).all()
    for each, y in zip((model, net), outputs, strict=True):
        F.cross_entropy(y[:, :, :-1][real[:, :, 0]], torch.arange(real[:, :, 0].sum())).backward()
        gradients.append({name: p.grad for name, p in each.named_parameters() if p.grad is not None})
    expected = from_transformers(gradients[1])
    assert gradients[0].keys() == expected.keys() and len(expected) == sum(1 for _ in model.parameters())
    for name, each in expected.items():
        if name.endswith("W_K.bias"):  # softmax does not change when all scores do: zero, but for rounding
            assert max(gradients[0][name].abs().max(), each.abs().max()) < 1e-12
        else:
            rows = slice(V - 1) if name == "embedding.weight" else slice(None)  # theirs does not learn padding, the start
            same(gradients[0][name][rows], each[rows])


@pytest.mark.usefixtures("double")
def test_other_activations_and_other_layouts_are_wrong(monkeypatch):
    """Weights in Marian's own order are right exactly where positions are encoded in that order."""
    net = in_double(marian())
    source, target, real = examples(60)
    state, given = from_transformers(net.state_dict()), settings(net.config.to_dict())
    with torch.no_grad():
        expected = theirs(net, source, target)[real]
        relu = build(state, **{**given, "activation": "relu"}).eval()(source, target)[real]
        assert (relu - expected).abs().max() > 0.1 * expected.abs().max()
        back = torch.tensor([*range(0, 32, 2), *range(1, 32, 2)])
        for name, each in state.items():
            part = name.split(".")[-2:]
            if part[0] in ("W_Q", "W_K", "W_V", "W_1", "embedding") and part[1] == "weight":
                state[name] = each[:, back]
            elif part[0] in ("W_O", "W_2", "norm1", "norm2", "norm3"):
                state[name] = each[back]
        model = build(state, **given).eval()
        assert (model(source, target)[real] - expected).abs().max() > 0.1 * expected.abs().max()
        encoding = ours.positional_encoding
        monkeypatch.setattr(ours, "positional_encoding", lambda positions, d_model: encoding(positions, d_model)[:, back])
        same(model(source, target)[real], expected)


# Beam search. transformers has one longest output for a batch, we one for each sentence: so theirs gets sentences of one length.


def generated(net, source, extra, K, **options):
    """Token rows without padding, and scores."""
    pad, rows, scores = net.config.pad_token_id, [None] * len(source), torch.zeros(len(source))
    lengths = (source != pad).sum(1)
    for length in lengths.unique().tolist():
        some = (lengths == length).nonzero()[:, 0]
        made = net.generate(
            source[some], attention_mask=(source[some] != pad).long(), max_new_tokens=length + extra, num_beams=K, do_sample=False,
            length_penalty=1.0, forced_eos_token_id=0, bad_words_ids=[[pad]], return_dict_in_generate=True, output_scores=True,
            **({"early_stopping": "never" if K > 1 else None, "renormalize_logits": True} | options),
        )  # fmt: skip
        for i, row in zip(some.tolist(), made.sequences, strict=True):
            rows[i] = [token for token in row[1:].tolist() if token != pad]
        scores[some] = made.sequences_scores if K > 1 else math.nan
    return rows, scores


def found(net, source, extra, K):
    tokens, scores = beam_search(
        converted(net), source, start=net.config.pad_token_id, end=0, K=K, extra=extra, penalty=lambda length: length
    )  # fmt: skip
    return [[token for token in row if token != net.config.pad_token_id] for row in tokens.tolist()], scores


@pytest.fixture(scope="module")
def taught():
    """A net that has begun to learn: about two of three words, in reverse. It ends at many lengths, and is sure of nothing."""
    V, net = 60, marian()
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(150):
        rows = [torch.randint(1, V - 1, (int(torch.randint(1, 8, ())),)) for _ in range(32)]
        source = padded([F.pad(row, (0, 1)) for row in rows], V)
        target = padded([F.pad(row.flip(0)[torch.rand(len(row)) < 0.7], (0, 1)) for row in rows], V)
        logits = theirs(net, source, F.pad(target, (1, -1), value=V - 1))
        optimizer.zero_grad()
        F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=V - 1).backward()
        optimizer.step()
    return net


@pytest.mark.parametrize("K", [2, 4, 6])
@pytest.mark.parametrize("kind", ["taught", "random", "ends soon"])
def test_translations_and_scores_are_those_of_generate(kind, K, taught):
    """In one batch of ours with padding. Random nets end at once, or where they are cut."""
    net = taught if kind == "taught" else marian(1, end=2.5 * (kind == "ends soon"))
    source = sources(60, [1, 2, 3, 5, 9, 14] * (8 if kind == "taught" else 2))
    rows, scores = found(net, source, 12, K)
    expected, theirs = generated(net, source, 12, K)
    assert rows == expected and (scores - theirs).abs().max() < 1e-5
    lengths = {len(row) for row in rows}
    assert len(lengths) > 6 if kind == "taught" else kind != "random" or lengths == {13, 14, 15, 17, 21, 26}


def test_one_beam_is_greedy(taught):
    source = sources(60, [1, 2, 3, 5, 9, 14] * 4)
    assert found(taught, source, 12, 1)[0] == generated(taught, source, 12, 1)[0]


def test_stopping_early_and_unnormalised_probabilities_are_other_translations(taught):
    """transformers' default stops before the best is found. Its other default lets padding, never output, take probability."""
    source = sources(60, [1, 2, 3, 5, 9, 14] * 6)
    rows, scores = found(taught, source, 12, 6)
    early, theirs = generated(taught, source, 12, 6, early_stopping=False)
    assert early != rows and (theirs <= scores + 1e-5).all() and (theirs < scores - 1e-3).any()
    likely_padding = copy.deepcopy(taught)
    likely_padding.final_logits_bias[0, 59] += 8
    assert found(likely_padding, source, 12, 6)[0] == generated(likely_padding, source, 12, 6)[0] == rows
    assert generated(likely_padding, source, 12, 6, renormalize_logits=False)[0] != rows


# What is refused.


def test_keys_of_either_naming_and_tied_duplicates():
    state = marian().state_dict()
    expected = from_transformers(state)
    tied = {"model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight", "model.shared.weight"}
    positions = {"model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight"}
    kept = [{key: each for key, each in state.items() if key not in tied - {one} | positions} for one in tied]
    for other in (*kept, {key.removeprefix("model."): each for key, each in state.items()}):
        found = from_transformers(other)
        assert found.keys() == expected.keys() and all(torch.equal(found[name], each) for name, each in expected.items())


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda s: s.update({"model.encoder.layer_norm.weight": torch.ones(32)}), "layer_norm.weight is no weight of its"),
        (lambda s: s.update({"model.encoder.layers.0.encoder_attn.k_proj.bias": torch.ones(32)}), "is no weight of its"),
        (lambda s: s.update(model=s["final_logits_bias"]), "model is no weight of its"),
        (lambda s: [s.pop(key) for key in list(s) if "embed_t" in key or "shared" in key or "lm_head" in key], "no embeddings"),
        (lambda s: s.update({"lm_head.weight": s["lm_head.weight"] + 1}), "are not one matrix"),
        (lambda s: s["model.decoder.embed_positions.weight"].add_(1), r"is not \[sines \| cosines\]"),
        (lambda s: s.pop("final_logits_bias"), "ours: it has no bias$"),
        (lambda s: s.pop("model.decoder.layers.1.encoder_attn_layer_norm.bias"), "it has no decoder.1.norm2.bias"),
        (lambda s: [s.pop(key) for key in list(s) if "decoder.layers.1" in key], "2 layers of the encoder, 1 of the decoder"),
        (lambda s: [s.pop(key) for key in list(s) if "encoder.layers.0" in key], "not a Transformer of ours"),
        (lambda s: s.update({"model.encoder.layers.1.fc1.weight": torch.ones(48, 64)}), "W_1.weight has shape"),
        (lambda s: s.update({"model.decoder.layers.1.fc1.weight": torch.ones(40, 32)}), "decoder.1.feed_forward.W_1.weight is "),
    ],
)  # fmt: skip
def test_other_weights_are_refused(change, words):
    net = marian()
    state = {key: each.clone() for key, each in net.state_dict().items()}
    change(state)
    with pytest.raises(ValueError, match=words) as caught:
        build(from_transformers(state), **settings(net.config.to_dict()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"normalize_before": True}, "normalize_before True, not False"),
        ({"static_position_embeddings": False}, "static_position_embeddings False, not True"),
        ({"scale_embedding": False}, "scale_embedding False, not True"),
        ({"model_type": "bart"}, "model_type bart, not marian"),
        ({"decoder_attention_heads": 2}, "decoder_attention_heads 2, encoder_attention_heads 4"),
        ({"decoder_start_token_id": 0}, "decoder_start_token_id 0, pad_token_id 59"),
        ({"eos_token_id": None}, "no eos_token_id"),
        ({"activation_function": "gelu"}, "activation gelu.*one of swish, silu, relu"),
        ({"encoder_attention_heads": 5, "decoder_attention_heads": 5}, "h 5"),
    ],
)
def test_other_configurations_are_refused(change, words):
    net = marian()
    with pytest.raises(ValueError, match=words):
        build(from_transformers(net.state_dict()), **settings(net.config.to_dict() | change))


# The evaluation.


def test_known_weights_have_the_claims_of_their_cards():
    for name, experiment in WEIGHTS.items():
        assert experiment.kind == "weights" and name == f"weights-{experiment.config.weights}"
        names = [f"{each}_sacrebleu_beam{experiment.config.beam}" for each in experiment.config.sets]
        assert [claim.metric for claim in experiment.claims] == names
        assert name.endswith(f"-{experiment.config.source}-{experiment.config.target}")
    for wrong in ({"beam": 0}, {"sets": ()}, {"sets": ("a/x", "b/x")}):
        with pytest.raises(ValueError, match="--"):
            Weights("some", **wrong)


@pytest.fixture(scope="module")
def official(taught, tmp_path_factory):
    """A folder in the layout of the hub, and data: a newstest2013 whose references are its translations but for some words."""
    import sentencepiece

    root = tmp_path_factory.mktemp("official")
    (folder := root / "opus-mt-en-de").mkdir()
    source = ["the cat sat on a mat", "the dogs do not bark at night", "we saw two ships", "rain fell all the day", "who saw a cat"]
    (root / "text").write_text("\n".join(source * 3))
    for side in ("source", "target"):
        sentencepiece.SentencePieceTrainer.train(
            input=str(root / "text"), model_prefix=str(folder / side), model_type="word", vocab_size=50, hard_vocab_limit=False,
            minloglevel=2,
        )  # fmt: skip
        (folder / f"{side}.model").rename(folder / f"{side}.spm")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.spm"))
    words = ["</s>", "<unk>", *(pieces.id_to_piece(i) for i in range(3, pieces.get_piece_size()))]
    words += [f"▁word{i}" for i in range(len(words), 59)] + ["<pad>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    taught.save_pretrained(folder)
    tokenizer = MarianTokenizer.from_pretrained(folder)
    rows = [generated(taught, torch.tensor([tokenizer(text).input_ids]), 50, 6)[0][0] for text in source]
    texts = [tokenizer.decode(row, skip_special_tokens=True, use_source_tokenizer=False) for row in rows]
    target = [f"{texts[0]} or so", *texts[1:4], "something else"]
    assert len({*texts}) == 5 and 10 < sacrebleu(texts, target) < 90
    source[1] = "the dogs do \u200b not  bark\u00adat night "  # characters that OPUS-MT makes spaces
    (data := root / "data" / "newstest" / "en-de").mkdir(parents=True)
    (data / "newstest2013.en").write_text("\n".join(source) + "\n")
    (data / "newstest2013.de").write_text("\n".join(target) + "\n")
    return folder, root / "data", texts, sacrebleu(texts, target)


@pytest.fixture
def command(monkeypatch, tmp_path, capfd):
    """`python -m papers.transformer.pretrained ...` in this process -> exit code, lines that are errors."""
    return weights(pretrained, tmp_path / "out", monkeypatch, capfd)


@pytest.mark.slow
def test_the_command_gives_the_bleu_of_generate(official, taught, command, tmp_path):
    """On one process, and on two, one sentence at a time, from the other format; sets that are not there are not measured."""
    folder, data, texts, bleu = official
    flags = ["--data-dir", data, "--sets", "newstest2013", "newstest2015"]
    older = shutil.copytree(folder, tmp_path / folder.name, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(taught.state_dict(), older / "pytorch_model.bin")
    two = processes(2, tmp_path / "two", PRETRAINED, older, *flags, "--micro-batch", 1, "--out", tmp_path / "2")
    assert command(folder, *flags) == (0, [])
    finish(two)
    for n, out in ((1, "out"), (2, "2")):
        run = tmp_path / out / "transformer/weights-opus-mt-en-de/seed0"
        made = record(run)
        assert made["kind"] == "weights" and made["processes"] == n
        assert made["metrics"] == {"newstest2013_sacrebleu_beam6": pytest.approx(bleu), "newstest2015_sacrebleu_beam6": None}
        assert made["data"]["sets"] == {"newstest2013": 5} and "tok:13a" in made["data"]["bleu"] and not made["data"]["stand_in"]
        assert (run / "newstest2013.txt").read_text().splitlines() == texts
    assert sum(each.output().count("newstest2015.en and newstest2015.de there, not measured") for each in two) == 1


@pytest.mark.parametrize("kind", ["nothing there", "only one language", "only elsewhere"])
def test_sets_that_are_not_there(kind, official, command, tmp_path):
    folder, data, *_ = official
    (tmp_path / "newstest").mkdir()
    if kind == "only one language":
        shutil.copy(data / "newstest/en-de/newstest2013.en", tmp_path / "newstest")
    code, errors = command(folder, "--data-dir", data if kind == "only elsewhere" else tmp_path, "--target", "fr")
    assert code == 2 and len(errors) == 1 and "sacrebleu -t wmt13 -l en-fr --echo src" in errors[0]


def test_sets_by_path_and_known_weights_without_a_network(official, command, monkeypatch):
    """The weights' own name needs the hub. A folder of the other direction is told from its name by its tokens."""
    folder, data, *_ = official
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    flags = ["--data-dir", data, "--sets", data / "newstest/en-de/newstest2013"]
    for name in ("opus-mt-en-de", "Helsinki-NLP/opus-mt-en-fr", "nonsense", folder / "vocab.json"):
        code, errors = command(name, *flags)
        assert code == 2 and len(errors) == 1 and errors[0].startswith(f"error: cannot load {name} ("), errors
    other = shutil.copytree(folder, data.parent / "opus-mt-de-en")
    (other / "tokenizer_config.json").write_text(json.dumps({"source_lang": "de", "target_lang": "en"}))
    assert "add --source de --target en" in command(other, *flags)[1][0]


@pytest.mark.parametrize("damage", ["cut", "no weights", "no config", "config", "no spm", "vocab", "spm", "other"])
def test_folders_that_cannot_be_used(damage, official, command, tmp_path):
    folder, data, *_ = official
    broken = shutil.copytree(folder, tmp_path / "opus-mt-en-de")
    config = json.loads((broken / "config.json").read_text())
    if damage == "cut":
        os.truncate(broken / "model.safetensors", 5000)
    elif damage == "config":
        (broken / "config.json").write_text(json.dumps(config)[:-9])
    elif damage == "other":
        (broken / "config.json").write_text(json.dumps(config | {"normalize_before": True}))
    elif damage == "vocab":
        (broken / "vocab.json").write_text(json.dumps({"</s>": 0, "<unk>": 1, "<pad>": 2}))
    elif damage == "spm":
        os.truncate(broken / "target.spm", 100)
    else:
        (broken / {"no weights": "model.safetensors", "no config": "config.json", "no spm": "source.spm"}[damage]).unlink()
    code, errors = command(broken, "--data-dir", data)
    assert code == 2 and len(errors) == 1 and errors[0].startswith(f"error: cannot load {broken} ("), errors
    words = {
        "other": "normalize_before True, not False",
        "no weights": "no weights",
        "no config": "no config.json",
        "no spm": "no source.spm",
    }
    assert words.get(damage, "") in errors[0]
