import math
from collections.abc import Callable

import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from pluriform.ensemble.mnf.layers import MNFLayer, supported

LAYERS = {
    "linear": (lambda: nn.Linear(4, 3), (4,)),
    "linear without bias": (lambda: nn.Linear(4, 3, bias=False), (4,)),
    "linear on sequences": (lambda: nn.Linear(4, 3), (5, 4)),
    "conv1d": (lambda: nn.Conv1d(2, 3, 3, stride=2), (2, 9)),
    "conv2d, grouped, reflecting": (lambda: nn.Conv2d(2, 4, 3, padding=1, groups=2, padding_mode="reflect"), (2, 4, 4)),
    "conv2d without bias": (lambda: nn.Conv2d(2, 3, 3, dilation=2, bias=False), (2, 6, 6)),
    "conv3d": (lambda: nn.Conv3d(1, 2, 2), (1, 3, 3, 3)),
}


def made(build: Callable[[], nn.Module], flows: int = 2, sigma: float = 0.2) -> MNFLayer:
    """A layer with a wide posterior away from its start, in double precision."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        mnf = MNFLayer(build(), flows).double()
        with torch.no_grad():
            for name, parameter in mnf.named_parameters():
                if not name.startswith("layer."):
                    parameter.add_(0.3 * torch.randn_like(parameter))
            for log_sigma in (mnf.log_sigma, mnf.log_sigma_bias):
                if log_sigma is not None:
                    log_sigma.copy_(math.log(sigma) + 0.3 * torch.randn_like(log_sigma))
    return mnf


def one_output(mnf: MNFLayer, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Output for one draw of the weights given z."""
    weight = z.view(-1, *[1] * (mnf.mu.dim() - 1)) if isinstance(mnf.layer, nn.modules.conv._ConvNd) else z
    weight = weight * mnf.mu + mnf.sigma * torch.randn_like(mnf.mu)
    bias = None if mnf.mu_bias is None else mnf.mu_bias + mnf.sigma_bias * torch.randn_like(mnf.mu_bias)
    values = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    return torch.func.functional_call(mnf.layer, values, (x[None],))[0]


@pytest.mark.parametrize("name", LAYERS)
def test_local_reparametrisation_has_the_moments_of_drawn_weights(name):
    layer, shape = LAYERS[name]
    mnf = made(layer)
    draws = 6000
    x = torch.randn(*shape, dtype=torch.float64)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        found = mnf.train()(x.expand(draws, *shape))
        z = mnf.latent(torch.randn(draws, len(mnf.z_mean), dtype=torch.float64)).z
        expected = torch.func.vmap(lambda z: one_output(mnf, x, z), randomness="different", chunk_size=500)(z)
    assert found.shape == expected.shape
    spread = expected.std(0)
    assert ((found.mean(0) - expected.mean(0)).abs() < 5.5 * spread * (2 / draws) ** 0.5).all()
    assert torch.allclose(found.std(0), spread, rtol=0.12)
    assert (spread > 0.05).any()


@pytest.mark.parametrize("name", LAYERS)
def test_evaluation_computes_with_the_mean(name):
    layer, shape = LAYERS[name]
    mnf = made(layer).eval()
    x = torch.randn(3, *shape, dtype=torch.float64)
    state = torch.get_rng_state()
    assert torch.allclose(mnf(x), mnf._call(x, mnf.weight, mnf.bias))
    assert torch.allclose(mnf.weight, mnf._scale(mnf.flow(mnf.z_mean).z) * mnf.mu)
    assert torch.equal(state, torch.get_rng_state())


def test_z_is_over_inputs_and_over_filters():
    dense, filters = made(lambda: nn.Linear(4, 3)).train(), made(lambda: nn.Conv2d(2, 5, 3)).train()
    z = torch.linspace(1, 2, 4, dtype=torch.float64)
    assert torch.allclose((dense._scale(z) * dense.mu), dense.mu * z[None, :])
    z = torch.linspace(1, 2, 5, dtype=torch.float64)
    assert torch.allclose(filters._scale(z) * filters.mu, filters.mu * z[:, None, None, None])


def test_every_sample_has_a_z_of_its_own():
    mnf = made(lambda: nn.Linear(4, 3), sigma=1e-6).train()
    outputs = mnf(torch.ones(50, 4, dtype=torch.float64))
    assert (outputs.std(0) > 0.05).all()


@pytest.mark.parametrize("layer", [lambda: nn.Linear(4, 3), lambda: nn.Conv2d(2, 3, 2)], ids=["linear", "conv"])
def test_without_noise_on_z_the_divergence_is_the_closed_gaussian_one(layer):
    mnf = made(layer, flows=0)
    with torch.no_grad():
        mnf.z_mean.fill_(1.0)
        mnf.z_log_variance.fill_(math.log(1e-30))
        mnf.auxiliary.mean.zero_()
        mnf.auxiliary.log_precision.zero_()
    standard = Normal(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))
    expected = kl_divergence(Normal(mnf.mu, mnf.sigma), standard).sum()
    expected = expected + kl_divergence(Normal(mnf.mu_bias, mnf.sigma_bias), standard).sum()
    size = len(mnf.z_mean)
    entropy = size * 0.5 * (math.log(2 * math.pi) + 1 + math.log(1e-30))
    reverse = standard.log_prob(mnf.z_mean).sum()
    assert torch.allclose(mnf.divergence(), expected - entropy - reverse, atol=1e-8)


def log_determinant(flow: nn.Module, z: torch.Tensor) -> torch.Tensor:
    """Logarithm of the determinant of a flow at every row, by differentiation."""
    return torch.func.vmap(torch.func.jacrev(lambda row: flow(row).z))(z).det().abs().log()


@torch.no_grad()
def by_quadrature(mnf: MNFLayer, points: int) -> float:
    """The bound by Gauss-Hermite quadrature: two dimensions of z0, one of the noise of c^T W."""
    nodes, shares = (torch.tensor(part) for part in hermegauss(points))
    grid, weight = torch.cartesian_prod(nodes, nodes), torch.cartesian_prod(shares, shares).prod(1)
    q0 = Normal(mnf.z_mean, (mnf.z_log_variance / 2).exp())
    standard = Normal(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))
    z0 = q0.mean + q0.stddev * grid
    z = mnf.flow(z0).z
    mean, sigma, reverse = z * mnf.mu[0], mnf.sigma[0], mnf.auxiliary
    values = kl_divergence(Normal(mean, sigma), standard).sum(1)
    values = values + q0.log_prob(z0).sum(1) - log_determinant(mnf.flow, z0)
    a = (mean @ reverse.direction)[:, None] + (reverse.direction.square() @ sigma.square()).sqrt() * nodes
    a = a.tanh()[:, :, None]
    density = Normal(reverse.mean * a, (-reverse.log_precision * a / 2).exp()).log_prob(reverse.flow(z).z[:, None])
    values = values - log_determinant(reverse.flow, z) - density.sum(-1) @ shares / shares.sum()
    return float(weight @ values / weight.sum())


def test_divergence_is_unbiased_against_quadrature():
    mnf = made(lambda: nn.Linear(2, 1, bias=False), sigma=0.4)
    with torch.no_grad():
        mnf.z_log_variance.fill_(math.log(0.3))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        found = torch.stack([mnf.divergence() for _ in range(3000)])
    expected = by_quadrature(mnf, 40)
    assert abs(expected - by_quadrature(mnf, 30)) < 1e-3
    error = float(found.std()) / len(found) ** 0.5
    assert error < 0.05
    assert abs(float(found.mean()) - expected) < 4 * error


def test_the_feature_of_the_reverse_distribution_is_that_of_drawn_weights():
    mnf = made(lambda: nn.Conv1d(2, 4, 3))
    mean, variance = mnf._matrix(mnf.mu), mnf._matrix(mnf.sigma.square())
    assert mean.shape == (4, 6)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        found = torch.stack([mnf.auxiliary.features(mean, variance, torch.randn_like(mean[0])) for _ in range(8000)])
        drawn = mean + variance.sqrt() * torch.randn(8000, *mean.shape, dtype=torch.float64)
        expected = (mnf.auxiliary.direction @ drawn).mean(1)
    assert abs(found.mean() - expected.mean()) < 5 * expected.std() * (2 / 8000) ** 0.5
    assert torch.allclose(found.std(), expected.std(), rtol=0.05)


def test_sigma_has_a_cap():
    mnf = MNFLayer(nn.Linear(2, 2))
    nn.init.constant_(mnf.log_sigma, 3.0)
    assert (mnf.sigma == 0.5).all()
    assert torch.allclose(MNFLayer(nn.Linear(2, 2)).sigma, torch.tensor(-9.0).exp())


def test_before_training_the_layer_computes_what_the_given_one_does():
    layer = nn.Linear(20, 5)
    x = torch.randn(7, 20)
    assert torch.allclose(MNFLayer(layer).eval()(x), layer(x), atol=0.1)


class Scaled(nn.Linear):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return F.linear(inputs, 2 * self.weight, self.bias)


def test_what_is_supported():
    frozen = nn.Linear(2, 2).requires_grad_(False)
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    attention = nn.MultiheadAttention(4, 2)
    assert supported(nn.Linear(2, 2))
    assert supported(nn.Conv2d(1, 1, 1))
    assert supported(attention.out_proj)
    others = [
        frozen,
        normed,
        Scaled(2, 2),
        nn.ConvTranspose2d(1, 1, 1),
        nn.BatchNorm1d(2),
        nn.Embedding(3, 2),
        attention,
    ]
    assert not any(supported(layer) for layer in others)
