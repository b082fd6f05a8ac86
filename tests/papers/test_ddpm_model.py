"""DDPM: the paper's constants and counts, identities of the diffusion and of the bound, a U-Net written out by hand."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from papers.ddpm import model as ddpm
from papers.ddpm.model import Diffusion, UNet


@pytest.fixture
def double():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def images(n, side=4, channels=3):
    """Bytes as the paper has them: {0, ..., 255} scaled to [-1, 1], the ends among them."""
    x = torch.randint(256, (n, channels, side, side)).to(torch.get_default_dtype())
    x[0, :, 0, 0], x[0, :, 0, 1] = 0, 255
    return x / 127.5 - 1


# Sec. 4: the schedule.


def test_the_schedule_is_the_papers():
    d = Diffusion()
    alpha_bar = d.of_x0**2
    assert all(values.dtype == torch.float64 and len(values) == 1000 for values in d.buffers())
    assert alpha_bar[[249, 499, 749]].tolist() == pytest.approx([0.5241, 0.0786, 0.00335], rel=1e-3)
    assert alpha_bar[-1].item() == pytest.approx(4.036e-5, rel=1e-4)
    beta = d.log_sigma2.exp()
    assert beta[1:].tolist() == pytest.approx(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)[1:].tolist(), rel=1e-12)
    small = Diffusion(variance="small").log_sigma2.exp()
    assert small[0] == small[1] == beta[0] and small[1].item() == pytest.approx(5.453e-5, rel=1e-4)
    assert (small[2:] < beta[2:]).all() and (small / beta)[-1] == pytest.approx(1, abs=1e-3)
    assert (d.of_x0**2 + d.of_epsilon**2 - 1).abs().max().item() == pytest.approx(0, abs=1e-15)


def test_L_T_is_about_1e_5_bits(double):
    """Sec. 4: "L_T = D_KL(q(x_T | x_0) || N(0, I)) ~ 10^-5 bits per dimension"."""
    x0 = images(64, 8)
    assert 0.5e-5 < Diffusion().L_T(x0).mean() < 2e-5


# Sec. 2: q.


def test_q_sample_is_the_composed_chain(double):
    """x_t by Eq. 2, one step of noise after another: mean and variance are those of Eq. 4, for a scalar in closed form."""
    d, mean, variance = Diffusion(), 0.7, 0.0
    betas = torch.linspace(1e-4, 0.02, 1000)
    for t, beta in enumerate(betas.tolist()):
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        if t in (0, 1, 10, 499, 999):
            x0, at = torch.full((1, 1, 1, 1), 0.7), torch.tensor([t])
            assert d.q_sample(x0, at, torch.zeros_like(x0)).item() == pytest.approx(mean, rel=1e-10)
            one = d.q_sample(torch.zeros_like(x0), at, torch.ones_like(x0)).item()
            assert one**2 == pytest.approx(variance, rel=1e-9)


@pytest.mark.parametrize("t", [1, 2, 400, 999])
def test_the_posterior_is_bayes(double, t):
    """q(x_{t-1} | x_t, x_0) from q(x_{t-1} | x_0) and q(x_t | x_{t-1}), two Gaussians in x_{t-1}."""
    d, (x0, xt) = Diffusion(), torch.randn(2, 1, 1, 1, 1)
    beta = torch.linspace(1e-4, 0.02, 1000)[t]
    a, v = d.of_x0[t - 1], d.of_epsilon[t - 1] ** 2
    precision = 1 / v + (1 - beta) / beta
    mean = (a * x0 / v + (1 - beta).sqrt() * xt / beta) / precision
    ours, log_variance = d.q_posterior(x0, xt, torch.tensor([t]))
    torch.testing.assert_close(ours, mean, rtol=1e-8, atol=0)
    assert log_variance.exp().item() == pytest.approx(1 / precision.item(), rel=1e-8)


def test_epsilon_and_x0_say_the_same(double):
    """Eq. 11: with the epsilon that made x_t the mean is the posterior's, and x_0 is found again (Eq. 15)."""
    x0, t, epsilon = images(6), torch.tensor([0, 1, 10, 500, 900, 999]), torch.randn(6, 3, 4, 4)
    d = Diffusion()
    xt = d.q_sample(x0, t, epsilon)
    mean, _, found = d.p(epsilon, xt, t)
    torch.testing.assert_close(found, x0, rtol=0, atol=1e-9)
    torch.testing.assert_close(mean, d.q_posterior(x0, xt, t)[0], rtol=0, atol=1e-9)
    beta, alpha = torch.linspace(1e-4, 0.02, 1000)[t], 1 - torch.linspace(1e-4, 0.02, 1000)[t]
    column = lambda values: values[:, None, None, None]
    eq11 = (xt - column(beta / d.of_epsilon[t]) * epsilon) / column(alpha.sqrt())
    torch.testing.assert_close(eq11, mean, rtol=0, atol=1e-9)
    mu = Diffusion(predict="mu")
    torch.testing.assert_close(mu.p(mean, xt, t)[2], x0, rtol=0, atol=1e-6)
    assert torch.equal(mu.p(mean, xt, t)[0], mean)


def test_clipping_is_of_x0_before_the_mean(double):
    d, t, xt = Diffusion(), torch.tensor([700]), torch.full((1, 1, 1, 1), 3.0)
    far = torch.full_like(xt, -2.0)
    mean, _, x0 = d.p(far, xt, t)
    assert x0.item() == 1 and mean.item() == d.q_posterior(x0, xt, t)[0].item()
    unclipped = d.p(far, xt, t, clip=False)
    assert unclipped[2].item() > 1 and unclipped[0].item() > mean.item()


# Sec. 3.3: the decoder.


@pytest.mark.parametrize("cdf", ["tanh", "exact"])
def test_the_decoder_is_a_distribution(double, cdf):
    """Over the 256 values of a pixel it adds up to 1."""
    values = (torch.arange(256) / 127.5 - 1)[:, None, None, None]
    for mean, log_std in ((0.3, -1.0), (-0.99, -3.0), (1.2, -2.0), (0.0, -4.9)):
        p = ddpm.log_decoder(values, torch.tensor(mean), torch.tensor(log_std), cdf).exp()
        assert p.sum().item() == pytest.approx(1, abs=1e-9)


def test_the_decoder_by_hand(double):
    """One pixel in the middle, and both edges, against the error function; tanh is near to it, and not it."""
    normal = lambda z: 0.5 * (1 + math.erf(z / math.sqrt(2)))
    for x, mean, std in ((1 / 255, 0.002, 0.00738), (-1.0, -0.995, 0.01), (1.0, 0.99, 0.02)):
        high = 1 if x == 1 else normal((x + 1 / 255 - mean) / std)
        low = 0 if x == -1 else normal((x - 1 / 255 - mean) / std)
        found = {
            cdf: ddpm.log_decoder(*(torch.tensor([v]) for v in (x, mean, math.log(std))), cdf).item() for cdf in ("tanh", "exact")
        }
        assert found["exact"] == pytest.approx(math.log(high - low), abs=1e-9)
        assert 1e-7 < abs(found["tanh"] - found["exact"]) < 5e-3
    assert ddpm.log_decoder(*(torch.tensor([v]) for v in (-1.0, 1.0, -5.0))).item() == pytest.approx(math.log(1e-12))


def test_by_how_much_the_decoders_differ(double):
    """With sigma_1 of the paper, and x_1's mean off as a trained net's: less than 0.005 bits per dimension."""
    x0 = images(50, 32)
    d, t = Diffusion(), torch.zeros(50, dtype=torch.int64)
    epsilon = torch.randn_like(x0)
    output = epsilon + 0.5 * torch.randn_like(x0)
    terms = [d.L(output, x0, d.q_sample(x0, t, epsilon), t, cdf=cdf)[0].mean().item() for cdf in ("tanh", "exact")]
    assert 0 < abs(terms[0] - terms[1]) < 0.005


# Sec. 3: the bound.


@pytest.mark.parametrize("variance", ["large", "small", "learned"])
def test_a_term_of_the_bound_is_its_monte_carlo_estimate(double, variance):
    """log q(x_{t-1} | x_t, x_0) - log p(x_{t-1} | x_t) over draws of x_{t-1}."""
    torch.manual_seed(1)
    d, x0, t = Diffusion(variance=variance), images(2), torch.tensor([1, 300])
    xt = d.q_sample(x0, t, torch.randn_like(x0))
    output = torch.randn(2, 6 if variance == "learned" else 3, 4, 4)
    if variance == "learned":
        output[:, 3:] = d.at("log_beta_tilde", t, x0) + 0.3 * output[:, 3:]
    term, _ = d.L(output, x0, xt, t)
    (mean, log_var), (p_mean, p_log_var, _) = d.q_posterior(x0, xt, t), d.p(output, xt, t, clip=False)
    q = torch.distributions.Normal(mean, (0.5 * log_var).exp().expand_as(mean))
    p = torch.distributions.Normal(p_mean, (0.5 * p_log_var).exp().expand_as(mean))
    draws = q.sample((20_000,))
    logs = (q.log_prob(draws) - p.log_prob(draws)).flatten(2).mean(2) / math.log(2)
    error = logs.std(0) / math.sqrt(len(logs))
    assert ((logs.mean(0) - term).abs() < 4 * error + 1e-12).all() and (term > 1e-3).all()


def gaussian_epsilon(d, mean, variance):
    """The ideal epsilon for data N(mean, variance), independent components: E[epsilon | x_t]."""

    def net(x, t):
        a, s = d.at("of_x0", t, x), d.at("of_epsilon", t, x)
        return s * (x - a * mean) / (a**2 * variance + s**2)

    return net


def test_the_bound_of_a_gaussian_is_its_closed_form(double):
    """KL terms for data N(m, v) and the ideal epsilon: both means are affine in (x_0, x_t), so that E KL is in closed form."""
    d, m, v, n = Diffusion(), 0.1, 0.04, 200_000
    net = gaussian_epsilon(d, m, v)
    for t in (1, 50, 400, 900):
        x0 = m + math.sqrt(v) * torch.randn(n, 1, 1, 1)
        at = torch.full((n,), t)
        xt = d.q_sample(x0, at, torch.randn_like(x0))
        ours = d.L(net(xt, at), x0, xt, at)[0].mean().item()
        a, s2 = d.of_x0[t].item(), d.of_epsilon[t].item() ** 2
        error = v * s2 / (a**2 * v + s2)  # Var[x_0 | x_t]
        log_q, log_p = d.log_beta_tilde[t].item(), d.log_sigma2[t].item()
        squares = d.mean_of_x0[t].item() ** 2 * error * math.exp(-log_p)
        expected = 0.5 * (log_p - log_q - 1 + math.exp(log_q - log_p) + squares) / math.log(2)
        assert ours == pytest.approx(expected, rel=0.02), t


def test_L_simple_is_a_mean(double):
    d, x0, t, epsilon = Diffusion(), images(2), torch.tensor([3, 800]), torch.randn(2, 3, 4, 4)
    xt = d.q_sample(x0, t, epsilon)
    assert d.L_simple(torch.zeros_like(x0), x0, xt, t, epsilon).tolist() == pytest.approx(
        [epsilon[i].square().mean().item() for i in range(2)]
    )
    mu = Diffusion(predict="mu")
    mean = mu.q_posterior(x0, xt, t)[0]
    assert mu.L_simple(mean + 2, x0, xt, t, epsilon).tolist() == pytest.approx([4, 4])


@pytest.mark.parametrize("t", [1, 200, 999])
def test_L_is_L_simple_weighted(double, t):
    """Eq. 12: with a fixed variance L_{t-1} is L_simple by beta^2 / (2 sigma^2 alpha (1 - alpha-bar)), and what has no gradient."""
    d, x0, at = Diffusion(), images(3), torch.full((3,), t)
    epsilon, output = torch.randn(2, 3, 3, 4, 4)
    xt = d.q_sample(x0, at, epsilon)
    beta = torch.linspace(1e-4, 0.02, 1000)[t]
    weight = beta**2 / (2 * beta * (1 - beta) * d.of_epsilon[t] ** 2)
    difference = d.L(output, x0, xt, at)[0] - d.L(epsilon, x0, xt, at)[0]
    torch.testing.assert_close(difference, weight * d.L_simple(output, x0, xt, at, epsilon) / math.log(2), rtol=1e-6, atol=1e-9)


# Algorithm 2.


def test_samples_of_a_known_gaussian(double):
    """With the ideal epsilon of N(m, v): the chain ends with that mean and variance; and no noise in the last step."""
    torch.manual_seed(0)
    d, m, v, n = Diffusion(T=300, beta_T=0.06), 0.2, 0.05, 40_000
    net, x = gaussian_epsilon(d, m, v), torch.randn(n, 1, 1, 1)
    for t in reversed(range(d.T)):
        at = torch.full((n,), t)
        x, predicted = d.p_sample(net(x, at), x, at, torch.randn_like(x))
    torch.testing.assert_close(x, predicted, rtol=0, atol=1e-12)  # the last step adds nothing to x_0 as it is predicted
    assert x.mean().item() == pytest.approx(m, abs=0.01)
    assert x.var().item() == pytest.approx(v, rel=0.08)


# Appendix B: the network.


@pytest.mark.parametrize(("build", "count"), [(ddpm.unet_cifar10, 35_746_307), (ddpm.unet_256, 113_673_219)])
def test_parameters_are_the_papers(build, count):
    with torch.device("meta"):
        net = build()
    assert sum(p.numel() for p in net.parameters()) == count
    levels = {32: [0, 2, 0, 0], 256: [0, 0, 0, 0, 2, 0]}[32 if count < 5e7 else 256]
    has = [sum(isinstance(each, ddpm.Attention) for each in level.attn) for level in net.down]
    assert has == levels, "attention at 16 x 16 alone"
    assert [isinstance(each, ddpm.Attention) for each in net.mid.attn] == [True, False]
    skips = sum(len(level.block) for level in net.down) + len(net.down)
    assert skips == sum(len(level.block) for level in net.up)


def test_initial_weights():
    """Uniform with variance 2 / (fan in + fan out), 1e-10 of it where a branch ends, no biases; so epsilon is 0 at first."""
    torch.manual_seed(0)
    net = UNet(32, (1, 2), (8,), size=8, groups=8)
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            inside = math.prod(module.weight.shape[2:])
            fan = (module.weight.shape[0] + module.weight.shape[1]) * inside / 2
            small = name.endswith(("conv2", "proj_out", "conv_out"))
            bound = math.sqrt(3 * (1e-10 if small else 1) / fan)
            assert module.weight.abs().max() <= bound and not module.bias.any()
            assert module.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1), name
        elif isinstance(module, nn.GroupNorm):
            assert module.eps == 1e-6
    with torch.no_grad():
        assert net(torch.randn(2, 3, 8, 8), torch.tensor([0, 999])).abs().max() < 1e-3


def test_the_time_embedding_is_the_codes(double):
    e = ddpm.time_embedding(torch.tensor([0, 7, 999]), 128, torch.float64)
    for row, t in zip(e, (0, 7, 999), strict=True):
        for i in (0, 1, 40, 63):
            angle = t * math.exp(-math.log(10_000) * i / 63)
            assert row[i].item() == pytest.approx(math.sin(angle), abs=1e-12)
            assert row[64 + i].item() == pytest.approx(math.cos(angle), abs=1e-12)


def randomised(net):
    for p in net.parameters():
        nn.init.normal_(p, std=0.2)
    return net.eval()


def test_the_unet_by_hand(double):
    """Two resolutions, a block at each, attention at the lower: every layer written out, in the code's order."""
    net = randomised(UNet(4, (1, 2), (2,), size=4, groups=2, blocks=1))
    x, t = torch.randn(3, 3, 4, 4), torch.tensor([0, 20, 999])
    swish = lambda x: x / (1 + (-x).exp())
    w = dict(net.named_parameters())

    def norm(h, name):
        parts = h.reshape(len(h), 2, -1)
        parts = (parts - parts.mean(2, keepdim=True)) / (parts.var(2, keepdim=True, correction=0) + 1e-6).sqrt()
        return parts.reshape(h.shape) * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

    def conv(h, name, **how):
        return F.conv2d(h, w[f"{name}.weight"], w[f"{name}.bias"], **how)

    def block(h, name):
        x = h
        h = conv(swish(norm(h, f"{name}.norm1")), f"{name}.conv1", padding=1)
        h = h + (swish(temb) @ w[f"{name}.temb_proj.weight"].T + w[f"{name}.temb_proj.bias"])[:, :, None, None]
        h = conv(swish(norm(h, f"{name}.norm2")), f"{name}.conv2", padding=1)
        return h + (conv(x, f"{name}.nin_shortcut") if f"{name}.nin_shortcut.weight" in w else x)

    def attention(x, name):
        h = norm(x, f"{name}.norm")
        q, k, v = (torch.einsum("oc,nchw->nohw", w[f"{name}.{each}.weight"], h) for each in "qkv")
        q, k, v = (each + w[f"{name}.{n}.bias"][:, None, None] for n, each in zip("qkv", (q, k, v), strict=True))
        a = torch.einsum("nchw,ncij->nhwij", q, k) * q.shape[1] ** -0.5
        a = a.flatten(3).softmax(3).reshape(a.shape)
        h = torch.einsum("nhwij,ncij,oc->nohw", a, v, w[f"{name}.proj_out.weight"])
        return x + h + w[f"{name}.proj_out.bias"][:, None, None]

    temb = ddpm.time_embedding(t, 4, torch.float64)
    temb = swish(temb @ w["temb.0.weight"].T + w["temb.0.bias"]) @ w["temb.2.weight"].T + w["temb.2.bias"]
    skips = [conv(x, "conv_in", padding=1)]
    skips.append(block(skips[-1], "down.0.block.0"))
    skips.append(conv(F.pad(skips[-1], (0, 1, 0, 1)), "down.0.way", stride=2))
    skips.append(attention(block(skips[-1], "down.1.block.0"), "down.1.attn.0"))
    h = block(attention(block(skips[-1], "mid.block.0"), "mid.attn.0"), "mid.block.1")
    for i in range(2):
        h = attention(block(torch.cat([h, skips.pop()], 1), f"up.0.block.{i}"), f"up.0.attn.{i}")
    h = conv(h.repeat_interleave(2, 2).repeat_interleave(2, 3), "up.0.way", padding=1)
    for i in range(2):
        h = block(torch.cat([h, skips.pop()], 1), f"up.1.block.{i}")
    torch.testing.assert_close(net(x, t), conv(swish(norm(h, "norm_out")), "conv_out", padding=1))
    assert not skips
    assert sum(name.startswith(("down.0.attn", "mid.attn.1")) for name in w) == 0


def test_dropout_is_in_every_block_and_in_training_alone():
    net = randomised(UNet(8, (1, 2), (2,), size=4, groups=2, dropout=0.5))
    x, t = torch.randn(2, 3, 4, 4), torch.tensor([1, 2])
    assert torch.equal(net(x, t), net(x, t))
    assert not torch.equal(net.train()(x, t), net(x, t))
    blocks = [module for module in net.modules() if isinstance(module, ddpm.ResBlock)]
    assert len(blocks) == 4 + 2 + 6 and all(block.dropout.p == 0.5 for block in blocks)


def test_gradients_reach_every_weight(double):
    net = randomised(UNet(4, (1, 2), (2,), size=4, groups=2, blocks=1))
    x, t = torch.randn(2, 3, 4, 4), torch.tensor([3, 500])
    net(x, t).square().mean().backward()
    dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == [] or all(name.endswith(".k.bias") for name in dead), dead  # a shift of k is no change of softmax
