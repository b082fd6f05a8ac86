"""The other ways to learn from captions that Fig. 2 compares, and classes as labels: losses of images, captions and labels.

Sec. 2.3: a transformer "to predict the caption of an image", then "a bag-of-words encoding of the same text", then "starting with
the same bag-of-words encoding baseline, we swapped the predictive objective for a contrastive objective". How captions are
conditioned on images, and what loss a bag has, the paper does not say: open questions of the page.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from papers.clip.model import Block


def words(tokens: Tensor) -> Tensor:
    """Where tokens (B, T) are of the caption, and neither its beginning, its end, nor what comes after: (B, T) bool."""
    places = torch.arange(tokens.shape[1], device=tokens.device)
    return (places > 0) & (places < tokens.argmax(1, keepdim=True))


class BagOfWords(nn.Module):
    """A text encoder for the contrast: tokens (B, T) -> (B, E), the mean of their embeddings."""

    def __init__(self, E: int, D: int, vocabulary: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, D)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        self.proj = nn.Linear(D, E, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = words(tokens)
        x = (self.token_embedding(tokens) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return self.proj(x)


class WordPrediction(nn.Module):
    """Which words the caption has: a softmax over the vocabulary, whose target is the caption's share of each token."""

    def __init__(self, image_encoder: nn.Module, E: int, vocabulary: int) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.head = nn.Linear(E, vocabulary)

    def states(self, images: Tensor) -> Tensor:
        """log p(token | image), (B, V)."""
        return self.head(self.image_encoder(images)).to(images.dtype).log_softmax(1)

    def nats(self, log_p: Tensor, tokens: Tensor) -> Tensor:
        """Of each pair, the mean of -log p over the caption's tokens: (B,)."""
        mask = words(tokens)
        return -(log_p.gather(1, tokens) * mask).sum(1) / mask.sum(1)

    def forward(self, images: Tensor, tokens: Tensor, labels: Tensor) -> Tensor:
        return self.nats(self.states(images), tokens).mean()


class CaptionPrediction(nn.Module):
    """A causal transformer predicts the caption, token by token; the image is what it finds in place of the beginning."""

    def __init__(self, image_encoder: nn.Module, E: int, D: int, layers: int, context: int, vocabulary: int) -> None:
        super().__init__()
        self.image_encoder, self.prefix = image_encoder, nn.Linear(E, D)
        self.token_embedding = nn.Embedding(vocabulary, D)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(context, D))
        self.blocks = nn.Sequential(*(Block(D, causal=True) for _ in range(layers)))
        self.ln_final = nn.LayerNorm(D)

    def states(self, images: Tensor) -> Tensor:
        """What captions begin with, (B, D)."""
        return self.prefix(self.image_encoder(images))

    def nats(self, prefix: Tensor, tokens: Tensor) -> Tensor:
        """Of each pair, the mean of -log p(token | image, tokens before) over the caption's tokens and its end: (B,)."""
        x = torch.cat([prefix[:, None], self.token_embedding(tokens[:, 1:-1]).to(prefix.dtype)], 1)  # (B, T - 1, D)
        h = self.ln_final(self.blocks(x + self.positional_embedding[: x.shape[1]]))
        logits = F.linear(h, self.token_embedding.weight)  # (B, T - 1, V), by the embeddings' own weights as GPT has it
        nats = F.cross_entropy(
            logits.flatten(0, 1).to(self.positional_embedding.dtype), tokens[:, 1:].flatten(), reduction="none"
        ).view(len(tokens), -1)
        mask = torch.arange(1, tokens.shape[1], device=tokens.device) <= tokens.argmax(1, keepdim=True)
        return (nats * mask).sum(1) / mask.sum(1)

    def forward(self, images: Tensor, tokens: Tensor, labels: Tensor) -> Tensor:
        return self.nats(self.states(images), tokens).mean()


class Supervised(nn.Module):
    """Labels of classes in place of captions: the same image encoder with a linear classifier."""

    def __init__(self, image_encoder: nn.Module, E: int, classes: int) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.head = nn.Linear(E, classes)

    def logits(self, images: Tensor) -> Tensor:
        return self.head(self.image_encoder(images))

    def forward(self, images: Tensor, tokens: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.logits(images).to(images.dtype), labels)
