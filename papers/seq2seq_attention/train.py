"""The translation experiments of Sec. 4 and 5, the same at the size of Multi30k, and sequences to copy or to reverse.

    make reproduce-seq2seq_attention                                         # RNNsearch-50, WMT14, on all GPUs of this machine
    make reproduce-seq2seq_attention GPUS=8 NODES=2 NODE_RANK=0 MASTER=host  # the first of two machines; NODE_RANK=1 on the second
    make reproduce-seq2seq_attention EXPERIMENT=reverse                      # generated data; minutes on a CPU
    make reproduce-seq2seq_attention EXPERIMENT=multi30k-de-en SEEDS="0 1 2"
    torchrun --nproc-per-node=8 -m papers.seq2seq_attention.train wmt14-en-fr --data-dir /data     # without make

Data is looked for in --data-dir and downloaded where it is missing. At the end a run prints, for each claim, the paper's value,
ours and the verdict, writes the translations of the test set, and draws alignments (Fig. 3) and BLEU by sentence length (Fig. 2).
"""

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from common.claims import Claim, Experiment
from common.command import reproduce
from common.files import write_atomic
from common.options import at_least_one, fraction, positive
from common.processes import bare
from common.run import Run
from papers.seq2seq_attention import sentences
from papers.seq2seq_attention.evaluation import log_likelihoods, measure, measure_sequences
from papers.seq2seq_attention.model import EncoderDecoder, nll
from papers.seq2seq_attention.sentences import PAD, alike


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of Sec. 4.2, A.2.3 and B; the defaults are those of RNNsearch-50."""

    data: Literal["wmt14", "multi30k", "copy", "reverse", "made-up"] = "wmt14"
    """made-up: stand-in sentences, for tests."""
    source: str = "en"
    """Language that is translated."""
    target: str = "fr"
    """Language into which."""
    networks: Literal["search", "encdec", "both"] = "search"
    """RNNsearch, RNNencdec, or both of the same sizes, trained on the same minibatches."""
    vocabulary: int = 30_000
    """Words of each language's shortlist, at most (Sec. 4.1); symbols of sequences."""
    min_count: int = 1
    """Words that the training texts have less often are unknown."""
    max_length: int = 50
    """Training pairs with a side of more words are left out (Sec. 4.2); of sequences, the longest that are learned."""
    n: int = 1000
    """Hidden units (A.2.3)."""
    m: int = 620
    """Numbers of a word's vector (A.2.3)."""
    l: int = 500
    """Units of the maxout layer (A.2.3)."""
    n_align: int = 1000
    """n', units of the alignment model (A.2.3)."""
    dropout: float = 0.0
    """Of words' vectors; the paper has none."""
    present: bool = False
    """The output reads s_i (Sec. 3.1), not s_{i-1} (A.2.2)."""
    optimizer: Literal["adadelta", "adam"] = "adadelta"
    rate: float = 1.0
    """1 in Adadelta, which has no other (B.2)."""
    clip: float = 1.0
    """Of a network's gradient, the L2 norm at most (B.2)."""
    batch_size: int = 80
    """Sentence pairs in an update, on all processes together (B.2)."""
    sort_batches: int = 20
    """So many minibatches' pairs are sorted by length together (B.2)."""
    steps: int = 288_000
    """Updates (Table 2)."""
    checkpoint: Literal["last", "best"] = "last"
    """Weights that are tested: the last ones, or those with the best log-likelihood of validation sentences."""
    beam: int = 12
    """Beams, besides greedy decoding; the paper does not say."""
    evaluate_every: int = 5000
    """Updates between two looks at the validation set."""

    def __post_init__(self) -> None:
        positive(self, "rate", "clip")
        at_least_one(self, "vocabulary", "min_count", "max_length", "n", "m", "l", "n_align", "batch_size", "sort_batches", "steps")
        at_least_one(self, "beam", "evaluate_every")
        fraction(self, "dropout")
        if self.data in ("wmt14", "multi30k") and self.source == self.target:
            raise ValueError(f"--source and --target are both {self.source}")
        if self.evaluate_every > self.steps and self.checkpoint == "best":
            raise ValueError(f"--evaluate-every {self.evaluate_every}: no look for the best weights in --steps {self.steps}")

    def network(self, K_x: int, K_y: int, name: str) -> EncoderDecoder:
        sizes = {"n": self.n, "m": self.m, "l": self.l, "n_align": self.n_align}
        how = {"search": name == "search", "dropout": self.dropout, "present": self.present}
        return EncoderDecoder(K_x, K_y, **sizes, **how, pad=PAD)


class Networks(nn.ModuleDict):
    """RNNsearch, RNNencdec, or both."""

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {name: net(x, y) for name, net in self.items()}


def train(run: Run[Config]) -> dict[str, float]:
    config = run.config
    splits, words, about = sentences.load(config, run.data_dir, spare=run.dir, seed=run.seed, on_main=run.on_main)
    run.describe_data(**about)
    for side, each in zip(("source", "target"), words, strict=True):  # for whoever translates
        run.on_main(lambda: write_atomic(run.dir / f"words.{side}.txt", "\n".join(each.words).encode()))  # noqa: B023, called at once
    pairs, val, test = (split.to(run.device) for split in splits)
    names = ("search", "encdec") if config.networks == "both" else (config.networks,)
    model = Networks({name: config.network(len(words[0]), len(words[1]), name) for name in names})
    best = copy.deepcopy(model).requires_grad_(False)
    optimizer = optimizer_of(config, model)
    model, best, optimizer = run.prepare(model=model, best=best, optimizer=optimizer)
    loss_of = run.compile(loss, dynamic=True)
    sizes = {f"parameters_{name}": sum(p.numel() for p in net.parameters()) / 1e6 for name, net in best.items()}
    run.say(", ".join(f"{name} {size:.2f} million" for name, size in sizes.items()))
    draw = alike(pairs.lengths(), config.batch_size, config.sort_batches, run.seed)
    for step, rows in run.indices(draw, steps=config.steps):
        batch = pairs.source.padded(rows), pairs.target.padded(rows)
        for (x, y), weight in run.micro_batches(batch, model, of=config.batch_size):
            with run.autocast():
                logits = model(x, y)  # (B, T, K_y) of each network
            losses = {name: loss_of(each, y) for name, each in logits.items()}
            run.backward(sum(losses.values()) * weight)
            run.log(**{f"train_nll_{name}": each.detach() * weight for name, each in losses.items()})
        for net in bare(model).values():
            nn.utils.clip_grad_norm_(net.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % config.evaluate_every == 0:
            keep_better(run, model, best, found := log_likelihoods(run, model, val, "val"))
            run.report(**found)
    tested = best if config.checkpoint == "best" else bare(model)
    if config.data in sentences.TOYS:
        return sizes | measure_sequences(run, tested, test)
    return sizes | measure(run, tested, val, test, words)


def optimizer_of(config: Config, model: nn.Module) -> torch.optim.Optimizer:
    if config.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), config.rate, fused=True)
    return torch.optim.Adadelta(model.parameters(), config.rate, rho=0.95, eps=1e-6)  # Sec. B.2


def loss(logits: Tensor, y: Tensor) -> Tensor:
    """Sec. 4.2, mean over sentences of - log p(y | x). A function of its own to be compiled: twice as fast on a CPU."""
    return nll(logits.to(torch.get_default_dtype()), y, PAD).mean()


def keep_better(run: Run[Config], model: nn.Module, best: nn.Module, found: dict[str, float]) -> None:
    """Copy the weights of each network that gives validation sentences a better log-likelihood than it ever did."""
    for name, net in bare(model).items():
        key = f"val_nll_{name}"
        if found[key] < min(run.curves(key)[key], default=math.inf):
            best[name].load_state_dict(net.state_dict())


PRECISION = {"cpu": "bf16", "cuda": "bf16"}
TABLE_1_WHY = "a choice, the paper gives no spread"
TABLE_2_WHY = "a choice, the paper gives no spread; per sentence, on another selection of training texts"


def table_1(
    model: str, steps: int, score: float, known: float, nll: tuple[float, float], hours: int, **changes: Any
) -> Experiment[Config]:
    """A row of Tables 1 and 2. What is worse than RNNsearch-50 counts either way."""
    name = changes.get("networks", "search")
    bleu, worse = f"newstest2014_tokenised_bleu_{name}", {"either_way": score < 26.75}
    return Experiment(
        Config(steps=steps, **changes), kind="paper", source=f"Table 1, {model}", cap=f"{steps:,} updates",
        cost=f"{hours} h on a GPU of 2014 (Table 2); not run here", precision=PRECISION, log_every=1000, checkpoint_every=600,
        figures=("alignments", "bleu-by-length")[name == "encdec" :], curves=("step", f"train_nll_{name}"),
        claims=[
            Claim(f"{bleu}_beam12", score, "BLEU", f"Table 1, {model}, all", False, 0.5, TABLE_1_WHY, **worse),
            Claim(f"{bleu}_no_unk_beam12", known, "BLEU", f"Table 1, {model}, no UNK", False, 0.5, TABLE_1_WHY, **worse),
            Claim(f"train_nll_{name}", nll[0], "nats", f"Table 2, {model}, train", True, 2, TABLE_2_WHY, at=steps, **worse),
            Claim(f"newstest2013_nll_{name}", nll[1], "nats", f"Table 2, {model}, dev.", True, 2, TABLE_2_WHY, **worse),
        ],
    )  # fmt: skip


def multi30k(
    source: str, target: str, claims: list[Claim], *, kind: Any = "scaled", note: str = "", epochs: int = 10, **changes: Any
) -> Experiment[Config]:
    steps, tutorial = (
        epochs * 226,
        {"n": 512, "m": 256, "l": 256, "n_align": 512, "dropout": 0.5, "optimizer": "adam", "rate": 0.001},
    )
    config = Config(
        data="multi30k", source=source, target=target, min_count=2, batch_size=128, steps=steps, checkpoint="best",
        evaluate_every=226, **{"networks": "both", **tutorial, **changes},
    )  # fmt: skip
    return Experiment(
        config, kind=kind, source="Sec. 5.1, Figs. 2 and 3", cap=f"{steps:,} updates ({epochs} epochs)", claims=claims,
        cost=f"{epochs // 10 * (1 if config.networks == 'both' else 0.6):g} h on one CPU core",
        note=note or "29,000 image captions instead of WMT14, lower-cased, words that they have twice, n = 512, m = 256, l = 256, "
        f"dropout 0.5, Adam, {epochs} epochs of 128 pairs at a time, as the public tutorial has them",
        precision=PRECISION, figures=("alignments", "bleu-by-length"), log_every=20, checkpoint_every=300,
    )  # fmt: skip


def toy(task: Any) -> Experiment[Config]:
    return Experiment(
        Config(
            data=task, networks="both", vocabulary=20, max_length=10, n=100, m=64, l=64, n_align=100, optimizer="adam", rate=0.005,
            sort_batches=10, steps=2000, checkpoint="best", evaluate_every=100,
        ),
        kind="scaled", source="Sec. 1, 5.2.2", cap="2,000 updates", cost="5 min on one CPU core",
        note=f"generated sequences of 1 to 10 of 20 symbols, to {task}, and of up to twice as many in the test; n = 100, Adam",
        claims=[
            Claim(
                f"gain_{where}", 0, "%", "Sec. 5.2.2: long sentences need no fixed vector", noise=2.3,
                why="the sign is what is claimed; the standard error of the difference of two shares of 1,000 sequences is less",
            )
            for where in ("within", "beyond")
        ],
        precision=PRECISION, figures=("alignments", "right-by-length"), log_every=20, checkpoint_every=120,
    )  # fmt: skip


TEST_2016, TUTORIAL = "test_2016_flickr_lc_tokenised_bleu", "bentrevett/pytorch-seq2seq"
TUTORIAL_WHY = "another model, with words cut by another tool: shown for comparison only"
GROWTH = Claim(
    "gain_growth_beam12", 0, "BLEU", "Fig. 2: RNNencdec falls with length, RNNsearch-50 does not", noise=2.0,
    why="the sign is what is claimed. The standard error by resampling the test sentences, a record's `gain_growth_noise_beam12`",
)  # fmt: skip

EXPERIMENTS = {
    "wmt14-en-fr": table_1("RNNsearch-50", 288_000, 26.75, 34.16, (40.7, 38.1), 111),
    "wmt14-en-fr-search-30": table_1("RNNsearch-30", 471_000, 21.50, 31.44, (26.7, 47.2), 113, max_length=30),
    "wmt14-en-fr-encdec-50": table_1("RNNencdec-50", 600_000, 17.82, 26.71, (44.0, 43.6), 108, networks="encdec"),
    "wmt14-en-fr-encdec-30": table_1("RNNencdec-30", 846_000, 13.93, 24.19, (28.1, 53.0), 109, networks="encdec", max_length=30),
    "wmt14-en-fr-converged": table_1("RNNsearch-50*", 667_000, 28.45, 36.15, (36.7, 35.2), 252),
    "multi30k-de-en": multi30k(
        "de", "en",
        [
            *(
                Claim(f"{TEST_2016}_{name}_greedy", score, "BLEU", f"{TUTORIAL}, notebook {at}", why=TUTORIAL_WHY)
                for name, score, at in (("search", 28.30, 3), ("encdec", 20.61, 2))
            ),
            GROWTH,
        ],
    ),
    "multi30k-en-de": multi30k("en", "de", [GROWTH]),
    "multi30k-en-fr": multi30k("en", "fr", [GROWTH]),
    "multi30k-de-en-converged": multi30k("de", "en", [GROWTH], epochs=30),
    "multi30k-de-en-present": multi30k(
        "de", "en", [], kind="reading", networks="search", present=True,
        note="the output reads s_i (Sec. 3.1) in place of s_{i-1} (A.2.2); RNNsearch alone, otherwise as multi30k-de-en",
    ),
    "reverse": toy("reverse"),
    "copy": toy("copy"),
    "smoke": Experiment(
        Config(
            data="made-up", networks="both", vocabulary=34, n=16, m=8, l=8, n_align=12, batch_size=16, sort_batches=4, steps=12,
            checkpoint="best", beam=3, evaluate_every=4,
        ),
        kind="smoke", source="Sec. 4 and 5", cap="12 updates", cost="5 s", log_every=2, checkpoint_every=0, precision=PRECISION,
    ),
}  # fmt: skip


if __name__ == "__main__":
    reproduce(EXPERIMENTS, train)
