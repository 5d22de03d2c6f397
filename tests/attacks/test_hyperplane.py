"""Shortest steps onto a plane in a box against SciPy's linear and quadratic programs."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from pluriform.attacks.hyperplane import shortest_step
from pluriform.errors import ConfigError

NORMS = ("linf", "l2", "l1")
every_norm = pytest.mark.parametrize("norm", NORMS)


def length(step, norm):
    flat = step.flatten(1)
    return flat.norm({"linf": torch.inf, "l2": 2, "l1": 1}[norm], dim=1)


def problems(rows=40, values=7, box=(-1, 2), seed=0, tight=True):
    """Random points, many at the walls, with planes that cut the box; some coordinates have no weight."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(rows, values, generator=generator, dtype=torch.float64) * (box[1] - box[0]) + box[0]
    if tight:
        wall = torch.rand(rows, values, generator=generator)
        x = torch.where(wall < 0.2, box[0], torch.where(wall > 0.8, box[1], x))
    w = torch.randn(rows, values, generator=generator, dtype=torch.float64)
    w = w * (torch.rand(rows, values, generator=generator) > 0.15) + 1e-3 * torch.eye(rows, values)
    reach = torch.where(w > 0, box[1] - x, x - box[0])
    back = torch.where(w > 0, x - box[0], box[1] - x)
    u = 2 * torch.rand(rows, generator=generator, dtype=torch.float64) - 1
    return x, w, torch.where(u > 0, u * (w.abs() * reach).sum(1), u * (w.abs() * back).sum(1))


def program(x, w, gap, norm, box):
    """The smallest norm, by an independent solver."""
    x, w, d = x.numpy(), w.numpy(), len(x)
    if norm == "l2":
        # The dual: maximise over the multiplier the minimum of 1/2 d^2 - m <w, d>, separable in the coordinates.
        low, high = -1e6, 1e6
        for _ in range(200):
            middle = (low + high) / 2
            step = np.clip(middle * w, box[0] - x, box[1] - x)
            low, high = (middle, high) if step @ w < gap else (low, middle)
        return float(np.linalg.norm(np.clip(high * w, box[0] - x, box[1] - x)))
    # Variables d, and bounds on |d|: one for all (Linf) or one a coordinate (L1).
    extra = 1 if norm == "linf" else d
    cover = np.ones((d, 1)) if norm == "linf" else np.eye(d)
    matrix = np.block([[np.eye(d), -cover], [-np.eye(d), -cover]])
    found = linprog(
        np.r_[np.zeros(d), np.ones(extra)],
        A_ub=matrix,
        b_ub=np.zeros(2 * d),
        A_eq=np.r_[w, np.zeros(extra)][None],
        b_eq=[gap],
        bounds=[*zip(box[0] - x, box[1] - x, strict=True), *[(0, None)] * extra],
    )
    assert found.status == 0
    return found.fun


@every_norm
@pytest.mark.parametrize("box", [(0, 1), (-1, 2)])
def test_steps_are_on_the_plane_in_the_box_and_no_shorter_ones_exist(norm, box):
    x, w, gap = problems(box=box, seed=len(norm))
    step = shortest_step(x, w, gap, norm, box)
    torch.testing.assert_close((w * step).sum(1), gap, atol=1e-10, rtol=1e-10)
    assert (x + step).min() >= box[0] - 1e-12
    assert (x + step).max() <= box[1] + 1e-12
    best = [program(x[row], w[row], float(gap[row]), norm, box) for row in range(len(x))]
    assert length(step, norm).tolist() == pytest.approx(best, abs=1e-7)


def test_l2_agrees_with_a_general_quadratic_solver():
    x, w, gap = problems(rows=6, seed=5)
    step = shortest_step(x, w, gap, "l2", (-1, 2))
    for row in range(6):
        found = minimize(
            lambda d: 0.5 * d @ d,
            np.zeros(7),
            jac=lambda d: d,
            bounds=list(zip(-1 - x[row].numpy(), 2 - x[row].numpy(), strict=True)),
            constraints={"type": "eq", "fun": lambda d, row=row: w[row].numpy() @ d - float(gap[row])},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert step[row].tolist() == pytest.approx(found.x.tolist(), abs=1e-5)


@every_norm
def test_planes_that_miss_the_box_send_every_coordinate_to_its_wall(norm):
    x, w, gap = problems(seed=2)
    far = gap.sign() * 1e3
    walls = torch.where(w * far[:, None] > 0, 2 - x, -1 - x).where(w != 0, 0)
    torch.testing.assert_close(shortest_step(x, w, far, norm, (-1, 2)), walls)


@every_norm
def test_far_from_the_walls_the_length_is_the_gap_over_the_dual_norm(norm):
    x, w, gap = problems(seed=3, tight=False)
    step = shortest_step(x, w, gap, norm, (-1e9, 1e9))
    dual = w.norm({"linf": 1, "l2": 2, "l1": torch.inf}[norm], dim=1)
    torch.testing.assert_close(length(step, norm), gap.abs() / dual)


@every_norm
def test_no_gap_no_normal_and_tiny_or_huge_normals(norm):
    x, w, gap = problems(seed=4)
    step = shortest_step(x.float(), w.float(), gap.float(), norm, (-1, 2))
    assert shortest_step(x, w, 0 * gap, norm, (-1, 2)).abs().max() == 0
    assert shortest_step(x, 0 * w, gap, norm, (-1, 2)).abs().max() == 0
    for scale in (1e-25, 1e25):
        scaled = shortest_step(x.float(), w.float() * scale, gap.float() * scale, norm, (-1, 2))
        torch.testing.assert_close(scaled, step, atol=1e-5, rtol=1e-5)


@every_norm
def test_a_row_does_not_depend_on_the_others(norm):
    x, w, gap = problems(seed=6)
    whole = shortest_step(x, w, gap, norm, (-1, 2))
    assert all(
        torch.equal(
            whole[row : row + 1], shortest_step(x[row : row + 1], w[row : row + 1], gap[row : row + 1], norm, (-1, 2))
        )
        for row in range(len(x))
    )


@every_norm
def test_many_values_in_float32(norm):
    x, w, gap = (part.float() for part in problems(rows=8, values=20_000, seed=7))
    step = shortest_step(x, w, 0.1 * gap, norm, (-1, 2))
    exact = shortest_step(x.double(), w.double(), 0.1 * gap.double(), norm, (-1, 2))
    torch.testing.assert_close(length(step, norm), length(exact, norm).float(), rtol=1e-4, atol=0)
    torch.testing.assert_close((w.double() * step.double()).sum(1), 0.1 * gap.double(), rtol=1e-4, atol=0)


def test_other_norms_are_refused():
    x, w, gap = problems(rows=2)
    with pytest.raises(ConfigError, match="expected norm linf, l2 or l1; got 'l3'"):
        shortest_step(x, w, gap, "l3", (-1, 2))
