"""Demands of layers, seen through plans of whole networks."""

import torch
from torch import nn

from pluriform.infinite.linear import LayerVariances
from pluriform.infinite.rules import Variances, plan_of


def layouts(net, shape):
    plan = plan_of(net, torch.zeros(2, *shape), Variances(2.0, 0.0, {}, "ntk"))
    return plan.layouts()


def test_pairs_of_positions_are_kept_only_below_a_pool():
    conv = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4, 1)
    )
    found = layouts(conv, (1, 8, 8))
    assert [found[str(i)] for i in range(6)] == ["full", "full", "diagonal", "diagonal", "diagonal", "diagonal"]
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 1))
    assert set(layouts(plain, (1, 8, 8)).values()) == {"diagonal"}


def test_nodes_that_lead_nowhere_are_left_out():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            self.b(x)
            return self.a(x)

    assert "b" not in layouts(Unused(), (3,))


def test_rates_of_layers():
    ntk = LayerVariances.of(2, 0.1, fan_in=50, has_bias=True, parameterization="ntk")
    assert (ntk.weight_rate, ntk.bias_rate, ntk.bias) == (2.0, 0.1, 0.1)
    standard = LayerVariances.of(2, 0.1, fan_in=50, has_bias=True, parameterization="standard", train_bias=False)
    assert (standard.weight_rate, standard.bias_rate, standard.bias) == (50.0, 0.0, 0.1)
    bare = LayerVariances.of(2, 0.1, fan_in=50, has_bias=False, parameterization="standard", train_weight=False)
    assert (bare.weight_rate, bare.bias_rate, bare.bias) == (0.0, 0.0, 0.0)
