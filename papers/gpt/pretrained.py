"""The official weights (openai/finetune-transformer-lm, or openai-gpt of Hugging Face) in our GPT, on held-out text.

    make evaluate-gpt ARGS=openai-gpt                                  # downloaded to data/weights/
    make evaluate-gpt ARGS="path/to/folder --corpus wikitext-2"        # a folder of the hub's files, or of the authors'
    torchrun --nproc-per-node=8 -m papers.gpt.pretrained openai-gpt --data-dir /datasets

The network is the paper's. Its vocabulary is here as transformers has it, without the authors' ftfy and spaCy: text is lower-cased,
without accents, and cut at spaces and punctuation; spaces and ends of lines leave no trace, and what it has no piece for is <unk>.
So a perplexity is of what is left, and none by word is given.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from common.claims import Claim, Experiment
from common.command import evaluate_weights
from common.errors import BadInput
from common.run import Run
from common.weights import TENSORS, fingerprint, folder_of, read_tensors
from papers.gpt import corpus
from papers.gpt.model import GPT
from papers.gpt.pretrain import heldout

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PARTS = {  # of a layer, in the order of the authors' files; each has a weight, or gain, and a bias
    "attn.c_attn": "attention.qkv", "attn.c_proj": "attention.out", "ln_1": "norm1",
    "mlp.c_fc": "mlp.0", "mlp.c_proj": "mlp.2", "ln_2": "norm2",
}  # fmt: skip
LAYER = re.compile(r"h\.(\d+)\.")
MASK = re.compile(r"(transformer\.)?(h\.\d+\.attn\.(masked_)?bias|position_ids)")  # buffers of older files
SETTINGS = {"model_type": "openai-gpt", "afn": "gelu", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True}  # of config.json

FILES = ("config.json", "vocab.json", "merges.txt")
SHARDS, SHAPES = tuple(f"params_{i}.npy" for i in range(10)), "params_shapes.json"
VOCABULARIES = (("vocab.json", "merges.txt"), ("encoder_bpe_40000.json", "vocab_40000.bpe"))


def names(depth: int) -> dict[str, str]:
    """Name of each weight in transformers -> in our GPT, in the order of the authors' files."""
    parts = [(i, theirs, ours, kind) for i in range(depth) for theirs, ours in PARTS.items() for kind in ("weight", "bias")]
    layers = {f"h.{i}.{theirs}.{kind}": f"blocks.{i}.{ours}.{kind}" for i, theirs, ours, kind in parts}
    return {"positions_embed.weight": "positions.weight", "tokens_embed.weight": "embedding.weight", **layers}


def from_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of OpenAIGPTLMHeadModel, with or without "transformer." before its keys -> state dict of our GPT.

    Their Conv1D holds its matrix as (in, out), nn.Linear as (out, in).

    Raises:
        ValueError: there is a key that such a model does not have, or one is missing, or the head is not the embeddings.
    """
    theirs = {key.removeprefix("transformer."): tensor for key, tensor in weights.items() if not MASK.fullmatch(key)}
    head = theirs.pop("lm_head.weight", None)
    if head is not None and not torch.equal(theirs.setdefault("tokens_embed.weight", head), head):
        raise ValueError("lm_head.weight is not tokens_embed.weight, as it is in our model")
    ours, state = names(max([0, *(int(match[1]) for match in map(LAYER.match, theirs) if match)]) + 1), {}
    if unknown := [name for name in theirs if name not in ours]:
        raise ValueError(f"not a state dict of OpenAIGPTLMHeadModel: {unknown[0]} is no weight of its")
    if missing := [name for name in ours if name not in theirs]:
        raise ValueError(shorten(f"it has no {', '.join(missing)}", 200))
    for name, tensor in theirs.items():
        linear = ".c_" in name and name.endswith("weight")
        if linear and tensor.ndim != 2:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, not (in, out)")
        state[ours[name]] = tensor.T if linear else tensor
    return state


def from_openai(folder: Path) -> dict[str, Tensor]:
    """The authors' params_0.npy to params_9.npy, all weights in a row, cut as params_shapes.json says -> state dict of our GPT.

    Raises:
        ValueError, OSError, EOFError: files are missing, damaged, or of another network.
    """
    import numpy as np

    shapes = json.loads((folder / SHAPES).read_text())
    flat = torch.from_numpy(np.concatenate([np.load(folder / name).ravel() for name in SHARDS]))
    sizes, (depth, rest) = [math.prod(shape) for shape in shapes], divmod(len(shapes) - 2, 2 * len(PARTS))
    if rest or depth < 1:
        raise ValueError(f"{SHAPES} has {len(shapes)} shapes, not two and {2 * len(PARTS)} for each layer")
    if sum(sizes) != len(flat):
        raise ValueError(f"params_*.npy hold {len(flat):,} numbers, {SHAPES} has {sum(sizes):,}")
    tensors = [piece.view(*shape) for piece, shape in zip(flat.split(sizes), shapes, strict=True)]
    return from_transformers({name: x[0] if x.ndim == 3 else x for name, x in zip(names(depth), tensors, strict=True)})


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
    try:
        model.load_state_dict(state)
    except RuntimeError as error:  # its second line names the first tensors that are wrong
        raise ValueError(f"not a GPT of ours: {shorten(str(error).splitlines()[1], 200)}") from error
    return model


def check(config: Mapping[str, Any], model: GPT) -> None:
    """Raises ValueError: config.json says something that the model is not."""
    (vocabulary, D), context = model.embedding.weight.shape, model.context
    sizes = {"vocab_size": vocabulary, "n_embd": D, "n_layer": len(model.blocks), "n_positions": context, "n_ctx": context}
    facts = (SETTINGS | sizes).items()
    if wrong := [f"{name} {config[name]}, not {value}" for name, value in facts if config.get(name, value) != value]:
        raise ValueError(f"config.json has {'; '.join(wrong)}")


def refused(weights: str, error: Exception) -> BadInput:
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
    return BadInput(
        f"cannot load {weights} ({reason}): name openai-gpt, OWNER/NAME of the Hugging Face hub, or a folder that holds "
        f"{', '.join(FILES)} and {' or '.join(TENSORS)}, or the authors' {SHARDS[0]} to {SHARDS[-1]}, {SHAPES}, "
        f"{' and '.join(VOCABULARIES[1])}; of a vocabulary alone its two files are enough"
    )


def fetch(weights: str, cache: Path, *, tensors: bool = True) -> Path:
    """The folder of these weights, downloaded to `cache` if `weights` is none; or of their vocabulary and config.json only.

    Raises:
        BadInput: it cannot be had; says why, and what to do.
    """
    repository = "openai-community/openai-gpt" if weights == "openai-gpt" else weights
    try:
        return folder_of(weights, repository, cache, FILES, tensors=tensors)
    except Exception as error:  # of the hub, from a name that it does not know to no network
        raise refused(weights, error) from error


def read_vocabulary(folder: Path) -> "Tokenizer":
    """The byte-pair encoding of a folder, as transformers' OpenAIGPTTokenizer has it.

    Raises:
        ValueError: files are missing, or damaged.
    """
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    files = next((pair for pair in VOCABULARIES if all((folder / name).exists() for name in pair)), None)
    if files is None:
        raise ValueError(f"it has no {', and no '.join(' and '.join(pair) for pair in VOCABULARIES)}")
    try:
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


def official_vocabulary(name: str, cache: Path) -> "Tokenizer":
    """The vocabulary of openai-gpt, or of OWNER/NAME of the hub, downloaded to `cache`, or of a folder.

    Raises:
        BadInput: it cannot be had, or is damaged; says why, and what to do.
    """
    folder = fetch(name, cache, tensors=False)
    try:
        return read_vocabulary(folder)
    except ValueError as error:
        raise refused(name, error) from error


def load(weights: str, folder: Path) -> "tuple[GPT, Tokenizer]":
    """The model and the vocabulary of a folder, which `fetch` gives for `weights`.

    Raises:
        BadInput: files are missing, damaged, or of another model; says which.
    """
    try:
        there = {path.name for path in folder.iterdir()}
        authors = (*SHARDS, SHAPES, *VOCABULARIES[1])
        if is_authors := "config.json" not in there and not there.isdisjoint(authors):
            missing = [name for name in authors if name not in there]
        else:
            missing = [name for name in FILES if name not in there] + ["weights"] * there.isdisjoint(TENSORS)
        if missing:
            raise ValueError(f"it has no {', '.join(missing)}")
        if is_authors:
            model = build(from_openai(folder))
        else:
            config = json.loads((folder / "config.json").read_text())
            model = build(from_transformers(read_tensors(folder)), config.get("n_head", 12))
            check(config, model)
        tokenizer = read_vocabulary(folder)
        if (V := tokenizer.get_vocab_size()) != len(model.embedding.weight):
            raise ValueError(f"the vocabulary has {V:,} tokens, the model embeddings of {len(model.embedding.weight):,}")
    except Exception as error:  # of four libraries
        raise refused(weights, error) from error
    return model, tokenizer


@dataclass(frozen=True)
class Weights:
    weights: str
    """openai-gpt or OWNER/NAME of the Hugging Face hub, to be downloaded, or a folder that holds its files, or the authors'."""
    corpus: Literal["bookscorpus", "wikitext-2", "tinyshakespeare"] = "bookscorpus"
    """Whose held-out text it is."""

    tokens = property(lambda self: self.weights)  # what corpus.load reads besides
    vocabulary = property(lambda self: 40_478)
    context = property(lambda self: 512)


WEIGHTS = {
    "weights-openai-gpt": Experiment(
        Weights("openai-gpt"), kind="weights", source="Sec. 4.1", cap="the held-out text",
        cost="BooksCorpus as tokens, and a minute on one GPU; not run here",
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
    model, tokenizer = load(run.config.weights, folder)
    text = corpus.load(run, weights_sha256=fingerprint(model))
    if tokenizer.get_vocab() != text.tokenizer.get_vocab():
        raise BadInput(f"{run.dir / 'vocabulary.json'} is not the vocabulary of {folder.absolute()}: --restart starts over")
    model, T = model.to(run.device), min(model.context, run.config.context)
    metrics = heldout(run, model, text, T)
    for split in [name for name in text.splits if name != "train"]:
        run.say(f"{split}: {len(text.splits[split]):,} tokens, in windows of {T}, {metrics[f'{split}_loss']:.4f} nats each")
    return metrics


if __name__ == "__main__":
    evaluate_weights(WEIGHTS, main)
