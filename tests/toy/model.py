"""A small model with everything that makes runs on several processes hard: padding, dropout, batch norm."""

from torch import Tensor, nn


class Tagger(nn.Module):
    """A label for every token: (B, T) -> logits (B, T, V)."""

    def __init__(self, vocabulary: int, width: int, dropout: float, batch_norm: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width) if batch_norm else nn.Identity()
        self.output = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.hidden(self.dropout(self.embedding(tokens)))
        return self.output(self.norm(x.mT).mT.relu())
