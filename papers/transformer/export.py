"""A run of this folder for other programs: `make export-transformer RUN=runs/transformer/multi30k-de-en/seed0 FORMAT=onnx`."""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import MarianConfig, MarianMTModel

from common.errors import BadInput
from papers.transformer.keys import POSITIONS, from_transformers
from papers.transformer.model import Transformer
from papers.transformer.translate import load
from papers.transformer.vocabulary import END, PAD, START

SHOWN = (
    "source (n, S), padded with 0, and what the decoder sees of the target (n, T), 1 and then tokens until 2; outputs are logits "
    "of the next ones; tokens are numbers of the run's vocabulary.json, which the tokenizers library reads"
)


class Encoder(nn.Module):
    def __init__(self, net: Transformer) -> None:
        super().__init__()
        self.net = net

    def forward(self, source: Tensor) -> Tensor:
        return self.net.encode(source)[0]  # (n, S, D)


class Decoder(Encoder):
    def forward(self, source: Tensor, memory: Tensor, target: Tensor) -> Tensor:
        mask, y = (source != self.net.pad)[:, None, None], self.net.embed(target)
        for layer in self.net.decoder:
            y, _ = layer(y, layer.cross_attention.keys_values(memory), mask)
        return self.net.logits(y)  # (n, T, V)


def parts(net: Transformer) -> dict[str, nn.Module]:
    return {"encoder": Encoder(net).eval(), "decoder": Decoder(net).eval()}


def of_run(folder: Path) -> Transformer:
    """Its averaged weights. Raises BadInput: it is no folder of such a run, or has no checkpoint, or no vocabulary."""
    return load(folder)[0]


def inputs(net: nn.Module, n: int) -> dict[str, Tensor]:
    whole = getattr(net, "net", net)
    V, D = whole.embedding.weight.shape
    source, target = torch.randint(3, V, (n, 4 + n)), torch.randint(3, V, (n, 1 + 2 * n))
    source[0, 3:], target[:, 0] = PAD, START
    more = {"memory": torch.randn(n, 4 + n, D)} if isinstance(net, Decoder) else {}
    return {"source": source} | more | ({} if type(net) is Encoder else {"target": target})


def theirs(net: Transformer) -> nn.Module:
    """transformers' network of the same sizes. Raises BadInput: it has none."""
    layer, (V, D) = net.encoder[0], net.embedding.weight.shape
    h, d_ff = layer.self_attention.h, layer.feed_forward.W_1.out_features
    if net.positions is not None or {layer.self_attention.W_K.out_features, layer.self_attention.W_V.out_features} != {D}:
        raise BadInput("transformers' Marian has sinusoids, and heads of d_model / h: take safetensors or onnx")
    sizes = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in
             (("layers", len(net.encoder)), ("attention_heads", h), ("ffn_dim", d_ff))}  # fmt: skip
    return MarianMTModel(MarianConfig(
        vocab_size=V, d_model=D, **sizes, activation_function="relu", scale_embedding=True, pad_token_id=PAD, eos_token_id=END,
        decoder_start_token_id=START, forced_eos_token_id=None, max_position_embeddings=1024,
    ))  # fmt: skip


def convert(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what we do not learn: their sinusoids, and a bias of the logits, which is 0."""
    state = from_transformers({key: each for key, each in weights.items() if key.removeprefix("model.") not in POSITIONS})
    return {key: each for key, each in state.items() if key != "bias"}


def call(net: nn.Module, source: Tensor, target: Tensor) -> Tensor:
    return net(source, (source != PAD).long(), target).logits


LIBRARIES = {"transformers": (theirs, convert, call)}
