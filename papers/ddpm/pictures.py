"""Pictures of a run: samples, Figs. 6 to 8, one sample as it comes to be."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common import figures
from common.run import Run
from papers.ddpm.bound import rows
from papers.ddpm.chain import noise, reverse, shown
from papers.ddpm.data import Data, scaled, to_bytes
from papers.ddpm.model import Diffusion

SHOWN, FRAMES, BETWEEN, PAIRS = 8, 40, 9, 4


def draw(run: Run, diffusion: Diffusion, net: nn.Module, data: Data, images: Tensor) -> None:
    """images: samples, bytes (n, C, H, W)."""
    run.save_figure(figures.grid(shown(images[: SHOWN * SHOWN]), SHOWN), "samples")
    latents = draw_progress(run, diffusion, net, images.shape[1:])
    draw_shared(run, diffusion, net, latents)
    real = scaled(data.test_images[: 2 * PAIRS]) if data.test_images is not None else images[: 2 * PAIRS] / 127.5 - 1
    draw_interpolation(run, diffusion, net, real.to(run.device))


def pixels(x: Tensor) -> Tensor:
    """(n, C, H, W) in [-1, 1] -> what `figures.grid` takes."""
    return shown(to_bytes(x).cpu())


def draw_progress(run: Run, diffusion: Diffusion, net: nn.Module, shape: Sequence[int]) -> dict[int, Tensor]:
    """Fig. 6: x_0 as it is predicted over time, from left to right; and one sample from noise on, animated.

    Returns: x_t of the first of them, at T, 3 T / 4, T / 2 and T / 4: t -> (1, C, H, W).
    """
    T, shape = diffusion.T, tuple(shape)
    z = lambda t: noise(shape, range(SHOWN), run.device, run.seed, "progress", t)
    columns, frames, latents = [], [], {T - 1: z(T)[:1]}

    def look(t: int, x: Tensor, predicted: Tensor) -> None:
        if t in rows(T):
            columns.append(pixels(predicted))
        if t % max(1, T // FRAMES) == 0:
            frames.append(torch.cat([pixels(x[:1]), pixels(predicted[:1])]))
        if t in (T // 4, T // 2, 3 * T // 4):
            latents[t - 1] = x[:1]

    reverse(diffusion, net, z(T), T - 1, z, look)
    run.save_figure(figures.grid(torch.stack(columns, 1).flatten(0, 1), len(columns)), "progress")
    animate(run, [figures.grid(frame, 2) for frame in frames])
    return latents


def draw_shared(run: Run, diffusion: Diffusion, net: nn.Module, latents: dict[int, Tensor]) -> None:
    """Fig. 7: samples that share x_t, which is the first of each row; t = T, 3 T / 4, T / 2, T / 4."""
    lines = []
    for t, x in latents.items():
        z = lambda step, shape=x.shape[1:]: noise(tuple(shape), range(SHOWN), run.device, run.seed, "shared", step)
        lines += [pixels(x), pixels(reverse(diffusion, net, x.expand(SHOWN, *x.shape[1:]), t, z))]
    run.save_figure(figures.grid(torch.cat(lines), SHOWN + 1), "shared-latents")


def draw_interpolation(run: Run, diffusion: Diffusion, net: nn.Module, real: Tensor) -> None:
    """Fig. 8: between the x_t of two images at t = T / 2, and from there back to x_0 with the same noise; the images outside."""
    half, shape = diffusion.T // 2, tuple(real.shape[1:])
    x0, n = real.unflatten(0, (-1, 2)), len(real) // 2  # (pairs, 2, C, H, W)
    epsilon = noise(shape, range(2 * n), run.device, run.seed, "interpolation").unflatten(0, (n, 2))
    at = torch.full((n,), half - 1, device=run.device)
    xt = torch.stack([diffusion.q_sample(x0[:, i], at, epsilon[:, i]) for i in range(2)])  # (2, pairs, C, H, W)
    share = torch.linspace(0, 1, BETWEEN, device=run.device, dtype=xt.dtype)[:, None, None, None]
    between = torch.lerp(xt[0][:, None], xt[1][:, None], share)  # (pairs, BETWEEN, C, H, W)
    z = lambda t: noise(shape, range(n), run.device, run.seed, "interpolation", t).repeat_interleave(BETWEEN, 0)
    found = reverse(diffusion, net, between.flatten(0, 1), half - 1, z).unflatten(0, (n, BETWEEN))
    whole = torch.cat([x0[:, :1], found, x0[:, 1:]], 1)
    run.save_figure(figures.grid(pixels(whole.flatten(0, 1)), BETWEEN + 2), "interpolation")


def animate(run: Run, frames: list[Tensor]) -> None:
    """figures/one-sample.png, animated: x_t on the left, x_0 as it is predicted on the right."""
    run.save_figure(frames[-1], "one-sample")
    if not run.main:
        return
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo
    from torchvision.transforms.functional import to_pil_image

    path = run.dir / "figures" / "one-sample.png"
    with Image.open(path) as image:
        about = PngInfo()
        for key, text in image.text.items():
            about.add_text(key, text)
    first, *more = [
        to_pil_image(frame).resize((4 * frame.shape[2], 4 * frame.shape[1]), Image.Resampling.NEAREST) for frame in frames
    ]
    first.save(path, save_all=True, append_images=more, duration=[*[100] * len(more), 1500], pnginfo=about)
