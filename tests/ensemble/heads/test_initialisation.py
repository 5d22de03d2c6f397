from itertools import pairwise

import pytest
import torch
from torch import nn

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


def drawn(network, mode):
    deviations = deviations_of(layers_of(network), mode)
    return {name: torch.randn(tensor.shape) * deviations[name] for name, tensor in network.named_parameters()}


def test_hyperfan_in_keeps_activations_through_strides_and_groups():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(8, 64, 3, bias=False), nn.ReLU(), nn.Conv2d(64, 64, 3, groups=4, bias=False), nn.ReLU(),
        nn.ConvTranspose2d(64, 64, 4, stride=2, bias=False), nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 4, stride=2, groups=2, bias=False),
    )  # fmt: skip
    x = torch.randn(4, 8, 12, 12)
    outputs = torch.stack([call(network, drawn(network, "hyperfan-in"), x)[..., 6:-6, 6:-6] for _ in range(10)])
    # A last layer before its ReLU has twice the second moment of its inputs.
    assert float(outputs.square().mean()) / 2 == pytest.approx(1, rel=0.2)


def test_hyperfan_out_keeps_gradients():
    torch.manual_seed(0)
    widths = (40, 80, 160, 80, 120, 60)
    network = nn.Sequential(*(part for a, b in pairwise(widths) for part in (nn.Linear(a, b, bias=False), nn.ReLU())))
    ratios = []
    for _ in range(40):
        x = torch.randn(32, 40, requires_grad=True)
        outputs = call(network, drawn(network, "hyperfan-out"), x)
        arriving = torch.randn_like(outputs)
        (gradient,) = torch.autograd.grad(outputs, x, arriving)
        ratios.append(gradient.square().mean() / arriving.square().mean())
    assert float(torch.stack(ratios).mean()) == pytest.approx(1, rel=0.2)
