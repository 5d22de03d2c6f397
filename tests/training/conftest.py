import dataclasses

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.data.data import Data, Split


@pytest.fixture(scope="session")
def digits() -> Data:
    """200 training, 100 validation and 100 test digits."""
    whole = pf.load("digits", seed=0)
    counts = {"train": 200, "validation": 100, "test": 100}
    return dataclasses.replace(
        whole, **{name: Split(*getattr(whole, name).batch(torch.arange(n))) for name, n in counts.items()}
    )


@pytest.fixture
def net() -> nn.Module:
    """A small network with dropout, so that random draws matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10))
