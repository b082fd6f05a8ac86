"""The nets of DCGAN: counts of parameters and features, the authors' equations written out, batch statistics, guided gradients."""

import pytest
import torch
from torch.nn import functional as F

from papers.dcgan import model as dcgan


def count(net, norms=None):
    """Numbers among the parameters: all, those of batch norms, or the others."""
    return sum(p.numel() for name, p in net.named_parameters() if norms is None or ("norm" in name) == norms)


PAIRS = {  # pair -> weights and batch norm's parameters of both, the size of z, the images', the features
    dcgan.dcgan64: ((18_851_200, 34_560), (17_229_184, 3584), 100, (3, 64, 64), None),
    dcgan.dcgan32: ((6_671_744, 18_944), (4_582_784, 3328), 256, (3, 32, 32), 28_672),
    dcgan.dcgan_svhn: (None, None, 100, (3, 32, 32), 7168),
}


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.__name__)
def test_counts(pair):
    of_generator, of_discriminator, Z, shape, features = PAIRS[pair]
    with torch.device("meta"):
        generator, discriminator = pair()
        x = generator(torch.empty(2, Z))
        assert x.shape == (2, *shape) and discriminator(x).shape == (2,)
        if features:
            assert discriminator.features(x).shape == (2, features)
    for net, numbers in ((generator, of_generator), (discriminator, of_discriminator)):
        assert numbers is None or (count(net, False), count(net, True)) == numbers
        assert not any(name.endswith("bias") and "norm" not in name for name, _ in net.named_parameters())


def test_counts_of_the_conditional_pair():
    with torch.device("meta"):
        assert count(dcgan.ConditionalGenerator()) == 6_820_538
        assert count(dcgan.ConditionalDiscriminator()) == 6_688_202


def normalized(x):
    """By the batch's own statistics: over all but dimension 1."""
    dims = [d for d in range(x.ndim) if d != 1]
    mean = x.mean(dims, keepdim=True)
    return (x - mean) / (((x - mean) ** 2).mean(dims, keepdim=True) + 1e-8).sqrt()


def deconv(x, weight):
    """Of stride 2: the transpose of the convolution that goes the other way, as a matrix."""
    small = x.shape[2:]
    with torch.enable_grad():
        image = torch.zeros(len(x), weight.shape[1], *(2 * s for s in small), dtype=x.dtype, requires_grad=True)
        down = F.conv2d(image, weight, stride=2, padding=2)
    return torch.autograd.grad(down, image, x)[0]


@pytest.fixture
def double():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_the_conditional_generator_is_the_authors(double):
    G = dcgan.ConditionalGenerator(Z=5, K=10, maps=3, units=7)
    z, labels = torch.rand(6, 5), torch.randint(10, (6,))
    y = F.one_hot(labels, 10).double()
    h = normalized(torch.cat([z, y], 1) @ G.fc1.weight.T).clamp(min=0)
    h = normalized(torch.cat([h, y], 1) @ G.fc2.weight.T).clamp(min=0).reshape(6, 6, 7, 7)
    maps = lambda size: y[:, :, None, None] * torch.ones(6, 10, size, size)
    h = normalized(deconv(torch.cat([h, maps(7)], 1), G.deconv3.weight)).clamp(min=0)
    x = 1 / (1 + (-deconv(torch.cat([h, maps(14)], 1), G.deconv4.weight)).exp())
    torch.testing.assert_close(G(z, y), x)
    torch.testing.assert_close(G.eval()(z, y), x)  # in sampling too


def test_the_conditional_discriminator_is_the_authors(double):
    D = dcgan.ConditionalDiscriminator(maps=3, units=7)
    x, y = torch.rand(6, 1, 28, 28), F.one_hot(torch.randint(10, (6,)), 10).double()
    leaky = lambda h: torch.where(h > 0, h, 0.2 * h)
    maps = lambda size: y[:, :, None, None] * torch.ones(6, 10, size, size)
    h = leaky(F.conv2d(torch.cat([x, maps(28)], 1), D.conv1.weight, stride=2, padding=2))
    h = leaky(normalized(F.conv2d(torch.cat([h, maps(14)], 1), D.conv2.weight, stride=2, padding=2)))
    h = leaky(normalized(torch.cat([h.flatten(1), y], 1) @ D.fc3.weight.T))
    torch.testing.assert_close(D(x, y), torch.cat([h, y], 1) @ D.fc4.weight[0])


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_last_layer_is_a_fractionally_strided_convolution(outputs, double):
    layer, x = dcgan.deconv(4, outputs), torch.rand(2, 4, 7, 5, requires_grad=True)
    assert isinstance(layer, dcgan.ToImage) and not isinstance(dcgan.deconv(4, 8), dcgan.ToImage)
    expected = F.conv_transpose2d(x, layer.weight, stride=2, padding=2, output_padding=1)
    torch.testing.assert_close(layer(x), expected)
    g = torch.rand_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(layer(x), (x, layer.weight), g), torch.autograd.grad(expected, (x, layer.weight), g), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_initial_weights():
    torch.manual_seed(0)
    G, D = dcgan.dcgan_svhn(width=32)
    for net in (G, D):
        for name, p in net.named_parameters():
            if name.endswith("bias"):
                assert not p.any()
            else:
                assert p.mean().item() == pytest.approx(float("norm" in name), abs=0.01), name
                assert p.std().item() == pytest.approx(0.02, rel=0.2), name


def test_the_first_batch_norm_is_of_each_unit():
    """Not of each map, as in the common port, whose first layer is convolutional."""
    G, D = dcgan.dcgan_svhn(width=4)
    assert G.project_norm.weight.shape == (4 * 4 * 4 * 4,)
    assert isinstance(D.norms[0], torch.nn.Identity)  # "not [...] the discriminator input layer"
    assert len(G.norms) == len(G.deconvs) - 1  # nor "the generator output layer"


def test_population_statistics():
    """Means of each batch's mean and variance, and from then on an image's features do not depend on the others."""
    torch.manual_seed(0)
    _, D = dcgan.dcgan_svhn(width=4)
    batches = torch.rand(3, 8, 3, 32, 32)
    alone = D.features(batches[0, :2])
    dcgan.population_statistics(D, batches)
    with torch.no_grad():
        inner = [D.convs[1](D.activations[0](D.convs[0](x))) for x in batches]
    torch.testing.assert_close(D.norms[1].running_mean, torch.stack([h.mean((0, 2, 3)) for h in inner]).mean(0))
    torch.testing.assert_close(
        D.norms[1].running_var, torch.stack([h.var((0, 2, 3), correction=0) for h in inner]).mean(0)
    )  # fmt: skip
    with torch.no_grad():
        torch.testing.assert_close(D.features(batches[0])[:2], D.features(batches[0, :2]))
    assert not torch.allclose(D.features(batches[0, :2]), alone)


def test_features_are_maxima_on_a_grid_of_4():
    _, D = dcgan.dcgan32(width=2)
    x = torch.rand(2, 3, 32, 32)
    first = F.leaky_relu(D.convs[0](x), 0.2)  # (2, 2, 32, 32)
    expected = torch.stack([first[:, :, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8].amax((2, 3)) for i in range(4) for j in range(4)], 2)
    torch.testing.assert_close(D.features(x)[:, : 2 * 16], expected.flatten(1))


def test_guided_backpropagation():
    """Of two layers by hand: gradients are handed back where unit and gradient are positive."""
    torch.manual_seed(1)
    D = dcgan.Discriminator((1, 2, 3), 3, (2, 2))
    D.norms[1] = torch.nn.Identity()
    for conv in D.convs:
        torch.nn.init.normal_(conv.weight)
    x = torch.randn(4, 1, 16, 16)
    strongest, gradient = dcgan.guided_backpropagation(D, x, 1)
    with torch.no_grad():
        a = D.convs[0](x)
        b = D.convs[1](F.leaky_relu(a, 0.2))
        top = F.leaky_relu(b, 0.2)[:, 1].flatten(1)
        torch.testing.assert_close(strongest, top.amax(1))
        g = torch.zeros_like(b)
        g[:, 1].view(4, -1).scatter_(1, top.argmax(1, keepdim=True), 1)
        g = g * (b > 0)
        g = F.conv_transpose2d(g, D.convs[1].weight, stride=2, padding=1, output_padding=1).clamp(min=0) * (a > 0)
        torch.testing.assert_close(gradient, F.conv_transpose2d(g, D.convs[0].weight, stride=2, padding=1, output_padding=1))
