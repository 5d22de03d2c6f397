"""The kernel against autograd and direct sums, and at its edges."""

import math

import pytest
import torch

from pluriform.ensemble.particles.kernel import rbf
from pluriform.errors import ConfigError, ShapeError


def particles_of(member: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(member, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def direct(first: torch.Tensor, second: torch.Tensor, h: float) -> torch.Tensor:
    return torch.exp(-((first[:, None] - second[None]) ** 2).sum(-1) / h)


def test_values_and_repulsion_are_those_of_autograd():
    particles, places = particles_of(7, 5), particles_of(3, 5, seed=1)
    kernel = rbf(particles, bandwidth=3.7, at=places)
    torch.testing.assert_close(kernel.matrix, direct(places, particles, 3.7), atol=1e-13, rtol=0)
    for i in range(3):
        free = particles.clone().requires_grad_()
        gradients = torch.autograd.grad(direct(places[i : i + 1], free, 3.7).sum(), free)[0]
        torch.testing.assert_close(kernel.repulsion()[i], gradients.sum(0), atol=1e-13, rtol=0)


def test_median_bandwidth_is_that_of_the_paper():
    particles = particles_of(9, 4)  # 36 distances: the lower of the two middle ones.
    distances = sorted(math.dist(particles[i], particles[j]) for i in range(9) for j in range(i))
    assert rbf(particles).bandwidth.item() == pytest.approx(distances[17] ** 2 / math.log(10), rel=1e-12)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_close_particles_far_from_the_origin_keep_their_distances(offset: float):
    near = 1e-2 * particles_of(6, 50)
    single = rbf((near + offset).float())
    double = rbf((near + offset).float().double())
    torch.testing.assert_close(single.matrix, double.matrix.float(), atol=1e-4, rtol=0)
    torch.testing.assert_close(single.repulsion(), double.repulsion().float(), atol=0, rtol=2e-2)


@pytest.mark.parametrize("member", [1, 2, 13])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equal_particles_neither_repel_nor_break(member: int, dtype: torch.dtype):
    particles = (0.1 + torch.rand(997, generator=torch.Generator().manual_seed(3))).to(dtype).expand(member, 997)
    kernel = rbf(particles)
    assert kernel.bandwidth.item() == 1
    assert torch.equal(kernel.matrix, torch.ones_like(kernel.matrix))
    assert kernel.repulsion().abs().max() < 1e-4


def test_mostly_equal_particles_take_the_mean_distance():
    particles = torch.zeros(5, 2)
    particles[0, 0] = 3.0  # Four of ten pairs are 9 apart.
    kernel = rbf(particles)
    assert kernel.bandwidth.item() == pytest.approx(0.4 * 9 / math.log(6))
    assert kernel.repulsion()[0, 0] > 0 > kernel.repulsion()[1, 0]


def test_refusals():
    with pytest.raises(ShapeError, match="at least one"):
        rbf(torch.zeros(0, 3))
    with pytest.raises(ShapeError, match="places of the particles' size"):
        rbf(torch.zeros(2, 3), at=torch.zeros(2, 4))
    for bandwidth in (0, -1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="positive bandwidth"):
            rbf(torch.zeros(2, 3), bandwidth)
