"""GLUE's tasks: the same examples from both layouts, downloaded where they are missing, and bad ones refused in one line."""

import hashlib
import re
from functools import partial

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.data.glue import GLUE_HUB, GLUE_REVISION, TASKS, fetch_glue, glue, write_submission
from common.data.parallel import WMT14_REVISION
from common.provenance import ROOT
from tests.test_mnist import refused, serving
from tests.test_parallel import Hub, put, unprivileged

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


@pytest.fixture
def cola(tmp_path):
    """What `glue` refuses CoLA's dev split with, when this is its file."""
    return lambda text: refused(glue, tmp_path, "cola", "dev") if put(tmp_path / "glue/CoLA/dev.tsv", text) else None


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
    put(
        tmp_path / "glue/QQP/train.tsv",
        lines("qqp", "101") + '7\t1\t2\tWho is "\n\tWas he real?\t0\n8\t1\t2\ta\t\t0\n9\t1\t2\ta\tb\t1',
    )
    found = glue(tmp_path, "qqp", "train")
    assert (found.labels, found.left_out, found.texts[-1]) == ([1, 0, 1, 1], 3, ("a", "b"))
    put(tmp_path / "glue/QQP/dev.tsv", lines("qqp", "101") + '7\t1\t2\tWho is "\n\tWas he real?\t0\n')
    assert (len(glue(tmp_path, "qqp", "dev")), glue(tmp_path, "qqp", "dev").left_out) == (3, 2)
    put(tmp_path / "glue/QQP/test.tsv", lines("qqp") + "7\tWho is\n")
    assert "QQP/test.tsv: line 5 has 2 columns, not 3" in refused(glue, tmp_path, "qqp", "test")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("g\t1\t\ta\ng\t1\t\tb\tc\n", "{0}: line 2 has 5 columns, not 4 (a tab in a text?)"),
        ("g\t1\t\ta\ng\t1\tb\n", "{0}: line 2 has 3 columns, not 4"),
        ("g\t1\t\ta\ng\t2\t\tb\n", "{0}: line 2 has the label 2, not a class number below 2"),
        ("g\tacceptable\t\ta\n", "{0}: line 1 has the label acceptable, not"),
        ("g\t-1\t\ta\n", "{0}: line 1 has the label -1, not"),
        ("g\t1\t\ta\ng\t1\t\t \u2003\n", "{0}: line 2 has an empty text"),
        (b"g\t1\t\ta\ng\t1\t\t\xfc\n", "{0}: line 2 is not UTF-8 (byte 6: invalid start byte)"),
        ("", "{0} is empty"),
    ],
)
def test_bad_tsv(text, reason, cola, tmp_path):
    assert reason.format(tmp_path / "glue/CoLA/dev.tsv") in cola(text)


@pytest.mark.parametrize(
    ("task", "text", "reason"),
    [
        ("sst2", "sentence\tlabel\n", "no example in {0}"),
        ("sst2", "sentence\tscore\n", "{0}: line 1 names the columns sentence, score, not sentence, label"),
        ("stsb", f"{STSB}\tscore\n" + "x\t" * 9 + "nan\n", "{0}: line 2 has the label nan, not a score from 0 to 5"),
        ("stsb", f"{STSB}\tscore\n" + "x\t" * 9 + "5.1\n", "{0}: line 2 has the label 5.1, not a score"),
        ("stsb", f"{STSB}\tscore\n" + "x\t" * 9 + "\n", "{0}: line 2 has the label , not a score"),
        ("rte", "index\tsentence1\tsentence2\tlabel\n1\ta\tb\t1\n", "{0}: line 2 has the label 1, not a class"),
    ],
)
def test_bad_columns(task, text, reason, tmp_path):
    path = put(tmp_path / "glue" / FOLDERS[task] / "dev.tsv", text)
    assert reason.format(path) in refused(glue, tmp_path, task, "dev")


def test_empty_texts_in_training(tmp_path):
    put(tmp_path / "glue/CoLA/train.tsv", "\ufeffg\t1\t\ta\r\ng\t1\t\t\ng\t0\t\tb")
    found = glue(tmp_path, "cola", "train")
    assert (found.texts, found.labels, found.left_out) == ([("a",), ("b",)], [1, 0], 1)


def test_bad_shards(tmp_path):
    names = [tmp_path / f"glue/sst2/validation-0000{i}-of-00002.parquet" for i in (0, 1)]
    read, command = partial(refused, glue, tmp_path, "sst2", "dev"), "`hf download nyu-mll/glue"
    first = shard(names[0], {"sentence": ["a"]} | labels("sst2", [1]))
    message = read()
    assert f"{names[0].parent} holds 1 of 2 validation shards (no {names[1].name})" in message and command in message
    shard(names[1], {"sentence": ["b", "c"]} | labels("sst2", [0, 1]))
    assert glue(tmp_path, "sst2", "dev").texts == [("a",), ("b",), ("c",)]
    for columns, reason in (
        ({"sentence": ["b"]}, "has columns sentence (string), idx (int32), not sentence (str), label (int)"),
        ({"sentence": ["b"], "label": pa.array([1.0])}, "has columns sentence (string), label (double), idx"),
        ({"sentence": [1], "label": [1]}, "has columns sentence (int64), "),
        ({"sentence": ["b", "c"], "label": [1, 2]}, "row 2 has the label 2, not a class number below 2"),
        ({"sentence": ["b", "c"], "label": [1, None]}, "row 2 has the label None"),
        ({"sentence": ["b", "c"], "label": [1, -1]}, "row 2 has the label -1"),
        ({"sentence": ["b", ""], "label": [1, 0]}, "row 2 has an empty text"),
        ({"sentence": pa.array(["b", None]), "label": [1, 0]}, "row 2 has not 1 texts"),
        ({"sentence": pa.array([b"\xff"]).view(pa.string()), "label": [1]}, "is damaged ('utf-8' codec can't decode"),
    ):
        shard(names[1], columns)
        assert f"{names[1]}" in read() and reason in read()
    names[1].write_bytes(first.read_bytes()[:-20])
    message = read()
    assert f"{names[1]} is damaged (" in message and f"delete it and get it with {command}" in message
    shard(tmp_path / "glue/sst2/test-mine.parquet", {"sentence": ["b", "c"], "label": [1, -1]})
    assert "test-mine.parquet are hidden and some are not" in refused(glue, tmp_path, "sst2", "test")


def test_no_glue(tmp_path):
    message = refused(glue, tmp_path, "mnli", "dev_matched")
    command = (
        f'`hf download {GLUE_HUB} --repo-type dataset --revision {GLUE_REVISION} --include "mnli/*" --local-dir {tmp_path}/glue`'
    )
    for word in (
        f"{tmp_path}/glue/MNLI/dev_matched.tsv",
        f"{tmp_path}/glue/mnli/validation_matched-*.parquet",
        command,
        "--data-dir",
    ):
        assert word in message
    assert "without it runs" in message
    assert "no task wnli: name one of cola, sst2" in refused(glue, tmp_path, "wnli", "dev")
    assert "name one of train, dev, test" in refused(glue, tmp_path, "rte", "validation")
    assert "no dev split of mnli: name one of train, dev_matched, dev_mismatched" in refused(glue, tmp_path, "mnli", "dev")
    (tmp_path / "glue/MNLI").mkdir(parents=True)
    with unprivileged(tmp_path / "glue/MNLI"):
        assert f"cannot read {tmp_path}/glue/MNLI: Permission denied" in refused(glue, tmp_path, "mnli", "train")


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
    assert "dev of cola is not submitted: name test" in refused(write_submission, tmp_path, "cola", [1], "dev")
    assert "no test split of mnli" in refused(write_submission, tmp_path, "mnli", [1])
    for task, prediction in (("cola", 2), ("cola", -1), ("rte", 0.5), ("stsb", float("nan"))):
        with pytest.raises(ValueError, match=f"prediction 1 of {task} is {prediction}"):
            write_submission(tmp_path, task, [1, prediction])
    (tmp_path / "CoLA.tsv").mkdir()
    assert f"cannot write {tmp_path}/CoLA.tsv: Is a directory" in refused(write_submission, tmp_path, "cola", [1])


class AnyHub(Hub):
    """The same of any data set and revision."""

    def do_GET(self):
        self.server.paths.append(self.path)
        self.path = re.sub(r"datasets/[\w-]+/[\w-]+/", "datasets/wmt/wmt14/", re.sub("[0-9a-f]{40}", WMT14_REVISION, self.path))
        super().do_GET()

    do_HEAD = do_GET


@pytest.fixture
def hub(monkeypatch):
    """A server of the files that are put into `files`; `paths` are what it was asked for."""
    monkeypatch.setenv("no_proxy", "*")
    with serving(AnyHub, {}) as server:
        server.how, server.paths, api = "good", [], huggingface_hub.HfApi
        monkeypatch.setattr(huggingface_hub, "HfApi", partial(api, endpoint=server.mirror("")[:-2]))
        yield server


def served(path, columns):
    return shard(path, columns).read_bytes()


def test_fetch(hub, tmp_path):
    """One task's shards, of the pinned revision; nothing once its train and dev splits are there, in either layout."""
    kinds = ("train", "validation", "test")
    for task in ("sst2", "rte"):
        made = served(tmp_path / "shard", texts(task)[0] | labels(task, [1, 0, 1]))
        hub.files |= {f"{task}/{kind}-00000-of-00001.parquet": made for kind in kinds}
    fetch_glue(tmp_path / "new", "sst2")
    assert hub.paths[0].startswith(f"/api/datasets/nyu-mll/glue/revision/{GLUE_REVISION}")
    assert {path.name for path in (tmp_path / "new/glue/sst2").iterdir()} == {f"{kind}-00000-of-00001.parquet" for kind in kinds}
    assert glue(tmp_path / "new", "sst2", "train").labels == [1, 0, 1] and not (tmp_path / "new/glue/rte").exists()
    hub.paths.clear()
    fetch_glue(tmp_path / "new", "sst2")
    put(tmp_path / "glue/RTE/train.tsv", lines("rte", ANSWERS["rte"][0]))
    shard(tmp_path / "glue/rte/validation-00000-of-00001.parquet", texts("rte")[0] | labels("rte", [1, 0, 1]))
    fetch_glue(tmp_path, "rte")
    assert hub.paths == []
    (tmp_path / "glue/rte/validation-00000-of-00001.parquet").rename(tmp_path / "glue/rte/validation-00000-of-00002.parquet")
    hub.how = 404
    message = refused(fetch_glue, tmp_path, "rte")
    assert "nyu-mll/glue cannot be downloaded" in message and "HTTP Error 404" in message and '--include "rte/*"' in message
    assert "no task wnli" in refused(fetch_glue, tmp_path, "wnli")


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
