"""A small network that gradients pass through, and samples that it gets right."""

import pytest
import torch
from torch import nn


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 5)
    )


@pytest.fixture
def samples(net) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    net.eval()
    with torch.no_grad():
        return x, net(x).argmax(-1)
