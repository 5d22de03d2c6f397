"""What operations without weights do to channels: axes moved, merged, split, joined, combined.

Rules as in `channel_rules`.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType

from torch import nn

from pluriform.graph.flow import Axes, ChannelFlow, Rule
from pluriform.graph.graph import Node
from pluriform.graph.layout import Layout, Span, length_of
from pluriform.graph.ops import Op

__all__ = ["SHAPE_RULES", "broadcast"]

ELEMENTWISE = frozenset({"masked_fill", "masked_fill_", "maximum", "minimum", "where"})
"""Functions outside the vocabulary that act on each number apart."""


def _reduce(flow: ChannelFlow, node: Node) -> Axes | None:
    dims = node.attributes.get("dim")
    axes = flow.read(node)
    dims = range(len(axes)) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = {dim % len(axes) for dim in dims}
    flow.freeze(tuple(axes[dim] for dim in gone), f"{node} sums over it")
    kept = len(node.shape) == len(axes)
    one = flow.ties.fresh(1, "a reduced axis")
    return tuple(one if dim in gone else layout for dim, layout in enumerate(axes) if kept or dim not in gone)


def _frozen_dim(flow: ChannelFlow, node: Node) -> Axes | None:
    """Operations that mix one axis and keep its length: softmax, normalisation to unit length, rolling."""
    dims = node.attributes.get("dim", node.attributes.get("dims"))
    if dims is None or len(node.inputs) > 1:
        return None
    axes = flow.read(node)
    flow.freeze(tuple(axes[dim] for dim in ((dims,) if isinstance(dims, int) else dims)), f"{node} mixes it")
    return axes


def _reshape(flow: ChannelFlow, node: Node) -> Axes | None:
    """Axes merged and split, block by block of equal length."""
    if len(node.inputs) > 1:
        return None
    axes, shape = flow.read(node), node.shape
    sizes, result, reason = [length_of(layout) for layout in axes], [], f"it is mixed by {node}"
    if 0 in sizes:
        return None
    start = done = 0
    while start < len(axes) or done < len(shape):
        end, until = min(start + 1, len(axes)), min(done + 1, len(shape))
        while (left := math.prod(sizes[start:end])) != (right := math.prod(shape[done:until])):
            end, until = (end + 1, until) if left < right else (end, until + 1)
            if end > len(axes) or until > len(shape):
                return None
        block = axes[start:end]
        if start == 0 and sum(size > 1 for size in sizes[:end]) > 1:
            flow.freeze(block, f"{node} mixes it with the batch")
        merged = flow.flatten(block, reason) if block else flow.ties.fresh(1, "an axis of length one")
        result += flow.unflatten(node, done, merged, shape[done:until], reason) if until > done else []
        start, done = end, until
    if isinstance(flow.module(node), nn.Unflatten):
        _keep_unflatten(flow, node, tuple(result))
    return tuple(result)


def _keep_unflatten(flow: ChannelFlow, node: Node, axes: Axes) -> None:
    module = flow.module(node)
    if isinstance(module, nn.Unflatten) and isinstance(module.dim, int) and -1 not in module.unflattened_size:
        first = module.dim % (len(axes) + 1 - len(module.unflattened_size))
        flow.keep(node, "unflattened_size", *axes[first : first + len(module.unflattened_size)], many=True)


def _permute(flow: ChannelFlow, node: Node) -> Axes | None:
    axes = flow.read(node)
    return tuple(axes[dim] for dim in node.attributes["dims"])


def _expand(flow: ChannelFlow, node: Node) -> Axes | None:
    axes = flow.read(node)
    missing = len(node.shape) - len(axes)
    axes = (*flow.constant(node.shape[:missing], "an expanded axis"), *axes)
    return broadcast(flow, [axes, flow.constant(node.shape, "an expanded axis")], node, tied=False)


def _elementwise(flow: ChannelFlow, node: Node) -> Axes | None:
    return broadcast(flow, [flow.read(node, position) for position in range(len(node.inputs))], node)


def broadcast(flow: ChannelFlow, operands: list[Axes], node: Node, tied: bool = True) -> Axes:
    """Axes of operands aligned from the last; equal lengths are tied, a length of one gives way."""
    rank = max(len(axes) for axes in operands)
    result = []
    for back in range(rank, 0, -1):
        here = [axes[-back] for axes in operands if len(axes) >= back]
        longest = max(here, key=lambda layout: (length_of(layout), flow.ties.free(layout)))
        for layout in here:
            if length_of(longest) == 1 and not flow.ties.free(layout):
                continue  # It may still spread over the others.
            if length_of(layout) < length_of(longest):
                flow.ties.freeze(layout, f"{node} spreads it over another axis")
            elif tied or length_of(longest) == 1:
                flow.ties.tie(layout, longest, f"it is not aligned with the other operand of {node}")
        result.append(flow.ties.resolve(longest))
    return tuple(result)


def _concat(flow: ChannelFlow, node: Node) -> Axes | None:
    operands = [flow.read(node, position) for position in range(len(node.inputs))]
    if len({len(axes) for axes in operands}) != 1:
        return None
    dim, first = node.attributes["dim"] % len(node.shape), operands[0]
    for axes in operands[1:]:
        for axis in set(range(len(first))) - {dim}:
            flow.ties.tie(axes[axis], first[axis], f"it is not aligned with the other parts of {node}")
    joined = tuple(span for axes in operands for span in axes[dim])
    return (*first[:dim], joined, *first[dim + 1 :])


def _stack(flow: ChannelFlow, node: Node) -> Axes | None:
    operands = [flow.read(node, position) for position in range(len(node.inputs))]
    axes, dim = broadcast(flow, operands, node), node.attributes["dim"]
    return (*axes[:dim], flow.ties.fresh(len(operands), "a stack"), *axes[dim:])


def _matmul(flow: ChannelFlow, node: Node) -> Axes | None:
    """Batched product: the axis that is summed over is fixed."""
    left, right = flow.read(node), flow.read(node, 1)
    if min(len(left), len(right)) < 2:
        return None
    flow.freeze((left[-1], right[-2]), f"{node} sums over it")
    batch = broadcast(flow, [left[:-2], right[:-2]], node) if len(left) + len(right) > 4 else ()
    return (*batch, left[-2], right[-1])


def _pad(flow: ChannelFlow, node: Node) -> Axes | None:
    axes, pairs = list(flow.read(node)), node.attributes["padding"]
    for axis, (before, after) in enumerate(pairs, len(axes) - len(pairs)):
        if (before, after) != (0, 0):
            if node.attributes["mode"] != "constant" or min(before, after) < 0:
                flow.ties.freeze(axes[axis], f"{node} pads it")
                axes[axis] = flow.ties.fresh(node.shape[axis], "a padded axis")
            else:
                sides = [flow.ties.fresh(count, f"{node} pads it") if count else () for count in (before, after)]
                axes[axis] = (*sides[0], *axes[axis], *sides[1])
    return tuple(axes)


def _slice(flow: ChannelFlow, node: Node) -> Axes | None:
    """Axes taken whole are followed; what is cut is fixed, since the code holds the place of the cut."""
    index, axes = node.attributes.get("index"), flow.read(node)
    if len(node.inputs) > 1 or ("dim" not in node.attributes and index is None):
        return None
    if "dim" in node.attributes:
        dim = node.attributes["dim"] % len(axes)
        flow.ties.freeze(axes[dim], f"{node} cuts it")
        kept = flow.constant(node.shape[dim : dim + 1], "a slice") if len(node.shape) == len(axes) else ()
        return (*axes[:dim], *kept, *axes[dim + 1 :])
    items = index if isinstance(index, tuple) else (index,)
    if not all(item is None or item is Ellipsis or type(item) is slice or isinstance(item, int) for item in items):
        return None
    whole = len(axes) - sum(item is not None and item is not Ellipsis for item in items)
    at = next((place for place, item in enumerate(items) if item is Ellipsis), len(items))
    items = (*items[:at], *[slice(None)] * whole, *items[at + 1 :])
    result, left = [], list(axes)
    for item in items:
        if item is None:
            result.append(flow.ties.fresh(1, "a new axis"))
            continue
        layout = left.pop(0)
        if item == slice(None):
            result.append(layout)
            continue
        flow.ties.freeze(layout, f"{node} cuts it")
        if isinstance(item, slice):
            length = len(range(*item.indices(length_of(layout))))
            result.append(flow.ties.fresh(length, "a slice"))
    return tuple(result)


def _split(flow: ChannelFlow, node: Node) -> None:
    """Equal parts are tied, so that they stay equal; unequal ones are fixed by the lengths in the code."""
    axes, parts = flow.read(node), node.shape
    if node.attributes.get("unbind"):
        dim = node.attributes["dim"]
        flow.ties.freeze(axes[dim], f"{node} cuts it")
        flow.parts[node.name] = tuple((*axes[:dim], *axes[dim + 1 :]) for _ in parts)
        return
    changed = [axis for axis in range(len(axes)) if any(part[axis] != length_of(axes[axis]) for part in parts)]
    if any(len(part) != len(axes) for part in parts) or len(changed) > 1:
        return
    dim = changed[0] if changed else 0
    lengths, reason = [part[dim] for part in parts], f"{node} cuts it"
    if sum(lengths) != length_of(axes[dim]):
        return
    if len(set(lengths)) > 1 or dim == 0:
        flow.ties.freeze(axes[dim], reason)
    pieces = flow.ties.split(axes[dim], lengths, reason)
    for piece in pieces[1:] if len(set(lengths)) == 1 else []:
        flow.ties.tie(piece, pieces[0], reason)
    flow.parts[node.name] = tuple((*axes[:dim], piece, *axes[dim + 1 :]) for piece in pieces)


def _item(flow: ChannelFlow, node: Node) -> Axes | None:
    parts, index = flow.parts.get(node.inputs[0], ()), node.attributes.get("index")
    return parts[index] if isinstance(index, int) and -len(parts) <= index < len(parts) else None


def _opaque(flow: ChannelFlow, node: Node) -> Axes | None:
    if node.module is not None or node.attributes.get("function") not in ELEMENTWISE:
        return None
    return _elementwise(flow, node)


def _glu(flow: ChannelFlow, node: Node) -> Axes | None:
    axes, dim = flow.read(node), node.attributes.get("dim", -1)
    half = length_of(axes[dim]) // 2
    first, second = flow.ties.split(axes[dim], [half, half], f"{node} cuts it")
    flow.ties.tie(first, second, f"{node} multiplies its halves")
    return tuple(first if axis == dim % len(axes) else layout for axis, layout in enumerate(axes))


def _pixel_shuffle(flow: ChannelFlow, node: Node) -> Axes | None:
    axes = flow.read(node)
    if len(axes) != 4:
        return None
    before, after = length_of(axes[1]), node.shape[1]
    flow.freeze(axes[2:], f"{node} moves it")
    channels = _gathered(flow, axes[1], before // after, node) if before > after else _spread(axes[1], after // before)
    return (axes[0], channels, *flow.constant(node.shape[2:], "a spatial axis"))


def _fold(flow: ChannelFlow, node: Node) -> Axes | None:
    axes = flow.read(node)
    if len(axes) != 3 or len(node.shape) != 4:
        return None
    channels = _gathered(flow, axes[1], length_of(axes[1]) // node.shape[1], node)
    return (axes[0], channels, *flow.constant(node.shape[2:], "a spatial axis"))


def _unfold(flow: ChannelFlow, node: Node) -> Axes | None:
    axes = flow.read(node)
    if len(axes) != 4 or len(node.shape) != 3:
        return None
    flow.freeze(axes[2:], f"{node} slides over it")
    channels = _spread(axes[1], node.shape[1] // length_of(axes[1]))
    return (axes[0], channels, *flow.constant(node.shape[2:], "a spatial axis"))


def _gathered(flow: ChannelFlow, layout: Layout, repeat: int, node: Node) -> Layout:
    """One channel from each block of `repeat`."""
    blocks = flow.ties.fresh(length_of(layout) // repeat)
    flow.ties.tie(layout, _spread(blocks, repeat), f"{node} moves it")
    return flow.ties.resolve(blocks)


def _spread(layout: Layout, repeat: int) -> Layout:
    return tuple(Span(span.channels, span.size, span.repeat * repeat) for span in layout)


SHAPE_RULES: Mapping[Op, Rule] = MappingProxyType(
    {
        **dict.fromkeys((Op.MEAN, Op.SUM, Op.MAX), _reduce),
        **dict.fromkeys((Op.SOFTMAX, Op.NORMALIZE, Op.ROLL), _frozen_dim),
        **dict.fromkeys((Op.FLATTEN, Op.RESHAPE), _reshape),
        **dict.fromkeys((Op.ADD, Op.SUBTRACT, Op.MULTIPLY, Op.DIVIDE), _elementwise),
        Op.PERMUTE: _permute,
        Op.EXPAND: _expand,
        Op.CONCAT: _concat,
        Op.STACK: _stack,
        Op.MATMUL: _matmul,
        Op.PAD: _pad,
        Op.SLICE: _slice,
        Op.SPLIT: _split,
        Op.ITEM: _item,
        Op.GLU: _glu,
        Op.OPAQUE: _opaque,
        Op.PIXEL_SHUFFLE: _pixel_shuffle,
        Op.FOLD: _fold,
        Op.UNFOLD: _unfold,
    }
)
