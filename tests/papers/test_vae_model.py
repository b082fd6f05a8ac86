"""The variational auto-encoder against closed forms, Monte Carlo and quadrature."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, MultivariateNormal, Normal
from torch.distributions import kl_divergence as kl_of_torch

from papers.vae import model as vae
from papers.vae.model import VAE, BernoulliDecoder, GaussianDecoder, GaussianMLP, WakeSleep

pytestmark = pytest.mark.usefixtures("double")


def random_vae(data=3, latent=1, hidden=4, decoder=BernoulliDecoder, method=VAE, scale=0.7):
    torch.manual_seed(1)
    model = method(GaussianMLP(data, hidden, latent), decoder(latent, hidden, data))
    vae.normal_(model, scale)
    return model


def log_p_by_quadrature(model, x):
    """log p(x) and the grid (z, log of the weight of each cell) of a model with one latent variable: x (D,)."""
    z = torch.linspace(-9, 9, 20_001).unsqueeze(-1)
    log_joint = vae.log_prior(z) + model.decoder.log_likelihood(x, z) + math.log(18 / 20_000)
    return log_joint.logsumexp(0), z, log_joint


@pytest.mark.parametrize(
    ("network", "latent", "count"),
    [
        *((vae.mnist, *each) for each in ((3, 790_290), (5, 793_294), (10, 800_804), (20, 815_824), (200, 1_086_184))),
        *((vae.frey_face, *each) for each in ((2, 338_724), (5, 340_530), (10, 343_540), (20, 349_560))),
    ],
)
def test_parameter_counts(network, latent, count):
    assert sum(p.numel() for p in network(latent).parameters()) == count


# Densities.


def test_kl_divergence_is_that_of_two_gaussians():
    mu, log_var = torch.randn(5, 4), torch.randn(5, 4)
    exact = kl_of_torch(Normal(mu, (0.5 * log_var).exp()), Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(vae.kl_divergence(mu, log_var), exact)
    assert vae.kl_divergence(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0


def test_kl_divergence_against_monte_carlo():
    torch.manual_seed(0)
    mu, log_var = torch.randn(2, 3), torch.randn(2, 3)
    z = vae.g(torch.randn(400_000, 2, 3), mu, log_var)
    draws = vae.log_normal(z, mu, log_var) - vae.log_prior(z)
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - vae.kl_divergence(mu, log_var)).abs() < 4 * error).all() and (error < 0.01).all()


def test_log_densities_are_those_of_torch():
    x, mu, log_var = torch.randn(3, 5, 4)
    torch.testing.assert_close(vae.log_normal(x, mu, log_var), Normal(mu, (0.5 * log_var).exp()).log_prob(x).sum(-1))
    torch.testing.assert_close(vae.log_prior(x), Normal(0.0, 1.0).log_prob(x).sum(-1))


def test_bernoulli_decoder_is_equation_11():
    torch.manual_seed(0)
    decoder, z, x = BernoulliDecoder(2, 5, 7), torch.randn(6, 2), torch.rand(6, 7)
    y = torch.sigmoid(torch.tanh(z @ decoder.W1.weight.T + decoder.W1.bias) @ decoder.W2.weight.T + decoder.W2.bias)
    torch.testing.assert_close(decoder.mean(z), y)
    torch.testing.assert_close(decoder.log_likelihood(x, z), (x * y.log() + (1 - x) * (1 - y).log()).sum(-1))
    u = torch.rand(6, 7)
    assert torch.equal(decoder.sample(z, u), (u < y).double())


def test_bernoulli_likelihood_for_every_size_of_log_odds():
    """Against logaddexp, from sure to undecided, values and gradients; at 0 the gradient is x - 1/2."""
    decoder = BernoulliDecoder(1, 1, 1)
    for parameter in decoder.parameters():
        nn.init.zeros_(parameter)
    for a in (-800.0, -40.0, -1.0, 0.0, 1e-9, 3.0, 40.0, 800.0):
        decoder.W2.bias.data.fill_(a)
        for x in (0.0, 0.3, 1.0):
            decoder.zero_grad()
            value = decoder.log_likelihood(torch.tensor([x]), torch.zeros(1))
            value.backward()
            exact = x * a - torch.logaddexp(torch.tensor(a), torch.tensor(0.0))
            torch.testing.assert_close(value.detach(), exact)
            torch.testing.assert_close(decoder.W2.bias.grad, x - torch.sigmoid(torch.tensor([a])))


def test_gaussian_decoder_is_equation_12_with_means_in_0_1():
    torch.manual_seed(0)
    decoder, z, x = GaussianDecoder(2, 5, 7), torch.randn(6, 2), torch.rand(6, 7)
    h = torch.tanh(z @ decoder.W3.weight.T + decoder.W3.bias)
    mean = torch.sigmoid(h @ decoder.W4.weight.T + decoder.W4.bias)
    sd = (0.5 * (h @ decoder.W5.weight.T + decoder.W5.bias)).exp()
    torch.testing.assert_close(decoder.mean(z), mean)
    torch.testing.assert_close(decoder.log_likelihood(x, z), Normal(mean, sd).log_prob(x).sum(-1))
    u = torch.rand(6, 7)
    torch.testing.assert_close(decoder.sample(z, u), Normal(mean, sd).icdf(u))
    assert torch.isfinite(decoder.sample(z, torch.tensor([0.0, 1.0, 0.5, 0, 1, 0, 1]).expand(6, 7))).all(), "0 is drawn at times"


def test_encoder_gives_the_log_of_the_variance():
    """Not of the standard deviation: q's samples have the variance that the encoder says."""
    torch.manual_seed(0)
    encoder = GaussianMLP(3, 4, 2)
    mu, log_var = encoder(torch.randn(3))
    z = vae.g(torch.randn(200_000, 2), mu, log_var)
    torch.testing.assert_close(z.var(0).log(), log_var, atol=0.02, rtol=0)
    torch.testing.assert_close(z.mean(0), mu, atol=0.02, rtol=0)


# The bound.


def test_the_bound_is_in_nats_for_an_image_summed_over_its_pixels():
    """A model that knows nothing needs 784 bits, log 2 nats each."""
    model = vae.mnist(20)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    x, epsilon = torch.rand(4, 784), torch.randn(4, 3, 20)
    for estimate in (model.estimator_a(x, epsilon), model.estimator_b(x, epsilon), model(x, epsilon)):
        torch.testing.assert_close(estimate, torch.full((4,), -784 * math.log(2)))


@pytest.mark.parametrize("decoder", [BernoulliDecoder, GaussianDecoder])
def test_bound_and_divergence_add_up_to_the_marginal_likelihood(decoder):
    """Eq. 1, by quadrature: log p(x) = D_KL(q(z|x) || p(z|x)) + L."""
    model, x = random_vae(decoder=decoder), torch.tensor([0.2, 0.9, 0.5])
    log_p, z, log_joint = log_p_by_quadrature(model, x)
    mu, log_var = model.encoder(x)
    log_q = vae.log_normal(z, mu, log_var)
    q = log_q.exp() * 18 / 20_000
    divergence = (q * (log_q - (log_joint - math.log(18 / 20_000) - log_p))).sum()
    bound = (q * model.decoder.log_likelihood(x, z)).sum() - vae.kl_divergence(mu, log_var)
    torch.testing.assert_close(bound + divergence, log_p)
    assert divergence > 0.01

    torch.manual_seed(0)
    draws = model.estimator_b(x.expand(1000, -1), torch.randn(1000, 200, 1))  # the estimator's expectation is that bound
    assert abs(draws.mean() - bound) < 4 * draws.std() / 1000**0.5 < 0.05


def test_estimators_a_and_b_agree_in_expectation():
    """Eqs. 6 and 7 estimate one bound; B, with the divergence in closed form, typically with less variance (Sec. 2.3)."""
    torch.manual_seed(0)
    model = random_vae(data=6, latent=2, hidden=5, scale=1.0)
    x, epsilon = torch.rand(4, 6), torch.randn(4, 100_000, 2)
    each = x[:, None].expand(-1, 100_000, -1).flatten(0, 1), epsilon.reshape(-1, 1, 2)  # L = 1, many times
    a, b = model.estimator_a(*each).view(4, 100_000), model.estimator_b(*each).view(4, 100_000)
    error = (a - b).std(1) / 100_000**0.5
    assert ((a - b).mean(1).abs() < 4 * error).all() and (error < 0.02).all()
    assert (b.var(1) < a.var(1)).float().mean() >= 0.5
    for estimator, draws in ((model.estimator_a, a), (model.estimator_b, b)):  # L samples: their mean
        torch.testing.assert_close(estimator(x, epsilon), draws.mean(1))


def test_gradient_of_the_bound_against_the_score_function_estimator():
    """Sec. 2.2: the usual estimator f(z) grad log q(z) has the same expectation, and more variance."""
    torch.manual_seed(0)
    n, x = 200_000, torch.tensor([0.2, 0.9, 0.5])
    model = random_vae()
    phi = list(model.encoder.parameters())

    def flat(gradients):
        return torch.cat([g.flatten() for g in gradients])

    # Reparameterised: f differentiated along each noise, in blocks, for an error bar.
    blocks = []
    for epsilon in torch.randn(100, n // 100, 1):
        bound = model.estimator_b(x.unsqueeze(0), epsilon.unsqueeze(0)).sum()
        blocks.append(flat(torch.autograd.grad(bound, phi)))
    ours = torch.stack(blocks)

    # Score function: the bound's integrand as a constant, times the gradient of log q.
    blocks = []
    for epsilon in torch.randn(100, n // 100, 1):
        mu, log_var = model.encoder(x)
        z = vae.g(epsilon, mu, log_var).detach()
        log_q = vae.log_normal(z, mu, log_var)
        f = (model.decoder.log_likelihood(x, z) + vae.log_prior(z) - log_q).detach()
        blocks.append(flat(torch.autograd.grad((f * log_q).mean(), phi)))
    score = torch.stack(blocks)

    error = (ours.var(0) / 100 + score.var(0) / 100).sqrt()
    assert ((ours.mean(0) - score.mean(0)).abs() < 4.5 * error).all()
    assert ours.mean(0).abs().max() > 20 * error.max(), "the gradient is not lost in the noise"
    assert ours.var(0).sum() < score.var(0).sum()


def test_wake_sleep_trains_the_decoder_awake_and_the_encoder_asleep():
    torch.manual_seed(0)
    model = random_vae(data=5, latent=2, method=WakeSleep)
    x, epsilon, z, u = torch.rand(3, 5), torch.randn(3, 1, 2), torch.randn(3, 2), torch.rand(3, 5)
    objective = model(x, epsilon, z, u)
    theta, phi = list(model.decoder.parameters()), list(model.encoder.parameters())
    ours = torch.autograd.grad(objective.sum(), theta + phi)

    with torch.no_grad():
        mu, log_var = model.encoder(x)
        explanation = mu + (0.5 * log_var).exp() * epsilon[:, 0]
        y = torch.sigmoid(model.decoder(z))
    wake = Bernoulli(logits=model.decoder(explanation), validate_args=False).log_prob(x).sum()
    mu, log_var = model.encoder((u < y).double())
    sleep = Normal(mu, (0.5 * log_var).exp()).log_prob(z).sum()
    torch.testing.assert_close(objective.sum(), wake + sleep)
    expected = [*torch.autograd.grad(wake, theta), *torch.autograd.grad(sleep, phi)]
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b)


# Initial weights.


def test_initial_weights():
    model = vae.mnist(20)
    vae.normal_(model, 0.1)
    for parameter in model.parameters():
        assert parameter.numel() < 100 or abs(parameter.std() - 0.1) < 0.03, "biases too"
    vae.fan_in_(model)
    assert abs(model.encoder.W3.weight.std() - 784**-0.5) < 1e-3 and abs(model.decoder.W2.weight.std() - 500**-0.5) < 1e-3
    assert not model.encoder.W5.weight.any() and not model.decoder.W2.bias.any()
    assert abs(model.encoder.W3.bias.std() - 0.01) < 2e-3
    faces = vae.frey_face(2)
    vae.fan_in_(faces)
    assert not faces.decoder.W5.weight.any() and faces.decoder.W4.weight.any()


# Hybrid Monte Carlo and the marginal likelihood.


def gaussian(mean, covariance):
    distribution = MultivariateNormal(mean, covariance)

    def at(z):
        z = z.detach().requires_grad_()
        log_p = distribution.log_prob(z)
        return log_p.detach(), torch.autograd.grad(log_p.sum(), z)[0]

    return at


def test_hmc_samples_its_density():
    torch.manual_seed(0)
    mean, covariance = torch.tensor([1.0, -2.0]), torch.tensor([[1.0, 0.6], [0.6, 0.5]])
    at, z, step_size = gaussian(mean, covariance), torch.zeros(4000, 2), torch.tensor(0.3)
    for _ in range(60):
        z, accept = vae.hmc(at, z, step_size, 5)
    assert 0.7 < accept.mean() < 0.9999, "an acceptance of 1 would not need the correction that is tested here"
    torch.testing.assert_close(z.mean(0), mean, atol=0.06, rtol=0)
    torch.testing.assert_close(z.T.cov(), covariance, atol=0.07, rtol=0)


def test_hmc_keeps_the_density_at_a_step_size_that_is_often_refused():
    """Start in the stationary distribution: large steps must not move it. Without the acceptance test the variance would grow."""
    torch.manual_seed(0)
    z, at = torch.randn(20_000, 1), gaussian(torch.zeros(1), torch.eye(1))
    for _ in range(20):
        z, accept = vae.hmc(at, z, torch.tensor(1.8), 1)
    assert accept.mean() < 0.7
    assert abs(z.var() - 1) < 0.04 and abs(z.mean()) < 0.03
    before = torch.full((5, 1), 3.0)
    lost, accept = vae.hmc(lambda z: (torch.full((5,), math.nan), z), before, torch.tensor(0.1), 2)
    assert torch.equal(lost, before) and not accept.any(), "a trajectory that leaves the numbers is refused"


def test_tuning_leads_to_nine_acceptances_in_ten():
    torch.manual_seed(0)
    at, z = gaussian(torch.zeros(2), torch.diag(torch.tensor([1.0, 0.01]))), torch.zeros(500, 2)
    step_size, accepted = torch.tensor(1.0), []
    for _ in range(300):
        z, accept = vae.hmc(at, z, step_size, 10)
        step_size = vae.tuned(step_size, accept.mean())
        accepted.append(accept.mean())
    assert abs(sum(accepted[100:]) / 200 - 0.9) < 0.02


class LinearGaussian:
    """p(x|z) = N(W z + b, s^2 I), whose marginal likelihood is known."""

    def __init__(self, latent, data):
        self.W, self.b, self.s = torch.randn(data, latent), torch.randn(data), 0.5

    def log_likelihood(self, x, z):
        return vae.log_normal(x, z @ self.W.T + self.b, torch.tensor(2 * math.log(self.s)))

    def log_marginal(self, x):
        return MultivariateNormal(self.b, self.W @ self.W.T + self.s**2 * torch.eye(len(self.b))).log_prob(x)


@pytest.mark.parametrize("latent", [1, 3])
def test_marginal_likelihood_of_a_linear_gaussian_model(latent):
    torch.manual_seed(0)
    decoder = LinearGaussian(latent, 6)
    x = torch.randn(300, latent) @ decoder.W.T + decoder.b + decoder.s * torch.randn(300, 6)
    estimate = vae.marginal_likelihood(lambda z: vae.log_joint(decoder, x, z), torch.randn(300, latent))
    error = estimate - decoder.log_marginal(x)
    assert abs(error.mean()) < 0.05 and error.std() < 0.5, (error.mean(), error.std())


def test_marginal_likelihood_of_a_small_decoder_against_quadrature():
    torch.manual_seed(0)
    model, x = random_vae(data=4, scale=1.5), torch.rand(50, 4).round()
    exact = torch.stack([log_p_by_quadrature(model, image)[0] for image in x])
    estimate = vae.marginal_likelihood(lambda z: vae.log_joint(model.decoder, x, z), torch.randn(50, 1))
    assert abs((estimate - exact).mean()) < 0.05 and (estimate - exact).std() < 0.3


def test_joint_density_and_its_gradient():
    torch.manual_seed(0)
    model, x, z = random_vae(data=4, latent=2), torch.rand(3, 4), torch.randn(3, 2, requires_grad=True)
    log_p = vae.log_prior(z) + model.decoder.log_likelihood(x, z)
    value, gradient = vae.log_joint(model.decoder, x, z)
    torch.testing.assert_close(value, log_p.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(log_p.sum(), z)[0])
    assert not value.requires_grad and not gradient.requires_grad
