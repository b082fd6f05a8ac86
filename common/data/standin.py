"""Stand-in data for smoke experiments and tests, easily learned: images with classes, decoded latents, text, sentence pairs."""

import torch
from torch import Tensor

from common.data.order import mix

WORDS = [a + b for a in ("ba", "do", "ki", "lu", "me") for b in ("n", "ra", "s", "ti")]


def images(n: int, seed: int, size: int = 32, classes: int = 10) -> tuple[Tensor, Tensor]:
    """A coarse pattern of colours for each class, under noise: (n, size, size, 3), uint8, and labels (n,)."""
    patterns = torch.rand(classes, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    patterns = torch.nn.functional.interpolate(patterns, size=(size, size)).permute(0, 2, 3, 1)
    generator = torch.Generator().manual_seed(mix("made up", seed))
    labels = torch.randint(classes, (n,), generator=generator)
    noise = torch.rand(n, size, size, 3, generator=generator, dtype=torch.float32)
    return (128 * patterns[labels] + 127 * noise).to(torch.uint8), labels


def decoded(n: int, D: int) -> Tensor:
    """Points in [0, 1] that a random decoder makes of two latent variables: (n, D)."""
    generator = torch.Generator().manual_seed(0)
    z, W = torch.randn(n, 2, generator=generator), torch.randn(2, D, generator=generator)
    return torch.sigmoid(2 * z @ W - 1).to(torch.get_default_dtype())


def text(n: int) -> str:
    """n characters of sentences, a line each, whose words are in the order of the alphabet."""
    generator = torch.Generator().manual_seed(mix("made-up text"))
    lines = []
    while sum(map(len, lines)) < n:
        chosen = torch.randint(len(WORDS), (int(torch.randint(3, 9, (), generator=generator)),), generator=generator)
        lines.append(" ".join(WORDS[i] for i in sorted(chosen.tolist())) + ".\n")
    return "".join(lines)[:n]


def pairs(n: int, seed: int) -> tuple[list[str], list[str]]:
    """Sentences, and as their translations the same words in reverse with another ending."""
    generator = torch.Generator().manual_seed(mix("made-up", seed))
    source, target = [], []
    for _ in range(n):
        length = int(torch.randint(2, 9, (), generator=generator))
        chosen = [WORDS[i] for i in torch.randint(len(WORDS), (length,), generator=generator)]
        source.append(" ".join(chosen) + ".")
        target.append(" ".join(word + "o" for word in reversed(chosen)) + ".")
    return source, target
