import dataclasses

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.energy.space import Space


@pytest.fixture(scope="session")
def digits() -> Data:
    """200 training, 100 validation and 100 test digits."""
    whole = pf.load("digits", seed=0)
    counts = {"train": 200, "validation": 100, "test": 100}
    return dataclasses.replace(
        whole, **{name: Split(*getattr(whole, name).batch(torch.arange(n))) for name, n in counts.items()}
    )


@pytest.fixture
def table() -> Data:
    """Three Gaussian blobs in the plane, on features of unlike scale and offset, without bounds."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    corners = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    inputs = corners[labels] + torch.randn(300, 2, generator=generator)
    part = Split(inputs * torch.tensor([1.0, 100.0]) + torch.tensor([5.0, -50.0]), labels)
    return Data("blobs", "classification", part, part, part, ("a", "b", "c"))


@pytest.fixture
def net() -> nn.Module:
    """A small network for digits, without BatchNorm."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.SiLU(), nn.Linear(32, 10))


@pytest.fixture
def unit_space() -> Space:
    """Inputs in [-1, 1]."""
    return Space(torch.tensor(0.0), torch.tensor(1.0), (-1.0, 1.0))
