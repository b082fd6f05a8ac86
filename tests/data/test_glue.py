"""GLUE's tasks: the same examples from both layouts, and bad ones refused in one line. test_hub.py has downloads."""

import hashlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.data.glue import TASKS, fetch_glue, glue, write_submission
from common.provenance import ROOT
from tests.serving import put, refused

MNLI = "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse\t"
STSB = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2"
TSV = {  # task -> train's header, its rows; test's header, its rows
    "cola": (None, "gj04\t{y}\t\t{a}", "index\tsentence", "{i}\t{a}"),
    "sst2": ("sentence\tlabel", "{a}\t{y}", "index\tsentence", "{i}\t{a}"),
    "mrpc": (
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", "{y}\t1\t2\t{a}\t{b}",
        "\ufeffindex\t#1 ID\t#2 ID\t#1 String\t#2 String", "{i}\t1\t2\t{a}\t{b}",
    ),
    "stsb": (f"{STSB}\tscore", "{i}\tg\tf\t2012\t3\tx\ty\t{a}\t{b}\t{y}", STSB, "{i}\tg\tf\t2012\t3\tx\ty\t{a}\t{b}"),
    "qqp": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "{i}\t1\t2\t{a}\t{b}\t{y}",
        "id\tquestion1\tquestion2", "{i}\t{a}\t{b}",
    ),
    "mnli": (
        f"{MNLI}sentence1\tsentence2\tlabel1\tgold_label", "{i}\t1\t1e\tf\t(\t)\t(A\tB)\t{a}\t{b}\tneutral\t{y}",
        f"{MNLI}sentence1\tsentence2", "{i}\t1\t1e\tf\t(\t)\t(A\tB)\t{a}\t{b}",
    ),
    "qnli": ("index\tquestion\tsentence\tlabel", "{i}\t{a}\t{b}\t{y}", "index\tquestion\tsentence", "{i}\t{a}\t{b}"),
    "rte": ("index\tsentence1\tsentence2\tlabel", "{i}\t{a}\t{b}\t{y}", "index\tsentence1\tsentence2", "{i}\t{a}\t{b}"),
}  # fmt: skip
ANSWERS = {  # task -> as tsv files spell them, what they are
    "stsb": (["5.000", "2.4", "0.667"], [5.0, 2.4, 0.667]),
    "mnli": (["contradiction", "entailment", "neutral"], [2, 0, 1]),
    **dict.fromkeys(("qnli", "rte"), (["not_entailment", "entailment", "entailment"], [1, 0, 0])),
    **dict.fromkeys(("cola", "sst2", "mrpc", "qqp"), (["1", "0", "0"], [1, 0, 0])),
}
FOLDERS = dict(zip(TSV, ("CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI", "QNLI", "RTE"), strict=True))
COLUMNS = {
    **dict.fromkeys(("cola", "sst2"), ("sentence",)),
    **dict.fromkeys(("mrpc", "stsb", "rte"), ("sentence1", "sentence2")),
    "qqp": ("question1", "question2"), "mnli": ("premise", "hypothesis"), "qnli": ("question", "sentence"),
}  # fmt: skip
PAIRS = [('"He', "is ü.\x85\u2028"), ('a "b" ', 'x"'), ("'c", "\rd ")]


def lines(task, answers=None, kind=1):
    header, row = TSV[task][:2] if answers else TSV[task][2:]
    rows = [row.format(i=i, a=a, b=b, y=answers and answers[i]) for i, (a, b) in enumerate(PAIRS)]
    return "".join(f"{line}\n" for line in ([header] if header else []) + rows)


def shard(path, columns):
    """Hugging Face's layout; columns: name -> values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns | {"idx": pa.array(range(len(next(iter(columns.values())))), pa.int32())}), path)
    return path


def texts(task):
    """column -> values, and the same as tuples."""
    columns = dict(zip(COLUMNS[task], zip(*PAIRS, strict=True), strict=False))
    return columns, list(zip(*columns.values(), strict=True))


def labels(task, values):
    return {"label": pa.array(values, pa.float32() if task == "stsb" else pa.int64())}


@pytest.mark.parametrize("task", TSV)
def test_both_layouts(task, tmp_path):
    """The same examples; hidden labels; tsv files first, split by split."""
    columns, wanted = texts(task)
    spelled, numbers = ANSWERS[task]
    folder, config = tmp_path / "glue" / FOLDERS[task], tmp_path / "glue" / task
    ends = ("_matched", "_mismatched") if task == "mnli" else ("",)
    for end in ends:
        path = shard(config / f"validation{end}-00000-of-00001.parquet", columns | labels(task, numbers))
        shard(config / f"test{end}-00000-of-00001.parquet", columns | labels(task, [-1] * 3))
        found, hidden = glue(tmp_path, task, f"dev{end}"), glue(tmp_path, task, f"test{end}")
        assert (found.texts, found.labels, found.left_out) == (wanted, numbers, 0)
        assert {type(x) for x in found.labels} == {float if task == "stsb" else int}
        assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert (hidden.texts, hidden.labels) == (wanted, None) and len(hidden) == 3
        put(folder / f"test{end}.tsv", lines(task))
        assert glue(tmp_path, task, f"test{end}").texts == wanted and glue(tmp_path, task, f"test{end}").labels is None
        shard(path, columns | labels(task, numbers[::-1]))
        assert glue(tmp_path, task, f"dev{end}").labels == numbers[::-1]
    path = put(folder / "train.tsv", lines(task, spelled))
    found = glue(tmp_path, task, "train")
    assert (found.texts, found.labels, found.left_out) == (wanted, numbers, 0)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    for end in ends:
        put(folder / f"dev{end}.tsv", lines(task, spelled))
        assert glue(tmp_path, task, f"dev{end}").labels == numbers


def test_the_gold_label_of_mnli(tmp_path):
    """It stands last, after what each annotator said."""
    header, row = (
        f"{MNLI}sentence1\tsentence2\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label",
        "0\t1\t1e\tf\t(\t)\t(A\tB)\ta\tb",
    )
    put(tmp_path / "glue/MNLI/dev_mismatched.tsv", f"{header}\n{row}\tneutral\tneutral\tentailment\t\t\tcontradiction\n")
    assert glue(tmp_path, "mnli", "dev_mismatched").labels == [2]


def test_rows_cut_in_two(tmp_path):
    """QQP's are left out and counted where there are labels; a row of the test split is one of the submission's."""
    cut = '7\t1\t2\tWho is "\n\tWas he real?\t0\n'
    put(tmp_path / "glue/QQP/train.tsv", lines("qqp", "101") + cut + "8\t1\t2\ta\t\t0\n9\t1\t2\ta\tb\t1")
    found = glue(tmp_path, "qqp", "train")
    assert (found.labels, found.left_out, found.texts[-1]) == ([1, 0, 1, 1], 3, ("a", "b"))
    put(tmp_path / "glue/QQP/dev.tsv", lines("qqp", "101") + cut)
    assert (len(glue(tmp_path, "qqp", "dev")), glue(tmp_path, "qqp", "dev").left_out) == (3, 2)
    path = put(tmp_path / "glue/QQP/test.tsv", lines("qqp") + "7\tWho is\n")
    assert f"{path} (row 4 has 2 columns, not 3: a tab in a text?)" in refused(glue, tmp_path, "qqp", "test")


def test_empty_texts_in_training(tmp_path):
    put(tmp_path / "glue/CoLA/train.tsv", "\ufeffg\t1\t\ta\r\ng\t1\t\t\ng\t0\t\tb")
    found = glue(tmp_path, "cola", "train")
    assert (found.texts, found.labels, found.left_out) == ([("a",), ("b",)], [1, 0], 1)


@pytest.mark.parametrize(
    ("task", "text", "reason"),
    [
        ("cola", "g\t1\t\ta\ng\t1\t\tb\tc\n", "row 2 has 5 columns, not 4: a tab in a text?"),
        ("cola", "g\t1\t\ta\ng\t1\tb\n", "row 2 has 3 columns, not 4"),
        ("cola", "g\t1\t\ta\ng\t2\t\tb\n", "row 2 has the label 2, not a class number below 2"),
        ("cola", "g\tacceptable\t\ta\n", "row 1 has the label acceptable, not"),
        ("cola", "g\t-1\t\ta\n", "row 1 has the label -1, not"),
        ("cola", "g\t1\t\ta\ng\t1\t\t \u2003\n", "row 2 has an empty text"),
        ("cola", b"g\t1\t\ta\ng\t1\t\t\xfc\n", "line 2 is not UTF-8, byte 6: invalid start byte"),
        ("cola", "", "it is empty"),
        ("sst2", "", "it is empty"),
        ("sst2", "sentence\tlabel\n", "there is no example"),
        ("sst2", "sentence\tscore\n", "'label' is not in list"),
        ("stsb", f"{STSB}\tscore\n" + "x\t" * 9 + "nan\n", "row 1 has the label nan, not a score from 0 to 5"),
        ("stsb", f"{STSB}\tscore\n" + "x\t" * 9 + "5.1\n", "row 1 has the label 5.1, not a score"),
        ("stsb", f"{STSB}\tscore\n" + "x\t" * 9 + "\n", "could not convert string to float"),
        ("rte", "index\tsentence1\tsentence2\tlabel\n1\ta\tb\t1\n", "row 1 has the label 1, not a class"),
    ],
)
def test_bad_tsv(task, text, reason, tmp_path):
    path = put(tmp_path / "glue" / FOLDERS[task] / "dev.tsv", text)
    assert f"cannot read {path} ({reason}" in refused(glue, tmp_path, task, "dev")


def test_bad_shards(tmp_path):
    names = [tmp_path / f"glue/sst2/validation-0000{i}-of-00002.parquet" for i in (0, 1)]
    first = shard(names[0], {"sentence": ["a"]} | labels("sst2", [1]))
    shard(names[1], {"sentence": ["b", "c"]} | labels("sst2", [0, 1]))
    assert glue(tmp_path, "sst2", "dev").texts == [("a",), ("b",), ("c",)]
    for columns, reason in (
        ({"sentence": ["b"]}, "label"),
        ({"sentence": ["b"], "label": pa.array([0.5])}, "row 1 has the label 0.5"),
        ({"sentence": [1], "label": [1]}, "row 1 has an empty text"),
        ({"sentence": ["b", "c"], "label": [1, 2]}, "row 2 has the label 2, not a class number below 2"),
        ({"sentence": ["b", "c"], "label": [1, None]}, "row 2 has the label None"),
        ({"sentence": ["b", "c"], "label": [1, -1]}, "row 2 has the label -1"),
        ({"sentence": ["b", ""], "label": [1, 0]}, "row 2 has an empty text"),
        ({"sentence": pa.array(["b", None]), "label": [1, 0]}, "row 2 has an empty text"),
        ({"sentence": pa.array([b"\xff"]).view(pa.string()), "label": [1]}, "'utf-8' codec can't decode"),
    ):
        shard(names[1], columns)
        message = refused(glue, tmp_path, "sst2", "dev")
        assert f"cannot read {names[1]} (" in message and reason in message and "`hf download nyu-mll/glue" in message
    names[1].write_bytes(first.read_bytes()[:-20])
    assert f"cannot read {names[1]} (" in refused(glue, tmp_path, "sst2", "dev")


def test_no_glue(tmp_path):
    message, places = refused(glue, tmp_path, "mnli", "dev_matched"), f"{tmp_path}/glue/mnli/validation_matched-*.parquet"
    for word in (f"{tmp_path}/glue/MNLI/dev_matched.tsv", places, '--include "mnli/*"', "or GLUE's own MNLI/*.tsv", "--data-dir"):
        assert word in message


def test_what_is_there_is_not_fetched(tmp_path, monkeypatch):
    """Train and dev, in either layout."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    put(tmp_path / "glue/RTE/train.tsv", lines("rte", ANSWERS["rte"][0]))
    shard(tmp_path / "glue/rte/validation-00000-of-00001.parquet", texts("rte")[0] | labels("rte", [1, 0, 1]))
    fetch_glue(tmp_path, "rte")
    (tmp_path / "glue/RTE/train.tsv").unlink()
    assert f"datasets/nyu-mll/glue to {tmp_path}/glue (" in refused(fetch_glue, tmp_path, "rte")


@pytest.mark.parametrize(
    ("task", "split", "predictions", "name", "rows"),
    [
        *((task, "test", [1, 0], f"{FOLDERS[task]}.tsv", ["1", "0"]) for task in ("cola", "sst2", "mrpc", "qqp")),
        *((task, "test", [1, 0], f"{FOLDERS[task]}.tsv", ["not_entailment", "entailment"]) for task in ("qnli", "rte")),
        ("stsb", "test", [-0.2, 2.34567, 5.4, 3], "STS-B.tsv", ["0.000", "2.346", "5.000", "3.000"]),
        ("mnli", "test_matched", [2, 0, 1], "MNLI-m.tsv", ["contradiction", "entailment", "neutral"]),
        ("mnli", "test_mismatched", [1], "MNLI-mm.tsv", ["neutral"]),
    ],
)
def test_submission(task, split, predictions, name, rows, tmp_path):
    write_submission(tmp_path / "new", task, predictions, split)
    wanted = ["index\tprediction", *(f"{i}\t{row}" for i, row in enumerate(rows))]
    assert (tmp_path / "new" / name).read_text() == "\n".join(wanted) + "\n" and len(list((tmp_path / "new").iterdir())) == 1


def test_bad_submission(tmp_path):
    for task, prediction in (("cola", 2), ("cola", -1), ("rte", 0.5), ("stsb", float("nan"))):
        with pytest.raises(ValueError, match=f"prediction 1 of {task} is {prediction}"):
            write_submission(tmp_path, task, [1, prediction])


REAL = {  # examples, of them of class 1
    "sst2": ((67_349, 37_569), (872, 444), 1821),
    "cola": ((8551, 6023), (1043, 721), 1063),
    "mrpc": ((3668, 2474), (408, 279), 1725),
    "rte": ((2490, 1241), (277, 131), 3000),
}


@pytest.mark.skipif(not (ROOT / "data/glue").exists(), reason="data/glue is not there")
@pytest.mark.parametrize("task", REAL)
def test_the_real_glue(task):
    if not (ROOT / "data/glue" / TASKS[task].folder).exists():
        pytest.skip(f"{task} is not there")
    train, dev, test = (glue(ROOT / "data", task, split) for split in ("train", "dev", "test"))
    assert [(len(data), sum(data.labels)) for data in (train, dev)] == list(REAL[task][:2])
    assert (len(test), test.labels, train.left_out) == (REAL[task][2], None, 0)
    if task == "mrpc":
        assert train.texts[0][0].startswith('Amrozi accused his brother , whom he called " the witness " ,')
        assert dev.texts[0][1] == '" The foodservice pie business does not fit our long-term growth strategy .'
