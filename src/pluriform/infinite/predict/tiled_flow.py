"""The trained ensemble at the end of training, exactly, with kernels in packed tiles: for more samples than fit dense.

mean = T alpha,   alpha = (Theta + r)^-1 Y,   g = (Theta + r)^-1 T'
variance = k_** + g'K g - 2 g'K_X*              where all layers train
variance = k_** - K_*X (K + r)^-1 K_X*          where the last one does
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from pluriform.gaussian_process.conjugate_gradients import tiled_product
from pluriform.gaussian_process.exact import Cross, Outputs
from pluriform.gaussian_process.tiled_cholesky import tiled_solve
from pluriform.gaussian_process.tiles import PackedTiles

__all__ = ["TiledFlow"]


@dataclass(frozen=True, eq=False)
class TiledFlow:
    """What is needed to predict at new points; a variance costs `O(n^2)` a point.

    Attributes:
        weights: `alpha`, `(n, outputs)`.
        factor: Cholesky factor of the flowing kernel with its ridge.
        nngp: `K` of the training inputs; `None` where it is what flows.
    """

    weights: Outputs
    factor: PackedTiles
    nngp: PackedTiles | None

    def mean(self, cross: Cross) -> Float[Tensor, "m outputs"]:
        """Ensemble mean; `cross` is `Theta_*X` (or `K_*X` where that flows), `(m, n)`."""
        return cross @ self.weights

    def variance(self, cross: Cross, nngp: Cross, own: Float[Tensor, "m"]) -> Float[Tensor, "m"]:
        """Ensemble variance of each output; `nngp` is `K_*X`, `(m, n)`, and `own` the diagonal of `K_**`, `(m,)`.

        Not differentiable.
        """
        cross, nngp = cross.detach(), nngp.detach()
        if self.nngp is None:
            half = tiled_solve(self.factor, cross.T, half=True)
            return (own - (half**2).sum(0)).clamp_min(0.0)
        gain = tiled_solve(self.factor, cross.T)
        change = tiled_product(self.nngp)(gain) - 2 * nngp.T
        return (own + (gain * change).sum(0)).clamp_min(0.0)
