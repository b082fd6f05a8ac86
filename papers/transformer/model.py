"""Transformer. Ashish Vaswani, Noam Shazeer, Niki Parmar, Jakob Uszkoreit, Llion Jones, Aidan N. Gomez, Lukasz Kaiser and Illia
Polosukhin, "Attention Is All You Need", NIPS 2017, arXiv:1706.03762. This file: MIT licence.

Here are the encoder-decoder of Sec. 3 with its layers normalised after each residual addition, all rows of Table 3 by constructor
arguments, learned positions (row E) among them, and of Sec. 5 and 6 the learning rate, label smoothing, the averaging of
checkpoints, and beam search. Not here: restricted self-attention (Sec. 4), constituency parsing (Sec. 6.3).

Shapes: B sentence pairs, S source tokens, T target tokens, D d_model, h heads, k d_k, v d_v, V vocabulary, K beams.
Sentences end with padding, which `pad` declares; the target that a decoder sees is shifted right by a start token.
"""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

KeysValues = tuple[Tensor, Tensor]  # (B, h, S, k), (B, h, S, v)


def attention(Q: Tensor, K: Tensor, V: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Sec. 3.2.1, Eq. (1): softmax(Q K^T / sqrt(d_k)) V, for (B, h, T, k), (B, h, S, k), (B, h, S, v) -> (B, h, T, v).

    mask: True where a query may look, broadcast to (B, h, T, S). causal: the query at t looks at keys up to t.
    """
    return F.scaled_dot_product_attention(Q, K, V, attn_mask=mask, is_causal=causal)


class MultiHeadAttention(nn.Module):
    """Sec. 3.2.2: Concat(head_1, ..., head_h) W^O with head_i = Attention(Q W_i^Q, K W_i^K, V W_i^V); the W_i lie side by side."""

    def __init__(self, d_model: int, h: int, d_k: int, d_v: int) -> None:
        super().__init__()
        self.h = h
        self.W_Q = nn.Linear(d_model, h * d_k)
        self.W_K = nn.Linear(d_model, h * d_k)
        self.W_V = nn.Linear(d_model, h * d_v)
        self.W_O = nn.Linear(h * d_v, d_model)

    def heads(self, x: Tensor) -> Tensor:
        return rearrange(x, "B T (h k) -> B h T k", h=self.h)

    def keys_values(self, x: Tensor) -> KeysValues:
        return self.heads(self.W_K(x)), self.heads(self.W_V(x))

    def forward(self, x: Tensor, keys_values: KeysValues, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        heads = attention(self.heads(self.W_Q(x)), *keys_values, mask, causal)  # (B, h, T, v)
        return self.W_O(rearrange(heads, "B h T v -> B T (h v)"))  # (B, T, D)

    def weights(self, x: Tensor, keys_values: KeysValues, mask: Tensor | None = None) -> Tensor:
        """softmax(Q K^T / sqrt(d_k)), for pictures: (B, h, T, S)."""
        Q, K = self.heads(self.W_Q(x)), keys_values[0]
        scores = Q @ K.transpose(2, 3) / K.shape[3] ** 0.5
        return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(3)


class FeedForward(nn.Module):
    """Sec. 3.3, Eq. (2): FFN(x) = max(0, x W_1 + b_1) W_2 + b_2."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.W_1, self.relu, self.W_2 = nn.Linear(d_model, d_ff), nn.ReLU(), nn.Linear(d_ff, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.W_2(self.relu(self.W_1(x)))


class EncoderLayer(nn.Module):
    """Sec. 3.1, Fig. 1: each sub-layer gives LayerNorm(x + Sublayer(x)). Sec. 5.4: dropout of Sublayer(x) before it is added."""

    def __init__(self, d_model: int, d_ff: int, h: int, d_k: int, d_v: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(d_model, h, d_k, d_v)
        self.feed_forward = FeedForward(d_model, d_ff)
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.norm1(x + self.dropout(self.self_attention(x, self.self_attention.keys_values(x), mask)))
        return self.norm2(x + self.dropout(self.feed_forward(x)))  # (B, S, D)


class DecoderLayer(nn.Module):
    def __init__(self, d_model: int, d_ff: int, h: int, d_k: int, d_v: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(d_model, h, d_k, d_v)
        self.cross_attention = MultiHeadAttention(d_model, h, d_k, d_v)
        self.feed_forward = FeedForward(d_model, d_ff)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d_model), nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, y: Tensor, memory: KeysValues, mask: Tensor, past: KeysValues | None = None) -> tuple[Tensor, KeysValues]:
        """The layer's output (B, T, D), and the keys and values of all positions so far.

        memory: those of the encoder's output. past: those of the t positions before y, which then is a single position.
        """
        keys, values = self.self_attention.keys_values(y)
        if past is not None:
            keys, values = torch.cat([past[0], keys], 2), torch.cat([past[1], values], 2)  # (B, h, t + 1, k or v)
        y = self.norm1(y + self.dropout(self.self_attention(y, (keys, values), causal=past is None)))
        y = self.norm2(y + self.dropout(self.cross_attention(y, memory, mask)))
        return self.norm3(y + self.dropout(self.feed_forward(y))), (keys, values)


def positional_encoding(positions: Tensor, d_model: int) -> Tensor:
    """Sec. 3.5: PE(pos, 2i) = sin(pos / 10000^(2i / d_model)), PE(pos, 2i + 1) = cos(the same): (T,) -> (T, D)."""
    i = torch.arange(d_model // 2, device=positions.device)
    angles = positions[:, None] * 10000 ** (-2 * i / d_model)  # (T, D / 2)
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)


class Transformer(nn.Module):
    """Fig. 1, by default the base model.

    Args:
        vocabulary: V, tokens of source and target together.
        N, d_model, d_ff, h, d_k, d_v, dropout: as in Table 3; d_k and d_v are d_model / h where they are not given.
        learned_positions: how many positions are learned (Table 3, row E); 0: they are sinusoids.
        pad: the token that is padding.
    """

    def __init__(
        self, vocabulary: int, *, N: int = 6, d_model: int = 512, d_ff: int = 2048, h: int = 8, d_k: int | None = None,
        d_v: int | None = None, dropout: float = 0.1, learned_positions: int = 0, pad: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        d_k, d_v = d_k or d_model // h, d_v or d_model // h
        self.pad, self.d_model = pad, d_model
        self.embedding = nn.Embedding(vocabulary, d_model)  # Sec. 3.4: one matrix for source, target and output
        self.positions = nn.Embedding(learned_positions, d_model) if learned_positions else None
        self.encoder = nn.ModuleList(EncoderLayer(d_model, d_ff, h, d_k, d_v, dropout) for _ in range(N))
        self.decoder = nn.ModuleList(DecoderLayer(d_model, d_ff, h, d_k, d_v, dropout) for _ in range(N))
        self.dropout = nn.Dropout(dropout)
        for module in self.modules():  # the paper does not say; Glorot and Bengio (2010), as its authors' code
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=d_model**-0.5)

    def embed(self, tokens: Tensor, start: int = 0) -> Tensor:
        """Sec. 3.4, 3.5: tokens (B, T) at the positions from `start` on -> (B, T, D)."""
        positions = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        x = self.embedding(tokens) * self.d_model**0.5
        encoding = positional_encoding(positions, self.d_model) if self.positions is None else self.positions(positions)
        return self.dropout(x + encoding.to(x.dtype))

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """source (B, S) -> the encoder's output (B, S, D), and where it is no padding (B, 1, 1, S)."""
        mask = (source != self.pad)[:, None, None]
        x = self.embed(source)
        for layer in self.encoder:
            x = layer(x, mask)
        return x, mask

    def logits(self, y: Tensor) -> Tensor:
        """Sec. 3.4: "the same weight matrix [for] the pre-softmax linear transformation"."""
        return F.linear(y, self.embedding.weight)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """source (B, S), target shifted right (B, T) -> logits of the next tokens (B, T, V)."""
        x, mask = self.encode(source)
        y = self.embed(target)
        for layer in self.decoder:
            y, _ = layer(y, layer.cross_attention.keys_values(x), mask)
        return self.logits(y)


def transformer_base(vocabulary: int = 37_000, **changes: float) -> Transformer:
    """Table 3, base."""
    return Transformer(vocabulary, **changes)


def transformer_big(vocabulary: int = 37_000, **changes: float) -> Transformer:
    """Table 3, big."""
    return Transformer(vocabulary, **{"d_model": 1024, "d_ff": 4096, "h": 16, "dropout": 0.3, **changes})


# Training, Sec. 5.


def rate(step: int, d_model: int = 512, warmup: int = 4000) -> float:
    """Sec. 5.3, Eq. (3): the learning rate of an update; the first has step 1."""
    return d_model**-0.5 * min(step**-0.5, step * warmup**-1.5)


def smoothed_loss(logits: Tensor, labels: Tensor, epsilon: float = 0.1, pad: int = 0) -> Tensor:
    """Sec. 5.4: cross-entropy in nats with 1 - epsilon on the label and epsilon spread over all V, mean over what is no padding."""
    logits, labels = logits.flatten(0, 1), labels.flatten()  # (B T, V), (B T,)
    return F.cross_entropy(logits, labels, ignore_index=pad, label_smoothing=epsilon)


@torch.no_grad()
def average_(mean: nn.Module, model: nn.Module, n: int) -> None:
    """Sec. 6.1, "averaging the last 5 checkpoints": the mean of n - 1 checkpoints becomes that of n, the n-th being `model`."""
    torch._foreach_lerp_(list(mean.parameters()), list(model.parameters()), 1 / n)


def length_penalty(length: Tensor | float, alpha: float = 0.6) -> Tensor | float:
    """Sec. 6.1: what log-probabilities are divided by; Wu et al. (2016), "Google's Neural Machine Translation System", Eq. (14)."""
    return ((5 + length) / 6) ** alpha


@torch.no_grad()
def beam_search(
    model: Transformer, source: Tensor, *, start: int, end: int, K: int = 4, extra: int = 50,
    penalty: Callable[[Tensor | float], Tensor | float] = length_penalty,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Sec. 6.1: the best translations that are found, with their `end`, padded (B, L), and their log P / penalty(length) (B,).

    Of all continuations of K beams the 2 K likeliest are looked at: those of the first K that end are finished, and the likeliest K
    that do not go on. A sentence is done when no beam can get a better score than the best that is finished; K = 1 is greedy, done
    at the first `end`. Keys and values of earlier positions are kept.

    Args:
        start, end: the tokens that a translation begins (not part of the output) and ends with.
        extra: "maximum output length [...] input length + 50"; there a translation is cut.
        penalty: grows with the length.
    """
    B, pad = len(source), model.pad
    limit = ((source != pad).sum(1, keepdim=True) + extra).clamp(min=1)  # (B, 1)
    memory, mask = model.encode(source)
    mask = mask.repeat_interleave(K, 0)
    memories = [layer.cross_attention.keys_values(memory.repeat_interleave(K, 0)) for layer in model.decoder]
    past: list[KeysValues | None] = [None] * len(memories)
    first = torch.arange(B, device=source.device)[:, None] * K  # where a sentence's beams begin among all
    tokens = source.new_full((B, K, 1), start)
    log_p = torch.tensor([[0.0] + [-torch.inf] * (K - 1)], device=source.device).repeat(B, 1)  # (B, K), of each beam
    best, scores = source.new_full((B, 0), pad), torch.full_like(log_p[:, 0], -torch.inf)  # of what is finished
    for t in range(1, int(limit.max()) + 1):
        y = model.embed(tokens[:, :, -1].flatten()[:, None], t - 1)  # (B K, 1, D)
        for i, layer in enumerate(model.decoder):
            y, past[i] = layer(y, memories[i], mask, past[i])
        next_p = model.logits(y[:, 0]).to(log_p.dtype).log_softmax(1).unflatten(0, (B, K))  # (B, K, V)
        next_p[:, :, pad] = -torch.inf
        next_p = next_p.masked_fill((limit == t)[:, :, None], -torch.inf)
        next_p[:, :, end] = next_p[:, :, end].masked_fill(limit == t, 0)
        likeliest, index = (log_p[:, :, None] + next_p).flatten(1).topk(2 * K)  # (B, 2 K)
        beam, token = index // next_p.shape[2], index % next_p.shape[2]
        longer = torch.cat([tokens.take_along_dim(beam[:, :, None], 1), token[:, :, None]], 2)  # (B, 2 K, t + 1)

        ended = token == end
        finished = torch.where(ended, likeliest, -torch.inf)[:, :K] / penalty(t)
        score, index = finished.max(1)
        better = longer[:, :, 1:].take_along_dim(index[:, None, None], 1)[:, 0]  # (B, t)
        best = torch.where((score > scores)[:, None], better, F.pad(best, (0, 1), value=pad))
        scores = torch.maximum(score, scores)

        log_p, index = likeliest.masked_fill(ended, -torch.inf).topk(K)
        tokens = longer.take_along_dim(index[:, :, None], 1)
        origin = (first + beam.take_along_dim(index, 1)).flatten()  # (B K,)
        past = [(keys[origin], values[origin]) for keys, values in past]
        bound = log_p[:, 0] / penalty(limit[:, 0]) if K > 1 else -torch.inf  # the best that a beam may still get
        done = (scores >= bound) & (scores > -torch.inf)
        if done.all():
            break
        log_p = log_p.masked_fill(done[:, None], -torch.inf)
    return best, scores
