"""The vocabulary: byte-pair encoding (Sec. 5.1), and the special tokens."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from common.data.ragged import Ragged, ragged
from common.errors import BadInput

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
PAD, START, END, UNKNOWN = range(4)


def train_bpe(texts: Iterable[str], vocabulary: int) -> "Tokenizer":
    """Byte-pair encoding (Sennrich et al., 2016) of characters, learned from texts; words hold the space before them.

    What it encodes it decodes to the same text but for runs of spaces, and characters that it did not learn.

    Args:
        vocabulary: how many tokens at most, SPECIAL among them.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL[UNKNOWN]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIAL), limit_alphabet=1000, min_frequency=2, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def load_bpe(path: Path) -> "Tokenizer":
    """A tokenizer.json whose first tokens are SPECIAL, as `train_bpe(...).save(...)` writes it.

    Raises:
        BadInput: it is not there, or no such file; says what to do.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers has no error of its own
        raise BadInput(f"cannot read the vocabulary {path}: {error}; name a tokenizer.json of the tokenizers library") from error
    first = tuple(tokenizer.id_to_token(i) for i in range(len(SPECIAL)))
    if first != SPECIAL:
        raise BadInput(f"the vocabulary {path} begins with {first}, not with {SPECIAL}: train one with them as special_tokens")
    return tokenizer


def encode(tokenizer: "Tokenizer", texts: Sequence[str], chunk: int = 100_000) -> Ragged:
    """The tokens of each text, and END."""
    chunks = (texts[at : at + chunk] for at in range(0, len(texts), chunk))
    return ragged([*each.ids, END] for chunk in chunks for each in tokenizer.encode_batch(chunk))


def decode(tokenizer: "Tokenizer", tokens: Tensor) -> list[str]:
    """Padded tokens (B, T) as texts, without SPECIAL."""
    return tokenizer.decode_batch(tokens.tolist())
