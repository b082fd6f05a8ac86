"""The paper's Tables 2 and 4 beside what records have, and the claims and pictures that Table 4 makes."""

import statistics
from typing import Any

from common import figures
from common.claims import Claim, Record
from common.words import spread

TABLE_4 = {  # reverse step T - t + 1 -> rate, bits per dimension, and distortion, RMSE of pixels in 0 ... 255
    1000: (1.77581, 0.95136), 900: (0.11994, 12.02277), 800: (0.05415, 18.47482), 700: (0.02866, 24.43656),
    600: (0.01507, 30.80948), 500: (0.00716, 38.03236), 400: (0.00282, 46.12765), 300: (0.00081, 54.18826),
    200: (0.00013, 60.97170), 100: (0.00000, 67.60125),
}  # fmt: skip
CHOICE = "the paper gives no spread; a choice"


def row(step: int) -> list[Claim]:
    """A row of Table 4: neither less nor more is better, since a rate goes with a distortion."""
    rate, rmse = TABLE_4[step]
    where, off = f"Table 4, {step} steps", (round(max(0.1 * rate, 2e-5), 6), round(0.03 * rmse, 3))
    return [
        Claim(f"test_rate_{step}", rate, "bits/dim", where, False, off[0], f"{CHOICE}: a tenth", either_way=True),
        Claim(f"test_rmse_{step}", rmse, "", where, False, off[1], f"{CHOICE}: 3 %", either_way=True),
    ]


def objectives(records: list[Record]) -> list[list[str]]:
    """Table 2 beside what `objective` gave, as a table for README.md; means over seeds."""
    paper = {"simple-epsilon": "3.17", "simple-mu": "unstable", "L-epsilon": "13.51", "L-mu": "13.22"}
    keys = ("test_bits_per_dim", "confidence", "class_entropy", "1nn")
    mine = [r["metrics"] for r in records if r["experiment"] == "objective"]
    rows = [["objective", "the paper's FID, CIFAR-10", "bits/dim", "confidence, %", "class entropy, nats", "1-NN, %"]]
    for name, theirs in paper.items():
        found = [[each[f"{name.replace('-', '_')}_{key}"] for each in mine] for key in keys]
        rows.append([f"`{name}`", theirs, *(spread(values) if values else "–" for values in found)])
    return rows


EVALUATED = ("cifar10", "weights-google-ddpm-cifar10-32", "cifar10-small")


def in_table_4(_: str, claim: Claim) -> tuple[str, str]:
    """A claim's line and column as the paper has them: a line for so many steps."""
    return claim.source.partition(", ")[2], "rate" if claim.metric.startswith("test_rate") else "distortion, RMSE"


def table_4(records: list[Record]) -> list[list[str]]:
    """Table 4 beside what each experiment gave, as a table for README.md; means over seeds."""
    head = ["experiment", "reverse steps", "rate, the paper's", "ours", "RMSE, the paper's", "ours", "both within the tolerance"]
    rows = [head]
    for name in EVALUATED:
        mine = [r["metrics"] for r in records if r["experiment"] == name]
        for step, paper in TABLE_4.items() if mine else ():
            ours = [statistics.fmean(each[f"test_{what}_{step}"] for each in mine) for what in ("rate", "rmse")]
            met = all(abs(o - claim.value) <= claim.tolerance for o, claim in zip(ours, row(step), strict=True))
            cells = [f"{value:.5f}" for pair in zip(paper, ours, strict=True) for value in pair]
            rows.append([f"`{name}`", str(step), *cells, "yes" if met else "no"])
    return rows if len(rows) > 1 else [*rows, ["not run", *["–"] * 6]]


def rate_distortion(records: list[Record]) -> Any:
    """Fig. 5 (right), with Table 4's points: distortion over rate, of test images."""
    lines = {"the paper's (Table 4)": ([r for r, _ in TABLE_4.values()], [d for _, d in TABLE_4.values()], "k^--")}
    for record in records:
        found = record["metrics"]
        points = [[found[f"test_{what}_{step}"] for step in TABLE_4] for what in ("rate", "rmse")]
        lines[f"{record['experiment']}, seed {record['seed']}"] = *points, "o-"
    return figures.curves(lines, {}, xlabel="rate, bits per dimension", ylabel="distortion, RMSE", xlim=(-0.01, 0.2))


def distortion(records: list[Record]) -> Any:
    """Fig. 5 (left), with Table 4's points: distortion over reverse steps."""
    lines = {"the paper's (Table 4)": ([*TABLE_4], [d for _, d in TABLE_4.values()], "k^--")}
    for record in records:
        found = [record["metrics"][f"test_rmse_{step}"] for step in TABLE_4]
        lines[f"{record['experiment']}, seed {record['seed']}"] = [*TABLE_4], found, "o-"
    return figures.curves(lines, {}, xlabel="reverse steps", ylabel="distortion, RMSE")
