"""Sentences into the other language, by the weights of a run.

    echo "Ein Hund rennt im Schnee." | python -m papers.seq2seq_attention.translate runs/seq2seq_attention/multi30k-de-en/seed0
    python -m papers.seq2seq_attention.translate RUN --alignments out.png < text       # and Fig. 3 of the first four lines

A line is a sentence, and so is a line of the output; an empty one stays empty. Words that the run has not learned are [UNK], and a
sentence of them alone, or one that is longer than those it learned from, is translated with a line of warning.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from common import directory, figures
from common.data.ragged import by_length, ragged
from common.errors import BadInput
from papers.seq2seq_attention import sentences
from papers.seq2seq_attention.evaluation import NAMES, alignments, readable
from papers.seq2seq_attention.model import EncoderDecoder, beam_search
from papers.seq2seq_attention.sentences import END, PAD, SPECIAL, UNKNOWN, Words
from papers.seq2seq_attention.train import Config


class Translator(NamedTuple):
    """The network of a run, its words, and its hyper-parameters."""

    net: EncoderDecoder
    words: tuple[Words, Words]
    config: Config


def load(run: Path, name: str = "") -> Translator:
    """RNNsearch of a run's directory, or the network of that name, with the weights that the run tests.

    Raises:
        BadInput: it is no such directory, has no checkpoint, or no such network; says what to do.
    """
    _, config, learned = directory.learned(run, "seq2seq_attention", Config)
    try:
        words = tuple(
            Words((run / f"words.{side}.txt").read_text(encoding="utf-8").split("\n")[len(SPECIAL) :])
            for side in ("source", "target")
        )
    except (OSError, ValueError) as error:
        raise BadInput(f"{run} has lost its words ({error}): make it anew, or name another run") from error
    nets = ("search", "encdec") if config.networks == "both" else (config.networks,)
    name = name or nets[0]
    if name not in nets:
        raise BadInput(f"{run} has no network {name}: name {' or '.join(nets)}")
    net = config.network(len(words[0]), len(words[1]), name)
    weights = learned["best" if config.checkpoint == "best" else "model"]
    net.load_state_dict({key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")})
    return Translator(net.eval(), words, config)


def translated(it: Translator, texts: Sequence[str], K: int, forbidden: tuple[int, ...] = ()) -> tuple[list[str], Tensor, Tensor]:
    """Of texts, none of them empty: their translations, and the words of both sides, padded (n, S), (n, L)."""
    config = it.config
    tokens = texts if config.data in sentences.TOYS else sentences.tokenised(texts, config.source, config)
    source, device = ragged(map(it.words[0].encode, tokens)), next(it.net.parameters()).device
    found = torch.full((len(texts), 3 * int(source.lengths.max())), PAD)
    for at in by_length(source.lengths, max(64, 4096 // K)):
        best, _ = beam_search(it.net, source.padded(at).to(device), end=END, K=K, forbidden=forbidden)
        found[at, : best.shape[1]] = best.cpu()
    lines = it.words[1].decode(found)
    return lines if config.data in sentences.TOYS else readable(lines, config), source.padded(torch.arange(len(texts))), found


def warnings(it: Translator, number: int, x: Tensor) -> list[str]:
    """What to say of a source (S,), line `number` of the input."""
    words, longest, said = x[(x != PAD) & (x != END)], it.config.max_length, []
    if (words == UNKNOWN).all():
        said.append(f"line {number:,}: none of its words is known, and the translation is a guess")
    if len(words) > longest:
        said.append(f"line {number:,}: it has {len(words):,} words, and the run learned from {longest} at most")
    return said


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m papers.seq2seq_attention.translate", description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="a run's directory, OUT/seq2seq_attention/EXPERIMENT/SEED")
    parser.add_argument("--beam", type=int, help="beams; 1 is greedy (those of the run)")
    parser.add_argument("--network", default="", help="search or encdec, where the run has both")
    parser.add_argument("--no-unk", action="store_true", help="without [UNK] in the output")
    parser.add_argument("--alignments", type=Path, help="draw Fig. 3 of the first four sentences into this file")
    options = parser.parse_args(argv)
    try:
        if options.beam is not None and options.beam < 1:
            raise BadInput(f"--beam must be at least 1, got {options.beam}")
        it = load(options.run, options.network)
        lines = [line.rstrip("\r\n") for line in sys.stdin]
        texts = [line for line in lines if line.strip()]
        with torch.no_grad():
            if texts:
                forbidden = (UNKNOWN,) if options.no_unk else ()
                found, x, y = translated(it, texts, options.beam or it.config.beam, forbidden)
                numbers = [number for number, line in enumerate(lines, 1) if line.strip()]
                for number, row in zip(numbers, x, strict=True):
                    for warning in warnings(it, number, row):
                        print(f"warning: {warning}", file=sys.stderr)
                results = iter(found)
                print("\n".join(next(results) if line.strip() else "" for line in lines))
            if options.alignments:
                draw(it, options, x[:4] if texts else None, y[:4] if texts else None)
    except (BadInput, UnicodeDecodeError) as error:
        said = error if isinstance(error, BadInput) else f"the input is not UTF-8 ({error.reason}): write it so"
        print(f"error: {said}", file=sys.stderr)
        return 2
    return 0


def draw(it: Translator, options: argparse.Namespace, x: Tensor | None, y: Tensor | None) -> None:
    if it.net.alignment is None:
        raise BadInput(f"--alignments: {NAMES['encdec']} has none; name --network search")
    if x is None:
        raise BadInput("--alignments: there is no sentence to draw")
    try:
        options.alignments.parent.mkdir(parents=True, exist_ok=True)
        if options.alignments.suffix != ".png":
            raise ValueError("it is no picture's name")
        options.alignments.write_bytes(figures.png(alignments(it.net, x, y, it.words), "alignments", f"of {options.run}"))
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot draw {options.alignments}: {error}; name a .png file in a folder that can be written") from error


if __name__ == "__main__":
    sys.exit(main())
