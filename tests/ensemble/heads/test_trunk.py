import pytest
import torch

from pluriform.ensemble.heads.trunk import Trunk, drawn_map, halves, spread


@pytest.fixture
def covariance():
    torch.manual_seed(0)
    factor = torch.randn(12, 12) * torch.linspace(0.1, 2, 12)
    return factor @ factor.T


def test_features_have_mean_zero_after_measuring():
    torch.manual_seed(0)
    trunk = Trunk(2, 10, 24)
    for generator in range(2):
        trunk.measure(generator)
    features = trunk(torch.randn(20_000, 2, 10)).detach()
    assert features.shape == (2, 20_000, 24)
    share = features.mean(1).square().sum(-1) / features.square().sum(-1).mean(-1)
    assert float(share.max()) < 4 / 4096 + 4 / 20_000
    assert float(trunk.mean.abs().max()) > 0.1


def test_one_generator_serves_all_layers_alike():
    torch.manual_seed(0)
    trunk, codes = Trunk(1, 6, 8), torch.randn(3, 4, 6)
    together = trunk(codes)
    assert together.shape == (4, 3, 8)
    assert torch.allclose(together[2], trunk(codes[:, 2:3])[0], atol=1e-6)


def test_spread_is_the_variance_of_outputs(covariance):
    torch.manual_seed(1)
    weights = torch.randn(12, 5)
    features = torch.distributions.MultivariateNormal(torch.zeros(12), covariance).sample((200_000,))
    variance = (features @ weights).var(0).mean()
    assert spread(covariance, weights) == pytest.approx(float(variance), rel=0.02)
    assert spread(covariance, drawn_map(covariance, 3)) == pytest.approx(1, rel=1e-4)
    assert torch.count_nonzero(drawn_map(covariance, 3, varies=False)) == 0


def test_halves_are_uncorrelated_and_span_everything(covariance):
    first, second = halves(covariance)
    assert float((first.T @ covariance @ second).abs().max()) < 1e-3
    assert torch.allclose(first @ first.T + second @ second.T, torch.eye(12), atol=1e-5)
