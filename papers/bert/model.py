"""BERT. Jacob Devlin, Ming-Wei Chang, Kenton Lee and Kristina Toutanova, "BERT: Pre-training of Deep Bidirectional Transformers
for Language Understanding", arXiv 1810.04805, NAACL 2019. This file: MIT licence.

Here are the encoder of Sec. 3 with the input of Fig. 2, both tasks of pre-training (Sec. 3.1, Appendix A.1), the outputs that
fine-tuning adds for a sentence, a pair, a span and each token (Fig. 4), the left-to-right network of Table 5, and the schedule of
Appendix A.2. Not here: Table 5's BiLSTM, and Table 7's features.

Where the paper refers to its code (layers normalised after each addition, the pooled state, GELU's tanh form, how texts are cut),
this is google-research/bert.

Shapes: B sequences, T tokens, D width, h heads, k width of a head, V vocabulary, M masked tokens of the batch, C classes.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

# Sec. 3, Model Architecture.


class Attention(nn.Module):
    """Bidirectional multi-headed self-attention; queries, keys and values come from one matrix, all heads side by side."""

    def __init__(self, D: int, h: int, dropout: float) -> None:
        super().__init__()
        self.h, self.dropout = h, dropout
        self.qkv = nn.Linear(D, 3 * D)
        self.out = nn.Linear(D, D)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """x (B, T, D) -> (B, T, D); each position looks where seen (B or 1, T or 1, T), bool, is true."""
        q, k, v = rearrange(self.qkv(x), "B T (three h k) -> three B h T k", three=3, h=self.h).unbind()
        dropout = self.dropout * self.training
        if x.is_cuda or not self.training:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None], dropout_p=dropout)  # softmax(q k^T / sqrt(k)) v
        else:  # the same; on a CPU its gradients are faster written out, for sequences of these lengths
            scores = (q * q.shape[3] ** -0.5) @ k.mT  # (B, h, T, T)
            scores = scores.masked_fill(~seen[:, None], torch.finfo(scores.dtype).min)
            y = F.dropout(scores.softmax(3), dropout, dropout > 0) @ v
        return self.out(rearrange(y, "B h T k -> B T (h k)"))


class Layer(nn.Module):
    """LayerNorm(x + Attention(x)), then LayerNorm(x + FFN(x)), "almost identical" to Vaswani et al. (2017); GELU (Appendix A.2)."""

    def __init__(self, D: int, h: int, dropout: float, gelu: str) -> None:
        super().__init__()
        self.attention = Attention(D, h, dropout)
        self.norm1 = nn.LayerNorm(D, eps=1e-12)
        self.ffn = nn.Sequential(nn.Linear(D, 4 * D), nn.GELU(gelu), nn.Linear(4 * D, D))
        self.norm2 = nn.LayerNorm(D, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        x = self.norm1(x + self.dropout(self.attention(x, seen)))
        return self.norm2(x + self.dropout(self.ffn(x)))  # (B, T, D)


class Bert(nn.Module):
    """The encoder, by default BERT-base's sizes; its feed-forward layers are 4 D wide (Sec. 3, footnote 3).

    Args:
        gelu: "tanh", as the authors' code computes GELU, or "none", the exact one, as transformers does.
        causal: every token sees only those before it: "LTR" of Sec. 5.1.
    """

    def __init__(
        self, V: int = 30_522, *, L: int = 12, D: int = 768, h: int = 12, positions: int = 512, dropout: float = 0.1,
        gelu: str = "tanh", causal: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.context, self.causal, self.gelu = positions, causal, gelu
        self.tokens = nn.Embedding(V, D)
        self.segments = nn.Embedding(2, D)
        self.positions = nn.Embedding(positions, D)
        self.norm = nn.LayerNorm(D, eps=1e-12)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(D, h, dropout, gelu) for _ in range(L))
        self.pooler = nn.Linear(D, D)
        initialise(self)

    def embed(self, tokens: Tensor, segments: Tensor) -> Tensor:
        """Fig. 2: the sum of token, segment and position embeddings. tokens and segments (B, T) -> (B, T, D)."""
        x = self.tokens(tokens) + self.segments(segments) + self.positions.weight[: tokens.shape[1]]
        return self.dropout(self.norm(x))

    def forward(self, tokens: Tensor, segments: Tensor, real: Tensor) -> Tensor:
        """tokens, segments (0: A, 1: B), and which tokens are no padding, bool, (B, T) each -> T_1 ... T_T of Fig. 1 (B, T, D)."""
        seen = real[:, None]  # (B, 1, T)
        if self.causal:
            T = tokens.shape[1]
            seen = seen & torch.ones(T, T, dtype=torch.bool, device=tokens.device).tril()
        x = self.embed(tokens, segments)
        for layer in self.layers:
            x = layer(x, seen)
        return x

    def pooled(self, states: Tensor, real: Tensor) -> Tensor:
        """C, "the aggregate sequence representation": the state of [CLS] through a layer with tanh. (B, T, D) -> (B, D).

        Left to right [CLS] sees nothing but itself: there it is the state of the last token.
        """
        first = states[:, 0] if not self.causal else states[torch.arange(len(states), device=states.device), real.sum(1) - 1]
        return torch.tanh(self.pooler(first))


def initialise(module: nn.Module) -> None:
    """Matrices and embeddings from a normal distribution of deviation 0.02, cut at two of them; biases 0, gains 1."""
    for parameter in module.parameters():
        if parameter.ndim > 1:
            nn.init.trunc_normal_(parameter, std=0.02, a=-0.04, b=0.04)
    for each in module.modules():
        if isinstance(each, nn.Linear):
            nn.init.zeros_(each.bias)


def bert_base(V: int = 30_522, dropout: float = 0.1) -> Bert:
    """L=12, H=768, A=12, "Total Parameters=110M" (Sec. 3); 30,522 word pieces without case, 28,996 with it."""
    model = Bert(V, dropout=dropout)
    assert count(model) == {30_522: 109_482_240, 28_996: 108_310_272}.get(V, count(model))
    return model


def bert_large(V: int = 30_522, dropout: float = 0.1) -> Bert:
    """L=24, H=1024, A=16, "Total Parameters=340M" (Sec. 3)."""
    model = Bert(V, L=24, D=1024, h=16, dropout=dropout)
    assert count(model) == {30_522: 335_141_888, 28_996: 333_579_264}.get(V, count(model))
    return model


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# Sec. 3.1, Pre-training BERT.


class Pretraining(nn.Module):
    """Both tasks of Fig. 1, left: the masked tokens, from their own states, and whether B follows A, from C."""

    def __init__(self, bert: Bert) -> None:
        super().__init__()
        V, D = bert.tokens.weight.shape
        self.bert = bert
        self.transform = nn.Sequential(nn.Linear(D, D), nn.GELU(bert.gelu), nn.LayerNorm(D, eps=1e-12))
        self.bias = nn.Parameter(torch.zeros(V))  # of the output; its matrix is that of the token embeddings
        self.next = nn.Linear(D, 2)
        initialise(self.transform)
        initialise(self.next)

    def forward(self, tokens: Tensor, segments: Tensor, real: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """As Bert; chosen (B, T), bool -> logits of the tokens chosen, row by row (M, V), and of IsNext, NotNext (B, 2)."""
        states = self.bert(tokens, segments, real)
        return self.vocabulary(states[chosen]), self.next(self.bert.pooled(states, real))

    def vocabulary(self, states: Tensor) -> Tensor:
        """ "Fed into an output softmax over the vocabulary": (..., D) -> logits (..., V)."""
        return F.linear(self.transform(states), self.bert.tokens.weight, self.bias)


def masked(
    tokens: Tensor, able: Tensor, u: Tensor, *, mask: int, V: int, share: float = 0.15, most: int = 20,
    kinds: tuple[float, float, float] = (0.8, 0.1, 0.1),
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Task #1: Masked LM: tokens (B, T) with some of them hidden, and which these are, bool (B, T).

    "15% of all WordPiece tokens in each sequence at random", at least one and at most `most`; of these 80 % become [MASK], 10 %
    stay as they are, 10 % become any token of the vocabulary (Appendix A.1). No draw is made here: all follows from u.

    Args:
        able: which may be chosen, bool: neither [CLS], [SEP] nor padding.
        u: uniform in [0, 1), (3, B, T): which are chosen, what becomes of each, and which token is put there.
        mask, V: the number of [MASK]; how many tokens there are.
        kinds: shares of MASK, SAME and RND (Table 8).
    """
    specials = 3  # the share is of all tokens, [CLS] and two [SEP] among them
    n = (share * (able.sum(1) + specials)).round().clamp(1, most)  # (B,)
    place = u[0].masked_fill(~able, 2.0).argsort(1).argsort(1)  # the first in a random order of those that may be
    chosen = (place < n[:, None]) & able
    hidden = torch.where(u[1] < kinds[0], mask, tokens)
    hidden = torch.where(u[1] >= kinds[0] + kinds[1], (u[2] * V).long(), hidden)
    return torch.where(chosen, hidden, tokens), chosen


def rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Appendix A.2: "learning rate warmup over the first 10,000 steps, and linear decay". Steps count from 0.

    As in the authors' code: the first update has rate zero, and the line down is one over all steps, so that the rate falls from
    the peak to a little less where it ends to rise.
    """
    return peak * step / warmup if step < warmup else peak * (1 - step / steps)


# Sec. 3.2, Fine-tuning BERT.


class Classifier(nn.Module):
    """Fig. 4 (a) and (b): log softmax(C W^T) (Sec. 4.1), a bias added; of one class, a score."""

    def __init__(self, bert: Bert, classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.bert, self.dropout, self.W = bert, nn.Dropout(dropout), nn.Linear(bert.tokens.embedding_dim, classes)
        initialise(self.W)

    def forward(self, tokens: Tensor, segments: Tensor, real: Tensor) -> Tensor:
        """As Bert -> logits (B, C)."""
        return self.W(self.dropout(self.bert.pooled(self.bert(tokens, segments, real), real)))


class Spans(nn.Module):
    """Fig. 4 (c): a word's probability to be the start or end of the answer, softmax(S T_i) and softmax(E T_i) (Sec. 4.2)."""

    def __init__(self, bert: Bert) -> None:
        super().__init__()
        self.bert, self.SE = bert, nn.Linear(bert.tokens.embedding_dim, 2)
        initialise(self.SE)
        bert.pooler.requires_grad_(False)  # C is not looked at

    def forward(self, tokens: Tensor, segments: Tensor, real: Tensor) -> Tensor:
        """As Bert -> logits of start and end (B, 2, T); those of padding are the least that there are."""
        logits = self.SE(self.bert(tokens, segments, real)).mT
        return logits.masked_fill(~real[:, None], torch.finfo(logits.dtype).min)


class Tagger(nn.Module):
    """Fig. 4 (d): a label for each token, from its own state."""

    def __init__(self, bert: Bert, labels: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.bert, self.dropout, self.W = bert, nn.Dropout(dropout), nn.Linear(bert.tokens.embedding_dim, labels)
        initialise(self.W)

    def forward(self, tokens: Tensor, segments: Tensor, real: Tensor) -> Tensor:
        """As Bert -> logits (B, T, C)."""
        return self.W(self.dropout(self.bert(tokens, segments, real)))


def span_loss(logits: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
    """Sec. 4.2: the mean of the start's and the end's -log P; logits (B, 2, T), positions (B,)."""
    return (F.cross_entropy(logits[:, 0], starts) + F.cross_entropy(logits[:, 1], ends)) / 2
