"""The variational bound of images, term by term (Eq. 5), and with it rate and distortion (Sec. 4.3, Table 4)."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.data.order import mix
from common.run import Run
from papers.ddpm.data import scaled
from papers.ddpm.model import Diffusion

CHUNK = 250  # images that share a draw of noise


@dataclass
class Bound:
    """Of n images: means over images for each t, in bits per dimension; and for its error, sums over t for each image."""

    T: int
    each: int
    L_T: float
    L: Tensor  # (T,): L_0, and L_{t-1} of the paper's t
    exact: float  # L_0 with the exact normal distribution function
    mse: Tensor  # (T,): of x_0 as it is predicted from x_t, for images in [-1, 1]
    always: Tensor  # (n,): the sum over `rows`
    sometimes: Tensor  # (n,): the sum over the other t that the image is evaluated at

    @property
    def total(self) -> float:
        return self.L_T + self.L.sum().item()

    def error(self) -> float:
        return error(self.always, self.sometimes, self.each)

    def rate(self, t: int) -> float:
        """Bits per dimension that have been received when x_t is known: L_T and what came after it (Sec. 4.3)."""
        return self.L_T + self.L[t + 1 :].sum().item()

    def rmse(self, t: int) -> float:
        """The distortion then, of pixels in 0 ... 255."""
        return 127.5 * math.sqrt(self.mse[t].item())


def rows(T: int) -> list[int]:
    """The ten t of Table 4, whose reverse steps are 100, 200, ..., 1000 of 1,000; the last is t = 0."""
    return [T - T * k // 10 for k in range(1, 11)]


def error(always: Tensor, sometimes: Tensor, each: int) -> float:
    """The standard error of the bound, or of a difference of two: (n,), (n,). Image i is evaluated at t = i modulo `each`."""
    n = len(always)
    variance = always.var() / n
    for r in range(min(each, n)):
        a, s = always[r::each], sometimes[r::each]
        if len(s) > 1:
            variance += s.var() / len(s) + 2 * ((a - a.mean()) * (s - s.mean())).sum() / (len(s) - 1) / n
    return math.sqrt(max(variance.item(), 0.0))


def evaluate(run: Run, diffusion: Diffusion, net: nn.Module, images: Tensor, each: int, name: str) -> Bound:
    """The bound of `images`, bytes (n, H, W, C), of a network in `run.evaluating`, with x_0 clipped to [-1, 1] (code).

    each: 1 for all t of all images. Else an image is evaluated at the t of Table 4 and at every so manieth of the others, those
    that are its number modulo `each`: every t has as many images (one at least), and the bound is estimated without bias.
    Noise depends on the seed, `name`, t and the number of the image alone.
    """
    n, T, always_at = len(images), diffusion.T, rows(diffusion.T)
    L, mse, exact = torch.zeros(T, dtype=torch.float64), torch.zeros(T, dtype=torch.float64), 0.0
    always, sometimes = torch.zeros(2, n, dtype=torch.float64).unbind()
    told = time.monotonic()
    for t in reversed(range(T)):
        which = torch.arange(n) if t in always_at else torch.arange(t % each, n, each)
        found = torch.cat([
            terms(run, diffusion, net, images[part], t, (run.seed, name, t, i)) for i, part in enumerate(which.split(CHUNK))
        ]).double().cpu()  # (n of them, 3)  # fmt: skip
        L[t], mse[t] = found[:, 0].mean(), found[:, 1].mean()
        (always if t in always_at else sometimes)[which] += found[:, 0]
        if t == 0:
            exact = found[:, 2].mean().item()
        if time.monotonic() - told > 30:
            told = time.monotonic()
            run.say(f"bound of {name} images: {T - t} of {T} terms")
    L_T = diffusion.L_T(scaled(images).to(torch.get_default_dtype())).mean().item()
    return Bound(T, each, L_T, L, exact, mse, always, sometimes)


def terms(run: Run, diffusion: Diffusion, net: nn.Module, images: Tensor, t: int, noise: Sequence[object]) -> Tensor:
    """Each image's term, mean squared error of x_0, and term with the exact distribution function where t = 0: (b, 3)."""
    b, H, W, C = images.shape
    generator = torch.Generator(run.device).manual_seed(mix(*noise))
    epsilon = torch.randn(b, C, H, W, generator=generator, device=run.device)[run.share(b)]
    x0 = scaled(images[run.share(b)])
    at = torch.full((len(x0),), t, device=run.device)
    xt = diffusion.q_sample(x0, at, epsilon)
    with torch.autocast(run.device.type, enabled=False):  # at large t an error of epsilon is sixty times as large in x_0
        output = net(xt, at)
    term, predicted = diffusion.L(output, x0, xt, at, clip=True)
    exact = diffusion.L(output, x0, xt, at, clip=True, cdf="exact")[0] if t == 0 else term
    return run.gather(torch.stack([term, (predicted - x0).square().flatten(1).mean(1), exact], 1), b)


def metrics(bound: Bound, split: str) -> dict[str, float]:
    """Of Sec. 4.3, and of test images Table 4, as the record has them."""
    found = {
        f"{split}_bits_per_dim": bound.total, f"{split}_bits_per_dim_noise": bound.error(),
        f"{split}_bits_per_dim_exact_cdf": bound.total - bound.L[0].item() + bound.exact,
        f"{split}_rate": bound.rate(0), f"{split}_distortion": bound.L[0].item(), f"{split}_prior": bound.L_T,
    }  # fmt: skip
    for t in rows(bound.T) if split == "test" else ():
        found |= {f"{split}_rate_{bound.T - t}": bound.rate(t), f"{split}_rmse_{bound.T - t}": bound.rmse(t)}
    return found
