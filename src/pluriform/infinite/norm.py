"""Rules of normalisation layers."""

from functools import partial

from torch import Tensor

from pluriform.infinite.kernel import Kernel, position_diagonal

__all__ = ["affine", "fixed_affine", "layer_norm", "trained_affine"]


def layer_norm(
    kernel: Kernel, eps: float, *, over_positions: bool, weight_rate: float = 0.0, bias_rate: float = 0.0
) -> Kernel:
    """Normalisation by the second moment over channels, and over positions too where asked.

        K' = K / sqrt((v1 + eps)(v2 + eps))        Theta' = Theta / sqrt((v1 + eps)(v2 + eps))

    Exact in the limit: the derivative through the statistics is of order one over the width. Layer norm needs units
    of mean zero; group norm has the same limit, and so has RMS norm without that condition. Scales of 1 and shifts of
    0, as they start, leave moments alone. Where they are trained they add `weight_rate K' + bias_rate` to the NTK: with
    rates 1 in the standard parameterisation, where all parameters share one learning rate. The NTK parameterisation
    speaks of weights and biases of layers only, and takes scales and shifts as fixed: both rates are 0.
    """
    axes = len(kernel.spatial)

    def spread(own: Tensor) -> Tensor:
        variance = position_diagonal(own, 1, axes) if kernel.layout == "full" and axes else own
        if over_positions and axes:
            variance = variance.flatten(1).mean(1).reshape(-1, *(1,) * axes).expand(variance.shape)
        return (variance + eps).rsqrt()

    first = spread(kernel.variance1)
    second = first if kernel.same else spread(kernel.variance2)
    ones = (1,) * axes
    double = kernel.layout == "full"

    def pairs(part: Tensor) -> Tensor:
        left = first.reshape(len(first), 1, *kernel.spatial, *(ones if double else ()))
        right = second.reshape(1, len(second), *(ones if double else ()), *kernel.spatial)
        return part * left * right

    def own(part: Tensor, factor: Tensor) -> Tensor:
        if not double:
            return part * factor**2
        return part * factor.reshape(*factor.shape, *ones) * factor.reshape(len(factor), *ones, *kernel.spatial)

    variance1 = own(kernel.variance1, first)
    nngp = pairs(kernel.nngp)
    ntk = None if kernel.ntk is None else pairs(kernel.ntk)
    if ntk is not None and (weight_rate or bias_rate):
        ntk = ntk + weight_rate * nngp + bias_rate
    return kernel.replace(
        nngp=nngp,
        ntk=ntk,
        variance1=variance1,
        variance2=variance1 if kernel.same else own(kernel.variance2, second),
    )


def fixed_affine(weight: Tensor, bias: Tensor) -> "partial[Kernel]":
    """The rule of a fixed affine map of every channel, such as batch norm with its stored statistics."""
    shift = float((bias**2).mean())
    return partial(
        affine,
        square=float((weight**2).mean()),
        shift=shift,
        alike=bool((weight == weight[0]).all()) and shift == 0.0,
    )


def affine(kernel: Kernel, square: float, shift: float, *, alike: bool) -> Kernel:
    """A fixed affine map of every channel.

        K' = mean(weight^2) K + mean(bias^2)        Theta' = mean(weight^2) Theta

    Args:
        kernel: Units of mean zero.
        square: Mean square of the weights.
        shift: Mean square of the biases.
        alike: All weights are equal and all biases zero: only then do channels stay alike, and so Gaussian.
    """

    def moment(part: Tensor) -> Tensor:
        return square * part + shift

    return kernel.replace(
        nngp=moment(kernel.nngp),
        ntk=None if kernel.ntk is None else square * kernel.ntk,
        variance1=moment(kernel.variance1),
        variance2=moment(kernel.variance2),
        gaussian=kernel.gaussian and alike,
        zero_mean=kernel.zero_mean and shift == 0.0,
    )


def trained_affine(
    kernel: Kernel,
    square: float,
    shift: float,
    *,
    alike: bool,
    normal: tuple[float, float],
    weight_rate: float,
    bias_rate: float,
) -> Kernel:
    """An affine map of every channel whose scale and shift are trained, after fixed statistics.

    Args:
        kernel: Units of mean zero.
        square: As of `affine`, statistics and scale together.
        shift: As of `affine`.
        alike: As of `affine`.
        normal: `square` and `shift` of the statistics alone: moments of what the scale multiplies.
        weight_rate: Factor of those moments in the NTK.
        bias_rate: What the shift adds to the NTK.
    """
    moved = affine(kernel, square, shift, alike=alike)
    if moved.ntk is None:
        return moved
    return moved.replace(ntk=moved.ntk + weight_rate * (normal[0] * kernel.nngp + normal[1]) + bias_rate)
