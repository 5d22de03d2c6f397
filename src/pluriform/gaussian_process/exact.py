"""Exact Gaussian-process regression on Gram matrices, in float64.

    mean = K_*X (K + r I)^-1 Y        covariance = K_** - K_*X (K + r I)^-1 K_X*

One Cholesky factor serves one ridge `r`; one eigendecomposition serves all of them. Outputs share the kernel.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pluriform.available_memory import available_memory
from pluriform.errors import MemoryBudgetError, ShapeError, SingularKernelError, explain

__all__ = [
    "Cross",
    "GaussianProcess",
    "Outputs",
    "Spectrum",
    "Square",
    "absolute_ridge",
    "check_memory",
    "condition",
    "fits_memory",
    "spectrum",
]

Square = Float[Tensor, "n n"]
Cross = Float[Tensor, "m n"]
Outputs = Float[Tensor, "n outputs"]


@dataclass(frozen=True, eq=False)
class GaussianProcess:
    """A Gaussian process conditioned on `n` training samples.

    Attributes:
        factor: Lower Cholesky factor of `K + ridge I`, `(n, n)`.
        weights: `alpha = (K + ridge I)^-1 Y`, `(n, outputs)`.
        targets: `Y`, `(n, outputs)`.
        ridge: Absolute ridge: the variance of the noise on the targets.

    References:
        Rasmussen & Williams 2006, Gaussian Processes for Machine Learning, algorithm 2.1 and section 5.4.2.
    """

    factor: Square
    weights: Outputs
    targets: Outputs
    ridge: float

    def mean(self, cross: Cross) -> Float[Tensor, "m outputs"]:
        """Posterior mean at new points; `cross` is `k(x_*, X)`, `(m, n)`."""
        return cross @ self.weights

    def variance(self, cross: Cross, own: Float[Tensor, "m"]) -> Float[Tensor, "m"]:
        """Posterior variance of the noise-free function; `own` is `k(x_*, x_*)`, `(m,)`."""
        half = torch.linalg.solve_triangular(self.factor, cross.T, upper=False)
        return (own - (half**2).sum(0)).clamp_min(0.0)

    def covariance(self, cross: Cross, own: Float[Tensor, "m m"]) -> Float[Tensor, "m m"]:
        """Posterior covariance between new points; `own` is `k(x_*, x_*')`, `(m, m)`."""
        half = torch.linalg.solve_triangular(self.factor, cross.T, upper=False)
        return own - half.T @ half

    def leave_one_out(self) -> Outputs:
        """What every training sample would be predicted as without itself: `y_i - alpha_i / [(K + r)^-1]_ii`."""
        inverse = torch.cholesky_inverse(self.factor)
        return self.targets - self.weights / inverse.diagonal()[:, None]

    def log_marginal_likelihood(self) -> float:
        """`-y'alpha / 2 - sum log L_ii - n/2 log 2 pi`, summed over outputs."""
        n, outputs = self.targets.shape
        fit = float((self.targets * self.weights).sum())
        volume = float(self.factor.diagonal().log().sum())
        return -0.5 * fit - outputs * (volume + n / 2 * math.log(2 * math.pi))


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigendecomposition `K = Q diag(values) Q'` with the targets in its basis: every ridge then costs `O(n^2)`.

    Attributes:
        values: Eigenvalues in rising order, `(n,)`.
        vectors: `Q`, `(n, n)`.
        targets: `Y`, `(n, outputs)`.
    """

    values: Float[Tensor, "n"]
    vectors: Square
    targets: Outputs

    def weights(self, ridge: float | int) -> Outputs:
        """`(K + ridge I)^-1 Y`."""
        return self.vectors @ ((self.vectors.T @ self.targets) / (self.values + ridge)[:, None])

    def leave_one_out(self, ridge: float | int) -> Outputs:
        """Leave-one-out predictions at this ridge."""
        inverse = (self.vectors**2) @ (1.0 / (self.values + ridge))
        return self.targets - self.weights(ridge) / inverse[:, None]

    def log_marginal_likelihood(self, ridge: float | int) -> float:
        """Log evidence at this ridge, summed over outputs."""
        n, outputs = self.targets.shape
        shifted = self.values + ridge
        fit = float(((self.vectors.T @ self.targets) ** 2 / shifted[:, None]).sum())
        return -0.5 * (fit + outputs * (float(shifted.log().sum()) + n * math.log(2 * math.pi)))


def absolute_ridge(gram: Square, relative: float | int) -> float:
    """`relative * trace(K) / n`: a ridge that does not depend on the scale of the kernel."""
    return float(relative) * float(gram.diagonal().mean())


def condition(gram: Tensor, targets: Tensor, ridge: float | int = 0.0) -> GaussianProcess:
    """Condition a Gaussian process on its training samples by a Cholesky factorisation, `O(n^3 / 3)`.

    Args:
        gram: Kernel of the training inputs, `(n, n)`, symmetric.
        targets: `(n, outputs)`; the prior mean is zero, so centre them first.
        ridge: Absolute ridge, added to the diagonal; see `absolute_ridge` for a relative one.

    Returns:
        The conditioned process, in float64.

    Raises:
        SingularKernelError: The matrix is not positive definite.
        ShapeError: Sizes do not match.

    Example:
        >>> k = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
        >>> condition(k, torch.tensor([[3.0], [3.0]])).weights.flatten().round(decimals=3)
        tensor([1., 1.], dtype=torch.float64)
    """
    gram, targets = _checked(gram, targets)
    shifted = gram.clone()
    shifted.diagonal().add_(ridge)
    factor, info = torch.linalg.cholesky_ex(shifted)
    if int(info) or bool((factor.diagonal() ** 2 < 1e-14 * gram.diagonal().abs().max()).any()):
        raise _singular(gram, ridge)
    return GaussianProcess(factor, torch.cholesky_solve(targets, factor), targets, float(ridge))


def spectrum(gram: Tensor, targets: Tensor) -> Spectrum:
    """Eigendecomposition of a Gram matrix, about ten Cholesky factorisations; tiny negative eigenvalues become 0.

    Raises:
        ShapeError: Sizes do not match.
        SingularKernelError: The matrix holds NaN or infinity, or is clearly not positive semi-definite.
    """
    gram, targets = _checked(gram, targets)
    if not bool(gram.isfinite().all()):
        raise _singular(gram, 0.0)
    values, vectors = torch.linalg.eigh(gram)
    if float(values[0]) < -1e-6 * float(values[-1].abs()):
        raise _singular(gram, 0.0)
    return Spectrum(values.clamp_min(0.0), vectors, targets)


def fits_memory(samples: int, matrices: float | int) -> bool:
    """Whether that many square float64 matrices of this many samples fit 90 % of the available memory."""
    return matrices * samples**2 * 8 <= 0.9 * available_memory()


def check_memory(samples: int, matrices: float | int, what: str, how: str = "") -> None:
    """Refuse before starting when `matrices` square float64 matrices of this many samples do not fit.

    Args:
        samples: Rows of each matrix.
        matrices: How many are held at once; half a one for a packed triangle.
        what: The step, for the message.
        how: How to fit on fewer samples, for the message.

    Raises:
        MemoryBudgetError: With the estimate and what is available.
    """
    needed, available = matrices * samples**2 * 8, available_memory()
    if not fits_memory(samples, matrices):
        most = int(math.sqrt(0.9 * available / (8 * matrices)))
        raise MemoryBudgetError(
            explain(
                f"at most {0.9 * available / 2**20:,.0f} MiB (90 % of what is available)",
                f"{needed / 2**20:,.0f} MiB for {matrices:g} float64 matrices of {samples:,} x {samples:,}",
                what,
                f"fit on at most {most:,} samples{how}",
            )
        )


def _checked(gram: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or targets.ndim != 2 or len(targets) != len(gram):
        raise ShapeError(
            explain(
                "a square kernel (n, n) and targets (n, outputs)",
                f"{tuple(gram.shape)} and {tuple(targets.shape)}",
                "Gaussian process",
                "pass the kernel of the training inputs with themselves",
            )
        )
    return gram.detach().double(), targets.detach().double()


def _singular(gram: Tensor, ridge: float) -> SingularKernelError:
    if not bool(gram.isfinite().all()):
        got, remedy = "NaN or infinity in it", "check the inputs and the weight variances"
    elif pair := _duplicates(gram):
        got = f"equal inputs, samples {pair[0]} and {pair[1]}, with ridge {ridge:.3g}"
        remedy = "remove duplicates, or give a ridge, for instance ridge=1e-4"
    else:
        got, remedy = f"a singular matrix at ridge {ridge:.3g}", "give a larger ridge, for instance ridge=1e-4"
    return SingularKernelError(explain("a positive definite kernel", got, f"kernel of {len(gram)} samples", remedy))


def _duplicates(gram: Tensor) -> tuple[int, int] | None:
    """The first two samples at distance zero in the kernel's own metric."""
    own = gram.diagonal()
    for row in range(len(gram) - 1):
        distance = own[row] + own[row + 1 :] - 2 * gram[row, row + 1 :]
        close = (distance <= 1e-12 * own[row].abs().clamp_min(1e-300)).nonzero()
        if len(close):
            return row, row + 1 + int(close[0])
    return None
