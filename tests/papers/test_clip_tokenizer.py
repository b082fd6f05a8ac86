"""Tokens: the authors' table and cleaning, equality with transformers' and open_clip's tokenizers on awkward texts."""

import gzip

import pytest
import torch

from common.errors import BadInput
from common.provenance import ROOT
from papers.clip import tokenizer
from papers.clip.tokenizer import SIZE, TABLE, Tokenizer, cleaned

needs_table = pytest.mark.skipif(not (ROOT / "data" / TABLE).exists(), reason=f"no data/{TABLE}")
TEXTS = [
    "a photo of a cat", "A PHOTO, of a CAT!!!", "it's I'm we'll they've you'd they're don't 'S", "  many \t spaces\n\nand lines ",
    "1234567890 3.14 1,000", "naïve café über straße ÆØÅ", "日本語のテキスト", "Привет, мир", "emoji 😀👩‍👩‍👧 ❤️",
    "C++ & <b>html</b> #tag @you",
    "e\u0301 is é", "İstanbul ΣΑΣ", "hello...world -- ok", "supercalifragilisticexpialidocious", "a" * 300,
    "½ ² x³ ①", "'",
    "<|startoftext|> inside <|endoftext|>", "don’t “quote”", "tab\tand\u00a0nbsp",
]  # fmt: skip


@pytest.fixture(scope="module")
def official():
    return tokenizer.load(ROOT / "data")


@needs_table
def test_published_tokens(official):
    """49,408 of them; "a photo of a cat" between its beginning and its end, as everyone has it."""
    assert official.size == SIZE == 49_408 and (official.begin, official.end) == (49_406, 49_407)
    tokens, cut = official(["a photo of a cat", "hello world!"])
    assert tokens.tolist() == [[49406, 320, 1125, 539, 320, 2368, 49407], [49406, 3306, 1002, 256, 49407, 0, 0]] and cut == 0
    assert official.decode(tokens[1].tolist()) == "hello world !"


def theirs():
    """transformers' tokenizer from the same table; of texts that are cleaned before, which it does in part only."""
    from transformers import CLIPTokenizer

    with gzip.open(ROOT / "data" / TABLE, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1 : SIZE - 514 + 1]
    merges = [tuple(line.split()) for line in lines]
    letters = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in letters] + [chr(256 + i) for i in range(256 - len(letters))]
    words = [*letters, *(a + "</w>" for a in letters), *("".join(m) for m in merges), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=merges)


@needs_table
def test_transformers_has_the_same_tokens(official):
    other, compared = theirs(), 0
    for text in TEXTS:
        try:
            text = cleaned(text)
        except BadInput:
            continue  # beyond ASCII, and there is no ftfy
        assert [official.begin, *official.encode(text), official.end] == other(text)["input_ids"], text
        compared += 1
    assert compared >= 9


@needs_table
def test_open_clip_has_the_same_tokens(official):
    """Cleaned, padded and cut. It has other names for the two tokens around a text, which do not come out of one."""
    open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
    texts = [text for text in TEXTS if "<|" not in text]
    expected, (found, cut) = open_clip.SimpleTokenizer()(texts), official(texts)
    assert torch.equal(torch.nn.functional.pad(found, (0, 77 - found.shape[1])), expected)
    assert cut == sum(len(official.encode(text)) > 75 for text in texts)


@needs_table
def test_long_texts_are_cut_and_end(official):
    """Code: the last of 77 is the end. Counted."""
    tokens, cut = official(["cat " * 75, "cat " * 76, "dog"])
    assert cut == 1 and tokens.shape == (3, 77)
    assert tokens[0, -1] == tokens[1, -1] == official.end and torch.equal(tokens[0], tokens[1])
    assert official(["cat cat cat cat"], 4)[0].tolist() == [[official.begin, 2368, 2368, official.end]]


@needs_table
def test_fewer_merges_give_a_smaller_vocabulary():
    """The same pieces in smaller ones: its first tokens are the official ones."""
    few, all_ = (tokenizer.load(ROOT / "data", size) for size in (600, SIZE))
    assert few.size == 600 and few.end == 599
    assert few.decode([few.begin, *few.encode("a photograph"), few.end]) == "a photograph"
    assert len(few.encode("a photograph")) > len(all_.encode("a photograph"))


def test_bytes_alone():
    """A vocabulary without merges, as the smoke runs have: two tokens for each byte, the second ending a word."""
    found = Tokenizer()
    assert found.size == 514 and found.encode("ab a") == [64, 65 + 256, 64 + 256]
    assert found.decode([found.begin, *found.encode("Ab a"), found.end]) == "ab a"
    assert found(["a", "b c"])[0].tolist() == [[512, 64 + 256, 513, 0], [512, 65 + 256, 66 + 256, 513]]


def test_cleaning():
    assert cleaned("  A &amp;amp; B\n C ") == "a & b c"


def test_bad_texts(monkeypatch):
    for text in ("", "  \n"):
        with pytest.raises(BadInput, match="caption 1 is empty"):
            Tokenizer()(["words", text])
    monkeypatch.setitem(__import__("sys").modules, "ftfy", None)
    with pytest.raises(BadInput, match="install ftfy"):
        cleaned("naïve")
    assert cleaned("plain ASCII") == "plain ascii"


def test_the_table_is_verified(tmp_path):
    with pytest.raises(BadInput, match=r"bpe_simple_vocab_16e6\.txt\.gz is missing or empty: get it from https"):
        tokenizer.load(tmp_path)
    (tmp_path / "bpe").mkdir()
    (tmp_path / TABLE).write_bytes(gzip.compress(b"other"))
    with pytest.raises(BadInput, match="is not the official file"):
        tokenizer.load(tmp_path)
