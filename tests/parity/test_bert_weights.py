"""Hugging Face's BERT and its tokenizer through ours: the same tokens, states, heads, gradients; files old and new."""

import json
import math
import os
import shutil

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
    BertTokenizer,
)  # fmt: skip

from common.data.glue import Labelled
from common.errors import BadInput
from common.provenance import ROOT
from papers.bert import corpus, pretrained
from papers.bert.keys import from_tensorflow
from papers.bert.model import Bert, Classifier, Pretraining, Spans, bert_base, bert_large
from papers.bert.pretrain import hidden
from papers.bert.pretrained import WEIGHTS, Mean, build, from_transformers, load
from papers.bert.tasks import examples
from papers.bert.vocabulary import SPECIAL, read
from tests.serving import put
from tests.start import record, weights

SIZES = {  # name -> what differs from base: large in fewer layers, and the small ones of google/bert_uncased_*
    "base": {"num_hidden_layers": 2},
    "large": {"num_hidden_layers": 2, "hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096},
    "tiny": {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 512},
    "mini": {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024},
}
SMALL = {
    "num_hidden_layers": 2,
    "hidden_size": 24,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "max_position_embeddings": 40,
}


def reference(kind=BertForPreTraining, V=60, act="gelu", seed=0, **sizes):
    """A net with everything random, biases and gains among it."""
    net = kind(BertConfig(vocab_size=V, hidden_act=act, attn_implementation="eager", **sizes)).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith("bias") or "LayerNorm" in name:
                p.normal_(float("LayerNorm" in name and name.endswith("weight")), 0.3)
            else:
                p.normal_(0, 1.5 * p.shape[1] ** -0.5)
    return net


def converted(net, **more):
    gelu = {"gelu": "none", "gelu_new": "tanh"}[net.config.hidden_act]
    return build(from_transformers(net.state_dict()), net.config.num_attention_heads, gelu, **more).eval()


def inputs(V=60, lengths=(17, 1, 9, 30), seed=1):
    """Random pairs, padded."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, V, (len(lengths), max(lengths)), generator=generator)  # theirs learn nothing for 0, [PAD]
    real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    segments = (torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None] // 2).long() * real
    return tokens, segments, real


def theirs(net, tokens, segments, real, **more):
    return net(tokens, attention_mask=real.long(), token_type_ids=segments, **more)


def same(y, expected):
    assert y.shape == expected.shape and expected.std() > 1e-3 * expected.abs().max() > 0
    assert (y - expected).abs().max() <= 1e-9 * expected.abs().max()


# The network.


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("size", "act"), [*((size, "gelu") for size in SIZES), ("tiny", "gelu_new"), ("mini", "gelu_new")])
@torch.no_grad()
def test_states_and_heads_are_those_of_the_reference(size, act):
    net = reference(act=act, **SIZES[size])
    model, (tokens, segments, real) = converted(net), inputs()
    y = theirs(net, tokens, segments, real, output_hidden_states=True)
    x = model.bert.embed(tokens, segments)
    same(x, y.hidden_states[0])
    for layer, after in zip(model.bert.layers, y.hidden_states[1:], strict=True):
        x = layer(x, real[:, None])
        same(x[real], after[real])
    same(model.bert(tokens, segments, real)[real], y.hidden_states[-1][real])
    pooled = theirs(net.bert, tokens, segments, real).pooler_output
    same(model.bert.pooled(x, real), pooled)
    words, following = model(tokens, segments, real, real)
    same(words, y.prediction_logits[real])
    same(following, y.seq_relationship_logits)


@pytest.mark.usefixtures("double")
def test_either_gelu_differs_from_the_other():
    nets = [reference(act=act, **SMALL) for act in ("gelu", "gelu_new")]
    batch = inputs()
    y = [converted(net).bert(*batch) for net in nets]
    assert 1e-5 < (y[0] - y[1]).abs().max() < 0.1


@pytest.mark.usefixtures("double")
def test_gradients_are_those_of_the_reference():
    net = reference(**SIZES["tiny"])
    model, (tokens, segments, real) = converted(net, dropout=0.0).train(), inputs()
    chosen = real & (torch.rand(real.shape) < 0.4)
    labels, follows = tokens.where(chosen, -100), torch.tensor([0, 1, 1, 0])
    words, following = model(tokens, segments, real, chosen)
    (F.cross_entropy(words, tokens[chosen]) + F.cross_entropy(following, follows)).backward()
    theirs(net, tokens, segments, real, labels=labels, next_sentence_label=follows).loss.backward()
    expected = from_transformers({name: p.grad for name, p in net.named_parameters()})
    found = {name: p.grad for name, p in model.named_parameters()}
    assert found.keys() == expected.keys() and len(expected) == 7 + 2 * 12 + 7
    for name, each in expected.items():
        same(found[name], each) if not name.endswith("qkv.bias") else same(found[name][:128], each[:128])
        if name.endswith("qkv.bias"):  # a bias of keys changes nothing: its gradient is rounding
            same(found[name][256:], each[256:])
            assert found[name][128:256].abs().max() < 1e-9 * each.abs().max()


@pytest.mark.usefixtures("double")
@torch.no_grad()
def test_padding_changes_nothing():
    """Each sentence alone is the same as in a batch with longer ones."""
    model, (tokens, segments, real) = converted(reference(BertForSequenceClassification, **SMALL), dropout=0.0), inputs()
    for training in (False, True):  # attention fused, and written out
        together = model.train(training)(tokens, segments, real)
        for i, n in enumerate(real.sum(1).tolist()):
            alone = model(tokens[i : i + 1, :n], segments[i : i + 1, :n], real[i : i + 1, :n])
            assert (alone - together[i]).abs().max() < 1e-12
        assert together.std(0).min() > 1e-2


@pytest.mark.usefixtures("double")
@torch.no_grad()
def test_heads_of_fine_tuning():
    (tokens, segments, real), sizes = inputs(), SMALL | {"num_labels": 3}
    net = reference(BertForSequenceClassification, **sizes)
    model = converted(net)
    assert isinstance(model, Classifier)
    same(model(tokens, segments, real), theirs(net, tokens, segments, real).logits)
    net = reference(BertForQuestionAnswering, **SMALL)
    model = converted(net)
    assert isinstance(model, Spans)
    y, found = theirs(net, tokens, segments, real), model(tokens, segments, real)
    same(found[:, 0][real], y.start_logits[real])
    same(found[:, 1][real], y.end_logits[real])
    assert (found[:, 0][~real] < -1e300).all(), "padding is no answer"


def test_parameters():
    """Of base and large, with and without case, with the pooler and with the heads of pre-training; without the pooler."""
    with torch.device("meta"):
        for make, V, L, D, whole, heads in (
            (bert_base, 30_522, 12, 768, 109_482_240, 110_106_428), (bert_base, 28_996, 12, 768, 108_310_272, None),
            (bert_large, 30_522, 24, 1024, 335_141_888, 336_226_108), (bert_large, 28_996, 24, 1024, 333_579_264, None),
        ):  # fmt: skip
            model = make(V)
            config = BertConfig(
                vocab_size=V, num_hidden_layers=L, hidden_size=D, num_attention_heads=D // 64, intermediate_size=4 * D
            )
            net, count = BertForPreTraining(config), lambda net: sum(p.numel() for p in net.parameters())
            assert count(model) == count(net.bert) == whole
            assert count(Pretraining(model)) == count(net) == (heads or count(net))
            assert whole - count(model.pooler) == {109_482_240: 108_891_648, 335_141_888: 334_092_288}.get(
                whole, whole - D * (D + 1)
            )
            state = {key: each for key, each in net.state_dict().items() if "decoder" not in key}
            shapes = {name: each.shape for name, each in from_transformers(state).items()}
            assert shapes == {name: each.shape for name, each in Pretraining(model).state_dict().items()}


# Files of weights.


def equal(found, expected):
    assert found.keys() == expected.keys()
    for name, each in expected.items():
        assert torch.equal(found[name], each), name


@pytest.fixture(scope="module")
def small():
    return reference(**SMALL)


DECODER = "cls.predictions.decoder.weight"


def test_keys_of_older_and_newer_files(small):
    state = small.state_dict()
    expected = from_transformers(state)
    older = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): x
        for key, x in state.items()
    }
    older |= {"bert.embeddings.position_ids": torch.arange(40)[None]}
    older = {key: x for key, x in older.items() if "decoder" not in key}
    assert {key.split(".")[-1] for key in older} >= {"gamma", "beta"}
    equal(from_transformers(older), expected)
    equal(build(expected, 3).state_dict(), expected)
    body = from_transformers(small.bert.state_dict())
    equal(body, {key.removeprefix("bert."): x for key, x in expected.items() if key.startswith("bert.")})
    assert isinstance(build(body, 3), Bert) and build(body, 3, dropout=0.25).layers[1].attention.dropout == 0.25


def test_the_authors_variables(small):
    """As TensorFlow names and lays them out."""
    arrays = {"global_step": torch.tensor(1), "bert/pooler/dense/kernel/adam_m": torch.ones(2)}
    for key, x in small.state_dict().items():
        if "decoder" in key:
            continue
        name = key.replace("encoder.layer.", "encoder.layer_").replace("LayerNorm.weight", "LayerNorm.gamma")
        name = name.replace("LayerNorm.bias", "LayerNorm.beta").replace("_embeddings.weight", "_embeddings")
        name = name.replace("seq_relationship.weight", "seq_relationship.output_weights").replace(
            "predictions.bias", "predictions.output_bias"
        )
        name = name.replace("seq_relationship.bias", "seq_relationship.output_bias")
        kernel = name.endswith(".weight")
        arrays[name.replace(".weight", ".kernel").replace(".", "/")] = (x.T if kernel else x).numpy()
    assert "bert/encoder/layer_1/attention/self/query/kernel" in arrays and "cls/predictions/transform/LayerNorm/gamma" in arrays
    equal(from_tensorflow(arrays), from_transformers(small.state_dict()))


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda s: s.update({DECODER: s[DECODER] + 1}), "decoder.weight is not embedd"),
        (lambda s: s.update({"bert.encoder.layer.0.crossattention.self.query.weight": torch.ones(1)}), "crossattention.self.query"),
        (lambda s: s.update({"roberta.x": torch.ones(1)}), "roberta.x is no weight of its"),
        (lambda s: s.pop("bert.encoder.layer.1.attention.self.key.bias"), "layers.1.attention.qkv.bias: it has no k"),
        (lambda s: s.pop("bert.encoder.layer.1.attention.self.query.bias"), "qkv.bias.k is no weight of its"),
        (lambda s: s.pop("bert.encoder.layer.0.output.dense.bias"), "it has no bert.layers.0.ffn.2.bias"),
        (lambda s: s.pop("cls.seq_relationship.weight"), "it has no next.weight"),
        (lambda s: s.update({"bert.pooler.dense.weight": torch.ones(24, 23)}), r"pooler.weight is \(24, 23\), not \(24, 24\)"),
        (lambda s: s.pop("bert.embeddings.position_embeddings.weight"), r"embeddings have shapes \(60, 24\), \(0,\)"),
        (lambda s: s.clear(), r"embeddings have shapes \(0,\)"),
    ],
)  # fmt: skip
def test_other_weights_are_refused(change, words, small):
    state = dict(small.state_dict())
    change(state)
    with pytest.raises(ValueError, match=words) as caught:
        build(from_transformers(state), 3)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


# The vocabulary.

TEXTS = (
    "The cat sat on the mat.", "THE CAT, Sat!", "naïve café, Ångström ÜBER straße", "it's 1984: 3.14 % of $20 (or so)", "",
    "   ", "one\ntwo\n\n three\r\nfour\tfive", "\U0001f600 zzz \U0001f468‍\U0001f469", "a [MASK] b [mask] [SEP].",
    "\x00nul \x07bell \x85",
    "soft\u00adhyphen zero\u200bwidth \ufffd", "e\u0301 decomposed", "İstanbul ﬁne ǅ", "well-known—dash … “quoted” ´x´", "q" * 99,
    "q" * 101,
    "猫 sat on 日本語x 한국어 ひらがな", "ab" * 5000, "thethethe catcat", "\u2028line\u2029", "a\u0300\u0301\u0302",
    "x\u3000y", "~`@#$^&*_+={}|\\<>/",
)  # fmt: skip


@pytest.fixture(scope="module", params=["uncased", "cased"])
def vocabulary(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    some = "the cat sat on mat it s 1984 3 14 20 or so naive cafe über caf é ##é q ##q a b ab ##ab x ##x 猫 日 한국어 "
    some += ". , ! ' : % $ ( ) - — “ ” ~ ` |"
    some += " The THE Cat Sat [mask ] [ mask" if request.param == "cased" else " ##the ##cat ##mat e istanbul ##s ##t i ##i ##n f"
    put(folder / "vocab.txt", "\n".join(dict.fromkeys([*SPECIAL, *some.split()])) + "\n")
    put(folder / "tokenizer_config.json", json.dumps({"do_lower_case": request.param == "uncased"}))
    return folder


def test_tokens_are_those_of_the_reference(vocabulary):
    lower = "true" in (vocabulary / "tokenizer_config.json").read_text()
    reference, tokenizer = BertTokenizer(vocab=str(vocabulary / "vocab.txt"), do_lower_case=lower), read(vocabulary)
    assert tokenizer.get_vocab() == reference.get_vocab()
    known = 0
    for text in TEXTS:
        found = tokenizer.encode(text).ids
        assert found == reference(text, add_special_tokens=False).input_ids, text
        known += sum(i != tokenizer.token_to_id("[UNK]") for i in found)
    assert known > 60
    cat = tokenizer.encode("The CAT").tokens
    assert cat == (["the", "cat"] if lower else ["The", "[UNK]"])


def test_case_is_that_of_the_vocabulary_where_nothing_says_it(vocabulary, tmp_path):
    copied = shutil.copytree(vocabulary, tmp_path / "copy")
    (copied / "tokenizer_config.json").unlink()
    assert [read(copied).encode(text).ids for text in TEXTS] == [read(vocabulary).encode(text).ids for text in TEXTS]


# Folders, and the command.


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same network in today's layout, in an older one, and cut into parts."""
    root = tmp_path_factory.mktemp("folders")
    for name in ("new", "old", "parts"):
        net = reference(**SMALL)
        net.save_pretrained(root / name, **({"max_shard_size": "20KB"} if name == "parts" else {}))
        pieces = [*SPECIAL, *(f"p{i}" for i in range(60 - len(SPECIAL)))]
        put(root / name / "vocab.txt", "\n".join(pieces) + "\n")
    assert len([*(root / "parts").glob("*.safetensors")]) > 2
    (root / "old/model.safetensors").unlink()
    older = {key.replace("LayerNorm.weight", "LayerNorm.gamma"): x for key, x in reference(**SMALL).state_dict().items()}
    torch.save(older, root / "old/pytorch_model.bin")
    return root


def test_folders(folders):
    expected = from_transformers(reference(**SMALL).state_dict())
    for name in ("new", "old", "parts"):
        model, tokenizer = load(name, folders / name)
        equal(model.state_dict(), expected)
        assert (tokenizer.get_vocab_size(), model.bert.layers[0].attention.h, model.bert.gelu) == (60, 3, "none")


def change(folder, **changes):
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | changes))


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda f: change(f, model_type="roberta"), "model_type roberta, not bert"),
        (lambda f: change(f, hidden_act="relu"), "hidden_act relu, not gelu"),
        (lambda f: change(f, position_embedding_type="relative_key"), "position_embedding_type relative_key, not absolute"),
        (lambda f: change(f, num_attention_heads=5), "5 heads do not divide the width 24"),
        (lambda f: change(f, num_hidden_layers=3, intermediate_size=9), "intermediate_size 9, not 96; num_hidden_layers 3, not 2"),
        (lambda f: put(f / "vocab.txt", "\n".join(SPECIAL)), "the vocabulary has 5 pieces, the model embeddings of 60"),
        (lambda f: put(f / "vocab.txt", "a\nb\na\n"), "vocab.txt: line 3 is empty, or a piece that was"),
        (lambda f: put(f / "vocab.txt", "a\nb\n"), r"vocab.txt has no \[PAD\], \[UNK\]"),
        (lambda f: (f / "vocab.txt").unlink(), "it has no vocab.txt"),
        (lambda f: (f / "model.safetensors").unlink(), "it has no weights"),
        (lambda f: os.truncate(f / "model.safetensors", 3000), "Error: "),
        (lambda f: os.truncate(f / "config.json", 9), "JSONDecodeError"),
    ],
)  # fmt: skip
def test_folders_that_cannot_be_used(damage, words, folders, tmp_path):
    broken = shutil.copytree(folders / "new", tmp_path / "new")
    damage(broken)
    with pytest.raises(BadInput, match=words) as caught:
        load(str(broken), broken)
    assert str(caught.value).startswith(f"cannot load {broken} (") and "\n" not in str(caught.value)


@pytest.fixture
def command(tmp_path, monkeypatch, capfd):
    return weights(pretrained, tmp_path / "out", monkeypatch, capfd)


STS = [("A man sings.", "A man is singing.", 5.0), ("p1 p2 p3", "p1 p2 p7", 3.5), ("p9", "p8 p4 p5", 0.4), ("p1 p1", "p2", 1.0)]


def test_sentence_vectors(command, folders, tmp_path):
    """The correlation is that of the cosines of transformers' mean states, reckoned here by hand."""
    from scipy.stats import spearmanr

    net = reference(**SMALL).bert
    folder = tmp_path / "data/weights/sentences"
    net.save_pretrained(folder)
    shutil.copy(folders / "new/vocab.txt", folder)
    rows = [f"g\tf\ty\t{i}\t{score}\t{a}\t{b}" for i, (a, b, score) in enumerate(STS)]
    put(tmp_path / "data/glue/STS-B/original/sts-test.tsv", "\n".join(rows) + "\n")
    head = "index\tgenre\tsentence1\tsentence2\tscore\n"
    put(tmp_path / "data/glue/STS-B/dev.tsv", head + "".join(f"0\tg\t{a}\t{b}\t{score}\n" for a, b, score in STS[::-1]))
    assert command("sentences", "--data-dir", tmp_path / "data") == (0, [])
    metrics, tokenizer = record(tmp_path / "out/bert/weights-sentences/seed0")["metrics"], read(folder)
    with torch.no_grad():
        vector = lambda text: net(torch.tensor([[2, *tokenizer.encode(text).ids, 3]])).last_hidden_state[0].mean(0)
        cosines = [F.cosine_similarity(vector(a), vector(b), 0).item() for a, b, _ in STS]
    expected = 100 * spearmanr([score for *_, score in STS], cosines).statistic
    assert metrics["test_spearman"] == metrics["dev_spearman"] == pytest.approx(expected)
    assert metrics["largest_difference"] < 1e-5
    put(tmp_path / "data/glue/STS-B/original/sts-test.tsv", "g\tf\ty\t0\t5.0\ta\n")
    code, errors = command("sentences", "--data-dir", tmp_path / "data", "--restart")
    assert code == 2 and "row 1 has 6 columns, not 7 or more" in errors[0]


def test_a_classifier(command, folders, tmp_path):
    net = reference(BertForSequenceClassification, **SMALL)
    shutil.copytree(folders / "new", tmp_path / "sst", ignore=lambda *_: ["model.safetensors", "config.json"])
    texts = [" ".join(f"p{(i * j) % 50}" for j in range(1, 3 + i)) for i in range(12)]
    put(tmp_path / "data/glue/SST-2/dev.tsv", "sentence\tlabel\n" + "".join(f"{text}\t{i % 2}\n" for i, text in enumerate(texts)))
    put(tmp_path / "data/glue/SST-2/train.tsv", "sentence\tlabel\na\t0\n")
    tokenizer = read(tmp_path / "sst")
    with torch.no_grad():
        logits = torch.cat([net(torch.tensor([[2, *tokenizer.encode(text).ids, 3]])).logits for text in texts])
        shift = (logits[:, 1] - logits[:, 0]).sort().values[4:6].mean()  # so that it says either
        net.classifier.bias[0] += shift
    net.save_pretrained(tmp_path / "sst")
    found = (logits[:, 1] - logits[:, 0] > shift).long().tolist()
    assert sum(found) == 7
    assert command(tmp_path / "sst", "--task", "sst2", "--data-dir", tmp_path / "data") == (0, [])
    expected = 100 * sum(y == i % 2 for i, y in enumerate(found)) / 12
    assert record(tmp_path / "out/bert/weights-sst/seed0")["metrics"] == {"dev_accuracy": pytest.approx(expected)}
    for flags, words in ((["--task", "mnli"], "tells 2 classes apart, mnli has 3"), ([], "name what it has learned with --task")):
        code, errors = command(tmp_path / "sst", *flags, "--data-dir", tmp_path / "data", "--restart")
        assert code == 2 and words in errors[0], errors


def test_weights_that_are_not_there(command, tmp_path):
    code, errors = command("no-such-name", "--data-dir", tmp_path)
    assert code == 2 and "no such folder, and no name of the hub" in errors[0] and "config.json, vocab.txt" in errors[0]
    assert {e.config.weights for e in WEIGHTS.values()} >= {"all-MiniLM-L6-v2", "google-bert/bert-base-uncased"}
    assert math.isclose(WEIGHTS["weights-all-MiniLM-L6-v2"].claims[0].value, 82.03)


def test_both_tasks_on_held_out_text(command, folders, tmp_path, monkeypatch):
    """What is measured of weights with both heads is what transformers' network has on the same pairs."""
    made_up, letters = corpus.read("made-up", tmp_path), "abcdefghijklmnopqrstuvwxyz"
    monkeypatch.setattr(corpus, "read", lambda name, data_dir: made_up)
    folder = shutil.copytree(folders / "new", tmp_path / "letters")
    put(folder / "vocab.txt", "\n".join([*SPECIAL, *letters, *(f"##{letter}" for letter in letters), ".", "!", "?"]) + "\n")
    assert command(folder, "--data-dir", tmp_path) == (0, [])
    metrics, net = record(tmp_path / "out/bert/weights-letters/seed0")["metrics"], reference(**SMALL)
    text, _ = corpus.load("wikitext-2", read(folder), tmp_path, spare=tmp_path / "spare")
    tokens, segments, real, chosen, before, follows = hidden(text, text.batch("test", torch.arange(1000), 0, 40), (0.8, 0.1, 0.1))
    with torch.no_grad():
        y = theirs(net, tokens, segments, real)
    nats = F.cross_entropy(y.prediction_logits[chosen], before[chosen]).item()
    rightly = (y.prediction_logits.argmax(2) == before)[chosen].double().mean().item()
    assert metrics["test_masked_ppl"] == pytest.approx(math.exp(nats), rel=1e-4)
    assert metrics["test_masked_accuracy"] == pytest.approx(100 * rightly, abs=0.03) and rightly > 0
    assert metrics["test_next_accuracy"] == pytest.approx(
        100 * (y.seq_relationship_logits.argmax(1) == follows).double().mean().item()
    )


def test_a_real_checkpoint():
    """all-MiniLM-L6-v2, where it is: the sentence vectors of transformers, and sentences that mean the same are near each other."""
    folder = ROOT / "data/weights/all-MiniLM-L6-v2"
    if not folder.exists():
        pytest.skip(f"no {folder}")
    model, tokenizer = load("all-MiniLM-L6-v2", folder)
    net, texts = BertModel.from_pretrained(folder).eval(), ["A man is playing a guitar.", "Somebody plays the guitar.", "It rains."]
    theirs = BertTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert tokenizer.encode(text).ids == theirs(text, add_special_tokens=False).input_ids, text
    encoded = theirs(texts, padding=True, return_tensors="pt")
    data = examples(Labelled([(text,) for text in texts], None, ""), tokenizer, 256, 2, torch.device("cpu"))
    with torch.no_grad():
        found = Mean(model.eval())(*data.batch(torch.arange(3))[:3])
        states, real = net(**encoded).last_hidden_state, encoded.attention_mask[:, :, None]
        expected = F.normalize((states * real).sum(1) / real.sum(1), dim=1)
    assert (found - expected).abs().max() < 1e-6
    assert found[0] @ found[1] > 0.7 > 0.3 > found[0] @ found[2]
    assert sum(p.numel() for p in model.parameters()) == 22_713_216
