import pytest
import torch
from torch import nn

from pluriform.data.data import Data, Split
from pluriform.ensemble.apd.sgld import SGLD, Langevin
from pluriform.training.augmentation import Augmentation
from pluriform.training.feed import Feed

CHAINS, SAMPLES, NOISE, PRIOR = 4000, 40, 0.5, 3.0


class Chains(nn.Module):
    """Many linear models at once, so that one chain of it is many independent ones."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(CHAINS, 3))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs @ self.weights.T


@pytest.fixture(scope="module")
def linear() -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    inputs = torch.randn(SAMPLES, 3, generator=draws) @ torch.tensor([[1.0, 0.6, 0.0], [0.0, 0.8, 0.3], [0.0, 0.0, 1]])
    targets = inputs @ torch.tensor([[0.7], [-1.0], [0.3]]) + NOISE**0.5 * torch.randn(SAMPLES, 1, generator=draws)
    return inputs, targets


def run(inputs: torch.Tensor, targets: torch.Tensor, batch: int, step: float, length: int, kept: int) -> SGLD:
    split = Split(inputs, targets)
    feed = Feed(Data("line", "regression", split, split, split), batch, 0, Augmentation(), torch.device("cpu"))
    network = Chains()

    def loss(batch):
        return (network(batch.inputs) - batch.targets).square().mean(0).sum() / (2 * NOISE)

    langevin = Langevin(step, PRIOR / SAMPLES, SAMPLES)
    chain = SGLD(network, loss, feed, langevin, burn_in=length, thin=20, kept=kept)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for number in range(chain.steps):
            chain.step(number)
    return chain


def test_posterior_of_linear_regression(linear):
    inputs, targets = linear
    precision = inputs.T @ inputs / NOISE + PRIOR * torch.eye(3)
    covariance = precision.inverse()
    mean = covariance @ inputs.T @ targets[:, 0] / NOISE
    kept = run(inputs, targets, SAMPLES, 0.02, 1500, 6).samples.view(-1, 3)
    assert ((kept.mean(0) - mean).abs() < 0.05 * covariance.diagonal().sqrt()).all()
    assert ((kept.T.cov() - covariance).abs() < 0.05 * covariance.diagonal().max()).all()
    assert torch.allclose(kept.var(0), covariance.diagonal(), rtol=0.05)
