"""Speed of training and of decoding, as ratios measured in one process.

    make benchmark-seq2seq_attention [ARGS=data]     # on Multi30k of that folder where it is, else on made-up sentences

Training: the way of the public tutorial (bentrevett/pytorch-seq2seq, notebook 3: torch's GRU, the same sizes, a loop over target
words with attention and the products with the context and with the output's words in each step, 128 pairs at random, padded to the
longest) against train.py, a pass over the same sentences, in fp32 and in bf16. Decoding: the tutorial's, a sentence at a time,
against `beam_search` with one beam, and with ten.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.benchmark import compare
from common.data import translation
from common.data.ragged import Ragged, by_length, ragged
from papers.seq2seq_attention.model import EncoderDecoder, beam_search
from papers.seq2seq_attention.sentences import END, Words, alike, shortlist, tokenised
from papers.seq2seq_attention.train import EXPERIMENTS, loss

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CONFIG = EXPERIMENTS["multi30k-de-en"].config
START = END  # of the tutorial's decoder


class Straightforward(nn.Module):
    """The tutorial's network at these sizes, written anew after its description; teacher forcing throughout, as in train.py."""

    def __init__(self, K_x: int, K_y: int) -> None:
        super().__init__()
        n, m = CONFIG.n, CONFIG.m
        self.E_x, self.E_y, self.dropout = nn.Embedding(K_x, m), nn.Embedding(K_y, m), nn.Dropout(CONFIG.dropout)
        self.encoder, self.initial = nn.GRU(m, n, bidirectional=True, batch_first=True), nn.Linear(2 * n, n)
        self.energy, self.v = nn.Linear(3 * n, n), nn.Linear(n, 1, bias=False)
        self.decoder, self.out = nn.GRU(2 * n + m, n, batch_first=True), nn.Linear(3 * n + m, K_y)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h, last = self.encoder(self.dropout(self.E_x(x)))
        return h, torch.tanh(self.initial(torch.cat([last[0], last[1]], 1)))

    def step(self, word: Tensor, s: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        Ey = self.dropout(self.E_y(word))[:, None]
        energy = torch.tanh(self.energy(torch.cat([s[:, None].expand(-1, h.shape[1], -1), h], 2)))
        c = self.v(energy)[:, :, 0].softmax(1)[:, None].to(h.dtype) @ h
        output, s = self.decoder(torch.cat([Ey, c], 2), s[None])
        return self.out(torch.cat([output, c, Ey], 2))[:, 0], s[0]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h, s = self.encode(x)
        logits = []
        for word in F.pad(y[:, :-1], (1, 0), value=START).unbind(1):
            found, s = self.step(word, s, h)
            logits.append(found)
        return torch.stack(logits, 1)

    def translate(self, x: Tensor, limit: int) -> list[int]:
        """One sentence (1, S), greedily, and to the limit, so that all networks write as much."""
        h, s = self.encode(x)
        words = [START]
        for _ in range(limit):
            logits, s = self.step(torch.tensor(words[-1:], device=x.device), s, h)
            words.append(logits.argmax(1).item())
        return words


def pairs(data_dir: Path, n: int) -> tuple[Ragged, Ragged, int, int]:
    """n sentence pairs as words, K_x, and K_y."""
    if (data_dir / "multi30k").is_dir():
        texts = translation.multi30k(data_dir, "de", "en", "train")
        print(f"{n:,} pairs of Multi30k, German to English; output of 5,900 words or so")
        cut = [tokenised(side[:n], language, CONFIG) for side, language in ((texts.source, "de"), (texts.target, "en"))]
        words = [Words(shortlist(side, CONFIG.vocabulary, 1)) for side in cut]
        sides = [ragged(map(w.encode, side)) for w, side in zip(words, cut, strict=True)]
    else:
        print(f"no Multi30k in {data_dir}: {n:,} made-up pairs")
        lengths = (torch.randn(n, 1) * 4.2 + torch.randn(n, 2) * 1.5 + 13.5).clamp(3, 45).long()
        sides = [ragged(torch.randint(3, 5900, (length,)).numpy() for length in side) for side in lengths.T.tolist()]
    return sides[0].to(DEVICE), sides[1].to(DEVICE), 7900, 5900  # the sizes of the vocabularies of all pairs


def training(x: Ragged, y: Ragged, K_x: int, K_y: int) -> None:
    n, B = len(x), CONFIG.batch_size
    lengths = torch.stack([x.lengths, y.lengths], 1)
    draw, at_random = alike(lengths, B, min(CONFIG.sort_batches, n // B), seed=0), torch.randperm(n).split(B)
    sorted_ = [draw(step) for step in range(n // B)]
    for name, batches in (("128 pairs at random", at_random), ("of about one length", sorted_)):
        positions = sum(len(rows) * int(lengths[rows].max(0).values.sum()) for rows in batches)
        print(f"padding in batches {name}: {100 * (1 - lengths.sum().item() / positions):.1f} % of all positions")

    def a_pass(model: nn.Module, batches: list[Tensor], precision: str, ours: bool):
        model.to(DEVICE).train()
        optimizer = torch.optim.Adam(model.parameters(), CONFIG.rate, fused=ours)
        loss_of = torch.compile(loss, dynamic=True) if ours else loss

        def updates() -> None:
            for rows in batches:
                labels = y.padded(rows)
                with torch.autocast(DEVICE.type, torch.bfloat16, enabled=precision == "bf16"):
                    logits = model(x.padded(rows), labels)
                loss_of(logits, labels).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()

        return updates

    torch.manual_seed(0)
    variants = {"tutorial's way, fp32": a_pass(Straightforward(K_x, K_y), list(at_random), "fp32", ours=False)}
    for precision in ("fp32", "bf16"):
        variants[f"train.py, RNNsearch, {precision}"] = a_pass(CONFIG.network(K_x, K_y, "search"), sorted_, precision, ours=True)
    compare(variants, lengths.sum().item(), "tokens", blocks=3)


class Endless(EncoderDecoder):
    """It never ends a sentence by itself, so that each becomes three times as long as its source."""

    def output(self, *state: Tensor) -> Tensor:
        return super().output(*state).index_fill(-1, torch.tensor([END], device=state[0].device), -1e4)


@torch.no_grad()
def decoding(x: Ragged, K_x: int, K_y: int, n: int) -> None:
    torch.manual_seed(0)
    c, rows = CONFIG, torch.arange(n)
    model = Endless(K_x, K_y, n=c.n, m=c.m, l=c.l, n_align=c.n_align).to(DEVICE).eval()
    usual = Straightforward(K_x, K_y).to(DEVICE).eval()

    def one_by_one() -> None:
        for i in range(n):
            sentence = x.padded(rows[i : i + 1])
            usual.translate(sentence, 3 * sentence.shape[1])

    def searched(K: int) -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16):
            for at in by_length(x.lengths[:n], max(64, 4096 // K)):
                beam_search(model, x.padded(rows[at]), end=END, K=K)

    print(f"\n{n} sentences, each to three times the length of its source")
    variants = {
        "tutorial's way, greedy": one_by_one,
        "beam_search, greedy": lambda: searched(1),
        "beam_search, 10 beams": lambda: searched(10),
    }
    compare(variants, n, "sentences", blocks=3)


def main() -> None:
    gpu = DEVICE.type == "cuda"
    x, y, K_x, K_y = pairs(Path(sys.argv[1] if len(sys.argv) > 1 else "data"), 29_000 if gpu else 640)
    training(x, y, K_x, K_y)
    decoding(x, K_x, K_y, 1000 if gpu else 32)


if __name__ == "__main__":
    main()
