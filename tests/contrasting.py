"""CLIP's contrast on several processes: python -m tests.contrasting FOLDER MICRO_BATCH, once for each."""

import sys
from pathlib import Path
from types import SimpleNamespace

import torch

from common.loop import Loop
from common.processes import Processes, bare
from papers.clip.contrast import learn
from papers.clip.model import CLIP, TextEncoder, VisionTransformer

N = 13


def small() -> CLIP:
    torch.manual_seed(0)
    return CLIP(VisionTransformer(16, 64, 1, 8, 16), TextEncoder(16, 64, 1, 6, 40))


def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    tokens = torch.randint(1, 39, (N, 6))
    tokens[:, 4] = 39
    return torch.randn(N, 3, 16, 16), tokens


if __name__ == "__main__":
    group = Processes("fp64", {})
    group._join()
    group.options = SimpleNamespace(micro_batch=int(sys.argv[2]) or None)
    group.micro_batches = lambda *a, **k: Loop.micro_batches(group, *a, **k)
    model = group._prepared(small())
    images, tokens = (each[group.share(N)] for each in pairs())
    loss = learn(group, model, images, tokens, N)
    found = {name: p.grad for name, p in bare(model).named_parameters()}
    if group.processes > 1:
        torch.distributed.all_reduce(loss)
        loss = loss / group.processes
    torch.save({"loss": loss, "gradients": found}, Path(sys.argv[1]) / f"{group.processes}-{sys.argv[2]}-{group.rank}.pt")
    group._leave()
