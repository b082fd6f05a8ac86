"""BERT's pairs of sentences: what follows and what does not, lengths, purity; documents from all formats; the learned pieces."""

import gzip
import json

import numpy as np
import pytest
import torch

from common.data import standin
from common.errors import BadInput
from papers.bert import corpus, vocabulary
from papers.bert.corpus import Corpus, Documents, articles, load, sentences
from papers.bert.vocabulary import SPECIAL
from tests.data.test_glue import shard
from tests.serving import put


def documents(sizes, start=10):
    """Each token is another number, so that it says where it is from. sizes: of each document's sentences."""
    lengths = [n for each in sizes for n in each]
    firsts = np.cumsum([0, *(len(each) for each in sizes)])
    starts = np.cumsum([0, *lengths])
    return Documents(np.arange(start, start + starts[-1], dtype=np.int32), starts, firsts)


LONG = documents([[3 + (i * j) % 9 for i in range(40)] for j in range(1, 30)])


def whereabouts(data, token):
    """Document and sentence of a token."""
    sentence = int(np.searchsorted(data.sentences, token - 10, "right")) - 1
    return int(np.searchsorted(data.documents, sentence, "right")) - 1, sentence


def test_pairs():
    """Half the time B goes on where A ended; else it is from another document. Both are runs of text, and fit."""
    randoms, lengths, cuts = [], [], 0
    for n in range(3000):
        a, b, random = LONG.pair(np.random.default_rng(n), 64)
        assert len(a) >= 1 and len(b) >= 1 and len(a) + len(b) <= 61
        assert (np.diff(a) == 1).all() and (np.diff(b) == 1).all()
        (of_a, _), (of_b, sentence) = whereabouts(LONG, a[-1]), whereabouts(LONG, b[0])
        randoms.append(random)
        lengths.append(len(a) + len(b))
        if random:
            assert of_a != of_b
        else:
            assert of_a == of_b
            cuts += b[0] != a[-1] + 1  # both are cut where they are too long, at either end
            assert b[0] > a[-1] and b[0] - a[-1] < 12
        begins = b[0] - 10 == LONG.sentences[sentence]
        assert begins or len(a) + len(b) == 61
    assert abs(np.mean(randoms) - 0.5) < 0.06  # a little more: what has one sentence has none that follows
    assert 0 < cuts < 1000
    assert 0.05 < np.mean(np.array(lengths) < 50) < 0.25, "a tenth is short, and what ends with its document"


def test_a_document_of_one_sentence_has_nothing_that_follows():
    data = documents([[5], [6], [4]])
    for n in range(50):
        a, b, random = data.pair(np.random.default_rng(n), 32)
        assert random == 1 and whereabouts(data, a[0])[0] != whereabouts(data, b[0])[0]


def test_long_sentences_are_cut_at_both_ends():
    data, fronts = documents([[50, 50], [60, 60]]), []
    for n in range(200):
        a, b, _ = data.pair(np.random.default_rng(n), 40)
        assert len(a) + len(b) <= 37
        fronts.append(int(a[0] - 10 not in data.sentences))
    assert 100 < sum(fronts) <= 200


def test_a_batch_is_a_function_of_seed_and_number():
    tokenizer = vocabulary.word_pieces({piece: i for i, piece in enumerate(SPECIAL)}, True)
    data = Corpus({"train": LONG}, tokenizer)
    whole = data.batch("train", torch.arange(20, 32), 3, 64)
    parts = [data.batch("train", torch.arange(start, start + 4), 3, 64) for start in (20, 24, 28)]
    for one, several in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(one, torch.cat(several))
    assert not torch.equal(whole[0], data.batch("train", torch.arange(20, 32), 4, 64)[0])
    tokens, segments, real, able, _, u = whole
    for row in range(12):
        n, first = int(real[row].sum()), int((segments[row] == 0)[: int(real[row].sum())].sum())
        assert tokens[row, 0] == 2 and tokens[row, first - 1] == tokens[row, n - 1] == 3 and (tokens[row, n:] == 0).all()
        places = [i for i in range(n) if i not in (0, first - 1, n - 1)]
        assert able[row].nonzero()[:, 0].tolist() == places and (tokens[row, places] >= 10).all()
        assert segments[row, first:n].all() and not segments[row, n:].any()
    assert u.shape == (12, 3, 64) and 0 <= u.min() < 0.01 < 0.99 < u.max() < 1


# Texts.


def test_sentences():
    assert sentences(" One. Two two?  Three!\nFour 4.5 x ") == ["One.", "Two two?", "Three!", "Four 4.5 x"]


def test_articles(tmp_path):
    first = " \n = First = \n \n A b @-@ c . D <unk> 1 @,@ 000 . \n \n = = Part = = \n \n E . \n"
    text = f"{first} = Second = \n = = = x = = = \n F ? G\n"
    path = put(tmp_path / "train.txt", text)
    assert list(articles(path)) == [["A b-c .", "D [UNK] 1,000 .", "E ."], ["F ?", "G"]]


def test_documents_of_every_format(tmp_path):
    tokenizer = vocabulary.learn(["one two three four five"] * 5, 60)
    text = "one two\nthree\n\n\nfour. five\n"
    for name, write in {
        "a.txt": lambda path: put(path, text),
        "b.txt.gz": lambda path: put(path, gzip.compress(text.encode())),
        "c.parquet": lambda path: shard(path, {"text": ["one two. three", "", "four. five", None]}),
    }.items():
        folder = tmp_path / name / "books-wiki"
        write(folder / name)
        data, about = load("books-wiki", tokenizer, tmp_path / name, spare=tmp_path / "spare")
        train = data.splits["train"]
        assert about["files"] == 1 and about["train"].startswith(f"2 documents, {4 if 'parquet' in name else 3} sentences")
        cuts = zip(train.sentences, train.sentences[1:], strict=False)
        words = [tokenizer.decode(train.tokens[a:b].tolist()) for a, b in cuts]
        assert " ".join(words).replace(" .", ".").replace(".", "") == "one two three four five"
        assert data.tokenizer.get_vocab() == tokenizer.get_vocab()


def test_held_out_documents(tmp_path):
    tokenizer = vocabulary.learn(["a b"] * 5, 60)
    put(tmp_path / "books-wiki/x.txt", "a\n\n" * 199 + "b\n\n" + "a\n\n" * 5)
    data, _ = load("books-wiki", tokenizer, tmp_path, spare=tmp_path / "spare")
    assert len(data.splits["train"].documents) - 1 == 204
    assert data.splits["test"].tokens.tolist() == [tokenizer.token_to_id("b")]


def test_learned_pieces():
    tokenizer = vocabulary.learn(["Hello worlds, hello world!"] * 9, 40)
    assert [tokenizer.token_to_id(piece) for piece in SPECIAL] == [0, 1, 2, 3, 4]
    assert tokenizer.decode(tokenizer.encode("HELLO worlds").ids) == "hello worlds"
    assert tokenizer.encode("a [MASK] hello").ids[1] == 4
    lines = standin.text(6000).splitlines()
    several = [vocabulary.learn(lines, 90).get_vocab() for _ in range(4)]
    assert all(each == several[0] for each in several), "the same each time"
    assert len(several[0]) > 55
    again = vocabulary.word_pieces(json.loads(json.dumps(tokenizer.get_vocab())), True)
    assert again.encode("hello, world").ids == tokenizer.encode("hello, world").ids


@pytest.mark.parametrize(
    ("file", "data", "words"),
    [
        (None, None, "there is no .txt, .txt.gz or .parquet file"),
        ("a.txt", b"\xff\xfe\n", "'utf-8' codec can't decode"),
        ("a.txt.gz", b"\x1f\x8bxx", "cannot read"),
        ("a.parquet", b"PAR1", "cannot read"),
    ],
)
def test_bad_texts(file, data, words, tmp_path):
    if file:
        put(tmp_path / "books-wiki" / file, data)
    with pytest.raises(BadInput, match="BooksCorpus and Wikipedia: cannot read") as caught:
        load("books-wiki", 50, tmp_path, spare=tmp_path / "spare")
    message = str(caught.value)
    assert words in message and "an empty line between documents" in message and "\n" not in message
    assert str(tmp_path / "books-wiki" / (file or "")).rstrip("/") in message


def test_wikitext_is_cut_as_it_should_be():
    """The real text, where it is there."""
    path = corpus.Path("data/wikitext-2/valid.txt")
    if not path.exists():
        pytest.skip("no data/wikitext-2")
    found = list(articles(path))
    assert len(found) == 60 and all(len(document) > 5 for document in found)
    assert not any("= =" in sentence or "<unk>" in sentence or "@-@" in sentence for document in found for sentence in document)
