import pytest
import torch

from pluriform.errors import ConfigError
from pluriform.translate.encoder import Posterior, StyleEncoder


def test_sizes_of_the_published_encoder():
    with torch.device("meta"):
        net = StyleEncoder(3)
        found = net(torch.empty(2, 3, 300, 200))
    assert [conv.out_channels for conv in net.convs] == [64, 128, 256, 512, 512, 512]
    assert net.mean.in_features == 512 * 4 * 4
    assert found.mean.shape == found.log_variance.shape == (2, 256)


@pytest.mark.parametrize(("size", "side"), [((32, 32), 32), ((96, 160), 64), ((512, 300), 256), ((5, 5), 8)])
def test_side_by_size(size, side):
    assert StyleEncoder.side_for(*size) == side
    assert StyleEncoder(1, side=side, latent=4, width=2)(torch.randn(2, 1, *size)).mean.shape == (2, 4)


def test_draws_have_the_moments_of_the_posterior():
    mean, log_variance = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, -1.0]])
    posterior = Posterior(mean.expand(40000, 2), log_variance.expand(40000, 2))
    drawn = posterior.draw(torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.mean(0), mean[0], rtol=0, atol=0.03)
    torch.testing.assert_close(drawn.var(0), log_variance[0].exp(), rtol=0.03, atol=0)
    assert torch.equal(drawn, posterior.draw(torch.Generator().manual_seed(0)))


def test_other_sides_are_refused():
    with pytest.raises(ConfigError, match="8, 16, 32, ... pixels; got 48"):
        StyleEncoder(3, side=48)
