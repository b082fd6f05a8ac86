"""Sentence pairs as tokens: WMT14, Multi30k, the copy task, and made-up ones for tests.

They are made once for all runs, with the vocabulary, and kept beside the data.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from common import bleu
from common.data import standin, translation
from common.data.fetch import sha256
from common.data.kept import kept
from common.data.order import mix
from common.data.ragged import Ragged, ragged
from common.data.translation import Parallel
from common.errors import BadInput
from papers.transformer.vocabulary import END, SPECIAL, encode, load_bpe, train_bpe

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPLITS = {  # data -> its training, validation and test sets, by the names of translation.py
    "wmt14": ("train", "newstest2013", "newstest2014"),
    "multi30k": ("train", "val", "test_2016_flickr"),
}
SETTINGS = ("data", "source", "target", "vocabulary", "max_length")  # what the tokens depend on, besides the texts
SYMBOLS, LENGTH = 10, 10  # of the copy task


@dataclass(frozen=True)
class Pairs:
    """Sentence pairs. The texts are those of validation and test sets only."""

    source: Ragged
    target: Ragged
    sources: list[str]
    references: list[str]

    def __len__(self) -> int:
        return len(self.source)

    def to(self, device: torch.device) -> "Pairs":
        return Pairs(self.source.to(device), self.target.to(device), self.sources, self.references)

    def lengths(self) -> Tensor:
        """Tokens of both sides, their END among them: (n, 2)."""
        return torch.stack([self.source.lengths, self.target.lengths], 1)


def load(
    config: Any, data_dir: Path, *, spare: Path, seed: int, on_main: Callable[[Callable[[], Path]], Path] = lambda f: f()
) -> tuple[list[Pairs], "Tokenizer | None", dict[str, Any]]:
    """Training, validation and test set, the tokenizer (None for the copy task), and what the record says of them.

    Args:
        spare: where tokens are kept if that cannot be beside the data; those of stand-in sentences in any case.
        seed: of the copy task.
        on_main: calls a function on one of several processes, for all.

    Raises:
        BadInput: the data or the vocabulary cannot be used; says which, where, and what to do.
    """
    if config.data == "copy":
        splits = [copies(config.steps * config.batch_size // (LENGTH + 1), seed), copies(1000, "val"), copies(1000, "held out")]
        about = {"name": "copies of random symbols", "generator": "papers/transformer/sentences.py", "seed": seed}
        tokenizer, about["vocabulary"] = None, len(SPECIAL) + SYMBOLS
    else:
        folder = on_main(lambda: prepared(config, data_dir, spare))
        if not folder.exists():  # on another machine, whose disk is its own
            folder = prepared(config, data_dir, spare)
        tokens = torch.load(folder / "tokens.pt", weights_only=True, mmap=True)
        splits = [Pairs(Ragged(*s["source"]), Ragged(*s["target"]), s["sources"], s["references"]) for s in tokens["splits"]]
        tokenizer = load_bpe(folder / "vocabulary.json")
        about = tokens["about"] | {"vocabulary": tokenizer.get_vocab_size(), "bleu": bleu.signature()}
    if config.learned_positions:
        refuse_long(splits, config)
    about |= {"train": len(splits[0]), "test": len(splits[2]), "stand_in": config.data == "made-up"}
    return splits, tokenizer, about


def prepared(config: Any, data_dir: Path, spare: Path) -> Path:
    """The folder with tokens.pt, and the vocabulary that they are of."""
    texts = read(config, data_dir)
    digests = dict(zip(("sha256", "val_sha256", "test_sha256"), (each.sha256 for each in texts), strict=True))
    facts = {name: getattr(config, name) for name in SETTINGS} | digests
    if given := load_bpe(Path(config.bpe)) if config.bpe else None:
        facts["vocabulary"] = hashlib.sha256(given.to_str().encode()).hexdigest()

    def make(folder: Path) -> None:
        if not given:
            print(f"learning a vocabulary of {config.vocabulary:,} from {len(texts[0]):,} pairs", flush=True)
        tokenizer = given or train_bpe((text for side in (texts[0].source, texts[0].target) for text in side), config.vocabulary)
        tokenizer.save(str(folder / "vocabulary.json"))
        splits = [encoded(tokenizer, each, texts=i > 0) for i, each in enumerate(texts)]
        splits[0], long = short_enough(splits[0], config.max_length)
        left_out = {"empty": texts[0].empty, "long": long}
        if any(left_out.values()):
            limit = f"{long:,} with more than {config.max_length} tokens"
            print(f"left out of training: {texts[0].empty:,} pairs with an empty side, {limit}", flush=True)
        about = {"name": f"{config.data} {config.source}-{config.target}", "left_out": left_out, **digests}
        about["vocabulary_sha256"] = sha256(folder / "vocabulary.json")
        plain = [{k: (v.tokens, v.lengths) if isinstance(v, Ragged) else v for k, v in vars(split).items()} for split in splits]
        torch.save({"about": about, "splits": plain}, folder / "tokens.pt")

    return kept([spare] if config.data == "made-up" else [data_dir, spare], config.data, facts, make)


def read(config: Any, data_dir: Path) -> list[Parallel]:
    """Training, validation and test texts."""
    if config.data == "made-up":
        return [made_up(300, 0), made_up(20, 1), made_up(20, 2)]
    fetch, get = {
        "wmt14": (translation.fetch_wmt14, translation.wmt14),
        "multi30k": (translation.fetch_multi30k, translation.multi30k),
    }[config.data]
    fetch(data_dir, config.source, config.target)
    return [get(data_dir, config.source, config.target, split) for split in SPLITS[config.data]]


def encoded(tokenizer: "Tokenizer", pairs: Parallel, texts: bool) -> Pairs:
    plain = (pairs.source, pairs.target) if texts else ([], [])
    return Pairs(encode(tokenizer, pairs.source), encode(tokenizer, pairs.target), *plain)


def short_enough(pairs: Pairs, limit: int) -> tuple[Pairs, int]:
    """The pairs whose sides have at most so many tokens, and how many others there were."""
    keep = (pairs.lengths() <= limit).all(1)
    if not keep.any():
        raise BadInput(f"no training pair has {limit} tokens or fewer on both sides: raise --max-length")
    return Pairs(pairs.source.subset(keep), pairs.target.subset(keep), [], []), int((~keep).sum())


def refuse_long(splits: list[Pairs], config: Any) -> None:
    """Raises BadInput: a sentence to be translated has more tokens than there are positions."""
    for name, split in zip(SPLITS.get(config.data, ("train", "val", "test")), splits, strict=True):
        longest = int(split.lengths().max(1).values.argmax())
        tokens = int(split.lengths()[longest].max())
        if tokens > config.max_length:
            where = f"sentence {longest + 1:,} of {name} has {tokens:,} tokens"
            raise BadInput(f"{where}, and learned positions end at --max-length {config.max_length}: raise it, or use sinusoids")


def copies(n: int, seed: Any) -> Pairs:
    """Sequences of ten symbols, which are their own translations."""
    generator = torch.Generator().manual_seed(mix("copy", seed))
    symbols = torch.randint(len(SPECIAL), len(SPECIAL) + SYMBOLS, (n, LENGTH), generator=generator)
    sequences = ragged(torch.cat([symbols, torch.full((n, 1), END)], 1).numpy())
    return Pairs(sequences, sequences, [], [])


def made_up(n: int, seed: int) -> Parallel:
    """Stand-in sentences."""
    source, target = standin.pairs(n, seed)
    return Parallel(source, target, sha256=hashlib.sha256("\n".join(source + target).encode()).hexdigest(), empty=0)
