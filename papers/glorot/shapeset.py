"""Shapeset-3x2 (Sec. 2.1), made anew: 32x32 grey images of one or two of triangle, parallelogram and ellipse, in nine classes.

Settings follow the first author's generator (github.com/glorotxa/Shapeset) as far as they are known here, drawn without its code:

- one object or two, with equal chance, each a triangle, parallelogram or ellipse (twenty corners) with equal chance;
- corners lie at equal distances on a circle of the image's size, from a random one on, are stretched by 0.2 to 0.8 along either
  axis, and turned by any of 255 angles; placed anywhere one pixel from the edges;
- one range of greys, 0.55 to 1, for the objects and one, 0 to 0.45, for the background, or, in every other image, the reverse;
- the second object lies on top, and covers at most half of the first's pixels: its size and place are drawn again up to 50 times,
  and it is left out then;
- no anti-aliasing; pixels are scaled to [-1, 1].

Classes: 0 to 2 one object; 3 to 8 the pairs (0,0), (0,1), (0,2), (1,1), (1,2), (2,2), whichever is on top.
"""

import math

import torch
from torch import Tensor

SIZE, CLASSES, TRIES = 32, 9, 50
PAIR = {(0, 0): 3, (0, 1): 4, (0, 2): 5, (1, 1): 6, (1, 2): 7, (2, 2): 8}


def objects(kind: Tensor, generator: torch.Generator) -> Tensor:
    """Random objects of these kinds, (n,), 0 to 2: the pixels within them, (n, 32, 32), bool."""
    n = len(kind)
    draw = lambda *shape: torch.rand(n, *shape, generator=generator, dtype=torch.float32)
    corners = torch.tensor([3, 4, 20])[kind][:, None]  # (n, 1)
    angle = 2 * math.pi * ((torch.arange(20) % corners) / corners + draw(1))  # (n, 20); what is left over repeats
    points = 0.5 * torch.stack([angle.cos(), angle.sin()], 2) * (0.2 + 0.6 * draw(1, 2))
    turn = 2 * math.pi * torch.randint(255, (n,), generator=generator) / 255
    rotation = torch.stack([torch.stack([turn.cos(), -turn.sin()], 1), torch.stack([turn.sin(), turn.cos()], 1)], 1)
    points = SIZE * points @ rotation.mT  # (n, 20, 2), pixels
    low, high = points.amin(1, keepdim=True), points.amax(1, keepdim=True)
    points = points - low + 1 + draw(1, 2) * (SIZE - 2 - (high - low)).clamp(min=0)
    end = points.gather(1, ((torch.arange(20) + 1) % corners)[..., None].expand(-1, -1, 2))  # the next corner
    grid = torch.arange(SIZE) + 0.5
    x, y = grid[None, None, None, :], grid[None, None, :, None]
    (px, py), (ex, ey) = (each.unsqueeze(-1).unsqueeze(-1).unbind(2) for each in (points, end))  # (n, 20, 1, 1)
    return ((ex - px) * (y - py) - (ey - py) * (x - px) >= 0).all(1)  # left of every edge


def shapeset(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """n images and their classes, a pure function of the seed: (n, 1024), in [-1, 1], and (n,)."""
    generator = torch.Generator().manual_seed(seed)
    kind, other = torch.randint(3, (2, n), generator=generator)
    two = torch.rand(n, generator=generator, dtype=torch.float32) < 0.5
    first, second = objects(kind, generator), torch.zeros(n, SIZE, SIZE, dtype=torch.bool)
    waiting = two.clone()
    for _ in range(TRIES):
        left = waiting.nonzero().flatten()
        if not len(left):
            break
        within = objects(other[left], generator)
        good = 2 * (within & first[left]).sum((1, 2)) <= first[left].sum((1, 2))
        second[left[good]] = within[good]
        waiting[left[good]] = False
    two &= ~waiting
    light = 0.55 + 0.45 * torch.rand(n, 3, generator=generator, dtype=torch.float32)
    dark = 0.45 * torch.rand(n, 3, generator=generator, dtype=torch.float32)
    swap = (torch.rand(n, 1, generator=generator, dtype=torch.float32) < 0.5).float()
    tone = swap * dark + (1 - swap) * light  # of the objects; the background's is of the other range
    ground = (swap * light + (1 - swap) * dark)[:, 2]
    image = torch.where(first, tone[:, 0, None, None], ground[:, None, None])
    image = torch.where(second & two[:, None, None], tone[:, 1, None, None], image)
    pair = torch.tensor([[PAIR[min(a, b), max(a, b)] for b in range(3)] for a in range(3)])
    return 2 * image.flatten(1) - 1, torch.where(two, pair[kind, other], kind)
