"""The translation experiments of Sec. 5 and 6, and the same at the size of Multi30k.

    make reproduce-transformer                                         # WMT14 En-De, base, on all GPUs of this machine
    make reproduce-transformer GPUS=8 NODES=2 NODE_RANK=0 MASTER=host  # the first of two machines; NODE_RANK=1 on the second
    make reproduce-transformer EXPERIMENT=copy                         # generated data; a minute on a CPU
    make reproduce-transformer EXPERIMENT=multi30k-de-en               # an hour on one CPU core
    make reproduce-transformer EXPERIMENT=table3-c-n2                  # a row of Table 3
    torchrun --nproc-per-node=8 -m papers.transformer.train wmt14-en-de-big --data-dir /data     # without make

WMT14 is looked for in --data-dir, as plain parallel files or as the parquet shards of Hugging Face's wmt/wmt14, which are
downloaded where neither is there; so is Multi30k. At the end a run prints, for each claim, the paper's value, ours and the verdict,
writes the translations of the test set, and draws what the decoder attends to and BLEU by sentence length.
"""

import copy
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from common.claims import Claim, Experiment
from common.command import reproduce
from common.files import write_atomic
from common.options import at_least_one, fraction, positive
from common.processes import bare
from common.run import Run
from papers.transformer import sentences
from papers.transformer.buckets import Bucketed
from papers.transformer.model import Transformer, average_, rate, smoothed_loss
from papers.transformer.translate import attention_kernel, measure, measure_copies, perplexity, shifted_right
from papers.transformer.vocabulary import PAD


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of Table 3 and Sec. 5 and 6.1; the defaults are those of the base model."""

    data: Literal["wmt14", "multi30k", "copy", "made-up"] = "wmt14"
    """made-up: stand-in sentences, for tests."""
    source: str = "en"
    """Language that is translated."""
    target: str = "de"
    """Language into which."""
    vocabulary: int = 37_000
    """Tokens of the byte-pair encoding that both languages share, at most (Sec. 5.1)."""
    bpe: str = ""
    """A tokenizer.json to use instead of learning the vocabulary from the training texts."""
    N: int = 6
    """Layers of the encoder, and of the decoder."""
    d_model: int = 512
    d_ff: int = 2048
    h: int = 8
    """Attention heads."""
    d_k: int | None = None
    """None: d_model / h."""
    d_v: int | None = None
    """None: d_model / h."""
    dropout: float = 0.1
    """P_drop (Sec. 5.4)."""
    label_smoothing: float = 0.1
    """epsilon_ls (Sec. 5.4)."""
    learned_positions: bool = False
    """Instead of sinusoids (Table 3, row E)."""
    batch_size: int = 25_000
    """Tokens of either side in an update, on all processes together, padding included (Sec. 5.1)."""
    steps: int = 100_000
    """Updates (Sec. 5.2)."""
    warmup: int = 4000
    """Updates in which the rate rises (Sec. 5.3)."""
    rate_factor: float = 1.0
    """The rate is Eq. (3) times this; 1 in the paper."""
    average: int = 5
    """Checkpoints that are averaged at the end (Sec. 6.1)."""
    average_every: int = 1500
    """Updates between two of them: "written at 10-minute intervals", at 0.4 s an update."""
    beam: int = 4
    """Beams (Sec. 6.1)."""
    alpha: float = 0.6
    """Length penalty (Sec. 6.1)."""
    extra: int = 50
    """A translation has at most so many tokens more than the source (Sec. 6.1)."""
    max_length: int = 256
    """Training pairs with a side of more tokens are left out; the paper does not say, its authors' code does so."""
    evaluate_every: int = 5000
    """Updates between two looks at the validation set."""

    def __post_init__(self) -> None:
        positive(self, "rate_factor")
        at_least_one(self, "N", "d_model", "d_ff", "h", "batch_size", "steps", "warmup", "average", "average_every", "beam")
        at_least_one(self, "max_length", "evaluate_every")
        if self.d_model % 2:
            raise ValueError(f"--d-model must be even, for sines and cosines, got {self.d_model}")
        if (self.d_k is None or self.d_v is None) and self.d_model % self.h:
            raise ValueError(f"--d-model {self.d_model} cannot be divided among --h {self.h} heads: name --d-k and --d-v")
        if not (self.d_k is None or self.d_k >= 1) or not (self.d_v is None or self.d_v >= 1):
            raise ValueError(f"--d-k and --d-v must be at least 1, got {self.d_k} and {self.d_v}")
        fraction(self, "dropout", "label_smoothing")
        if not 0 <= self.alpha < math.inf or self.extra < 0:
            raise ValueError(f"--alpha and --extra must not be negative, got {self.alpha} and {self.extra}")
        if self.max_length > self.batch_size:
            raise ValueError(f"--max-length {self.max_length}: such a sentence does not fit in --batch-size {self.batch_size}")
        if (self.average - 1) * self.average_every >= self.steps:
            raise ValueError(f"--average {self.average}: so many checkpoints, {self.average_every} apart, need more --steps")
        if self.vocabulary < 10:
            raise ValueError(f"--vocabulary must be at least 10, got {self.vocabulary}")
        if self.data in ("wmt14", "multi30k") and self.source == self.target:
            raise ValueError(f"--source and --target are both {self.source}")

    def network(self, V: int) -> Transformer:
        learned = self.max_length + self.extra if self.learned_positions else 0
        return Transformer(
            V, N=self.N, d_model=self.d_model, d_ff=self.d_ff, h=self.h, d_k=self.d_k, d_v=self.d_v, dropout=self.dropout,
            learned_positions=learned, pad=PAD,
        )  # fmt: skip

    def rate_at(self, step: int) -> float:
        return self.rate_factor * rate(step + 1, self.d_model, self.warmup)

    def averaged_at(self, step: int) -> int:
        """Which of the checkpoints that are averaged comes after this update: 1 is the first; 0: none of them."""
        before_last, rest = divmod(self.steps - step - 1, self.average_every)
        return self.average - before_last if rest == 0 and before_last < self.average else 0


def train(run: Run[Config]) -> dict[str, float]:
    config = run.config
    splits, tokenizer, about = sentences.load(config, run.data_dir, spare=run.dir, seed=run.seed, on_main=run.on_main)
    run.describe_data(**about)
    if tokenizer:
        run.on_main(lambda: write_atomic(run.dir / "vocabulary.json", tokenizer.to_str().encode()))  # for whoever translates
    pairs, val, test = (split.to(run.device) for split in splits)
    buckets = Bucketed(pairs.lengths(), config.batch_size, run.seed)
    model = config.network(about["vocabulary"])
    averaged = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98), eps=1e-9, fused=True)  # Sec. 5.3
    model, averaged, optimizer = run.prepare(model=model, averaged=averaged, optimizer=optimizer)
    loss_of = run.compile(functools.partial(loss, epsilon=config.label_smoothing), dynamic=True)
    size, padding = sum(p.numel() for p in averaged.parameters()), 100 * buckets.padding()
    run.say(f"{size / 1e6:.2f} million parameters; {len(buckets):,} batches in an epoch, {padding:.1f} % of them padding")
    for step, rows in run.indices(buckets.batch, steps=config.steps, smallest=buckets.smallest):
        for group in optimizer.param_groups:
            group["lr"] = config.rate_at(step)
        batch = pairs.source.padded(rows), pairs.target.padded(rows)
        width = max(each.shape[1] for each in batch)
        for (source, labels), weight in run.micro_batches(batch, model, count=tokens, width=width):
            with run.autocast(), attention_kernel(run.device):
                logits = model(source, shifted_right(labels))  # (B, T, V)
            piece = loss_of(logits, labels)
            run.backward(piece * weight)
            run.log(train_loss=piece * weight)
        optimizer.step()
        optimizer.zero_grad()
        if n := config.averaged_at(step):
            average_(averaged, bare(model), n)
        if (step + 1) % config.evaluate_every == 0:
            run.report(val_ppl=perplexity(run, model, val), lr=config.rate_at(step))
    metrics = {"parameters": size / 1e6, "padding": padding}
    if tokenizer is None:
        return metrics | measure_copies(run, model, averaged, test)
    return metrics | measure(run, model, averaged, val, test, tokenizer)


def loss(logits: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """In a function of its own to be compiled: as it is, it takes a third of an update's time on a CPU."""
    return smoothed_loss(logits.to(torch.get_default_dtype()), labels, epsilon, PAD)


def tokens(source: Tensor, labels: Tensor) -> Tensor:
    """How many tokens a loss is the mean of."""
    return (labels != PAD).sum()


RUN = {"precision": {"cpu": "bf16", "cuda": "bf16"}, "figures": ("attention", "bleu-by-length"), "checkpoint_every": 300}
BLEU_WHY = "a choice, the paper gives no spread; it cannot tell apart rows of Table 3 that are 0.3 from each other"
FRENCH_WHY = f"{BLEU_WHY}; the higher of two: Table 2 and the abstract have 41.8, the text of Sec. 6.1 has 41.0"
PPL_WHY = "a choice, the paper gives no spread: two per cent; it depends on the vocabulary, whose pieces it is counted by"


BASE = (4.92, 25.8)  # Table 3, base: perplexity, BLEU


def row(source: str, ppl: float, score: float, **changes: Any) -> Experiment[Config]:
    """A row of Table 3: the base model with one change, measured on newstest2013 with the last checkpoint."""
    return Experiment(
        Config(**changes), kind="paper", source=source, cap="100,000 updates", claims=table_3(source, ppl, score),
        cost="the base model: 12 h on 8 P100 (the paper); not run here", **RUN,
    )  # fmt: skip


def table_3(source: str, ppl: float, score: float) -> list[Claim]:
    """What is worse than the base model's counts either way: a row that does no harm does not reproduce one that does."""
    ppl_of_base, bleu_of_base = BASE
    return [
        Claim("newstest2013_ppl_last", ppl, "", source, True, round(0.02 * ppl, 2), PPL_WHY, either_way=ppl > ppl_of_base),
        Claim(
            "newstest2013_compound_bleu_last_beam4", score, "BLEU", source, False, 0.3, BLEU_WHY, either_way=score < bleu_of_base
        ),
    ]


def table_2(
    source: str, metric: str, score: float, more: Sequence[Claim], cost: str, why: str = BLEU_WHY, **changes: Any
) -> Experiment[Config]:
    config = Config(**changes)
    claim = Claim(metric, score, "BLEU", source, False, 0.3, why)
    return Experiment(
        config, kind="paper", source=source, cap=f"{config.steps:,} updates", cost=cost, claims=[claim, *more], **RUN
    )  # fmt: skip


def multi30k(source: str, target: str, metric: str, score: float, reference: str) -> Experiment[Config]:
    why = "another model, trained on other pieces of the same sentences: shown for comparison only"
    return Experiment(
        Config(
            data="multi30k", source=source, target=target, vocabulary=8000, N=3, d_model=256, d_ff=512, dropout=0.2,
            batch_size=2048, steps=5000, warmup=2000, average_every=240, evaluate_every=240,
        ),
        kind="scaled", source="Sec. 3 to 6.1", cap="5,000 updates (21 epochs)", cost="50 min on one CPU core",
        note="29,000 image captions instead of WMT14, 8,000 pieces, N = 3, d_model = 256, d_ff = 512, dropout 0.2, 2,048 tokens, "
        "5,000 updates, 2,000 of them warm-up, checkpoints an epoch apart",
        claims=[Claim(metric, score, "BLEU", reference, False, 0, why)], log_every=40, **RUN,
    )  # fmt: skip


COPY_WHY = "it shows one sequence, copied; averages were added when the last weights gave 97.1 % on these sequences"
BIG = {"d_model": 1024, "d_ff": 4096, "h": 16, "steps": 300_000, "average": 20, "average_every": 600}
FRENCH = {"target": "fr", "vocabulary": 32_000}

EXPERIMENTS = {
    "wmt14-en-de-base": table_2(
        "Table 2, base, En-De", "newstest2014_compound_bleu_avg5_beam4", 27.3, table_3("Table 3, base", *BASE),
        "12 h on 8 P100 (the paper); not run here",
    ),
    "wmt14-en-de-big": table_2(
        "Table 2, big, En-De", "newstest2014_compound_bleu_avg20_beam4", 28.4, table_3("Table 3, big", 4.33, 26.4),
        "3.5 days on 8 P100 (the paper); not run here", dropout=0.3, **BIG,
    ),
    "wmt14-en-fr-base": table_2(
        "Table 2, base, En-Fr", "newstest2014_tokenised_bleu_avg5_beam4", 38.1, [],
        "12 h on 8 P100 (the paper); not run here", **FRENCH,
    ),
    "wmt14-en-fr-big": table_2(
        "Table 2, big, En-Fr", "newstest2014_tokenised_bleu_avg20_beam4", 41.8, [],
        "3.5 days on 8 P100 (the paper); not run here", FRENCH_WHY, dropout=0.1, **BIG, **FRENCH,
    ),
    "table3-a-h1": row("Table 3 (A), h = 1", 5.29, 24.9, h=1),
    "table3-a-h4": row("Table 3 (A), h = 4", 5.00, 25.5, h=4),
    "table3-a-h16": row("Table 3 (A), h = 16", 4.91, 25.8, h=16),
    "table3-a-h32": row("Table 3 (A), h = 32", 5.01, 25.4, h=32),
    "table3-b-dk16": row("Table 3 (B), d_k = 16", 5.16, 25.1, d_k=16),
    "table3-b-dk32": row("Table 3 (B), d_k = 32", 5.01, 25.4, d_k=32),
    "table3-c-n2": row("Table 3 (C), N = 2", 6.11, 23.7, N=2),
    "table3-c-n4": row("Table 3 (C), N = 4", 5.19, 25.3, N=4),
    "table3-c-n8": row("Table 3 (C), N = 8", 4.88, 25.5, N=8),
    "table3-c-d256": row("Table 3 (C), d_model = 256", 5.75, 24.5, d_model=256),
    "table3-c-d1024": row("Table 3 (C), d_model = 1024", 4.66, 26.0, d_model=1024),
    "table3-c-ff1024": row("Table 3 (C), d_ff = 1024", 5.12, 25.4, d_ff=1024),
    "table3-c-ff4096": row("Table 3 (C), d_ff = 4096", 4.75, 26.2, d_ff=4096),
    "table3-d-dropout0": row("Table 3 (D), P_drop = 0", 5.77, 24.6, dropout=0.0),
    "table3-d-dropout2": row("Table 3 (D), P_drop = 0.2", 4.95, 25.5, dropout=0.2),
    "table3-d-smoothing0": row("Table 3 (D), epsilon_ls = 0", 4.67, 25.3, label_smoothing=0.0),
    "table3-d-smoothing2": row("Table 3 (D), epsilon_ls = 0.2", 5.47, 25.7, label_smoothing=0.2),
    "table3-e-learned": row("Table 3 (E), learned positions", 4.92, 25.7, learned_positions=True),
    "multi30k-de-en": multi30k(
        "de", "en", "test_2016_flickr_lc_tokenised_bleu_last_greedy", 36.52, "bentrevett/pytorch-seq2seq, legacy notebook 6"
    ),
    "multi30k-en-de": multi30k(
        "en", "de", "test_2016_flickr_lc_tokenised_bleu_avg5_beam4", 41.02, "LividWo/Revisit-MMT, text only, beam 5"
    ),
    "copy": Experiment(
        Config(
            data="copy", N=2, d_model=128, d_ff=512, label_smoothing=0.0, batch_size=880, steps=600, warmup=100, rate_factor=0.5,
            average=5, average_every=20, evaluate_every=100,
        ),
        kind="scaled", source="Sec. 3, 5.3", cap="600 updates", cost="1 min on one CPU core", log_every=20,
        note="generated sequences of ten symbols, to be copied: the first example of harvardnlp/annotated-transformer, N = 2, in a "
        "smaller net (d_model = 128), 600 updates with 80 of them each",
        claims=[
            Claim("copied_avg5_greedy", 100, "%", "harvardnlp/annotated-transformer", why=COPY_WHY),
        ],
        precision={"cpu": "bf16", "cuda": "bf16"}, figures=("attention",),
    ),
    "smoke": Experiment(
        Config(
            data="made-up", vocabulary=60, N=2, d_model=32, d_ff=64, h=4, batch_size=256, steps=24, warmup=12, average=2,
            average_every=6, max_length=40, evaluate_every=6, extra=5, rate_factor=0.2,
        ),
        kind="smoke", source="Sec. 3 to 6.1", cap="24 updates", cost="5 s", log_every=6, checkpoint_every=0,
        precision={"cpu": "bf16", "cuda": "bf16"},
    ),
}  # fmt: skip


def in_table_2(_: str, claim: Claim) -> tuple[str, str]:
    """As the paper has it: a line for each model, a column for each language."""
    _, model, languages = claim.source.split(", ")
    return model, languages


SHAPES = {"Table 2": in_table_2}


if __name__ == "__main__":
    reproduce(EXPERIMENTS, train)
