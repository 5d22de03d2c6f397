"""Gradient flow with smoothed functions: particles that estimate their own density's gradient by a kernel solve."""

import torch
from jaxtyping import Float
from torch import Tensor

from pluriform.ensemble.particles.kernel import rbf
from pluriform.ensemble.particles.svgd import check_scores
from pluriform.errors import ConfigError, explain

__all__ = ["gfsf_direction"]


@torch.no_grad()
def gfsf_direction(
    particles: Float[Tensor, "member size"],
    scores: Float[Tensor, "member size"],
    ridge: float | int = 1e-2,
    bandwidth: float | int | None = None,
    entropy: float | int = 1.0,
) -> Float[Tensor, "member size"]:
    """∇ log p − ∇ log q at each particle, the density q of the particles estimated by Stein's identity.

    φ = ∇ log p + (K + ridge · I)⁻¹ R,  R_i = Σ_j ∇_{θ_j} k(θ_j, θ_i)

    For E_q[k(θ, ·) ∇ log q(θ) + ∇ k(θ, ·)] = 0, K ∇ log q = −R. Unlike Stein variational gradient descent the scores
    are not smoothed: each particle sees its own. Cost O(member² · size + member³), memory O(member · size).

    Args:
        particles: θ_j, one a row.
        scores: ∇ log p(θ_j), in inverse units of the particles.
        ridge: Added to the diagonal of K, whose own diagonal is one. Too small and the repulsion of close particles is
            rounding noise; too large and it fades (equal particles need some: K is singular there).
        bandwidth: h of the kernel, in squared units of the particles; None is the median heuristic.
        entropy: Weight of the second term, as in `svgd_direction`.

    Returns:
        φ, detached, in the precision of the particles. With one particle it is `scores`.

    Raises:
        ShapeError: Scores of another shape than the particles.
        ConfigError: A ridge that is not positive.

    References:
        Liu, Zhuo, Cheng, Zhang, Zhu: Understanding and accelerating particle-based variational inference. 2019,
        arXiv:1807.01750, section 3.3. Li, Turner: Gradient estimators for implicit models. 2018, arXiv:1705.07107 (the
        ridge).

    Example:
        >>> gfsf_direction(torch.tensor([[-1.0], [1.0]]), torch.zeros(2, 1), bandwidth=4).squeeze()
        tensor([-0.5729,  0.5729])
    """
    check_scores(particles, scores, "gfsf_direction")
    if not ridge > 0:
        raise ConfigError(explain("a positive ridge", f"{ridge}", "gfsf_direction", "0.01 suits a diagonal of one"))
    kernel = rbf(particles, bandwidth)
    system = kernel.matrix + ridge * torch.eye(len(particles), dtype=kernel.matrix.dtype, device=particles.device)
    return scores + (entropy * torch.linalg.solve(system, kernel.repulsion())).to(particles.dtype)
