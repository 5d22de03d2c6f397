"""Conjugate gradients against direct solves and SciPy; preconditioners by what they approximate and what they save."""

import numpy as np
import pytest
import torch

from pluriform.errors import ConfigError, ConvergenceError, SingularKernelError
from pluriform.gaussian_process.conjugate_gradients import (
    conjugate_gradients,
    nystrom_columns,
    pivoted_cholesky,
    tiled_product,
)
from pluriform.gaussian_process.tiles import PackedTiles

N = 160


@pytest.fixture(scope="module")
def problem():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(N, 2, generator=generator, dtype=torch.float64) * 6
    gram = torch.exp(-0.5 * torch.cdist(x, x) ** 2)
    return gram, torch.stack([x.sin().sum(1), x.prod(1), torch.ones(N).double()], 1)


def columns(gram):
    return lambda index: gram[:, index]


@pytest.mark.parametrize("preconditioned", [False, True])
def test_solution_is_that_of_a_direct_solve(problem, preconditioned):
    gram, y = problem
    low = pivoted_cholesky(gram.diagonal(), columns(gram), 40)
    made = conjugate_gradients(
        lambda v: gram @ v, y, ridge=1e-2, preconditioner=low.preconditioner(1e-2) if preconditioned else None
    )
    expected = torch.linalg.solve(gram + 1e-2 * torch.eye(N), y)
    assert torch.allclose(made.solution, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))
    true = (y - gram @ made.solution - 1e-2 * made.solution).norm(dim=0) / y.norm(dim=0)
    assert torch.allclose(made.residuals[-1], true, atol=1e-12)
    assert float(true.max()) <= 1e-8
    assert torch.equal(made.residuals[0], torch.ones(3).double())


def test_a_single_column_takes_the_steps_of_scipy(problem):
    from scipy.sparse.linalg import cg

    gram, y = problem
    shifted = (gram + 0.1 * torch.eye(N)).numpy()
    norms = []
    target = y[:, 1].numpy()
    cg(shifted, target, rtol=1e-6, callback=lambda x: norms.append(np.linalg.norm(target - shifted @ x)))
    made = conjugate_gradients(lambda v: gram @ v, y[:, 1:2], ridge=0.1, tolerance=1e-8)
    ours = made.residuals[1:13, 0].numpy() * np.linalg.norm(target)
    assert ours == pytest.approx(norms[:12], rel=1e-3)  # Rounding grows with the step: later ones differ.


@pytest.mark.parametrize("kind", ["pivoted", "nystrom"])
def test_preconditioning_saves_most_iterations(problem, kind):
    gram, y = problem
    plain = conjugate_gradients(lambda v: gram @ v, y, ridge=1e-3)
    index = torch.randperm(N, generator=torch.Generator().manual_seed(1))[:60]
    low = (
        pivoted_cholesky(gram.diagonal(), columns(gram), 60)
        if kind == "pivoted"
        else nystrom_columns(gram.diagonal(), columns(gram), index)
    )
    fewer = conjugate_gradients(lambda v: gram @ v, y, ridge=1e-3, preconditioner=low.preconditioner(1e-3))
    assert fewer.iterations < plain.iterations / 3


def test_pivoted_cholesky_bounds_its_remainder_and_reproduces_its_columns(problem):
    gram, _ = problem
    errors = []
    for rank in (5, 20, 60):
        low = pivoted_cholesky(gram.diagonal(), columns(gram), rank)
        remainder = gram - low.factor @ low.factor.T
        errors.append(float(torch.linalg.matrix_norm(remainder, 2)))
        assert low.left == pytest.approx(float(remainder.diagonal().mean()), abs=1e-9)
        assert torch.allclose(remainder[:, low.pivots], torch.zeros(N, rank).double(), atol=1e-7)
    best = torch.linalg.eigvalsh(gram).flip(0)
    assert errors[0] > errors[1] > errors[2]
    assert all(error < 60 * float(best[rank]) for error, rank in zip(errors, (5, 20, 60), strict=True))
    whole = pivoted_cholesky((gram + torch.eye(N)).diagonal(), columns(gram + torch.eye(N)), 10**6)
    assert torch.allclose(whole.factor @ whole.factor.T, gram + torch.eye(N))


def test_nystrom_is_its_formula(problem):
    gram, _ = problem
    index = torch.arange(0, N, 16)
    low = nystrom_columns(gram.diagonal(), columns(gram), index)
    formula = gram[:, index] @ torch.linalg.inv(gram[index][:, index]) @ gram[index]
    assert torch.allclose(low.factor @ low.factor.T, formula)


def test_a_preconditioner_is_the_inverse_it_says(problem):
    gram, y = problem
    low = pivoted_cholesky(gram.diagonal(), columns(gram), 20)
    made = low.factor @ low.factor.T + (0.3 + low.left) * torch.eye(N)
    assert torch.allclose(low.preconditioner(0.3)(y), torch.linalg.solve(made, y))


def test_the_rank_of_features_is_found_and_needs_a_ridge():
    features = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gram = features @ features.T
    low = pivoted_cholesky(gram.diagonal(), columns(gram), 10)
    assert low.factor.shape == (20, 3)
    with pytest.raises(SingularKernelError, match="one of rank 3, with ridge 0"):
        low.preconditioner()
    made = conjugate_gradients(lambda v: gram @ v, features[:, :1], ridge=1e-3, preconditioner=low.preconditioner(1e-3))
    assert made.iterations < 10


def test_products_of_packed_tiles_are_those_of_the_matrix(problem):
    gram, y = problem
    assert torch.allclose(tiled_product(PackedTiles.of(gram, 48))(y), gram @ y)


def test_zero_columns_stay_zero(problem):
    gram, y = problem
    made = conjugate_gradients(lambda v: gram @ v, torch.cat([y, 0 * y[:, :1]], 1), ridge=0.1)
    assert torch.equal(made.solution[:, 3], torch.zeros(N).double())
    assert made.solution.isfinite().all()


def test_failures_say_how_far_they_came(problem):
    gram, y = problem
    with pytest.raises(ConvergenceError, match=r"residual of 1e-08; got .* after 5 products.*larger ridge"):
        conjugate_gradients(lambda v: gram @ v, y, ridge=1e-6, iterations=5)
    with pytest.raises(SingularKernelError, match="a direction along which it is not"):
        conjugate_gradients(lambda v: -(gram @ v), y)
    with pytest.raises(SingularKernelError, match="NaN"):
        conjugate_gradients(lambda v: v * torch.nan, y)
    with pytest.raises(ConfigError, match="got tolerance 0"):
        conjugate_gradients(lambda v: gram @ v, y, tolerance=0.0)
