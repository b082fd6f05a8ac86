"""Every test runs without Weights & Biases, without a network, and without anybody's settings, unless it says otherwise."""

import os

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
