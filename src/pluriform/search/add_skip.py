"""`add_skip`: v <- v + L(ReLU(pool(u))) with L = 0, a 1x1 convolution or a dense layer.

Whatever comes before a layer of weight zero, the function is kept; so the lengths of u are brought to those of v by one
average pooling, derived from the traced shapes, in place of replaying all pools on a path.

References:
    Jin, Song, Hu 2019, Auto-Keras: An Efficient Neural Architecture Search System, arXiv:1806.10282.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from pluriform.graph.graph import Node
from pluriform.graph.ops import Op
from pluriform.search.deepen import add_node, unit_layer
from pluriform.search.morphism import Change, Insertion, Morph, NewLayer, refusal
from pluriform.search.outline import Outline, layer_node
from pluriform.search.places import Family, Place

__all__ = ["Feed", "add_skip", "add_skip_moves", "feed", "skip_pairs"]

POOLS = {1: (nn.AvgPool1d, nn.AdaptiveAvgPool1d), 2: (nn.AvgPool2d, nn.AdaptiveAvgPool2d)}
POOLS[3] = (nn.AvgPool3d, nn.AdaptiveAvgPool3d)
POOLED, RECTIFIED = frozenset({Op.AVG_POOL, Op.ADAPTIVE_AVG_POOL}), frozenset({Op.ACTIVATION})


@dataclass(frozen=True, eq=False)
class Feed:
    """Layers that bring one tensor to the lengths of another, with their nodes."""

    layers: tuple[NewLayer, ...]
    nodes: tuple[Node, ...]
    result: Node


def add_skip_moves(outline: Outline) -> Iterator[Morph]:
    """Every pair of tensors that an added skip can join."""
    for start, end in skip_pairs(outline):
        yield Morph("add_skip", (start, end))


def skip_pairs(outline: Outline) -> Iterator[tuple[str, str]]:
    """Start and end of every skip: the start earlier, at least as long, and not joined to the end already."""
    for end, target in outline.places.ends.items():
        joined = _joined(outline, end)
        for start, source in outline.places.ends.items():
            if (
                outline.places.order[start] < outline.places.order[end]
                and start not in joined
                and _fits(source, target)
            ):
                yield start, end


def add_skip(outline: Outline, morph: Morph) -> Change:
    """Plan a skip that is added.

    Args:
        outline: The network.
        morph: `place` names start and end.

    Raises:
        GraphError: No block ends there, the end comes first, or the lengths do not fit.
    """
    source, target = ends_of(outline, morph)
    stem = outline.fresh_name("add")
    fed = feed(source, target, stem)
    layer = NewLayer(f"{stem}.layer", unit_layer(target, source.width, target.width), "zero")
    node = layer_node(layer.path, layer.module, fed.result, target.node.shape)
    summed = add_node(f"{stem}_add", target.node, node)
    return Change((*fed.layers, layer), Insertion(target.node.name, (*fed.nodes, node, summed)))


def ends_of(outline: Outline, morph: Morph) -> tuple[Place, Place]:
    """Start and end of a skip, checked.

    Raises:
        GraphError: They cannot be joined.
    """
    start, end = morph.place
    source, target = outline.places.at(start), outline.places.at(end)
    if outline.places.order[start] >= outline.places.order[end]:
        raise refusal("a start that comes before the end", f"{source.node} -> {target.node}", morph.operation)
    if not _fits(source, target):
        got = f"{source.node} of {source.node.shape} -> {target.node} of {target.node.shape}"
        raise refusal("a start whose lengths are no shorter than those of the end", got, morph.operation)
    return source, target


def feed(source: Place, target: Place, stem: str) -> Feed:
    """ReLU where values may be negative, and average pooling to the lengths of the target."""
    modules: list[tuple[str, nn.Module]] = [] if source.nonnegative else [("activation", nn.ReLU())]
    shape = source.node.shape
    if source.family is Family.CONV and source.spatial != target.spatial:
        modules.append(("pool", _pool(source.spatial, target.spatial)))
    layers, nodes, before = [], [], source.node
    for name, module in modules:
        shape = (*shape[:2], *target.spatial) if name == "pool" else shape
        before = layer_node(f"{stem}.{name}", module, before, shape)
        layers.append(NewLayer(before.name, module))
        nodes.append(before)
    return Feed(tuple(layers), tuple(nodes), before)


def _pool(before: tuple[int, ...], after: tuple[int, ...]) -> nn.Module:
    plain, adaptive = POOLS[len(before)]
    if all(long % short == 0 for long, short in zip(before, after, strict=True)):
        return plain(tuple(long // short for long, short in zip(before, after, strict=True)))
    return adaptive(after)


def _fits(source: Place, target: Place) -> bool:
    first, last = source.node.shape, target.node.shape
    if source.family is not target.family or len(first) != len(last) or source.node.dtype != target.node.dtype:
        return False
    if source.family is Family.DENSE:
        return first[:-1] == last[:-1]
    return first[0] == last[0] and all(a >= b for a, b in zip(source.spatial, target.spatial, strict=True))


def _joined(outline: Outline, end: str) -> set[str]:
    """What such a skip brings to the tensor already: a second one would add nothing new."""
    found, waiting = set(), [end]
    while waiting:
        node = outline[waiting.pop()]
        if node.op is Op.ADD:
            waiting += node.inputs
            for name in node.inputs:
                found |= _skipped(outline, name)
    return found


def _skipped(outline: Outline, name: str) -> set[str]:
    """What a dense layer or a convolution of kernel 1 reads, also through pooling and ReLU."""
    node, found = outline[name], set()
    unit = node.op is Op.LINEAR or (node.op is Op.CONV and max(node.attributes["kernel_size"]) == 1)
    if not unit or len(node.inputs) != 1:
        return found
    for ops in (POOLED, RECTIFIED):
        found.add(name := node.inputs[0])
        node = outline[name] if outline[name].op in ops else node
    return {*found, node.inputs[0]}
