"""Documents of sentences, and the pairs that pre-training sees (Appendix A.2): BooksCorpus and Wikipedia, WikiText-2, made-up text.

A corpus is cut into word pieces once for all runs, and kept beside the data. Pair n of a seed is a pure function of both, with the
numbers from which its masks follow; the authors write each document's pairs to files, ten times with other masks.
"""

import gzip
import hashlib
import json
import re
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from common.data import fetch as files
from common.data import standin
from common.data.fetch import GET, File, sha256
from common.data.kept import kept
from common.data.order import mix
from common.data.rows import reading
from papers.bert import vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SHORT = 0.1  # of the pairs are shorter than they may be; short_seq_prob of the authors' code
HELD_OUT = 0.005  # of the documents of books-wiki, every two hundredth
ROOT = "https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data/"
WIKITEXT = {
    f"wikitext-2/{name}.txt": File(digest, [f"{ROOT}wikitext-2/{name}.txt"])
    for name, digest in {
        "train": "9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f",
        "valid": "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
        "test": "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
    }.items()
}
Texts = dict[str, Callable[[], Iterator[list[str]]]]  # split -> its documents, as sentences


@dataclass(frozen=True)
class Documents:
    """tokens: of all sentences in a row; sentences (S + 1,): where each begins; documents (N + 1,): the first sentence of each."""

    tokens: np.ndarray
    sentences: np.ndarray
    documents: np.ndarray

    def upto(self, first: int, stop: int, length: int) -> int:
        """The sentence before which a chunk from `first` on ends: at `length` tokens or more, or before `stop`."""
        return min(stop, max(first + 1, int(np.searchsorted(self.sentences, self.sentences[first] + length))))

    def pair(self, draw: np.random.Generator, context: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Sec. 3.1, Task #2: the tokens of A, of B, and 0 where B follows A, 1 where it is from another document, half of the time.

        A and B are whole sentences, cut at random at either end where they are too long together; a chunk of one sentence has no
        B that follows. `context` tokens have room for [CLS] and two [SEP].
        """
        room = context - 3
        target = int(draw.integers(2, room + 1)) if draw.random() < SHORT else room
        first = int(draw.integers(len(self.sentences) - 1))
        document = int(np.searchsorted(self.documents, first, "right")) - 1
        stop = self.upto(first, int(self.documents[document + 1]), target)
        cut = first + 1 if stop - first == 1 else int(draw.integers(first + 1, stop))
        random = stop - first == 1 or bool(draw.random() < 0.5)
        a, after = (self.sentences[first], self.sentences[cut]), (self.sentences[cut], self.sentences[stop])
        if random:
            for _ in range(10):  # as the authors' code, which then lets it be the same
                if (other := int(draw.integers(len(self.documents) - 1))) != document:
                    break
            begin, end = int(self.documents[other]), int(self.documents[other + 1])
            first = int(draw.integers(begin, end))
            after = self.sentences[first], self.sentences[self.upto(first, end, target - int(a[1] - a[0]))]
        sides = [[int(each[0]), int(each[1])] for each in (a, after)]
        while sum(stop - start for start, stop in sides) > room:
            longer = max(sides, key=lambda side: side[1] - side[0])
            front = draw.random() < 0.5
            longer[0], longer[1] = longer[0] + front, longer[1] - (not front)
        return *(self.tokens[start:stop] for start, stop in sides), int(random)


@dataclass(frozen=True)
class Corpus:
    splits: dict[str, Documents]  # train, val, test
    tokenizer: "Tokenizer"

    def batch(self, split: str, numbers: Tensor, seed: int, T: int) -> tuple[Tensor, ...]:
        """Pairs of these numbers (B,), on the CPU.

        Returns:
            tokens, segments, which are no padding, and which may be masked: (B, T) each; whether B is random (B,); and uniform
            numbers in [0, 1) for the masks (B, 3, T).
        """
        cls, sep = (self.tokenizer.token_to_id(special) for special in ("[CLS]", "[SEP]"))
        tokens, segments = np.zeros((len(numbers), T), np.int64), np.zeros((len(numbers), T), np.int64)
        able, real = np.zeros((len(numbers), T), bool), np.zeros((len(numbers), T), bool)
        labels, u = np.zeros(len(numbers), np.int64), np.zeros((len(numbers), 3, T), np.float32)
        for i, n in enumerate(numbers.tolist()):
            draw = np.random.default_rng(mix(seed, "pair", split, n))
            a, b, labels[i] = self.splits[split].pair(draw, T)
            end = len(a) + len(b) + 3
            tokens[i, :end] = [cls, *a, sep, *b, sep]
            segments[i, len(a) + 2 : end], real[i, :end], able[i, 1 : end - 1] = 1, True, True
            able[i, len(a) + 1] = False
            u[i] = draw.random((3, T), np.float32)
        return tuple(map(torch.from_numpy, (tokens, segments, real, able, labels, u)))


def load(
    name: str, tokens: "Tokenizer | int", data_dir: Path, *, spare: Path,
    on_main: Callable[[Callable[[], Path]], Path] = lambda f: f(),
) -> tuple[Corpus, dict[str, Any]]:  # fmt: skip
    """The corpus in word pieces, and what the record says of it.

    Args:
        tokens: a vocabulary, or the size of one that is learned from the training split.
        spare: where it is kept if that cannot be beside the data; stand-in text in any case.
        on_main: calls a function on one of several processes, for all.

    Raises:
        BadInput: the text cannot be had, or used; says which, where, and what to do.
    """
    folder = on_main(lambda: prepared(name, tokens, data_dir, spare))
    if not folder.exists():  # on another machine, whose disk is its own
        folder = prepared(name, tokens, data_dir, spare)
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    splits = {}
    for split in about.pop("splits"):
        parts = [np.load(folder / f"{split}-{part}.npy", mmap_mode="r") for part in ("tokens", "sentences", "documents")]
        splits[split] = Documents(*parts)
    numbers = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
    return Corpus(splits, vocabulary.word_pieces(numbers["pieces"], numbers["lower"])), about


def prepared(name: str, tokens: "Tokenizer | int", data_dir: Path, spare: Path) -> Path:
    """The folder with what `load` reads."""
    texts, about = read(name, data_dir)
    known = tokens if isinstance(tokens, int) else hashlib.sha256(tokens.to_str().encode()).hexdigest()

    def make(folder: Path) -> None:
        tokenizer = tokens
        if isinstance(tokens, int):
            print(f"learning a vocabulary of {tokens:,} word pieces", flush=True)
            tokenizer = vocabulary.learn([sentence for document in texts["train"]() for sentence in document], tokens)
        pieces = dict(sorted(tokenizer.get_vocab().items(), key=lambda each: each[1]))
        numbers = {"pieces": pieces, "lower": tokenizer.normalizer.lowercase}
        (folder / "vocabulary.json").write_text(json.dumps(numbers), encoding="utf-8")
        about["vocabulary"], about["vocabulary_sha256"] = len(pieces), sha256(folder / "vocabulary.json")
        for split, documents in texts.items():
            about["splits"] = [*about.get("splits", ()), split]
            sizes = encode(documents(), tokenizer, folder, split)
            about["train" if split == "train" else "test"] = sizes  # of test, which comes last
        (folder / "about.json").write_text(json.dumps(about, indent=1), encoding="utf-8")

    places, facts = [spare] if about["stand_in"] else [data_dir, spare], {"sha256": about["sha256"], "tokens": known}
    return kept(places, f"bert-{name}", facts, make)


def encode(documents: Iterator[list[str]], tokenizer: "Tokenizer", folder: Path, split: str) -> str:
    """Write a split's three files. Returns what there is, in words."""
    starts, firsts, at = array("q", [0]), array("q", [0]), 0  # Wikipedia has a hundred million sentences
    with (folder / "raw").open("wb") as file:
        while some := list(islice(documents, 64)):
            encoded = iter(tokenizer.encode_batch([sentence for each in some for sentence in each], add_special_tokens=False))
            for document in some:
                for ids in filter(None, (next(encoded).ids for _ in document)):
                    file.write(np.asarray(ids, np.int32).tobytes())
                    starts.append(at := at + len(ids))
                if len(starts) - 1 > firsts[-1]:
                    firsts.append(len(starts) - 1)
    np.save(folder / f"{split}-tokens.npy", np.memmap(folder / "raw", np.int32, "r") if at else np.zeros(0, np.int32))
    (folder / "raw").unlink()
    np.save(folder / f"{split}-sentences.npy", np.array(starts))
    np.save(folder / f"{split}-documents.npy", np.array(firsts))
    return f"{len(firsts) - 1:,} documents, {len(starts) - 1:,} sentences, {at:,} tokens"


def read(name: str, data_dir: Path) -> tuple[Texts, dict[str, Any]]:
    """The documents of a corpus, downloaded where they can be, and what the record says of them.

    Raises:
        BadInput: they cannot be had, or read.
    """
    if name == "made-up":
        lines = standin.text(24_000).splitlines()
        found = [lines[at : at + 12] for at in range(0, len(lines), 12)]
        about = {"name": "made-up text", "sha256": hashlib.sha256("".join(lines).encode()).hexdigest(), "stand_in": True}
        return {"train": lambda: iter(found[:-6]), "test": lambda: iter(found[-6:])}, about
    if name == "wikitext-2":
        files.fetch(data_dir, "WikiText-2", WIKITEXT)
        paths = files.found(data_dir, "WikiText-2", WIKITEXT)
        texts = {split: (lambda path=path: articles(path)) for split, path in zip(("train", "val", "test"), paths, strict=True)}
        return texts, {"name": name, "sha256": ",".join(file.sha256 for file in WIKITEXT.values()), "stand_in": False}
    folder = data_dir / name
    paths = [path for path in sorted(folder.rglob("*")) if path.name.endswith((".txt", ".txt.gz", ".parquet"))]
    advice = GET.format(
        "as .txt or .txt.gz files of a sentence a line and an empty line between documents, or Hugging Face's shards of documents "
        "in a column `text` (wikimedia/wikipedia; BooksCorpus' authors no longer give it away)"
    )
    with reading("BooksCorpus and Wikipedia", folder, advice):
        if not paths:
            raise ValueError("there is no .txt, .txt.gz or .parquet file")
    every = round(1 / HELD_OUT)
    all_of = lambda: (document for path in paths for document in documents_of(path, advice))
    some_of = lambda held_out: (d for i, d in enumerate(all_of()) if (i % every == every - 1) == held_out)
    about = {"name": name, "sha256": sha256(*paths, name=name), "files": len(paths), "stand_in": False}
    return {"train": lambda: some_of(False), "test": lambda: some_of(True)}, about


def sentences(text: str) -> list[str]:
    """Cut after a full stop, a question mark or an exclamation mark before a space."""
    return [each for each in re.split(r"(?<=[.!?])\s+", text.strip()) if each]


def articles(path: Path) -> Iterator[list[str]]:
    """WikiText's articles, "only the text passages" (Sec. 3.1): no headings; its <unk> is [UNK], its @-@ a hyphen, and so on."""
    document: list[str] = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        if re.fullmatch(r" = [^=].* = ", line) and document:
            yield document
            document = []
        elif not re.match(r" =.*= $", line):
            document += sentences(re.sub(r" @(.)@ ", r"\1", line).replace("<unk>", "[UNK]"))
    if document:
        yield document


def documents_of(path: Path, advice: str) -> Iterator[list[str]]:
    """Raises BadInput: the file is damaged, not UTF-8, or has no column `text`."""
    try:
        if path.suffix == ".parquet":
            from pyarrow.parquet import ParquetFile

            with ParquetFile(path) as file:
                for batch in file.iter_batches(columns=["text"]):
                    yield from filter(None, (sentences(text or "") for text in batch.column("text").to_pylist()))
            return
        document: list[str] = []
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for line in file:
                if line.strip():
                    document.append(line.strip())
                elif document:
                    yield document
                    document = []
        if document:
            yield document
    except (OSError, EOFError, zlib.error, ValueError, KeyError) as error:  # pyarrow's are among them
        with reading("BooksCorpus and Wikipedia", path, advice):
            raise ValueError(str(error)) from error
