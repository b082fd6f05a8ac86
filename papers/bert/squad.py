"""SQuAD (Sec. 4.2, 4.3): questions about paragraphs, the windows that the network reads them in, and how answers are scored.

Windows are those of the authors' run_squad.py; scores those of SQuAD's own evaluate-v1.1.py and evaluate-v2.0.py.
"""

import json
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from common.data import standin
from common.data.fetch import GET, sha256
from common.data.ragged import Ragged, ragged
from common.data.rows import reading
from papers.bert.tasks import Examples

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILES = {  # data set -> its files below data_dir, of training and of testing
    "squad1.1": ("squad/train-v1.1.json", "squad/dev-v1.1.json"),
    "squad2.0": ("squad/train-v2.0.json", "squad/dev-v2.0.json"),
    "xquad": ("squad-format/xquad.en.json",) * 2,  # by article: the first three quarters, and the others
}
SOURCE = {"xquad": "from github.com/google-deepmind/xquad"}


class Question(NamedTuple):
    key: str
    text: str
    context: str
    answers: tuple[tuple[str, int], ...]  # their texts, and where they begin in the context; none: it has no answer there


def read(name: str, data_dir: Path) -> tuple[dict[str, list[Question]], str]:
    """The questions of train and dev, and the sha256 of their files. Nothing is downloaded.

    Raises:
        BadInput: a file is missing, damaged, or has an answer that is not where it says; says which, where, and what to do.
    """
    if name == "made-up":
        return made_up(), "made up"
    paths, found = [data_dir / file for file in FILES[name]], {}
    advice = GET.format(SOURCE.get(name, "from rajpurkar.github.io/SQuAD-explorer"))
    for split, path in zip(("train", "dev"), paths, strict=True):
        with reading("SQuAD", path, advice):
            articles = json.loads(path.read_text(encoding="utf-8"))["data"]
            cut = len(articles) * 3 // 4
            if name == "xquad":
                articles = articles[:cut] if split == "train" else articles[cut:]
            parts = [part for each in articles for part in each["paragraphs"]]
            found[split] = [question(asked, part["context"]) for part in parts for asked in part["qas"]]
            if not found[split]:
                raise ValueError("there is no question")
            if name == "squad1.1" and (bad := [each.key for each in found[split] if not each.answers]):
                raise ValueError(f"question {bad[0]} has no answer, as in SQuAD 2.0")
    return found, sha256(*dict.fromkeys(paths), name="SQuAD")


def question(asked: dict[str, Any], context: str) -> Question:
    answers = [] if asked.get("is_impossible") else asked["answers"]
    for answer in answers:
        if context[answer["answer_start"] :][: len(answer["text"])] != answer["text"] or not answer["text"]:
            raise ValueError(f"question {asked['id']}: {answer['text']!r} is not at {answer['answer_start']} of its paragraph")
    return Question(asked["id"], asked["question"], context, tuple((each["text"], each["answer_start"]) for each in answers))


def made_up() -> dict[str, list[Question]]:
    """What follows a word in a made-up text."""
    lines, found = standin.text(3000).splitlines(), []
    for i in range(0, 48, 3):
        context = " ".join(lines[i : i + 3])
        words = [(match[0], match.start()) for match in re.finditer(r"\w+", context)]
        found += [Question(f"{i}-{j}", words[j][0], context, (words[j + 1],)) for j in range(0, len(words) - 1, 4)]
    return {"train": found[:-12], "dev": found[-12:]}


@dataclass(frozen=True)
class Windows:
    """Paragraphs in pieces that the network can read: "[CLS] question [SEP] piece [SEP]".

    examples: their labels are the first and the last token of the answer (n, 2); [CLS] twice where the piece has none.
    starts: which tokens an answer may begin with, 1 or 0: of a word in several pieces, in that with most around it.
    of, shift: the number of the question, and what to subtract from a place to have that of the paragraph's token (n,).
    offsets: of each question, where the paragraph's tokens begin and end in its text.
    """

    examples: Examples
    starts: Ragged
    of: Tensor
    shift: Tensor
    offsets: list[list[tuple[int, int]]]

    def text(self, window: int, first: int, last: int, questions: Sequence[Question]) -> str:
        """The text from one token of a window to another."""
        question, shift = int(self.of[window]), int(self.shift[window])
        offsets = self.offsets[question]
        return questions[question].context[offsets[first - shift][0] : offsets[last - shift][1]]


def windows(
    questions: Sequence[Question], tokenizer: "Tokenizer", device: torch.device, *, context: int, stride: int, asked: int
) -> Windows:
    """Pieces of each paragraph, a new one every `stride` tokens, of `context` tokens with the first `asked` of the question."""
    cls, sep = (tokenizer.token_to_id(special) for special in ("[CLS]", "[SEP]"))
    paragraphs = {text: i for i, text in enumerate(dict.fromkeys(each.context for each in questions))}
    encoded = tokenizer.encode_batch([*paragraphs], add_special_tokens=False)
    asking = tokenizer.encode_batch([each.text for each in questions], add_special_tokens=False)
    tokens, firsts, labels, starts, of, shifts, offsets = [], [], [], [], [], [], []
    for number, each in enumerate(questions):
        ids, places = encoded[paragraphs[each.context]].ids, encoded[paragraphs[each.context]].offsets
        before = [cls, *asking[number].ids[:asked], sep]
        span, offsets = answer_tokens(each, places), [*offsets, places]
        cuts = pieces(len(ids), context - len(before) - 1, stride)
        for k, (start, stop) in enumerate(cuts):
            inside = span is not None and start <= span[0] and span[1] < stop
            shift = len(before) - start
            tokens.append([*before, *ids[start:stop], sep])
            firsts.append(len(before))
            labels.append([span[0] + shift, span[1] + shift] if inside else [0, 0])
            starts.append([*[0] * len(before), *(int(widest(cuts, at) == k) for at in range(start, stop)), 0])
            of.append(number)
            shifts.append(shift)
    examples = Examples(ragged(tokens).to(device), torch.tensor(firsts, device=device), torch.tensor(labels, device=device))
    return Windows(examples, ragged(starts).to(device), torch.tensor(of), torch.tensor(shifts), offsets)


def answer_tokens(question: Question, places: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """The first and the last token that have part of the first answer; None: there is none."""
    if not question.answers:
        return None
    text, begin = question.answers[0]
    inside = [i for i, (start, stop) in enumerate(places) if stop > begin and start < begin + len(text)]
    return (inside[0], inside[-1]) if inside else None


def pieces(n: int, room: int, stride: int) -> list[tuple[int, int]]:
    """n tokens in pieces of at most `room`."""
    cuts, start = [], 0
    while True:
        cuts.append((start, min(n, start + room)))
        if cuts[-1][1] == n:
            return cuts
        start += min(room, stride)


def widest(cuts: Sequence[tuple[int, int]], at: int) -> int:
    """The piece in which a token has most around it on its poorer side, the longer of two alike."""
    inside = [(k, start, stop) for k, (start, stop) in enumerate(cuts) if start <= at < stop]
    return max(inside, key=lambda each: min(at - each[1], each[2] - 1 - at) + 0.01 * (each[2] - each[1]))[0]


def best_spans(logits: Tensor, starts: Tensor, ends: Tensor, longest: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sec. 4.2: "the maximum scoring span where j >= i is used as a prediction", S T_i + E T_j.

    Args:
        logits: of start and end (B, 2, T).   starts, ends: which tokens may be, bool (B, T).   longest: tokens of an answer.

    Returns:
        first and last token, score, and s_null = S C + E C (Sec. 4.3), (B,) each; a score of -inf: no span may be.
    """
    T = logits.shape[2]
    start, end = logits[:, 0].masked_fill(~starts, -torch.inf), logits[:, 1].masked_fill(~ends, -torch.inf)
    band = torch.ones(T, T, dtype=torch.bool, device=logits.device).triu().tril(longest - 1)
    joint = (start[:, :, None] + end[:, None, :]).masked_fill(~band, -torch.inf)  # (B, T, T)
    score, where = joint.flatten(1).max(1)
    return where // T, where % T, score, logits[:, 0, 0] + logits[:, 1, 0]


# Scores.


def normalised(text: str) -> str:
    """In lower case, without punctuation, articles, and more than one space."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact(found: str, answer: str) -> float:
    return float(normalised(found) == normalised(answer))


def f1(found: str, answer: str) -> float:
    """Of the words that both have; where one has none, whether neither has."""
    ours, gold = normalised(found).split(), normalised(answer).split()
    if not ours or not gold:
        return float(ours == gold)
    common = sum((Counter(ours) & Counter(gold)).values())
    return 2 * common / (len(ours) + len(gold))


def scored(questions: Sequence[Question], found: Sequence[str]) -> list[tuple[float, float]]:
    """Exact match and F1 of each, the best over its answers; without an answer the right one is the empty text."""
    several = [[text for text, _ in each.answers if normalised(text)] or [""] for each in questions]
    return [tuple(max(how(text, gold) for gold in some) for how in (exact, f1)) for text, some in zip(found, several, strict=True)]


def best_threshold(questions: Sequence[Question], found: Sequence[str], margin: Sequence[float]) -> float:
    """Sec. 4.3: the tau, "selected on the dev set to maximize F1", above which s_null - s has to be for no answer."""
    answered = [each for _, each in scored(questions, found)]
    empty = [each for _, each in scored(questions, [""] * len(questions))]
    order = sorted(range(len(questions)), key=lambda i: margin[i])
    best, total, at = sum(empty), sum(empty), -float("inf")  # below all margins: never an answer
    for k, i in enumerate(order):
        total += answered[i] - empty[i]
        if total > best and (k + 1 == len(order) or margin[order[k + 1]] > margin[i]):
            best, at = total, margin[i]
    return at
