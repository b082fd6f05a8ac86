"""A run of this folder for other programs: `make export-bert RUN=runs/bert/SOME/seed0 FORMAT=transformers`."""

import json
from pathlib import Path
from types import SimpleNamespace

import torch
import transformers
from torch import Tensor, nn
from transformers import BertConfig

from common import directory
from common.errors import BadInput
from common.options import Options
from papers.bert import finetune
from papers.bert.keys import from_transformers
from papers.bert.model import Classifier, Pretraining, Spans
from papers.bert.pretrain import Pretrain
from papers.bert.spans import Squad
from papers.bert.tasks import TASKS

SHOWN = "tokens, segments (0: A, 1: B), and which tokens are no padding, (n, T) each; outputs are logits"
THEIRS = {Pretraining: "PreTraining", Classifier: "SequenceClassification", Spans: "QuestionAnswering"}


class Both(Pretraining):
    """Pre-training's answers for all tokens, and for their pairs."""

    def forward(self, tokens: Tensor, segments: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        states = self.bert(tokens, segments, real)
        return self.vocabulary(states), self.next(self.bert.pooled(states, real))


def of_run(folder: Path) -> nn.Module:
    """Of several rates the one that the dev set chose. Raises BadInput: it is no folder of such a run, or has no checkpoint.

    What a run of fine-tuning began with tells its heads and its GELU: it has to be where it was, in $DATA_DIR or data/.
    """
    _, config, learned = directory.learned(folder, "bert", Pretrain, finetune.Finetuning, Squad)
    if isinstance(config, Pretrain):
        bert = finetune.from_run(folder, 0.0, print)[0]
        net, name = Both(bert), "model"
    else:
        before = SimpleNamespace(config=config, data_dir=Options().data_dir, on_main=lambda f: f(), say=print)
        bert = finetune.source(before)[0]
        several = isinstance(config, finetune.Finetuning) and len(config.rates) > 1
        record = folder / "result.json"
        if several and not record.exists():
            raise BadInput(f"the run in {folder} has not ended, and learns with several rates: wait for the best")
        found = json.loads(record.read_text(encoding="utf-8"))["metrics"] if several else {}
        name = f"model_lr{found['chosen_lr']:g}" if several else "model"
        net = Spans(bert) if isinstance(config, Squad) else Classifier(bert, TASKS[config.task].classes)
    directory.restore(folder, {"model": learned[name]}, {"model": net})
    return net.eval()


def inputs(net: nn.Module, n: int) -> dict[str, Tensor]:
    T, bert = min(net.bert.context, 3 + n), net.bert
    tokens, segments = torch.randint(bert.tokens.num_embeddings, (n, T)), torch.randint(2, (n, T))
    return {"tokens": tokens, "segments": segments, "real": torch.arange(T) <= torch.arange(1, n + 1)[:, None]}


def theirs(net: nn.Module) -> nn.Module:
    bert, (V, D) = net.bert, net.bert.tokens.weight.shape
    config = BertConfig(
        vocab_size=V, hidden_size=D, num_hidden_layers=len(bert.layers), num_attention_heads=bert.layers[0].attention.h,
        intermediate_size=4 * D, hidden_act={"tanh": "gelu_new", "none": "gelu"}[bert.gelu],
        max_position_embeddings=bert.context, num_labels=net.W.out_features if isinstance(net, Classifier) else 2,
    )  # fmt: skip
    name = next(name for kind, name in THEIRS.items() if isinstance(net, kind))
    return getattr(transformers, f"BertFor{name}")(config)


def call(net: nn.Module, tokens: Tensor, segments: Tensor, real: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    found = net(tokens, real.long(), segments)
    if "start_logits" in found:
        return torch.stack([found.start_logits, found.end_logits], 1).masked_fill(~real[:, None], torch.finfo().min)
    return (found.prediction_logits, found.seq_relationship_logits) if "prediction_logits" in found else found.logits


LIBRARIES = {"transformers": (theirs, from_transformers, call)}
