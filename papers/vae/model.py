"""D. P. Kingma, M. Welling, "Auto-Encoding Variational Bayes", ICLR 2014 (arXiv:1312.6114). This file: MIT licence.

Here: the SGVB estimators A (Eq. 6) and B (Eqs. 7 and 10), the variational auto-encoder of Sec. 3 with the MLPs of Appendix C, its
baseline wake-sleep (Sec. 5), Hybrid Monte Carlo and the marginal likelihood estimator of Appendix D.
Not here: full variational Bayes (Appendix F); Monte Carlo EM (Appendix E) is `hmc`, a decoder and a loop in train.py.

B minibatch (the paper's M), L samples for each datapoint, D data dimensions, J latent variables, H hidden units. Log densities are
in nats, summed over the dimensions of x or z.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

LOG_2PI = math.log(2 * math.pi)


# Sec. 2.4: the reparameterization trick; densities.
def g(epsilon: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """Eq. 4 for a Gaussian (Sec. 2.4, Eq. 10): z = mu + sigma * epsilon, of N(mu, sigma^2), differentiable in both."""
    return mu + (0.5 * log_var).exp() * epsilon


def log_normal(x: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """log N(x; mu, sigma^2 I), summed over the last dimension."""
    return -0.5 * (LOG_2PI + log_var + (x - mu) ** 2 * (-log_var).exp()).sum(-1)


def log_prior(z: Tensor) -> Tensor:
    """log p(z) = log N(z; 0, I) (Sec. 3), summed over the last dimension."""
    return -0.5 * (LOG_2PI + z**2).sum(-1)


def kl_divergence(mu: Tensor, log_var: Tensor) -> Tensor:
    """D_KL(q(z|x) || p(z)) in closed form (Appendix B), summed over the last dimension."""
    return -0.5 * (1 + log_var - mu**2 - log_var.exp()).sum(-1)


# Appendix C: MLPs as probabilistic encoders and decoders.


class GaussianMLP(nn.Module):
    """Eq. 12. As the encoder q(z|x): x in place of the equation's z, and the reverse."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.W3 = nn.Linear(inputs, hidden)  # with its bias b3, and so on
        self.W4 = nn.Linear(hidden, outputs)
        self.W5 = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(..., inputs) -> mu, log sigma^2, each (..., outputs)."""
        h = torch.tanh(self.W3(x))  # (..., H)
        return self.W4(h).to(x.dtype), self.W5(h).to(x.dtype)  # not in bf16, should the layers be


class GaussianDecoder(GaussianMLP):
    """p(x|z) for real-valued data: Eq. 12 with means in (0, 1) by a sigmoid (Sec. 5)."""

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_var = super().forward(z)
        return torch.sigmoid(mu), log_var

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z): (..., D), (..., J) -> (...)."""
        return log_normal(x, *self(z))

    def mean(self, z: Tensor) -> Tensor:
        """E[x|z]: (..., J) -> (..., D)."""
        return self(z)[0]

    def sample(self, z: Tensor, u: Tensor) -> Tensor:
        """x ~ p(x|z) from uniform noise by the inverse CDF (Sec. 2.4, 1.): (..., J), (..., D) -> (..., D)."""
        return g(torch.special.ndtri(u.clamp(1e-7, 1 - 1e-7)), *self(z))


class BernoulliDecoder(nn.Module):
    """p(x|z) for binary data: Eq. 11."""

    def __init__(self, latent: int, hidden: int, data: int) -> None:
        super().__init__()
        self.W1 = nn.Linear(latent, hidden)
        self.W2 = nn.Linear(hidden, data)

    def forward(self, z: Tensor) -> Tensor:
        """The log-odds of y: (..., J) -> (..., D)."""
        return self.W2(torch.tanh(self.W1(z)))

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z) = sum_i x_i log y_i + (1 - x_i) log(1 - y_i): (..., D), (..., J) -> (...)."""
        a = self(z).to(x.dtype)  # log-odds: log y = a - log(1 + e^a), log(1 - y) = -log(1 + e^a)
        log_1_plus_exp = (a + a.abs()) / 2 + (1 + (-a.abs()).exp()).log()  # not softplus: log1p is twelve times slower on a CPU
        return (x * a - log_1_plus_exp).sum(-1)

    def mean(self, z: Tensor) -> Tensor:
        """y = E[x|z]: (..., J) -> (..., D)."""
        return torch.sigmoid(self(z))

    def sample(self, z: Tensor, u: Tensor) -> Tensor:
        """x ~ p(x|z) from uniform noise: (..., J), (..., D) -> (..., D)."""
        return (u < self.mean(z)).to(u.dtype)


class VAE(nn.Module):
    """Secs. 2.3 and 3: a recognition model q(z|x), a generative model p(z) p(x|z), and the bound that trains both."""

    def __init__(self, encoder: GaussianMLP, decoder: BernoulliDecoder | GaussianDecoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def estimator_a(self, x: Tensor, epsilon: Tensor) -> Tensor:
        """Eq. 6: (B, D), (B, L, J) -> (B,)."""
        mu, log_var = (t.unsqueeze(1) for t in self.encoder(x))  # (B, 1, J)
        z = g(epsilon, mu, log_var)  # (B, L, J)
        log_joint = self.decoder.log_likelihood(x.unsqueeze(1), z) + log_prior(z)  # (B, L)
        return (log_joint - log_normal(z, mu, log_var)).mean(1)

    def estimator_b(self, x: Tensor, epsilon: Tensor) -> Tensor:
        """Eq. 7, for Gaussian q(z|x) Eq. 10: (B, D), (B, L, J) -> (B,)."""
        mu, log_var = self.encoder(x)  # (B, J)
        z = g(epsilon, mu.unsqueeze(1), log_var.unsqueeze(1))  # (B, L, J)
        return self.decoder.log_likelihood(x.unsqueeze(1), z).mean(1) - kl_divergence(mu, log_var)

    forward = estimator_b  # what Algorithm 1 maximises: AEVB


class WakeSleep(VAE):
    """The same two networks, trained by wake-sleep (Sec. 5; Hinton et al. 1995): two objectives, and no gradient through z."""

    def forward(self, x: Tensor, epsilon: Tensor, z: Tensor, u: Tensor) -> Tensor:
        """Both objectives, added (their parameters are disjoint): (B,).

        x: (B, D).                                    epsilon: (B, L, J), standard normal, for z ~ q(z|x).
        z: (B, J), of the prior, u: (B, D), uniform, for the dream x ~ p(x|z).
        """
        with torch.no_grad():
            mu, log_var = (t.unsqueeze(1) for t in self.encoder(x))
            explanation = g(epsilon, mu, log_var)  # (B, L, J)
            dream = self.decoder.sample(z, u)  # (B, D)
        wake = self.decoder.log_likelihood(x.unsqueeze(1), explanation).mean(1)  # for the parameters of p(x|z)
        sleep = log_normal(z, *self.encoder(dream))  # for the parameters of q(z|x)
        return wake + sleep


# Sec. 5: the networks of the experiments.
def mnist(latent: int, hidden: int = 500, method: type[VAE] = VAE) -> VAE:
    """28 x 28 pixels, Bernoulli decoder."""
    return method(GaussianMLP(784, hidden, latent), BernoulliDecoder(latent, hidden, 784))


def frey_face(latent: int, hidden: int = 200, method: type[VAE] = VAE) -> VAE:
    """28 x 20 pixels, Gaussian decoder."""
    return method(GaussianMLP(560, hidden, latent), GaussianDecoder(latent, hidden, 560))


def normal_(model: nn.Module, std: float) -> None:
    """All parameters from N(0, std^2). The paper has N(0, 0.01), and writes N(mu, sigma^2): std 0.1."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)


def fan_in_(model: VAE) -> None:
    """Not the paper's: the initial weights of the authors' later code (github.com/dpkingma/nips14-ssl)."""
    for layer in (layer for layer in model.modules() if isinstance(layer, nn.Linear)):
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        nn.init.normal_(layer.bias, std=0.01)
    for network in (network for network in model.modules() if isinstance(network, GaussianMLP)):
        nn.init.zeros_(network.W5.weight)
    if isinstance(model.decoder, BernoulliDecoder):
        nn.init.zeros_(model.decoder.W2.bias)


# Appendix D: the marginal likelihood by Hybrid Monte Carlo. Appendix E uses `hmc` too.

Slope = Callable[[Tensor], tuple[Tensor, Tensor]]  # z (B, J) -> log p(x, z) (B,), and its gradient (B, J)


def log_joint(decoder: BernoulliDecoder | GaussianDecoder, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x, z) = log p(z) + log p(x|z), and its gradient with respect to z: (B, D), (B, J) -> (B,), (B, J)."""

    def total(z: Tensor) -> tuple[Tensor, Tensor]:
        log_p = log_prior(z) + decoder.log_likelihood(x, z)
        return log_p.sum(), log_p

    gradient, (_, log_p) = torch.func.grad_and_value(total, has_aux=True)(z)
    return log_p.detach(), gradient.detach()


def hmc(at: Slope, z: Tensor, step_size: Tensor, leapfrogs: int) -> tuple[Tensor, Tensor]:
    """One transition of Hybrid Monte Carlo (Duane et al. 1987) for each of B independent chains.

    Args:
        at: the log density, up to a constant that may differ from chain to chain, and its gradient.
        z: (B, J), where the chains are.    step_size: (B, 1) or ().    leapfrogs: steps of one trajectory.

    Returns: where they go (B, J), and the probabilities (B,) with which the proposals were accepted.
    """
    before, gradient = at(z)
    proposal, momentum = z, torch.randn_like(z)
    energy = 0.5 * (momentum**2).sum(-1) - before
    for _ in range(leapfrogs):
        momentum = momentum + 0.5 * step_size * gradient
        proposal = proposal + step_size * momentum
        after, gradient = at(proposal)
        momentum = momentum + 0.5 * step_size * gradient
    accept = (energy - 0.5 * (momentum**2).sum(-1) + after).exp().clamp(max=1).nan_to_num(0)  # (B,)
    taken = torch.rand_like(accept) < accept
    return torch.where(taken.unsqueeze(-1), proposal, z), accept


def tuned(step_size: Tensor, accept: Tensor) -> Tensor:
    """A step size nearer to one that is accepted nine times in ten (Appendix E)."""
    return step_size * (0.2 * (accept - 0.9)).exp()


def marginal_likelihood(at: Slope, z: Tensor, L: int = 50, leapfrogs: int = 4, burn_in: int = 50) -> Tensor:
    """log p(x) of B datapoints by the three stages of Appendix D, reliable for fewer than five latent variables.

    Args:
        at: `log_joint` of B datapoints.    z: (B, J), where their chains start.
        L, leapfrogs: the paper's.          burn_in: transitions before, which tune each chain's step size.

    Returns: (B,), in nats.
    """
    step_size = torch.full_like(z[:, :1], 0.1)
    for _ in range(burn_in):
        z, accept = hmc(at, z, step_size, leapfrogs)
        step_size = tuned(step_size, accept.unsqueeze(-1))

    def posterior(z: Tensor) -> Tensor:
        samples = []
        for _ in range(L):
            z, _ = hmc(at, z, step_size, leapfrogs)
            samples.append(z)
        return torch.stack(samples)  # (L, B, J)

    samples = posterior(z)  # 1.
    mean = samples.mean(0)  # 2. The density estimator q(z) is a Gaussian.
    centred = samples - mean
    covariance = torch.einsum("lbi,lbj->bij", centred, centred) / (L - 1) + 1e-6 * torch.eye(z.shape[-1], device=z.device)
    q = torch.distributions.MultivariateNormal(mean, covariance)
    again = posterior(samples[-1])  # 3.
    log_ratio = torch.stack([q.log_prob(z) - at(z)[0] for z in again])  # (L, B)
    return math.log(L) - log_ratio.logsumexp(0)
