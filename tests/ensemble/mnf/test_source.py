import pytest
import torch
from torch import nn

from pluriform.ensemble.mnf.layers import MNFLayer
from pluriform.ensemble.mnf.source import MNFSource, replace_layers
from pluriform.errors import ConfigError
from pluriform.graph.parameters import weights_of


class Tied(nn.Module):
    """An output layer that shares the weight of the embedding; one hidden layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.hidden = nn.Linear(4, 4)
        self.again = self.hidden
        self.output = nn.Linear(4, 6)
        self.output.weight = self.embedding.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.again(self.hidden(self.embedding(x).mean(1)).tanh()))


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3, bias=False))


def test_names_and_shapes_are_those_of_the_network():
    own = weights_of(network())
    drawn = MNFSource(replace_layers(network(), 2)).draw([1, 2])
    assert set(drawn) == {"0.weight", "0.bias", "4.weight"}
    assert all(tensor.shape == (2, *own[name].shape) for name, tensor in drawn.items())
    assert not any(tensor.requires_grad for tensor in drawn.values())


def test_a_draw_depends_on_its_seed_alone():
    source = MNFSource(replace_layers(network(), 2))
    state = torch.get_rng_state()
    whole, part = source.draw([5, 6, 7]), source.draw([7])
    assert torch.equal(state, torch.get_rng_state())
    for name, tensor in whole.items():
        assert torch.equal(tensor[2], part[name][0])
        assert not torch.allclose(tensor[0], tensor[1])


def test_draws_follow_the_posterior():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = MNFLayer(nn.Linear(3, 2), flows=0)
    with torch.no_grad():
        layer.z_mean.copy_(torch.tensor([1.0, -2.0, 0.5]))
        layer.log_sigma.fill_(-1.0)
        layer.log_sigma_bias.fill_(-2.0)
    drawn = MNFSource({"": layer}).draw(range(4000))
    mu, variance = layer.mu.detach(), layer.z_log_variance.exp().detach()
    spread = (torch.exp(torch.tensor(-2.0)) + mu.square() * variance).sqrt()
    assert torch.allclose(drawn["weight"].std(0), spread, rtol=0.06)
    assert ((drawn["weight"].mean(0) - layer.z_mean * mu).abs() < 5 * spread / 4000**0.5).all()
    assert torch.allclose(drawn["bias"].std(0), torch.full((2,), -2.0).exp(), rtol=0.06)
    found = drawn["weight"][:, :, 0].T.cov()[0, 1]  # One z a draw: the weights of an input vary together.
    assert torch.allclose(found, mu[0, 0] * mu[1, 0] * variance[0], atol=0.02)


def test_tied_weights_stay_points_and_a_layer_used_twice_is_replaced_twice():
    made = Tied()
    layers = replace_layers(made, 1)
    assert list(layers) == ["hidden"]
    assert made.hidden is layers["hidden"]
    assert made.again is layers["hidden"]
    assert made.output.weight is made.embedding.weight
    assert made(torch.zeros(2, 3, dtype=torch.long)).shape == (2, 6)


def test_attention_reads_the_weight_of_its_output_layer():
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    layers = replace_layers(block, 2)
    assert set(layers) == {"self_attn.out_proj", "linear1", "linear2"}
    x = torch.randn(3, 5, 8)
    outputs = [block.train()(x) for _ in range(2)]
    assert not torch.allclose(*outputs)
    outputs[0].sum().backward()
    assert layers["self_attn.out_proj"].z_mean.grad.abs().sum() > 0
    assert torch.allclose(block.eval()(x), block.eval()(x))


def test_a_network_without_such_layers_is_refused():
    with pytest.raises(ConfigError, match=r"trainable Linear or Conv layer.*Embedding.*HyperGAN or APD"):
        replace_layers(nn.Sequential(nn.Embedding(3, 2)), 2)
