"""BERT on SQuAD: windows that hold the answer, the best span against a search, the official scores, thresholds, bad files."""

import itertools
import json
from pathlib import Path

import pytest
import torch

from common.errors import BadInput
from papers.bert import squad, vocabulary
from papers.bert.spans import Squad
from papers.bert.squad import Question, best_spans, best_threshold, exact, f1, pieces, read, scored, widest, windows
from papers.bert.vocabulary import SPECIAL
from tests.serving import put
from tests.start import here, record

CPU = torch.device("cpu")
WORDS = [
    "the", "quick", "brown", "fox", "jump", "##s", "##ed", "over", "a", "lazy", "dog", "who", "what", ",", ".", "(", ")", "19",
    "##84", "é", "naive",
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return vocabulary.word_pieces({piece: i for i, piece in enumerate([*SPECIAL, *WORDS])}, True)


CONTEXT = "The quick (brown) fox jumps  over,\n a lazy dog. The fox jumped over THE naïve dog in 1984."


def asked(answer, text="Who jumped?", context=CONTEXT, at=None):
    begin = context.index(answer) if at is None else at
    return Question(answer, text, context, ((answer, begin),))


@pytest.mark.parametrize("room", [60, 24, 14])
def test_windows_hold_the_answer(room, tokenizer):
    """Back from the labels to the text, as it stands there: with its case, accents and spaces."""
    answers = ["fox", "quick (brown) fox", "jumps", "dog. The fox jumped over THE naïve", "1984", "The quick", "a lazy dog"]
    questions = [asked(each) for each in answers]
    found = windows(questions, tokenizer, CPU, context=room, stride=3, asked=5)
    held = {question: 0 for question in range(len(questions))}
    for i, (first, last) in enumerate(found.examples.labels.tolist()):
        tokens, segments, _, _ = found.examples.batch(torch.tensor([i]))
        assert tokens[0, 0] == 2 and (tokens[0] == 3).sum() == 2 and len(tokens[0]) <= room
        before = int((segments[0] == 0).sum())
        assert tokenizer.decode(tokens[0, 1 : before - 1].tolist()).startswith("who")
        if last:
            assert first >= before
            question = int(found.of[i])
            assert found.text(i, first, last, questions) == answers[question]
            held[question] += 1
    whole = len(found.examples) == len(questions)
    assert whole == (room == 60)
    assert all(n == 1 if whole else n >= (room == 24) for n in held.values()), held


def test_pieces_and_where_an_answer_may_begin(tokenizer):
    assert pieces(10, 10, 4) == [(0, 10)] and pieces(11, 10, 4) == [(0, 10), (4, 11)]
    assert pieces(20, 10, 4) == [(0, 10), (4, 14), (8, 18), (12, 20)] and pieces(9, 3, 5) == [(0, 3), (3, 6), (6, 9)]
    cuts = pieces(20, 10, 4)
    for at in range(20):  # as run_squad.py's _check_is_max_context, which takes the first of the best
        scores = [min(at - a, b - 1 - at) + 0.01 * (b - a) if a <= at < b else -1 for a, b in cuts]
        assert widest(cuts, at) == scores.index(max(scores))
    found = windows([asked("fox")], tokenizer, CPU, context=16, stride=3, asked=5)
    total = sum(int(found.starts.padded(torch.tensor([i])).sum()) for i in range(len(found.examples)))
    assert total == len(found.offsets[0]), "each token in one window only"


def test_the_best_span():
    torch.manual_seed(0)
    logits = torch.randn(7, 2, 12)
    starts, ends = torch.rand(7, 12) < 0.5, torch.rand(7, 12) < 0.6
    starts[3], ends[4] = False, False
    for longest in (1, 4, 30):
        first, last, score, null = best_spans(logits, starts, ends, longest)
        for b in range(7):
            spans = [
                (float(logits[b, 0, i] + logits[b, 1, j]), i, j)
                for i, j in itertools.product(range(12), repeat=2)
                if i <= j < i + longest and starts[b, i] and ends[b, j]
            ]
            if spans:
                assert max(spans) == (pytest.approx(score[b].item()), first[b], last[b])
            else:
                assert score[b] == -torch.inf
            assert null[b] == logits[b, 0, 0] + logits[b, 1, 0]


PAIRS = [
    ("The  Quick fox!", "quick fox"), ("a an the", "the"), ("fox", "the fox jumps"), ("fox fox dog", "fox dog dog"), ("", ""),
    ("", "fox"), ("x-y", "xy"), ("£5", "£5."), ("theory", "ory"), ("the", "fox"), ("Dog, dog", "dog"), ("in 1984", "1984 in"),
]  # fmt: skip


def test_scores_by_hand():
    assert [exact(*pair) for pair in PAIRS] == [1, 1, 0, 0, 1, 0, 1, 1, 0, 0, 0, 0]
    expected = [1, 1, 2 / 3 * 2 / (1 + 1 / 3) / 2, 2 / 3, 1, 0, 1, 1, 0, 0, 2 / 3, 1]
    expected[2] = 2 * 1 * 0.5 / 1.5  # of "fox" against "fox jumps"
    assert [f1(*pair) for pair in PAIRS] == pytest.approx(expected)
    several = [Question("k", "", "", (("the quick fox", 0), ("fox", 0), ("a", 0))), Question("n", "", "", ())]
    assert scored(several, ["fox", ""]) == [(1.0, 1.0), (1.0, 1.0)]
    assert scored(several, ["quick", "dog"]) == [(0.0, pytest.approx(2 / 3)), (0.0, 0.0)]


def test_the_threshold_is_the_best():
    torch.manual_seed(0)
    questions = [Question(str(i), "", "", (("fox", 0),) if i % 3 else ()) for i in range(40)]
    found = ["fox" if i % 4 else "dog" for i in range(40)]
    margin = [round(x + (i % 3 == 0), 1) for i, x in enumerate(torch.randn(40).tolist())]  # some are alike
    total = lambda tau: sum(f for _, f in scored(questions, [t if m <= tau else "" for t, m in zip(found, margin, strict=True)]))
    tau = best_threshold(questions, found, margin)
    assert total(tau) == max(map(total, [-float("inf"), *margin])) > max(total(-9), total(9))


# Files.


def layout(rows, **changes):
    """As SQuAD's: rows of article, context, question, answers."""
    articles = {}
    for i, (article, context, text, answers) in enumerate(rows):
        golds = [{"text": answer, "answer_start": at} for answer, at in answers]
        asked = {"id": str(i), "question": text, "answers": golds} | ({} if answers else {"is_impossible": True}) | changes
        articles.setdefault(article, []).append({"context": context, "qas": [asked]})
    return json.dumps({"version": "x", "data": [{"title": title, "paragraphs": parts} for title, parts in articles.items()]})


ROWS = [("A", "The fox.", "Who?", [("fox", 4)]), ("B", "A dog", "What?", []), ("C", "é dog", "Who?", [("dog", 2), ("é dog", 0)])]


def test_files(tmp_path):
    for split in ("train", "dev"):
        put(tmp_path / f"squad/{split}-v2.0.json", layout(ROWS))
    found, digest = read("squad2.0", tmp_path)
    assert found["dev"][2] == Question("2", "Who?", "é dog", (("dog", 2), ("é dog", 0))) and found["train"][1].answers == ()
    assert len(digest) == 64


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No such file"),
        ("", "Expecting value"),
        ("{}", "'data'"),
        (layout([]), "there is no question"),
        (layout(ROWS), "question 1 has no answer, as in SQuAD 2.0"),
        (layout([("A", "The fox.", "Who?", [("fox", 3)])]), "question 0: 'fox' is not at 3 of its paragraph"),
        (layout([("A", "The fox.", "Who?", [("", 3)])]), "question 0: '' is not at 3"),
        (layout(ROWS[:1], answers=[{"text": "x"}]), "'answer_start'"),
        (b'{"data": "\xff"}', "'utf-8' codec can't decode"),
    ],
)
def test_bad_files(text, words, tmp_path):
    put(tmp_path / "squad/train-v1.1.json", layout(ROWS[:1]))
    if text is not None:
        put(tmp_path / "squad/dev-v1.1.json", text)
    with pytest.raises(BadInput, match="SQuAD: cannot read") as caught:
        read("squad1.1", tmp_path)
    message = str(caught.value)
    assert words in message and f"{tmp_path}/squad/dev-v1.1.json" in message and "SQuAD-explorer" in message and "\n" not in message


def test_xquad():
    """The real file, where it is there: what the labels say, scored as an answer, is the answer."""
    path = Path("data/squad-format/xquad.en.json")
    if not path.exists():
        pytest.skip("no data/squad-format")
    found, _ = read("xquad", Path("data"))
    assert len(found["train"]) + len(found["dev"]) == 1190
    assert not {each.context for each in found["train"]} & {each.context for each in found["dev"]}
    letters = {c for each in found["dev"] for c in (each.context + each.text).lower()}
    pieces = [*SPECIAL, *(letter for letter in sorted(letters) if not letter.isspace())]
    spelled = vocabulary.word_pieces({piece: i for i, piece in enumerate([*pieces, *(f"##{c}" for c in pieces[5:])])}, True)
    dev = found["dev"][:60]
    whole = windows(dev, spelled, CPU, context=4000, stride=128, asked=64)
    texts = [whole.text(i, *whole.examples.labels[i].tolist(), dev) for i in range(len(dev))]
    assert min(f for _, f in scored(dev, texts)) > 0.6 and sum(e for e, _ in scored(dev, texts)) >= 58


@pytest.mark.parametrize("changes", [{"context": 40, "asked": 40}, {"lr": 0.0}, {"longest": 0}, {"stride": 0}])
def test_impossible_values(changes):
    with pytest.raises(ValueError, match="--"):
        Squad(**changes)


def test_a_run_answers_and_scores(tmp_path):
    """The record's scores are those of the answers that it wrote, and it learns what can be learned."""
    code, output = here("papers.bert.train", "smoke-squad", "--out", tmp_path, "--precision", "fp32", "--epochs", 40)
    torch.set_default_dtype(torch.float32)
    assert code == 0, output
    out = tmp_path / "bert/smoke-squad/seed0"
    questions = squad.made_up()["dev"]
    answers = json.loads((out / "dev-predictions.json").read_text())
    found = [answers[each.key] for each in questions]
    assert all(text in each.context for text, each in zip(found, questions, strict=True))
    metrics = record(out)["metrics"]
    exact_, f1_ = (100 * sum(each) / len(questions) for each in zip(*scored(questions, found), strict=True))
    assert (metrics["dev_exact"], metrics["dev_f1"]) == (pytest.approx(exact_), pytest.approx(f1_))


def test_no_answer_where_there_is_none(tmp_path):
    """SQuAD 2.0's layout: a threshold is chosen, and empty answers are written."""
    words = standin_contexts()
    rows = [("T", text, text.split()[1], [(text.split()[2], text.index(text.split()[2]))] if i % 2 else []) for i, text in words]
    for split, part in (("train", rows[:40]), ("dev", rows[40:])):
        put(tmp_path / f"squad/{split}-v2.0.json", layout(part))
    flags = ["--weights", "made-up", "--context", 48, "--asked", 8, "--epochs", 2, "--batch-size", 8, "--data-dir", tmp_path]
    code, output = here("papers.bert.train", "squad20", "--out", tmp_path, *flags)
    torch.set_default_dtype(torch.float32)
    assert code == 0, output
    out = tmp_path / "bert/squad20/seed0"
    answers = [*json.loads((out / "dev-predictions.json").read_text()).values()]
    assert "" in answers and record(out)["metrics"]["dev_f1"] >= 50 - 1e-9, "never worse than no answer at all"
    assert "tau" in record(out)["metrics"]


def standin_contexts():
    from common.data import standin

    return list(enumerate(line.strip(".") for line in standin.text(4000).splitlines() if len(line.split()) > 3))[:60]
