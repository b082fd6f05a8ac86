"""J. Ho, A. Jain, P. Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020 (arXiv:2006.11239). This file: MIT licence.

Here: the diffusion process, its posterior and the bound (Sec. 2), the reverse process, its decoder and both objectives (Sec. 3),
and the U-Net that predicts epsilon, or the mean (Sec. 4, appendix B). What the paper leaves out is as in the authors' code
(github.com/hojonathanho/diffusion), "code" below.
Not here: entropy coding of x_T, ..., x_0 (Algorithms 3 and 4), of which the bound is the length.

Time is the code's: t = 0, ..., T - 1 stands for the paper's 1, ..., T, so that "x_t" is what t + 1 steps of noise have left.
Images are in [-1, 1]. Parts of the bound are in bits per dimension.

B batch, C channels, H W pixels, D = C H W dimensions, S = H W positions of a map, E components of the embedding of t.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Predict = Literal["epsilon", "mu"]
Variance = Literal["large", "small", "learned"]
CDF = Literal["tanh", "exact"]


def kl_normal(mean1: Tensor, log_var1: Tensor, mean2: Tensor, log_var2: Tensor) -> Tensor:
    """KL(N(mean1, e^log_var1) || N(mean2, e^log_var2)) of each component, in nats."""
    return 0.5 * (log_var2 - log_var1 - 1 + (log_var1 - log_var2).exp() + (mean1 - mean2) ** 2 * (-log_var2).exp())


def bits(nats: Tensor) -> Tensor:
    """Nats of each component (B, ...) -> bits per dimension (B,)."""
    return nats.flatten(1).mean(1) / math.log(2)


def log_decoder(x0: Tensor, mean: Tensor, log_std: Tensor, cdf: CDF = "tanh") -> Tensor:
    """Eq. 13: log p(x_0 | x_1) of pixels in {0, ..., 255} scaled to [-1, 1], each a bin of a Gaussian; the outer bins are open.
    cdf: "tanh" approximates the Gaussian's (code), and is a distribution of its own right, whose bound is as true."""
    tanh = lambda z: 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
    phi = torch.special.ndtr if cdf == "exact" else tanh
    upper, lower = (phi((x0 - mean + side / 255) * (-log_std).exp()) for side in (1, -1))  # delta_+, delta_-
    p = torch.where(x0 < -0.999, upper, torch.where(x0 > 0.999, 1 - lower, upper - lower))
    return p.clamp(min=1e-12).log()  # (code)


class Diffusion(nn.Module):
    """Secs. 2 and 3: what is fixed, and what follows from a network's output. Constants are worked out in double precision."""

    def __init__(
        self, T: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02, predict: Predict = "epsilon",
        variance: Variance = "large", times: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        """predict: what the network gives, epsilon or the mean of Eq. 7.    variance: sigma_t^2 of Sec. 3.2, beta_t ("large"),
        beta-tilde_t ("small"), or "learned", of which the network gives the logarithm besides (Table 2).    times: of the T steps
        those to take, t being their number here: not the paper's."""
        super().__init__()
        alpha_bar = (1 - torch.linspace(beta_1, beta_T, T, dtype=torch.float64)).cumprod(0)  # Sec. 4, Sec. 2
        alpha_bar = alpha_bar if times is None else alpha_bar[list(times)]
        self.T, self.predict, self.variance = len(alpha_bar), predict, variance
        before = F.pad(alpha_bar[:-1], (1, 0), value=1.0)  # alpha-bar_{t-1}
        beta = 1 - alpha_bar / before
        beta_tilde = beta * (1 - before) / (1 - alpha_bar)  # Eq. 7
        log_beta_tilde = torch.cat([beta_tilde[1:2], beta_tilde[1:]]).log()  # the first is 0, and the second stands for it (code)
        constants = {
            "of_x0": alpha_bar.sqrt(), "of_epsilon": (1 - alpha_bar).sqrt(), "log_beta_tilde": log_beta_tilde,  # Eq. 4
            "mean_of_x0": before.sqrt() * beta / (1 - alpha_bar),  # Eq. 7
            "mean_of_xt": (1 - beta).sqrt() * (1 - before) / (1 - alpha_bar),
            "log_sigma2": log_beta_tilde if variance == "small" else torch.cat([beta_tilde[1:2], beta[1:]]).log(),  # (code)
        }  # fmt: skip
        for name, values in constants.items():
            self.register_buffer(name, values, persistent=False)  # (T,)

    def at(self, name: str, t: Tensor, x: Tensor) -> Tensor:
        """A constant at each t: (B,) -> (B, 1, 1, 1), of the type of x."""
        return getattr(self, name)[t].to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))

    # Sec. 2: the forward process.

    def q_sample(self, x0: Tensor, t: Tensor, epsilon: Tensor) -> Tensor:
        """Eq. 4: x_t ~ q(x_t | x_0) from epsilon ~ N(0, I)."""
        return self.at("of_x0", t, x0) * x0 + self.at("of_epsilon", t, x0) * epsilon

    def q_posterior(self, x0: Tensor, xt: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Eqs. 6, 7: the mean of q(x_{t-1} | x_t, x_0), and the logarithm of its variance (B, 1, 1, 1)."""
        return self.at("mean_of_x0", t, xt) * x0 + self.at("mean_of_xt", t, xt) * xt, self.at("log_beta_tilde", t, xt)

    # Sec. 3.2: the reverse process.

    def p(self, output: Tensor, xt: Tensor, t: Tensor, clip: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """p(x_{t-1} | x_t) of a network's output (B, C or 2 C, H, W): mean, logarithm of the variance, x_0 as it is predicted.
        clip: that into [-1, 1], in sampling and evaluation (code)."""
        log_sigma2 = self.at("log_sigma2", t, xt)
        if self.variance == "learned":
            output, log_sigma2 = output.chunk(2, dim=1)
        if self.predict == "epsilon":
            x0 = (xt - self.at("of_epsilon", t, xt) * output) / self.at("of_x0", t, xt)  # Eq. 15
            x0 = x0.clamp(-1, 1) if clip else x0
            return self.q_posterior(x0, xt, t)[0], log_sigma2, x0  # Eq. 11, where nothing is clipped
        x0 = (output - self.at("mean_of_xt", t, xt) * xt) / self.at("mean_of_x0", t, xt)
        return output, log_sigma2, x0.clamp(-1, 1) if clip else x0

    def p_sample(self, output: Tensor, xt: Tensor, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Algorithm 2: x_{t-1} from z ~ N(0, I), and x_0 as it is predicted. The last step, t = 0, has no noise."""
        mean, log_sigma2, x0 = self.p(output, xt, t)
        return mean + (t > 0).to(xt.dtype).reshape(-1, *[1] * (xt.ndim - 1)) * (0.5 * log_sigma2).exp() * z, x0

    # Eq. 5: the bound L_T + L_{T-1} + ... + L_0.

    def L_T(self, x0: Tensor) -> Tensor:
        """KL(q(x_T | x_0) || N(0, I)), of which nothing is learned (Sec. 3.1): (B,)."""
        mean, log_var, zero = self.of_x0[-1] * x0, 2 * self.of_epsilon[-1].log(), self.of_x0.new_zeros(())
        return bits(kl_normal(mean, log_var, zero, zero)).to(x0.dtype)

    def L(self, output: Tensor, x0: Tensor, xt: Tensor, t: Tensor, clip: bool = False, cdf: CDF = "tanh") -> tuple[Tensor, Tensor]:
        """The bound's term of each t, -log p(x_0 | x_1) where t = 0, else KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)): (B,).
        And x_0 as it is predicted: (B, C, H, W)."""
        mean, log_sigma2, predicted = self.p(output, xt, t, clip)
        kl = bits(kl_normal(*self.q_posterior(x0, xt, t), mean, log_sigma2))
        decoder = bits(-log_decoder(x0, mean, 0.5 * log_sigma2, cdf))
        return torch.where(t == 0, decoder, kl), predicted

    def L_simple(self, output: Tensor, x0: Tensor, xt: Tensor, t: Tensor, epsilon: Tensor) -> Tensor:
        """Eq. 14, a mean over dimensions (code): (B,). Where the mean is predicted, the same of that (Table 2)."""
        target = epsilon if self.predict == "epsilon" else self.q_posterior(x0, xt, t)[0]
        return (target - output).square().flatten(1).mean(1)


# Appendix B: "a U-Net backbone similar to an unmasked PixelCNN++ with group normalization throughout".


NEARLY_0 = 1e-10  # scale of what ends a residual branch, and of the last layer: epsilon is predicted as 0 at first (code)


def initialised(layer: nn.Module, scale: float = 1.0) -> nn.Module:
    """Weights uniform with variance `scale` / the mean of fan-in and fan-out, biases 0 (code)."""
    nn.init.xavier_uniform_(layer.weight, math.sqrt(scale))
    nn.init.zeros_(layer.bias)
    return layer


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, scale: float = 1.0) -> nn.Conv2d:
    return initialised(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2 if stride == 1 else 0), scale)


def time_embedding(t: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Appendix B: "the Transformer sinusoidal position embedding", sines and then cosines (code): (B,) -> (B, size)."""
    half = size // 2
    frequency = (torch.arange(half, dtype=dtype, device=t.device) * (-math.log(10_000) / (half - 1))).exp()
    angle = t.to(dtype)[:, None] * frequency  # (B, size / 2)
    return torch.cat([angle.sin(), angle.cos()], 1)


class ResBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, E: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs, eps=1e-6)
        self.conv1 = conv(inputs, outputs)
        self.temb_proj = initialised(nn.Linear(E, outputs))
        self.norm2 = nn.GroupNorm(groups, outputs, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv(outputs, outputs, scale=NEARLY_0)
        self.nin_shortcut = conv(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))  # (B, outputs, H, W)
        h = h + self.temb_proj(F.silu(temb))[:, :, None, None]  # "adding [it] into each residual block"
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.nin_shortcut(x) + h


class Attention(nn.Module):
    """Self-attention over positions, with one head."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.q, self.k, self.v = (initialised(nn.Linear(channels, channels)) for _ in range(3))
        self.proj_out = initialised(nn.Linear(channels, channels), NEARLY_0)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x).flatten(2).mT  # (B, S, C)
        q, k, v = (layer(h)[:, None] for layer in (self.q, self.k, self.v))  # (B, 1, S, C)
        h = F.scaled_dot_product_attention(q, k, v)[:, 0]  # softmax(q k^T / sqrt(C)) v
        return x + self.proj_out(h).mT.reshape(x.shape)


class Level(nn.Module):
    """What the U-Net has at one resolution, on its way down or up: residual blocks, some with attention, and the way on."""

    def __init__(self, blocks: Sequence[tuple[int, int]], attention: Sequence[bool], way: nn.Module, *about: float) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResBlock(*each, *about) for each in blocks)
        pairs = zip(blocks, attention, strict=True)
        self.attn = nn.ModuleList(Attention(maps, about[1]) if has else nn.Identity() for (_, maps), has in pairs)
        self.way = way


class UNet(nn.Module):
    """epsilon_theta(x_t, t), or what else a Diffusion takes for an output."""

    def __init__(
        self, ch: int = 128, multipliers: Sequence[int] = (1, 2, 2, 2), attention: Sequence[int] = (16,), dropout: float = 0.1,
        *, size: int = 32, channels: int = 3, outputs: int | None = None, blocks: int = 2, groups: int = 32,
    ) -> None:  # fmt: skip
        """ch, multipliers: feature maps at each resolution, from `size` on, are ch times these. attention: resolutions with it;
        the middle always does. size, channels: of the images. outputs: channels that are predicted, if not as many. blocks:
        residual ones at each resolution on the way down; on the way up there is one more. groups: of group normalization."""
        super().__init__()
        self.ch, about = ch, (4 * ch, groups, dropout)
        self.temb = nn.Sequential(initialised(nn.Linear(ch, 4 * ch)), nn.SiLU(), initialised(nn.Linear(4 * ch, 4 * ch)))
        self.conv_in = conv(channels, ch)
        skips, h, last = [ch], ch, len(multipliers) - 1
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i, m in enumerate(ch * each for each in multipliers):
            way = conv(m, m, stride=2) if i < last else nn.Identity()
            self.down.append(Level([(h, m), *[(m, m)] * (blocks - 1)], [size >> i in attention] * blocks, way, *about))
            skips += [m] * (blocks + (i < last))
            h = m
        self.mid = Level([(h, h)] * 2, [True, False], nn.Identity(), *about)
        for i in range(last, -1, -1):
            m = ch * multipliers[i]
            inputs = [(below + skips.pop(), m) for below in (h, *[m] * blocks)]
            way = conv(m, m) if i > 0 else nn.Identity()
            self.up.append(Level(inputs, [size >> i in attention] * (blocks + 1), way, *about))
            h = m
        self.norm_out = nn.GroupNorm(groups, h, eps=1e-6)
        self.conv_out = conv(h, outputs or channels, scale=NEARLY_0)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(B, C, H, W), (B,) -> (B, outputs, H, W). H and W are multiples of 2 to the number of downsamplings."""
        with torch.autocast(x.device.type, enabled=False):  # of t nothing is rounded
            temb = self.temb(time_embedding(t, self.ch, self.temb[0].weight.dtype))  # (B, E)
        h = self.conv_in(x)  # (B, ch, H, W)
        skips = [h]
        for level in self.down:
            for block, attn in zip(level.block, level.attn, strict=True):
                skips.append(h := attn(block(h, temb)))
            if level is not self.down[-1]:
                skips.append(h := level.way(F.pad(h, (0, 1, 0, 1))))  # (B, ., H / 2, W / 2): SAME is right and below (code)
        for block, attn in zip(self.mid.block, self.mid.attn, strict=True):
            h = attn(block(h, temb))
        for level in self.up:
            for block, attn in zip(level.block, level.attn, strict=True):
                h = attn(block(torch.cat([h, skips.pop()], 1), temb))
            if level is not self.up[-1]:
                h = level.way(F.interpolate(h, scale_factor=2.0, mode="nearest"))  # (B, ., 2 H, 2 W)
        with torch.autocast(x.device.type, enabled=False):  # nor of the output
            return self.conv_out(F.silu(self.norm_out(h.to(self.conv_out.weight.dtype))))


def unet_cifar10() -> UNet:
    """The code's unet2d16b2: "35.7 million" parameters (appendix B), 35,746,307."""
    return UNet()


def unet_256() -> UNet:
    """Of LSUN and CelebA-HQ at 256 pixels: "114 million", 113,673,219."""
    return UNet(128, (1, 1, 2, 2, 4, 4), dropout=0.0, size=256)
