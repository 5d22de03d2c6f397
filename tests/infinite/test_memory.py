"""Kernels that would not fit are refused before they are computed."""

import pytest
import torch
from torch import nn

from pluriform.errors import MemoryBudgetError
from pluriform.infinite.kernel_function import kernel_of


def test_a_matrix_that_does_not_fit():
    function = kernel_of(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)), torch.zeros(2, 2))
    many = torch.zeros(3_000_000, 2)
    for dtype in (torch.float32, torch.float64):
        with pytest.raises(MemoryBudgetError, match=r"MiB for 3,000,000 x 3,000,000 pairs.*kernel_store"):
            function(many, dtype=dtype)


def test_positions_that_do_not_fit():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 1))
    function = kernel_of(net, torch.zeros(2, 1, 1500, 1500))
    with pytest.raises(MemoryBudgetError, match=r"for the positions of one tile of pairs.*pool or stride earlier"):
        function(torch.zeros(2, 1, 1500, 1500))
