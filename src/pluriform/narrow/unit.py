"""One unit of a thin network between its linear maps, and how these maps begin and end."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["UnitNetwork", "mix", "principal", "refitted"]

RIDGE = 1e-6  # Of the mean square of the features.


def mix(inputs: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """A linear map over the channels: `(new, old)` times the numbers along `axis`. Code behind may call `view`."""
    if axis == inputs.ndim - 1:
        return F.linear(inputs, matrix)
    if axis == 1 and inputs.ndim == 4:
        return F.conv2d(inputs, matrix[:, :, None, None])
    if axis == 1 and inputs.ndim == 3:
        return matrix @ inputs
    return F.linear(inputs.movedim(axis, -1), matrix).movedim(-1, axis).contiguous()


def rows(features: Tensor, axis: int) -> Tensor:
    """Channels last, everything else as samples: `(positions, channels)`."""
    return features.movedim(axis, -1).flatten(0, -2)


def principal(features: Tensor, count: int, axis: int) -> Tensor:
    """The `count` leading eigenvectors of the second moment of features, `(channels, count)`, orthonormal columns.

    The moment is not centred, since maps have no bias.
    """
    points = rows(features, axis).double()
    _, vectors = torch.linalg.eigh(points.T @ points)
    return vectors.flip(1)[:, :count].to(features.dtype).contiguous()


def refitted(thin: Tensor, wide: Tensor, axis: int) -> Tensor:
    """The lift `(wide channels, thin channels)` of least squares from thin to wide features, with a small ridge."""
    own, aim = (rows(features, axis).double() for features in (thin, wide))
    moment = own.T @ own
    ridge = RIDGE * moment.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
    moment.diagonal().add_(ridge)
    return torch.linalg.solve(moment, own.T @ aim).T.to(thin.dtype).contiguous()


class UnitNetwork(nn.Module):
    """Stretch `S_i` of a thin network: `U_i S_i(V x)`, or without maps that it does not have.

    Args:
        part: The stretch.
        before: Lift of the unit before, `(wide, thin)`, a constant; `None` where inputs are lifted already.
        reduce: `V`, `(thin, wide)`, trained; `None` for inputs as they are.
        lift: `U_i`, `(wide, thin)`, trained; `None` where outputs are compared as they are.
        axes: Of the channels of inputs and outputs.
    """

    before: Tensor | None

    def __init__(
        self, part: nn.Module, before: Tensor | None, reduce: Tensor | None, lift: Tensor | None, axes: tuple[int, int]
    ) -> None:
        super().__init__()
        self.part, self.axes = part, axes
        self.register_buffer("before", before)
        self.reduce = None if reduce is None else nn.Parameter(reduce.clone())
        self.lift = None if lift is None else nn.Parameter(lift.clone())

    def thin(self, inputs: Tensor) -> Tensor:
        """Output of the stretch, before the lift."""
        if self.reduce is not None:
            matrix = self.reduce if self.before is None else self.reduce @ self.before
            inputs = mix(inputs, matrix, self.axes[0])
        return self.part(inputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Output that is held against the wide network's."""
        found = self.thin(inputs)
        return found if self.lift is None else mix(found, self.lift, self.axes[1])
