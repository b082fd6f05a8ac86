"""What the paper prints of each table and figure, as claims."""

import math
from collections.abc import Sequence
from typing import Any

from common.claims import Claim

GAINS = [  # a row, and one that is better in the paper
    ("l2", "max-norm"), ("l2", "dropout+l2"), ("l2", "dropout+max-norm"), ("max-norm", "dropout+max-norm"),
    ("dropout+l2", "dropout+max-norm"), ("dropout", "dropout+max-norm"), ("dropout+logistic", "dropout"),
    ("plain", "hidden+max-norm"), ("hidden+max-norm", "dropout+max-norm"), ("dropout+max-norm", "gaussian+max-norm"),
]  # fmt: skip


def key(row: str) -> str:
    return row.replace("-", "_").replace("+", "_")


def off(p: float, n: int = 10_000) -> float:
    """The standard error of a difference of two error rates near p %, each on n examples."""
    return round(math.sqrt(2 * p * (100 - p) / n), 2)


TWICE = "two standard errors of an error rate near 1 % on 10,000 images, which is what one run is measured with"
INDEPENDENT = "is the standard error of a difference of two such rates on 10,000 images, if they err independently; they do less so"


def errs(row: str, error: float, source: str, worse: bool = True, **more: Any) -> Claim:
    return Claim(f"test_error_{key(row)}", error, "%", source, True, 0.2, TWICE, either_way=worse, **more)


def gains(first: str, second: str, source: str, near: float = 1.3, end: str = "") -> Claim:
    why = f"the sign is what is claimed; {off(near)} {INDEPENDENT}"
    return Claim(f"{key(second)}_gain_over_{key(first)}{end}", 0, "%", source, why=why, noise=off(near))


def table(source: str, errors: dict[str, float], rows: Sequence[str], near: float = 1.3) -> list[Claim]:
    """Errors of the rows, and the differences that are larger in the paper than their noise."""
    best = min(errors, key=errors.__getitem__)
    claims = [errs(row, errors[row], f"{source}, {row}", row != best) for row in rows if row in errors]
    pairs = [(a, b) for a, b in GAINS if {a, b} <= {*rows} & {*errors} and errors[a] - errors[b] > off(1.3)]
    return claims + [gains(a, b, f"{source}: {b} is better than {a}", near) for a, b in pairs]


TABLE_9 = {"l2": 1.62, "l2+l1": 1.60, "l2+sparsity": 1.55, "max-norm": 1.35, "dropout+l2": 1.25, "dropout+max-norm": 1.05}
TABLE_2 = {"dropout+logistic": 1.35, "dropout": 1.25, "dropout+max-norm": 1.06}
TABLE_10 = {"dropout+max-norm": 1.08, "gaussian+max-norm": 0.95}
REPORT = {"plain": 1.6, "hidden+max-norm": 1.3, "dropout+max-norm": 1.1}
FIGURE_11 = [
    Claim("monte_carlo_less_scaling_k1", 0, "%", "Fig. 11: one thinned net is worse than weight scaling",
          why=f"the sign is what is claimed; {off(1.3)} {INDEPENDENT}", noise=off(1.3)),
    Claim("monte_carlo_less_scaling_k50", 0, "%", "Fig. 11: averages of about 50 are as good", tolerance=0.1, either_way=True,
          why="the standard error of one error rate near 1 % on 10,000 images; the paper says within one standard deviation"),
]  # fmt: skip


def figure_9(name: str, least: float) -> list[Claim]:
    why = f"the sign is what is claimed; {off(1.5)} {INDEPENDENT}"
    return [
        errs("hidden+max-norm_p0.1", least, f"Fig. 9{name}, p = 0.1", read=0.1),
        Claim("p0.1_less_middle", 0, "%", f"Fig. 9{name}: too small a p is worse", why=why, noise=off(1.5)),
        Claim("p1_less_middle", 0, "%", f"Fig. 9{name}: p = 1 is worse", why=why, noise=off(1.5)),
        Claim("spread_of_middle", 0, "%", f"Fig. 9{name}: flat for 0.4 <= p <= 0.8", True, 0.3, stands_on="p0.1_less_middle",
              why=f"a choice: two standard errors of a difference ({off(1.5)}), as it is the largest of several"),
    ]  # fmt: skip


def active(name: str, mean: float) -> Claim:
    """Fig. 8."""
    return Claim(
        f"mean_activation_{name}", mean, "", f"Fig. 8: about {mean:g}", tolerance=0.2, read=0.1, either_way=True,
        why="a choice: twice the printed digit",
    )  # fmt: skip


def figure_10() -> list[Claim]:
    claims, base = [], "dropout_max_norm_gain_over_max_norm_images"
    for n, near in ((100, 25), (500, 11)):
        why = "two standard errors of a difference of two such rates on 10,000 images"
        claims.append(
            Claim(
                f"{base}{n}", 0, "%", f"Fig. 10: {n} images, no gain", True, round(2 * off(near), 2), why, stands_on=f"{base}5000"
            )
        )
    for n, near in ((1000, 8), (5000, 4), (10_000, 3), (50_000, 1.5)):
        claims.append(gains("max-norm", "dropout+max-norm", f"Fig. 10: {n:,} images, a gain", near, f"_images{n}"))
    return claims
