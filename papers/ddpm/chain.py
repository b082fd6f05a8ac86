"""Algorithm 2, over any number of processes and however often killed: a sample is a function of the seed and its number alone."""

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.data.order import mix
from common.files import write_atomic
from common.weights import fingerprint
from papers.ddpm.data import to_bytes
from papers.ddpm.model import Diffusion

GROUP = 16  # samples whose noise is drawn together
SAVE_EVERY = 30.0  # seconds

Look = Callable[[int, Tensor, Tensor], None]  # t, x_{t-1}, x_0 as it is predicted


def noise(shape: tuple[int, ...], numbers: range, device: torch.device, *parts: object) -> Tensor:
    """Standard normal, for the samples of these numbers: (n, *shape), a function of each number and of `parts`."""
    first = numbers.start // GROUP
    drawn = []
    for group in range(first, -(-numbers.stop // GROUP)):
        generator = torch.Generator(device).manual_seed(mix("noise", group, *parts))
        drawn.append(torch.randn(GROUP, *shape, generator=generator, device=device))
    return torch.cat(drawn)[numbers.start - first * GROUP :][: len(numbers)]


@torch.no_grad()
def reverse(diffusion: Diffusion, net: Any, x: Tensor, t: int, z: Callable[[int], Tensor], look: Look | None = None) -> Tensor:
    """Algorithm 2 from x = x_t (n, C, H, W) to x_0, with z(t) of the same size for noise; look: at every step."""
    for step in range(t, -1, -1):
        at = torch.full((len(x),), step, device=x.device)
        x, predicted = diffusion.p_sample(net(x, at), x, at, z(step))
        if look:
            look(step, x, predicted)
    return x


def samples(
    diffusion: Diffusion, net: nn.Module, shape: tuple[int, ...], numbers: range, *, seed: int, device: torch.device,
    batch: int = 64, path: Path | None = None, say: Callable[[str], None] = print, called: Callable[..., Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """The samples of these numbers, as bytes (n, C, H, W) on the CPU.

    path: where what is finished is kept; of other weights, seeds or numbers it is no use.
    called: what is called in place of the network, as a function of x_t and t.
    """
    of = f"{fingerprint(net)} {diffusion.T} {seed} {numbers}"
    done = torch.empty(0, *shape, dtype=torch.uint8)
    if path and path.exists() and (kept := torch.load(path, map_location="cpu", weights_only=True))["of"] == of:
        done = kept["images"]
    began, before, saved = time.monotonic(), len(done), time.monotonic()
    while len(done) < len(numbers):
        part = numbers[len(done) :][:batch]
        z = lambda t, part=part: noise(shape, part, device, seed, t)
        x = reverse(diffusion, called or net, z(diffusion.T), diffusion.T - 1, z)
        done = torch.cat([done, to_bytes(x).cpu()])
        now, finished = time.monotonic(), len(done) == len(numbers)
        if path and (now - saved > SAVE_EVERY or finished):
            buffer = io.BytesIO()
            torch.save({"of": of, "images": done}, buffer)
            write_atomic(path, buffer.getvalue())
        if now - saved > SAVE_EVERY:
            left, saved = (now - began) / (len(done) - before) * (len(numbers) - len(done)), now
            say(f"samples: {len(done)} of {len(numbers)}, {left / 60:.0f} min to go")
    return done


def shown(images: Tensor) -> Tensor:
    """Bytes (n, C, H, W) -> what `figures.grid` takes, (n, H, W) or (n, 3, H, W) in [0, 1]."""
    return images.float().squeeze(1) / 255 if images.shape[1] == 1 else images.float() / 255
