"""A run of this folder for other programs: `make export-seq2seq_attention RUN=runs/seq2seq_attention/reverse/seed0 FORMAT=onnx`."""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._higher_order_ops import scan

from papers.seq2seq_attention.model import RNN, EncoderDecoder, Source
from papers.seq2seq_attention.sentences import END, PAD
from papers.seq2seq_attention.translate import load

SHOWN = (
    "of the encoder source (n, S), words and the end of each sentence, padded with 0; its outputs are C h_j, C_o h_j, in RNNsearch "
    "U_a h_j, and s_0. Of the decoder, which makes one word at a call, source, the last word y (n,), 0 before the first, its state "
    "s, and those; its outputs are logits of the next word, alpha (n, S), and s. Words are lines of the run's words.source.txt and "
    "words.target.txt, from 0 on. Where a run has two networks it is RNNsearch"
)


class Scanned(nn.Module):
    """An RNN of the encoder, its loop as the operation Scan, so that nothing bounds the length of a sentence."""

    def __init__(self, rnn: RNN) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, Ex: Tensor, mask: Tensor) -> Tensor:
        def step(h: Tensor, x: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            below, real = x
            h = torch.where(real, self.rnn.unit(below, h), h)
            return h, h.clone()

        h = Ex.new_zeros(len(Ex), self.rnn.n)
        return scan(step, h, (self.rnn.W(Ex).transpose(0, 1), mask.T[:, :, None]))[1].transpose(0, 1)


class Encoder(nn.Module):
    def __init__(self, net: EncoderDecoder) -> None:
        super().__init__()
        self.net = copy.deepcopy(net)
        self.net.forwards = Scanned(self.net.forwards)
        self.net.backwards = Scanned(self.net.backwards) if net.backwards else None

    def forward(self, source: Tensor) -> tuple[Tensor, ...]:
        (Ch, Coh, Uah, _), s = self.net.encode(source)
        return (Ch, Coh, Uah, s) if self.net.alignment else (Ch, Coh, s)


class Decoder(nn.Module):
    def __init__(self, net: EncoderDecoder) -> None:
        super().__init__()
        self.net = net

    def forward(
        self, source: Tensor, y: Tensor, s: Tensor, Ch: Tensor, Coh: Tensor, Uah: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        net, annotations = self.net, Source(Ch, Coh, Uah, source[:, : Ch.shape[1]] != self.net.pad)
        Ey = net.E_y(y).masked_fill((y == net.pad)[:, None], 0)  # E y_0 = 0
        alpha, s_i = net.step(net.W(Ey), s, annotations)
        logits = net.output((s_i if net.present else s)[:, None], Ey[:, None], alpha[:, None], annotations)
        return logits[:, 0], alpha, s_i


def of_run(folder: Path) -> EncoderDecoder:
    """With the weights that the run tests. Raises BadInput: it is no folder of such a run, has no checkpoint, or lost its words."""
    return load(folder).net


def parts(net: EncoderDecoder) -> dict[str, nn.Module]:
    return {"encoder": Encoder(net).eval(), "decoder": Decoder(net).eval()}


def inputs(part: nn.Module, n: int) -> dict[str, Tensor]:
    net, S = part.net, 4 + n
    source = torch.randint(END + 1, net.E_x.num_embeddings, (n, S))
    source[0, 3:] = PAD
    if isinstance(part, Encoder):
        return {"source": source}
    hidden, h, l2 = net.W_s.out_features, S if net.alignment else 1, net.C_o.out_features
    read = {"Ch": torch.randn(n, h, 3 * hidden), "Coh": torch.randn(n, h, l2)}
    if net.alignment:
        read["Uah"] = torch.randn(n, h, net.alignment.U_a.out_features)
    return {"source": source, "y": torch.randint(net.E_y.num_embeddings, (n,)), "s": torch.randn(n, hidden), **read}
