"""Cholesky factorisation and Gaussian-process regression tile by tile, for matrices of half or more of the memory.

For block column `j`, left-looking:

    A_ij <- A_ij - sum_{k<j} L_ik L_jk'        L_jj = chol(A_jj)        L_ij = A_ij L_jj'^-1

Every tile is written once and the factor takes the place of the matrix, so that a packed triangle of `n^2 / 2` numbers
is all the memory; nearly all of the `n^3 / 3` multiply-adds are products of whole tiles.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pluriform.errors import ShapeError, SingularKernelError, explain
from pluriform.gaussian_process.exact import Cross, Outputs
from pluriform.gaussian_process.tiles import TileStore
from pluriform.progress import progress

__all__ = ["TiledProcess", "condition_tiled", "tiled_cholesky", "tiled_solve"]


def tiled_cholesky(tiles: TileStore, ridge: float | int = 0.0) -> None:
    """Replace a symmetric positive definite matrix by its lower Cholesky factor, in place.

        K + ridge I = L L'

    Args:
        tiles: The lower triangle of `K`; afterwards it holds `L` (diagonal tiles have zeros above the diagonal).
        ridge: Added to the diagonal.

    Raises:
        SingularKernelError: The matrix is not positive definite; the tiles then hold a part of the factor.

    References:
        Golub & Van Loan 2013, Matrix Computations, section 4.2.9 (block Cholesky).

    Example:
        >>> from pluriform.gaussian_process.tiles import PackedTiles
        >>> tiles = PackedTiles.of(torch.tensor([[4.0, 2.0], [2.0, 2.0]]), side=1)
        >>> tiled_cholesky(tiles)
        >>> tiles.buffer
        tensor([2., 1., 1.], dtype=torch.float64)
    """
    count = tiles.tiling.count
    largest = max(float(tiles.get(i, i).diagonal().abs().max()) for i in range(count))
    with progress("Cholesky", sum((count - j) * (j + 1) for j in range(count))) as advance:
        for j in range(count):
            factor = _diagonal(tiles, j, ridge, largest)
            advance(j + 1)
            for i in range(j + 1, count):
                tile = tiles.get(i, j)
                for k in range(j):
                    tile.addmm_(tiles.get(i, k), tiles.get(j, k).T, alpha=-1)
                tiles.set(i, j, torch.linalg.solve_triangular(factor.T, tile, upper=True, left=False))
                advance(j + 1)


def _diagonal(tiles: TileStore, j: int, ridge: float | int, largest: float) -> Tensor:
    """Factor of diagonal tile `j`, stored."""
    tile = tiles.get(j, j)
    tile.diagonal().add_(ridge)
    for k in range(j):
        left = tiles.get(j, k)
        tile.addmm_(left, left.T, alpha=-1)
    factor, info = torch.linalg.cholesky_ex(tile)
    small = (factor.diagonal() ** 2 < 1e-14 * largest).nonzero()
    if not math.isfinite(largest) or int(info) or len(small) or not bool(factor.diagonal().isfinite().all()):
        row = tiles.tiling.rows(j).start + (int(info) - 1 if int(info) else int(small[0]) if len(small) else 0)
        raise SingularKernelError(
            explain(
                "a positive definite kernel",
                f"NaN or infinity in it, or a sample equal to ones before it (sample {row}), with ridge {ridge:.3g}",
                f"kernel of {tiles.tiling.samples} samples",
                "check for NaN, remove duplicates, or give a ridge of about 1e-4 of the mean diagonal",
            )
        )
    tiles.set(j, j, factor)
    return factor


def tiled_solve(tiles: TileStore, right: Outputs, *, half: bool = False, first: int = 0) -> Outputs:
    """`(L L')^-1 B` from a factor in tiles; with `half` only `L^-1 B`.

    Args:
        tiles: What `tiled_cholesky` left.
        right: `B`, `(n, columns)`.
        half: Stop after the forward substitution.
        first: The blocks of rows of `B` before this one are zero, and are skipped.
    """
    rows, count = tiles.tiling.rows, tiles.tiling.count
    result = right.detach().to(torch.float64, copy=True)
    for i in range(first, count):
        part = result[rows(i)]
        for k in range(first, i):
            part.addmm_(tiles.get(i, k), result[rows(k)], alpha=-1)
        part.copy_(torch.linalg.solve_triangular(tiles.get(i, i), part, upper=False))
    if half:
        return result
    for i in reversed(range(count)):
        part = result[rows(i)]
        for k in range(i + 1, count):
            part.addmm_(tiles.get(k, i).T, result[rows(k)], alpha=-1)
        part.copy_(torch.linalg.solve_triangular(tiles.get(i, i).T, part, upper=True))
    return result


@dataclass(frozen=True, eq=False)
class TiledProcess:
    """A Gaussian process conditioned on `n` training samples, its factor in tiles.

    Attributes:
        factor: Tiles of the lower Cholesky factor of `K + ridge I`.
        weights: `alpha = (K + ridge I)^-1 Y`, `(n, outputs)`.
        targets: `Y`, `(n, outputs)`.
        ridge: Absolute ridge.
    """

    factor: TileStore
    weights: Outputs
    targets: Outputs
    ridge: float

    def mean(self, cross: Cross) -> Float[Tensor, "m outputs"]:
        """Posterior mean at new points; `cross` is `k(x_*, X)`, `(m, n)`."""
        return cross @ self.weights

    def variance(self, cross: Cross, own: Float[Tensor, "m"]) -> Float[Tensor, "m"]:
        """Posterior variance of the noise-free function; `own` is `k(x_*, x_*)`; `O(n^2 m)`."""
        half = tiled_solve(self.factor, cross.T, half=True)
        return (own - (half**2).sum(0)).clamp_min(0.0)

    def inverse_diagonal(self) -> Float[Tensor, "n"]:
        """Diagonal of `(K + ridge I)^-1`: as much work as the factorisation again, and `n x side` numbers of memory."""
        tiling = self.factor.tiling
        diagonal = torch.empty(tiling.samples, dtype=torch.float64, device=self.targets.device)
        with progress("leave-one-out", sum((tiling.count - j) ** 2 for j in range(tiling.count))) as advance:
            for j in range(tiling.count):
                unit = diagonal.new_zeros(tiling.samples, tiling.height(j))
                unit[tiling.rows(j)].fill_diagonal_(1.0)
                diagonal[tiling.rows(j)] = (tiled_solve(self.factor, unit, half=True, first=j) ** 2).sum(0)
                advance((tiling.count - j) ** 2)
        return diagonal

    def leave_one_out(self) -> Outputs:
        """What every training sample would be predicted as without itself: `y_i - alpha_i / [(K + r)^-1]_ii`."""
        return self.targets - self.weights / self.inverse_diagonal()[:, None]

    def log_marginal_likelihood(self) -> float:
        """`-y'alpha / 2 - sum log L_ii - n/2 log 2 pi`, summed over outputs."""
        n, outputs = self.targets.shape
        volume = sum(float(self.factor.get(i, i).diagonal().log().sum()) for i in range(self.factor.tiling.count))
        fit = float((self.targets * self.weights).sum())
        return -0.5 * fit - outputs * (volume + n / 2 * math.log(2 * math.pi))


def condition_tiled(gram: TileStore, targets: Outputs, ridge: float | int = 0.0) -> TiledProcess:
    """Condition a Gaussian process on samples whose kernel lies in tiles; the tiles are overwritten by the factor.

    Args:
        gram: Lower triangle of the kernel of the training inputs.
        targets: `(n, outputs)`, centred; on the device of the tiles.
        ridge: Absolute ridge.

    Returns:
        The conditioned process.

    Raises:
        SingularKernelError: The matrix is not positive definite.
        ShapeError: Another number of targets than of samples.
    """
    if len(targets) != gram.tiling.samples:
        raise ShapeError(
            explain(f"{gram.tiling.samples} targets", f"{len(targets)}", "condition_tiled", "pass one row a sample")
        )
    tiled_cholesky(gram, ridge)
    targets = targets.detach().double()
    return TiledProcess(gram, tiled_solve(gram, targets), targets, float(ridge))
