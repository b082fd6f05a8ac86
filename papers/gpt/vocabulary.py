"""Byte-pair encodings: the official one, and those that are learned from a corpus."""

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import BadInput
from common.weights import TENSORS, folder_of, refused
from papers.gpt.keys import SHAPES, SHARDS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Texts = Mapping[str, Callable[[], Iterator[str]]]  # split -> its text, in pieces that end with lines

LEARNED = ("bytes", "characters")
FILES = ("config.json", "vocab.json", "merges.txt")  # of Hugging Face, beside the weights
VOCABULARIES = (
    ("vocab.json", "merges.txt"),
    ("encoder_bpe_40000.json", "vocab_40000.bpe"),
    ("tokenizer.json",),
)  # the first is taken
ADVICE = (
    f"name openai-gpt, OWNER/NAME of the Hugging Face hub, or a folder that holds {', '.join(FILES)} and {' or '.join(TENSORS)}, "
    f"or the authors' {SHARDS[0]} to {SHARDS[-1]}, {SHAPES}, {' and '.join(VOCABULARIES[1])}; "
    "tokenizer.json does for the two files of a vocabulary, and a vocabulary alone is enough where there are no weights"
)


def fetch(weights: str, cache: Path, *, tensors: bool = True) -> Path:
    """The folder of these weights, downloaded to `cache` if `weights` is none; or of their vocabulary and config.json only.

    Raises:
        BadInput: it cannot be had; says why, and what to do.
    """
    repository = "openai-community/openai-gpt" if weights == "openai-gpt" and not Path(weights).exists() else weights
    with refused(weights, ADVICE):
        return folder_of(repository, cache, (*FILES, "tokenizer.json"), TENSORS if tensors else ())


def official(name: str, cache: Path) -> "Tokenizer":
    """The vocabulary of openai-gpt, or of OWNER/NAME of the hub, downloaded to `cache`, or of a folder.

    Raises:
        BadInput: it cannot be had, or is damaged; says why, and what to do.
    """
    folder = fetch(name, cache, tensors=False)
    with refused(name, ADVICE):
        return read(folder)


def read(folder: Path) -> "Tokenizer":
    """The byte-pair encoding of a folder, as transformers' OpenAIGPTTokenizer has it. Of tokenizer.json pieces and merges count.

    Raises:
        ValueError: files are missing, or damaged.
    """
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    files = next((pair for pair in VOCABULARIES if all((folder / name).exists() for name in pair)), None)
    if files is None:
        raise ValueError(f"it has no {', and no '.join(' and '.join(pair) for pair in VOCABULARIES)}")
    try:
        if len(files) == 1:
            model = json.loads((folder / files[0]).read_text(encoding="utf-8"))["model"]
            vocabulary = model["vocab"]
            merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]
        else:
            vocabulary, merges = BPE.read_file(*(str(folder / name) for name in files))
        if "<unk>" not in vocabulary or sorted(vocabulary.values()) != list(range(len(vocabulary))):
            raise ValueError("no <unk>, or not all numbers from 0 on")
        tokenizer = Tokenizer(BPE(vocabulary, merges, unk_token="<unk>", continuing_subword_prefix="", end_of_word_suffix="</w>"))
    except Exception as error:  # the library's have no class of their own
        raise ValueError(f"{' and '.join(files)}: {error}") from error
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    tokenizer.add_special_tokens(["<unk>"])  # so that it is one token in a text, too: WikiText-2 is full of it
    return tokenizer


def learn(tokens: str, size: int, texts: Texts) -> "Tokenizer":
    """One of LEARNED: `size` byte-level tokens at most, of the training split, or the characters of all splits."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    if tokens == "characters":  # of all splits, as those who publish numbers by character count them
        found = sorted(set(chain.from_iterable(chain.from_iterable(pieces() for pieces in texts.values())))) or [" "]
        tokenizer = Tokenizer(models.WordLevel({character: i for i, character in enumerate(found)}, unk_token=found[0]))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        tokenizer.decoder = decoders.Fuse()
    else:
        print(f"learning a byte-level vocabulary of {size:,}", flush=True)
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(texts["train"](), trainer)
    return tokenizer


def load(path: Path) -> "Tokenizer":
    """Raises BadInput: it is missing or damaged."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers has no error of its own
        raise BadInput(f"cannot read the vocabulary {path}: {error}; start the run that made it over, with --restart") from error
