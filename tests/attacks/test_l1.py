"""The L1 ball inside a box against quadratic and linear programmes of SciPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from pluriform.attacks.l1 import fill, passable, project, sparse_sign


def draw(seed, batch=4, values=6):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(batch, values, generator=generator, dtype=torch.float64)
    return x, x + 2 * torch.randn(batch, values, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("eps", [0.2, 1.0, 2.5])
def test_projection_is_the_nearest_point_by_quadratic_programming(seed, eps):
    """Variables: the positive and negative parts of the change."""
    x, far = draw(seed)
    found = project(far, x, eps, 0, 1)
    for row in range(4):
        centre, target = x[row].numpy(), far[row].numpy()

        def distance(parts, centre=centre, target=target):
            gap = centre + parts[:6] - parts[6:] - target
            return gap @ gap, np.concatenate([2 * gap, -2 * gap])

        best = minimize(
            distance,
            np.zeros(12),
            jac=True,
            method="SLSQP",
            bounds=[(0, 1 - value) for value in centre] + [(0, value) for value in centre],
            constraints={"type": "ineq", "fun": lambda parts: eps - parts.sum(), "jac": lambda parts: -np.ones(12)},
            options={"ftol": 1e-14, "maxiter": 500},
        ).x
        assert found[row].tolist() == pytest.approx((centre + best[:6] - best[6:]).tolist(), abs=1e-5)


@given(st.floats(0.001, 30), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_projection_is_legal_and_keeps_what_is_legal(eps, seed):
    x, far = draw(seed, 5, 30)
    found = project(far, x, eps, 0, 1)
    assert ((found - x).abs().sum(1) <= eps + 1e-9).all()
    assert found.min() >= 0
    assert found.max() <= 1
    torch.testing.assert_close(project(found, x, eps, 0, 1), found, atol=1e-9, rtol=0)
    assert torch.equal(project(x, x, eps, 0, 1), x)
    mates = torch.cat([project(far[:2], x[:2], eps, 0, 1), project(far[2:], x[2:], eps, 0, 1)])
    assert torch.equal(mates, found)


def test_a_ball_that_holds_the_box_only_clamps():
    x, far = draw(3)
    torch.testing.assert_close(project(far, x, 100, 0, 1), far.clamp(0, 1))


def test_large_images_in_single_precision_keep_to_the_radius():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 224, 224, generator=generator)
    moved = project(x + torch.randn(x.shape, generator=generator), x, 60, 0, 1)
    assert ((moved - x).double().abs().flatten(1).sum(1) - 60).abs().max() < 1e-4


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("eps", [0.3, 1.7])
def test_filling_is_the_optimum_by_linear_programming(seed, eps):
    x, other = draw(seed)
    slopes = other - x
    found = fill(slopes, x, eps, 0, 1)
    for row in range(4):
        centre, slope = x[row].numpy(), slopes[row].numpy()
        best = linprog(
            np.concatenate([-slope, slope]),
            A_ub=np.ones((1, 12)),
            b_ub=[eps],
            bounds=[(0, 1 - value) for value in centre] + [(0, value) for value in centre],
        )
        assert float(slopes[row] @ (found[row] - x[row])) == pytest.approx(-best.fun, abs=1e-9)
        assert float((found[row] - x[row]).abs().sum()) <= eps + 1e-9


def test_filling_leaves_values_without_gradient_alone():
    x = torch.full((1, 3), 0.5)
    assert fill(torch.tensor([[0.0, 1.0, 0.0]]), x, 3, 0, 1).tolist() == [[0.5, 1.0, 0.5]]
    assert torch.equal(fill(torch.zeros(1, 3), x, 3, 0, 1), x)


def test_sparse_steps_have_unit_length_and_the_asked_number_of_values():
    gradient = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0)) * 1e-20
    step = sparse_sign(gradient, torch.tensor([1, 4, 10]))
    assert step.flatten(1).ne(0).sum(1).tolist() == [1, 4, 10]
    assert step.flatten(1).abs().sum(1).tolist() == pytest.approx([1, 1, 1])
    largest = gradient.flatten(1).abs().argmax(1)
    assert step.flatten(1)[0, largest[0]] == gradient.flatten(1)[0, largest[0]].sign()
    assert sparse_sign(torch.zeros(1, 4), torch.tensor([2])).abs().max() == 0


def test_directions_out_of_the_box_are_closed():
    points, gradient = torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.5]]), torch.tensor([[-1.0, 2.0, 3.0, -4.0, 5.0]])
    assert passable(gradient, points, 0, 1).tolist() == [[0, 2, 0, -4, 5]]
