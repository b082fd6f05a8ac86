"""The official weights (google-bert/* of Hugging Face), and others of the same form, in our networks, evaluated.

    make evaluate-bert ARGS=all-MiniLM-L6-v2                      # a folder of data/weights/, else the hub's, see README.md
    make evaluate-bert ARGS=google-bert/bert-base-uncased         # downloaded to data/weights/
    make evaluate-bert ARGS="path/to/folder --task sst2"          # a fine-tuned classifier, on GLUE's dev set
    torchrun --nproc-per-node=8 -m papers.bert.pretrained google-bert/bert-base-uncased --data-dir /datasets

What is measured follows from what the weights have: both heads of pre-training, how well they do these tasks on WikiText-2's test
text; a classifier, its task's scores on the dev set; none, as sentence encoders have, Spearman's correlation of STS-B.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.claims import Claim, Experiment
from common.command import evaluate_weights
from common.errors import BadInput
from common.run import Run
from common.weights import TENSORS, check_files, filled, fingerprint, folder_of, read, refused
from papers.bert import corpus, pretrain, tasks, vocabulary
from papers.bert.keys import from_transformers
from papers.bert.model import Bert, Classifier, Pretraining, Spans
from papers.bert.tasks import TASKS, Examples, answers, examples, predictions, scores

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILES = ("config.json", "vocab.txt", "tokenizer_config.json")
ADVICE = f"name OWNER/NAME of the Hugging Face hub, or a folder with {FILES[0]}, {FILES[1]} and {' or '.join(TENSORS)}"
HUB = {"all-MiniLM-L6-v2": "sentence-transformers/all-MiniLM-L6-v2"}  # where it is, if not in data/weights
GELU = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}  # config.json's hidden_act -> torch's


def build(state: Mapping[str, Tensor], h: int, gelu: str = "none", dropout: float = 0.1) -> nn.Module:
    """The network whose state dict this is, with these weights: Bert, Pretraining, Classifier or Spans.

    Raises:
        ValueError: a tensor is missing, or has a shape that does not fit the others or h.
    """
    head = next((name for name in ("next.weight", "W.weight", "SE.weight") if name in state), "")
    before = "bert." if any(name.startswith("bert.") for name in state) else ""
    tables = [state.get(f"{before}{name}.weight", torch.empty(0)) for name in ("tokens", "positions")]
    if not all(table.ndim == 2 for table in tables):
        raise ValueError(f"not a BERT of ours: embeddings have shapes {', '.join(str(tuple(table.shape)) for table in tables)}")
    V, D = tables[0].shape
    if h < 1 or D % h:
        raise ValueError(f"{h} heads do not divide the width {D}")
    L = len({name.split(".layers.")[1].split(".")[0] for name in (f".{name}" for name in state) if ".layers." in name})
    if head == "SE.weight":  # transformers' have none, and we do not use it
        state = {"bert.pooler.weight": torch.zeros(D, D), "bert.pooler.bias": torch.zeros(D), **state}
    bert = Bert(V, L=L, D=D, h=h, positions=len(tables[1]), dropout=dropout, gelu=gelu)
    if head == "W.weight":
        model = Classifier(bert, len(state[head]), dropout)
    else:
        model = {"next.weight": Pretraining, "SE.weight": Spans, "": lambda bert: Pretraining(bert) if before else bert}[head](bert)
    return filled(model, state, "a BERT of ours")


def check(config: Mapping[str, Any], bert: Bert) -> None:
    """Raises ValueError: config.json says something that the model is not."""
    (V, D), inner = bert.tokens.weight.shape, 4 * bert.tokens.embedding_dim
    facts = {
        "model_type": "bert", "layer_norm_eps": 1e-12, "position_embedding_type": "absolute", "is_decoder": False, "vocab_size": V,
        "hidden_size": D, "intermediate_size": inner, "num_hidden_layers": len(bert.layers), "type_vocab_size": 2,
        "max_position_embeddings": bert.context,
    }  # fmt: skip
    if wrong := [f"{name} {config[name]}, not {value}" for name, value in facts.items() if config.get(name, value) != value]:
        raise ValueError(f"config.json has {'; '.join(wrong)}")


def folder(weights: str, data_dir: Path, tensors: Sequence[str] = TENSORS) -> Path:
    """Of these weights: a folder, one in data_dir/weights, or the hub's, downloaded there. Raises BadInput: it cannot be had.

    tensors: none where the vocabulary is enough.
    """
    placed = data_dir / "weights" / weights
    with refused(weights, ADVICE):
        return placed if placed.is_dir() else folder_of(HUB.get(weights, weights), data_dir / "weights", FILES, tensors)


def load(weights: str, folder: Path, dropout: float = 0.1) -> "tuple[nn.Module, Tokenizer]":
    """The network and the vocabulary of a folder, which `folder` gives for `weights`.

    Raises:
        BadInput: files are missing, damaged, or of another model; says which.
    """
    with refused(weights, ADVICE):
        check_files(folder, FILES[:2])
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if (act := config.get("hidden_act", "gelu")) not in GELU:
            raise ValueError(f"config.json has hidden_act {act}, not {' or '.join(GELU)}")
        if (kind := config.get("model_type", "bert")) != "bert":
            raise ValueError(f"config.json has model_type {kind}, not bert")
        model = build(from_transformers(read(folder, folder)), config.get("num_attention_heads", 12), GELU[act], dropout)
        check(config, bert := getattr(model, "bert", model))
        tokenizer = vocabulary.read(folder)
        if (V := tokenizer.get_vocab_size()) != len(bert.tokens.weight):
            raise ValueError(f"the vocabulary has {V:,} pieces, the model embeddings of {len(bert.tokens.weight):,}")
        return model, tokenizer


@dataclass(frozen=True)
class Weights:
    weights: str
    """A folder, the name of one in DATA_DIR/weights, or OWNER/NAME of the Hugging Face hub, to be downloaded there."""
    task: Literal["", "cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte"] = ""
    """Of a classifier: which one it has learned."""


MTEB = (
    "public leaderboards have 82.03 for this encoder, from memory; 82.03 is also what transformers' network gave on these files, "
    "the other way to compute the same: a difference would be a mistake here"
)
SEEN = "the paper's is of its own pre-training text; these weights have seen Wikipedia, of which WikiText-2 is a part"
WEIGHTS = {
    "weights-all-MiniLM-L6-v2": Experiment(
        Weights("all-MiniLM-L6-v2"), kind="weights", source="Sec. 3", cap="STS-B's test set", cost="a minute on one CPU core",
        claims=[Claim("test_spearman", 82.03, "%", "a leaderboard, from memory", tolerance=0.01, why=MTEB, either_way=True)],
    ),
    "weights-google-bert-bert-base-uncased": Experiment(
        Weights("google-bert/bert-base-uncased"), kind="weights", source="Sec. 3.1", cap="WikiText-2's test text",
        cost="440 MB to download, a minute on one A100, a guess; not run here",
        claims=[Claim("test_next_accuracy", 97, "%", "Sec. 3.1, footnote 5", tolerance=2, why=SEEN)],
    ),
    "weights-gchhablani-bert-base-cased-finetuned-sst2": Experiment(
        Weights("gchhablani/bert-base-cased-finetuned-sst2", "sst2"), kind="weights", source="Table 1", cap="SST-2's dev set",
        cost="430 MB to download, seconds on one A100, a guess; not run here",
        claims=[
            Claim(
                "dev_accuracy", 92.32, "%", "its card", tolerance=0.1, either_way=True,
                why="the same weights on the same set: one example of 872 may fall otherwise by rounding",
            )
        ],
    ),
}  # fmt: skip


def main(run: Run[Weights]) -> dict[str, float]:
    config = run.config
    place = run.on_main(lambda: folder(config.weights, run.data_dir))
    model, tokenizer = load(config.weights, place)
    about = {"weights_sha256": fingerprint(model)}
    if isinstance(model, Bert):
        return sentences(run, model.to(run.device), tokenizer, about, place)
    if isinstance(model, Pretraining):
        text, facts = corpus.load("wikitext-2", tokenizer, run.data_dir, spare=run.dir, on_main=run.on_main)
        run.describe_data(**facts, **about)
        return pretrain.heldout(run, model.to(run.device), text, "test", min(model.bert.context, 128))
    if isinstance(model, Spans) or not config.task:
        raise BadInput(f"{config.weights} has a head of fine-tuning: name what it has learned with --task, one of GLUE's")
    task = TASKS[config.task]
    if (C := model.W.out_features) != task.classes:
        raise BadInput(f"{config.weights} tells {C} classes apart, {config.task} has {task.classes}: it has learned another task")
    run.on_main(lambda: tasks.fetch(config.task, run.data_dir))
    read = {split: tasks.read(config.task, run.data_dir, split) for split in task.splits}
    digest, n = ",".join(each.sha256 for each in read.values()), sum(map(len, read.values()))
    run.describe_data(name=config.task, sha256=digest, train=0, test=n, stand_in=False, **about)
    model, metrics = model.to(run.device), {}
    for split, data in read.items():
        encoded = examples(data, tokenizer, 128, task.classes, run.device)
        found = answers(predictions(run, model, encoded, task.classes))
        metrics |= {f"{split}_{name}": value for name, value in scores(task.scores, encoded.labels.cpu(), found).items()}
    return metrics


def sentences(run: Run[Weights], bert: Bert, tokenizer: "Tokenizer", about: dict[str, Any], place: Path) -> dict[str, float]:
    """STS-B by sentence vectors, the mean of a sentence's states: Spearman's correlation of their cosine with people's scores.

    And the largest difference of any number of these vectors, of length 1, from those of transformers' BertModel.
    """
    from transformers import BertModel

    read = {split: tasks.stsb(run.data_dir, split) for split in ("dev", "test")}
    digest = ",".join(each.sha256 for each in read.values())
    sizes = {"train": 0, "test": len(read["test"])}
    run.describe_data(name="stsb, dev and test", sha256=digest, stand_in=False, **sizes, **about)
    metrics, theirs = {}, BertModel.from_pretrained(place, attn_implementation="eager").to(run.device, torch.get_default_dtype())
    by_reference = Reference(theirs)
    for split, data in read.items():
        halves = []
        for side in (0, 1):
            one = examples(type(data)([(pair[side],) for pair in data.texts], None, ""), tokenizer, 256, 2, run.device)
            halves.append(vectors(run, bert, one))
            difference = (halves[-1] - vectors(run, by_reference, one)).abs().max().item()
            metrics["largest_difference"] = max(metrics.get("largest_difference", 0.0), difference)
        cosines = (halves[0] * halves[1]).sum(1)
        found = scores(("spearman", "pearson"), torch.tensor(data.labels), cosines)
        metrics |= {f"{split}_{name}": value for name, value in found.items()}
    return metrics


class Reference(nn.Module):
    """transformers' BertModel, called as ours."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, tokens: Tensor, segments: Tensor, real: Tensor) -> Tensor:
        return self.net(tokens, attention_mask=real.long(), token_type_ids=segments).last_hidden_state


class Mean(nn.Module):
    """Sentence vectors: the mean of the states of a sentence's tokens, of length 1."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, tokens: Tensor, segments: Tensor, real: Tensor) -> Tensor:
        states = self.bert(tokens, segments, real) * real[:, :, None]
        return F.normalize(states.sum(1) / real.sum(1, keepdim=True), dim=1)


def vectors(run: Run[Weights], bert: nn.Module, data: Examples) -> Tensor:
    width = bert.tokens.embedding_dim if isinstance(bert, Bert) else bert.net.config.hidden_size
    return predictions(run, Mean(bert), data, width)


if __name__ == "__main__":
    evaluate_weights(WEIGHTS, main)
