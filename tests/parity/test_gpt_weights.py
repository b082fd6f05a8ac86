"""Hugging Face's OpenAIGPTLMHeadModel and OpenAIGPTTokenizer through ours: the same tokens, logits, gradients, losses, samples."""

import json
import math
import os
import shutil

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel, OpenAIGPTTokenizer

from common.data import standin
from common.errors import BadInput
from papers.gpt import pretrained
from papers.gpt.model import gpt, sample
from papers.gpt.pretrained import SHAPES, SHARDS, WEIGHTS, build, fetch, from_openai, from_transformers, load
from papers.gpt.vocabulary import official as official_vocabulary
from tests.start import finish, processes, record, weights

PRETRAINED = "papers.gpt.pretrained"


def reference(V=50, D=768, n_layer=2, n_head=12, context=512, seed=0):
    """A net with everything random, biases and gains among it."""
    net = OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=V, n_embd=D, n_layer=n_layer, n_head=n_head, n_positions=context)).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith("bias") or "ln_" in name:
                p.normal_(float("ln_" in name and name.endswith("weight")), 0.3)
            else:
                p.normal_(0, 1.5 * p.shape["embed" in name] ** -0.5)
    return net


def converted(net):
    return build(from_transformers(net.state_dict()), net.config.n_head).eval()


def same(y, expected):
    assert y.shape == expected.shape and expected.std() > 1e-3 * expected.abs().max() > 0
    assert (y - expected).abs().max() <= 1e-9 * expected.abs().max()


# The network.


@pytest.mark.usefixtures("double")
@torch.no_grad()
def test_logits_and_states_are_those_of_the_reference():
    net = reference()
    model = converted(net)
    for T in (1, 7, 64, 512):
        tokens = torch.randint(50, (1, T))
        theirs = net(tokens, output_hidden_states=True)
        same(model(tokens), theirs.logits)
        h = model.embedding(tokens) + model.positions.weight[:T]
        for block, before, after in zip(model.blocks, theirs.hidden_states[:-1], theirs.hidden_states[1:], strict=True):
            same(h, before)
            same(h := block(h)[0], after)
        same(model.states(tokens)[0], theirs.hidden_states[-1])


@pytest.mark.usefixtures("double")
@torch.no_grad()
def test_padding_that_comes_last_changes_nothing_before_it():
    net = reference()
    tokens, real = torch.randint(50, (4, 40)), torch.arange(40) < torch.tensor([40, 1, 7, 23])[:, None]
    same(converted(net)(tokens * real)[real], net(tokens * real, attention_mask=real.long()).logits[real])


@pytest.mark.usefixtures("double")
def test_gradients_are_those_of_the_reference():
    net = reference(n_layer=3)
    model, tokens = converted(net), torch.randint(50, (2, 33))
    gradients = []
    for each, logits in ((model, model(tokens)), (net, net(tokens).logits)):
        F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
        gradients.append({name: p.grad for name, p in each.named_parameters()})
    gradients[0]["positions.weight"][33:] = gradients[1]["transformer.positions_embed.weight"][33:] = 1.0  # both none
    expected = from_transformers(gradients[1])
    assert gradients[0].keys() == expected.keys() and len(expected) == 2 + 3 * 12
    for name, each in expected.items():
        same(gradients[0][name], each)


@pytest.mark.usefixtures("double")
def test_the_likeliest_tokens_are_those_of_generate():
    """Ours keeps keys and values, theirs does not."""
    net = reference(V=200, D=96, context=64)
    with torch.no_grad():  # otherwise it says the same word again and again
        net.transformer.positions_embed.weight *= 10
        net.transformer.tokens_embed.weight /= net.transformer.tokens_embed.weight.norm(dim=1, keepdim=True)
        net.transformer.h[1].ln_2.bias *= 0
        net.transformer.h[1].ln_2.weight.fill_(1)
    tokens = torch.randint(200, (3, 5))
    expected = net.generate(tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=59)
    assert torch.equal(sample(converted(net), tokens, 59, top_k=1), expected) and len(expected[:, 5:].unique()) > 9


def test_the_full_size_has_the_same_weights():
    with torch.device("meta"):
        net, model = OpenAIGPTLMHeadModel(OpenAIGPTConfig()), gpt()
    state = {key: each for key, each in net.state_dict().items() if key != "lm_head.weight"}
    found = {name: each.shape for name, each in from_transformers(state).items()}
    assert found == {name: each.shape for name, each in model.state_dict().items()}
    assert sum(map(math.prod, found.values())) == 116_534_784


# Files of weights.


@pytest.fixture(scope="module")
def small():
    return reference(V=60, D=24, context=32)


def equal(found, expected):
    assert found.keys() == expected.keys()
    for name, each in expected.items():
        assert torch.equal(found[name], each), name


def write_shards(net, folder, order=lambda x: x):
    """As the authors' files: positions, tokens, and then what each layer has, as TensorFlow made it, in ten pieces."""
    state, tensors = net.transformer.state_dict(), []
    for name in order(["positions_embed", "tokens_embed"]):
        tensors.append(state[f"{name}.weight"])
    for i in range(net.config.n_layer):
        for name in ("attn.c_attn", "attn.c_proj", "ln_1", "mlp.c_fc", "mlp.c_proj", "ln_2"):
            weight = state[f"h.{i}.{name}.weight"]
            tensors += [weight[None] if "c_" in name else weight, state[f"h.{i}.{name}.bias"]]
    folder.mkdir(exist_ok=True)
    (folder / SHAPES).write_text(json.dumps([list(x.shape) for x in tensors]))
    flat = torch.cat([x.flatten() for x in tensors]).numpy()
    cuts = sorted(np.random.default_rng(0).choice(np.arange(1, len(flat)), 9, replace=False))
    for name, piece in zip(SHARDS, np.split(flat, cuts), strict=True):
        np.save(folder / name, piece)


def test_the_authors_files_hold_the_same_weights(small, tmp_path):
    write_shards(small, tmp_path)
    equal(from_openai(tmp_path), from_transformers(small.state_dict()))


def test_keys_of_either_naming_masks_and_a_tied_head(small):
    state = small.state_dict()
    expected = from_transformers(state)
    bare = {key.removeprefix("transformer."): each for key, each in state.items() if key != "lm_head.weight"}
    masks = {"h.0.attn.bias": torch.ones(1, 1, 32, 32), "h.11.attn.masked_bias": torch.ones(()), "position_ids": torch.arange(32)}
    head = {key: each for key, each in state.items() if "tokens_embed" not in key}
    masked = state | {f"transformer.{key}": each for key, each in masks.items()}
    for other in (bare, small.transformer.state_dict(), bare | masks, masked, head):
        equal(from_transformers(other), expected)
    equal(build(expected, 12, 0.25).state_dict(), expected)
    assert build(expected, 12, 0.25).dropout.p == build(expected, 12, 0.25).blocks[1].attention.dropout == 0.25


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda s: s.update({"lm_head.weight": s["lm_head.weight"] + 1}), "lm_head.weight is not tokens_embed.weight"),
        (lambda s: s.update({"lm_head.weight": torch.ones(61, 24)}), "lm_head.weight is not tokens_embed.weight"),
        (lambda s: s.update({"score.weight": torch.ones(2, 24)}), "score.weight is no weight of its"),
        (lambda s: s.update({"transformer.ln_f.weight": torch.ones(24)}), " ln_f.weight is no weight of its"),
        (lambda s: s.update({"transformer.h.0.mlp.c_proj.mask": torch.ones(24)}), "c_proj.mask is no weight of its"),
        (lambda s: s.update({"transformer.h.0.mlp.bias": torch.ones(24)}), "h.0.mlp.bias is no weight of its"),
        (lambda s: s.pop("transformer.h.1.ln_2.bias"), r"has no h.1.ln_2.bias$"),
        (lambda s: s.pop("transformer.positions_embed.weight"), r"has no positions_embed.weight$"),
        (lambda s: [s.pop(key) for key in [*s] if "h.0." in key], "has no h.0.attn.c_attn.weight, h.0"),
        (lambda s: [s.pop(key) for key in [*s] if "h." in key], "has no h.0.attn.c_attn.weight, h.0"),
        (lambda s: s.clear(), "has no positions_embed.weight, tok"),
        (lambda s: s.update({"transformer.h.1.mlp.c_fc.weight": torch.ones(24, 48)}), "GPT of ours: blocks.1.mlp.0.weight is "),
        (lambda s: s.update({"transformer.h.1.mlp.c_fc.weight": torch.ones(1, 24, 96)}), r"c_fc.weight has shape \(1, 24, 96\)"),
        (lambda s: s.update({"transformer.positions_embed.weight": torch.ones(24)}), r"embeddings have shapes \(60, 24\), \(24,\)"),
        (lambda s: s.update({"transformer.positions_embed.weight": torch.ones(32, 23)}), r"\(32, 23\), not \(32, 24\)"),
    ],
)  # fmt: skip
def test_other_weights_are_refused(change, words, small):
    state = dict(small.state_dict())
    change(state)
    with pytest.raises(ValueError, match=words) as caught:
        build(from_transformers(state))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 350


def test_heads_that_do_not_divide_the_width_are_refused(small):
    for n_head in (0, 5, -12):
        with pytest.raises(ValueError, match=f"n_head {n_head} does not divide the width 24"):
            build(from_transformers(small.state_dict()), n_head)


# The vocabulary.


TEXTS = (
    "The cat sat on the mat.", "THE CAT, Sat!", "naïve café, Ångström ÜBER straße", "it's 1984: 3.14 % of $20 (or so)", "",
    "one\ntwo\n\n three\r\nfour\tfive", "xylophone \U0001f600 zzz", "   ", "a <unk> b <UNK> <unk>.", "\x00nul \x07bell",
    "soft\u00adhyphen zero\u200bwidth \ufffd", "e\u0301 decomposed", "İstanbul ﬁne", "well-known—dash … “quoted” ´x´", "q" * 300,
    "猫 sat on 日本語x", "</w> the</w>",
)  # fmt: skip


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    """A folder with a vocabulary as OpenAI's was learned, and the text that it was learned from. No piece for x, 猫 and so on."""
    root = tmp_path_factory.mktemp("vocabulary")
    text = standin.text(8000) + "the cat sat on a mat: it's 1984, 3.14 % of $20 (or so)! naive cafe, angstrom\n" * 20
    learner = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    ends = sorted({f"{character}</w>" for character in learner.normalizer.normalize_str(text) if not character.isspace()})
    first = ["<unk>", *ends]  # the trainer would number the ends in another order each time
    size = 120 + len(first)
    trainer = trainers.BpeTrainer(vocab_size=size, end_of_word_suffix="</w>", special_tokens=first, show_progress=False)
    learner.train_from_iterator(text.splitlines(), trainer)
    learner.model.save(str(root))
    pieces = json.loads((root / "vocab.json").read_text())
    (root / "vocab.json").write_text(json.dumps(pieces | {"\n</w>": len(pieces)}))
    return root, text


def authors_names(folder, to):
    to.mkdir(exist_ok=True)
    for name, theirs in (("vocab.json", "encoder_bpe_40000.json"), ("merges.txt", "vocab_40000.bpe")):
        shutil.copy(folder / name, to / theirs)
    return to


def test_tokens_are_those_of_the_reference(vocabulary, tmp_path):
    folder, text = vocabulary
    theirs = OpenAIGPTTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    authors = authors_names(folder, tmp_path / "authors")
    theirs.save_pretrained(tmp_path / "alone")  # tokenizer.json, as transformers writes it today
    assert (tmp_path / "alone/tokenizer.json").exists() and not (tmp_path / "alone/merges.txt").exists()
    for ours in (official_vocabulary(str(each), tmp_path) for each in (folder, authors, tmp_path / "alone")):
        assert ours.get_vocab() == theirs.get_vocab() and ours.get_vocab_size() == len(theirs) > 100
        for each in (*TEXTS, text[:3000]):
            ids = ours.encode(each).ids
            assert ids == theirs(each).input_ids, each
            for skip in (True, False):
                assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
        assert ours.encode("THE CÁT").ids == ours.encode("the cat").ids and 0 in ours.encode("xylophone").ids
        assert ours.encode("a <unk>").tokens == ["a</w>", "<unk>"]
        again = Tokenizer.from_str(ours.to_str())  # as a run keeps it
        assert [again.encode(each).ids for each in TEXTS] == [ours.encode(each).ids for each in TEXTS]


@pytest.mark.parametrize("damage", ["no merges", "cut", "merges", "no unk", "numbers", "nothing"])
def test_vocabularies_that_cannot_be_used(damage, vocabulary, tmp_path):
    broken = shutil.copytree(vocabulary[0], tmp_path / "broken")
    pieces = json.loads((broken / "vocab.json").read_text())
    if damage in ("no merges", "nothing"):
        (broken / "merges.txt").unlink()
    if damage == "nothing":
        (broken / "vocab.json").unlink()
    elif damage == "cut":
        os.truncate(broken / "vocab.json", 200)
    elif damage == "merges":
        (broken / "merges.txt").write_text("#version: 0.2\nq qq</w>\n")
    elif damage == "no unk":
        (broken / "vocab.json").write_text(json.dumps({piece if i else "<pad>": i for piece, i in pieces.items()}))
    elif damage == "numbers":
        (broken / "vocab.json").write_text(json.dumps({piece: i * 2 for piece, i in pieces.items()}))
    with pytest.raises(BadInput, match=f"cannot load {broken} .*vocab.json and .*merges.txt") as caught:
        official_vocabulary(str(broken), tmp_path)
    assert "\n" not in str(caught.value)


# The evaluation.


def test_known_weights_have_the_claim_of_the_paper():
    (experiment,) = WEIGHTS.values()
    assert experiment.kind == "weights" and [*WEIGHTS] == [f"weights-{experiment.config.weights}"]
    assert [(claim.metric, claim.value, claim.lower_is_better) for claim in experiment.claims] == [("val_ppl", 18.4, True)]


@pytest.fixture(scope="module")
def official(vocabulary, tmp_path_factory):
    """Folders in the layouts of the hub and of the authors, with the same weights, a data directory, and the net."""
    folder, text = vocabulary
    root = tmp_path_factory.mktemp("official")
    net = reference(V=len(json.loads((folder / "vocab.json").read_text())), D=24, context=32)
    net.save_pretrained(root / "hub")
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(folder / name, root / "hub")
    authors_names(folder, root / "authors")
    write_shards(net, root / "authors")
    (root / "data/bookscorpus").mkdir(parents=True)
    (root / "data/bookscorpus/a.txt").write_text(text * 60)
    return root, net, text * 60


def expected_loss(net, folder, text):
    """Of the last 0.5 % of the tokens, in windows of 32, the last of which overlaps the one before."""
    tokens = torch.tensor(OpenAIGPTTokenizer(vocab=f"{folder}/vocab.json", merges=f"{folder}/merges.txt")(text).input_ids)
    tokens, nats, at = tokens[len(tokens) - round(0.005 * len(tokens)) :], [], 0
    while at < len(tokens) - 1:
        first = min(at, len(tokens) - 33)
        window = tokens[first : first + 33]
        with torch.no_grad():
            each = F.cross_entropy(net(window[None, :-1]).logits[0].double(), window[1:], reduction="none")
        nats.append(each[at - first :])
        at += 32
    assert first < at - 32  # it does
    return torch.cat(nats).mean().item(), len(tokens)


@pytest.fixture
def command(monkeypatch, tmp_path, capfd):
    """`python -m papers.gpt.pretrained ...` in this process -> exit code, lines that are errors."""
    return weights(pretrained, tmp_path / "out", monkeypatch, capfd)


def test_the_command_gives_the_loss_of_the_reference(official, command, tmp_path):
    """On one process, of the hub's files, and on two, of the authors'."""
    root, net, text = official
    two = processes(2, tmp_path / "two", PRETRAINED, root / "authors", "--data-dir", root / "data", "--out", tmp_path / "2")
    assert command(root / "hub", "--data-dir", root / "data") == (0, [])
    nats, n = expected_loss(net, root / "hub", text)
    finish(two)
    for processes_, out in ((1, "out/gpt/weights-hub"), (2, "2/gpt/weights-authors")):
        made = record(tmp_path / out / "seed0")
        assert made["metrics"] == {"val_loss": pytest.approx(nats, rel=1e-5), "val_ppl": pytest.approx(math.exp(nats), rel=1e-4)}
        assert made["kind"] == "weights" and made["processes"] == processes_ and made["data"]["test"] == f"{n:,} tokens"


@pytest.mark.parametrize("known", [True, False])
def test_no_network_and_no_files(known, official, command, monkeypatch, tmp_path):
    """The text is missing, or the weights' own name needs the hub."""
    root, *_ = official
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    shutil.copytree(root / "data/bookscorpus", tmp_path / "data/bookscorpus")
    for name in ("openai-gpt", "someone/gpt", "nonsense", root / "hub/vocab.json") if known else (root / "hub",):
        code, errors = command(name, "--data-dir", tmp_path / ("data" if known else "nowhere"))
        assert code == 2 and len(errors) == 1, errors
        assert errors[0].startswith(f"error: cannot load {name} (" if known else "error: BooksCorpus: no .txt")


def test_a_vocabulary_that_changed_since_the_text_was_encoded(official, command, monkeypatch, tmp_path):
    root, net, text = official
    folder = shutil.copytree(root / "hub", tmp_path / "hub")
    with monkeypatch.context() as patch:
        patch.setattr(pretrained, "heldout", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):  # the run is killed
            command(folder, "--data-dir", root / "data")
    pieces = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps({piece: i ^ (i > 99 and i < 110) for piece, i in pieces.items()}))
    assert command(folder, "--data-dir", root / "data") == (0, [])
    nats, _ = expected_loss(net, folder, text)
    assert record(tmp_path / "out/gpt/weights-hub/seed0")["metrics"]["val_loss"] == pytest.approx(nats, rel=1e-5)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"afn": "relu"}, "afn relu, not gelu"),
        ({"model_type": "gpt2"}, "model_type gpt2, not openai-gpt"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon 1e-06, not 1e-05"),
        ({"n_head": 5}, "n_head 5 does not divide the width 24"),
        ({"n_ctx": 512, "n_layer": 3}, "n_layer 3, not 2; n_ctx 512, not 32"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings False, not True"),
    ],
)
def test_other_configurations_are_refused(change, words, official, tmp_path):
    broken = shutil.copytree(official[0] / "hub", tmp_path / "hub")
    (broken / "config.json").write_text(json.dumps(json.loads((broken / "config.json").read_text()) | change))
    with pytest.raises(BadInput, match=words):
        load(str(broken), fetch(str(broken), tmp_path))


@pytest.mark.parametrize(
    "layout, damage, words",
    [
        ("hub", lambda folder: os.truncate(folder / "model.safetensors", 5000), "Error: "),
        ("hub", lambda folder: (folder / "model.safetensors").unlink(), "it has no weights"),
        ("hub", lambda folder: (folder / "merges.txt").unlink(), "it has no merges.txt"),
        ("hub", lambda folder: (folder / "config.json").unlink(), "it has no config.json"),
        ("hub", lambda folder: os.truncate(folder / "config.json", 50), "JSONDecodeError"),
        ("hub", lambda folder: (folder / "config.json").write_text("[]"), "AttributeError"),
        ("hub", lambda folder: reference(V=60, D=24, context=32).save_pretrained(folder), "tokens, the model embeddings of 60"),
        ("authors", lambda folder: os.truncate(folder / "params_4.npy", 200), "Error: "),
        ("authors", lambda folder: os.truncate(folder / "params_4.npy", 0), "Error: "),
        ("authors", lambda folder: np.save(folder / "params_9.npy", np.zeros(3, "float32")), "params_shapes.json has"),
        ("authors", lambda folder: (folder / "params_4.npy").unlink(), r"it has no params_4.npy\)"),
        ("authors", lambda folder: (folder / "vocab_40000.bpe").unlink(), r"it has no vocab_40000.bpe\)"),
        ("authors", lambda folder: (folder / SHAPES).write_text("[[3, 4]]"), "has 1 shapes, not two and 12 for each layer"),
        ("authors", lambda folder: (folder / SHAPES).write_text("{}"), "Error: "),
        ("authors", lambda folder: write_shards(reference(V=61, D=24, context=32), folder), "the model embeddings of 61"),
        ("authors", lambda folder: write_shards(reference(V=61, D=20, n_head=5), folder), "n_head 12 does not divide the width 20"),
        ("authors", lambda folder: swap_shapes(folder, 2, 8), "not a GPT of ours: blocks.0"),
        ("authors", lambda folder: swap_shapes(folder, 0, 1), "the model embeddings of 32"),
        ("hub", shutil.rmtree, "no such folder"),
    ],
)  # fmt: skip
def test_folders_that_cannot_be_used(layout, damage, words, official, tmp_path):
    broken = shutil.copytree(official[0] / layout, tmp_path / layout)
    damage(broken)
    with pytest.raises(BadInput, match=words) as caught:
        load(str(broken), fetch(str(broken), tmp_path))
    assert str(caught.value).startswith(f"cannot load {broken} (") and "\n" not in str(caught.value)


def swap_shapes(folder, i, j):
    shapes = json.loads((folder / SHAPES).read_text())
    shapes[i], shapes[j] = shapes[j], shapes[i]
    (folder / SHAPES).write_text(json.dumps(shapes))


def test_older_files_of_the_hub(official, tmp_path):
    root, net, _ = official
    older = shutil.copytree(root / "hub", tmp_path / "hub", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(net.transformer.state_dict() | {"h.0.attn.bias": torch.ones(1, 1, 32, 32)}, older / "pytorch_model.bin")
    models_ = [load(str(each), each)[0] for each in (root / "hub", older, root / "authors")]
    for model in models_:
        equal(model.state_dict(), from_transformers(net.state_dict()))
        assert model.blocks[0].attention.h == 12
