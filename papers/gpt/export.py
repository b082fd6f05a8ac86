"""A run of this folder for other programs: `make export-gpt RUN=runs/gpt/tinyshakespeare/seed0 FORMAT=transformers`."""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

from common import directory
from common.errors import BadInput
from papers.gpt.keys import from_transformers
from papers.gpt.model import GPT
from papers.gpt.pretrain import Pretraining

SHOWN = (
    "tokens (n, T), numbers of the run's vocabulary.json, which the tokenizers library reads; outputs are logits of the next ones"
)


def of_run(folder: Path) -> nn.Module:
    """The network of a run of pre-training. Raises BadInput: it is no folder of such a run, or has no checkpoint that fits."""
    _, config, learned = directory.learned(folder, "gpt", Pretraining)
    net = config.net(len(learned["model"]["embedding.weight"]))
    directory.restore(folder, {"model": learned["model"]}, {"model": net})
    return net.eval()


def inputs(net: nn.Module, n: int) -> dict[str, Tensor]:
    return {"tokens": torch.randint(net.embedding.num_embeddings, (n, min(net.context, 2 + n)))}


def theirs(net: nn.Module) -> nn.Module:
    """transformers' network of the same sizes. Raises BadInput: it has none."""
    if not isinstance(net, GPT):
        raise BadInput("transformers has no such LSTM: take safetensors or onnx")
    V, D = net.embedding.weight.shape
    sizes = {"vocab_size": V, "n_positions": net.context, "n_embd": D, "n_layer": len(net.blocks)}
    return OpenAIGPTLMHeadModel(OpenAIGPTConfig(**sizes, n_head=net.blocks[0].attention.h, afn="gelu"))


LIBRARIES = {"transformers": (theirs, from_transformers)}
