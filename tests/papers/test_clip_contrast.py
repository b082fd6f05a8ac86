"""The contrast of a whole global batch: the same loss and gradients on any number of processes and micro-batches."""

import pytest
import torch

from papers.clip.model import contrastive_loss
from tests.contrasting import N, pairs, small
from tests.start import finish, processes


@pytest.fixture(scope="module")
def whole():
    """In one piece, by plain autograd, in double."""
    torch.set_default_dtype(torch.float64)
    try:
        model = small()
        loss = contrastive_loss(*model(*pairs()))
        loss.backward()
        return loss.detach(), {name: p.grad for name, p in model.named_parameters()}
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("n", "micro"), [(1, 0), (1, 4), (2, 0), (2, 3), pytest.param(4, 0, marks=pytest.mark.slow)])
def test_exact(n, micro, whole, tmp_path):
    """13 pairs, which two or four processes cannot share equally, nor 4 or 3 at a time."""
    finish(processes(n, tmp_path / "log", "tests.contrasting", tmp_path, str(micro)))
    loss, gradients = whole
    for rank in range(n):
        found = torch.load(tmp_path / f"{n}-{micro}-{rank}.pt", weights_only=True)
        assert found["loss"].item() == pytest.approx(loss.item(), rel=1e-12)
        assert found["gradients"].keys() == gradients.keys()
        for name, gradient in found["gradients"].items():
            assert (gradient - gradients[name]).abs().max() <= 1e-10 * gradients[name].abs().max().clamp(min=1e-6), name


def test_a_process_has_the_similarities_of_its_rows_alone(double):
    """Memory: of N x N cosines a process that has b pairs keeps b x N, twice."""
    torch.manual_seed(0)
    I, T = (torch.nn.functional.normalize(torch.randn(N, 5), dim=1).requires_grad_() for _ in range(2))
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(tuple(t.shape)) or t, lambda t: t):
        contrastive_loss(I, T, torch.tensor(3.0, requires_grad=True), slice(4, 7))
    assert (3, N) in sizes and (N, N) not in sizes and max(t[0] * t[1] for t in sizes if len(t) == 2) == max(3 * N, 5 * N)
