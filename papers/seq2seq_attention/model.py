"""RNNsearch. Dzmitry Bahdanau, Kyunghyun Cho and Yoshua Bengio, "Neural Machine Translation by Jointly Learning to Align and
Translate", ICLR 2015, arXiv:1409.0473. This file: MIT licence.

Here are RNNsearch as Appendix A has it (gated units, bidirectional encoder, alignment model, deep output with maxout), the
RNN Encoder-Decoder that it is compared with (RNNencdec, Sec. 2.1 and 4.2), the initial weights of Appendix B.1, and beam search as
in the authors' code (GroundHog, experiments/nmt). Not here: what came later (dot products, input feeding, stacked layers).

Shapes: B sentence pairs, S source words, T target words, both with the end of the sentence; n hidden units, m of a word's vector,
l maxout units, K_x and K_y words of the vocabularies, K beams. Sentences end with padding, which `pad` declares.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GatedUnit(nn.Module):
    """Sec. A.1.1, the gated hidden unit of Cho et al. (2014): r gates the state before its matrix, and z lets the new state in.

    Not torch's GRU, which has U (r * h) as r * (U h), and z the other way round. What lies below the gates and the new state comes
    from outside, side by side: W_z E x, W_r E x, W E x, and in a decoder C_z c, C_r c, C c besides.
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        self.U_z, self.U_r, self.U = (nn.Linear(n, n, bias=False) for _ in range(3))

    def forward(self, below: Tensor, h: Tensor) -> Tensor:
        """below (B, 3 n), the state before h (B, n) -> the state (B, n)."""
        below_z, below_r, below_h = below.chunk(3, 1)
        z = torch.sigmoid(below_z + self.U_z(h))  # update gate
        r = torch.sigmoid(below_r + self.U_r(h))  # reset gate
        new = torch.tanh(below_h + self.U(r * h))
        return (1 - z) * h + z * new


class RNN(nn.Module):
    """Sec. A.2.1, one direction of the encoder; W_z, W_r, W lie side by side in W, with the biases."""

    def __init__(self, m: int, n: int) -> None:
        super().__init__()
        self.W, self.unit, self.n = nn.Linear(m, 3 * n), GatedUnit(n), n

    def forward(self, Ex: Tensor, mask: Tensor) -> Tensor:
        """Ex (B, S, m), where it is no padding (B, S) -> all states (B, S, n); padding leaves the state as it is."""
        h = torch.zeros(len(Ex), self.n, device=Ex.device, dtype=torch.get_default_dtype())  # h_0 = 0
        states = []
        for below, real in zip(self.W(Ex).unbind(1), mask[:, :, None].unbind(1), strict=True):  # one product for all steps
            h = torch.where(real, self.unit(below, h), h)
            states.append(h)
        return torch.stack(states, 1)


class Source(NamedTuple):
    """What the decoder reads of the source. c_i is in products alone, and C c_i = sum_j alpha_ij (C h_j): these, once for all i."""

    Ch: Tensor  # C_z h_j, C_r h_j, C h_j: (B, S, 3 n)
    Coh: Tensor  # C_o h_j: (B, S, 2 l)
    Uah: Tensor  # U_a h_j: (B, S, n')
    mask: Tensor  # where there is no padding: (B, S)


class Alignment(nn.Module):
    """Sec. A.1.2: e_ij = v_a . tanh(W_a s_{i-1} + U_a h_j), alpha_ij = softmax_j(e_ij)."""

    def __init__(self, n: int, annotation: int, n_align: int) -> None:
        super().__init__()
        self.W_a = nn.Linear(n, n_align, bias=False)
        self.U_a = nn.Linear(annotation, n_align)
        self.v_a = nn.Linear(n_align, 1, bias=False)

    def forward(self, s: Tensor, source: Source) -> Tensor:
        """s_{i-1} (B, n) -> alpha_i (B, S)."""
        e = self.v_a(torch.tanh(self.W_a(s)[:, None] + source.Uah))[:, :, 0]
        return e.masked_fill(~source.mask, -torch.inf).softmax(1, dtype=torch.get_default_dtype())


class EncoderDecoder(nn.Module):
    """RNNsearch, or with search=False RNNencdec, which has the last forward state in place of all annotations.

    Args:
        K_x, K_y: words of the source and the target vocabulary, padding among them.
        n, m, l, n_align: Sec. A.2.3: hidden units, of a word's vector, of the maxout layer, of the alignment model.
        dropout: of words' vectors in training; the paper has none.
        present: the output reads s_i, as in Sec. 3.1, and not s_{i-1}, as in A.2.2.
        pad: the word that is padding, in both vocabularies.
    """

    def __init__(
        self, K_x: int, K_y: int, *, n: int = 1000, m: int = 620, l: int = 500, n_align: int = 1000, search: bool = True,
        dropout: float = 0.0, present: bool = False, pad: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        annotation = 2 * n if search else n
        self.pad, self.present = pad, present
        self.E_x, self.E_y, self.dropout = nn.Embedding(K_x, m), nn.Embedding(K_y, m), nn.Dropout(dropout)
        self.forwards = RNN(m, n)
        self.backwards = RNN(m, n) if search else None
        self.W_s = nn.Linear(n, n)
        self.alignment = Alignment(n, annotation, n_align) if search else None
        self.W, self.C, self.unit = nn.Linear(m, 3 * n), nn.Linear(annotation, 3 * n, bias=False), GatedUnit(n)
        self.U_o, self.V_o = nn.Linear(n, 2 * l), nn.Linear(m, 2 * l, bias=False)
        self.C_o, self.W_o = nn.Linear(annotation, 2 * l, bias=False), nn.Linear(l, K_y)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Sec. B.1."""
        for name, p in self.named_parameters():
            if name.endswith("bias") or "v_a" in name:
                nn.init.zeros_(p)
            elif "unit.U" in name:
                nn.init.orthogonal_(p)
            else:
                nn.init.normal_(p, std=0.001 if name.endswith(("W_a.weight", "U_a.weight")) else 0.01)

    def encode(self, x: Tensor) -> tuple[Source, Tensor]:
        """Sec. A.2.1: source words x (B, S) -> what the decoder reads of them, and s_0 (B, n)."""
        mask, Ex = x != self.pad, self.dropout(self.E_x(x))  # both directions share E
        ahead = self.forwards(Ex, mask)  # (B, S, n)
        if self.alignment is None:  # Sec. 2.1: c = h_S, an only annotation
            h, mask, s_0 = ahead[:, -1:], mask[:, :1], ahead[:, -1]
            Uah = h[:, :, :0]
        else:
            back = self.backwards(Ex.flip(1), mask.flip(1)).flip(1)
            h, s_0 = torch.cat([ahead, back], 2), back[:, 0]  # h_j = [ahead_j; back_j], Eq. (7)
            Uah = self.alignment.U_a(h)
        return Source(self.C(h), self.C_o(h), Uah, mask), torch.tanh(self.W_s(s_0)).to(torch.get_default_dtype())

    def step(self, below: Tensor, s: Tensor, source: Source) -> tuple[Tensor, Tensor]:
        """Sec. A.2.2: W E y_{i-1} (B, 3 n), s_{i-1} (B, n) -> alpha_i (B, S), s_i (B, n)."""
        alpha = self.alignment(s, source) if self.alignment else torch.ones_like(source.mask, dtype=s.dtype)
        Cc = (alpha[:, None] @ source.Ch)[:, 0]  # C c_i, c_i = sum_j alpha_ij h_j, Eq. (5)
        return alpha, self.unit(below + Cc, s)

    def output(self, s: Tensor, Ey: Tensor, alpha: Tensor, source: Source) -> Tensor:
        """Sec. A.2.2: s_{i-1} (B, T, n), E y_{i-1} (B, T, m), alpha_i (B, T, S) -> W_o t_i, logits of y_i (B, T, K_y)."""
        t = self.U_o(s) + self.V_o(Ey) + alpha @ source.Coh  # (B, T, 2 l)
        return self.W_o(torch.maximum(t[..., 0::2], t[..., 1::2]))  # maxout of pairs, (B, T, l)

    def decode(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Words x (B, S), y (B, T) -> logits of y_i after y_1 ... y_{i-1} (B, T, K_y), alpha_i (B, T, S)."""
        source, s = self.encode(x)
        Ey = F.pad(self.dropout(self.E_y(y[:, :-1])), (0, 0, 1, 0))  # E y_{i-1}; E y_0 = 0, as in the authors' code
        states, alphas = [], []
        for below in self.W(Ey).unbind(1):
            alpha, s_i = self.step(below, s, source)
            states.append(s_i if self.present else s)
            alphas.append(alpha)
            s = s_i
        alpha = torch.stack(alphas, 1)
        return self.output(torch.stack(states, 1), Ey, alpha, source), alpha

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.decode(x, y)[0]


def rnnsearch(K_x: int = 30_001, K_y: int = 30_001, **sizes: float) -> EncoderDecoder:
    """RNNsearch at the size of Sec. A.2.3."""
    return EncoderDecoder(K_x, K_y, search=True, **sizes)


def rnnencdec(K_x: int = 30_001, K_y: int = 30_001, **sizes: float) -> EncoderDecoder:
    """RNNencdec, Sec. 4.2: as many hidden units in encoder and decoder."""
    return EncoderDecoder(K_x, K_y, search=False, **sizes)


def nll(logits: Tensor, y: Tensor, pad: int = 0) -> Tensor:
    """- log p(y | x), in nats, of each sentence: logits (B, T, K_y), y (B, T) -> (B,)."""
    return F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=pad, reduction="none").view_as(y).sum(1)


@torch.no_grad()
def beam_search(
    model: EncoderDecoder, x: Tensor, *, end: int, K: int = 12, forbidden: tuple[int, ...] = ()
) -> tuple[Tensor, Tensor]:
    """The translations with the largest log p(y | x) that K beams find, with their `end`, padded (B, L), and that log p (B,).

    As in the authors' code: a translation that ends leaves the beams, of which there is one less from then on; no translation ends
    before half as many words as the source has, or has more than three times as many, ends counted. Where that is reached, the
    end has to come, and is paid for. A sentence is done when no beam can do better than what has ended. K = 1 is greedy.

    Args:
        end: the word that ends a translation.
        forbidden: words that may not be used (Table 1, "No UNK").
    """
    B, pad = len(x), model.pad
    length = (x != pad).sum(1, keepdim=True)  # (B, 1)
    source, s = model.encode(x)
    source, s = Source(*(each.repeat_interleave(K, 0) for each in source)), s.repeat_interleave(K, 0)  # (B K, ...)
    first = torch.arange(B, device=x.device)[:, None] * K  # where a sentence's beams begin among all
    Ey = model.E_y.weight.new_zeros(B * K, model.E_y.embedding_dim)
    words, live = x.new_zeros(B, K, 0), x.new_full((B, 1), K)  # of each beam; how many beams go on
    log_p = torch.full((B, K), -torch.inf, device=x.device).index_fill_(1, first.new_zeros(1), 0.0)
    best, best_p = x.new_full((B, 0), pad), torch.full_like(log_p[:, 0], -torch.inf)
    for i in range(1, 3 * int(length.max()) + 1):
        alpha, s_i = model.step(model.W(Ey), s, source)
        logits = model.output((s_i if model.present else s)[:, None], Ey[:, None], alpha[:, None], source)[:, 0]
        next_p = logits.to(log_p.dtype).log_softmax(1).unflatten(0, (B, K))  # (B, K, K_y)
        next_p[:, :, [pad, *forbidden]] = -torch.inf
        p_end = next_p[:, :, end].masked_fill(i <= length // 2, -torch.inf)
        next_p = next_p.masked_fill((i == 3 * length)[:, :, None], -torch.inf)
        next_p[:, :, end] = p_end
        likeliest, index = (log_p[:, :, None] + next_p).flatten(1).topk(K)  # (B, K)
        likeliest = likeliest.masked_fill(torch.arange(K, device=x.device) >= live, -torch.inf)
        beam, word = index // next_p.shape[2], index % next_p.shape[2]
        words = torch.cat([words.take_along_dim(beam[:, :, None], 1), word[:, :, None]], 2)  # (B, K, i)

        ended = (word == end) & (likeliest > -torch.inf)
        score, which = likeliest.where(ended, -torch.inf).max(1)
        better = words.take_along_dim(which[:, None, None], 1)[:, 0]  # (B, i)
        best = torch.where((score > best_p)[:, None], better, F.pad(best, (0, 1), value=pad))
        best_p = torch.maximum(best_p, score)

        live = live - ended.sum(1, keepdim=True)
        log_p = likeliest.masked_fill(ended, -torch.inf)
        log_p = log_p.masked_fill((best_p >= log_p.amax(1))[:, None], -torch.inf)  # none of them can do better
        if (log_p == -torch.inf).all():
            break
        origin = (first + beam).flatten()  # (B K,)
        s, Ey = s_i[origin], model.E_y(word.flatten())
    return best, best_p
