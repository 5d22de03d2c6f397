"""The NTK of the weight of one linear or convolutional layer, contracted in the cheaper of two orders.

With patches `a_p` and cotangents `b_p` at positions p, the gradient of the weight is `sum_p b_p a_p'`, and

    Theta = sum_pp' (a_p . a'_p') (b_p . b'_p')

either by inner products over all pairs of positions (few positions, many channels), or by forming the gradients.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pluriform.infinite.empirical.contraction import Over, contract

__all__ = ["Factors", "Sizes", "explicit_ntk", "gradients", "gram_ntk"]

PIECE = 2**22
"""Numbers of a piece of gradients: larger pieces would be given back to the system and fetched anew each time."""


@dataclass(frozen=True, eq=False)
class Factors:
    """Both factors of the gradient of a weight.

    Attributes:
        a: Patches of the input, `(n, groups, patch, positions)`.
        b: Cotangents of the output, `(n, outputs, groups, width, positions)`.
    """

    a: Float[Tensor, "n groups patch positions"]
    b: Float[Tensor, "n outputs groups width positions"]


@dataclass(frozen=True)
class Sizes:
    """Extents of one layer in one tile, for counting.

    Attributes:
        n1: First inputs.
        n2: Second inputs.
        outputs: Network outputs on a side.
        groups: Groups of the layer.
        patch: Fan-in.
        width: Output channels of a group.
        positions: Positions of the layer's output.
        same: Both sides are the same batch.
        inner: Operations for one inner product of patches.
    """

    n1: int
    n2: int
    outputs: int
    groups: int
    patch: int
    width: int
    positions: int
    same: bool
    inner: int

    def gram(self, over: Over) -> int:
        """Multiplications by inner products over pairs of positions."""
        if over == "full":
            weighting = self.outputs * self.positions * self.width * (self.positions + self.outputs)
            return self.n1 * self.n2 * self.groups * (self.positions**2 * self.inner + weighting)
        pairs = self.n1 * (self.n1 + 1) // 2 if self.same else self.n1 * self.n2
        weighting = pairs * self.outputs * (self.width + 2)
        return self.positions**2 * self.groups * (self.n1 * self.n2 * self.inner + weighting)

    def explicit(self, over: Over) -> int:
        """Multiplications by forming gradients."""
        forming = (self.n1 if self.same else self.n1 + self.n2) * self.outputs * self.positions
        contracting = self.n1 * self.n2 * (self.outputs**2 if over == "full" else self.outputs)
        return self.groups * self.patch * self.width * (forming + contracting)

    def cheaper(self, over: Over) -> str:
        """`"gram"` or `"explicit"`."""
        return "gram" if self.gram(over) <= self.explicit(over) else "explicit"


def explicit_ntk(left: Factors, right: Factors, over: Over) -> Float[Tensor, "n1 n2 *pairs"]:
    """Form the gradients of every input and output, then contract them, some output channels at a time.

    Args:
        left: Of the first inputs.
        right: Of the second inputs; the same object counts once.
        over: Pairs of outputs.
    """
    n, outputs, groups, width, _ = left.b.shape
    size = max(1, PIECE // max(n * outputs * groups * left.a.shape[2], 1))
    total = None
    for start in range(0, width, size):
        first = gradients(left, slice(start, start + size))
        second = first if left is right else gradients(right, slice(start, start + size))
        part = contract(first, second, over)
        total = part if total is None else total.add_(part)
    return contract(left.b.flatten(2)[..., :0], right.b.flatten(2)[..., :0], over) if total is None else total


def gradients(factors: Factors, channels: slice = slice(None)) -> Float[Tensor, "n outputs weights"]:
    """`sum_p b_p a_p'` of some output channels of each group.

    Args:
        factors: Of one batch.
        channels: Output channels.
    """
    a, b = factors.a, factors.b[:, :, :, channels]
    (n, groups, patch, _), (outputs, width) = a.shape, (b.shape[1], b.shape[3])
    if groups == 1:
        return (b.reshape(n, outputs * width, -1) @ a[:, 0].transpose(1, 2)).reshape(n, outputs, width * patch)
    return (b @ a[:, None].transpose(3, 4)).reshape(n, outputs, groups * width * patch)


def gram_ntk(
    left: Float[Tensor, "n1 outputs1 groups width positions1"],
    right: Float[Tensor, "n2 outputs2 groups width positions2"],
    over: Over,
    inner: Float[Tensor, "groups rows columns"],
) -> Float[Tensor, "n1 n2 *pairs"]:
    """Inner products of cotangents over all pairs of positions, weighted by those of patches.

    Args:
        left: Cotangents of the first inputs.
        right: Of the second inputs; of the same object only half of the pairs are computed.
        over: Pairs of outputs.
        inner: `patch_products` of the layer.
    """
    if over == "trace":
        return _paired(_joined(left), _joined(right), inner, same=left is right)
    if over == "diagonal":
        parts = [_paired(left[:, o], right[:, o], inner, same=left is right) for o in range(left.shape[1])]
        return torch.stack(parts, 2)
    return torch.stack([_weighted(left[n], right, inner, n) for n in range(len(left))])


def _weighted(left: Tensor, right: Tensor, inner: Tensor, n: int) -> Float[Tensor, "n2 outputs1 outputs2"]:
    """Of one first input and all second ones, all pairs of outputs: `sum_p' (sum_p (a_p . a'_p') b_p) . b'_p'`."""
    (o1, groups, width, p1), (n2, o2, _, _, p2) = left.shape, right.shape
    block = inner[:, n * p1 : (n + 1) * p1]
    spread = left.transpose(0, 1).reshape(groups, o1 * width, p1) @ block
    rows = spread.view(groups, o1, width, n2, p2).permute(3, 1, 0, 2, 4).reshape(n2, o1, groups * width * p2)
    return rows @ right.reshape(n2, o2, groups * width * p2).transpose(1, 2)


def _paired(left: Tensor, right: Tensor, inner: Tensor, *, same: bool) -> Float[Tensor, "n1 n2"]:
    """Weighted products of cotangents `(n, groups, size, positions)`."""
    n1, n2, p1, p2 = len(left), len(right), left.shape[3], right.shape[3]
    first, second = _rows(left), _rows(right).transpose(1, 2)
    if not same:
        return (inner * (first @ second)).sum(0).reshape(n1, p1, n2, p2).sum((1, 3))
    found = left.new_empty(n1, n1)
    for i in range(n1):
        rows, columns = slice(i * p1, (i + 1) * p1), slice(i * p1, None)
        weighted = inner[:, rows, columns] * (first[:, rows] @ second[:, :, columns])
        found[i, i:] = found[i:, i] = weighted.sum((0, 1)).reshape(n1 - i, p1).sum(1)
    return found


def _rows(x: Tensor) -> Tensor:
    """`(n, groups, size, positions)` as `(groups, n * positions, size)`."""
    return x.permute(1, 0, 3, 2).flatten(1, 2)


def _joined(b: Tensor) -> Tensor:
    """Outputs and channels as one axis, which the trace sums over."""
    return b.transpose(1, 2).flatten(2, 3)
