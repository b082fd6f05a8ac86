"""The training of the Transformer: its updates, evaluation, data, and what each experiment of the paper changes."""

import functools
import math
import shutil

import pytest
import torch

from common import bleu
from common.data.order import mix
from common.data.translation import Parallel
from common.provenance import ROOT
from papers.transformer import sentences, train, translate
from papers.transformer.buckets import Bucketed
from papers.transformer.model import Transformer, beam_search
from papers.transformer.vocabulary import END, START, decode, encode, load_bpe, train_bpe
from tests.start import compiling, finish, here, judged, newest, processes, record, refuses, rows
from tools.repository import experiments, records

SCRIPT = "papers.transformer.train"
OUT = "transformer/smoke/seed0"
SMOKE = train.EXPERIMENTS["smoke"].config


def made_up():
    """The smoke experiment's sentences and their vocabulary, prepared here."""
    texts = [sentences.made_up(n, seed) for n, seed in ((300, 0), (20, 1), (20, 2))]
    tokenizer = train_bpe([*texts[0].source, *texts[0].target], SMOKE.vocabulary)
    return texts, tokenizer, [(encode(tokenizer, each.source), encode(tokenizer, each.target)) for each in texts]


def one_by_one(sequences):
    """A Ragged as lists of tokens."""
    return [sequences.padded(torch.tensor([i]))[0].tolist() for i in range(len(sequences))]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A smoke run without dropout in double precision: its directory."""
    out = tmp_path_factory.mktemp("trained")
    code, output = here(SCRIPT, "smoke", "--precision", "fp64", "--dropout", 0, "--out", out)
    assert code == 0, output
    return out / OUT


def model_of(directory, name="model"):
    state = newest(directory)["objects"][name]
    model = Transformer(len(state["embedding.weight"]), N=2, d_model=32, d_ff=64, h=4, dropout=0)
    model.to(state["embedding.weight"].dtype).load_state_dict(state)
    return model.eval()


def test_training_is_the_recipe(trained, double):
    """All updates written out: token-mean smoothed cross-entropy, Adam of Sec. 5.3, Eq. (3), the mean of two checkpoints."""
    _, _, ((source, target), (val_source, val_target), _) = made_up()
    torch.default_generator.manual_seed(mix(0, "start"))
    model = SMOKE.network(60)
    model.dropout.p = 0
    for layer in (*model.encoder, *model.decoder):
        layer.dropout.p = 0
    buckets = Bucketed(torch.stack([source.lengths, target.lengths], 1), 256, 0)
    moments = {p: (torch.zeros_like(p), torch.zeros_like(p)) for p in model.parameters()}
    sources, targets, kept, losses = one_by_one(source), one_by_one(target), [], []
    for step in range(1, 25):
        model.zero_grad()
        total, count = 0.0, 0
        for i in buckets.batch(step - 1).tolist():  # sentence by sentence: no padding
            labels = torch.tensor(targets[i])
            log_p = model(torch.tensor([sources[i]]), torch.tensor([[START, *targets[i][:-1]]]))[0].log_softmax(1)
            total = total - (0.9 * log_p[range(len(labels)), labels] + 0.1 * log_p.mean(1)).sum()
            count += len(labels)
        (total / count).backward()
        losses.append(total.item() / count)
        lr = 0.2 * 32**-0.5 * min(step**-0.5, step * 12**-1.5)
        with torch.no_grad():
            for p, (m, v) in moments.items():
                m.lerp_(p.grad, 0.1)
                v.lerp_(p.grad**2, 0.02)
                p -= lr * (m / (1 - 0.9**step)) / ((v / (1 - 0.98**step)).sqrt() + 1e-9)
        if step in (18, 24):
            kept.append({name: p.detach().clone() for name, p in model.named_parameters()})
    assert newest(trained)["samples"] == sum(len(buckets.batch(step)) for step in range(24))
    objects = newest(trained)["objects"]
    for name, p in model.named_parameters():
        torch.testing.assert_close(objects["model"][name], p.detach(), rtol=1e-6, atol=1e-9, msg=name)
        torch.testing.assert_close(objects["averaged"][name], (kept[0][name] + kept[1][name]) / 2, rtol=1e-6, atol=1e-9, msg=name)
        moved = not torch.allclose(kept[0][name], kept[1][name], atol=1e-6)
        assert moved != name.endswith("W_K.bias"), f"{name}: only the biases of keys change nothing, so they get no gradient"
    lines = rows(trained)
    assert [row["train_loss"] for row in lines] == pytest.approx([sum(losses[i : i + 6]) / 6 for i in range(0, 24, 6)], rel=1e-6)
    assert [row["lr"] for row in lines] == pytest.approx([0.2 * 32**-0.5 * min(s**-0.5, s * 12**-1.5) for s in (6, 12, 18, 24)])
    nats = tokens = 0
    for one, two in zip(one_by_one(val_source), one_by_one(val_target), strict=True):
        log_p = model(torch.tensor([one]), torch.tensor([[START, *two[:-1]]]))[0].log_softmax(1)
        nats, tokens = nats - log_p[range(len(two)), two].sum().item(), tokens + len(two)
    assert lines[-1]["val_ppl"] == pytest.approx(math.exp(nats / tokens), rel=1e-6)
    assert record(trained)["metrics"]["val_ppl_last"] == lines[-1]["val_ppl"]


def test_the_record_is_of_the_translations_that_the_weights_give(trained, double):
    """Each sentence alone, with the last weights and the averaged ones; BLEU in both conventions."""
    texts, tokenizer, splits = made_up()
    metrics = record(trained)["metrics"]
    for split, name, how, weights, K in (
        (1, "val", "last_beam4", "model", 4),
        (2, "test", "last_greedy", "model", 1),
        (2, "test", "last_beam4", "model", 4),
        (2, "test", "avg2_beam4", "averaged", 4),
    ):
        model = model_of(trained, weights)
        found = [
            beam_search(model, torch.tensor([each]), start=START, end=END, K=K, extra=5)[0] for each in one_by_one(splits[split][0])
        ]
        ours = [decode(tokenizer, each)[0] for each in found]
        assert (trained / f"{name}_{how}.txt").read_text().splitlines() == ours
        assert len(set(ours)) > 5 and any(ours), "an untrained model gives one answer to everything"
        expected = bleu.sacrebleu(ours, texts[split].target)
        assert metrics[f"{name}_sacrebleu_{how}"] == pytest.approx(expected)
        expected = bleu.tokenised_bleu(ours, texts[split].target, "de", compounds=True)
        assert metrics[f"{name}_compound_bleu_{how}"] == pytest.approx(expected)
    assert record(trained)["data"]["bleu"] == bleu.signature()


@pytest.mark.slow
def test_two_processes_give_the_same_record(trained, tmp_path):
    """Batches of unequal numbers of tokens, and translations gathered from both."""
    finish(processes(2, tmp_path / "log", SCRIPT, "smoke", "--precision", "fp64", "--dropout", 0, "--out", tmp_path))
    one, two = record(trained), record(tmp_path / OUT)
    assert two["processes"] == 2
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-7)
    assert (tmp_path / OUT / "test_avg2_beam4.txt").read_text() == (trained / "test_avg2_beam4.txt").read_text()


def test_micro_batches_are_cut_by_tokens(monkeypatch, tmp_path):
    """--micro-batch 64: pieces of at most 64 tokens on either side."""
    sizes, forward = [], Transformer.forward
    monkeypatch.setattr(Transformer, "forward", lambda self, s, t: sizes.append(max(s.numel(), t.numel())) or forward(self, s, t))
    assert here(SCRIPT, "smoke", "--micro-batch", 64, "--steps", 11, "--evaluate-every", 11, "--out", tmp_path)[0] == 0
    training = sizes[: sizes.index(max(sizes[20:])) - 1]
    assert len(training) > 30 and max(training) <= 64


@pytest.mark.slow
def test_the_task_is_learned(tmp_path):
    """A small net copies nearly everything after 300 updates."""
    size = ["--d-model", 64, "--d-ff", 128, "--h", 4, "--N", 1, "--dropout", 0, "--precision", "fp32"]
    pace = ["--steps", 300, "--warmup", 60, "--rate-factor", 0.5, "--evaluate-every", 300]
    code, output = here(SCRIPT, "copy", *size, *pace, "--out", tmp_path)
    assert code == 0, output
    assert record(tmp_path / "transformer/copy/seed0")["metrics"]["copied_last_greedy"] > 95


def test_bf16_and_the_compiled_loss_train_alike(tmp_path):
    curves = {}
    for name, precision, compiled in (("fp32", "fp32", False), ("bf16", "bf16", False), ("compiled", "fp32", True)):
        torch._dynamo.reset()
        with compiling(compiled):
            code, output = here(SCRIPT, "smoke", "--precision", precision, "--dropout", 0, "--out", tmp_path / name)
        assert code == 0, output
        curves[name] = [row["train_loss"] for row in rows(tmp_path / name / OUT)]
    assert curves["compiled"] == pytest.approx(curves["fp32"], rel=1e-5) and curves["compiled"] != curves["fp32"]
    assert curves["bf16"] == pytest.approx(curves["fp32"], rel=0.02) and curves["bf16"] != curves["fp32"]


def test_the_last_checkpoints_are_averaged():
    config = train.Config(steps=100_000, average=5, average_every=1500)
    averaged = {step + 1: n for step in range(100_000) if (n := config.averaged_at(step))}
    assert averaged == {94_000: 1, 95_500: 2, 97_000: 3, 98_500: 4, 100_000: 5}


def test_convention_of_each_data_set():
    for changes, convention in (
        ({}, "compound"),
        ({"target": "fr"}, "tokenised"),
        ({"data": "multi30k"}, "lc_tokenised"),
        ({"data": "multi30k", "source": "de", "target": "en"}, "lc_tokenised"),
    ):
        assert translate.recipe(train.Config(**changes))[0] == convention
    wrong_case, right = ["Der Rich-Text Hund “bellt” laut"], ['der Rich-Text hund "bellt" laut']
    assert bleu.tokenised_bleu(wrong_case, right, "de", **translate.recipe(train.Config(data="multi30k"))[1]) == pytest.approx(100)
    assert bleu.tokenised_bleu(wrong_case, right, "de", **translate.recipe(train.Config())[1]) < 60


# Experiments.


def test_rows_of_table_3_change_what_the_table_says():
    """The hyper-parameters in which a row differs from the base model, and its perplexity and BLEU, typed from the paper."""
    base = train.EXPERIMENTS["wmt14-en-de-base"].config
    sizes = {"N": 6, "d_model": 512, "d_ff": 2048, "h": 8, "dropout": 0.1, "label_smoothing": 0.1, "steps": 100_000}
    assert sizes.items() <= vars(base).items()
    table = {
        "a-h1": ({"h": 1}, 5.29, 24.9), "a-h4": ({"h": 4}, 5.00, 25.5), "a-h16": ({"h": 16}, 4.91, 25.8),
        "a-h32": ({"h": 32}, 5.01, 25.4), "b-dk16": ({"d_k": 16}, 5.16, 25.1), "b-dk32": ({"d_k": 32}, 5.01, 25.4),
        "c-n2": ({"N": 2}, 6.11, 23.7), "c-n4": ({"N": 4}, 5.19, 25.3), "c-n8": ({"N": 8}, 4.88, 25.5),
        "c-d256": ({"d_model": 256}, 5.75, 24.5), "c-d1024": ({"d_model": 1024}, 4.66, 26.0),
        "c-ff1024": ({"d_ff": 1024}, 5.12, 25.4), "c-ff4096": ({"d_ff": 4096}, 4.75, 26.2),
        "d-dropout0": ({"dropout": 0}, 5.77, 24.6), "d-dropout2": ({"dropout": 0.2}, 4.95, 25.5),
        "d-smoothing0": ({"label_smoothing": 0}, 4.67, 25.3), "d-smoothing2": ({"label_smoothing": 0.2}, 5.47, 25.7),
        "e-learned": ({"learned_positions": True}, 4.92, 25.7),
    }  # fmt: skip
    assert {f"table3-{name}" for name in table} == {name for name in train.EXPERIMENTS if name.startswith("table3")}
    like_base = set()
    for name, (changes, ppl, score) in table.items():
        experiment = train.EXPERIMENTS[f"table3-{name}"]
        ours, theirs = vars(experiment.config), vars(base)
        assert {key: value for key, value in ours.items() if value != theirs[key]} == changes
        assert [claim.value for claim in experiment.claims] == [ppl, score]
        assert [claim.either_way for claim in experiment.claims] == [ppl > 4.92, score < 25.8]
        as_base = [judged(claim, "paper", [value]) for claim, value in zip(experiment.claims, (4.92, 25.8), strict=True)]
        if as_base == ["reproduced"] * 2:
            like_base.add(name)
    assert like_base == {"a-h4", "a-h16", "c-n8", "d-dropout2", "e-learned"}  # the page names them
    heads = train.EXPERIMENTS["table3-c-d256"].config
    with torch.device("meta"):
        assert heads.network(100).encoder[0].self_attention.W_K.out_features // heads.h == 32  # d_k = d_v = 32, as printed
    big = train.EXPERIMENTS["wmt14-en-de-big"].config
    sizes = {"d_model": 1024, "d_ff": 4096, "h": 16, "dropout": 0.3, "steps": 300_000, "average": 20, "average_every": 600}
    assert sizes.items() <= vars(big).items()
    assert train.EXPERIMENTS["wmt14-en-fr-big"].config.dropout == 0.1


# Data.


def read_as(monkeypatch, *texts):
    """Have the smoke experiment read these."""
    monkeypatch.setattr(sentences, "read", lambda config, data_dir: list(texts))


def test_long_pairs_are_left_out_of_training_and_counted(tmp_path, monkeypatch):
    train_texts, val, test = (sentences.made_up(n, seed) for n, seed in ((100, 0), (20, 1), (20, 2)))
    long = " ".join(["banban"] * 50)
    given = Parallel([long, *train_texts.source, "ban"], ["ban", *train_texts.target, long], "abc", empty=3)
    read_as(monkeypatch, given, val, test)
    code, output = here(SCRIPT, "smoke", "--out", tmp_path)
    assert code == 0 and "3 pairs with an empty side, 2 with more than 40 tokens" in " ".join(output.split()), output
    data = record(tmp_path / OUT)["data"]
    assert data["train"] == 100 and data["left_out"] == {"empty": 3, "long": 2} and data["sha256"] == "abc"


def test_a_given_vocabulary_is_used(tmp_path, trained):
    shutil.copy(trained / "vocabulary.json", tmp_path / "given.json")
    flags = ["--precision", "fp64", "--dropout", 0, "--vocabulary", 30, "--out", tmp_path]
    assert here(SCRIPT, "smoke", "--bpe", tmp_path / "given.json", *flags)[0] == 0
    assert record(tmp_path / OUT)["metrics"] == record(trained)["metrics"]
    assert load_bpe(tmp_path / OUT / "vocabulary.json").get_vocab_size() == record(trained)["data"]["vocabulary"] == 60


def test_a_run_goes_on_with_the_vocabulary_that_it_began_with(tmp_path, trained):
    """Another vocabulary than the checkpoint's is refused."""
    shutil.copytree(trained, tmp_path / OUT)
    (tmp_path / OUT / "result.json").unlink()
    again = functools.partial(here, SCRIPT, "smoke", "--precision", "fp64", "--dropout", 0, "--out", tmp_path)
    train_bpe(["other texts, other pieces"] * 9, 50).save(str(tmp_path / "other.json"))
    code, output = again("--bpe", tmp_path / "other.json")
    assert code == 2 and "was begun otherwise (bpe" in output, output
    code, output = again("--bpe", tmp_path / "other.json", "--allow-changes")
    assert code == 2 and "does not fit this model" in output and "embedding.weight" in output, output
    tokens = next((tmp_path / OUT / "kept").rglob("tokens.pt"))
    tokens.write_bytes(tokens.read_bytes()[:1000])
    code, output = again("--allow-changes")
    assert code == 2 and f"{tokens.name} is missing or damaged: delete the folder" in output and output.count("\n") <= 2, output
    shutil.rmtree(tokens.parent)
    code, output = again("--allow-changes")
    assert code == 0 and record(tmp_path / OUT)["metrics"] == record(trained)["metrics"], output


def test_learned_positions_refuse_longer_sentences(tmp_path):
    assert here(SCRIPT, "smoke", "--learned-positions", "--out", tmp_path)[0] == 0
    code, output = here(SCRIPT, "smoke", "--learned-positions", "--max-length", 12, "--out", tmp_path, "--restart")
    assert code == 2 and "learned positions end at --max-length 12" in " ".join(output.split()), output
    assert "sentence " in output and " of val has " in output


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["smoke", "--d-model", 33], "--d-model must be even"),
        (["smoke", "--h", 5], "--d-model 32 cannot be divided among --h 5 heads"),
        (["smoke", "--dropout", 1], "--dropout must be in [0, 1)"),
        (["smoke", "--label-smoothing", -0.1], "--label-smoothing must be in [0, 1)"),
        (["smoke", "--average", 9], "--average 9: so many checkpoints, 6 apart, need more --steps"),
        (["smoke", "--max-length", 300], "--max-length 300: such a sentence does not fit in --batch-size 256"),
        (["smoke", "--max-length", 2], "no training pair has 2 tokens or fewer"),
        (["smoke", "--warmup", 0], "--warmup must be at least 1"),
        (["smoke", "--bpe", "/nowhere/bpe.json"], "cannot read the vocabulary /nowhere/bpe.json"),
        (["multi30k-de-en", "--target", "de"], "--source and --target are both de"),
        (["multi30k-de-en", "--source", "nl"], "Multi30k: no"),
        (["multi30k-de-en", "--data-dir", "/proc/nowhere"], "Multi30k"),
    ],
)
def test_bad_input(flags, said, tmp_path):
    refuses(SCRIPT, *flags, "--out", tmp_path, said=said)


def test_too_many_processes_for_a_batch_are_refused(tmp_path):
    started = processes(3, tmp_path / "log", SCRIPT, "smoke", "--batch-size", 40, "--out", tmp_path)
    assert [each.wait() for each in started] == [2, 2, 2]
    assert "a batch of 2 cannot be split among 3 processes" in started[0].output()


@pytest.mark.parametrize("name", ["wmt14-en-de-base", "wmt14-en-fr-big", "table3-e-learned"])
def test_wmt14_experiments_run_on_plain_files(name, tmp_path):
    """At a size for tests. A recipe with other beams or averages measures by other names, and the claims stay open."""
    (tmp_path / "wmt14").mkdir()
    for split, texts in (
        ("train", sentences.made_up(60, 0)),
        ("newstest2013", sentences.made_up(7, 1)),
        ("newstest2014", sentences.made_up(2, 2)),
    ):
        for language in ("en", "de", "fr"):
            lines = texts.source if language == "en" else texts.target
            (tmp_path / "wmt14" / f"{split}.{language}").write_text("".join(f"{line}\n" for line in lines))
    small = [
        "--N",
        1,
        "--d-model",
        16,
        "--h",
        2,
        "--d-ff",
        16,
        "--steps",
        4,
        "--average-every",
        1,
        "--vocabulary",
        40,
        "--extra",
        2,
    ]
    flags = [*small, "--average", 2, "--beam", 3, "--data-dir", tmp_path, "--out", tmp_path]
    code, output = here(SCRIPT, name, *flags)
    assert code == 0, output
    metrics = record(tmp_path / f"transformer/{name}/seed0")["metrics"]
    convention = "tokenised" if "fr" in name else "compound"
    assert {
        f"newstest2014_{convention}_bleu_avg2_beam3",
        "newstest2014_sacrebleu_last_greedy",
        "newstest2013_ppl_last",
    } <= metrics.keys()
    claimed = [claim.metric for claim in train.EXPERIMENTS[name].claims]
    assert [metrics[each] is None for each in claimed] == ["beam4" in each for each in claimed]


@pytest.mark.skipif(not (ROOT / "data/multi30k").exists(), reason="no Multi30k here")
@pytest.mark.slow
def test_multi30k_as_it_is_prepared(tmp_path):
    """Sentences, pieces, and tokens, counted on the real files."""
    (tmp_path / "multi30k").symlink_to(ROOT / "data/multi30k")
    quick = ["--steps", 1, "--average", 1, "--N", 1, "--d-model", 8, "--evaluate-every", 9, "--extra", 0, "--beam", 1]
    code, output = here(SCRIPT, "multi30k-de-en", "--data-dir", tmp_path, *quick, "--out", tmp_path)
    assert code == 0, output
    data = record(tmp_path / "transformer/multi30k-de-en/seed0")["data"]
    assert (data["train"], data["test"], data["vocabulary"], data["left_out"]) == (29_000, 1000, 8000, {"empty": 0, "long": 0})


def test_published_records_are_whole():
    """What the page says of them: the convention of each number is in its name, and the signature in the record."""
    published = {r["experiment"]: r for r in records("transformer")}
    for name, each in published.items():
        if name.startswith("multi30k"):
            assert each["data"]["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|")
            assert {claim.metric for claim in experiments("transformer")[name].claims} <= each["metrics"].keys()
            assert not each["data"]["stand_in"]
