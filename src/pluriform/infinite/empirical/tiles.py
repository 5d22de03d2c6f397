"""A kernel tile by tile, so that gradients of few inputs and outputs are held at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from pluriform.infinite.empirical.contraction import Over
from pluriform.infinite.empirical.subject import Subject

__all__ = ["Method", "TileSize", "tiled"]


@runtime_checkable
class Method(Protocol):
    """An algorithm for the NTK: what each batch contributes, and the kernel of two such sides."""

    @property
    def subject(self) -> Subject:
        """The network."""
        ...

    def side(self, x: Tensor, block: slice) -> Any:
        """What a batch contributes, for a block of outputs."""
        ...

    def kernel(self, left: Any, right: Any, over: Over) -> Tensor:
        """The kernel of two sides, summed over outputs for the trace."""
        ...


@dataclass(frozen=True)
class TileSize:
    """Extent of a tile on either side.

    Attributes:
        inputs: Inputs.
        outputs: Outputs.
    """

    inputs: int
    outputs: int


def tiled(method: Method, x1: Tensor, x2: Tensor | None, over: Over, size: TileSize) -> Float[Tensor, "n1 n2 *pairs"]:
    """The whole kernel; of a batch with itself tiles on and above the diagonal are computed, the others mirrored.

    Args:
        method: The algorithm.
        x1: First inputs.
        x2: Second inputs; `None` takes the first.
        over: Pairs of outputs.
        size: Of a tile.

    Returns:
        `(n1, n2, O, O)`, `(n1, n2)` or `(n1, n2, O)`; the trace divided by O.
    """
    outputs, n2 = method.subject.outputs, len(x1 if x2 is None else x2)
    pairs = {"full": (outputs, outputs), "trace": (), "diagonal": (outputs,)}[over]
    whole = x1.new_zeros(len(x1), n2, *pairs, dtype=method.subject.dtype)
    for tile, left, right in _sides(method, x1, x2, over, size):
        block = method.kernel(left, right, over)
        _add(whole, block, tile, over)
        if x2 is None and (tile.rows, tile.first) != (tile.columns, tile.second):
            mirrored = block.transpose(0, 1)
            _add(whole, mirrored.transpose(2, 3) if over == "full" else mirrored, tile.mirrored(), over)
    return whole / outputs if over == "trace" else whole


@dataclass(frozen=True)
class _Tile:
    """Inputs and outputs on both sides."""

    rows: slice
    columns: slice
    first: slice
    second: slice

    def mirrored(self) -> "_Tile":
        return _Tile(self.columns, self.rows, self.second, self.first)


def _sides(
    method: Method, x1: Tensor, x2: Tensor | None, over: Over, size: TileSize
) -> Iterator[tuple[_Tile, Any, Any]]:
    """Every tile with what its two sides contribute; the left side is kept along a row."""
    second = x1 if x2 is None else x2
    blocks = _slices(method.subject.outputs, size.outputs)
    rows = [(part, block) for block in blocks for part in _slices(len(x1), size.inputs)]
    columns = [(part, block) for block in blocks for part in _slices(len(second), size.inputs)]
    for i, (row, first) in enumerate(rows):
        left = method.side(x1[row], first)
        for j, (column, other) in enumerate(columns):
            if (x2 is None and j < i) or (over != "full" and first != other):
                continue
            right = left if x2 is None and i == j else method.side(second[column], other)
            yield _Tile(row, column, first, other), left, right


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, max(size, 1))]


def _add(whole: Tensor, block: Tensor, tile: _Tile, over: Over) -> None:
    if over == "full":
        whole[tile.rows, tile.columns, tile.first, tile.second] += block
    elif over == "trace":
        whole[tile.rows, tile.columns] += block
    else:
        whole[tile.rows, tile.columns, tile.first] += block
