"""WordPiece (Sec. 3, Input/Output Representations), by the tokenizers library: the official pieces, and such as are learned."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def read(folder: Path) -> "Tokenizer":
    """The vocabulary of a folder, as transformers' BertTokenizer has it: vocab.txt, and tokenizer_config.json where there is one.

    Without case where that says so; where it says nothing, if no piece has a capital.

    Raises:
        ValueError: it is damaged, or has not all of SPECIAL.
    """
    pieces = (folder / "vocab.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
    numbers: dict[str, int] = {}
    for i, piece in enumerate(pieces):
        if not piece or numbers.setdefault(piece, i) != i:
            raise ValueError(f"vocab.txt: line {i + 1:,} is empty, or a piece that was there before")
    if lost := [piece for piece in SPECIAL if piece not in numbers]:
        raise ValueError(f"vocab.txt has no {', '.join(lost)}")
    config = folder / "tokenizer_config.json"
    said = json.loads(config.read_text(encoding="utf-8")) if config.exists() else {}
    capitals = any(piece != piece.lower() for piece in pieces if piece not in SPECIAL and piece[0] != "[")
    return word_pieces(numbers, said.get("do_lower_case", not capitals))


def word_pieces(numbers: dict[str, int], lower: bool) -> "Tokenizer":
    """Greedy, the longest piece first; a word of over 100 characters is [UNK], as in transformers (200 in the authors' code)."""
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import WordPiece

    tokenizer = Tokenizer(WordPiece(numbers, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)  # without accents where without case
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([*SPECIAL])
    return tokenizer


def learn(texts: Sequence[str], size: int) -> "Tokenizer":
    """Without case, `size` pieces at most, those of SPECIAL first. The authors' way of learning one is not public."""
    from tokenizers.trainers import WordPieceTrainer

    tokenizer = word_pieces({piece: i for i, piece in enumerate(SPECIAL)}, lower=True)
    letters = sorted({letter for text in texts for letter in tokenizer.normalizer.normalize_str(text) if not letter.isspace()})
    first = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters)]  # numbered by itself, the library learns others each time
    trainer = WordPieceTrainer(vocab_size=max(size, len(first)), special_tokens=first, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return word_pieces(tokenizer.get_vocab(), lower=True)
