"""Speed of training and of decoding, as ratios measured in one process.

    make benchmark-transformer [ARGS=data]     # on Multi30k of that folder where it is, else on made-up sentences of like lengths

Training: the straightforward script (torch's nn.Transformer in this paper's sizes, batches of 128 pairs in random order, padded to
the longest) against train.py, a pass over the same sentences in the same precision. Decoding: four beams, 50 tokens, with a forward
pass over all tokens so far for each new one, against `beam_search`, which keeps keys and values.
"""

import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.benchmark import compare
from common.data import translation
from common.data.ragged import Ragged, ragged
from papers.transformer.buckets import Bucketed
from papers.transformer.model import Transformer, beam_search, positional_encoding, smoothed_loss
from papers.transformer.train import EXPERIMENTS, loss
from papers.transformer.translate import attention_kernel, shifted_right
from papers.transformer.vocabulary import END, PAD, START, encode, train_bpe

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CONFIG = EXPERIMENTS["multi30k-de-en"].config


class Straightforward(nn.Module):
    """The same sizes in torch's modules."""

    def __init__(self, V: int) -> None:
        super().__init__()
        c = CONFIG
        self.embedding, self.dropout = nn.Embedding(V, c.d_model), nn.Dropout(c.dropout)
        self.net = nn.Transformer(c.d_model, c.h, c.N, c.N, c.d_ff, c.dropout, batch_first=True)

    def embed(self, tokens: Tensor) -> Tensor:
        encoding = positional_encoding(torch.arange(tokens.shape[1], device=tokens.device), CONFIG.d_model)
        return self.dropout(self.embedding(tokens) * CONFIG.d_model**0.5 + encoding)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        causal = nn.Transformer.generate_square_subsequent_mask(target.shape[1], target.device, torch.bool)
        y = self.net(
            self.embed(source), self.embed(target), tgt_mask=causal, tgt_is_causal=True, src_key_padding_mask=source == PAD,
            tgt_key_padding_mask=target == PAD, memory_key_padding_mask=source == PAD,
        )  # fmt: skip
        return F.linear(y, self.embedding.weight)


def pairs(data_dir: Path, n: int) -> tuple[Ragged, Ragged, int]:
    """n sentence pairs as tokens, and V."""
    if (data_dir / "multi30k").is_dir():
        texts = translation.multi30k(data_dir, "de", "en", "train")
        tokenizer = train_bpe([*texts.source, *texts.target], CONFIG.vocabulary)
        print(f"{n:,} pairs of Multi30k, German to English")
        sides, V = [encode(tokenizer, side[:n]) for side in (texts.source, texts.target)], tokenizer.get_vocab_size()
    else:
        print(f"no Multi30k in {data_dir}: {n:,} made-up pairs")
        lengths = (torch.randn(n, 1) * 4.5 + torch.randn(n, 2) * 1.5 + 15.5).clamp(4, 50).long()
        sides = [ragged(torch.randint(4, CONFIG.vocabulary, (length,)).numpy() for length in side) for side in lengths.T.tolist()]
        V = CONFIG.vocabulary
    return sides[0].to(DEVICE), sides[1].to(DEVICE), V


def training(data_dir: Path, n: int) -> None:
    source, target, V = pairs(data_dir, n)
    lengths = torch.stack([source.lengths, target.lengths], 1)
    at_random = torch.randperm(n).split(128)
    buckets = Bucketed(lengths, CONFIG.batch_size, seed=0)
    alike = [buckets.batch(step) for step in range(len(buckets))]
    for name, batches in (("128 pairs at random", at_random), ("about one length", alike)):
        positions = sum(len(rows) * int(lengths[rows].max(0).values.sum()) for rows in batches)
        print(f"padding in batches of {name}: {100 * (1 - lengths.sum().item() / positions):.1f} % of all positions")

    def a_pass(model: nn.Module, batches: list[Tensor], ours: bool):
        model.to(DEVICE).train()
        optimizer = torch.optim.Adam(model.parameters(), 1e-4, betas=(0.9, 0.98), eps=1e-9, fused=ours)
        loss_of = torch.compile(loss, dynamic=True) if ours else lambda logits, labels, e: smoothed_loss(logits.float(), labels, e)

        def updates() -> None:
            for rows in batches:
                labels = target.padded(rows)
                with torch.autocast(DEVICE.type, torch.bfloat16), attention_kernel(DEVICE) if ours else nullcontext():
                    logits = model(source.padded(rows), shifted_right(labels))
                loss_of(logits, labels, CONFIG.label_smoothing).backward()
                optimizer.step()
                optimizer.zero_grad()

        return updates

    torch.manual_seed(0)
    variants = {"nn.Transformer, 128 pairs at random": a_pass(Straightforward(V), at_random, ours=False)}
    variants["train.py"] = a_pass(CONFIG.network(V), alike, ours=True)
    compare(variants, lengths.sum().item(), "tokens", blocks=5)


class Endless(Transformer):
    """It never ends a sentence by itself, so that all are equally long."""

    def logits(self, y: Tensor) -> Tensor:
        return super().logits(y).index_fill(-1, torch.tensor([PAD, END], device=y.device), -torch.inf)


@torch.no_grad()
def uncached(model: Transformer, source: Tensor, length: int, K: int) -> Tensor:
    """The best of K beams after so many tokens (B, length), without keeping anything but the tokens."""
    B = len(source)
    memory, mask = (each.repeat_interleave(K, 0) for each in model.encode(source))
    tokens = source.new_full((B, K, 1), START)
    log_p = torch.tensor([[0.0] + [-torch.inf] * (K - 1)], device=source.device).repeat(B, 1)
    for _ in range(length):
        y = model.embed(tokens.flatten(0, 1))
        for layer in model.decoder:
            y, _ = layer(y, layer.cross_attention.keys_values(memory), mask)
        next_p = model.logits(y[:, -1]).log_softmax(1).unflatten(0, (B, K))
        log_p, index = (log_p[:, :, None] + next_p).flatten(1).topk(K)
        beam, token = index // next_p.shape[2], index % next_p.shape[2]
        tokens = torch.cat([tokens.take_along_dim(beam[:, :, None], 1), token[:, :, None]], 2)
    return tokens[:, 0, 1:]


def decoding(B: int, length: int = 50, K: int = 4) -> None:
    torch.manual_seed(0)
    c = CONFIG
    model = Endless(c.vocabulary, N=c.N, d_model=c.d_model, d_ff=c.d_ff, h=c.h).to(DEVICE).eval()
    source = torch.randint(4, c.vocabulary, (B, 20), device=DEVICE)

    def cached() -> Tensor:
        return beam_search(model, source, start=START, end=END, K=K, extra=length - 20)[0][:, : length - 1]

    print(f"\n{B} sentences, {K} beams, {length} tokens")
    with attention_kernel(DEVICE):
        same = (cached() == uncached(model, source, length - 1, K)).all(1).double().mean().item()
        print(f"the same translation by both: {100 * same:.0f} %")
        variants = {"all tokens again": lambda: uncached(model, source, length - 1, K), "beam_search": cached}
        compare(variants, B, "sentences", blocks=5)


def main() -> None:
    training(Path(sys.argv[1] if len(sys.argv) > 1 else "data"), 29_000 if DEVICE.type == "cuda" else 2048)
    decoding(256 if DEVICE.type == "cuda" else 64)


if __name__ == "__main__":
    main()
