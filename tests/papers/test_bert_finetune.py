"""BERT's fine-tuning: beside transformers' network, inputs, scores, the optimizer, what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import BertForSequenceClassification

from papers.bert import finetune, tasks, vocabulary
from papers.bert.adam import Adam, adamw
from papers.bert.model import Bert, Classifier, rate
from papers.bert.tasks import pack, scores
from tests.parity.test_bert_weights import SMALL, folders, reference  # noqa: F401
from tests.serving import put
from tests.start import here, record, rows

SCRIPT = "papers.bert.train"


@pytest.fixture
def default_type():
    yield
    torch.set_default_dtype(torch.float32)


def mrpc(data: Path, n=160):
    """Pairs of stand-in sentences in MRPC's layout, alike or not."""
    draw = torch.Generator().manual_seed(0)
    header, lines = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n", []
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
