"""Texts as the authors' byte-level byte-pair encoding has them, over the `tokenizers` library.

The table comes with no weights: `bpe_simple_vocab_16e6.txt.gz` of openai/CLIP, which is looked for in DATA_DIR/bpe and
downloaded if it is not there.
"""

import html
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from common.data import fetch
from common.data.fetch import File
from common.data.rows import lines
from common.errors import BadInput

TABLE = "bpe/bpe_simple_vocab_16e6.txt.gz"
URL = "https://github.com/openai/CLIP/raw/main/clip/bpe_simple_vocab_16e6.txt.gz"
FILES = {TABLE: File("924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a", [URL])}
SIZE = 49_408  # 256 bytes, these at the end of a word, 48,894 pairs, and two for the beginning and the end of a text
SMALLEST = 514  # without any pairs
CONTEXT = 77
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
PIECES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"  # within a piece pairs are merged


def cleaned(text: str) -> str:
    """Mended by ftfy, HTML's entities resolved twice, white space as single spaces, lower case.

    Raises:
        BadInput: the text has characters beyond ASCII, which ftfy may change, and there is no ftfy.
    """
    try:
        from ftfy import fix_text
    except ImportError:
        if not text.isascii():
            raise BadInput(f"{text[:40]!r} has characters beyond ASCII: install ftfy, with which the authors clean texts") from None
        fix_text = str
    return " ".join(html.unescape(html.unescape(fix_text(text))).split()).lower()


class Tokenizer:
    """Texts -> tokens.

    Args:
        merges: pairs, in the order in which they are merged; none: bytes alone, for tests.
    """

    def __init__(self, merges: Sequence[tuple[str, str]] = ()) -> None:
        from tokenizers import Regex, decoders, models, pre_tokenizers
        from tokenizers import Tokenizer as Library

        letters = [chr(byte) for byte in [*range(33, 127), *range(161, 173), *range(174, 256)]]
        letters += [chr(256 + i) for i in range(256 - len(letters))]  # the other bytes, as GPT-2 writes them
        words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges), BEGIN, END]
        self.size = len(words)
        self.begin, self.end = self.size - 2, self.size - 1
        vocabulary = {word: i for i, word in enumerate(words)}
        self.library = Library(models.BPE(vocabulary, [*merges], continuing_subword_prefix="", end_of_word_suffix="</w>"))
        split = pre_tokenizers.Split(Regex(PIECES), "removed", invert=True)
        self.library.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        self.decoder = decoders.ByteLevel()
        self.library.add_special_tokens([BEGIN, END])  # where a text has them as well

    def encode(self, text: str) -> list[int]:
        """Without the two tokens around it. Raises BadInput: see `cleaned`."""
        return self.library.encode(cleaned(text), add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The words of a row of tokens, in lower case, with a space after each piece."""
        row = [token for token in tokens[: tokens.index(self.end)] if token != self.begin]
        return self.decoder.decode([self.library.id_to_token(token) for token in row]).replace("</w>", " ").strip()

    def __call__(self, texts: Sequence[str], context: int = CONTEXT) -> tuple[Tensor, int]:
        """(n, T), int64, T as the longest has it, zeros after the end; and how many were cut to `context` tokens.

        A text that is cut ends with the last token too.

        Raises:
            BadInput: a text is empty, or see `cleaned`.
        """
        rows, cut = [], 0
        for i, text in enumerate(texts):
            if not (tokens := self.encode(text)):
                raise BadInput(f"caption {i:,} is empty ({text!r}): give it words, or take it away")
            rows.append([self.begin, *tokens[: context - 2], self.end])
            cut += len(tokens) > context - 2
        result = torch.zeros(len(rows), max(map(len, rows), default=2), dtype=torch.int64)
        for i, row in enumerate(rows):
            result[i, : len(row)] = torch.tensor(row)
        return result, cut


def load(data_dir: Path, size: int = SIZE) -> Tokenizer:
    """The authors' table, or as many of its first merges as make a vocabulary of `size`; 514 are bytes, and need no table.

    Raises:
        BadInput: the file is not there, or another one.
    """
    if size == SMALLEST:
        return Tokenizer()
    (path,) = fetch.found(data_dir, "CLIP's vocabulary", FILES)
    return Tokenizer([tuple(line.split()) for line in islice(lines(path), 1, 1 + size - SMALLEST)])  # after a line of its version


def download(data_dir: Path, size: int = SIZE) -> None:
    """Put the table into data_dir, if it is not there and a vocabulary of `size` needs it. Raises BadInput: it cannot be had."""
    if size > SMALLEST:
        fetch.fetch(data_dir, "CLIP's vocabulary", FILES)
