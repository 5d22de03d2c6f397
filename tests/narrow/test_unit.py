"""Linear maps over channels, their start and their least squares, against plain algebra."""

import pytest
import torch
from torch import nn

from pluriform.narrow.unit import UnitNetwork, mix, principal, refitted

SHAPES = [((5, 3), 1), ((5, 3, 4, 6), 1), ((5, 7, 3), 2), ((5, 3, 7), 1), ((5, 3, 7, 2, 4), 1)]


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_maps_mix_channels_alone(shape, axis):
    torch.manual_seed(0)
    x, matrix = torch.randn(shape), torch.randn(4, 3)
    expected = torch.tensordot(x, matrix, dims=([axis], [1])).movedim(-1, axis)
    assert torch.allclose(mix(x, matrix, axis), expected, atol=1e-6)
    assert mix(x, matrix, axis).is_contiguous()  # What follows may call `view`.


def test_principal_directions_are_those_of_the_singular_values():
    torch.manual_seed(0)
    features = torch.randn(200, 6) @ torch.diag(torch.tensor([5.0, 4.0, 3.0, 1.0, 0.5, 0.1])) + 2
    found = principal(features, 3, 1)
    _, _, vectors = torch.linalg.svd(features.double(), full_matrices=False)
    assert torch.allclose(found.T @ found, torch.eye(3), atol=1e-5)
    assert torch.allclose((found.double().T @ vectors[:3].T).abs().diagonal(), torch.ones(3).double(), atol=1e-4)


def test_the_refitted_lift_is_that_of_least_squares():
    torch.manual_seed(0)
    thin, exact = torch.randn(50, 4, 3, 3), torch.randn(9, 4)
    wide = mix(thin, exact, 1) + 0.1 * torch.randn(50, 9, 3, 3)
    own, aim = (x.movedim(1, -1).flatten(0, -2).double() for x in (thin, wide))
    expected = torch.linalg.lstsq(own, aim).solution.T
    assert torch.allclose(refitted(thin, wide, 1).double(), expected, atol=1e-4)


def test_dead_channels_are_lifted_to_nothing():
    thin = torch.cat([torch.rand(30, 2), torch.zeros(30, 1)], 1)
    assert torch.allclose(refitted(thin, torch.rand(30, 5), 1)[:, 2], torch.zeros(5))


def test_a_reduction_that_undoes_the_lift_leaves_the_stretch_as_it_is():
    torch.manual_seed(0)
    part, lift = nn.Linear(4, 6), torch.randn(9, 4)
    unit = UnitNetwork(part, lift, torch.linalg.pinv(lift), None, (1, 1))
    x = torch.randn(7, 4)
    assert torch.allclose(unit(x), part(x), atol=1e-5)
    lifted = UnitNetwork(part, None, torch.linalg.pinv(lift), torch.randn(8, 6), (1, 1))
    assert torch.allclose(lifted.thin(mix(x, lift, 1)), part(x), atol=1e-5)
    assert lifted(mix(x, lift, 1)).shape == (7, 8)
