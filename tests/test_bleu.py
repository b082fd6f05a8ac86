"""BLEU against a few lines of arithmetic, sacreBLEU's command line, Perl, and known answers."""

import math
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from common.bleu import sacrebleu, signature, split_compounds, tokenised, tokenised_bleu

CORPORA = {
    "equal": (["the cat sat on the mat"], ["the cat sat on the mat"]),
    "one word": (["the cat sat on a mat today", "a dog runs home"], ["the cat sat on the mat today", "a dog runs home"]),
    "shorter": (["the cat sat on", "a dog runs"], ["the cat sat on the mat", "a small dog runs home now"]),
    "longer": (["the cat sat on the mat , they said"], ["the cat sat on the mat"]),
    "repeated": (["the the the cat sat on the mat the the", "a a dog"], ["the cat sat on the mat", "a dog"]),
    "a short sentence": (["the cat sat on the mat", "no", ""], ["the cat sat on the mat again", "no no", "yes"]),
}
GERMAN = ["Die Katze sitzt auf der Matte.", "Ein Rich-Text-Format, „sagte“ er, sei 3,5-mal besser.", "Zwei Hunde rennen weg!"]
WORSE = ["Die Katze saß auf der Matte.", "Ein Rich-Text Format, „sagte“ er, sei besser als gut.", "Hunde rennen weg!"]


def ngrams(words: list[str], n: int) -> Counter:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def bleu(hypotheses: list[str], references: list[str]) -> float:
    """Papineni et al. (2002), equation 3 and above, in %; tokens stand between spaces."""
    pairs = [(h.split(), r.split()) for h, r in zip(hypotheses, references, strict=True)]
    precisions = []
    for n in (1, 2, 3, 4):
        clipped = sum((ngrams(h, n) & ngrams(r, n)).total() for h, r in pairs)
        precisions.append(clipped / max(1, sum(ngrams(h, n).total() for h, _ in pairs)))
    c, r = sum(len(h) for h, _ in pairs), sum(len(r) for _, r in pairs)
    brevity = 1.0 if c >= r else math.exp(1 - r / c)
    return 100 * brevity * math.prod(precisions) ** 0.25


@pytest.mark.parametrize("name", CORPORA)
def test_tokenised_bleu_is_the_formula(name):
    hypotheses, references = CORPORA[name]
    assert tokenised_bleu(hypotheses, references, "en") == pytest.approx(bleu(hypotheses, references), abs=1e-9)


def test_by_hand():
    one = tokenised_bleu(["the cat sat on a mat today"], ["the cat sat on the mat today"], "en")
    assert one == pytest.approx(100 * (6 / 7 * 4 / 6 * 2 / 5 * 1 / 4) ** 0.25)
    # All precisions 1, 4 words for 6.
    assert tokenised_bleu(["the cat sat on"], ["the cat sat on the mat"], "en") == pytest.approx(100 * math.exp(1 - 6 / 4))
    # Unigrams clipped: "the the the the" finds one "the" in the reference, and no bigram.
    assert tokenised_bleu(["the the the the"], ["the cat sat here"], "en") == 0


@pytest.mark.parametrize("name", ["shorter", "longer", "repeated"])
def test_hypotheses_and_references_cannot_be_swapped(name):
    hypotheses, references = CORPORA[name]
    swapped = references[:2], [line for line in hypotheses if line]
    assert abs(tokenised_bleu(hypotheses, references, "en") - tokenised_bleu(*swapped, "en")) > 1
    assert abs(sacrebleu(hypotheses, references) - sacrebleu(*swapped)) > 1


@pytest.mark.parametrize("lowercase", [False, True])
def test_sacrebleu_is_the_command_line(tmp_path: Path, lowercase):
    hypotheses = [WORSE[0].upper(), *WORSE[1:]]
    for name, lines in (("ref", GERMAN), ("hyp", hypotheses)):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    command = [sys.executable, "-m", "sacrebleu", "ref", "-i", "hyp", "-w", "9", *(["-lc"] if lowercase else [])]

    def say(*options: str) -> str:
        return subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert float(say("-b")) == pytest.approx(sacrebleu(hypotheses, GERMAN, lowercase=lowercase), abs=1e-8)
    assert say("-f", "text").startswith(f"BLEU|{signature(lowercase=lowercase)} = ")
    case = "lc" if lowercase else "mixed"
    assert signature(lowercase=lowercase).rpartition(":")[0] == f"nrefs:1|case:{case}|eff:no|tok:13a|smooth:exp|version"


def test_without_a_common_4_gram_only_sacrebleu_smooths():
    hypotheses, references = ["the cat sat by a mat"], ["the cat sat on the mat"]
    assert tokenised_bleu(hypotheses, references, "en") == 0
    # Precisions 4/6, 2/5, 1/4, and half a 4-gram in 3.
    assert sacrebleu(hypotheses, references) == pytest.approx(100 * (4 / 6 * 2 / 5 * 1 / 4 * 0.5 / 3) ** 0.25)


COMPOUNDS = {
    "rich-text format": "rich ##AT##-##AT## text format",
    "a-b-c": "a ##AT##-##AT## b-c",
    "ab-cd-ef": "ab ##AT##-##AT## cd ##AT##-##AT## ef",
    "a - b -c d-": "a - b -c d-",
    "a--b": "a ##AT##-##AT## -b",
    "U-Bahn-Öl-Ä-ß": "U ##AT##-##AT## Bahn ##AT##-##AT## Öl ##AT##-##AT## Ä ##AT##-##AT## ß",  # Ä is two bytes
    "3-4 &quot;-&apos; \\1-$2": "3 ##AT##-##AT## 4 &quot; ##AT##-##AT## &apos; \\1 ##AT##-##AT## $2",
    "": "",
}


def test_compounds():
    assert {text: split_compounds(text) for text in COMPOUNDS} == COMPOUNDS


@pytest.mark.skipif(not shutil.which("perl"), reason="needs Perl")
def test_compounds_are_perls():
    texts = [*COMPOUNDS, "---- -a- a-a-a-a-a –-– €-€-€ a-\u00a0-b", "中-文-字 x-y\tz- -w", "##AT##-##AT## - a.-.b"]
    command = ["perl", "-ple", r"s{(\S)-(\S)}{$1 ##AT##-##AT## $2}g"]
    out = subprocess.run(command, input="\n".join(texts).encode() + b"\n", capture_output=True, check=True).stdout
    assert [split_compounds(text) for text in texts] == out.decode().split("\n")[:-1]


def test_the_recipe_of_attention_is_all_you_need():
    text = "Er sagte: “Rich-Text…” – ’s ist （gut）！"
    known = "Er sagte : &quot; Rich ##AT##-##AT## Text ... &quot; – &apos; s ist ( gut ) !"
    assert tokenised([text, "50％？", "„Ja“"], "de", compounds=True) == [known, "50 % ?", "„ Ja &quot;"]
    split = tokenised(WORSE, "de", compounds=True), tokenised(GERMAN, "de", compounds=True)
    assert tokenised_bleu(WORSE, GERMAN, "de", compounds=True) == pytest.approx(bleu(*split), abs=1e-9)
    assert tokenised_bleu(WORSE, GERMAN, "de", compounds=True) > 1 + tokenised_bleu(WORSE, GERMAN, "de")


def test_styles_of_punctuation():
    plain = ['Er sagte "ja, das ist gut" und ging\'s an...']
    english, german = ["Er sagte “ja, das ist gut” und ging’s an…"], ["Er sagte „ja, das ist gut“ und ging’s an…"]
    for a, b in ((english, plain), (german, plain), (english, german)):
        assert tokenised_bleu(a, b, "de", normalise=True) == pytest.approx(100)
        assert tokenised_bleu(a, b, "de") < 90
        # Moses' replace-unicode-punctuation.perl leaves „ alone.
        assert (tokenised_bleu(a, b, "de", compounds=True) == pytest.approx(100)) == (german not in (a, b))


def test_lowercase():
    shouted = [line.upper() for line in ("The cat sat on the mat.", "Über den Öfen liegt es still.")]
    quiet = [line.lower() for line in shouted]
    assert tokenised_bleu(shouted, quiet, "de") == pytest.approx(0)
    assert tokenised_bleu(shouted, quiet, "de", lowercase=True) == pytest.approx(100)
    assert sacrebleu(shouted, quiet, lowercase=True) == pytest.approx(100)
    assert sacrebleu(shouted, quiet) < 50


def test_multi30k_files():
    """Lines of Multi30k's lc.norm.tok files that depend on the order of the steps, the language or the line's end."""
    raw = ["Ein Mann mit ergrauenden Haaren rasiert seinen Bart.", 'Eine Frau hält einen großen Scheck für "Kids\' Food Basket".']
    known = ["ein mann mit ergrauenden haaren rasiert seinen bart ."]  # "Bart." is an abbreviation in German, "bart." is not
    known += ["eine frau hält einen großen scheck für &quot; kids &apos; food basket &quot; ."]
    assert tokenised(raw, "de", lowercase=True, normalise=True) == known
    known = ["a kid crosscountry skis wearing the number &quot; 93 . &quot;"]
    assert tokenised(['A kid crosscountry skis wearing the number "93".'], "en", lowercase=True, normalise=True) == known
    assert tokenised(["„Gut.“"], "de", lowercase=True, normalise=True) == ["&quot; gut &quot; ."]


@pytest.mark.parametrize("score", [sacrebleu, lambda *texts: tokenised_bleu(*texts, "en")])
def test_refusals(score):
    with pytest.raises(ValueError, match="2 hypotheses for 1 references"):
        score(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="no hypotheses"):
        score([], [])
    with pytest.raises(ValueError, match="an empty reference"):
        score(["a", "b"], ["a", " "])
    assert score(["", ""], ["a b c d", "e"]) == 0
