"""GPT. Alec Radford, Karthik Narasimhan, Tim Salimans and Ilya Sutskever, "Improving Language Understanding by Generative
Pre-Training", OpenAI technical report, 2018. This file: MIT licence.

Here are the language model of Sec. 3.1 in the sizes of Sec. 4.1, layers normalised after each residual addition, the classifier
of Sec. 3.2 with the inputs of Sec. 3.3 (Fig. 1), the schedules of Sec. 4.1, the LSTM that Table 5 compares with, and sampling. Not
here: the zero-shot heuristics of Sec. 5, of which the paper prints no number.

Shapes: B sequences (in a classifier: examples), T tokens, D width, h heads, k width of a head, V vocabulary, K sequences to an
example, C classes. Padding comes last, so that no token before it sees it.
"""

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

KeysValues = tuple[Tensor, Tensor]  # (B, h, T, k) each

# Sec. 3.1, Unsupervised pre-training.


class Attention(nn.Module):
    """Masked multi-headed self-attention; queries, keys and values come from one matrix, all heads side by side."""

    def __init__(self, D: int, h: int, dropout: float) -> None:
        super().__init__()
        self.h, self.dropout = h, dropout
        self.qkv = nn.Linear(D, 3 * D)
        self.out = nn.Linear(D, D)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return rearrange(self.qkv(x), "B T (three h k) -> three B h T k", three=3, h=self.h).unbind()

    def forward(self, x: Tensor, past: KeysValues | None = None) -> tuple[Tensor, KeysValues]:
        """x (B, T, D) -> (B, T, D), and the keys and values so far. With a past, x is the one position after it."""
        queries, keys, values = self.heads(x)
        if past is not None:
            keys, values = torch.cat([past[0], keys], 2), torch.cat([past[1], values], 2)  # (B, h, t + 1, k)
        if x.is_cuda:
            dropout = self.dropout * self.training
            y = F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout, is_causal=past is None)
        else:  # the same; on a CPU it is faster written out, for sequences of these lengths
            y = F.dropout(self.weights(queries, keys), self.dropout, self.training) @ values
        return self.out(rearrange(y, "B h T k -> B T (h k)")), (keys, values)

    def weights(self, queries: Tensor, keys: Tensor) -> Tensor:
        """softmax(Q K^T / sqrt(k)), each of the last T positions looking at itself and those before it: (B, h, T, S)."""
        (B, h, T, k), S = queries.shape, keys.shape[2]
        mask = queries.new_full((T, S), -torch.inf).triu(S - T + 1)
        scores = torch.baddbmm(mask, queries.flatten(0, 1), keys.flatten(0, 1).mT, alpha=k**-0.5)  # (B h, T, S)
        return scores.softmax(2).unflatten(0, (B, h))


class Block(nn.Module):
    """transformer_block of Eq. (2): LayerNorm(x + Attention(x)), then LayerNorm(x + MLP(x)), as in Vaswani et al. (2017)."""

    def __init__(self, D: int, h: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(D, h, dropout)
        self.norm1 = nn.LayerNorm(D)
        self.mlp = nn.Sequential(nn.Linear(D, 4 * D), nn.GELU(approximate="tanh"), nn.Linear(4 * D, D))  # Sec. 4.1: 3072 wide
        self.norm2 = nn.LayerNorm(D)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, past: KeysValues | None = None) -> tuple[Tensor, KeysValues]:
        y, present = self.attention(x, past)
        x = self.norm1(x + self.dropout(y))
        return self.norm2(x + self.dropout(self.mlp(x))), present  # (B, T, D)


class GPT(nn.Module):
    """Eq. (2), by default of the sizes of Sec. 4.1. Dropout is of embeddings, attention weights, and what residuals add."""

    def __init__(
        self, vocabulary: int = 40_478, *, n_layer: int = 12, n_head: int = 12, D: int = 768, context: int = 512,
        dropout: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.context = context
        self.embedding = nn.Embedding(vocabulary, D)  # W_e
        self.positions = nn.Embedding(context, D)  # W_p
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(D, n_head, dropout) for _ in range(n_layer))
        initialise(self)

    def states(self, tokens: Tensor, past: Sequence[KeysValues] | None = None) -> tuple[Tensor, list[KeysValues]]:
        """tokens (B, T) -> h_n (B, T, D), and each layer's keys and values. With a past, tokens (B, 1) come after it."""
        start = past[0][0].shape[2] if past else 0
        places = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        h = self.dropout(self.embedding(tokens) + self.positions(places))  # h_0 = U W_e + W_p
        present = []
        for i, block in enumerate(self.blocks):
            h, keys_values = block(h, past[i] if past else None)  # h_l = transformer_block(h_(l-1))
            present.append(keys_values)
        return h, present

    def logits(self, h: Tensor) -> Tensor:
        """P(u) = softmax(h_n W_e^T), before the softmax."""
        return F.linear(h, self.embedding.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (B, T) -> logits of the next ones (B, T, V)."""
        return self.logits(self.states(tokens)[0])


def initialise(module: nn.Module) -> None:
    """Sec. 4.1: "a simple weight initialization of N(0, 0.02) was sufficient"; biases are 0."""
    for name, parameter in module.named_parameters():
        if "bias" in name:
            nn.init.zeros_(parameter)
        elif parameter.ndim > 1:  # a LayerNorm's gain stays 1
            nn.init.normal_(parameter, std=0.02)


def gpt() -> GPT:
    """The network of Sec. 4.1, on the 40,000 merges and 478 symbols of its byte-pair encoding."""
    model = GPT()
    assert sum(p.numel() for p in model.parameters()) == 116_534_784
    return model


class LSTM(nn.Module):
    """Sec. 5, Table 5: "a single layer 2048 unit LSTM using the same framework"; how it meets W_e the paper does not say."""

    def __init__(
        self, vocabulary: int = 40_478, *, units: int = 2048, D: int = 768, context: int = 512, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.context, self.dropout = context, nn.Dropout(dropout)
        self.embedding = nn.Embedding(vocabulary, D)
        self.lstm = nn.LSTM(D, units, batch_first=True)
        self.out = nn.Linear(units, D)
        initialise(self)

    def states(self, tokens: Tensor, past: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """tokens (B, T) -> (B, T, D), and the LSTM's state, which serves as a past."""
        with torch.autocast("cpu", enabled=False):  # many processors have no LSTM in bf16; GPUs keep theirs
            y, present = self.lstm(self.dropout(self.embedding(tokens)), past)  # (B, T, units)
        return self.dropout(self.out(y)), present

    logits, forward = GPT.logits, GPT.forward


def language_model_loss(logits: Tensor, following: Tensor) -> Tensor:
    """Eq. (1): the mean of -log P(u_i | u_1, ..., u_(i-1)) in nats, of logits (B, T, V) and the tokens that follow (B, T)."""
    return F.cross_entropy(logits.flatten(0, 1), following.flatten())


def pretraining_rate(step: int, steps: int, peak: float = 2.5e-4, warmup: int = 2000, last: float = 0.0) -> float:
    """Sec. 4.1: up from zero in a line, then down to zero (or `last`) along a cosine. Steps count from 0."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return last + (peak - last) * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2


# Sec. 3.2, Supervised fine-tuning.


class Classifier(nn.Module):
    """Eq. (3): P(y | x^1, ..., x^m) = softmax(h_l^m W_y), from the state at the last token of each sequence, <extract>.

    Sec. 3.3: an example is one sequence, or two whose states are added (similarity), or one for each answer (choice).

    Args:
        body: the pre-trained network; gets an embedding more for each of the three tokens of `inputs`, in its order.
        classes: C, or 1 for a score.   choice: each sequence gets a score of its own, and the classes are the sequences.
    """

    def __init__(self, body: GPT | LSTM, classes: int, choice: bool = False, dropout: float = 0.1) -> None:
        super().__init__()
        V, D = body.embedding.weight.shape
        grown = nn.Embedding(V + 3, D)
        initialise(grown)
        grown.weight.data[:V] = body.embedding.weight.data
        body.embedding = grown
        self.body, self.choice = body, choice
        self.dropout = nn.Dropout(dropout)
        self.W_y = nn.Linear(D, 1 if choice else classes)
        initialise(self.W_y)

    def forward(self, tokens: Tensor, lengths: Tensor, auxiliary: bool = True) -> tuple[Tensor, Tensor | None]:
        """tokens (B, K, T), lengths of the sequences (B, K) -> logits of classes (B, C), and of the next tokens (B, K, T, V)."""
        B, K, _ = tokens.shape
        states, _ = self.body.states(tokens.flatten(0, 1))  # (B K, T, D)
        last = states[torch.arange(B * K, device=tokens.device), lengths.flatten() - 1]  # h_l^m
        last = last.unflatten(0, (B, K))  # (B, K, D)
        logits = self.W_y(self.dropout(last))[..., 0] if self.choice else self.W_y(self.dropout(last.sum(1)))
        return logits, self.body.logits(states).unflatten(0, (B, K)) if auxiliary else None


def auxiliary_loss(logits: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
    """L_1 of Eq. (5): Eq. (1) on each sequence, the mean over its tokens, then over an example's: (B, K, T, V), ... -> (B,)."""
    nats = F.cross_entropy(logits[:, :, :-1].permute(0, 3, 1, 2), tokens[:, :, 1:], reduction="none")  # (B, K, T - 1)
    predicted = torch.arange(1, tokens.shape[2], device=tokens.device) < lengths[:, :, None]
    return ((nats * predicted).sum(2) / (lengths - 1)).mean(1)


def combined_loss(supervised: Tensor, auxiliary: Tensor, weight: float = 0.5) -> Tensor:
    """Eq. (5): L_3(C) = L_2(C) + lambda L_1(C)."""
    return supervised + weight * auxiliary


def finetuning_rate(step: int, steps: int, peak: float = 6.25e-5, warmup: float = 0.002) -> float:
    """Sec. 4.1: "a linear learning rate decay schedule with warmup over 0.2% of training". Steps count from 0."""
    done = step / steps
    return peak * min(1.0, done / warmup) * (1 - done)


# Sec. 3.3, Task-specific input transformations.


def inputs(texts: Sequence[list[int]], form: str, V: int, context: int = 512) -> list[list[int]]:
    """Fig. 1: the sequences of an example, as lists of tokens, V for <start>, V + 1 for the delimiter, V + 2 for <extract>.

    Args:
        texts: the tokens of its texts; of multiple choice: z, q (empty where there is no question), and then the answers.
        form: classification, entailment, similarity or choice.
        context: longer ones lose tokens at the end of the longest text; of a choice z loses them, as many for each answer.
    """

    def cut(*parts: list[int]) -> list[list[int]]:
        parts = [list(part) for part in parts]
        while sum(map(len, parts)) + len(parts) + 1 > context:
            max(parts, key=len).pop()
        return parts

    if form == "choice":  # "[z; q; $; a_k]"
        z, q, *answers = texts
        z = z[: max(0, context - 3 - len(q) - max(map(len, answers)))]
    examples = [cut(z + q, answer) for answer in answers] if form == "choice" else [cut(*texts)]
    examples += [examples[0][::-1]] if form == "similarity" else []  # both orders
    marked = [zip((V, V + 1), parts, strict=False) for parts in examples]
    return [[token for before, part in pairs for token in (before, *part)] + [V + 2] for pairs in marked]


@torch.no_grad()
def sample(
    model: GPT | LSTM, tokens: Tensor, n: int, *, temperature: float = 1.0, top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """tokens (B, T) and n more (B, T + n), drawn from softmax(logits / temperature), the top_k likeliest of it; in eval mode.

    Keys and values of earlier positions are kept. When all positions are taken, it goes on from the second half of them.
    """
    past, taken = None, 0
    for i in range(n):
        if i == 0 or taken == model.context:
            past, window = None, tokens[:, -(model.context if i == 0 else model.context // 2) :]
            taken = window.shape[1]
        else:
            window, taken = tokens[:, -1:], taken + 1
        h, past = model.states(window, past)
        logits = model.logits(h[:, -1]) / temperature  # (B, V)
        if top_k is not None:
            logits = logits.masked_fill(logits < logits.topk(min(top_k, logits.shape[1])).values[:, -1:], -torch.inf)
        tokens = torch.cat([tokens, logits.softmax(1).multinomial(1, generator=generator)], 1)
    return tokens
