"""BLEU in the two ways translation papers report it: sacreBLEU's own, and multi-bleu.perl's of text tokenised by Moses' scripts.

Both take plain text, detokenised, a sentence a string, and one reference each. Hypotheses come first: BLEU is not symmetric.
sacremoses 0.2 stands in for the Perl scripts; of the 97,425 lines of Multi30k (de, en, fr) it changes two, neither in a test set.
"""

import re
from collections.abc import Sequence
from typing import Any


def sacrebleu(hypotheses: Sequence[str], references: Sequence[str], *, lowercase: bool = False) -> float:
    """BLEU in %, sacreBLEU's default: cased (unless lowercase), tokeniser 13a, exponential smoothing.

    Raises ValueError as _score does.
    """
    return _score(hypotheses, references, lowercase=lowercase)


def signature(*, lowercase: bool = False) -> str:
    """sacreBLEU's signature of that: nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:..."""
    from sacrebleu.metrics import BLEU

    return str(BLEU(lowercase=lowercase, references=[["one reference"]]).get_signature())


def tokenised_bleu(hypotheses: Sequence[str], references: Sequence[str], language: str, **how: bool) -> float:
    """BLEU in % that multi-bleu.perl prints (to more digits) for both sides `tokenised`: no smoothing, 0 without a common 4-gram.

    lowercase and normalise: Multi30k's files, "lc.norm.tok".
    compounds: all of tensor2tensor's get_ende_bleu.sh, for "Attention Is All You Need", where language is "de". (Its references
    are a file tokenised before; here they go through the same steps.)
    Raises ValueError as _score does.
    """
    texts = [tokenised(side, language, **how) for side in (hypotheses, references)]
    return _score(*texts, tokenize="none", smooth_method="none", force=True)


def _score(hypotheses: Sequence[str], references: Sequence[str], **how: Any) -> float:
    """Raises ValueError: not as many hypotheses as references, nothing to score, an empty reference."""
    from sacrebleu.metrics import BLEU

    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")
    if not references or not all(reference.strip() for reference in references):
        raise ValueError("an empty reference" if references else "no hypotheses to score")
    return BLEU(**how).corpus_score(list(hypotheses), [list(references)]).score


def tokenised(
    texts: Sequence[str], language: str, *, lowercase: bool = False, normalise: bool = False, compounds: bool = False
) -> list[str]:
    """Texts as Moses' tokenizer.perl -l <language> writes them: tokens between single spaces, &, ', " and others escaped.

    lowercase: before all that follows.
    normalise: then normalize-punctuation.perl -l <language>.
    compounds: replace-unicode-punctuation.perl first of all, `split_compounds` last.
    """
    from sacremoses import MosesPunctNormalizer, MosesTokenizer

    # perl_parity: Moses makes ’ a double quote, except between letters.
    normalizer, tokenizer = MosesPunctNormalizer(language, perl_parity=True), MosesTokenizer(language)
    done = []
    for text in texts:
        if compounds:
            # Two differences, both in what German text does not hold: Moses turns the full-width １ into a quotation mark, by
            # mistake, and after 。 and ． takes away spaces only. Neither replaces „: German opening quotes stay what they are.
            text = normalizer.replace_unicode_punct(text)
        text = text.lower() if lowercase else text
        if normalise:
            # The Perl script sees the end of the line, and its rule for German, French and Spanish, ." to ". , needs it.
            text = normalizer.normalize(text + "\n")
        text = tokenizer.tokenize(text, return_str=True)
        done.append(split_compounds(text) if compounds else text)
    return done


def split_compounds(text: str) -> str:
    """rich-text format -> rich ##AT##-##AT## text format: perl -pe 's{(\\S)-(\\S)}{$1 ##AT##-##AT## $2}g', which works on bytes."""
    return re.sub(rb"(\S)-(\S)", rb"\1 ##AT##-##AT## \2", text.encode()).decode()
