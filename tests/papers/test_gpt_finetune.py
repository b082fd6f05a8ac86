"""GPT's fine-tuning: its updates and evaluation, what is transferred, inputs of each task, data, and the claims of the tables."""

import contextlib
import csv
import hashlib
import json
import math
import os
import shutil
import signal
import statistics
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import OpenAIGPTTokenizer

from common.data import standin
from common.data.fetch import sha256
from common.data.order import mix, permuted, share
from common.data.ragged import ragged
from common.errors import BadInput
from papers.gpt import finetune, train
from papers.gpt.finetune import TASKS, Examples, Finetuning, examples, measure, name_of, predictions, scores, transfer
from papers.gpt.model import GPT, LSTM, Classifier
from papers.gpt.pretrain import Pretraining
from papers.gpt.tasks import ENDINGS, STORIES, STORY
from papers.gpt.vocabulary import learn
from tests.data.test_glue import FOLDERS, TSV
from tests.papers.test_gpt_tasks import jsonl
from tests.parity.test_gpt_weights import converted, reference, vocabulary  # noqa: F401
from tests.serving import put
from tests.start import Started, finish, here, judged, newest, processes, record, rows, until
from tests.test_standing import assert_close, assert_equal, lines_so_far

SCRIPT, OUT = "papers.gpt.train", "gpt/smoke-finetuning/seed0"
PLAIN = ("--dropout", 0, "--classifier-dropout", 0)
ONE_UPDATE = ("--batch-size", 256, "--epochs", 1)  # of rate 0, on all examples: the weights stay as they begin


def tune(out, *flags, name="smoke-finetuning"):
    """The directory of a run that ends well."""
    before = torch.get_default_dtype()
    code, output = here(SCRIPT, name, *flags, "--out", out)
    torch.set_default_dtype(before)
    assert code == 0, output
    return out / "gpt" / name / "seed0"


def error(*flags):
    """The one line of a refusal."""
    code, output = here(SCRIPT, *flags)
    assert code == 2 and "Traceback" not in output, output
    (line,) = [line for line in output.splitlines() if line.startswith("error:")]
    assert output.endswith(f"{line}\n"), output
    return line


# Eq. (3) to (5), written out for one example: its sequences are lists of tokens.


def logits_of(model, sequences):
    """Each sequence alone: the state at its last token."""
    last = [model.body.states(torch.tensor([each]))[0][0, -1] for each in sequences]
    if model.choice:
        return torch.stack([each @ model.W_y.weight[0] + model.W_y.bias[0] for each in last])
    return model.W_y.weight @ sum(last) + model.W_y.bias


def auxiliary_of(model, sequences):
    """Every token but the first is predicted, <extract> among them."""
    means = []
    for each in sequences:
        log_p = (model.body.states(torch.tensor([each]))[0][0] @ model.body.embedding.weight.T).log_softmax(1)
        means.append(-sum(log_p[t - 1, each[t]] for t in range(1, len(each))) / (len(each) - 1))
    return sum(means) / len(means)


def loss_of(model, sequences, label, weight):
    supervised = -logits_of(model, sequences).log_softmax(0)[label]
    return supervised + weight * auxiliary_of(model, sequences) if weight else supervised


def two_orders(V, a, b, room=32):
    one, two = list(a), list(b)
    while len(one) + len(two) + 3 > room:
        (one if len(one) >= len(two) else two).pop()
    return [[V, *one, V + 1, *two, V + 2], [V, *two, V + 1, *one, V + 2]]


def made_up(encode, V, split, room=32):
    """Sequences and label of each made-up example."""
    pairs = finetune.made_up(None, split).texts
    return [(two_orders(V, encode(one), encode(two), room), int(one[0] == two[0])) for one, two in pairs]


def stand_in():
    """The made-up network of a run with seed 0, and its vocabulary."""
    tokenizer = learn("bytes", 300, {"train": lambda: iter([standin.text(4000)])})
    torch.default_generator.manual_seed(mix(0, "start"))
    return GPT(tokenizer.get_vocab_size(), n_layer=2, n_head=2, D=16, context=32), lambda text: tokenizer.encode(text).ids


def begun(net, classes=2, copied=True):
    """The classifier as fine-tuning of a net begins."""
    torch.default_generator.manual_seed(mix(0, "model"))
    V, D = net.embedding.weight.shape
    body = GPT(V, n_layer=len(net.blocks), n_head=net.blocks[0].attention.h, D=D, context=net.context, dropout=0)
    if copied:
        body.load_state_dict(net.state_dict())
    return Classifier(body, classes, dropout=0)


def test_finetuning_is_the_recipe(tmp_path, double):
    """Updates written out, example by example without padding; batches that cross the ends of epochs, a warm-up that lasts."""
    pace = ("--batch-size", 24, "--epochs", 2, "--warmup", 0.2)
    directory = tune(tmp_path, "--precision", "fp64", *PLAIN, "--transferred", 3, *pace)
    net, encode = stand_in()
    V, steps = len(net.embedding.weight), 20
    model, data = begun(net), made_up(encode, V, "train")
    moments = {p: (torch.zeros_like(p), torch.zeros_like(p)) for p in model.parameters()}
    losses, lengths = [], []
    for step in range(steps):
        model.zero_grad()
        batch = permuted(len(data), 0, step * 24, step * 24 + 24).tolist()
        loss = sum(loss_of(model, *data[i], 0.5) for i in batch) / 24
        loss.backward()
        losses.append(loss.item())
        lengths.append(math.sqrt(sum(p.grad.square().sum().item() for p in moments)))
        done = step / steps
        lr = 5e-3 * (done / 0.2 if done < 0.2 else 1) * (1 - done)
        with torch.no_grad():
            for p, (m, v) in moments.items():
                gradient = p.grad * min(1, 1 / (lengths[-1] + 1e-6))  # torch's
                m.lerp_(gradient, 0.1)
                v.lerp_(gradient**2, 0.001)
                if p.ndim == 2:
                    p -= lr * 0.01 * p
                p -= lr * (m / (1 - 0.9 ** (step + 1))) / ((v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
    assert min(lengths) < 0.9 and max(lengths) > 1.1, "some gradients are clipped, others are not"
    for name, p in model.state_dict().items():
        torch.testing.assert_close(newest(directory)["objects"]["model"][name], p, rtol=1e-6, atol=1e-9, msg=name)
    lines = rows(directory)
    assert [row["step"] for row in lines] == [8, 10, 16, 20]
    for row, (start, stop) in zip(lines, [(0, 8), (8, 10), (10, 16), (16, 20)], strict=True):
        assert row["train_loss"] == pytest.approx(sum(losses[start:stop]) / (stop - start), rel=2e-7)  # logged in 32 bits
    right = [logits_of(model, sequences).argmax().item() == label for sequences, label in made_up(encode, V, "dev")]
    assert 0 < sum(right) < len(right) == 40
    ones, accuracy = sum(label for _, label in made_up(encode, V, "dev")), 100 * sum(right) / 40
    above = accuracy - 100 * max(ones, 40 - ones) / 40
    assert record(directory)["metrics"] == pytest.approx({"dev_accuracy": accuracy, "dev_accuracy_above_constant": above})
    assert lines[-1]["dev_accuracy"] == record(directory)["metrics"]["dev_accuracy"]


@pytest.mark.parametrize("weight", [0.5, 0.25, 0])
def test_the_first_loss(weight, tmp_path, double, monkeypatch):
    """Of all examples, at rate 0. Without the auxiliary objective the language model's head is not used."""
    used, logits = [], GPT.logits
    monkeypatch.setattr(GPT, "logits", lambda self, h: used.append(h) or logits(self, h))
    directory = tune(tmp_path, "--precision", "fp64", *PLAIN, "--transferred", 3, "--auxiliary", weight, *ONE_UPDATE)
    assert len(used) == (weight > 0)
    net, encode = stand_in()
    model = begun(net)
    assert_equal(dict(newest(directory)["objects"]["model"]), dict(model.state_dict()))
    with torch.no_grad():
        data = made_up(encode, len(net.embedding.weight), "train")
        loss = sum(loss_of(model, *each, weight) for each in data).item() / 256
    (row,) = rows(directory)
    assert row["train_loss"] == pytest.approx(loss, rel=2e-7)


@pytest.mark.slow
def test_two_networks_in_one_run_are_those_of_two_runs(tmp_path):
    flags = ("--precision", "fp64", *PLAIN, "--epochs", 2)
    both = tune(tmp_path / "both", *flags, "--transferred", 0, 3)
    lines, objects, metrics = rows(both), newest(both)["objects"], record(both)["metrics"]
    for part, name in ((0, "_nothing"), (3, "_2_layers")):
        alone = tune(tmp_path / f"{part}", *flags, "--transferred", part)
        assert_equal(objects[f"model{name}"], newest(alone)["objects"]["model"])
        for key in ("train_loss", "dev_accuracy"):
            assert [row[f"{key}{name}"] for row in lines] == [row[key] for row in rows(alone)]
        assert metrics[f"dev_accuracy{name}"] == record(alone)["metrics"]["dev_accuracy"]
    assert metrics["dev_accuracy_gain"] == metrics["dev_accuracy_2_layers"] - metrics["dev_accuracy_nothing"]
    assert (both / "figures/transfer.png").stat().st_size > 1000


# What is transferred.


def shaken(net):
    for p in net.parameters():
        nn.init.normal_(p, 0, 0.4)
    return net


@pytest.mark.parametrize(
    "source, taken",
    [
        (GPT(11, n_layer=2, n_head=2, D=8, context=6), ["embedding positions", "blocks.0.", "blocks.1."]),
        (LSTM(11, units=5, D=8, context=6), ["embedding lstm out"]),
    ],
    ids=["GPT", "LSTM"],
)
def test_what_is_not_transferred_is_random_and_the_same(source, taken):
    expected, bodies = shaken(source).state_dict(), []
    for part in range(len(taken) + 1):
        torch.default_generator.manual_seed(5)
        bodies.append(transfer(source, part, 0.3))
        assert type(bodies[-1]) is type(source) and bodies[-1].context == 6 and bodies[-1].dropout.p == 0.3
        assert {block.attention.h for block in getattr(bodies[-1], "blocks", [])} <= {2}
        copied = tuple(" ".join(taken[:part]).split())
        for name, tensor in bodies[-1].state_dict().items():
            assert torch.equal(tensor, expected[name]) == name.startswith(copied), name
            assert name.startswith(copied) or torch.equal(tensor, bodies[0].state_dict()[name]), name
            assert tensor.data_ptr() != expected[name].data_ptr()
    with pytest.raises(BadInput, match=f"--transferred {part + 1}: there is {part} at most"):
        transfer(source, part + 1, 0.3)


def test_networks_begin_alike_but_for_what_is_transferred(tmp_path, double):
    directory = tune(tmp_path, "--precision", "fp64", *PLAIN, "--transferred", 2, 0, 3, 1, *ONE_UPDATE)
    net, _ = stand_in()
    random, taken, V = begun(net, copied=False).state_dict(), begun(net).state_dict(), len(net.embedding.weight)
    assert not torch.equal(random["body.embedding.weight"][:V], taken["body.embedding.weight"][:V])
    for part, name in enumerate(("_nothing", "_embeddings", "_1_layers", "_2_layers")):
        copied = ("body.embedding", "body.positions", "body.blocks.0", "body.blocks.1")[: part + (part > 0)]
        expected = {key: (taken if key.startswith(copied) else random)[key] for key in random}
        assert_equal(dict(newest(directory)["objects"][f"model{name}"]), expected)
    assert "--transferred 4: there is 3 at most" in error("smoke-finetuning", "--transferred", 4, "--out", tmp_path / "more")


# Killed, split, cut.


@pytest.mark.slow
def test_killed_and_started_again(tmp_path):
    """As it is, in bf16 and with dropout: bit for bit the same."""
    straight, killed = tune(tmp_path, "--epochs", 5), tmp_path / "killed" / OUT
    run = Started(tmp_path / "log", SCRIPT, "smoke-finetuning", "--epochs", 5, "--out", tmp_path / "killed")
    until(lambda: not run.alive or ((killed / "metrics.jsonl").exists() and lines_so_far(killed) >= 2))
    run.kill(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL and lines_so_far(killed) < 5
    tune(tmp_path / "killed", "--epochs", 5)
    assert rows(killed) == rows(straight) and len(rows(straight)) == 5
    assert record(killed)["metrics"] == record(straight)["metrics"]
    assert_equal(newest(killed)["objects"], newest(straight)["objects"])


@pytest.mark.slow
def test_processes_and_micro_batches(tmp_path, monkeypatch):
    """--micro-batch counts tokens, of both orders; each process and each piece is a part of the same batches."""
    flags = ("--precision", "fp32", *PLAIN, "--epochs", 3)
    two = processes(2, tmp_path / "two.log", SCRIPT, "smoke-finetuning", *flags, "--out", tmp_path / "2")
    sizes, forward = [], Classifier.forward
    monkeypatch.setattr(Classifier, "forward", lambda *all_: sizes.append((all_[0].training, all_[1].numel())) or forward(*all_))
    one = tune(tmp_path / "1", *flags)
    sizes.clear()
    micro = tune(tmp_path / "m", *flags, "--micro-batch", 400)
    assert len(sizes) > 2 * 3 * 24 and max(n for _, n in sizes) <= 400 < 2 * min(n for training, n in sizes[:3] if training)
    finish(two)
    directory = tmp_path / "2" / OUT
    assert (record(one)["processes"], record(directory)["processes"]) == (1, 2)
    for other in (directory, micro):
        assert_close(rows(other), rows(one))
        assert_close([record(other)["metrics"]] * 3, [record(one)["metrics"]] * 3)
    assert sum("dev_accuracy_nothing" in row for row in rows(one)) == 3


# From a run of ours.


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """OUT with pre-trained networks of both kinds, and a fine-tuned one."""
    root = tmp_path_factory.mktemp("ours")
    short = ("--precision", "fp64", "--steps", 3, "--warmup", 1)
    tune(root, *short, name="smoke")
    tune(root / "lstm", *short, "--network", "lstm", "--units", 6, name="smoke")
    tune(root, "--epochs", 1, "--transferred", 0)
    return root


@pytest.mark.parametrize("how", ["folder", "name", "lstm"])
def test_from_a_run_of_ours(how, ours, tmp_path, double):
    """Its network, its vocabulary, its context of 16: the first loss is the one by hand."""
    out = shutil.copytree(ours / ("lstm" if how == "lstm" else ""), tmp_path / "out", ignore=lambda *_: ["lstm", OUT.split("/")[1]])
    folder = out / "gpt/smoke/seed0"
    flags = ("--weights", "smoke" if how == "name" else folder, "--transferred", 1 if how == "lstm" else 3, *ONE_UPDATE)
    directory = tune(out if how == "name" else tmp_path, "--precision", "fp64", *PLAIN, *flags)
    tokenizer = Tokenizer.from_file(str(folder / "vocabulary.json"))
    V, state = tokenizer.get_vocab_size(), newest(folder)["objects"]["model"]
    sizes = {"D": 16, "context": 16, "dropout": 0}
    net = LSTM(V, units=6, **sizes) if how == "lstm" else GPT(V, n_layer=2, n_head=2, **sizes)
    net.load_state_dict(state)
    model = Classifier(net, 2, dropout=0)
    tuned = newest(directory)["objects"]["model"]
    assert torch.equal(tuned["body.embedding.weight"][:V], state["embedding.weight"])
    assert tuned["body.embedding.weight"][V:].abs().max() < 0.1
    model.load_state_dict(tuned)
    for name, p in state.items():
        assert name == "embedding.weight" or torch.equal(model.body.state_dict()[name], p)
    data = made_up(lambda text: tokenizer.encode(text).ids, V, "train", room=16)
    assert any(len(sequences[0]) == 16 for sequences, _ in data)
    with torch.no_grad():
        loss = sum(loss_of(model, *each, 0.5) for each in data).item() / 256
    assert rows(directory)[0]["train_loss"] == pytest.approx(loss, rel=2e-7)
    about = record(directory)["data"]
    assert about["weights"] == f"smoke, seed 0, commit {record(folder)['commit']}" and about["stand_in"]
    assert about["weights_sha256"] == fingerprint(state)


def fingerprint(state):
    return hashlib.sha256(b"".join(tensor.float().numpy().tobytes() for tensor in state.values())).hexdigest()


def cut(path, size=100):
    os.truncate(path, size)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def only_an_older_checkpoint(run):
    state = newest(run)
    cut(run / f"checkpoint/step{state['step']}.pt")
    torch.save(state | {"step": state["step"] - 1}, run / f"checkpoint/step{state['step'] - 1}.pt")


def other_vocabulary(run):
    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(run / "vocabulary.json"))


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda run: (run / "result.json").unlink(), "has not ended: start it again"),
        (lambda run: edit(run / "config.json", paper="lenet"), "it holds lenet/smoke): name OUT/gpt/"),
        (lambda run: [cut(path) for path in (run / "checkpoint").iterdir()], "no checkpoint in"),
        (lambda run: edit(run / "config.json", seed=1), "is a checkpoint of gpt/smoke/0, not of gpt/smoke/1"),
        (lambda run: shutil.rmtree(run / "checkpoint"), "cannot load"),
        (lambda run: cut(run / "vocabulary.json"), "vocabulary.json"),
        (lambda run: (run / "vocabulary.json").unlink(), "vocabulary.json"),
        (other_vocabulary, "(RuntimeError: "),
        (lambda run: empty(run / "checkpoint"), "has lost its last checkpoint"),
        (only_an_older_checkpoint, "has lost its last checkpoint"),
        (lambda run: cut(run / "result.json"), "is no folder of a run that will do (JSONDecodeError: "),
        (lambda run: (run / "result.json").write_text("{}"), "is no folder of a run that will do (KeyError: "),
    ],
)
def test_runs_that_cannot_be_used(damage, said, ours, tmp_path):
    folder = shutil.copytree(ours / "gpt/smoke/seed0", tmp_path / "smoke/seed0")
    damage(folder)
    line = error("smoke-finetuning", "--weights", folder, "--out", tmp_path)
    assert said in line and str(folder) in line, line


def test_other_names_than_those_of_networks(ours, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    flags = ("smoke-finetuning", "--out", tmp_path, "--data-dir", tmp_path, "--weights")
    line = error(*flags, "smoke")
    assert f"no pre-trained network in {tmp_path / 'gpt/smoke/seed0'}" in line
    assert f"`make reproduce-gpt EXPERIMENT=smoke OUT={tmp_path}`" in line
    assert f"no pre-trained network in {tmp_path / 'gpt/nothing/seed0'}" in error(*flags, "nothing")
    for name in ("some/one", "openai-gpt", tmp_path):
        assert f"error: cannot load {name} (" in error(*flags, name)
    assert "holds gpt/smoke-finetuning): name OUT/gpt/" in error(*flags, ours / OUT)


# From official weights, on GLUE's files.


NAMES = {"rte": ("entailment", "not_entailment"), "mnli": ("entailment", "neutral", "contradiction")}
ROWS = {"train": 40, "dev": 23, "dev_matched": 23, "dev_mismatched": 17, "test": 19, "test_matched": 15, "test_mismatched": 18}
LABELLED = {"cola": 2, "stsb": 1, "mrpc": 2, "rte": 2, "mnli": 3}


def splits_of(task, kind):
    return [f"{kind}_matched", f"{kind}_mismatched"] if task == "mnli" else [kind]


def drawn(task, split):
    """Made-up examples: texts, and the answer."""
    lines = standin.text(6000).splitlines()
    generator = torch.Generator().manual_seed(mix(task, split))
    for _ in range(ROWS[split]):
        chosen = torch.randint(len(lines), (2,), generator=generator).tolist()
        answer = torch.randint(51 if task == "stsb" else LABELLED[task], (), generator=generator).item()
        yield [lines[i] for i in chosen][: 1 if task == "cola" else 2], answer / 10 if task == "stsb" else answer


@pytest.fixture(scope="module")
def official(vocabulary, tmp_path_factory):  # noqa: F811
    """A folder as transformers writes it, GLUE's files beside it, and the net."""
    root = tmp_path_factory.mktemp("official")
    net = reference(V=len(json.loads((vocabulary[0] / "vocab.json").read_text())), D=24, context=64)
    net.save_pretrained(root)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(vocabulary[0] / name, root)
    for task in LABELLED:
        for split in ("train", *splits_of(task, "dev"), *splits_of(task, "test")):
            header, row = TSV[task][2 * split.startswith("test") :][:2]
            lines = [header] if header else []
            for i, (texts, answer) in enumerate(drawn(task, split)):
                a, b = (*texts, "")[:2]
                lines.append(row.format(i=i, a=a, b=b, y=NAMES[task][answer] if task in NAMES else answer))
            if (task, split) == ("cola", "train"):
                lines.append(row.format(i=0, a=" ", y=1))  # nothing to learn from
            put(root / "glue" / FOLDERS[task] / f"{split}.tsv", "".join(f"{line}\n" for line in lines))
    return root, net


def by_formula(labels, answers):
    """Matthews, F1, accuracy of classes 0 and 1; written out."""
    counts = [sum((y, z) == pair for y, z in zip(labels, answers, strict=True)) for pair in ((1, 1), (0, 1), (1, 0), (0, 0))]
    tp, fp, fn, tn = counts
    matthews = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return {"matthews": 100 * matthews, "f1": 100 * 2 * tp / (2 * tp + fp + fn), "accuracy": 100 * (tp + tn) / sum(counts)}


def pearson(labels, answers):
    x, y = ([each - sum(some) / len(some) for each in some] for some in (labels, answers))
    product = sum(a * b for a, b in zip(x, y, strict=True))
    return 100 * product / math.sqrt(sum(a * a for a in x) * sum(b * b for b in y))


def share_of_right(labels, answers):
    return 100 * sum(y == z for y, z in zip(labels, answers, strict=True)) / len(labels)


@pytest.mark.parametrize("task", LABELLED)
def test_the_whole_path_on_glue(task, official, tmp_path, double):
    """Scores and submission are those of the last weights, each example alone, and the weights those of the folder, a little on."""
    root, net = official
    lr = 2e-3 if task == "mnli" else 1e-3  # with these no answer is the same to everything
    flags = ("--weights", root, "--data-dir", root, "--epochs", 1, "--batch-size", 8, "--precision", "fp64", "--lr", lr)
    directory = tune(tmp_path, *flags, name=f"glue-{task}")
    tokenizer = OpenAIGPTTokenizer(vocab=str(root / "vocab.json"), merges=str(root / "merges.txt"))
    V = len(tokenizer)
    model, state = Classifier(converted(net), LABELLED[task]), newest(directory)["objects"]["model"]
    for name, p in model.body.state_dict().items():
        moved = (state[f"body.{name}"] - p)[: V if name == "embedding.weight" else None].abs().max()
        assert 0 < moved < 4.4 * lr, name
    model.load_state_dict(state)
    model.eval()

    def answers_to(split):
        found = []
        for texts, _ in drawn(task, split):
            parts = [tokenizer(text).input_ids for text in texts]
            if task == "cola":
                sequences = [[V, *parts[0], V + 2]]
            elif task in ("mrpc", "stsb"):
                sequences = two_orders(V, *parts, room=64)
            else:
                sequences = two_orders(V, *parts, room=64)[:1]
            assert len(sequences[0]) < 64
            with torch.no_grad():
                logits = logits_of(model, sequences)
            found.append(logits.item() if task == "stsb" else logits.argmax().item())
        assert len(set(found)) > 1, "all answers are the same"
        return found

    labels = {split: [answer for _, answer in drawn(task, split)] for split in splits_of(task, "dev")}
    answers = {split: answers_to(split) for split in labels}
    if task == "mnli":
        both = ["dev_matched", "dev_mismatched"]
        labels["dev"], answers["dev"] = ([x for split in both for x in some[split]] for some in (labels, answers))
    expected = {}
    for split, right in labels.items():
        if task == "stsb":
            expected[f"{split}_pearson"] = pearson(right, answers[split])
        elif task == "mnli":
            expected[f"{split}_accuracy"] = share_of_right(right, answers[split])
            constant = max(share_of_right(right, [each] * len(right)) for each in range(3))
            expected[f"{split}_accuracy_above_constant"] = expected[f"{split}_accuracy"] - constant
        else:
            wanted = {"cola": ["matthews"], "mrpc": ["f1", "accuracy"], "rte": ["accuracy"]}[task]
            expected |= {f"{split}_{name}": by_formula(right, answers[split])[name] for name in wanted}
            if task != "cola":
                share = sum(right) / len(right)  # of one answer to everything F1 is 2 p / (1 + p), or 0
                constant = 200 * share / (1 + share) if task == "mrpc" else 100 * max(share, 1 - share)
                expected[f"{split}_{wanted[0]}_above_constant"] = expected[f"{split}_{wanted[0]}"] - constant
    assert record(directory)["metrics"] == pytest.approx(expected)

    ends = {"test_matched": "-m", "test_mismatched": "-mm"}
    files = {split: f"{FOLDERS[task]}{ends.get(split, '')}.tsv" for split in splits_of(task, "test")}
    assert {path.name for path in (directory / "submission").iterdir()} == {*files.values()}
    for split, name in files.items():
        header, *lines = (directory / "submission" / name).read_text().splitlines()
        said = [f"{min(max(x, 0), 5):.3f}" if task == "stsb" else NAMES.get(task, "01")[x] for x in answers_to(split)]
        assert header == "index\tprediction" and lines == [f"{i}\t{each}" for i, each in enumerate(said)]
        assert len(lines) == ROWS[split]

    data = record(directory)["data"]
    used = ["train", *splits_of(task, "dev")]
    assert data["sha256"] == ",".join(sha256(root / "glue" / FOLDERS[task] / f"{split}.tsv") for split in used)
    assert (data["train"], data["test"]) == (40, sum(ROWS[split] for split in used[1:])) and data["stand_in"] is False
    assert (data["weights"], data.get("left_out")) == (str(root), 1 if task == "cola" else None)
    assert data["weights_sha256"] == fingerprint(converted(net).state_dict())


@pytest.mark.parametrize("name", ["glue-cola", "snli", "race", "storycloze"])
def test_no_data_and_no_network(name, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    flags = ("--weights", "made-up", "--data-dir", tmp_path / "data", "--out", tmp_path)
    assert str(tmp_path / "data") in error(name, *flags)


# Inputs of each task, Fig. 1.


WORDS = "abcdefghijkl"  # each is one token, 0 to 11; 12 <start>, 13 <delimiter>, 14 <extract>
ENCODED = {  # task -> its example in the files below as tokens, and the label
    **dict.fromkeys(("cola", "sst2"), ([[12, 0, 1, 2, 14]], 1)),
    **dict.fromkeys(("mrpc", "qqp"), ([[12, 0, 1, 2, 13, 3, 4, 14], [12, 3, 4, 13, 0, 1, 2, 14]], 1)),
    "stsb": ([[12, 0, 1, 2, 13, 3, 4, 14], [12, 3, 4, 13, 0, 1, 2, 14]], 2.4),
    **dict.fromkeys(("qnli", "rte"), ([[12, 0, 1, 2, 13, 3, 4, 14]], 1)),
    **dict.fromkeys(("mnli", "snli"), ([[12, 0, 1, 2, 13, 3, 4, 14]], 2)),
    "race": ([[12, 0, 1, 2, 3, 4, 13, 5, 14], [12, 0, 1, 2, 3, 4, 13, 6, 7, 14],
              [12, 0, 1, 2, 3, 4, 13, 8, 14], [12, 0, 1, 2, 3, 4, 13, 9, 14]], 3),
    "storycloze": ([[12, 0, 1, 2, 3, 4, 5, 13, 6, 7, 14], [12, 0, 1, 2, 3, 4, 5, 13, 8, 14]], 1),
}  # fmt: skip


def write_example(folder, task):
    """a b c, and d e; a b c d e?, with the answers f, g h, i and j; a b, c, d e, f., with the endings g h and i."""
    if task in TSV:
        answer = {"stsb": 2.4, "mnli": "contradiction", "qnli": "not_entailment", "rte": "not_entailment"}.get(task, 1)
        for split in ("train", *splits_of(task, "dev"), *splits_of(task, "test")):
            header, row = TSV[task][2 * split.startswith("test") :][:2]
            line = row.format(i=0, a="a b c", b="d e", y=answer)
            put(folder / "glue" / FOLDERS[task] / f"{split}.tsv", f"{header}\n{line}\n" if header else f"{line}\n")
    elif task == "snli":
        for split in ("train", "dev", "test"):
            put(folder / f"snli_1.0/snli_1.0_{split}.jsonl", jsonl([("contradiction", "a b c", "d e")]))
    elif task == "race":
        for place in ("train/middle", "train/high", "dev/middle", "dev/high", "test/middle", "test/high"):
            middle = place == "train/middle"
            asked = {"questions": ["d e"], "options": [["f", "g h", "i", "j"]], "answers": ["A" if middle else "D"]}
            put(folder / "RACE" / place / "1.txt", json.dumps({"article": "k" if middle else "a b c"} | asked))
    else:
        for file in STORIES.values():
            with put(folder / "storycloze" / file, "").open("w", newline="") as opened:
                writer = csv.writer(opened)
                writer.writerow([*STORY, *ENDINGS, "AnswerRightEnding"])
                writer.writerows([["a b", "c", "d e", "f", "g h", "i", 2]] * 1871)


def lists(data, i):
    """The sequences of an example."""
    return [data.sequences.padded(torch.tensor([j]))[0].tolist() for j in range(i * data.K, (i + 1) * data.K)]


@pytest.mark.parametrize("task", ENCODED)
def test_inputs_of_each_task(task, tmp_path):
    write_example(tmp_path, task)
    tokenizer, about = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="l")), {}
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    run = SimpleNamespace(config=SimpleNamespace(task=task), data_dir=tmp_path, device=torch.device("cpu"), on_main=lambda f: f(),
                          describe_data=lambda **said: about.update(said))  # fmt: skip
    splits = examples(run, TASKS[task], tokenizer, 12, 512, {"weights": "w"})
    wanted, label = ENCODED[task]
    for split, data in splits.items():
        hidden = split in TASKS[task].hidden
        last = len(data) - 1
        assert lists(data, last) == wanted and data.labels[last].item() == pytest.approx(0 if hidden else label), split
        assert data.labels.dtype == (torch.float32 if task == "stsb" else torch.int64)
    assert {"train", *TASKS[task].splits, *TASKS[task].hidden} == splits.keys()
    if task == "race":  # middle, then high
        assert len(splits["train"]) == 2 and lists(splits["train"], 0)[1] == [12, 10, 3, 4, 13, 6, 7, 14]
        assert splits["train"].labels.tolist() == [0, 3] and len(splits["test_middle"]) == len(splits["test_high"]) == 1
    expected = {"storycloze": (1497, 374 + 1871), "race": (2, 2), "snli": (1, 2), "mnli": (1, 2)}.get(task, (1, 1))
    assert (about["train"], about["test"]) == expected and about["weights"] == "w" and not about["stand_in"]
    most = max(map(len, wanted))
    shorter = lists(examples(run, TASKS[task], tokenizer, 12, most - 1, {})["train"], -1 % len(splits["train"]))
    for short, whole in zip(shorter, wanted, strict=True):
        lost = 5 if task == "storycloze" else 2  # c; of the story its last word
        assert short == [token for token in whole if token != lost], "the longest text loses its last token, of RACE the article"


# Batches, predictions, scores.


def some_examples(K, n=13, labels=None):
    generator = torch.Generator().manual_seed(K)
    lengths = torch.randint(2, 9, (n * K,), generator=generator).tolist()
    sequences = [torch.randint(1, 11, (length,), generator=generator).tolist() for length in lengths]
    return Examples(ragged(sequences), K, torch.arange(n) if labels is None else labels), sequences


@pytest.mark.parametrize("K", [1, 2, 4])
def test_a_batch(K):
    data, sequences = some_examples(K)
    wanted = [7, 0, 7, 12]
    tokens, lengths, labels = data.batch(torch.tensor(wanted))
    found = [sequences[i * K : (i + 1) * K] for i in wanted]
    assert lengths.tolist() == [[len(each) for each in some] for some in found] and labels.tolist() == wanted
    T = max(len(each) for some in found for each in some)
    assert tokens.tolist() == [[each + [0] * (T - len(each)) for each in some] for some in found] and len(data) == 13


@pytest.mark.parametrize("task", ["cola", "mnli", "stsb", "mrpc", "race", "storycloze"])
def test_predictions_are_those_of_each_example_alone(task, double, monkeypatch):
    """In batches of any size, on any number of processes, in the order of the examples."""
    K = {"mrpc": 2, "stsb": 2, "race": 4, "storycloze": 2}.get(task, 1)
    choice, C = TASKS[task].form == "choice", TASKS[task].classes
    torch.manual_seed(1)
    body = GPT(8, n_layer=1, n_head=2, D=8, context=8)  # 8, 9 and 10 are the three of `inputs`
    model = shaken(Classifier(body, C, choice=choice))
    data, sequences = some_examples(K)
    with torch.no_grad():
        expected = torch.stack([logits_of(model.eval(), sequences[i * K : (i + 1) * K]) for i in range(13)])
    assert expected.shape == (13, C) and expected.std() > 0.1

    @contextlib.contextmanager
    def evaluating(net):
        with torch.no_grad():
            yield net.eval()

    sizes, forward = [], Classifier.forward
    monkeypatch.setattr(Classifier, "forward", lambda self, t, *rest: sizes.append(t.numel()) or forward(self, t, *rest))
    for micro, n in ((None, 1), (1, 1), (70, 1), (70, 2), (None, 3), (30, 20)):
        found = []
        for rank in range(n):
            run = SimpleNamespace(config=SimpleNamespace(task=task), options=SimpleNamespace(micro_batch=micro),
                                  device=torch.device("cpu"), evaluating=evaluating, gather=lambda values, n: values,
                                  share=lambda all_, rank=rank, n=n: share(all_, rank, n))  # fmt: skip
            found.append(predictions(run, model, data))
        torch.testing.assert_close(torch.cat(found), expected, rtol=0, atol=1e-12)
        assert micro != 70 or max(sizes) <= 70
        sizes.clear()


CASES = [  # labels, answers, scores
    ([1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 1, 0, 0, 0], {"matthews": 400 / math.sqrt(240), "f1": 400 / 7, "accuracy": 62.5}),
    ([0, 1, 1], [0, 1, 1], {"matthews": 100, "f1": 100, "accuracy": 100}),
    ([0, 1, 0, 0], [1, 0, 1, 1], {"matthews": -100, "f1": 0, "accuracy": 0}),
    ([1, 0, 0], [0, 0, 0], {"matthews": 0, "f1": 0, "accuracy": 200 / 3}),
    ([1, 0, 0], [1, 1, 1], {"matthews": 0, "f1": 50, "accuracy": 100 / 3}),
    ([3, 0, 2, 1], [3, 2, 2, 1], {"accuracy": 75}),
    ([1.0, 2.0, 4.5], [0.3, 0.1, 2.0], {"pearson": pearson([1.0, 2.0, 4.5], [0.3, 0.1, 2.0])}),
    ([1.0, 2.0, 3.0], [2.0, 0.0, 1.0], {"pearson": -50}),
    ([1.0, 2.0, 3.0], [2.5, 2.5, 2.5], {"pearson": 0}),
]


@pytest.mark.parametrize("labels, answers, expected", CASES)
@pytest.mark.filterwarnings("error")
def test_scores(labels, answers, expected):
    for name, value in expected.items():
        found = scores(name, torch.tensor(labels).numpy(), torch.tensor(answers).numpy())
        assert found == pytest.approx({name: value} | ({"accuracy": expected["accuracy"]} if name == "f1" else {}), abs=1e-4)


def measured(monkeypatch, task, names, logits, labels):
    """What `measure` makes of logits of each network and split."""
    splits = {split: Examples(None, 1, torch.tensor(each)) for split, each in labels.items()}
    split_of = {id(each): split for split, each in splits.items()}
    monkeypatch.setattr(finetune, "predictions", lambda run, model, data: torch.tensor(logits[model][split_of[id(data)]]).float())
    return measure(None, TASKS[task], tuple(logits), names, splits)


def test_pooled_scores_and_gains(monkeypatch):
    """Of all questions together, which is not the mean of both levels' scores."""
    A, B, C, D = torch.eye(4).tolist()
    labels = {"test_middle": [0, 1], "test_high": [3, 3, 2, 0, 1, 1]}
    logits = {"first": {"test_middle": [A, B], "test_high": [D, A, A, B, C, D]}, "then": {"test_middle": [A, C]}}
    logits["then"]["test_high"] = [D, D, C, A, B, A]
    found = measured(monkeypatch, "race", ["_nothing", "_12_layers"], logits, labels)
    first, then = (100, 100 / 6, 300 / 8), (50, 500 / 6, 600 / 8)
    expected = {}
    for split, one, two in zip(("test_middle", "test_high", "test"), first, then, strict=True):
        gain = two - one
        expected |= {f"{split}_accuracy_nothing": one, f"{split}_accuracy_12_layers": two, f"{split}_accuracy_gain": gain}
    assert found == pytest.approx(expected)
    logits["between"] = {"test_middle": [A, B], "test_high": [B, B, A, B, A, A]}
    three = {name: logits[name] for name in ("first", "between", "then")}
    found = measured(monkeypatch, "race", ["_nothing", "_embeddings", "_12_layers"], three, labels)
    assert found["test_accuracy_gain"] == pytest.approx(600 / 8 - 300 / 8)
    assert found["test_accuracy_gain_over_embeddings"] == pytest.approx(600 / 8 - found["test_accuracy_embeddings"])
    assert found["test_accuracy_embeddings"] == pytest.approx(200 / 8)
    alone = measured(monkeypatch, "race", [""], {"then": logits["then"]}, labels)
    assert alone == pytest.approx(dict(zip(("test_middle_accuracy", "test_high_accuracy", "test_accuracy"), then, strict=True)))


def test_scores_above_those_of_one_answer(monkeypatch):
    """Of F1 and accuracy, on the same examples; of the better of the constants."""
    A, B = torch.eye(2).tolist()
    found = measured(monkeypatch, "mrpc", [""], {"": {"dev": [B, B, A, A, B]}}, {"dev": [1, 1, 1, 0, 0]})
    assert found["dev_f1"] == pytest.approx(200 / 3) and found["dev_f1_above_constant"] == pytest.approx(200 / 3 - 75)
    found = measured(monkeypatch, "rte", [""], {"": {"dev": [A, A, A, B, B]}}, {"dev": [0, 0, 0, 0, 1]})
    assert found["dev_accuracy"] == pytest.approx(80) and found["dev_accuracy_above_constant"] == pytest.approx(0)
    three = {name: {"dev": each} for name, each in (("none", [A, B]), ("all", [A, A]))}
    found = measured(monkeypatch, "rte", ["_nothing", "_12_layers"], three, {"dev": [0, 0]})
    assert found["dev_accuracy_above_constant_nothing"] == pytest.approx(-50) and found["dev_accuracy_gain"] == pytest.approx(50)
    assert not any("constant" in key for key in measured(monkeypatch, "cola", [""], {"": {"dev": [A, B]}}, {"dev": [0, 1]}))


def test_the_loss_of_a_score_is_its_squared_error():
    labels, logits = torch.tensor([1.0, 4.0]), torch.tensor([[2.0], [1.5]])
    tokens, lengths = torch.zeros(2, 2, 3, dtype=torch.int64), torch.tensor([[3, 2], [2, 3]])
    assert finetune.loss(logits, labels, None, tokens, lengths, 0.5).item() == pytest.approx((1 + 6.25) / 2)
    uniform = finetune.loss(logits, labels, torch.zeros(2, 2, 3, 7), tokens, lengths, 0.5).item()
    assert uniform == pytest.approx((1 + 6.25) / 2 + 0.5 * math.log(7))
    classes = finetune.loss(torch.tensor([[0.0, math.log(3)]]), torch.tensor([1]), None, tokens, lengths, 0.5)
    assert classes.item() == pytest.approx(math.log(4 / 3))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--lr", 0], "--lr must be positive"),
        (["--clip", "nan"], "--clip must be positive"),
        (["--warmup", 0], "--warmup must be positive"),
        (["--warmup", 1], "--warmup must be in [0, 1)"),
        (["--batch-size", 0], "--batch-size must be at least 1"),
        (["--epochs", 0], "--epochs must be at least 1"),
        (["--dropout", 1], "--dropout must be in [0, 1)"),
        (["--classifier-dropout", -0.1], "--classifier-dropout must be in [0, 1)"),
        (["--weight-decay", 1], "--weight-decay must be in [0, 1)"),
        (["--context", 7], "--context must be at least 8, got 7"),
        (["--auxiliary", -1], "--auxiliary must not be negative"),
        (["--auxiliary", "inf"], "--auxiliary must not be negative"),
        (["--transferred", -1], "--transferred must be different counts, none negative, got -1"),
        (["--transferred", 0, 2, 0], "--transferred must be different counts, none negative, got 0 2 0"),
        (["--task", "squad"], "squad"),
    ],
)
def test_bad_input(flags, said, tmp_path):
    code, output = here(SCRIPT, "smoke-finetuning", *flags, "--out", tmp_path)
    assert code == 2 and said in " ".join(output.replace("│", "").split()), output
    assert "Traceback" not in output and not any(tmp_path.iterdir())


# The experiments: Tables 2 to 5 and Fig. 2, typed from the paper.


FULL = {  # experiment -> its claims; MRPC's and RTE's less what one answer to everything has, 79.9 and 50.3
    "glue-cola": {"dev_matthews": 45.4}, "glue-sst2": {"dev_accuracy": 91.3}, "glue-mrpc": {"dev_f1_above_constant": 82.3 - 79.9},
    "glue-stsb": {"dev_pearson": 82.0}, "glue-qqp": {"dev_f1": 85.9},  # not the paper's: the page says why
    "glue-mnli": {"dev_matched_accuracy": 82.1, "dev_mismatched_accuracy": 81.4},
    "glue-qnli": {"dev_accuracy": 87.4}, "glue-rte": {"dev_accuracy_above_constant": 56.0 - 50.3}, "snli": {"test_accuracy": 89.9},
    "race": {"test_accuracy": 59.0, "test_middle_accuracy": 62.9, "test_high_accuracy": 57.4},
    "storycloze": {"test_accuracy": 86.5},
}  # fmt: skip
TABLE_5 = {  # row -> what it changes, and CoLA, SST2, MRPC, STSB, MNLI, RTE
    "no-auxiliary": ({"auxiliary": 0}, (47.9, 92.0, 84.9, 83.2, 81.1, 54.4)),
    "pretraining": ({"transferred": (0, 13)}, (18.9, 84.0, 79.4, 30.9, 75.7, 53.8)),  # without
    "lstm": ({"weights": "bookscorpus-lstm"}, (30.3, 90.5, 83.2, 71.8, 73.7, 54.6)),
}
COLUMNS = {  # task -> score, the full network's
    "cola": ("matthews", 45.4), "sst2": ("accuracy", 91.3), "mrpc": ("f1", 82.3), "stsb": ("pearson", 82.0),
    "mnli": ("accuracy", 81.8), "rte": ("accuracy", 56.0),
}  # fmt: skip
OTHERS = {  # the last two: by how much Table 5 is lower without pre-training
    "figure2-mnli": {
        "dev_matched_accuracy_gain_over_embeddings": 9, "dev_matched_accuracy_nothing": 72, "dev_matched_accuracy_12_layers": 82,
    },
    "wikitext2-sst2": {"dev_accuracy_gain": 91.3 - 84.0}, "wikitext2-cola": {"dev_matthews_gain": 45.4 - 18.9},
}  # fmt: skip


def test_claims_are_those_of_the_paper():
    expected = FULL | OTHERS | {"smoke-finetuning": {}}
    for row, (_, values) in TABLE_5.items():
        for (task, (score, full)), value in zip(COLUMNS.items(), values, strict=True):
            constant = {"mrpc": 79.9, "rte": 50.3}.get(task)
            level = {f"dev_{score}": value} if constant is None else {f"dev_{score}_above_constant": value - constant}
            if row == "pretraining":
                level = {f"dev_{score}_gain": full - value, **{f"{metric}_nothing": each for metric, each in level.items()}}
            expected[f"{row}-{task}"] = level
    found = {name: each for name, each in train.EXPERIMENTS.items() if isinstance(each.config, Finetuning)}
    assert found.keys() == expected.keys()
    for name, experiment in found.items():
        claims = {claim.metric: claim.value for claim in experiment.claims}
        assert claims == pytest.approx(expected[name]) and len(claims) == len(experiment.claims), name
        assert not any(claim.lower_is_better for claim in experiment.claims)


def test_what_is_worse_than_the_full_network_counts_either_way():
    for row, (_, values) in TABLE_5.items():
        for (task, (_, full)), value in zip(COLUMNS.items(), values, strict=True):
            *gain, level = train.EXPERIMENTS[f"{row}-{task}"].claims
            assert level.either_way == (row != "no-auxiliary" or value < full)
            assert [(each.stands_on, each.either_way) for each in gain] == [(level.metric, False)] * (row == "pretraining")
    for name in ("cola", "stsb", "mnli"):  # where the full network's score is no LSTM's
        (claim,), full = train.EXPERIMENTS[f"lstm-{name}"].claims, COLUMNS[name][1]
        assert judged(claim, "paper", [claim.value]) == "reproduced" and judged(claim, "paper", [full]).startswith("short by")
    (claim,) = train.EXPERIMENTS["no-auxiliary-mnli"].claims
    assert judged(claim, "paper", [COLUMNS["mnli"][1]]) == "short by 0.7%"
    nothing = next(each for each in train.EXPERIMENTS["figure2-mnli"].claims if each.metric.endswith("_nothing"))
    assert nothing.either_way and judged(nothing, "paper", [81.0]) == "short by 9%"


def test_one_answer_to_everything_reproduces_nothing():
    """It is 0 above itself; differences that are nearer to 0 than their standard error are within noise."""
    for name, experiment in train.EXPERIMENTS.items():
        for claim in experiment.claims:
            if claim.metric.endswith(("_above_constant", "_gain", "_gain_over_embeddings")):
                assert claim.noise > 0 and judged(claim, "paper", [0.0]) == "short, within noise", name
                assert judged(claim, "paper", [0.9 * claim.noise]) == "short, within noise", name
    claims = {name: train.EXPERIMENTS[name].claims[0] for name in ("glue-mrpc", "glue-rte", "pretraining-rte")}
    assert [judged(claim, "paper", [claim.value]) for claim in claims.values()] == 2 * ["reproduced"] + ["short, within noise"]


def test_the_picture_of_what_is_transferred():
    """A point of each network of each seed, and its standard error, (1 - r^2) / sqrt(n)."""
    levels = [-0.5, 30.0, 50.0]
    metrics = dict(zip(("dev_matthews_nothing", "dev_matthews_embeddings", "dev_matthews_1_layers"), levels, strict=True))
    record = {"config": {"task": "cola"}, "experiment": "wikitext2-cola", "metrics": metrics | {"dev_matthews_gain": 50.5}}
    (axes,) = train.transfer([record | {"seed": 0}, record | {"seed": 1}]).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["nothing", "embeddings", "1 layers"]
    assert [container.get_label() for container in axes.containers] == ["seed 0", "seed 1"]
    for points, _, (bars,) in axes.containers:
        assert points.get_ydata().tolist() == levels
        half = [(top - bottom) / 2 for (_, bottom), (_, top) in bars.get_segments()]
        assert half == pytest.approx([100 * (1 - (level / 100) ** 2) / 1043**0.5 for level in levels], abs=0.06)


@pytest.mark.parametrize("score", ["accuracy", "f1", "matthews", "pearson"])
def test_the_standard_error_of_a_score(score):
    """Against the scores of many dev sets of the same size."""
    generator, n, found = torch.Generator().manual_seed(0), 400, []
    for _ in range(1500):
        if score == "pearson":
            labels, answers = torch.randn(2, n, generator=generator)
            answers = 0.6 * labels + 0.8 * answers
        else:
            labels = torch.rand(n, generator=generator) < 0.6
            wrong = torch.rand(n, generator=generator) < torch.where(labels, 0.2, 0.3)  # as many answers as labels: 0.6
            labels, answers = labels.long(), (labels ^ wrong).long()
        found.append(scores(score, labels.numpy(), answers.numpy())[score])
    mean, size = statistics.fmean(found), round(0.6 * n) if score == "f1" else n
    assert train.noise(score, size, mean) == pytest.approx(statistics.stdev(found), rel=0.2)
    assert train.noise(score, size, mean, mean) == pytest.approx(2**0.5 * train.noise(score, size, mean), abs=0.1)


@pytest.mark.parametrize("name", [name for name, each in train.EXPERIMENTS.items() if isinstance(each.config, Finetuning)])
def test_what_is_claimed_is_measured(name, monkeypatch):
    """By these names, of networks with all the layers that are transferred."""
    experiment = train.EXPERIMENTS[name]
    task, parts = TASKS[experiment.config.task], experiment.config.transferred
    names = [name_of(part, None) for part in parts] if len(parts) > 1 else [""]
    labels = {split: [0, 1, 1] if task.classes > 1 else [0.0, 1.0, 3.0] for split in task.splits}
    logits = {each: {split: torch.eye(3, task.classes).tolist() for split in task.splits} for each in names}
    found = measured(monkeypatch, experiment.config.task, names, logits, labels)
    assert {claim.metric for claim in experiment.claims} <= found.keys()


def test_rows_differ_in_what_the_tables_say():
    hyperparameters = {"lr": 6.25e-5, "batch_size": 32, "epochs": 3, "warmup": 0.002, "auxiliary": 0.5, "weight_decay": 0.01}
    hyperparameters |= {"dropout": 0.1, "classifier_dropout": 0.1, "clip": 1.0, "context": 512, "transferred": ()}
    headline = {name: vars(train.EXPERIMENTS[name].config) for name in FULL}
    for name, config in headline.items():
        assert config == hyperparameters | {"task": name.removeprefix("glue-"), "weights": "openai-gpt"}
    changed = {f"{row}-{task}": (task, changes) for row, (changes, _) in TABLE_5.items() for task in COLUMNS}
    changed["figure2-mnli"] = ("mnli", {"transferred": (0, 1, 4, 7, 10, 13)})
    scaled = {"weights": "wikitext2", "lr": 2.5e-4, "context": 128}
    changed["wikitext2-sst2"] = ("sst2", scaled | {"transferred": (0, 5)})
    changed["wikitext2-cola"] = ("cola", scaled | {"transferred": (0, 1, 2, 3, 4, 5)})
    for name, (task, changes) in changed.items():
        theirs = headline[f"glue-{task}"]
        assert {key: value for key, value in vars(train.EXPERIMENTS[name].config).items() if value != theirs[key]} == changes, name
    lstm = train.EXPERIMENTS["bookscorpus-lstm"].config
    assert vars(lstm) == vars(Pretraining()) | {"network": "lstm"} and lstm.units == 2048
    for name in ("wikitext2-sst2", "wikitext2-cola"):  # the last network has all of it
        config = train.EXPERIMENTS[name].config
        assert config.transferred[-1] == 1 + train.EXPERIMENTS[config.weights].config.n_layer
        assert config.context == train.EXPERIMENTS[config.weights].config.context
