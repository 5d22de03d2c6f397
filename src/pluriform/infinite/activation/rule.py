"""The rule of elementwise nonlinearities on jointly Gaussian units."""

import torch
from torch import Tensor

from pluriform.infinite.activation.dual import Dual, Moments
from pluriform.infinite.kernel import Kernel, position_diagonal

__all__ = ["activation", "activation_of_trained_scale"]


def activation(kernel: Kernel, dual: Dual) -> Kernel:
    """A nonlinearity applied to every unit; the input must be Gaussian.

    Where both sides are the same inputs, pairs of an input with itself take the one-argument form: rounding in
    `q11 q22 - q12^2` would leave them half the digits.
    """
    q11, q22 = kernel.point_variances()
    pairs = dual.moments(kernel.nngp, q11, q22)
    first = _own(kernel.variance1, kernel, dual)
    value, slope = pairs.value, pairs.slope
    if kernel.same:
        value = torch.diagonal_scatter(value, first.value.movedim(0, -1), 0, 0, 1)
        if kernel.ntk is not None:
            slope = torch.diagonal_scatter(slope, first.slope.movedim(0, -1), 0, 0, 1)
    return kernel.replace(
        nngp=value,
        ntk=None if kernel.ntk is None else slope * kernel.ntk,
        variance1=first.value,
        variance2=first.value if kernel.same else _own(kernel.variance2, kernel, dual).value,
        gaussian=False,
        zero_mean=kernel.zero_mean and dual.odd,
    )


def activation_of_trained_scale(kernel: Kernel, dual: Dual, tilted: Dual, rate: float) -> Kernel:
    """A nonlinearity of units `gamma u` with trained scales that are 1 at the start.

        Theta' = kappa Theta + rate E[u phi'(u) v phi'(v)]

    Args:
        kernel: Of `u`, without the part of the scales in the NTK.
        dual: Of `phi`.
        tilted: Of `x phi'(x)`.
        rate: Of the scales.
    """
    bent = activation(kernel, dual)
    return bent if bent.ntk is None else bent.replace(ntk=bent.ntk + rate * activation(kernel, tilted).nngp)


def _own(moment: Tensor, kernel: Kernel, dual: Dual) -> Moments:
    """Moments of inputs with themselves: the one-argument form on equal positions."""
    axes = len(kernel.spatial)
    if kernel.layout == "diagonal" or not axes:
        return dual.own(moment)
    variances = position_diagonal(moment, 1, axes).flatten(1)
    square = moment.reshape(*variances.shape, variances.shape[1])
    pairs, own = dual.moments(square, variances[:, :, None], variances[:, None, :]), dual.own(variances)
    return Moments(
        torch.diagonal_scatter(pairs.value, own.value, 0, 1, 2).reshape(moment.shape),
        torch.diagonal_scatter(pairs.slope, own.slope, 0, 1, 2).reshape(moment.shape),
    )
