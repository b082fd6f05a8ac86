"""Every test runs without Weights & Biases, without a network, and without anybody's settings, unless it says otherwise."""

import os
from collections import Counter

import pytest

for name in ("WANDB_API_KEY", "DATA_DIR", "COMMIT", "RANK", "WORLD_SIZE", "MAKEFLAGS"):
    os.environ.pop(name, None)
os.environ["WANDB_MODE"] = "disabled"
os.environ["TORCH_COMPILE_DISABLE"] = "1"  # seconds for each process; the tests of what is compiled say so
os.environ["OMP_NUM_THREADS"] = "1"  # as torchrun sets it: two workers share two cores


@pytest.fixture
def toy_data(tmp_path):
    """A --data-dir with the toy paper's files."""
    from tests.toy.train import write_data

    write_data(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def double():
    """torch's default type is double."""
    import torch

    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# What the standing tests of a paper cost: with twenty papers they still have to end within minutes on two cores. Seconds of a slow
# core are another measure than those of a fast one: above 20 the limit is counted in the toy paper's tests, which run among the
# others: 8.5 s where the costliest paper's took 22.

SECONDS, TOYS, SMOKE = 20.0, 3.0, 2.0  # all of a paper's standing tests, or in those of tests/toy; its smoke run on an idle core
USED: Counter[str] = Counter()
SMOKES: dict[str, float] = {}


def pytest_runtest_logreport(report):
    for name, (paper, seconds) in report.user_properties:
        if name == "cpu" and report.when == "teardown":
            USED[paper] += seconds
        elif name == "smoke":
            SMOKES[paper] = seconds


def pytest_sessionfinish(session):
    whole = not session.config.option.keyword and "tests" in USED  # of a selection nothing follows
    if whole and max(USED.values()) > max(SECONDS, TOYS * USED["tests"]) and not hasattr(session.config, "workerinput"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    limits = f"at most {SECONDS:.0f}, or {TOYS:.0f} times those of `tests`, the toy", f"at most {SMOKE:.0f} on an idle core"
    for what, limit, seconds in (("standing tests", limits[0], USED), ("smoke runs", limits[1], SMOKES)):
        if seconds:
            costs = ", ".join(f"{paper} {used:.1f}" for paper, used in sorted(seconds.items()) if used >= 0.1)
            terminalreporter.write_line(f"{what}, seconds of CPU ({limit}): {costs}")
