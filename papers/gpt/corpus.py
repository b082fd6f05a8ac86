"""A corpus as token numbers in one memory-mapped file: BooksCorpus, WikiText-2, tiny Shakespeare, and made-up text for tests.

The main process makes the file once, with its vocabulary, and keeps both in the run's directory, from where all processes, every
restart, and fine-tuning read them.
"""

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from common.data import fetch as files
from common.data.fetch import File, sha256
from common.data.order import mix
from common.errors import BadInput
from common.files import write_atomic
from common.run import Run

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Texts = dict[str, Callable[[], Iterator[str]]]  # split -> its text, in pieces that end with lines

SETTINGS = ("corpus", "tokens", "vocabulary")  # of a run's config: what the file depends on
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


def load(run: Run, **weights: Any) -> Corpus:
    """The corpus of the run's config; and `describe_data`, with what is to be said of given weights.

    Raises:
        BadInput: the text or its vocabulary cannot be used, or is not what the run began with; says which, where, and what to do.
    """
    settings = {name: getattr(run.config, name) for name in SETTINGS}
    digest = run.on_main(lambda: digest_here(run.config.corpus, run.data_dir))
    if digest is not None:
        run.same_data(sha256=digest)
    run.on_main(lambda: ready(run.dir, settings, digest) or prepare(run, settings))
    facts = json.loads((run.dir / "tokens.json").read_text())
    run.describe_data(**facts["about"], **weights)
    tokens = np.memmap(run.dir / "tokens.bin", facts["dtype"], mode="r")
    splits = {name: tokens[start:stop] for name, (start, stop) in facts["splits"].items()}
    for name, split in splits.items():
        if len(split) <= run.config.context:
            raise BadInput(f"{run.config.corpus}: its {name} split has {len(split):,} tokens: --context must be lower than that")
    return Corpus(splits, facts["words"], load_vocabulary(run.dir / "vocabulary.json"))


def digest_here(corpus: str, data_dir: Path) -> str | None:
    """What `read` says of the text that lies there; None where none does: a run that has its tokens goes on without."""
    if corpus == "made-up":
        return read(corpus, data_dir)[1]["sha256"]
    if corpus == "bookscorpus":
        return sha256(*books(data_dir), name="BooksCorpus") if any((data_dir / "bookscorpus").glob("*")) else None
    paths = [data_dir / name for name in FILES if name.startswith(corpus)]
    return ",".join(map(sha256, paths)) if all(path.exists() for path in paths) else None


def ready(folder: Path, settings: dict[str, Any], digest: str | None) -> bool:
    """Whether the file has been made with these settings, of this text. Raises BadInput: it has, and is damaged."""
    path = folder / "tokens.json"
    if not path.exists():
        return False
    try:
        facts = json.loads(path.read_text())
    except ValueError as error:
        raise BadInput(f"{path} is damaged: delete it and run the same command again") from error
    if facts["settings"] != settings or (digest is not None and facts["about"]["sha256"] != digest):
        return False
    for name, digest in facts["sha256"].items():
        if not (folder / name).exists() or sha256(folder / name) != digest:
            raise BadInput(f"{folder / name} is missing or damaged: delete {path} and run the same command again")
    return True


def prepare(run: Run, settings: dict[str, Any]) -> None:
    """Write tokens.bin, vocabulary.json, and then tokens.json, which says what they are."""
    config, folder = run.config, run.dir
    texts, about = read(config.corpus, run.data_dir)
    tokenizer = vocabulary(config.tokens, config.vocabulary, texts, run)
    V = tokenizer.get_vocab_size()
    dtype, splits, at = "uint16" if V <= 1 << 16 else "uint32", {}, 0
    with open(folder / "tokens.tmp", "wb") as file:
        for name, pieces in texts.items():
            start = at
            stream = pieces()
            while several := list(islice(stream, 64)):
                for encoded in tokenizer.encode_batch(several, add_special_tokens=False):
                    file.write(np.asarray(encoded.ids, dtype).tobytes())
                    at += len(encoded.ids)
            splits[name] = (start, at)
        file.flush()
        os.fsync(file.fileno())
    if at < 2:
        (folder / "tokens.tmp").unlink()
        raise BadInput(f"{config.corpus}: there is no text in {(run.data_dir / config.corpus).absolute()}: put some there")
    os.replace(folder / "tokens.tmp", folder / "tokens.bin")
    write_atomic(folder / "vocabulary.json", tokenizer.to_str().encode())
    if list(splits) == ["train"]:
        cut = at - max(1, round(HELD_OUT * at))
        splits = {"train": (0, cut), "val": (cut, at)}
    lossless = config.tokens in ("bytes", "characters")
    words = {name: sum(map(count_words, texts[name]())) for name in splits if lossless and name in texts and name != "train"}
    sizes = {name: f"{stop - start:,} tokens" for name, (start, stop) in splits.items()}
    about |= {"train": sizes["train"], "test": sizes.get("test", sizes["val"]), "vocabulary": V}
    facts = {"settings": settings, "about": about, "dtype": dtype, "splits": splits, "words": words}
    facts["sha256"] = {name: sha256(folder / name) for name in ("tokens.bin", "vocabulary.json")}
    write_atomic(folder / "tokens.json", json.dumps(facts, indent=1).encode())


def count_words(piece: str) -> int:
    return len(piece.split()) + piece.count("\n")


def read(corpus: str, data_dir: Path) -> tuple[Texts, dict[str, Any]]:
    """The texts of a corpus, downloaded where they can be, and what the record says of them.

    Raises:
        BadInput: they cannot be had, or read.
    """
    if corpus == "made-up":
        text = made_up(40_000)
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
    """The files of BooksCorpus, in the order of their names. Raises BadInput: there are none."""
    folder = data_dir / "bookscorpus"
    paths = [
        path for path in sorted(folder.rglob("*")) if path.name.endswith((".txt", ".txt.gz", ".parquet")) and not path.is_dir()
    ]
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


def vocabulary(tokens: str, size: int, texts: Texts, run: Run) -> "Tokenizer":
    """The tokenizer that --tokens and --vocabulary name.

    Raises:
        BadInput: the official one cannot be had.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    if tokens == "characters":  # of all splits, as those who publish numbers by character count them
        found = sorted(set(chain.from_iterable(chain.from_iterable(pieces() for pieces in texts.values())))) or [" "]
        tokenizer = Tokenizer(models.WordLevel({character: i for i, character in enumerate(found)}, unk_token=found[0]))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        tokenizer.decoder = decoders.Fuse()
    elif tokens == "bytes":
        run.say(f"learning a byte-level vocabulary of {size:,}")
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(texts["train"](), trainer)
    else:
        from papers.gpt.pretrained import official_vocabulary

        tokenizer = official_vocabulary(tokens, run.data_dir / "weights")
    return tokenizer


def load_vocabulary(path: Path) -> "Tokenizer":
    """Raises BadInput: it is missing or damaged."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(path.read_text())
    except Exception as error:  # tokenizers has no error of its own
        raise BadInput(f"cannot read the vocabulary {path}: {error}; start the run that made it over, with --restart") from error


def made_up(n: int) -> str:
    """n characters of made-up sentences, stand-in text for tests."""
    generator = torch.Generator().manual_seed(mix("made-up text"))
    words = [a + b for a in ("ba", "do", "ki", "lu", "me") for b in ("n", "ra", "s", "ti")]
    lines = []
    while sum(map(len, lines)) < n:
        chosen = torch.randint(len(words), (int(torch.randint(3, 9, (), generator=generator)),), generator=generator)
        lines.append(" ".join(words[i] for i in sorted(chosen.tolist())) + ".\n")
    return "".join(lines)[:n]
