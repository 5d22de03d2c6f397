"""The error of float32 kernels is measured, not assumed."""

import torch
from torch import nn

from pluriform.infinite.kernel_function import kernel_of
from pluriform.infinite.precision import precision_of


def test_precision_of_a_good_kernel_and_of_inputs_that_nearly_coincide():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 1))
    x = torch.randn(30, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    function = kernel_of(net, x[:2])
    found = precision_of(function, x, pairs=50)
    assert found.pairs == 49
    assert 0 < found.nngp < 1e-6
    assert 0 < found.ntk < 1e-6
    assert found == precision_of(function, x, pairs=50)
    close = x[:1] + 1e-4 * x
    assert precision_of(function, x[:1], close).ntk > 10 * found.ntk
    assert precision_of(function, x, close, pairs=4).pairs == 4
