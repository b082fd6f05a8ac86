"""Sentence pairs as words: WMT14, Multi30k, sequences to copy or to reverse, and made-up sentences for tests.

Sec. 4.1: tokens of Moses' scripts, and a shortlist of the most frequent words of each language; any other word is [UNK]. They are
made once for all runs, and kept beside the data.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common import bleu
from common.data import standin, translation
from common.data.kept import kept
from common.data.order import mix, permuted
from common.data.ragged import Ragged, ragged
from common.data.translation import Parallel
from common.errors import BadInput

SPECIAL = ("<pad>", "</s>", "[UNK]")
PAD, END, UNKNOWN = range(3)
SPLITS = {  # data -> its training, validation and test sets
    "wmt14": ("train", "newstest2013", "newstest2014"),
    "multi30k": ("train", "val", "test_2016_flickr"),
}
SETTINGS = ("data", "source", "target", "vocabulary", "min_count", "max_length")  # what the words depend on, besides the texts
TOYS = ("copy", "reverse")
TESTED = 100  # sequences of each length to test on, which goes up to twice what is learned


class Words:
    """The words of one language: SPECIAL, and the shortlist from the most frequent word on."""

    def __init__(self, shortlist: Sequence[str]) -> None:
        self.words = [*SPECIAL, *shortlist]
        self.numbers = {word: number for number, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, tokens: str) -> list[int]:
        """Tokens between spaces as numbers, and END; what a text calls by the name of a special one is unknown."""
        found = (self.numbers.get(token, UNKNOWN) for token in tokens.split())
        return [*(number if number > END else UNKNOWN for number in found), END]

    def decode(self, numbers: Tensor) -> list[str]:
        """Padded numbers (B, T) as tokens between spaces, without END and padding."""
        return [" ".join(self.words[i] for i in row if i not in (PAD, END)) for row in numbers.tolist()]


def shortlist(texts: Iterable[str], size: int, min_count: int) -> list[str]:
    """The most frequent tokens, at most `size`, each at least `min_count` times there; equally frequent ones by the alphabet."""
    counts = Counter(token for text in texts for token in text.split())
    known = [word for word, count in counts.items() if count >= min_count]
    return sorted(known, key=lambda word: (-counts[word], word))[:size]


@dataclass(frozen=True)
class Pairs:
    """Sentence pairs. The tokens, and the texts as they were, are those of validation and test sets only."""

    source: Ragged
    target: Ragged
    tokens: list[str]  # of the source, between spaces
    references: list[str]  # tokens of the target, between spaces
    texts: list[str]  # of the target

    def __len__(self) -> int:
        return len(self.source)

    def to(self, device: torch.device) -> "Pairs":
        return Pairs(self.source.to(device), self.target.to(device), self.tokens, self.references, self.texts)

    def lengths(self) -> Tensor:
        """Words of both sides, their END among them: (n, 2)."""
        return torch.stack([self.source.lengths, self.target.lengths], 1)

    def known(self) -> Tensor:
        """Which pairs have no unknown word on either side: (n,), bool, on the CPU."""
        sides = [side.padded(torch.arange(len(side))) == UNKNOWN for side in (self.source, self.target)]
        return ~(sides[0].any(1) | sides[1].any(1)).cpu()


def load(
    config: Any, data_dir: Path, *, spare: Path, seed: int, on_main: Callable[[Callable[[], Path]], Path] = lambda f: f()
) -> tuple[list[Pairs], tuple[Words, Words], dict[str, Any]]:
    """Training, validation and test set, the words of both languages, and what the record says of them.

    Args:
        spare: where words are kept if that cannot be beside the data; those of stand-in sentences in any case.
        seed: of the sequences to copy or to reverse.
        on_main: calls a function on one of several processes, for all.

    Raises:
        BadInput: the data cannot be used; says which, where, and what to do.
    """
    if config.data in TOYS:
        longest, how = config.max_length, (config.vocabulary, config.data == "reverse")
        splits = [sequences(config.steps * config.batch_size, longest, *how, seed)]
        splits += [sequences(TESTED * n, n, *how, name, evenly=True) for name, n in (("val", longest), ("held out", 2 * longest))]
        known = Words([str(i) for i in range(config.vocabulary)])
        about = {"name": f"sequences to {config.data}", "generator": "papers/seq2seq_attention/sentences.py", "seed": seed}
        return splits, (known, known), about | {"train": len(splits[0]), "test": len(splits[2]), "stand_in": False}
    folder = on_main(lambda: prepared(config, data_dir, spare))
    if not folder.exists():  # on another machine, whose disk is its own
        folder = prepared(config, data_dir, spare)
    stored = torch.load(folder / "words.pt", weights_only=True, mmap=True)
    splits = [Pairs(Ragged(*s["source"]), Ragged(*s["target"]), s["tokens"], s["references"], s["texts"]) for s in stored["splits"]]
    x, y = (Words(json.loads((folder / f"words.{side}.json").read_text(encoding="utf-8"))) for side in ("source", "target"))
    about = stored["about"] | {"vocabulary": [len(x), len(y)], "bleu": bleu.signature(lowercase=lowercase(config))}
    return splits, (x, y), about | {"train": len(splits[0]), "test": len(splits[2]), "stand_in": config.data == "made-up"}


def prepared(config: Any, data_dir: Path, spare: Path) -> Path:
    """The folder with words.pt, and the words that its numbers stand for."""
    texts = read(config, data_dir)
    digests = dict(zip(("sha256", "val_sha256", "test_sha256"), (each.sha256 for each in texts), strict=True))
    facts = {name: getattr(config, name) for name in SETTINGS} | digests

    def make(folder: Path) -> None:
        print(f"cutting {len(texts[0]):,} pairs into words", flush=True)
        cut = [(tokenised(each.source, config.source, config), tokenised(each.target, config.target, config)) for each in texts]
        x, y = (Words(shortlist(side, config.vocabulary, config.min_count)) for side in cut[0])
        splits = []
        for i, (each, (source, target)) in enumerate(zip(texts, cut, strict=True)):
            plain = (source, target, each.target) if i else ([], [], [])
            splits.append(Pairs(*(ragged(map(w.encode, side)) for w, side in ((x, source), (y, target))), *plain))
        splits[0], long = short_enough(splits[0], config.max_length)
        left_out = {"empty": texts[0].empty, "long": long}
        if any(left_out.values()):
            limit = f"{long:,} with more than {config.max_length} words"
            print(f"left out of training: {texts[0].empty:,} pairs with an empty side, {limit}", flush=True)
        unknown = [100 * (side.tokens == UNKNOWN).double().mean().item() for side in (splits[2].source, splits[2].target)]
        about = {"name": f"{config.data} {config.source}-{config.target}", "left_out": left_out, **digests}
        about["unknown_in_test"] = [round(share, 2) for share in unknown]  # % of its words, source and target
        stored = [{k: (v.tokens, v.lengths) if isinstance(v, Ragged) else v for k, v in vars(split).items()} for split in splits]
        torch.save({"about": about, "splits": stored}, folder / "words.pt")
        for side, w in (("source", x), ("target", y)):
            (folder / f"words.{side}.json").write_text(
                json.dumps(w.words[len(SPECIAL) :], ensure_ascii=False, indent=0), encoding="utf-8"
            )

    return kept([spare] if config.data == "made-up" else [data_dir, spare], f"{config.data}-words", facts, make)


def lowercase(config: Any) -> bool:
    """Multi30k's convention, "lc.norm.tok", is the tutorial's too; the paper's words have capitals."""
    return config.data == "multi30k"


def tokenised(texts: Sequence[str], language: str, config: Any) -> list[str]:
    """Sec. 4.1, "the tokenization script from the open-source machine translation package, Moses"."""
    if config.data == "made-up":
        return [" ".join(text.split()) for text in texts]
    return bleu.tokenised(texts, language, lowercase=lowercase(config), normalise=lowercase(config))


def read(config: Any, data_dir: Path) -> list[Parallel]:
    """Training, validation and test texts."""
    if config.data == "made-up":
        return [made_up(n, seed) for n, seed in ((300, 0), (20, 1), (20, 2))]
    if config.data == "multi30k":
        translation.fetch_multi30k(data_dir, config.source, config.target)
        return [translation.multi30k(data_dir, config.source, config.target, split) for split in SPLITS["multi30k"]]
    translation.fetch_wmt14(data_dir, config.source, config.target)
    return [translation.wmt14(data_dir, config.source, config.target, split) for split in SPLITS["wmt14"]]


def short_enough(pairs: Pairs, limit: int) -> tuple[Pairs, int]:
    """The pairs whose sides have at most so many words, END not among them, and how many others there were."""
    keep = (pairs.lengths() <= limit + 1).all(1)
    if not keep.any():
        raise BadInput(f"no training pair has {limit} words or fewer on both sides: raise --max-length")
    return Pairs(pairs.source.subset(keep), pairs.target.subset(keep), [], [], []), int((~keep).sum())


def sequences(n: int, longest: int, symbols: int, backwards: bool, seed: Any, evenly: bool = False) -> Pairs:
    """Random symbols, 1 to `longest` of them, to be written again in their order or backwards; evenly: as many of each length."""
    generator = torch.Generator().manual_seed(mix("sequences", seed))
    lengths = torch.arange(n) % longest + 1 if evenly else torch.randint(1, longest + 1, (n,), generator=generator)
    drawn = torch.randint(len(SPECIAL), len(SPECIAL) + symbols, (int(lengths.sum()),), generator=generator).split(lengths.tolist())
    source = ragged([*each, END] for each in (part.tolist() for part in drawn))
    target = ragged([*each[::-1], END] for each in (part.tolist() for part in drawn)) if backwards else source
    return Pairs(source, target, [], [], [])


def made_up(n: int, seed: int) -> Parallel:
    """Stand-in sentences."""
    source, target = standin.pairs(n, seed)
    return Parallel(source, target, sha256=hashlib.sha256("\n".join(source + target).encode()).hexdigest(), empty=0)


def alike(lengths: Tensor, batch_size: int, batches: int, seed: int) -> Callable[[int], Tensor]:
    """Sec. B.2: the pairs of the next `batches` minibatches are taken together, sorted by length, and cut: step -> a minibatch's.

    Args:
        lengths: of both sides (n, 2); the longer one counts, as in the authors' code. The minibatches then are shuffled.
    """
    longest, size = lengths.max(1).values, batches * batch_size

    def minibatch(step: int) -> Tensor:
        group = step // batches
        rows = permuted(len(longest), seed, group * size, (group + 1) * size)
        cut = rows[longest[rows].sort(stable=True).indices].split(batch_size)
        return cut[int(permuted(batches, mix(seed, "minibatches"), step, step + 1))]

    return minibatch
