"""Rules that join branches: sum, product, concatenation; and scalar multiples.

They hold where branches are independent given the input: the last layers with weights of one branch must not be those
of another. `kernel_function` checks that in the graph.
"""

import math
from collections.abc import Iterable, Sequence
from functools import reduce

import torch
from torch import Tensor

from pluriform.infinite.activation.rule import activation
from pluriform.infinite.activation.series import Hermite
from pluriform.infinite.kernel import Kernel

__all__ = ["concatenate", "concatenate_positions", "gated", "identity", "product", "residual_sum", "scale"]


def residual_sum(*branches: Kernel) -> Kernel:
    """Sum of independent branches, all but one of mean zero: moments add."""
    first = branches[0]
    return first.replace(
        nngp=_sum(k.nngp for k in branches),
        ntk=None if first.ntk is None else _sum(_tangents(branches)),
        variance1=_sum(k.variance1 for k in branches),
        variance2=_sum(k.variance2 for k in branches),
        gaussian=all(k.gaussian for k in branches),
        zero_mean=all(k.zero_mean for k in branches),
    )


def product(*branches: Kernel) -> Kernel:
    """Product of independent branches: `K' = prod K_i`, `Theta' = sum_i Theta_i prod_{j != i} K_j`."""
    first = branches[0]
    ntk = None
    if first.ntk is not None:
        ntk = _sum(
            math.prod((k.nngp for j, k in enumerate(branches) if j != i), start=own)
            for i, own in enumerate(_tangents(branches))
        )
    return first.replace(
        nngp=math.prod((k.nngp for k in branches[1:]), start=first.nngp),
        ntk=ntk,
        variance1=math.prod((k.variance1 for k in branches[1:]), start=first.variance1),
        variance2=math.prod((k.variance2 for k in branches[1:]), start=first.variance2),
        gaussian=False,
        zero_mean=any(k.zero_mean for k in branches),
    )


def concatenate(*branches: Kernel, widths: Sequence[int]) -> Kernel:
    """Concatenation on channels: the mean of moments, weighted by width; units are no longer alike.

    As the output of a network this is the mean of the covariances of all outputs.
    """
    shares = [width / sum(widths) for width in widths]
    first = branches[0]

    def mixed(parts: Sequence[Tensor]) -> Tensor:
        return _sum(share * part for share, part in zip(shares, parts, strict=True))

    return first.replace(
        nngp=mixed([k.nngp for k in branches]),
        ntk=None if first.ntk is None else mixed(_tangents(branches)),
        variance1=mixed([k.variance1 for k in branches]),
        variance2=mixed([k.variance2 for k in branches]),
        gaussian=False,
        zero_mean=all(k.zero_mean for k in branches),
    )


def concatenate_positions(*branches: Kernel, axis: int) -> Kernel:
    """Concatenation along a spatial axis of independent branches, all but one of mean zero: block-diagonal moments."""
    first, axes = branches[0], len(branches[0].spatial)
    lengths = [branch.spatial[axis] for branch in branches]

    def joined(parts: Sequence[Tensor], samples: int) -> Tensor:
        if first.layout == "diagonal":
            return torch.cat(list(parts), samples + axis)
        rows = []
        for place, part in enumerate(parts):
            at = samples + axes + axis
            shape = list(part.shape)
            shape[at] = sum(lengths[:place])
            before = part.new_zeros(shape)
            shape[at] = sum(lengths[place + 1 :])
            rows.append(torch.cat([before, part, part.new_zeros(shape)], at))
        return torch.cat(rows, samples + axis)

    spatial = tuple(sum(lengths) if at == axis else length for at, length in enumerate(first.spatial))
    variance1 = joined([k.variance1 for k in branches], 1)
    return first.replace(
        nngp=joined([k.nngp for k in branches], 2),
        ntk=None if first.ntk is None else joined(_tangents(branches), 2),
        variance1=variance1,
        variance2=variance1 if first.same else joined([k.variance2 for k in branches], 1),
        spatial=spatial,
        gaussian=all(k.gaussian for k in branches),
        zero_mean=all(k.zero_mean for k in branches),
    )


def gated(kernel: Kernel) -> Kernel:
    """Gated linear unit: half of Gaussian channels times the logistic function of the other half, independent of it.

    References:
        Dauphin, Fan, Auli, Grangier 2017, Language Modeling with Gated Convolutional Networks, arXiv:1612.08083.
    """
    return product(kernel, activation(kernel, Hermite("sigmoid")))


def identity(kernel: Kernel) -> Kernel:
    """What does nothing in evaluation mode."""
    return kernel


def scale(kernel: Kernel, factor: float) -> Kernel:
    """Every unit times a constant: moments times its square."""
    square = factor**2
    return kernel.replace(
        nngp=square * kernel.nngp,
        ntk=None if kernel.ntk is None else square * kernel.ntk,
        variance1=square * kernel.variance1,
        variance2=square * kernel.variance2,
    )


def _tangents(branches: Sequence[Kernel]) -> list[Tensor]:
    """The NTKs of branches, all of which carry one or none does."""
    return [branch.ntk for branch in branches if branch.ntk is not None]


def _sum(parts: Iterable[Tensor]) -> Tensor:
    return reduce(torch.add, parts)
