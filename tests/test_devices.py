"""Every paper's smoke experiments on a GPU that is pretended (pretended.py): what lies on the wrong device fails here.

Not seen here, where the CPU computes: what CUDA's own kernels refuse or round otherwise, what torch.compile makes of the code,
memory that does not suffice, and what is read before a copy that does not block has arrived.
"""

import contextlib
import dataclasses
import re

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from common.run import Run
from papers.lstm.tasks import Sequences
from tests.pretended import Refused, gpu
from tests.start import here, rows
from tests.toy.model import Tagger
from tools.repository import experiments, papers

SMOKE = [(paper, name) for paper in papers() for name, e in experiments(paper).items() if e.kind == "smoke"]
LESS = {  # the same loops, fewer updates
    ("bert", "smoke"): ("--epochs", 1),
    ("bert", "smoke-ablation"): ("--steps", 2, "--looks", 1),
    ("bert", "smoke-pretraining"): ("--steps", 4, "--evaluate-every", 2),
    ("bert", "smoke-squad"): ("--epochs", 1),
    ("gpt", "smoke"): ("--steps", 10, "--evaluate-every", 5),
    ("gpt", "smoke-finetuning"): ("--epochs", 1),
    ("lenet", "smoke"): ("--train-size", 60),
    ("lstm", "smoke"): ("--max-sequences", 30),
    ("transformer", "smoke"): ("--steps", 10, "--average", 1),
}
OPTIONS = [  # with tensors of their own
    ("alexnet", "smoke", "--beside", "no-norms"),
    ("alexnet", "smoke", "--net", 18, "--decay", 0, 0, 0, 1, "--first", 0),
    ("backprop", "smoke", "--task", "encoder", "--hidden", 3, "--direct", "False", "--sweeps", 10),
    ("backprop", "smoke", "--task", "family-trees", "--hidden", 0, "--direct", "False", "--held-out", 4, "--dead-zone"),
    ("backprop", "smoke", "--task", "t-or-c", "--hidden", 2, "--direct", "False", "--sweeps", 10),
    ("batchnorm", "smoke", "--norms", "ln", "--optimizer", "adam", "--rates", 0.01, "--activation", "relu", "--steps", 8),
    ("batchnorm", "smoke-small-batches", "--nets", "ln-4", "in-8", "--images", 32),
    ("bert", "smoke", "--epochs", 1, "--rates", 1e-3, 1e-4, "--optimizer", "adamw"),
    ("bert", "smoke-pretraining", "--steps", 4, "--no-next-sentence", "--kinds", 0, 0, 1),
    ("clip", "smoke", "--compare", "objectives", "--among", 5, "--steps", 2, "--evaluate-every", 1),
    ("clip", "smoke", "--image", "resnet", "--image-layers", 1, 1, 1, 1, "--image-width", 8, "--steps", 2),
    ("dcgan", "smoke", "--net", "mlp", "--epochs", 1, "--decay", 0),
    ("dcgan", "smoke", "--broken", "joint-batch", "--epochs", 1, "--decay", 0),
    ("dcgan", "smoke-features", "--prior", "normal", "--epochs", 1, "--draws", 1, "--no-controls"),
    ("ddpm", "smoke", "--objectives", "L-epsilon", "simple-mu", "L-mu-learned", "--steps", 3, "--samples", 4),
    ("dropout", "smoke", "--rows", "sparsity", "gaussian+logistic", "--vary", "p-and-width", "--values", 0.5, 1),
    ("dropout", "smoke", "--rows", "l2", "--vary", "images", "--values", 60, 2, "--images", 60),
    ("dropout", "smoke", "--averaged", 2),
    ("glorot", "smoke", "--watch-every", 12, "--models", "relu-he", "tanh-torch", "softsign-n", "--momentum", 0.9),
    ("gpt", "smoke", "--network", "lstm", "--units", 8, "--steps", 2, "--evaluate-every", 1),
    ("lenet", "smoke", "--loss", "mse", "--batch-size", 10, "--train-size", 60),
    ("lstm", "smoke", "--no-recurrent", "--task", "long-lag-2c", "--criterion", "test", "--max-sequences", 10),
    ("lstm", "smoke", "--recurrent-into", "gates", "--task", "two-sequence-3c", "--max-sequences", 10),
    ("lstm", "smoke-grammar", "--shortcuts", "--sources", "cells", "--max-sequences", 10),
    ("lstm", "smoke-grammar", "--update", "step", "--max-sequences", 2),
    ("lstm", "smoke-recall", "--last-error", "cell", "--gate", -3, "--regular", "--max-sequences", 100),
    ("lstm", "smoke-recall", "--net", "self-recurrent", "--max-sequences", 100),
    ("seq2seq_attention", "smoke", "--optimizer", "adam", "--networks", "encdec", "--checkpoint", "last"),
    ("seq2seq_attention", "smoke", "--dropout", 0.2, "--present", "--networks", "search"),
    ("transformer", "smoke", "--learned-positions", "--steps", 10, "--average", 1),
    ("vgg", "smoke", "--compare", "depth", "--steps", 2, "--evaluate-every", 2),
    ("vgg", "smoke", "--compare", "batch-norm", "--steps", 2, "--evaluate-every", 2),
    ("vit", "smoke", "--beside", "positions", "--steps", 4, "--evaluate-every", 4),
    ("vit", "smoke", "--beside", "resnet", "--steps", 4, "--evaluate-every", 4),
]


RUNS = [(paper, name, *LESS.get((paper, name), ())) for paper, name in SMOKE]
RUNS += [pytest.param(run, marks=pytest.mark.slow) for run in OPTIONS]


@pytest.mark.parametrize("run", RUNS, ids=lambda run: " ".join(map(str, run)))
def test_a_paper_on_a_gpu(run, tmp_path, monkeypatch):
    """From the command line to the record, in the precision that the experiment has there."""
    paper, name, *flags = run
    with gpu(monkeypatch) as operations:
        code, output = here(f"papers.{paper}.train", name, "--out", tmp_path, *flags)
    assert code == 0, output
    precision = re.search(rf"{paper} {name} seed 0, (\w+), 1x pretended GPU", output)[1]
    types = {"fp64": torch.float64, "fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}
    assert types[precision] in operations.types, "nothing was computed there"


class Doubled(torch.autograd.Function):
    """A backward pass with a tensor that is made on the CPU."""

    @staticmethod
    def forward(context, x):
        return 2 * x

    @staticmethod
    def backward(context, gradient):
        return gradient * torch.full(gradient.shape, 2.0)


def learn(x, device):
    """An update of a network that is on that device."""
    net = nn.Linear(3, 2).to(device)
    optimizer = torch.optim.AdamW(net.parameters())
    net(x).sum().backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    return next(net.parameters())


def hooked(x):
    weight = torch.ones(3, requires_grad=True).to(x.device)
    weight.register_hook(lambda gradient: gradient * torch.ones(3))
    (weight * x).sum().backward()


def into(scalar, x):
    scalar += x.sum()


def put(x, index, value):
    x[index] = value


RULES = {  # x is (4, 3), on the GPU: what a GPU accepts, and what it refuses; whether FakeTensorMode knows
    "a mask from the CPU": (lambda x: x * torch.ones(4, 1), False, True),
    "a mask beside it": (lambda x: x * torch.ones(4, 1, device=x.device), True, True),
    "a mask by torch.where": (lambda x: torch.where(torch.ones(4, 1, dtype=torch.bool), x, 0.0), False, True),
    "a number": (lambda x: 2 * x + torch.tensor(3.0), True, True),
    "a number added to one on the CPU": (lambda x: torch.tensor(3.0) + x.sum(), True, True),
    "a sum kept on the CPU": (lambda x: into(torch.zeros(()), x), False, False),
    "numbers kept on the CPU": (lambda x: into(torch.zeros(3), x), False, True),
    "a sum beside it": (lambda x: into(torch.zeros((), device=x.device), x), True, True),
    "an index from the CPU": (lambda x: x[torch.tensor([0, 2])], True, True),
    "an index into a tensor on the CPU": (lambda x: torch.ones(4, 3)[torch.tensor([0, 2], device=x.device)], False, False),
    "a mask as an index": (lambda x: x[torch.ones(4, dtype=torch.bool)], True, False),
    "values put from the CPU": (lambda x: put(x, torch.tensor([0, 2]), torch.ones(2, 3)), False, True),
    "values copied from the CPU": (lambda x: put(x, slice(0, 2), torch.ones(2, 3)), True, True),
    "tokens on the CPU": (lambda x: F.embedding(torch.tensor([0, 2]), x), False, True),
    "weights on the CPU": (lambda x: nn.Linear(3, 2)(x), False, True),
    "gathered by an index on the CPU": (lambda x: x.gather(1, torch.zeros(4, 1, dtype=torch.int64)), False, True),
    "labels on the CPU": (lambda x: F.cross_entropy(x, torch.zeros(4, dtype=torch.int64)), False, True),
    "labels beside it": (lambda x: F.cross_entropy(x, torch.zeros(4, dtype=torch.int64).to(x.device)), True, True),
    "joined with the CPU's": (lambda x: torch.cat([x, torch.ones(1, 3)]), False, True),
    "joined with what was moved": (lambda x: torch.cat([x.cpu(), torch.ones(1, 3)]), True, True),
    "views and types": (lambda x: x.mT.double()[:1] * torch.ones(1, 4, device=x.device), True, True),
    "one-hot": (lambda x: F.one_hot(x.argmax(1), 3) * x, True, True),
    "attention": (lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None], is_causal=True), True, True),
    "made like it": (lambda x: x + torch.zeros_like(x) + x.new_ones(4, 3), True, True),
    "made like it on the CPU": (lambda x: x + torch.zeros_like(x, device="cpu"), False, True),
    "noise": (lambda x: x + torch.randn(4, 3, device=x.device, generator=torch.Generator(x.device)), True, False),
    "noise of the CPU's generator": (lambda x: torch.randn(4, 3, device=x.device, generator=torch.Generator()), False, False),
    "an array": (lambda x: x.numpy(), False, False),
    "an array of what was moved": (lambda x: x.cpu().numpy(), True, False),
    "numbers for Python": (lambda x: (x.sum().item(), x.tolist(), bool(x.any())), True, False),
    "an update": (lambda x: learn(x, x.device) * x[:2], True, False),
    "an update on the CPU": (lambda x: learn(x, "cpu"), False, False),
    "a hook": (hooked, False, False),
    "a backward pass": (lambda x: Doubled.apply(x.requires_grad_()).sum().backward(), False, False),
}  # fmt: skip


@pytest.mark.parametrize("case", RULES)
def test_rules(case, monkeypatch):
    function, accepted, _ = RULES[case]
    with gpu(monkeypatch):
        x = torch.ones(4, 3, device="cuda")
        with contextlib.nullcontext() if accepted else pytest.raises(Refused):
            function(x)


@pytest.mark.parametrize("case", [case for case, (_, _, known) in RULES.items() if known])
def test_rules_are_those_of_fake_tensors(case):
    function, accepted, _ = RULES[case]
    with FakeTensorMode():
        x = torch.ones(4, 3, device="cuda")
        with contextlib.nullcontext() if accepted else pytest.raises(RuntimeError, match=r"same device|device between"):
            function(x)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("case", RULES)
def test_rules_are_those_of_cuda(case):
    function, accepted, _ = RULES[case]
    with contextlib.nullcontext() if accepted else pytest.raises((RuntimeError, TypeError)):
        function(torch.ones(4, 3, device="cuda"))


def mask_on_the_cpu(self, tokens):
    return right(self, tokens) * torch.ones(tokens.shape)[..., None]


def table_that_is_no_buffer(self, tokens):
    self.table = torch.ones(11)  # not moved with the network
    return right(self, tokens) * self.table[tokens][..., None]


def positions_on_the_cpu(self, tokens):
    return right(self, tokens) + self.embedding(torch.arange(tokens.shape[1])).mean(-1, keepdim=True)


def array_of_the_gpu(self, tokens):
    assert (tokens.numpy() >= 0).all()
    return right(self, tokens)


right = Tagger.forward
MUTATIONS = {
    mask_on_the_cpu: "tensors on different devices", table_that_is_no_buffer: "index or value on cuda",
    positions_on_the_cpu: "tensors on different devices", array_of_the_gpu: r"use \.cpu",
}  # fmt: skip


@pytest.mark.parametrize("forward", MUTATIONS, ids=lambda forward: forward.__name__)
def test_a_model_that_fails_on_a_gpu_only(forward, tmp_path, monkeypatch):
    monkeypatch.setattr(Tagger, "forward", forward)
    assert here("tests.toy.train", "smoke", "--out", tmp_path / "cpu")[0] == 0
    with pytest.raises(Refused, match=MUTATIONS[forward]), gpu(monkeypatch):
        here("tests.toy.train", "smoke", "--out", tmp_path / "gpu")


def test_autocast_of_the_wrong_device(tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "autocast", lambda run: torch.autocast("cpu", torch.bfloat16, enabled=run.precision == "bf16"))
    with pytest.raises(Refused, match="autocast for cpu"), gpu(monkeypatch):
        here("tests.toy.train", "smoke", "--precision", "bf16", "--out", tmp_path)


def test_data_left_on_the_cpu(tmp_path, monkeypatch):
    """Of the LSTM's sequences all but the targets are moved."""
    moved = Sequences.to
    monkeypatch.setattr(Sequences, "to", lambda self, device: dataclasses.replace(moved(self, device), target=self.target))
    with pytest.raises(Refused, match="tensors on different devices"), gpu(monkeypatch):
        here("papers.lstm.train", "smoke", "--max-sequences", 2, "--out", tmp_path)


def test_what_is_pretended_computes_what_the_cpu_does(tmp_path, monkeypatch):
    assert here("tests.toy.train", "smoke", "--out", tmp_path / "cpu")[0] == 0
    with gpu(monkeypatch):
        assert here("tests.toy.train", "smoke", "--out", tmp_path / "gpu")[0] == 0
    cpu, pretended = (rows(tmp_path / out / "toy/smoke/seed0") for out in ("cpu", "gpu"))
    assert [row.keys() for row in cpu] == [row.keys() for row in pretended] and len(cpu) > 2
    for a, b in zip(cpu, pretended, strict=True):
        assert a == pytest.approx(b, rel=1e-5)


def test_what_is_pretended_ends(monkeypatch):
    before = torch.cuda.is_available(), torch.Generator, torch.autocast, torch.compile
    with gpu(monkeypatch):
        assert torch.cuda.is_available()
    assert (torch.cuda.is_available(), torch.Generator, torch.autocast, torch.compile) == before
    assert torch.ones(2).device.type == "cpu" and torch.ones(2).numpy().sum() == 2
