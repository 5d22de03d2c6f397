"""What each operation does to the channels that pass it.

A rule maps a node to the layouts of its output, or to None where it cannot follow the channels: then everything that the
node reads and writes is fixed. The same happens where the lengths of a rule do not add up to the traced shape.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType

from torch import nn

from pluriform.graph.flow import Axes, ChannelFlow, GroupedConv, NormGroups, Role, Rule, Slot
from pluriform.graph.graph import Node
from pluriform.graph.layout import Layout, Span, length_of
from pluriform.graph.ops import Op

__all__ = ["RULES"]

LAYERS = frozenset({Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE})


def _input(flow: ChannelFlow, node: Node) -> Axes:
    return flow.constant(node.shape, "an input of the network")


def _output(flow: ChannelFlow, node: Node) -> None:
    for name in node.inputs:
        for axes in (flow.axes[name],) if name in flow.axes else flow.parts[name]:
            flow.freeze(axes, "an output of the network")


def _same(flow: ChannelFlow, node: Node) -> Axes | None:
    return flow.read(node) if len(node.inputs) == 1 else None


def _activation(flow: ChannelFlow, node: Node) -> Axes | None:
    axes = _same(flow, node)
    module = flow.module(node)
    if isinstance(module, nn.PReLU) and axes is not None and module.num_parameters > 1:
        flow.follow(node, "weight", 0, axes[1], Role.CARRIER)
        flow.keep(node, "num_parameters", axes[1])
    return axes


def _functional(flow: ChannelFlow, node: Node) -> bool:
    """Whether a function was called with an input and parameters alone."""
    return node.module is None and all(flow.graph[name].op is Op.PARAMETER for name in node.inputs[1:])


def _parameter(flow: ChannelFlow, node: Node) -> Axes:
    """A parameter read by the code; where only linear and convolution functions take it, they register it."""
    weight = flow.parameter(node)
    if weight is None:
        return flow.constant(node.shape, f"{node} is no parameter of the network")
    axes = tuple(axis for length in node.shape for axis in (flow.ties.fresh(length),))
    readers = flow.graph.consumers(node.name)
    if all(reader.op in LAYERS and _functional(flow, reader) and reader.inputs[0] != node.name for reader in readers):
        return flow.constant(node.shape, f"{node} belongs to its readers")
    for axis, layout in enumerate(axes):
        flow.slots.append(Slot(node, weight, axis, layout, Role.CARRIER))
    return axes


def _linear(flow: ChannelFlow, node: Node) -> Axes | None:
    if not isinstance(flow.module(node), nn.Linear) and not _functional(flow, node):
        return None
    axes, out = flow.read(node), flow.ties.fresh(node.shape[-1])
    flow.follow(node, "weight", 1, axes[-1], Role.CONSUMER)
    flow.follow(node, "weight", 0, out, Role.PRODUCER)
    flow.follow(node, "bias", 0, out, Role.PRODUCER)
    flow.keep(node, "in_features", axes[-1])
    flow.keep(node, "out_features", out)
    return (*axes[:-1], out)


def _embedding(flow: ChannelFlow, node: Node) -> Axes | None:
    module = flow.module(node)
    if not isinstance(module, nn.Embedding) or module.max_norm is not None:
        return None
    words, out = flow.ties.fresh(module.num_embeddings, "the rows of an embedding"), flow.ties.fresh(node.shape[-1])
    flow.follow(node, "weight", 0, words, Role.PRODUCER)
    flow.follow(node, "weight", 1, out, Role.PRODUCER)
    flow.keep(node, "embedding_dim", out)
    return (*flow.read(node), out)


def _conv(flow: ChannelFlow, node: Node) -> Axes | None:
    module, facts = flow.module(node), node.attributes
    if not _functional(flow, node) if module is None else not isinstance(module, nn.modules.conv._ConvNd):
        return None
    axes, transposed, groups = flow.read(node), node.op is Op.CONV_TRANSPOSE, facts["groups"]
    channel = len(axes) - 1 - len(facts["kernel_size"])
    inputs, each = axes[channel], facts["out_channels"] // groups
    if groups > 1 and module is None:
        return None
    if groups == 1:
        outputs = flow.ties.fresh(facts["out_channels"])
        flow.follow(node, "weight", 0 if transposed else 1, inputs, Role.CONSUMER)
        flow.follow(node, "weight", 1 if transposed else 0, outputs, Role.PRODUCER)
    elif groups == facts["in_channels"]:
        outputs = tuple(Span(span.channels, span.size, span.repeat * each) for span in inputs)
        flow.follow(node, "weight", 0, inputs if transposed else outputs, Role.CARRIER)
        flow.keep(node, "groups", inputs)
    else:
        outputs = flow.ties.fresh(facts["out_channels"])
        flow.follow_grouped(GroupedConv(node, getattr(module, "weight"), inputs, outputs, groups, transposed))  # noqa: B009
    flow.follow(node, "bias", 0, outputs, Role.PRODUCER if groups in (1, facts["out_channels"]) else Role.CARRIER)
    flow.keep(node, "in_channels", inputs)
    flow.keep(node, "out_channels", outputs)
    flow.freeze(axes[channel + 1 :], f"{node} slides over it")
    return (*axes[:channel], outputs, *flow.constant(node.shape[channel + 1 :], "a spatial axis"))


def _batch_norm(flow: ChannelFlow, node: Node) -> Axes | None:
    """Batch and instance normalisation: each channel apart."""
    if flow.module(node) is None or len(node.inputs) > 1:
        return None
    axes = flow.read(node)
    for name in ("weight", "bias", "running_mean", "running_var"):
        flow.follow(node, name, 0, axes[1], Role.CARRIER)
    flow.keep(node, "num_features", axes[1])
    flow.freeze(axes[2:], f"{node} averages over it")
    return axes


def _group_norm(flow: ChannelFlow, node: Node) -> Axes | None:
    module = flow.module(node)
    if not isinstance(module, nn.GroupNorm):
        return None
    axes = flow.read(node)
    flow.freeze(axes[2:], f"{node} averages over it")
    flow.follow(node, "weight", 0, axes[1], Role.CARRIER)
    flow.follow(node, "bias", 0, axes[1], Role.CARRIER)
    flow.keep(node, "num_channels", axes[1])
    flow.norms.append(NormGroups(node, axes[1], module.num_groups))
    return axes


def _layer_norm(flow: ChannelFlow, node: Node) -> Axes | None:
    """Layer and RMS normalisation over the last axes."""
    module = flow.module(node)
    if not isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return None
    axes = flow.read(node)
    normed = axes[-len(module.normalized_shape) :]
    for axis, layout in enumerate(normed):
        flow.follow(node, "weight", axis, layout, Role.CARRIER)
        flow.follow(node, "bias", axis, layout, Role.CARRIER)
        flow.norms.append(NormGroups(node, layout, 1))
    flow.keep(node, "normalized_shape", *normed, many=True)
    return axes


def _pool(flow: ChannelFlow, node: Node) -> Axes | None:
    """Pooling, resizing, padding without channels: what follows the channel axis is spatial."""
    axes = flow.read(node)
    flow.freeze(axes[2:], f"{node} slides over it")
    return (*axes[:2], *flow.constant(node.shape[2:], "a spatial axis")) if len(node.inputs) == 1 else None


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
        merged = flow.ties.flatten(block, reason) if block else flow.ties.fresh(1, "an axis of length one")
        result += flow.ties.unflatten(merged, shape[done:until], reason) if until > done else []
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
    return _broadcast(flow, [axes, flow.constant(node.shape, "an expanded axis")], node, tied=False)


def _elementwise(flow: ChannelFlow, node: Node) -> Axes | None:
    return _broadcast(flow, [flow.read(node, position) for position in range(len(node.inputs))], node)


def _broadcast(flow: ChannelFlow, operands: list[Axes], node: Node, tied: bool = True) -> Axes | None:
    """Axes of operands aligned from the last; equal lengths are tied, a length of one gives way."""
    rank = max(len(axes) for axes in operands)
    result = []
    for back in range(rank, 0, -1):
        here = [axes[-back] for axes in operands if len(axes) >= back]
        longest = max(here, key=length_of)
        for layout in here:
            if length_of(layout) < length_of(longest):
                flow.ties.freeze(layout, f"{node} spreads it over another axis")
            elif tied or length_of(longest) == 1:
                flow.ties.tie(layout, longest, f"it is not aligned with the other operand of {node}")
        result.append(flow.ties.resolve(here[0] if length_of(here[0]) == length_of(longest) else longest))
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
    axes, dim = _broadcast(flow, operands, node), node.attributes["dim"]
    return None if axes is None else (*axes[:dim], flow.ties.fresh(len(operands), "a stack"), *axes[dim:])


def _matmul(flow: ChannelFlow, node: Node) -> Axes | None:
    """Batched product: the axis that is summed over is fixed."""
    left, right = flow.read(node), flow.read(node, 1)
    if min(len(left), len(right)) < 2:
        return None
    flow.freeze((left[-1], right[-2]), f"{node} sums over it")
    batch = _broadcast(flow, [left[:-2], right[:-2]], node) if len(left) + len(right) > 4 else ()
    return None if batch is None else (*batch, left[-2], right[-1])


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
    parts = flow.parts.get(node.inputs[0])
    return None if parts is None else parts[node.attributes["index"]]


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


RULES: Mapping[Op, Rule] = MappingProxyType(
    {
        Op.INPUT: _input,
        Op.LINEAR: _linear,
        Op.EMBEDDING: _embedding,
        Op.CONV: _conv,
        Op.CONV_TRANSPOSE: _conv,
        Op.BATCH_NORM: _batch_norm,
        Op.INSTANCE_NORM: _batch_norm,
        Op.GROUP_NORM: _group_norm,
        Op.LAYER_NORM: _layer_norm,
        Op.RMS_NORM: _layer_norm,
        Op.ACTIVATION: _activation,
        Op.DROPOUT: _same,
        Op.IDENTITY: lambda flow, node: flow.read(node),
        Op.PARAMETER: _parameter,
        Op.PAD: _pad,
        Op.SLICE: _slice,
        Op.STACK: _stack,
        Op.MATMUL: _matmul,
        **dict.fromkeys((Op.MAX_POOL, Op.AVG_POOL, Op.LP_POOL, Op.ADAPTIVE_AVG_POOL), _pool),
        **dict.fromkeys((Op.ADAPTIVE_MAX_POOL, Op.UPSAMPLE), _pool),
        **dict.fromkeys((Op.MEAN, Op.SUM, Op.MAX), _reduce),
        **dict.fromkeys((Op.SOFTMAX, Op.NORMALIZE, Op.ROLL), _frozen_dim),
        **dict.fromkeys((Op.FLATTEN, Op.RESHAPE), _reshape),
        Op.PERMUTE: _permute,
        Op.EXPAND: _expand,
        **dict.fromkeys((Op.ADD, Op.SUBTRACT, Op.MULTIPLY, Op.DIVIDE), _elementwise),
        Op.CONCAT: _concat,
        Op.SPLIT: _split,
        Op.ITEM: _item,
        Op.GLU: _glu,
        Op.PIXEL_SHUFFLE: _pixel_shuffle,
        Op.FOLD: _fold,
        Op.UNFOLD: _unfold,
    }
)
