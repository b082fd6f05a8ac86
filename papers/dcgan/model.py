"""A. Radford, L. Metz, S. Chintala, "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks",
ICLR 2016 (arXiv:1511.06434). This file: MIT licence.

Here: the generator of Fig. 1 with its discriminator, 64 pixels (Sec. 3); the conditional pair on MNIST (appendix); the pairs of 32
pixels whose discriminators are feature extractors (Secs. 5.1, 5.2); features, guided backpropagation (Sec. 6.2). What the paper
leaves out is as in the authors' code (github.com/Newmu/dcgan_code), "code" below.
Not here: the autoencoder that removes duplicates from LSUN (Sec. 4.1.1), removing windows (Sec. 6.3.1).

B minibatch, Z components of z, K classes, C channels, H W pixels, S pixels of a map's side, N units of a hidden layer.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Norm = Literal["inside", "everywhere", "nowhere"]


class BatchNorm(nn.Module):
    """Batch normalization by the batch's own statistics, in sampling too (code); by the population's for features.

    The population's are means of those of batches, as `population_statistics` finds them.
    """

    def __init__(self, features: int, affine: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(features)) if affine else None
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))
        self.population = False

    def forward(self, x: Tensor) -> Tensor:
        """(B, N) or (B, C, H, W), the same; epsilon 1e-8 (code)."""
        if self.population:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=1e-8)
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=1e-8)


@torch.no_grad()
def population_statistics(net: nn.Module, batches: Iterable[Tensor]) -> None:
    """From here on `net` normalizes by the means, over these batches, of each batch's mean and variance (code)."""
    norms = [module for module in net.modules() if isinstance(module, BatchNorm)]

    def add(norm: BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        var, mean = torch.var_mean(inputs[0], [d for d in range(inputs[0].ndim) if d != 1], correction=0)
        norm.running_mean += mean
        norm.running_var += var

    for norm in norms:
        norm.population = False
        norm.running_mean.zero_()
        norm.running_var.zero_()
    hooks, n = [norm.register_forward_pre_hook(add) for norm in norms], 0
    for x in batches:
        net(x)
        n += 1
    for hook in hooks:
        hook.remove()
    for norm in norms:
        norm.population = True
        norm.running_mean /= n
        norm.running_var /= n


def initialise(net: nn.Module) -> None:
    """Sec. 4: "All weights were initialized from a zero-centered Normal distribution with standard deviation 0.02"."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, BatchNorm) and module.weight is not None:
            nn.init.normal_(module.weight, 1, 0.02)  # code


# Sec. 3: "strided convolutions (discriminator) and fractional-strided convolutions (generator)". No layer has a bias (code).
def conv(inputs: int, outputs: int, kernel: int = 5, stride: int = 2) -> nn.Conv2d:
    """S -> S / stride."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


def deconv(inputs: int, outputs: int, kernel: int = 5, stride: int = 2) -> nn.ConvTranspose2d:
    """S -> S stride."""
    layer = ToImage if (kernel, stride) == (5, 2) and outputs <= 3 else nn.ConvTranspose2d
    return layer(inputs, outputs, kernel, stride, kernel // 2, output_padding=stride - 1, bias=False)


class ToImage(nn.ConvTranspose2d):
    """The same to few maps, on CPUs several times as fast: a convolution of 3 x 3 for each of the four pixels of 2 x 2."""

    def forward(self, x: Tensor) -> Tensor:
        k = F.pad(self.weight, (0, 1, 0, 1)).unflatten(3, (3, 2)).unflatten(2, (3, 2))  # (inputs, outputs, 3, 2, 3, 2)
        k = k.permute(1, 3, 5, 0, 2, 4).flip(4, 5).flatten(0, 2)  # (outputs 2 2, inputs, 3, 3)
        return F.pixel_shuffle(F.conv2d(x, k, padding=1), 2)


class Generator(nn.Module):
    """Fig. 1: z "is projected to a small spatial extent convolutional representation", and from there to an image in (-1, 1)."""

    def __init__(self, Z: int, maps: Sequence[int], kernel: int, strides: Sequence[int]) -> None:
        """maps: from those of 4 x 4 to the image's channels; strides: of the fractionally-strided convolutions between them."""
        super().__init__()
        self.project = nn.Linear(Z, maps[0] * 4 * 4, bias=False)
        self.project_norm = BatchNorm(maps[0] * 4 * 4)  # of each unit, before they are reshaped to maps (code)
        self.deconvs = nn.ModuleList(deconv(*pair, kernel, s) for *pair, s in zip(maps, maps[1:], strides, strict=False))
        self.norms = nn.ModuleList(BatchNorm(m) for m in maps[1:-1])  # "batchnorm in both [...]" but not "to the generator output"
        initialise(self)

    def forward(self, z: Tensor) -> Tensor:
        """(B, Z) -> (B, C, H, W)."""
        h = F.relu(self.project_norm(self.project(z))).unflatten(1, (-1, 4, 4))  # (B, maps[0], 4, 4)
        for layer, norm in zip(self.deconvs, self.norms, strict=False):
            h = F.relu(norm(layer(h)))  # (B, maps[i], S, S)
        return torch.tanh(self.deconvs[-1](h))


class Discriminator(nn.Module):
    """The generator's mirror: "the last convolution layer is flattened and then fed into a single sigmoid output"."""

    def __init__(self, maps: Sequence[int], kernel: int, strides: Sequence[int]) -> None:
        """maps: from the image's channels to those of 4 x 4."""
        super().__init__()
        self.convs = nn.ModuleList(conv(*pair, kernel, s) for *pair, s in zip(maps, maps[1:], strides, strict=False))
        self.norms = nn.ModuleList([nn.Identity(), *(BatchNorm(m) for m in maps[2:])])  # not "the discriminator input layer"
        self.activations = nn.ModuleList(nn.LeakyReLU(0.2) for _ in self.convs)
        self.output = nn.Linear(maps[-1] * 4 * 4, 1, bias=False)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """The log-odds that images are real, the sigmoid's argument: (B, C, H, W) -> (B,)."""
        return self.output(self.layers(x)[-1].flatten(1)).squeeze(1)

    def layers(self, x: Tensor) -> list[Tensor]:
        """What each convolutional layer answers: (B, C, H, W) -> (B, maps[i], S, S) each."""
        answers = []
        for layer, norm, activation in zip(self.convs, self.norms, self.activations, strict=True):
            x = activation(norm(layer(x)))
            answers.append(x)
        return answers

    def features(self, x: Tensor) -> Tensor:
        """Sec. 5.1: "maxpooling each layers representation to produce a 4 x 4 spatial grid", flattened: (B, C, H, W) -> (B, N)."""
        return torch.cat([F.adaptive_max_pool2d(h, 4).flatten(1) for h in self.layers(x)], 1)


def dcgan64(Z: int = 100, width: int = 128) -> tuple[Generator, Discriminator]:
    """Fig. 1: LSUN and faces, 64 pixels; kernels of 5 x 5, steps of 2."""
    maps = (8 * width, 4 * width, 2 * width, width, 3)
    return Generator(Z, maps, 5, (2,) * 4), Discriminator(maps[::-1], 5, (2,) * 4)


def dcgan32(Z: int = 256, width: int = 128) -> tuple[Generator, Discriminator]:
    """Sec. 5.1: of ImageNet at 32 pixels; kernels of 3 x 3, steps of 1 and 2 in turn; 28,672 features."""
    w = width
    up, down = (4 * w, 4 * w, 2 * w, 2 * w, w, w, 3), (3, w, w, 2 * w, 2 * w, 4 * w, 4 * w)
    return Generator(Z, up, 3, (2, 1) * 3), Discriminator(down, 3, (1, 2) * 3)


def dcgan_svhn(Z: int = 100, width: int = 64) -> tuple[Generator, Discriminator]:
    """Sec. 5.2: SVHN, 32 pixels; 7,168 features. The generator, which is not described, as the discriminator's mirror."""
    maps = (4 * width, 2 * width, width, 3)
    return Generator(Z, maps, 5, (2,) * 3), Discriminator(maps[::-1], 5, (2,) * 3)


# Appendix: the conditional pair on MNIST. Labels y enter at every layer, as constant maps where it is convolutional (code).
def beside(x: Tensor, y: Tensor) -> Tensor:
    """x with y beside it: (B, N), (B, K) -> (B, N + K), or (B, C, H, W), (B, K) -> (B, C + K, H, W)."""
    if x.ndim == 4:
        y = y[:, :, None, None].expand(-1, -1, *x.shape[2:])
    return torch.cat([x, y.to(x.dtype)], 1)


def normalizer(features: int, wanted: bool) -> nn.Module:
    return BatchNorm(features, affine=False) if wanted else nn.Identity()  # "removing the scale and shift parameters [...] helped"


class ConditionalGenerator(nn.Module):
    """z, y -> a digit in (0, 1). `norm` other than "inside" breaks a rule of Sec. 3, to see what it is for."""

    def __init__(self, Z: int = 100, K: int = 10, maps: int = 64, units: int = 1024, norm: Norm = "inside") -> None:
        super().__init__()
        inside = norm != "nowhere"
        self.maps = 2 * maps
        self.fc1, self.norm1 = nn.Linear(Z + K, units, bias=False), normalizer(units, inside)
        self.fc2, self.norm2 = nn.Linear(units + K, 2 * maps * 7 * 7, bias=False), normalizer(2 * maps * 7 * 7, inside)
        self.deconv3, self.norm3 = deconv(2 * maps + K, maps), normalizer(maps, inside)
        self.deconv4, self.norm4 = deconv(maps + K, 1), normalizer(1, norm == "everywhere")
        initialise(self)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """(B, Z), (B, K) one-hot -> (B, 1, 28, 28)."""
        h = F.relu(self.norm1(self.fc1(beside(z, y))))  # (B, units)
        h = F.relu(self.norm2(self.fc2(beside(h, y))))
        h = h.unflatten(1, (self.maps, 7, 7))  # (B, 2 maps, 7, 7)
        h = F.relu(self.norm3(self.deconv3(beside(h, y))))  # (B, maps, 14, 14)
        return torch.sigmoid(self.norm4(self.deconv4(beside(h, y))))


class ConditionalDiscriminator(nn.Module):
    """x, y -> the log-odds that x is real. Rules of Sec. 3 are broken by `norm`, by max `pooling`, by `slope` 0 (ReLU)."""

    def __init__(
        self, K: int = 10, maps: int = 64, units: int = 1024, norm: Norm = "inside", pooling: bool = False, slope: float = 0.2
    ) -> None:
        super().__init__()
        inside, stride, self.slope = norm != "nowhere", 1 if pooling else 2, slope
        self.pool = nn.MaxPool2d(2) if pooling else nn.Identity()
        self.conv1, self.norm1 = conv(1 + K, maps, stride=stride), normalizer(maps, norm == "everywhere")
        self.conv2, self.norm2 = conv(maps + K, 2 * maps, stride=stride), normalizer(2 * maps, inside)
        self.fc3, self.norm3 = nn.Linear(2 * maps * 7 * 7 + K, units, bias=False), normalizer(units, inside)
        self.fc4 = nn.Linear(units + K, 1, bias=False)
        initialise(self)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(B, 1, 28, 28), (B, K) one-hot -> (B,)."""
        h = self.pool(F.leaky_relu(self.norm1(self.conv1(beside(x, y))), self.slope))  # (B, maps, 14, 14)
        h = self.pool(F.leaky_relu(self.norm2(self.conv2(beside(h, y))), self.slope))  # (B, 2 maps, 7, 7)
        h = F.leaky_relu(self.norm3(self.fc3(beside(h.flatten(1), y))), self.slope)  # (B, units)
        return self.fc4(beside(h, y)).squeeze(1)


class MLP(nn.Module):
    """Table 3's "GAN" is only called permutation invariant: here two hidden layers, and what else the conditional pair has."""

    def __init__(self, inputs: int, units: int, outputs: int, slope: float, first_norm: bool, K: int = 10) -> None:
        super().__init__()
        sizes, self.slope = (inputs, units, units, outputs), slope
        self.fcs = nn.ModuleList(nn.Linear(a + K, b, bias=False) for a, b in itertools.pairwise(sizes))
        self.norms = nn.ModuleList([normalizer(units, first_norm), normalizer(units, True)])
        initialise(self)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """z or x, y: (B, ...), (B, K) one-hot -> a digit in (0, 1) (B, 1, 28, 28), or log-odds (B,)."""
        h = x.flatten(1)
        for fc, norm in zip(self.fcs, self.norms, strict=False):
            h = F.leaky_relu(norm(fc(beside(h, y))), self.slope)
        h = self.fcs[-1](beside(h, y))
        return h.squeeze(1) if h.shape[1] == 1 else torch.sigmoid(h).view(-1, 1, 28, 28)


# Sec. 6.2: guided backpropagation (Springenberg et al. 2014).
def guided_backpropagation(net: Discriminator, x: Tensor, feature: int) -> tuple[Tensor, Tensor]:
    """Of each image the strongest answer of a feature of the last convolutional layer: (B,), and its guided gradient (B, C, H, W).

    A unit hands back a gradient only where both it and the gradient are positive.
    """
    answers: dict[nn.Module, Tensor] = {}
    hooks = [a.register_forward_hook(lambda a, _, y: answers.update({a: y.detach()})) for a in net.activations]
    hooks += [a.register_full_backward_hook(lambda a, _, g: (g[0].clamp(min=0) * (answers[a] > 0),)) for a in net.activations]
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        strongest = net.layers(x)[-1][:, feature].flatten(1).amax(1)
        [gradient] = torch.autograd.grad(strongest.sum(), x)
    for hook in hooks:
        hook.remove()
    return strongest.detach(), gradient
