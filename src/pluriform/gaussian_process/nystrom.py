"""Nystrom's approximation: a Gaussian process seen through `m` inducing samples, linear in the training samples.

    Q = K_nm K_mm^-1 K_mn        psi(x) = P' k_m(x),  so that  Q(x, x') = psi(x)'psi(x')
    mean = psi_*' (S + r)^-1 sum_i psi_i y_i'        variance = k_** - q_** + r psi_*' (S + r)^-1 psi_*

with `P` chosen such that `sum_i psi_i psi_i' = S` is diagonal, which makes every ridge `r` as cheap as one. The mean is
that of the subset of regressors; the variance is the deterministic training conditional (DTC): it returns to the prior
`k_**` far from the inducing samples, where that of the subset of regressors vanishes.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pluriform.errors import EmptySplitError, SingularKernelError, explain
from pluriform.gaussian_process.exact import Square

__all__ = ["CUTOFF", "InducingProcess", "condition_on_inducing", "whitening"]

CUTOFF = 1e-10  # Directions of K_mm below this share of the largest carry rounding only.


@dataclass(frozen=True, eq=False)
class InducingProcess:
    """A Gaussian process conditioned on any number of samples through `m` inducing ones.

    Attributes:
        projection: `P`, `(m, rank)`.
        strengths: Diagonal of `S`, rising, `(rank,)`.
        moments: `sum_i psi_i y_i'`, `(rank, outputs)`.
        energy: `sum_i y_i^2`, `(outputs,)`.
        samples: Training samples seen.

    References:
        Williams & Seeger 2001, Using the Nystrom Method to Speed Up Kernel Machines.
        Quinonero-Candela & Rasmussen 2005, A Unifying View of Sparse Approximate Gaussian Process Regression.
    """

    projection: Float[Tensor, "m rank"]
    strengths: Float[Tensor, "rank"]
    moments: Float[Tensor, "rank outputs"]
    energy: Float[Tensor, "outputs"]
    samples: int

    def weights(self, ridge: float | int) -> Float[Tensor, "m outputs"]:
        """Coefficients of the kernel with the inducing samples: the mean is `k_*m` times them."""
        return self.projection @ (self.moments / (self.strengths + ridge)[:, None])

    def mean(self, cross: Float[Tensor, "points m"], ridge: float | int) -> Float[Tensor, "points outputs"]:
        """Posterior mean; `cross` is `k(x_*, inducing)`, `(points, m)`."""
        return cross @ self.weights(ridge)

    def variance(
        self, cross: Float[Tensor, "points m"], own: Float[Tensor, "points"], ridge: float | int
    ) -> Float[Tensor, "points"]:
        """DTC variance of the noise-free function; `own` is `k(x_*, x_*)`."""
        kept = self.strengths / (self.strengths + ridge)
        return (own - ((cross @ self.projection) ** 2) @ kept).clamp_min(0.0)

    def leave_one_out(
        self, cross: Float[Tensor, "points m"], targets: Float[Tensor, "points outputs"], ridge: float | int
    ) -> Float[Tensor, "points outputs"]:
        """Predictions of training samples without themselves, the inducing samples held fixed.

        Args:
            cross: Kernel of these training samples with the inducing ones; any block of them.
            targets: Their targets.
            ridge: Absolute ridge, above 0.
        """
        features = cross @ self.projection
        leverage = (features**2) @ (1.0 / (self.strengths + ridge))
        residuals = targets - cross @ self.weights(ridge)
        return targets - residuals / (1.0 - leverage).clamp_min(1e-12)[:, None]

    def log_marginal_likelihood(self, ridge: float | int) -> float:
        """Log evidence of the targets under `N(0, Q + ridge I)`, summed over outputs; `ridge` above 0."""
        shifted, outputs = self.strengths + ridge, len(self.energy)
        fit = float((self.energy.sum() - (self.moments**2 / shifted[:, None]).sum()) / ridge)
        volume = float(shifted.log().sum()) + (self.samples - len(shifted)) * math.log(ridge)
        return -0.5 * (fit + outputs * (volume + self.samples * math.log(2 * math.pi)))


def whitening(gram: Square) -> Float[Tensor, "m rank"]:
    """`W` with `W'KW = I` over the directions of a kernel matrix that rise above rounding.

    Raises:
        SingularKernelError: The matrix holds NaN or infinity, or is zero.
    """
    gram = gram.detach().double()
    values, vectors = torch.linalg.eigh(gram if bool(gram.isfinite().all()) else torch.zeros_like(gram))
    kept = values > CUTOFF * values[-1]
    if not bool(kept.any()):
        remedy = "check the inputs and the weight variances"
        got = "NaN, infinity or zeros only"
        raise SingularKernelError(explain("a positive kernel", got, f"kernel of {len(gram)} inducing samples", remedy))
    return vectors[:, kept] / values[kept].sqrt()


def condition_on_inducing(gram: Square, blocks: Iterable[tuple[Tensor, Tensor]]) -> InducingProcess:
    """Condition on training samples that pass by in blocks; `O(n m^2)` time, `O(m^2)` memory.

    Args:
        gram: Kernel of the inducing samples, `(m, m)`.
        blocks: For each block of training samples the kernel with the inducing ones, `(rows, m)`, and the targets,
            `(rows, outputs)`, centred.

    Returns:
        The process; every ridge is then `O(m^2)`.

    Raises:
        SingularKernelError: The kernel of the inducing samples cannot be used.
        EmptySplitError: There are no blocks.

    Example:
        >>> k = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
        >>> condition_on_inducing(k, [(k, torch.tensor([[3.0], [3.0]]))]).mean(k, ridge=1.0).flatten()
        tensor([2.2500, 2.2500], dtype=torch.float64)
    """
    root, normal, moments, energy, samples = whitening(gram), None, None, None, 0
    for cross, targets in blocks:
        features, values = cross.detach().double() @ root, targets.detach().double()
        parts = features.T @ features, features.T @ values, (values**2).sum(0)
        normal = parts[0] if normal is None else normal + parts[0]
        moments = parts[1] if moments is None else moments + parts[1]
        energy = parts[2] if energy is None else energy + parts[2]
        samples += len(values)
    if normal is None or moments is None or energy is None:
        raise EmptySplitError(explain("training samples", "none", "condition_on_inducing", "pass at least one block"))
    strengths, turn = torch.linalg.eigh(normal)
    return InducingProcess(root @ turn, strengths.clamp_min(0.0), turn.T @ moments, energy, samples)
