"""The official weights (openai/finetune-transformer-lm, or openai-gpt of Hugging Face) in our GPT, on held-out text.

    make evaluate-gpt ARGS=openai-gpt                                  # downloaded to data/weights/
    make evaluate-gpt ARGS="path/to/folder --corpus wikitext-2"        # a folder of the hub's files, or of the authors'
    torchrun --nproc-per-node=8 -m papers.gpt.pretrained openai-gpt --data-dir /datasets

The network is the paper's. Its vocabulary is here as transformers has it, without the authors' ftfy and spaCy: text is lower-cased,
without accents, and cut at spaces and punctuation; spaces and ends of lines leave no trace, and what it has no piece for is <unk>.
So a perplexity is of what is left, and none by word is given.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from common.claims import Claim, Experiment
from common.command import evaluate_weights
from common.run import Run
from common.weights import check_files, filled, fingerprint, read, refused
from papers.gpt import corpus, vocabulary
from papers.gpt.keys import SHAPES, SHARDS, from_openai, from_transformers
from papers.gpt.model import GPT
from papers.gpt.pretrain import heldout
from papers.gpt.vocabulary import ADVICE, FILES, VOCABULARIES, fetch

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SETTINGS = {"model_type": "openai-gpt", "afn": "gelu", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True}  # of config.json


def build(state: Mapping[str, Tensor], n_head: int = 12, dropout: float = 0.1) -> GPT:
    """The model whose state dict this is, with these weights; other sizes are the tensors'.

    Raises:
        ValueError: a tensor is missing, or has a shape that does not fit the others or n_head.
    """
    tables = [state.get(name, torch.empty(0)) for name in ("embedding.weight", "positions.weight")]
    if not all(table.ndim == 2 for table in tables):
        raise ValueError(f"not a GPT of ours: embeddings have shapes {', '.join(str(tuple(table.shape)) for table in tables)}")
    (vocabulary, D), context = tables[0].shape, len(tables[1])
    if n_head < 1 or D % n_head:
        raise ValueError(f"n_head {n_head} does not divide the width {D}")
    n_layer = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    model = GPT(vocabulary, n_layer=n_layer, n_head=n_head, D=D, context=context, dropout=dropout)
    return filled(model, state, "a GPT of ours")


def check(config: Mapping[str, Any], model: GPT) -> None:
    """Raises ValueError: config.json says something that the model is not."""
    (vocabulary, D), context = model.embedding.weight.shape, model.context
    sizes = {"vocab_size": vocabulary, "n_embd": D, "n_layer": len(model.blocks), "n_positions": context, "n_ctx": context}
    facts = (SETTINGS | sizes).items()
    if wrong := [f"{name} {config[name]}, not {value}" for name, value in facts if config.get(name, value) != value]:
        raise ValueError(f"config.json has {'; '.join(wrong)}")


def load(weights: str, folder: Path) -> "tuple[GPT, Tokenizer]":
    """The model and the vocabulary of a folder, which `fetch` gives for `weights`.

    Raises:
        BadInput: files are missing, damaged, or of another model; says which.
    """
    with refused(weights, ADVICE):
        authors = (*SHARDS, SHAPES, *VOCABULARIES[1])
        if not (folder / "config.json").exists() and any((folder / name).exists() for name in authors):
            check_files(folder, authors, ())
            model = build(from_openai(folder))
        else:
            check_files(folder, FILES[: 1 if (folder / "tokenizer.json").exists() else None])
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            model = build(from_transformers(read(folder, folder)), config.get("n_head", 12))
            check(config, model)
        tokenizer = vocabulary.read(folder)
        if (V := tokenizer.get_vocab_size()) != len(model.embedding.weight):
            raise ValueError(f"the vocabulary has {V:,} tokens, the model embeddings of {len(model.embedding.weight):,}")
        return model, tokenizer


@dataclass(frozen=True)
class Weights:
    weights: str
    """openai-gpt or OWNER/NAME of the Hugging Face hub, to be downloaded, or a folder that holds its files, or the authors'."""
    corpus: Literal["bookscorpus", "wikitext-2", "tinyshakespeare"] = "bookscorpus"
    """Whose held-out text it is."""


WEIGHTS = {
    "weights-openai-gpt": Experiment(
        Weights("openai-gpt"), kind="weights", source="Sec. 4.1", cap="the held-out text",
        cost="BooksCorpus as tokens, and a minute on one A100, a guess; not run here",
        claims=[
            Claim(
                "val_ppl", 18.4, "", "Sec. 4.1", lower_is_better=True, tolerance=0.4,
                why="the paper does not say what text it is of; these weights have seen all of BooksCorpus, tokens differ a little",
            )
        ],
    )
}  # fmt: skip


def main(run: Run[Weights]) -> dict[str, float]:
    folder = run.on_main(lambda: fetch(run.config.weights, run.data_dir / "weights"))
    model, _ = load(run.config.weights, folder)
    T = min(model.context, 512)
    settings = corpus.Settings(run.config.corpus, run.config.weights)
    text, about = corpus.load(settings, run.data_dir, spare=run.dir, context=T, on_main=run.on_main)
    run.describe_data(**about, weights_sha256=fingerprint(model))
    model = model.to(run.device)
    metrics = heldout(run, model, text, T)
    for split in [name for name in text.splits if name != "train"]:
        run.say(f"{split}: {len(text.splits[split]):,} tokens, in windows of {T}, {metrics[f'{split}_loss']:.4f} nats each")
    return metrics


if __name__ == "__main__":
    evaluate_weights(WEIGHTS, main)
