"""Sentence pairs as tokens: WMT14, Multi30k, the copy task, and made-up ones for tests.

The main process makes them once, with the vocabulary, and keeps them in the run's directory, from where all processes and every
restart read them.
"""

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from common import bleu
from common.data import translation
from common.data.order import mix
from common.data.ragged import Ragged, ragged
from common.data.translation import Parallel
from common.errors import BadInput
from common.files import write_atomic
from common.run import Run
from papers.transformer.vocabulary import END, SPECIAL, encode, load_bpe, train_bpe

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPLITS = {  # data -> its training, validation and test sets, by the names of translation.py
    "wmt14": ("train", "newstest2013", "newstest2014"),
    "multi30k": ("train", "val", "test_2016_flickr"),
}
SETTINGS = ("data", "source", "target", "vocabulary", "bpe", "max_length", "learned_positions", "steps", "batch_size")  # of tokens
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


def load(run: Run) -> tuple[list[Pairs], "Tokenizer | None", int]:
    """Training, validation and test set on the run's device, the tokenizer (None for the copy task), V; and `describe_data`.

    Raises:
        BadInput: the data or the vocabulary cannot be used; says which, where, and what to do.
    """
    path, vocabulary = run.dir / "tokens.pt", run.dir / "vocabulary.json"
    settings = {name: getattr(run.config, name) for name in SETTINGS}
    texts: list[Parallel] = []  # on the main process
    digests = run.on_main(lambda: look(run, texts, path.exists()))
    run.same_data(**digests)
    run.on_main(lambda: ready(path, settings, digests) or prepare(run, texts, path, vocabulary, settings))
    tokens = kept(path)
    digest = hashlib.sha256(vocabulary.read_bytes()).hexdigest() if vocabulary.exists() else ""
    if digest != tokens["vocabulary"]:
        raise BadInput(
            f"{vocabulary} is missing or not the one that this run began with: put it back, or start over with --restart"
        )
    tokenizer = load_bpe(vocabulary) if digest else None
    V = tokenizer.get_vocab_size() if tokenizer else len(SPECIAL) + SYMBOLS
    run.describe_data(**tokens["about"], vocabulary=V, **({"bleu": bleu.signature()} if tokenizer else {}))
    splits = [Pairs(Ragged(*s["source"]), Ragged(*s["target"]), s["sources"], s["references"]) for s in tokens["splits"]]
    return [split.to(run.device) for split in splits], tokenizer, V


def look(run: Run, texts: list[Parallel], again: bool) -> dict[str, str]:
    """Read the texts, and say what they are; nothing where they are gone and their tokens are here, to which a run goes on."""
    if run.config.data == "copy":
        return {}
    try:
        texts += read(run)
    except BadInput:
        if not again:
            raise
        return {}
    return dict(zip(("sha256", "val_sha256", "test_sha256"), (each.sha256 for each in texts), strict=True))


def ready(path: Path, settings: dict[str, Any], digests: dict[str, str]) -> bool:
    """Whether the tokens have been made with these settings, of these texts."""
    if not path.exists():
        return False
    tokens = kept(path)
    return tokens["settings"] == settings and digests.items() <= tokens["about"].items()


def kept(path: Path) -> dict[str, Any]:
    """What `prepare` wrote. Raises BadInput: it is damaged."""
    try:
        return torch.load(path, weights_only=True, mmap=True)
    except Exception as error:  # torch raises half a dozen types for damaged files
        raise BadInput(f"{path} is damaged ({type(error).__name__}): delete it and run the same command again") from error


def prepare(run: Run, texts: list[Parallel], path: Path, vocabulary: Path, settings: dict[str, Any]) -> None:
    """Write the tokens, and the vocabulary that they are of, whole or not at all."""
    config = run.config
    if config.data == "copy":
        splits = [copies(config.steps * config.batch_size // (LENGTH + 1), run.seed), copies(1000, "val"), copies(1000, "held out")]
        about, digest = {"name": "copies of random symbols", "generator": "papers/transformer/sentences.py", "seed": run.seed}, ""
    else:
        if config.bpe:
            tokenizer = load_bpe(Path(config.bpe))
        else:
            run.say(f"learning a vocabulary of {config.vocabulary:,} from {len(texts[0]):,} pairs")
            tokenizer = train_bpe((text for side in (texts[0].source, texts[0].target) for text in side), config.vocabulary)
        temporary = vocabulary.with_suffix(".tmp")
        tokenizer.save(str(temporary))
        os.replace(temporary, vocabulary)
        digest = hashlib.sha256(vocabulary.read_bytes()).hexdigest()
        splits = [encoded(tokenizer, each, texts=i > 0) for i, each in enumerate(texts)]
        splits[0], long = short_enough(splits[0], config.max_length)
        left_out = {"empty": texts[0].empty, "long": long}
        if any(left_out.values()):
            limit = f"{long:,} with more than {config.max_length} tokens"
            run.say(f"left out of training: {texts[0].empty:,} pairs with an empty side, {limit}")
        about = {"name": f"{config.data} {config.source}-{config.target}", "sha256": texts[0].sha256, "left_out": left_out}
        about |= {"val_sha256": texts[1].sha256, "test_sha256": texts[2].sha256}
    if config.learned_positions:
        refuse_long(splits, config)
    about |= {"train": len(splits[0]), "test": len(splits[2]), "stand_in": config.data == "made-up"}
    plain = [{k: (v.tokens, v.lengths) if isinstance(v, Ragged) else v for k, v in vars(split).items()} for split in splits]
    buffer = io.BytesIO()
    torch.save({"settings": settings, "about": about, "vocabulary": digest, "splits": plain}, buffer)
    write_atomic(path, buffer.getbuffer())


def read(run: Run) -> list[Parallel]:
    """Training, validation and test texts."""
    config = run.config
    if config.data == "made-up":
        return [made_up(300, 0), made_up(20, 1), made_up(20, 2)]
    fetch, get = {
        "wmt14": (translation.fetch_wmt14, translation.wmt14),
        "multi30k": (translation.fetch_multi30k, translation.multi30k),
    }[config.data]
    fetch(run.data_dir, config.source, config.target)
    return [get(run.data_dir, config.source, config.target, split) for split in SPLITS[config.data]]


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
    """Stand-in sentences: made-up words, and as their translation those words in reverse with another ending."""
    generator = torch.Generator().manual_seed(mix("made-up", seed))
    words = [a + b for a in ("ba", "do", "ki", "lu", "me") for b in ("n", "ra", "s", "ti")]
    pairs = []
    for _ in range(n):
        length = int(torch.randint(2, 9, (), generator=generator))
        chosen = [words[i] for i in torch.randint(len(words), (length,), generator=generator)]
        pairs.append((" ".join(chosen) + ".", " ".join(word + "o" for word in reversed(chosen)) + "."))
    source, target = map(list, zip(*pairs, strict=True))
    return Parallel(source, target, sha256=hashlib.sha256("\n".join(source + target).encode()).hexdigest(), empty=0)
