"""`Kernel`: the one record that rules of the infinite width take and give."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Kernel", "Layout", "position_diagonal"]

Layout = Literal["diagonal", "full"]


@dataclass(frozen=True, eq=False)
class Kernel:
    """Second moments of one node of an infinitely wide network, for every pair of inputs, and the facts rules ask for.

        nngp[i, j] = E[f(x1_i) f(x2_j)]        ntk[i, j] = <df(x1_i)/dtheta, df(x2_j)/dtheta>

    Positions (rows, columns, ...) follow the two axes of pairs: none for vectors; once, `(n1, n2, *spatial)`, in the
    diagonal layout; twice, `(n1, n2, *spatial, *spatial)`, in the full one. Moments are raw, not centred.

    Attributes:
        nngp: Covariance of outputs over random initialisations.
        ntk: Neural tangent kernel; `None` where it was not asked for.
        variance1: `nngp` of each of the first inputs with itself, `(n1, *spatial)` or `(n1, *spatial, *spatial)`.
        variance2: The same for the second inputs.
        spatial: Extent of the spatial axes; `()` for vectors.
        layout: Which pairs of positions are kept.
        channel_axis: Where channels lie in the tensors that this stands for: 1, or -1 (the last).
        gaussian: Units are jointly Gaussian, so that a nonlinearity may follow.
        zero_mean: Units have mean zero given the input, so that an independent branch may be added.
        same: The second inputs are the first ones, sample by sample.

    References:
        Novak et al. 2020, Neural Tangents, arXiv:1912.02803 (the idea of one exchange record).
    """

    nngp: Float[Tensor, "n1 n2 *positions"]
    ntk: Float[Tensor, "n1 n2 *positions"] | None
    variance1: Float[Tensor, "n1 *own"]
    variance2: Float[Tensor, "n2 *own"]
    spatial: tuple[int, ...] = ()
    layout: Layout = "full"
    channel_axis: int = 1
    gaussian: bool = False
    zero_mean: bool = False
    same: bool = False

    def replace(self, **changes: object) -> "Kernel":
        """A record with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    @property
    def tensors(self) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """`nngp`, `ntk`, `variance1`, `variance2`."""
        return self.nngp, self.ntk, self.variance1, self.variance2

    def diagonal(self) -> "Kernel":
        """The record in the diagonal layout: equal positions of both inputs only."""
        if self.layout == "diagonal" or not self.spatial:
            return self.replace(layout="diagonal")
        axes = len(self.spatial)
        pairs = [None if part is None else position_diagonal(part, 2, axes) for part in (self.nngp, self.ntk)]
        sides = [position_diagonal(part, 1, axes) for part in (self.variance1, self.variance2)]
        return self.replace(nngp=pairs[0], ntk=pairs[1], variance1=sides[0], variance2=sides[1], layout="diagonal")

    def point_variances(self) -> tuple[Tensor, Tensor]:
        """Variances of both sides at each position, shaped to broadcast against `nngp`."""
        axes = len(self.spatial)
        full = self.layout == "full"
        first, second = (
            position_diagonal(part, 1, axes) if full and axes else part for part in (self.variance1, self.variance2)
        )
        again = (1,) * axes if full else ()
        left = first.reshape(len(first), 1, *self.spatial, *again)
        return left, second.reshape(1, len(second), *again, *self.spatial)


def position_diagonal(tensor: Tensor, samples: int, axes: int) -> Tensor:
    """Entries with equal positions: `(*samples, *spatial, *spatial)` to `(*samples, *spatial)`."""
    batch, spatial = tensor.shape[:samples], tensor.shape[samples : samples + axes]
    count = spatial.numel()
    return torch.diagonal(tensor.reshape(*batch, count, count), dim1=-2, dim2=-1).reshape(*batch, *spatial)
