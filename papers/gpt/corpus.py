"""A corpus as token numbers in one memory-mapped file: BooksCorpus, WikiText-2, tiny Shakespeare, and made-up text for tests.

The file is made once for all runs, with its vocabulary, and kept beside the data.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.data import fetch as files
from common.data import standin
from common.data.fetch import File, sha256
from common.data.folders import files_below
from common.data.kept import kept
from common.data.order import mix
from common.errors import BadInput
from papers.gpt import vocabulary
from papers.gpt.vocabulary import LEARNED, Texts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PIECE = 100_000  # characters that are encoded at once, or one line
HELD_OUT = 0.005  # of BooksCorpus, its end; the paper does not say what its perplexity is of
FILES = {
    "tinyshakespeare/input.txt": File(
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        ["https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"],
    ),
    "wikitext-2/train.txt": File(
        "9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f",
        ["https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data/wikitext-2/train.txt"],
    ),
    "wikitext-2/valid.txt": File(
        "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
        ["https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data/wikitext-2/valid.txt"],
    ),
    "wikitext-2/test.txt": File(
        "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
        ["https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data/wikitext-2/test.txt"],
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Corpus:
    """A corpus as tokens.

    splits: train, val, and test where there is one: (n,) each, memory-mapped.
    words: how many words val and test have, a line's end counting as one, for a perplexity that others can be compared with;
        nothing where the tokens do not say all of the text, as the official ones.
    """

    splits: dict[str, np.ndarray]
    words: dict[str, int]
    tokenizer: "Tokenizer"

    def windows(self, starts: Tensor, T: int, split: str = "train") -> Tensor:
        """T tokens from each start (b,) on, and the one after them: (b, T + 1), int64."""
        return torch.from_numpy(np.stack([self.splits[split][at : at + T + 1] for at in starts.tolist()]).astype(np.int64))

    def sampled(self, step: int, seed: int, batch_size: int, T: int) -> Tensor:
        """Sec. 4.1: "randomly sampled, contiguous sequences": where those of a step start (batch_size,)."""
        generator = torch.Generator().manual_seed(mix(seed, "windows", step))
        return torch.randint(len(self.splits["train"]) - T, (batch_size,), generator=generator)


class Settings(NamedTuple):
    """Which corpus, and which tokens."""

    corpus: str
    tokens: str  # one of LEARNED, or a name or folder of the official ones
    vocabulary: int = 40_478  # of bytes: how many, at most


def load(
    settings: Settings, data_dir: Path, *, spare: Path, context: int, on_main: Callable[[Callable[[], Path]], Path] = lambda f: f()
) -> tuple[Corpus, dict[str, Any]]:
    """The corpus, and what the record says of it.

    Args:
        spare: where its tokens are kept if that cannot be beside the data; those of stand-in text in any case.
        context: tokens of a sequence; the corpus must have more.
        on_main: calls a function on one of several processes, for all.

    Raises:
        BadInput: the text or its vocabulary cannot be used; says which, where, and what to do.
    """
    folder = on_main(lambda: prepared(settings, data_dir, spare))
    if not folder.exists():  # on another machine, whose disk is its own
        folder = prepared(settings, data_dir, spare)
    facts = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
    tokens = np.memmap(folder / "tokens.bin", facts["dtype"], mode="r")
    splits = {name: tokens[start:stop] for name, (start, stop) in facts["splits"].items()}
    for name, split in splits.items():
        if len(split) <= context:
            raise BadInput(f"{settings.corpus}: its {name} split has {len(split):,} tokens: --context must be lower than that")
    return Corpus(splits, facts["words"], vocabulary.load(folder / "vocabulary.json")), facts["about"]


def prepared(settings: Settings, data_dir: Path, spare: Path) -> Path:
    """The folder with tokens.bin, vocabulary.json, and tokens.json, which says what they are."""
    texts, about = read(settings.corpus, data_dir)
    facts = {"corpus": settings.corpus, "sha256": about["sha256"], "tokens": settings.tokens}
    if official := None if settings.tokens in LEARNED else vocabulary.official(settings.tokens, data_dir / "weights"):
        facts["tokens"] = hashlib.sha256(official.to_str().encode()).hexdigest()
    elif settings.tokens == "bytes":
        facts["vocabulary"] = settings.vocabulary

    def make(folder: Path) -> None:
        tokenizer = official or vocabulary.learn(settings.tokens, settings.vocabulary, texts)
        (folder / "vocabulary.json").write_text(tokenizer.to_str(), encoding="utf-8")
        about["vocabulary_sha256"] = sha256(folder / "vocabulary.json")
        found = encode(texts, about, tokenizer, settings, folder / "tokens.bin")
        if (folder / "tokens.bin").stat().st_size == 0:
            raise BadInput(f"{settings.corpus}: there is no text in {(data_dir / settings.corpus).absolute()}: put some there")
        (folder / "tokens.json").write_text(json.dumps(found, indent=1), encoding="utf-8")

    return kept([spare] if about["stand_in"] else [data_dir, spare], settings.corpus, facts, make)


def encode(texts: Texts, about: dict[str, Any], tokenizer: "Tokenizer", settings: Settings, to: Path) -> dict[str, Any]:
    """Write the tokens of all splits, one after the other. Returns what tokens.json says."""
    V = tokenizer.get_vocab_size()
    dtype, splits, at = "uint16" if V <= 1 << 16 else "uint32", {}, 0
    with to.open("wb") as file:
        for name, pieces in texts.items():
            start = at
            stream = pieces()
            while several := list(islice(stream, 64)):
                for encoded in tokenizer.encode_batch(several, add_special_tokens=False):
                    file.write(np.asarray(encoded.ids, dtype).tobytes())
                    at += len(encoded.ids)
            splits[name] = (start, at)
    if list(splits) == ["train"]:
        cut = at - max(1, round(HELD_OUT * at))
        splits = {"train": (0, cut), "val": (cut, at)}
    lossless = settings.tokens in LEARNED
    words = {name: sum(map(count_words, texts[name]())) for name in splits if lossless and name in texts and name != "train"}
    sizes = {name: f"{stop - start:,} tokens" for name, (start, stop) in splits.items()}
    about = {**about, "train": sizes["train"], "test": sizes.get("test", sizes["val"]), "vocabulary": V}
    return {"about": about, "dtype": dtype, "splits": splits, "words": words}


def count_words(piece: str) -> int:
    return len(piece.split()) + piece.count("\n")


def read(corpus: str, data_dir: Path) -> tuple[Texts, dict[str, Any]]:
    """The texts of a corpus, downloaded where they can be, and what the record says of them.

    Raises:
        BadInput: they cannot be had, or read.
    """
    if corpus == "made-up":
        text = standin.text(40_000)
        about = {"name": "made-up text", "sha256": hashlib.sha256(text.encode()).hexdigest(), "stand_in": True}
        return {"train": lambda: pieces([text[:36_000]]), "val": lambda: pieces([text[36_000:]])}, about
    if corpus == "bookscorpus":
        paths = books(data_dir)
        about = about_it(corpus, sha256(*paths, name="BooksCorpus"), files=len(paths))
        return {"train": lambda: pieces(chain.from_iterable(map(lines_of, paths)))}, about
    fetch(data_dir, corpus)
    texts = {name: (data_dir / name).read_bytes().decode() for name in FILES if name.startswith(corpus)}
    digest = ",".join(FILES[name].sha256 for name in texts)
    if corpus == "tinyshakespeare":
        (text,) = texts.values()
        cut = int(0.9 * len(text))  # karpathy/nanoGPT, data/shakespeare_char/prepare.py
        return {"train": lambda: pieces([text[:cut]]), "val": lambda: pieces([text[cut:]])}, about_it(corpus, digest)
    train, val, test = texts.values()
    splits = {"train": lambda: pieces([train]), "val": lambda: pieces([val]), "test": lambda: pieces([test])}
    return splits, about_it(corpus, digest)


def about_it(name: str, digest: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "sha256": digest, "stand_in": False, **more}


def pieces(texts: Iterable[str]) -> Iterator[str]:
    """The same text in pieces of about PIECE characters, cut at the ends of lines."""
    held, size = [], 0
    for text in texts:
        for line in text.splitlines(keepends=True) if len(text) > PIECE else [text]:
            held.append(line)
            size += len(line)
            if size >= PIECE:
                yield "".join(held)
                held, size = [], 0
    if held:
        yield "".join(held)


def fetch(data_dir: Path, corpus: str) -> None:
    """Download what is missing of a corpus in FILES. For the main process only; several runs may do it at once.

    Raises:
        BadInput: a file cannot be had, or one that is there is another.
    """
    files.fetch(data_dir, corpus, {name: file for name, file in FILES.items() if name.startswith(corpus)})


def books(data_dir: Path) -> list[Path]:
    """The files of BooksCorpus, in the order of their names, as `files_below` finds them. Raises BadInput: there are none."""
    folder = data_dir / "bookscorpus"
    paths = sorted(Path(path) for path in files_below(folder) if path.endswith((".txt", ".txt.gz", ".parquet")))
    if not paths:
        raise BadInput(
            f"BooksCorpus: no .txt, .txt.gz or .parquet file in {folder.absolute()}: its authors no longer give it away; put a "
            "copy there (plain text, or shards of Hugging Face with a column `text`), or name another folder with --data-dir; "
            "without it run tinyshakespeare, wikitext2, and fine-tuning from the official weights"
        )
    return paths


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a file, with their ends. Raises BadInput: it is damaged, not UTF-8, or has no column `text`."""
    try:
        if path.suffix == ".parquet":
            from pyarrow.parquet import ParquetFile

            with ParquetFile(path) as file:
                for batch in file.iter_batches(columns=["text"]):
                    for line in batch.column("text").to_pylist():
                        if not isinstance(line, str):
                            raise ValueError(f"{line!r} in the column `text` is no text")
                        yield f"{line}\n"
        else:
            how = {"mode": "rt", "encoding": "utf-8", "newline": ""}
            with gzip.open(path, **how) if path.suffix == ".gz" else path.open(**how) as file:
                yield from file
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, KeyError, ValueError) as error:  # pyarrow's are among them
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"BooksCorpus: cannot read {path.absolute()} ({reason}): get it again, or take it away") from error
