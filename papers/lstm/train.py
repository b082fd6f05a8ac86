"""Long Short-Term Memory (1997), Sec. 5: the experiments on generated sequences.

    make reproduce-lstm                                        # experiment 6a, 20 trials, about 2 minutes on one CPU core
    make reproduce-lstm EXPERIMENT=adding-4
    python -m papers.lstm.train temporal-order-6b --seed 1     # the same without make
    make reproduce-lstm SEEDS="0 1 2" GPUS=3                   # one process for each seed, side by side

The net learns after every sequence, so one run cannot be split among processes or machines. At the end it prints, for each claim,
the paper's value, ours and the verdict, and draws the solved trials over training sequences.
"""

import dataclasses
import functools
import itertools
from typing import Any

from common.claims import Claim, Experiment
from common.command import reproduce
from common.run import Run
from papers.lstm.every_step import Grammar, Recall, learn_grammar, learn_recall
from papers.lstm.readings import READINGS
from papers.lstm.sequence_end import FIGURES, Config, learn
from papers.lstm.trials import investigation, picture


def train(run: Run[Any]) -> dict[str, float]:
    """The loop of the experiment's kind of error; each stands beside its hyper-parameters."""
    if isinstance(run.config, Grammar):
        return learn_grammar(run)  # every_step.py: an error at every step, a fixed training set (experiment 1)
    if isinstance(run.config, Recall):
        return learn_recall(run)  # every_step.py: an error at every step, fresh sequences (2a, 2b)
    return learn(run)  # sequence_end.py: an error at the end of each sequence (2c, 3-6)


PER_SAMPLE = {"precision": {"cpu": "fp64", "cuda": "fp64"}, "per_sample": True, "curves": ("step", "solved_trials")}
FP32 = {"precision": {"cpu": "fp32", "cuda": "fp32"}, "figures": ("solved-trials",)}
SLOW = {**PER_SAMPLE, "log_every": 1000}


def claims(
    table: str,
    trials: int,
    sequences: int,
    variation: int,
    *rest: Claim,
    prefix: str = "",
    rate: float = 100,
    spread: str = "the paper gives no spread for this row",
) -> list[Claim]:
    """The claims of one row: the trials solved, the mean number of training sequences until then, and what stands on these.

    variation: what trials are taken to vary by, their standard deviation in % of their mean.
    """  # fmt: skip
    percent = round(2 * 2**0.5 * variation / trials**0.5)
    why = (
        f"a choice, {spread}: {percent} % is two standard errors of the difference between two means over {trials} trials, where "
        f"trials vary by {variation} %"
    )
    implied = "" if table.startswith(("Table 1", "Table 2")) else " (implied)"
    solved = f"{prefix}success_rate"
    return [
        Claim(solved, rate, "%", f"{table}, {trials} trials{implied}", tolerance=100 / trials, why=f"one of {trials} trials"),
        Claim(
            f"{prefix}sequences", sequences, "", f"{table}, success after", True, round(percent / 100 * sequences), why,
            stands_on=solved,
        ),
        *(dataclasses.replace(claim, metric=prefix + claim.metric, stands_on=solved) for claim in rest),
    ]  # fmt: skip


def counted(metric: str, mean: float, of: int, trials: int, source: str) -> Claim:
    """A mean count of wrong sequences of 2560 (of = 1), or a fraction of 2560 (of = 2560): a rule of chance for its tolerance."""
    count = max(mean * of * trials, 1)  # over all trials
    tolerance = 2 * (2 * count) ** 0.5 / (of * trials)
    why = (
        f"a choice, the paper gives no spread: two standard errors of the difference between two such counts over {trials} trials, "
        "each varying by its root; mistakes come by the trial, so that chance differs by more"
    )
    return Claim(metric, mean, "", source, True, float(f"{tolerance:.3g}"), why)


def never_more(limit: int, source: str) -> Claim:
    return Claim("wrong_max", limit, "", source, True, why="the paper's own bound, in whatever trial")


def rtrl() -> list[Claim]:
    """Table 2, p = 4: how often RTRL succeeds, and after how many sequences: the sooner, the higher its rate."""
    spread = "the paper gives no spread; half as many again, for means over the few trials that succeed"
    sooner = "the sign is what is claimed: at a higher rate the trials that succeed do so sooner"
    claims = []
    for rate, success, sequences in TABLE_2:
        claims += often(success, f"_lr{rate}")
        claims.append(
            Claim(
                f"sequences_lr{rate}", sequences, "", "Table 2, success after", tolerance=sequences / 2, why=spread,
                either_way=True, stands_on=f"success_rate_lr{rate}",
            )
        )  # fmt: skip
    for slow, fast in itertools.pairwise(rate for rate, *_ in TABLE_2):
        claims.append(Claim(f"sequences_lr{slow}_less_lr{fast}", 0, "", "Table 2, success after", why=sooner))
    return claims


def rtrl_fails() -> list[Claim]:
    """Table 2, p = 10 and 100: 0 % at rates from 1 to 10."""
    can = "; a net that could not learn at all would fail as well: that this one can is seen at p = 4"
    return [dataclasses.replace(claim, why=claim.why + can) for rate, *_ in TABLE_2 for claim in often(0, f"_lr{rate}")]


def often(rate: float, suffix: str) -> list[Claim]:
    one = "one of 18 trials, more or fewer: a baseline that does better than the paper's is no reproduction of it either"
    where = "Table 2, 18 trials, at most 5,000,000 sequences"
    return [Claim(f"success_rate{suffix}", rate, "%", where, tolerance=100 / 18, why=one, either_way=True)]


def table_3(sequences: int) -> list[Claim]:
    return claims("Table 3", 20, sequences, 30)


def table_4_or_5(table: str, st1: int, st2: int, fraction: float, variation: int) -> list[Claim]:
    """ST1 is the first rule, ST2 the second."""
    wrong = counted("wrong_fraction", fraction, 2560, 10, f"{table}, fraction misclassified")
    return [
        *claims(f"{table}, ST1", 10, st1, variation, prefix="first_"), *claims(f"{table}, ST2", 10, st2, variation, wrong)
    ]  # fmt: skip


def table_6(sequences: int, fraction: float) -> list[Claim]:
    """Its "average difference to mean" is below 0.015 in every trial that the stopping rule ends: no claim."""
    return claims(
        "Table 6", 10, sequences, 60, counted("wrong_fraction", fraction, 2560, 10, "Table 6, fraction misclassified")
    )  # fmt: skip


def table_7(sequences: int, wrong: int) -> list[Claim]:
    """The mean error, below 0.01, is what the stopping rule asks for: no claim."""
    return claims(
        "Table 7", 10, sequences, 30, counted("wrong_of_2560", wrong, 1, 10, "Table 7, wrong of 2560"),
        never_more(3, 'Sec. 5.4, "never more than 3"'), spread="the paper's trials of T=1000 need 370,000 to 2,020,000",
    )  # fmt: skip


ROOT = (
    'the paper\'s "MSE" {}, read as a root mean square and squared here: with Gaussian errors of which {} of 2,560 exceed 0.04 the '
    "root is {}; it cannot be a mean of squares, nor, by the same reckoning, the mean absolute error"
)
TABLE_8 = [
    *claims(
        "Table 8, n_seq = 140", 10, 482_000, 60, counted("wrong_of_2560", 139, 1, 10, "Table 8, n_seq = 140"),
        never_more(170, 'Sec. 5.5, "never more than 170"'),
        Claim(
            "test_mse", 0.0223**2, "", 'Table 8, n_seq = 140, "MSE"', True, 0.026**2 - 0.0223**2,
            ROOT.format(0.0223, 139, 0.0208) + "; the paper's own bound is 0.026",
        ),
        prefix="first_",
    ),
    *claims(
        "Table 8, n_seq = 13", 10, 1_273_000, 60, counted("wrong_of_2560", 14, 1, 10, "Table 8, n_seq = 13"),
        never_more(15, 'Sec. 5.5, "never more than 15"'),
        Claim(
            "test_mse", 0.0139**2, "", 'Table 8, n_seq = 13, "MSE"', True, 0,
            ROOT.format(0.0139, 14, 0.0144) + "; the text has even less, always below 0.013",
        ),
    ),
]  # fmt: skip


def table_9(trials: int, sequences: int, wrong: int) -> list[Claim]:
    return claims(
        "Table 9", trials, sequences, 30, counted("wrong_of_2560", wrong, 1, trials, "Table 9, wrong of 2560"),
        never_more(3, 'Sec. 5.6, "never more than 3"'),
    )  # fmt: skip


FOUR_BLOCKS = {"blocks": 4, "cells": 1, "output_gate_bias": (-1.0, -2.0, -3.0, -4.0)}
TABLE_1 = [  # net, % of successful trials, success after
    ({**FOUR_BLOCKS, "lr": 0.1}, 100, 39_740), ({"lr": 0.1}, 100, 21_730), ({"lr": 0.2}, 97, 14_060),
    ({**FOUR_BLOCKS, "lr": 0.5}, 97, 9_500), ({"lr": 0.5}, 100, 8_440),
]  # fmt: skip
TABLE_2 = ((1, 78, 1_043_000), (4, 56, 892_000), (10, 22, 254_000))  # RTRL, p=4: rate, % of successful trials, success after
RTRL_4 = Recall(p=4, net="self-recurrent", lr=(1.0, 4.0, 10.0), max_sequences=5_000_000)
TWO_C = {
    "trials": 20, "cells": 1, "biased": "none", "output_bias": False, "input_gate_bias": None, "init": 0.2, "lr": 0.01,
    "criterion": "test", "window": 10_000, "correct_within": 0.2, "below": (1.0,), "max_sequences": 600_000,
    "test_sequences": 10_000,
}  # fmt: skip
THREE = {
    "trials": 10, "blocks": 3, "cells": 1, "output_bias": False,
    "input_gate_bias": (-1.0, -3.0, -5.0), "output_gate_bias": (-2.0, -4.0, -6.0), "criterion": "test", "window": 256,
}  # fmt: skip
THREE_A = {**THREE, "lr": 1.0, "correct_within": 0.2, "allowed": (0, 0), "below": (1.0, 0.01), "max_sequences": 500_000}
THREE_B = {**THREE_A, "allowed": (5, 5), "below": (1.0, 0.04)}
THREE_C = {**THREE, "lr": 0.1, "correct_within": 0.1, "mean_error": 0.015}
FOUR = {
    "task": "adding-4", "trials": 10, "input_gate_bias": (-3.0, -6.0), "correct_within": 0.04, "mean_error": 0.01,
    "max_sequences": 3_000_000,
}  # fmt: skip
FIVE = {
    "task": "multiplication-5", "trials": 10, "input_gate_bias": None, "lr": 0.1, "correct_within": 0.04,
    "allowed": (139, 12), "below": (1.0, 1.0), "max_sequences": 3_000_000,
}  # fmt: skip
SIX_B = {"task": "temporal-order-6b", "trials": 10, "blocks": 3, "input_gate_bias": (-2.0, -4.0, -6.0), "lr": 0.1}


def row(config: Any, source: str, cost: str, made: list[Claim] = (), **more: Any) -> Experiment:
    """One row of a table of the paper."""
    return Experiment(
        config, kind="paper", source=source, cap=f"{config.max_sequences:,} sequences", cost=cost, claims=made,
        **{"figures": FIGURES, **SLOW, **more},
    )  # fmt: skip


def smoke(config: Any) -> Experiment:
    return Experiment(
        config, kind="smoke", source="Sec. 5", cap=f"{config.max_sequences} sequences", cost="3 s",
        **PER_SAMPLE, log_every=20, checkpoint_every=0,
    )  # fmt: skip


LONG = "hours on one CPU core; not run here"
EXPERIMENTS = {
    "temporal-order-6a": row(
        Config(), "Sec. 5.6, Table 9", "2 min on one CPU core", table_9(20, 31_390, 1), log_every=100
    ),
    "temporal-order-6b": row(
        Config(max_sequences=1_500_000, **SIX_B), "Sec. 5.6, Table 9", "50 min on one CPU core", table_9(10, 571_100, 2)
    ),
    **{
        f"reber-1-{i}": row(
            Grammar(**net), f"Sec. 5.1, Table 1, LSTM, row {i}", "6 min on one CPU core",
            claims("Table 1", 30, sequences, 50, rate=rate, spread="the paper's trials of the last row need 3,800 to 24,100"),
            figures=FIGURES[:1],
        )
        for i, (net, rate, sequences) in enumerate(TABLE_1, 1)
    },
    "long-lag-2a": row(
        Recall(max_sequences=300_000), "Sec. 5.2, Table 2, LSTM, p=100", "20 min on one CPU core",
        claims("Table 2", 18, 5040, 50), **FP32,
    ),
    "long-lag-2b": row(
        Recall(regular=False), "Sec. 5.2, no local regularities, p=100", "3 min on one CPU core",
        claims("Sec. 5.2b", 18, 5680, 50), **FP32,
    ),
    "long-lag-2a-rtrl-p4": row(RTRL_4, "Sec. 5.2, Table 2, RTRL, p=4", "20 min on one CPU core", rtrl(), **FP32),
    "long-lag-2a-rtrl-p10": row(
        dataclasses.replace(RTRL_4, p=10), "Sec. 5.2, Table 2, RTRL, p=10", "40 min on one CPU core", rtrl_fails(), **FP32
    ),
    "long-lag-2a-rtrl-p100": row(
        dataclasses.replace(RTRL_4, p=100), "Sec. 5.2, Table 2, RTRL and BPTT, p=100", LONG,
        rtrl_fails(), **FP32,
    ),
    "long-lag-2c": row(Config("long-lag-2c", **TWO_C), "Sec. 5.2, Table 3, q=p=50", "30 min on one CPU core", table_3(30_000)),
    "long-lag-2c-q100": row(
        Config("long-lag-2c-q100", **TWO_C), "Sec. 5.2, Table 3, q=p=100", "60 min on one CPU core", table_3(31_000)
    ),
    "long-lag-2c-q200": row(Config("long-lag-2c-q200", **TWO_C), "Sec. 5.2, Table 3, q=p=200", LONG, table_3(33_000)),
    "long-lag-2c-q500": row(Config("long-lag-2c-q500", **TWO_C), "Sec. 5.2, Table 3, q=p=500", LONG, table_3(38_000)),
    "long-lag-2c-q1000": row(Config("long-lag-2c-q1000", **TWO_C), "Sec. 5.2, Table 3, q=p=1000", LONG, table_3(49_000)),
    **{
        f"long-lag-2c-q1000-p{p}": row(
            Config(f"long-lag-2c-q1000-p{p}", **TWO_C), f"Sec. 5.2, Table 3, q=1000, p={p}", LONG, table_3(sequences)
        )
        for p, sequences in ((500, 49_000), (200, 75_000), (100, 135_000), (50, 203_000))
    },
    "two-sequence-3a": row(
        Config("two-sequence-3a", **THREE_A), "Sec. 5.3, Table 4, T=100, N=3", "4 min on one CPU core",
        table_4_or_5("Table 4", 27_380, 39_850, 0.000195, 100),
    ),
    "two-sequence-3a-n1": row(
        Config("two-sequence-3a-n1", **THREE_A), "Sec. 5.3, Table 4, T=100, N=1", "3 min on one CPU core",
        table_4_or_5("Table 4", 58_370, 64_330, 0.000117, 50),
    ),
    "two-sequence-3a-t1000": row(
        Config("two-sequence-3a-t1000", **THREE_A | {"max_sequences": 2_000_000}), "Sec. 5.3, Table 4, T=1000, N=3", LONG,
        table_4_or_5("Table 4", 446_850, 452_460, 0.000078, 100),
    ),
    "two-sequence-3b": row(
        Config("two-sequence-3b", **THREE_B), "Sec. 5.3, Table 5, T=100, N=3", "3 min on one CPU core",
        table_4_or_5("Table 5", 41_740, 43_250, 0.00828, 60),
    ),
    "two-sequence-3b-n1": row(
        Config("two-sequence-3b-n1", **THREE_B | {"max_sequences": 200_000}), "Sec. 5.3, Table 5, T=100, N=1",
        "10 min on one CPU core",
        table_4_or_5("Table 5", 74_950, 78_430, 0.015, 30),
    ),
    "two-sequence-3b-t1000": row(
        Config("two-sequence-3b-t1000", **THREE_B | {"max_sequences": 2_000_000}), "Sec. 5.3, Table 5, T=1000, N=1", LONG,
        table_4_or_5("Table 5", 481_060, 485_080, 0.01207, 100),
    ),
    "two-sequence-3c": row(
        Config(task="two-sequence-3c", max_sequences=750_000, **THREE_C), "Sec. 5.3, Table 6, T=100, N=3",
        "25 min on one CPU core", table_6(269_650, 0.00558),
    ),
    "two-sequence-3c-n1": row(
        Config(task="two-sequence-3c-n1", max_sequences=1_500_000, **THREE_C), "Sec. 5.3, Table 6, T=100, N=1",
        "20 min on one CPU core", table_6(565_640, 0.00441),
    ),
    "adding-4": row(Config(**FOUR), "Sec. 5.4, Table 7, T=100", "50 min on one CPU core", table_7(74_000, 1), log_every=100),
    "adding-4-t500": row(Config(**FOUR | {"task": "adding-4-t500"}), "Sec. 5.4, Table 7, T=500", LONG, table_7(209_000, 0)),
    "adding-4-t1000": row(Config(**FOUR | {"task": "adding-4-t1000"}), "Sec. 5.4, Table 7, T=1000", LONG, table_7(853_000, 1)),
    "multiplication-5": row(Config(**FIVE), "Sec. 5.5, Table 8", "2 h on one CPU core", TABLE_8),
    "temporal-order-6b-fp32": Experiment(
        Config(max_sequences=400_000, **SIX_B),
        kind="reading", source="Sec. 5.6, Table 9", cap="400,000 sequences", cost="15 min on one CPU core",
        note="6b in single precision, with a cap that most trials need not reach in double precision",
        claims=table_9(10, 571_100, 2), figures=FIGURES[:1], per_sample=True, log_every=1000,
    ),
    "smoke": smoke(Config(trials=3, window=150, correct_within=0.9, mean_error=0.6, max_sequences=240, test_sequences=32)),
    "smoke-grammar": smoke(Grammar(sets=1, trials=2, strings=20, max_sequences=100)),
    "smoke-recall": smoke(Recall(p=3, regular=False, trials=2, lr=(1.0, 2.0), cell_after=100, max_sequences=300)),
}  # fmt: skip


def reading(e: Experiment, cap: int, changes: dict[str, Any], note: str, cost: str = "minutes on one CPU core") -> Experiment:
    """The experiment read otherwise: other fields and a cap of its own, no claims."""
    return dataclasses.replace(
        e, config=dataclasses.replace(e.config, max_sequences=cap, **changes), kind="reading", note=note,
        cap=f"{cap:,} sequences", claims=(), figures=(), cost=cost,
    )  # fmt: skip


EXPERIMENTS |= {f"{base}-{name}": reading(EXPERIMENTS[base], *row) for base, name, *row in READINGS}
FAMILY = [name for name, e in EXPERIMENTS.items() if e.kind != "smoke"]
PICTURES = {"tables": (FAMILY, functools.partial(picture, EXPERIMENTS))}
TABLES = {"investigation": functools.partial(investigation, EXPERIMENTS)}

if __name__ == "__main__":
    reproduce(EXPERIMENTS, train)
