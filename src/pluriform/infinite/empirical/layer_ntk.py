"""The NTK of the weight of one linear or convolutional layer, contracted in the cheaper of two orders."""

import torch
from jaxtyping import Float
from torch import Tensor

from pluriform.infinite.empirical.contraction import Over, contract

__all__ = ["Factors", "bilinear_ntk", "explicit_cost", "explicit_ntk", "gram_cost", "gram_ntk"]

Factors = tuple[Tensor, Tensor]
"""Patches `a`, `(n, groups, I, P)`, and cotangents `b`, `(n, outputs, groups, Q, P)`, P positions."""


def bilinear_ntk(left: Factors, right: Factors, over: Over) -> Float[Tensor, "n1 n2 *pairs"]:
    """The cheaper of `gram_ntk` and `explicit_ntk`, by counted operations.

    Args:
        left: Factors of the first inputs; the same object as `right` counts once.
        right: Factors of the second inputs.
        over: Pairs of outputs.
    """
    cheaper = gram_ntk if gram_cost(left, right, over) <= explicit_cost(left, right, over) else explicit_ntk
    return cheaper(left, right, over)


def gram_cost(left: Factors, right: Factors, over: Over) -> int:
    """Multiplications of `gram_ntk`."""
    (n1, groups, patch, p1), (n2, *_, p2) = left[0].shape, right[0].shape
    o1, o2, width = left[1].shape[1], right[1].shape[1], left[1].shape[3]
    pairs = o1 * o2 if over == "full" else o1
    return n1 * n2 * p1 * p2 * groups * (patch + pairs * (width + 1))


def explicit_cost(left: Factors, right: Factors, over: Over) -> int:
    """Multiplications of `explicit_ntk`."""
    (n1, groups, patch, p1), (n2, *_, p2) = left[0].shape, right[0].shape
    o1, o2, width = left[1].shape[1], right[1].shape[1], left[1].shape[3]
    size = groups * patch * width
    forming = n1 * o1 * p1 + (0 if left is right else n2 * o2 * p2)
    return size * (forming + n1 * n2 * (o1 * o2 if over == "full" else o1))


def explicit_ntk(left: Factors, right: Factors, over: Over) -> Float[Tensor, "n1 n2 *pairs"]:
    """Form the gradients `sum_p b_p a_p'`, then contract them."""
    first = _gradients(left)
    return contract(first, first if left is right else _gradients(right), over)


def _gradients(factors: Factors) -> Float[Tensor, "n outputs weights"]:
    a, b = factors
    (n, groups, patch, _), (outputs, width) = a.shape, (b.shape[1], b.shape[3])
    if groups == 1:
        return (b.reshape(n, outputs * width, -1) @ a[:, 0].transpose(1, 2)).reshape(n, outputs, width * patch)
    return (b @ a[:, None].transpose(3, 4)).reshape(n, outputs, groups * width * patch)


def gram_ntk(left: Factors, right: Factors, over: Over) -> Float[Tensor, "n1 n2 *pairs"]:
    """`sum_pp' (a_p . a'_p') (b_p . b'_p')`: inner products of patches and of cotangents over all pairs of positions."""
    n1, n2 = len(left[0]), len(right[0])
    p1, p2 = left[0].shape[3], right[0].shape[3]
    inner = _rows(left[0]) @ _rows(right[0]).transpose(1, 2)
    o1, o2 = left[1].shape[1], right[1].shape[1]

    def paired(first: Tensor, second: Tensor) -> Tensor:
        """Of cotangents `(n, groups, Q, P)`: `(n1, n2)`."""
        products = inner * (_rows(first) @ _rows(second).transpose(1, 2))
        return products.sum(0).reshape(n1, p1, n2, p2).sum((1, 3))

    if over == "trace":
        return paired(_joined(left[1]), _joined(right[1]))
    if over == "diagonal":
        return torch.stack([paired(left[1][:, o], right[1][:, o]) for o in range(o1)], 2)
    rows = [torch.stack([paired(left[1][:, o], right[1][:, p]) for p in range(o2)], 2) for o in range(o1)]
    return torch.stack(rows, 2)


def _rows(x: Float[Tensor, "n groups size positions"]) -> Float[Tensor, "groups rows size"]:
    return x.permute(1, 0, 3, 2).flatten(1, 2)


def _joined(b: Float[Tensor, "n outputs groups width positions"]) -> Float[Tensor, "n groups size positions"]:
    """Outputs and channels as one axis, which the trace sums over."""
    return b.transpose(1, 2).flatten(2, 3)
