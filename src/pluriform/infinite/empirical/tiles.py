"""A kernel tile by tile, so that derivatives of few inputs and outputs are held at a time."""

from collections.abc import Callable, Iterator
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

    @property
    def over(self) -> Over:
        """Pairs of outputs."""
        ...

    def prepare(self, x: Tensor) -> Any:
        """What serves all outputs of a batch."""
        ...

    def side(self, prepared: Any, block: slice) -> Any:
        """What a batch contributes for a block of outputs."""
        ...

    def kernel(self, left: Any, right: Any) -> Tensor:
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


@dataclass(frozen=True)
class _Half:
    """Inputs and outputs on one side of a tile."""

    part: slice
    block: slice


def tiled(method: Method, x1: Tensor, x2: Tensor | None, size: TileSize) -> Float[Tensor, "n1 n2 *pairs"]:
    """The whole kernel; of a batch with itself tiles on and above the diagonal are computed, the others mirrored.

    Args:
        method: The algorithm.
        x1: First inputs.
        x2: Second inputs; `None` takes the first.
        size: Of a tile.

    Returns:
        `(n1, n2, O, O)`, `(n1, n2)` or `(n1, n2, O)`; the trace divided by O.
    """
    over, outputs, n2 = method.over, method.subject.outputs, len(x1 if x2 is None else x2)
    pairs = {"full": (outputs, outputs), "trace": (), "diagonal": (outputs,)}[over]
    whole = x1.new_zeros(len(x1), n2, *pairs, dtype=method.subject.dtype)
    for row, column, tile in _tiles(method, x1, x2, size):
        _add(whole, tile, row, column, over)
        if x2 is None and row != column:
            mirrored = tile.transpose(0, 1)
            _add(whole, mirrored.transpose(2, 3) if over == "full" else mirrored, column, row, over)
    return whole / outputs if over == "trace" else whole


def _tiles(method: Method, x1: Tensor, x2: Tensor | None, size: TileSize) -> Iterator[tuple[_Half, _Half, Tensor]]:
    """Every tile; one side is kept along a row, and one prepared batch of either side."""
    rows, columns = _halves(method, x1, size), _halves(method, x1 if x2 is None else x2, size)
    first = _latest(lambda start, stop: method.prepare(x1[start:stop]))
    second = (
        first
        if x2 is None and len(x1) <= size.inputs
        else _latest(lambda start, stop: method.prepare((x1 if x2 is None else x2)[start:stop]))
    )
    for i, row in enumerate(rows):
        left = method.side(first(row.part.start, row.part.stop), row.block)
        for j, column in enumerate(columns):
            if (x2 is None and j < i) or (method.over != "full" and row.block != column.block):
                continue
            own = x2 is None and i == j
            right = left if own else method.side(second(column.part.start, column.part.stop), column.block)
            yield row, column, method.kernel(left, right)


def _latest(prepare: Callable[[int, int], Any]) -> Callable[[int, int], Any]:
    """The same function, which remembers its latest result."""
    known: dict[tuple[int, int], Any] = {}

    def remembered(start: int, stop: int) -> Any:
        if (start, stop) not in known:
            known.clear()
            known[start, stop] = prepare(start, stop)
        return known[start, stop]

    return remembered


def _halves(method: Method, x: Tensor, size: TileSize) -> list[_Half]:
    """All sides, blocks of outputs innermost."""
    parts, blocks = _slices(len(x), size.inputs), _slices(method.subject.outputs, size.outputs)
    return [_Half(part, block) for part in parts for block in blocks]


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, max(size, 1))]


def _add(whole: Tensor, tile: Tensor, row: _Half, column: _Half, over: Over) -> None:
    if over == "full":
        whole[row.part, column.part, row.block, column.block] += tile
    elif over == "trace":
        whole[row.part, column.part] += tile
    else:
        whole[row.part, column.part, row.block] += tile
