import math

import numpy as np
import pytest
import torch
from torch import nn

from pluriform.errors import ConfigError, UnsupportedOpError
from pluriform.infinite import kernel_of
from pluriform.infinite.empirical import empirical_ntk, monte_carlo_kernel, monte_carlo_kernels
from pluriform.nets.convnet import ConvNet
from pluriform.nets.resnet import WideResNet


def error(got, exact):
    return float((got - exact).norm() / exact.norm())


def inputs(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dense(outputs=1):
    return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, outputs))


NETWORKS = {
    "dense": (dense, (5,), 32),
    "convnet": (lambda: ConvNet((2, 8, 8), 2, width=8), (2, 8, 8), 16),
    "residual": (lambda: WideResNet((2, 4, 4), 1, depth=10, widen=1, norm=False), (2, 4, 4), 4),
    "layer-norm": (
        lambda: nn.Sequential(
            nn.Linear(5, 16), nn.LayerNorm(16, elementwise_affine=False), nn.GELU(), nn.Linear(16, 1)
        ),
        (5,),
        32,
    ),
    "affine-norm": (
        lambda: nn.Sequential(nn.Linear(5, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 1)),
        (5,),
        32,
    ),
}


@pytest.mark.parametrize(
    ("name", "parameterization"),
    [
        *((name, "ntk") for name in NETWORKS),
        ("dense", "standard"),
        ("convnet", "standard"),
        ("affine-norm", "standard"),
    ],
)
def test_means_over_wide_networks_meet_the_closed_form(name, parameterization):
    make, shape, width = NETWORKS[name]
    net, x1, x2 = make().eval(), inputs(3, *shape), inputs(2, *shape, seed=1)
    function = kernel_of(net, x1, weight_var=1.7, bias_var=0.1, parameterization=parameterization)
    options = {"weight_var": 1.7, "bias_var": 0.1, "parameterization": parameterization}
    with torch.no_grad():
        exact, cross = function(x1), function(x1, x2)
    sampled = monte_carlo_kernel(net, x1, width=width, draws=16, **options)
    assert error(sampled.nngp, exact.nngp) < 0.09
    assert error(sampled.ntk, exact.ntk) < 0.09
    pair = monte_carlo_kernel(net, x1, x2, width=width, draws=8, **options)
    assert pair.ntk.shape == (3, 2)
    assert float((pair.ntk - cross.ntk).norm()) < 0.12 * float(exact.ntk.norm())
    assert float((pair.nngp - cross.nngp).norm()) < 0.12 * float(exact.nngp.norm())


def test_the_error_falls_with_the_root_of_width_times_draws():
    net, x = dense(), inputs(3, 5)
    with torch.no_grad():
        exact = kernel_of(net, x, bias_var=0.1)(x)
    settings = ((1, 4), (4, 12), (16, 32))
    errors = []
    for width, draws in settings:
        runs = [monte_carlo_kernel(net, x, width=width, draws=draws, seed=s, bias_var=0.1) for s in range(4)]
        errors.append(
            [
                math.sqrt(np.mean([error(run.nngp, exact.nngp) ** 2 for run in runs])),
                math.sqrt(np.mean([error(run.ntk, exact.ntk) ** 2 for run in runs])),
            ]
        )
    slopes = np.polyfit(np.log([w * s for w, s in settings]), np.log(errors), 1)[0]
    assert np.all(np.abs(slopes + 0.5) < 0.2), (slopes, errors)
    assert max(errors[-1]) < 0.04


def test_standard_errors_cover_the_distance_to_a_much_larger_sample():
    net, x = dense(), inputs(3, 5)
    truth = monte_carlo_kernel(net, x, draws=500, seed=1, bias_var=0.1)
    small = monte_carlo_kernel(net, x, draws=50, seed=2, bias_var=0.1)
    for got, wanted, spread in (
        (small.nngp, truth.nngp, small.nngp_error),
        (small.ntk, truth.ntk, small.ntk_error),
    ):
        z = (got - wanted) / spread
        assert 0.05 < float(z.abs().mean()) < 2.5


def test_running_means_are_prefixes_of_one_sample():
    net, x = dense(2), inputs(2, 5)
    running = list(monte_carlo_kernels(net, x, counts=(1, 3, 5), seed=4))
    assert [record.draws for record in running] == [1, 3, 5]
    assert torch.isinf(running[0].ntk_error).all()
    again = monte_carlo_kernel(net, x, draws=3, seed=4)
    assert torch.equal(running[1].ntk, again.ntk)
    assert not torch.equal(running[1].ntk, running[2].ntk)
    assert monte_carlo_kernel(net, x, draws=3, seed=4, ntk=False).ntk is None
    assert torch.allclose(monte_carlo_kernel(net, x, draws=3, seed=4, ntk=False).nngp, again.nngp)


def test_one_draw_is_the_kernel_of_that_network_by_brute_force():
    net, x, variance, bias = dense(2).double(), inputs(3, 5).double(), 1.3, 0.2
    sampled = monte_carlo_kernel(net, x, draws=1, seed=7, weight_var=variance, bias_var=bias)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for layer in (net[0], net[2], net[4]):
            layer.weight.normal_(0, math.sqrt(variance / layer.in_features), generator=generator)
            layer.bias.normal_(0, math.sqrt(bias), generator=generator)
    total = torch.zeros(3, 3, dtype=torch.float64)
    for layer in (net[0], net[2], net[4]):
        for parameter, scale in ((layer.weight, variance / layer.in_features), (layer.bias, bias)):
            net.requires_grad_(False)
            parameter.requires_grad_(True)
            total += scale * empirical_ntk(net, x, output="trace", algorithm="jacobian")
    torch.testing.assert_close(sampled.ntk, total)
    features = net[:4](x)
    torch.testing.assert_close(sampled.nngp, (variance / 16 * features @ features.T + bias).detach())


def test_frozen_layers_add_nothing_and_the_module_keeps_its_weights():
    net, x = dense(), inputs(3, 5)
    net[:4].requires_grad_(False)
    before = [p.clone() for p in net.parameters()]
    sampled = monte_carlo_kernel(net, x, width=2, draws=3, bias_var=0.1)
    torch.testing.assert_close(sampled.ntk, sampled.nngp)
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))
    assert [p.requires_grad for p in net.parameters()] == [False] * 4 + [True] * 2


def test_an_output_behind_a_nonlinearity_takes_the_product_of_outputs():
    net, x = nn.Sequential(nn.Linear(5, 400), nn.ReLU()), inputs(3, 5)
    with torch.no_grad():
        exact = kernel_of(net, x)(x)
    assert error(monte_carlo_kernel(net, x, draws=30, ntk=False).nngp, exact.nngp) < 0.05


def test_faults_are_said():
    net, x = dense(), inputs(2, 5)
    with pytest.raises(ConfigError, match="width of 1 or more; got 0.5"):
        monte_carlo_kernel(net, x, width=0.5)
    with pytest.raises(ConfigError, match="increasing numbers of draws"):
        monte_carlo_kernel(net, x, draws=0)
    with pytest.raises(ConfigError, match="'ntk' or 'standard'; got 'mean'"):
        monte_carlo_kernel(net, x, parameterization="mean")
    with pytest.raises(ConfigError, match="overrides of the layers 0, 2, 4; got '1'"):
        monte_carlo_kernel(net, x, overrides={"1": (1.0, 0.0)})
    tied = dense()
    tied[2].weight = nn.Parameter(torch.zeros(16, 16))
    twice = nn.Sequential(tied[0], tied[2], tied[2], tied[4])
    with pytest.raises(UnsupportedOpError, match="each used at one place; got 1.bias, 1.weight"):
        monte_carlo_kernel(twice, x)
