"""BERT's fine-tuning: beside transformers' network, inputs, scores, the optimizer, what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from papers.bert import finetune, tasks, vocabulary
from papers.bert.tasks import pack, scores
from tests.parity.test_bert_weights import SMALL, folders, reference  # noqa: F401
from tests.serving import put
from tests.start import finish, here, processes, record, rows
from tests.test_standing import assert_close

SCRIPT = "papers.bert.train"
HEADER = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"


@pytest.fixture
def default_type():
    yield
    torch.set_default_dtype(torch.float32)


def mrpc(data: Path, n=160):
    """Pairs of stand-in sentences in MRPC's layout, alike or not."""
    draw = torch.Generator().manual_seed(0)
    header, lines = f"{HEADER}\n", []
    for i in range(n):
        words = [f"p{j}" for j in torch.randint(50, (int(torch.randint(3, 12, (), generator=draw)),), generator=draw).tolist()]
        other = words[::-1] if i % 2 else [f"p{j}" for j in torch.randint(50, (6,), generator=draw).tolist()]
        lines.append(f"{i % 2}\t1\t2\t{' '.join(words)}\t{' '.join(other)}\n")
    put(data / "glue/MRPC/train.tsv", header + "".join(lines))
    put(data / "glue/MRPC/dev.tsv", header + "".join(lines[:30]))
    put(data / "glue/MRPC/test.tsv", header.replace("Quality", "index") + "".join(lines[:20]))
    return data


def tune(out, *flags, name="glue-mrpc", code=0):
    found, output = here(SCRIPT, name, *flags, "--out", out, "--precision", "fp32")
    torch.set_default_dtype(torch.float32)
    assert found == code, output
    return out / "bert" / name / "seed0" if code == 0 else output


def test_fifty_updates_are_those_of_transformers(folders, tmp_path):  # noqa: F811
    """The same weights, batches and dropout: its network in our loop has our losses, until rounding parts them."""
    data = mrpc(tmp_path / "data")
    flags = ["--weights", folders / "new", "--rates", 2e-3, "--epochs", 10, "--reference", "--data-dir", data, "--context", 32]
    out = tune(tmp_path, *flags)
    lines = [row for row in rows(out) if "loss_difference" in row]
    assert record(out)["steps"] == 50 and len(lines) >= 3
    assert lines[0]["loss_difference"] < 1e-6 and lines[1]["loss_difference"] < 1e-5
    assert record(out)["metrics"]["loss_difference_50"] < 2e-4
    assert lines[-1]["train_loss"] < 0.98 * lines[0]["train_loss"], "it learns"
    without = tune(tmp_path / "without", *flags, "--dropout", 0)
    assert [row["train_loss"] for row in rows(without) if "train_loss" in row] != [row["train_loss"] for row in lines]


# Inputs and scores.


@pytest.fixture
def pieces():
    return vocabulary.word_pieces({piece: i for i, piece in enumerate([*vocabulary.SPECIAL, *(f"p{i}" for i in range(55))])}, True)


def test_pairs_and_single_texts(pieces):
    """[CLS] A [SEP] B [SEP]; too long, the longer loses its end, B of two alike, as _truncate_seq_pair has it."""
    a, b = [10, 11, 12, 13, 14], [20, 21, 22, 23]
    assert pack([a], pieces, 8) == ([2, *a, 3], 7) and pack([a], pieces, 6) == ([2, *a[:4], 3], 6)
    assert pack([a, b], pieces, 12) == ([2, *a, 3, *b, 3], 7)
    assert pack([a, b], pieces, 10) == ([2, *a[:4], 3, *b[:3], 3], 6)
    assert pack([a, []], pieces, 12) == ([2, *a, 3, 3], 7)

    def authors(a, b, most):  # run_classifier.py
        while len(a) + len(b) > most:
            (a if len(a) > len(b) else b).pop()
        return a, b

    for n in range(8, 14):
        x, y = authors([*a], [*b], n - 3)
        assert pack([a, b], pieces, n) == ([2, *x, 3, *y, 3], len(x) + 2)
    assert a == [10, 11, 12, 13, 14], "nothing is changed"


def test_batches_are_no_longer_than_needed(pieces):
    data = tasks.Labelled([("p1 p2", "p3"), ("p1",), ("p4 p5 p6 p7", "p8 p9")][::2], [1, 0], "")
    found = tasks.examples(data, pieces, 32, 2, torch.device("cpu"))
    tokens, segments, real, labels = found.batch(torch.tensor([0]))
    assert tokens.tolist() == [[2, 6, 7, 3, 8, 3]] and segments.tolist() == [[0, 0, 0, 0, 1, 1]] and real.all()
    tokens, segments, real, labels = found.batch(torch.tensor([1, 0]))
    assert real.tolist() == [[True] * 9, [True] * 6 + [False] * 3] and labels.tolist() == [0, 1]
    assert (tokens[1, 6:] == 0).all() and (segments[1, 6:] == 0).all()


def test_scores_by_hand():
    """Matthews and F1 from the four counts, Pearson and Spearman from their definitions; 0 for one answer to everything."""
    labels, found = torch.tensor([1, 1, 1, 0, 0, 1, 0, 0, 1, 1]), torch.tensor([1, 0, 1, 0, 1, 1, 0, 1, 1, 0])
    tp, tn, fp, fn = 4, 2, 2, 2
    y = scores(("accuracy", "f1", "matthews"), labels, found)
    assert y["accuracy"] == pytest.approx(60) and y["f1"] == pytest.approx(100 * 2 * tp / (2 * tp + fp + fn))
    assert y["matthews"] == pytest.approx(100 * (tp * tn - fp * fn) / ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5)
    a, b = torch.tensor([0.0, 1.0, 2.5, 4.0, 5.0]), torch.tensor([0.1, 0.0, 3.0, 2.0, 9.0])
    y = scores(("pearson", "spearman"), a, b)
    assert y["pearson"] == pytest.approx(100 * torch.corrcoef(torch.stack([a, b]))[0, 1].item())
    ranks = torch.tensor([[0.0, 1, 2, 3, 4], [1.0, 0, 3, 2, 4]])
    assert y["spearman"] == pytest.approx(100 * torch.corrcoef(ranks)[0, 1].item())
    assert scores(("spearman", "pearson"), a, torch.ones(5)) == {"spearman": 0.0, "pearson": 0.0}
    assert scores(("matthews", "f1"), labels, labels * 0) == {"matthews": 0.0, "f1": 0.0}


# Runs.


def test_several_rates(folders, tmp_path):  # noqa: F811
    """Each learns as it would alone; the best on the dev set answers the test set, in the form that GLUE's server takes."""
    data = mrpc(tmp_path / "data")
    flags = ["--weights", folders / "new", "--epochs", 2, "--data-dir", data, "--context", 32]
    out = tune(tmp_path, *flags, "--rates", 1e-3, 1e-5)
    metrics = record(out)["metrics"]
    assert {"dev_accuracy_lr0.001", "dev_f1_lr1e-05", "chosen_lr"} <= metrics.keys() and "dev_f1" in metrics
    best = max((0.001, 1e-5), key=lambda lr: metrics[f"dev_f1_lr{lr:g}"])
    assert metrics["chosen_lr"] == best and metrics["dev_f1"] == metrics[f"dev_f1_lr{best:g}"]
    alone = tune(tmp_path / "alone", *flags, "--rates", 1e-5)
    assert record(alone)["metrics"]["dev_f1"] == metrics["dev_f1_lr1e-05"]
    of = {row["step"]: row["train_loss_lr1e-05"] for row in rows(out) if "train_loss_lr1e-05" in row}
    assert {row["step"]: row["train_loss"] for row in rows(alone) if "train_loss" in row} == of
    lines = (out / "submission/MRPC.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction" and len(lines) == 21 and {line.split("\t")[1] for line in lines[1:]} <= {"0", "1"}


def test_from_a_run_of_ours(tmp_path):
    code, output = here(SCRIPT, "smoke-pretraining", "--out", tmp_path, "--precision", "fp32")
    assert code == 0, output
    run = tmp_path / "bert/smoke-pretraining/seed0"
    out = tune(tmp_path, "--weights", run, "--batch-size", 16, "--epochs", 0.2, "--rates", 1e-4, name="smoke")
    about = record(out)["data"]
    assert about["weights"].startswith("smoke-pretraining, seed 0, commit ") and len(about["weights_sha256"]) == 64
    saved = torch.load(sorted((run / "checkpoint").iterdir())[-1], weights_only=True)["objects"]["model"]
    bert, tokenizer, _ = finetune.from_run(run, 0.1, print)
    assert all(torch.equal(each, saved[f"bert.{name}"]) for name, each in bert.state_dict().items())
    assert tokenizer.get_vocab_size() == len(bert.tokens.weight)
    result = json.loads(before := (run / "config.json").read_text())
    other = "holds gpt/smoke-pretraining): name OUT/bert/EXPERIMENT/SEED"
    for change, words in ((lambda: result.update(paper="gpt"), other), (result.clear, "no folder of a run")):
        change()
        put(run / "config.json", json.dumps(result))
        assert words in tune(tmp_path / "x", "--weights", run, name="smoke", code=2)
    put(run / "config.json", before)
    (run / "result.json").unlink()
    assert "has not ended" in tune(tmp_path / "x", "--weights", run, name="smoke", code=2)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("dev", f"{HEADER}\n3\t1\t2\ta\tb\n", "row 1 has the label 3, not a class number below 2"),
        ("dev", f"{HEADER}\n1\t1\t2\ta\n", "row 1 has 4 columns, not 5"),
        ("train", f'{HEADER}\n1\t1\t2\t"a\tb\n0\t1\t2\ta"\tb\tc\n', "row 2 has 6 columns, not 5: a tab"),
        ("train", "Quality\t#1 ID\t#2 ID\t#1 String\n1\t1\t2\ta\n", "'#2 String' is not in list"),
    ],
)
def test_bad_rows(file, text, words, folders, tmp_path):  # noqa: F811
    data = mrpc(tmp_path / "data")
    put(data / f"glue/MRPC/{file}.tsv", text)
    output = tune(tmp_path, "--weights", folders / "new", "--data-dir", data, code=2)
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert words in line and f"MRPC/{file}.tsv" in line


def test_weights_that_do_not_fit(folders, tmp_path):  # noqa: F811
    data = mrpc(tmp_path / "data")
    broken = shutil.copytree(folders / "new", tmp_path / "broken")
    put(broken / "vocab.txt", "\n".join(vocabulary.SPECIAL))
    said = tune(tmp_path, "--weights", broken, "--data-dir", data, code=2)
    assert "the vocabulary has 5 pieces, the model embeddings of 60" in said
    assert "no such folder, and no name of the hub" in tune(tmp_path, "--weights", "nowhere", "--data-dir", data, code=2)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--rates", 0], "--rates must be different rates in (0, 1)"),
        (["--rates", 1e-5, 1e-5], "--rates must be different"),
        (["--context", 4], "--context must be at least 8"),
        (["--reference"], "--reference is for one of --rates"),
        (["--epochs", 0], "--epochs must be positive"),
        (["--task", "x"], "invalid choice"),
    ],
)
def test_impossible_values(flags, words):
    code, output = here(SCRIPT, "glue-mrpc", *flags)
    assert code == 2 and "Traceback" not in output and (words in " ".join(output.split()) or words == "invalid choice")


def test_the_ablation_compares_what_it_says(tmp_path):
    """At each look fine-tuning starts from the net as pre-training left it, with the same new layer."""
    from papers.bert import ablation

    code, output = here(SCRIPT, "smoke-ablation", "--out", tmp_path, "--precision", "fp32")
    torch.set_default_dtype(torch.float32)
    assert code == 0, output
    out = tmp_path / "bert/smoke-ablation/seed0"
    metrics, curve = record(out)["metrics"], [row for row in rows(out) if "pretraining_steps" in row]
    assert [row["pretraining_steps"] for row in curve] == [4, 8]
    assert {row["made-up_accuracy_full"] for row in curve[-1:]} == {metrics["made-up_accuracy_full"]}
    first = rows(out)[0]
    assert first["step"] == 4 and first["full_loss"] != first["mask_loss"] and first["full_loss"] != first["ltr_loss"]
    updates = {"pretraining": 4, "a": 2, "b": 3}
    found = [ablation.where(step, updates) for step in range(18)]
    assert found[:5] == [*(("pretraining", at, 0) for at in range(4)), ("a", 0, 0)]
    assert found[8:10] == [("b", 2, 0), ("pretraining", 0, 1)] and found[-1] == ("b", 2, 1)
    a, b = torch.tensor([1.0, 1, 0, 1]).double(), torch.tensor([1.0, 0, 0, 0]).double()
    y = ablation.compared({"full": a, "other": b}, "t")
    assert y["t_accuracy_full"] == 75 and y["t_full_less_other"] == 50 and y["t_full_less_other_error"] == pytest.approx(25)
    tokens, real = torch.tensor([[2, 7, 8, 3, 0]]), torch.tensor([[True, True, True, True, False]])
    seen, _, _, chosen, wanted, _ = ablation.following((tokens * 0, tokens, real, real, tokens, tokens))
    assert torch.equal(seen, tokens) and chosen.tolist() == [[True, True, True, False, False]]
    assert wanted[chosen].tolist() == [7, 8, 3]


def test_bf16_learns_as_fp32_does(tmp_path):
    losses = {}
    for precision in ("fp32", "bf16"):
        flags = ["--out", tmp_path / precision, "--precision", precision, "--dropout", 0]
        code, output = here(SCRIPT, "smoke-pretraining", *flags)
        assert code == 0, output
        lines = rows(tmp_path / precision / "bert/smoke-pretraining/seed0")
        losses[precision] = [row["masked_loss"] for row in lines if "masked_loss" in row]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=5e-3) and losses["bf16"] != losses["fp32"]


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("smoke-squad", "smoke-ablation")]


@pytest.mark.parametrize("name", ["smoke-pretraining", *SLOW])
def test_processes(name, tmp_path):
    """1 process, 2 processes and 2 micro-batches take the same steps: masked tokens are counted over all of them."""
    flags = [name, "--precision", "fp32", "--dropout", 0]
    two = processes(2, tmp_path / "two.log", SCRIPT, *flags, "--out", tmp_path / "2")
    for out, more in (("1", []), ("m", ["--micro-batch", 100])):
        code, output = here(SCRIPT, *flags, *more, "--out", tmp_path / out)
        assert code == 0, output
    finish(two)
    lines = {out: rows(tmp_path / out / "bert" / name / "seed0") for out in "12m"}
    assert_close(lines["2"], lines["1"], 2e-5)
    assert_close(lines["m"], lines["1"], 2e-5)
