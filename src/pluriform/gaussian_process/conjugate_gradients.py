"""Preconditioned conjugate gradients: solve with a kernel that is known only through its products with vectors.

    P = L L' + delta I,     L from a pivoted Cholesky factorisation or from Nystrom's columns

Every right-hand side has its own recurrence and all share one product a step. Theory: the error falls by
`(sqrt(c) - 1) / (sqrt(c) + 1)` a step, `c` the condition number of `P^-1 (K + ridge I)`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pluriform.errors import ConfigError, ConvergenceError, SingularKernelError, explain
from pluriform.gaussian_process.exact import Outputs
from pluriform.gaussian_process.tiles import TileStore
from pluriform.progress import progress

__all__ = [
    "IterativeSolution",
    "LowRank",
    "Preconditioner",
    "conjugate_gradients",
    "nystrom_columns",
    "pivoted_cholesky",
    "tiled_product",
]

Columns = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class LowRank:
    """`K` is about `L L'`.

    Attributes:
        factor: `L`, `(n, rank)`.
        pivots: The samples whose columns were read, `(rank,)`.
        left: Mean of the diagonal of `K - L L'`.
    """

    factor: Float[Tensor, "n rank"]
    pivots: Tensor
    left: float

    def preconditioner(self, ridge: float | int = 0.0) -> "Preconditioner":
        """`(L L' + (ridge + left) I)^-1` as products with `n x rank` matrices.

        Raises:
            SingularKernelError: Both the ridge and the remainder are zero.
        """
        basis, spread, _ = torch.linalg.svd(self.factor, full_matrices=False)
        delta = float(ridge) + max(self.left, 0.0)
        floor = 1e-14 * float(spread[0] ** 2) if len(spread) else 0.0
        if delta <= floor:
            got = f"one of rank {self.factor.shape[1]}, with ridge {ridge:.3g}"
            raise SingularKernelError(
                explain("a kernel of full rank", got, "preconditioner", "give a ridge, for instance ridge=1e-4")
            )
        return Preconditioner(basis, spread**2 + delta, delta)


@dataclass(frozen=True, eq=False)
class Preconditioner:
    """`P^-1 v = U (U'v / values) + (v - U U'v) / delta`.

    Attributes:
        basis: `U`, orthonormal columns, `(n, rank)`.
        values: Eigenvalues of `P` along them, `(rank,)`.
        delta: Eigenvalue of `P` elsewhere.
    """

    basis: Float[Tensor, "n rank"]
    values: Float[Tensor, "rank"]
    delta: float

    def __call__(self, vectors: Outputs) -> Outputs:
        """`P^-1` times each column."""
        along = self.basis.T @ vectors
        return vectors / self.delta + self.basis @ (along / self.values[:, None] - along / self.delta)


@dataclass(frozen=True, eq=False)
class IterativeSolution:
    """A solution and the way to it.

    Attributes:
        solution: `(K + ridge I)^-1 Y`, `(n, outputs)`.
        residuals: Relative norms `|Y - (K + ridge) X| / |Y|` by iteration, the start (1) first, `(steps + 1, outputs)`;
            the last row is computed anew from the solution.
        iterations: Products with the kernel.
    """

    solution: Outputs
    residuals: Float[Tensor, "steps outputs"]
    iterations: int


def pivoted_cholesky(diagonal: Float[Tensor, "n"], columns: Columns, rank: int) -> LowRank:
    """The first columns of a Cholesky factorisation, always the one with the largest remainder next.

    Args:
        diagonal: Of the kernel.
        columns: Columns of the kernel by index: `(rank,)` to `(n, rank)`.
        rank: Most columns; fewer where the remainder reaches rounding.

    References:
        Harbrecht, Peters, Schneider 2012, On the low-rank approximation by the pivoted Cholesky decomposition.
        Gardner et al. 2018, GPyTorch, arXiv:1809.11165 (as preconditioner).

    Example:
        >>> k = torch.tensor([[4.0, 2.0], [2.0, 2.0]], dtype=torch.float64)
        >>> made = pivoted_cholesky(k.diagonal(), lambda index: k[:, index], rank=2)
        >>> made.factor @ made.factor.T
        tensor([[4., 2.],
                [2., 2.]], dtype=torch.float64)
    """
    left = diagonal.detach().to(torch.float64, copy=True)
    largest, pivots = float(left.max()), []
    factor = left.new_zeros(len(left), min(rank, len(left)))
    for step in range(factor.shape[1]):
        pivot = int(left.argmax())
        if float(left[pivot]) <= 1e-14 * largest:
            break
        pivots.append(pivot)
        column = columns(torch.tensor([pivot], device=left.device))[:, 0].double()
        column = column - factor[:, :step] @ factor[pivot, :step]
        factor[:, step] = column / column[pivot].clamp_min(1e-14 * largest).sqrt()
        left = (left - factor[:, step] ** 2).clamp_min(0.0)
        left[pivot] = 0.0
    return LowRank(factor[:, : len(pivots)], torch.tensor(pivots), float(left.mean()))


def nystrom_columns(diagonal: Float[Tensor, "n"], columns: Columns, index: Tensor) -> LowRank:
    """Nystrom's approximation `K_nm K_mm^-1 K_mn` from all columns in one call, at samples chosen before.

    Args:
        diagonal: Of the kernel.
        columns: Columns of the kernel by index.
        index: The chosen samples, `(rank,)`, for instance drawn at random.

    References:
        Williams & Seeger 2001, Using the Nystrom Method to Speed Up Kernel Machines.
    """
    block = columns(index).double()
    values, vectors = torch.linalg.eigh(block[index])
    kept = values > 1e-12 * values[-1]
    factor = block @ (vectors[:, kept] / values[kept].sqrt())
    left = (diagonal.double() - (factor**2).sum(1)).clamp_min(0.0)
    return LowRank(factor, index, float(left.mean()))


def tiled_product(tiles: TileStore) -> Callable[[Outputs], Outputs]:
    """The product with a symmetric matrix whose lower triangle lies in tiles."""
    tiling = tiles.tiling

    def product(vectors: Outputs) -> Outputs:
        result = torch.zeros_like(vectors)
        for i in range(tiling.count):
            for j in range(i + 1):
                tile = tiles.get(i, j)
                result[tiling.rows(i)] += tile @ vectors[tiling.rows(j)]
                if i != j:
                    result[tiling.rows(j)] += tile.T @ vectors[tiling.rows(i)]
        return result

    return product


def conjugate_gradients(
    product: Callable[[Outputs], Outputs],
    targets: Outputs,
    *,
    ridge: float | int = 0.0,
    preconditioner: Preconditioner | None = None,
    tolerance: float = 1e-8,
    iterations: int = 1000,
) -> IterativeSolution:
    """Solve `(K + ridge I) X = Y` for all columns of `Y` together.

    Args:
        product: `K` times a block of vectors, `(n, outputs)`; called once an iteration.
        targets: `Y`, `(n, outputs)`.
        ridge: Absolute ridge.
        preconditioner: About the inverse of `K + ridge I`; `None` for the plain method.
        tolerance: Largest relative residual of any column; it is verified on the solution itself.
        iterations: Most products.

    Returns:
        The solution with its convergence record.

    Raises:
        ConvergenceError: The tolerance was not reached in time, or cannot be reached at this conditioning.
        SingularKernelError: The matrix is not positive definite.
        ConfigError: A tolerance or number of iterations of 0 or less.

    References:
        Hestenes & Stiefel 1952. Adlam et al. 2023, Kernel Regression with Infinite-Width Neural Networks on Millions
        of Examples, arXiv:2303.05420.
    """
    if tolerance <= 0 or iterations < 1:
        got = f"tolerance {tolerance} and {iterations} iterations"
        raise ConfigError(explain("both above 0", got, "conjugate_gradients", "give other limits"))
    right = targets.detach().double()
    norms = right.norm(dim=0)
    norms = torch.where(norms > 0, norms, 1.0)
    record, solution, used = [right.norm(dim=0) / norms], torch.zeros_like(right), 0
    rounds_left = 5  # Recurrences drift from the true residual; restarting from it is iterative refinement.
    with progress("conjugate gradients", iterations) as advance:
        while float(record[-1].max()) > tolerance and used < iterations - 1 and rounds_left:
            residual = right if used == 0 else right - product(solution) - ridge * solution
            run = _Recurrence(product, residual, ridge, preconditioner)
            while used < iterations - 1 and float((run.residual.norm(dim=0) / norms).max()) > 0.5 * tolerance:
                run.step()
                used += 1
                advance(1)
                record.append(run.residual.norm(dim=0) / norms)
            solution = solution + run.solution
            true = (right - product(solution) - ridge * solution).norm(dim=0) / norms
            used, rounds_left = used + 1, rounds_left - 1
            record[-1] = true
    if not float(record[-1].max()) <= tolerance:
        got = f"{float(record[-1].max()):.2g} after {used} products"
        remedy = "give a larger ridge, a preconditioner of higher rank or more iterations"
        raise ConvergenceError(explain(f"a relative residual of {tolerance:.2g}", got, "conjugate_gradients", remedy))
    return IterativeSolution(solution, torch.stack(record), used)


class _Recurrence:
    """The three-term recurrences of all columns; a column whose residual is zero stands still."""

    def __init__(
        self,
        product: Callable[[Outputs], Outputs],
        residual: Tensor,
        ridge: float | int,
        preconditioner: Preconditioner | None,
    ) -> None:
        self.product, self.ridge = product, ridge
        self.precondition = preconditioner or (lambda vectors: vectors)
        self.solution, self.residual = torch.zeros_like(residual), residual
        scaled = self.precondition(residual)
        self.direction, self.energy = scaled.clone(), (residual * scaled).sum(0)

    def step(self) -> None:
        image = self.product(self.direction) + self.ridge * self.direction
        curvature = (self.direction * image).sum(0)
        moving = self.energy > 0
        if not bool(image.isfinite().all()) or bool((curvature[moving] <= 0).any()):
            remedy = "check for NaN, remove duplicates, or give a ridge"
            got = "NaN, or a direction along which it is not"
            raise SingularKernelError(explain("a positive definite kernel", got, "conjugate_gradients", remedy))
        length = torch.where(moving, self.energy / curvature, 0.0)
        self.solution = self.solution + length * self.direction
        self.residual = self.residual - length * image
        scaled = self.precondition(self.residual)
        energy = (self.residual * scaled).sum(0)
        self.direction = scaled + torch.where(moving, energy / self.energy, 0.0) * self.direction
        self.energy = energy
