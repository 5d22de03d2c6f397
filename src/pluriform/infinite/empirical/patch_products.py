"""Inner products of the patches of a layer's input, over all pairs of inputs and positions.

Patches of a convolution overlap. With cells c of the padded input and taps t,

    a_p . a'_p' = sum_t x_c(p,t) . x'_c(p',t)

so that inner products of cells, added along taps, replace those of patches, at up to as many times less work as a patch
has taps.
"""

import itertools
import math

from jaxtyping import Float
from torch import Tensor

from pluriform.infinite.empirical.layer import Layer, padded

__all__ = ["patch_products", "product_cost"]


def product_cost(layer: Layer, shape: tuple[int, ...], positions: int) -> int:
    """Multiplications and additions for each pair of positions.

    Args:
        layer: A linear or convolutional layer.
        shape: Of its input, the batch axis first.
        positions: Of its output.
    """
    channels, patch = _channels(layer), _patch(layer)
    if layer.kind != "conv":
        return patch
    return min(patch, _cells(layer, shape) ** 2 * channels // positions**2 + math.prod(_kernel(layer)))


def patch_products(
    layer: Layer, left: Float[Tensor, "n1 *shape"], right: Float[Tensor, "n2 *shape"]
) -> Float[Tensor, "groups rows columns"]:
    """`a_p . a'_p'` of every group; inputs and positions of either side are the rows and columns.

    Args:
        layer: A linear or convolutional layer.
        left: Its inputs on the first batch.
        right: On the second batch.
    """
    if layer.kind == "conv":
        positions = math.prod(layer.node.shape[2:])
        if product_cost(layer, tuple(left.shape), positions) < _patch(layer):
            return _along_taps(layer, left, right)
    return _rows(layer.patches(left)) @ _rows(layer.patches(right)).transpose(1, 2)


def _along_taps(layer: Layer, left: Tensor, right: Tensor) -> Tensor:
    facts, counts = layer.node.attributes, tuple(layer.node.shape[2:])
    first, second = padded(left, layer.node), padded(right, layer.node)
    lengths, groups = tuple(first.shape[2:]), layer.groups
    cells = _rows(first.flatten(2).unflatten(1, (groups, -1))) @ _rows(
        second.flatten(2).unflatten(1, (groups, -1))
    ).transpose(1, 2)
    cells = cells.view(groups, len(first), *lengths, len(second), *lengths)
    total = cells.new_zeros(groups, len(first), *counts, len(second), *counts)
    for tap in itertools.product(*(range(length) for length in _kernel(layer))):
        window = tuple(
            slice(t * d, t * d + s * (count - 1) + 1, s)
            for t, d, s, count in zip(tap, facts["dilation"], facts["stride"], counts, strict=True)
        )
        total += cells[(slice(None), slice(None), *window, slice(None), *window)]
    return total.view(groups, len(first) * math.prod(counts), len(second) * math.prod(counts))


def _kernel(layer: Layer) -> tuple[int, ...]:
    return tuple(layer.node.attributes["kernel_size"])


def _channels(layer: Layer) -> int:
    """Input channels of a group."""
    return layer.shape[0] // layer.groups if layer.kind == "conv_transpose" else layer.shape[1]


def _patch(layer: Layer) -> int:
    return _channels(layer) * (math.prod(_kernel(layer)) if layer.kind == "conv" else 1)


def _cells(layer: Layer, shape: tuple[int, ...]) -> int:
    """Positions of the padded input."""
    sides = layer.node.attributes["padding"]
    return math.prod(length + low + high for length, (low, high) in zip(shape[2:], sides, strict=True))


def _rows(x: Tensor) -> Tensor:
    """`(n, groups, size, positions)` as `(groups, n * positions, size)`."""
    return x.permute(1, 0, 3, 2).flatten(1, 2)
