"""Random starts: distributions by SciPy, independence of batch, place and other samples."""

import pytest
import torch
from scipy.stats import kstest

from pluriform.attacks.noise import direction, edge, gaussian, start, uniform
from pluriform.attacks.threat import Threat


@pytest.fixture(scope="module")
def x():
    return torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_draws_follow_their_distribution(x):
    assert kstest(uniform(x, 0).flatten().numpy(), "uniform").pvalue > 0.01
    assert kstest(gaussian(x, 0).flatten().numpy(), "norm").pvalue > 0.01


def test_draws_of_other_seeds_streams_samples_and_places_are_uncorrelated(x):
    draws = [uniform(x, seed, stream).flatten() for seed in (0, 1) for stream in (0, 1)]
    assert torch.corrcoef(torch.stack(draws)).fill_diagonal_(0).abs().max() < 0.05
    assert torch.corrcoef(uniform(x, 0).flatten(1)).fill_diagonal_(0).abs().max() < 0.6
    assert torch.corrcoef(uniform(x, 0).flatten(1).T).fill_diagonal_(0).abs().max() < 0.35
    nearly = x.clone()
    nearly[:, 0, 0, 0] += 1e-3
    assert torch.corrcoef(torch.stack([uniform(x, 0).flatten(), uniform(nearly, 0).flatten()]))[0, 1].abs() < 0.05


def test_blank_images_get_noise_too():
    assert uniform(torch.zeros(1, 1, 28, 28), 0).std() == pytest.approx(12**-0.5, rel=0.05)


def test_a_sample_keeps_its_draw_in_any_batch(x):
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    assert torch.equal(uniform(x[order], 3), uniform(x, 3)[order])
    assert torch.equal(uniform(x[7:8], 3), uniform(x, 3)[7:8])


ORDER = {"linf": float("inf"), "l2": 2, "l1": 1}


@pytest.mark.parametrize("norm", sorted(ORDER))
@pytest.mark.parametrize("eps", [0.3, 2.0])
def test_edges_are_at_the_radius(x, norm, eps):
    threat = Threat(norm, eps, (-9, 9))
    moved = edge(x, threat, 0)
    threat.check(moved, x)
    assert (moved - x).flatten(1).norm(ORDER[norm], dim=1).tolist() == pytest.approx([eps] * 200, rel=1e-4)
    assert not torch.equal(moved, edge(x, threat, 0, 1))
    assert torch.equal(edge(x[5:9], threat, 0), moved[5:9])
    threat.check(edge(x, Threat(norm, eps, (0, 1)), 0), x)


@pytest.mark.parametrize("norm", sorted(ORDER))
def test_starts_are_legal_and_spread(x, norm):
    threat = Threat(norm, 0.3, (-2, 2))
    moved = start(x, threat, 0)
    threat.check(moved, x)
    radius = (moved - x).flatten(1).norm(ORDER[norm], dim=1)
    assert radius.max() > 0.28
    if norm != "linf":
        assert kstest((radius / 0.3).numpy(), "uniform").pvalue > 0.01


def test_a_zero_gradient_in_l2_takes_a_random_unit_direction(x):
    gradient = torch.zeros_like(x)
    gradient[1:] = x[1:]
    found = direction(gradient, x, Threat("l2", 0.1, (0, 1)), 0)
    assert found.flatten(1).norm(dim=1).tolist() == pytest.approx([1.0] * 200, abs=1e-5)
    assert torch.equal(found[1:], Threat("l2", 0.1).steepest(gradient)[1:])
    assert direction(gradient, x, Threat("linf", 0.1), 0)[0].abs().max() == 0
