"""Speed of pre-training, of sampling, and of reading windows, as ratios measured in one process.

    make benchmark-gpt [ARGS=data]     # on the texts of that folder, where they are; four minutes on one CPU core

Training: transformers' model in its Trainer's step, the same network written out as nanoGPT has it, and pretrain.py, with the same
batches in bf16. On a GPU in the paper's sizes, and also how much each step of tuning brings there.
"""

import gc
import logging
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import reduce
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader

from common.benchmark import compare
from papers.gpt import corpus
from papers.gpt.model import GPT, sample
from papers.gpt.pretrain import Pretraining, loss
from papers.gpt.train import EXPERIMENTS

PEAK = 989e12  # operations a second of an H100 SXM, in bf16, dense
RUNGS = ("fp32, attention written out", "+ fused attention", "+ bf16", "+ torch.compile", "+ fused AdamW", "+ V padded to 64s")


class PlainBlock(nn.Module):
    """As nanoGPT has it, but for where it normalises, and GELU's tanh. It ignores a past, and keeps nothing."""

    def __init__(self, D: int, h: int, dropout: float) -> None:
        super().__init__()
        self.h, self.dropout = h, nn.Dropout(dropout)
        self.c_attn, self.c_proj, self.ln_1 = nn.Linear(D, 3 * D), nn.Linear(D, D), nn.LayerNorm(D)
        self.c_fc, self.mlp_proj, self.ln_2 = nn.Linear(D, 4 * D), nn.Linear(4 * D, D), nn.LayerNorm(D)

    def forward(self, x: Tensor, past: None) -> tuple[Tensor, None]:
        B, T, D = x.shape
        q, k, v = (each.view(B, T, self.h, D // self.h).transpose(1, 2) for each in self.c_attn(x).split(D, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout.p if self.training else 0.0, is_causal=True)
        x = self.ln_1(x + self.dropout(self.c_proj(y.transpose(1, 2).contiguous().view(B, T, D))))
        return self.ln_2(x + self.dropout(self.mlp_proj(F.gelu(self.c_fc(x), approximate="tanh")))), None


def networks(c: Pretraining, V: int) -> tuple[nn.Module, GPT, GPT]:
    """transformers', one of plain blocks, and ours, all with the same random weights."""
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    sizes = {"vocab_size": V, "n_embd": c.width, "n_layer": c.n_layer, "n_head": c.n_head, "n_positions": c.context}
    sizes |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), c.dropout)
    theirs, plain, ours = OpenAIGPTLMHeadModel(OpenAIGPTConfig(**sizes)), c.net(V), c.net(V)
    plain.blocks = nn.ModuleList(PlainBlock(c.width, c.n_head, c.dropout) for _ in plain.blocks)
    with torch.no_grad():
        for weight, other, (name, third) in zip(ours.parameters(), plain.parameters(), theirs.named_parameters(), strict=True):
            weight.add_(torch.randn_like(weight), alpha=0.02)  # so that biases and gains matter
            other.copy_(weight)
            third.copy_(weight.T if ".c_" in name and name.endswith("weight") else weight)  # their Conv1D: (in, out)
    return theirs, plain, ours


def updates(model, forward, loss_of, batches, *, fused, bf16=True, kernel=nullcontext):
    """A block of updates, one with each of the batches (B, T + 1)."""
    matrices, others = ([p for p in model.train().parameters() if (p.ndim > 1) == matrix] for matrix in (True, False))
    optimizer = torch.optim.AdamW([{"params": matrices}, {"params": others, "weight_decay": 0.0}], 1e-4, fused=fused)

    def block() -> None:
        for tokens in batches:
            with torch.autocast(tokens.device.type, torch.bfloat16, enabled=bf16), kernel():
                y = forward(tokens[:, :-1])
            loss_of(y, tokens[:, 1:]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return block


def training(c: Pretraining, V: int, text: corpus.Corpus, n: int, device: torch.device) -> None:
    print(f"\n{c.n_layer} layers, D {c.width}, V {V:,}, {c.batch_size} sequences of {c.context}, dropout {c.dropout}, bf16")
    theirs, plain, ours = (model.to(device).eval() for model in networks(c, V))
    batches = [text.windows(text.sampled(i, 0, c.batch_size, c.context), c.context).to(device) for i in range(n)]
    gpu, x = device.type == "cuda", batches[0][:2, :-1]
    with torch.no_grad():
        found = [theirs(x, labels=x).loss, *(loss(model(x)[:, :-1], x[:, 1:]) for model in (plain, ours))]
    assert max(found) - min(found) < 1e-5 * max(found), found
    print(f"the same loss from the same weights, in fp32: {', '.join(f'{each:.6f}' for each in found)}")
    torch.compiler.reset()  # or it would compile for batches of any shape
    net = torch.compile(ours) if gpu else ours
    variants = {  # the Trainer's AdamW is fused, nanoGPT's on a GPU
        "transformers": updates(theirs, lambda x: theirs(x, labels=x).loss, lambda its, _: its, batches, fused=True),
        "a plain nanoGPT-style loop": updates(plain, plain, loss, batches, fused=gpu),
        "pretrain.py": updates(ours, net, torch.compile(loss), batches, fused=True),
    }
    _, of_plain, of_ours = compare(variants, n * c.batch_size * c.context, "tokens", blocks=5).values()
    print(f"pretrain.py in terms of the nanoGPT-style loop: {of_ours / of_plain:.2f}")


def ladder(c: Pretraining, V: int, n: int, device: torch.device) -> None:
    """What each step brings in addition to those before it, n updates at a time."""
    print(f"\n{c.batch_size} sequences of {c.context}; MFU is of {PEAK / 1e12:.0f} TFLOP/s (H100 SXM, bf16, dense)")
    for i, name in enumerate(RUNGS):
        gc.collect()
        torch.cuda.empty_cache()
        torch.compiler.reset()
        model, made = c.net(V + -V % 64 if i == 5 else V).to(device), torch.compile if i >= 3 else lambda function: function
        N = sum(p.numel() for p in model.parameters()) - (c.context + len(model.embedding.weight) - V) * c.width  # W_e once
        kernel = nullcontext if i else lambda: sdpa_kernel(SDPBackend.MATH)
        batches, seconds = [torch.randint(V, (c.batch_size, c.context + 1), device=device)] * n, []
        block = updates(model, made(model), made(loss), batches, fused=i >= 4, bf16=i >= 2, kernel=kernel)
        try:
            for _ in range(4):  # the first warms up, and compiles
                start = time.perf_counter()
                block()
                torch.cuda.synchronize() if device.type == "cuda" else None
                seconds.append((time.perf_counter() - start) / n)
            speed = c.batch_size * c.context / min(seconds[1:])
            mfu = (6 * N + 12 * c.n_layer * c.width * c.context) * speed / PEAK
            print(f"{name:32} {speed:9,.0f} tokens/s {1000 * min(seconds[1:]):8.1f} ms   MFU {100 * mfu:5.1f} %", flush=True)
        except torch.OutOfMemoryError:
            print(f"{name:32} out of memory")


def sampling(device: torch.device, n: int = 200, B: int = 8) -> None:
    print(f"\n{n} tokens after 16, {B} sequences, 4 layers, D 256")
    model, found = GPT(4096, n_layer=4, n_head=4, D=256, context=256).to(device).eval(), {}
    model.positions.weight.data *= 5  # otherwise it says one token again and again
    prompt = torch.randint(4096, (B, 16), device=device)
    variants = {
        "all tokens again": lambda: reduce(lambda tokens, _: sample(model, tokens, 1, top_k=1), range(n), prompt),
        "keys and values kept": lambda: sample(model, prompt, n, top_k=1),
    }
    compare({name: lambda name=name, f=f: found.update({name: f()}) for name, f in variants.items()}, n * B, "tokens", blocks=2)
    print(f"the same tokens by both: {torch.equal(*found.values())}")


def reading(text: corpus.Corpus, n: int = 200, B: int = 16, T: int = 128) -> None:
    class Windows:
        def __getitem__(self, at: int) -> Tensor:
            return torch.from_numpy(text.splits["train"][at : at + T + 1].astype("int64"))

    starts = [text.sampled(i, 0, B, T) for i in range(n)]
    loader = DataLoader(Windows(), batch_sampler=[each.tolist() for each in starts])
    assert all(torch.equal(a, text.windows(b, T)) for a, b in zip(loader, starts, strict=True))
    print(f"\nbatches of {B} windows of {T} tokens alone, the same by both")
    variants = {"DataLoader": lambda: list(loader), "pretrain.py": lambda: [text.windows(each, T) for each in starts]}
    compare(variants, n * B * T, "tokens")


def main() -> None:
    torch.manual_seed(0)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns of a missing GPU
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data_dir, gpu = Path(sys.argv[1] if len(sys.argv) > 1 else "data"), device.type == "cuda"
    configs = [EXPERIMENTS[name].config for name in ("tinyshakespeare", "wikitext2")]
    if gpu:  # transformers' attention needs more than 60 GB, by reckoning, for all 64 sequences
        B = 64 if torch.cuda.get_device_properties(0).total_memory > 1e11 else 32
        configs = [Pretraining(corpus="wikitext-2", tokens="bytes", batch_size=B)]
    for c in configs:
        c = c if (data_dir / c.corpus).is_dir() else replace(c, corpus="made-up")
        with tempfile.TemporaryDirectory() as folder:
            settings = corpus.Settings(c.corpus, c.tokens, c.vocabulary)
            text, _ = corpus.load(settings, data_dir, spare=Path(folder), context=c.context)  # stays readable
        training(c, 65 if c.tokens == "characters" else c.vocabulary, text, 20 if gpu or c.context < 128 else 5, device)
    for T in (512, 1024) if gpu else ():
        ladder(Pretraining(context=T, batch_size=16_384 // T), 40_478, 10, device)
    print("" if gpu else "\nno GPU here: the ladder and MFU are not measured")
    sampling(device)
    reading(text)


if __name__ == "__main__":
    main()
