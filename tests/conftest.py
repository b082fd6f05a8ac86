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


# What the standing tests of a paper cost: with fourteen papers they still have to end within ten minutes on two cores.

LIMIT, SMOKE = 20.0, 2.0  # seconds of CPU for all of a paper's, and for its smoke run on an idle core
USED: Counter[str] = Counter()
SMOKES: dict[str, float] = {}


def pytest_runtest_logreport(report):
    for name, (paper, seconds) in report.user_properties:
        if name == "cpu" and report.when == "teardown":
            USED[paper] += seconds
        elif name == "smoke":
            SMOKES[paper] = seconds


def pytest_sessionfinish(session):
    if max(USED.values(), default=0) > LIMIT and not hasattr(session.config, "workerinput"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    for what, limit, seconds in (("standing tests", LIMIT, USED), ("smoke runs", SMOKE, SMOKES)):
        if seconds:
            costs = ", ".join(f"{paper} {used:.1f}" for paper, used in sorted(seconds.items()) if used >= 0.1)
            terminalreporter.write_line(f"{what}, seconds of CPU (at most {limit:.0f} on an idle core): {costs}")
