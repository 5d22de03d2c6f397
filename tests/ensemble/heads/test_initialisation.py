import math

import pytest
import torch
from torch import nn

from pluriform.ensemble.heads.full import FullHead
from pluriform.ensemble.heads.initialisation import deviations_of, split
from pluriform.ensemble.target import layers_of
from pluriform.errors import ConfigError
from pluriform.graph.parameters import call


def test_rules():
    layers = layers_of(nn.Sequential(nn.Conv2d(4, 32, 3), nn.BatchNorm2d(32), nn.Embedding(5, 3)))
    inward, outward = deviations_of(layers), deviations_of(layers, "hyperfan-out")
    assert inward["0.weight"] ** 2 == pytest.approx(2 / 36)
    assert inward["0.bias"] ** 2 == pytest.approx(1 / 108)
    assert outward["0.weight"] ** 2 == pytest.approx(2 / 288)
    assert outward["0.bias"] ** 2 == pytest.approx(2 * (1 - 36 / 288))
    assert deviations_of(layers, gain=1)["0.weight"] ** 2 == pytest.approx(1 / 36)
    assert (inward["1.weight"], inward["1.bias"], inward["2.weight"]) == (0, 0, 1)
    narrow = layers_of(nn.Linear(9, 3))
    assert deviations_of(narrow, "hyperfan-out")["bias"] == 0


def test_given_values_tell_the_deviation():
    network = nn.Linear(30, 20)
    measured = deviations_of(layers_of(network), "given", given=dict(network.named_parameters()))
    assert measured["weight"] == pytest.approx(float(network.weight.detach().std(correction=0)))
    with pytest.raises(ConfigError, match="a value for every tensor; got none for bias"):
        deviations_of(layers_of(network), "given", given={"weight": network.weight})


def test_split_keeps_the_variance():
    shares = split(0.3, 0.25)
    assert shares.base**2 + shares.varying**2 == pytest.approx(0.09)
    assert shares.base**2 == pytest.approx(0.25 * 0.09)
    with pytest.raises(ConfigError, match="a shared fraction from 0 to 1; got 1.5"):
        split(0.3, 1.5)
    with pytest.raises(ConfigError, match="positive gain"):
        deviations_of(layers_of(nn.Linear(2, 2)), gain=0)


def generated(target, shared_fraction, draws, seed=0, mode="hyperfan-in"):
    torch.manual_seed(seed)
    layers = layers_of(target)
    shares = {name: split(value, shared_fraction) for name, value in deviations_of(layers, mode).items()}
    base = {e.name: torch.randn(e.shape) * shares[e.name].base for layer in layers for e in layer.entries}
    head = FullHead(layers, 32, 64, {name: share.varying for name, share in shares.items()})
    with torch.no_grad():
        return head(torch.randn(draws, len(layers), 32), base)


@pytest.mark.parametrize("shared_fraction", [0.0, 0.3, 0.8])
def test_correlation_between_draws_is_the_shared_fraction(shared_fraction):
    weights = generated(nn.Linear(100, 60), shared_fraction, 200)["weight"].flatten(1)
    correlation = torch.corrcoef(weights)
    pairs = correlation[~torch.eye(len(weights), dtype=torch.bool)]
    assert float(pairs.mean()) == pytest.approx(shared_fraction, abs=0.03)


def test_activations_of_ten_layers_keep_their_scale():
    torch.manual_seed(3)
    target = nn.Sequential(*(part for _ in range(10) for part in (nn.Linear(128, 128), nn.ReLU())))
    weights = generated(target, 0.3, 16)
    x = torch.randn(64, 128)
    before = x.square().mean()
    after = torch.stack(
        [call(target, {name: t[i] for name, t in weights.items()}, x).square().mean() for i in range(16)]
    )
    # ReLU halves the second moment that the factor 2 restores; biases add 1 / 384 a layer.
    assert 0.3 < float(after.mean() / (before / 2)) / (1 + 10 / 384) < 2
    assert math.isfinite(float(after.std()))
