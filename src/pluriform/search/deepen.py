"""Deepening: more layers behind a tensor, the function kept in evaluation and in training mode.

    deepen          x <- ReLU(L x),  L = identity                   where x >= 0, since ReLU is idempotent
    deepen_branch   x <- x + L2(act(norm(L1 x))),  L2 = 0           anywhere, with any activation and norm

The first is Net2DeeperNet. The second is exact in both modes for norms too, because what they do passes a layer of
weight zero; L1 is drawn as usual, so that L2 has a gradient from the first step and L1 from the second.

References:
    Chen, Goodfellow, Shlens 2016, Net2Net: Accelerating Learning via Knowledge Transfer, arXiv:1511.05641.
    Jin, Song, Hu 2019, Auto-Keras: An Efficient Neural Architecture Search System, arXiv:1806.10282.
"""

from collections.abc import Iterator
from typing import Any

from torch import nn

from pluriform.graph.graph import Node
from pluriform.graph.ops import Op
from pluriform.search.morphism import Change, Insertion, Morph, NewLayer, refusal
from pluriform.search.outline import Outline, layer_node
from pluriform.search.places import CONVS, Family, Place, kernels_within

__all__ = ["add_node", "branch_moves", "deepen", "deepen_branch", "deepen_moves", "unit_layer"]


def deepen_moves(outline: Outline) -> Iterator[Morph]:
    """Every identity layer with ReLU that keeps the function."""
    for name, place in outline.places.ends.items():
        if place.nonnegative:
            kernels = kernels_within(place.spatial) if place.family is Family.CONV else (1,)
            for kernel in kernels:
                yield Morph("deepen", (name,), (kernel,))


def branch_moves(outline: Outline) -> Iterator[Morph]:
    """Every zero branch, as wide as the tensor that it is added to."""
    for name, place in outline.places.ends.items():
        kernels = kernels_within(place.spatial)[1:] or (1,)
        for kernel in kernels if place.family is Family.CONV else (1,):
            yield Morph("deepen_branch", (name,), (place.width, kernel))


def deepen(outline: Outline, morph: Morph) -> Change:
    """Plan an identity layer with ReLU behind a tensor that is never negative.

    Args:
        outline: The network.
        morph: `place` names the tensor, `numbers` the kernel length (odd; 1 for a dense layer).

    Raises:
        GraphError: No block ends there, the tensor may be negative, or the kernel is even.
    """
    place, (kernel,) = outline.places.at(morph.place[0]), morph.numbers
    _check_kernel(kernel, place)
    if not place.nonnegative:
        got = f"{place.node}, whose values may be negative, so that ReLU would change them"
        raise refusal("a tensor behind ReLU or another function that is never negative", got, "deepen")
    stem = outline.fresh_name("deepen")
    layer = NewLayer(f"{stem}.layer", _layer(place, place.width, place.width, kernel), "identity")
    activation = NewLayer(f"{stem}.activation", nn.ReLU())
    nodes = chained(place, [layer, activation])
    return Change((layer, activation), Insertion(place.node.name, nodes))


def deepen_branch(outline: Outline, morph: Morph) -> Change:
    """Plan a residual branch behind a tensor, whose last layer begins at zero.

    Args:
        outline: The network.
        morph: `place` names the tensor, `numbers` the hidden width and the kernel length (odd; 1 for a dense layer).

    Raises:
        GraphError: No block ends there, the kernel is even, or the width is below one.
    """
    place, (hidden, kernel) = outline.places.at(morph.place[0]), morph.numbers
    _check_kernel(kernel, place)
    if hidden < 1:
        raise refusal("a hidden width of at least 1", str(hidden), f"deepen_branch behind {place.node}")
    stem = outline.fresh_name("branch")
    norm = outline.places.norm(place, hidden)
    layers = [NewLayer(f"{stem}.first", _layer(place, place.width, hidden, kernel, bias=norm is None))]
    layers += [] if norm is None else [NewLayer(f"{stem}.norm", norm)]
    layers += [NewLayer(f"{stem}.activation", outline.places.activation())]
    layers += [NewLayer(f"{stem}.second", unit_layer(place, hidden, place.width), "zero")]
    nodes = chained(place, layers)
    return Change(tuple(layers), Insertion(place.node.name, (*nodes, add_node(f"{stem}_add", place.node, nodes[-1]))))


def chained(place: Place, layers: list[NewLayer], channels: int | None = None) -> tuple[Node, ...]:
    """Nodes that call layers one after another, widths as the layers have them, lengths kept."""
    nodes, before, width = [], place.node, channels or place.width
    for layer in layers:
        width = getattr(layer.module, "out_channels", getattr(layer.module, "out_features", width))
        before = layer_node(layer.path, layer.module, before, _shape(place, width))
        nodes.append(before)
    return tuple(nodes)


def add_node(name: str, left: Node, right: Node) -> Node:
    """The node that adds two tensors of one shape."""
    return Node(name, Op.ADD, (left.name, right.name), left.shape, left.dtype)


def unit_layer(place: Place, inputs: int, outputs: int) -> nn.Module:
    """A dense layer or a convolution of kernel 1, on the meta device."""
    if place.family is Family.DENSE:
        return nn.Linear(inputs, outputs, device="meta")
    return CONVS[len(place.spatial)](inputs, outputs, 1, device="meta")


def _layer(place: Place, inputs: int, outputs: int, kernel: int, *, bias: bool = True) -> nn.Module:
    """Without a bias where a norm follows, which would take it away again."""
    if place.family is Family.DENSE:
        return nn.Linear(inputs, outputs, bias, device="meta")
    lengths = tuple(kernel if length > 1 else 1 for length in place.spatial)
    padding = tuple(length // 2 for length in lengths)
    conv: Any = CONVS[len(place.spatial)]
    return conv(inputs, outputs, lengths, padding=padding, bias=bias, device="meta")


def _shape(place: Place, width: int) -> tuple[int, ...]:
    shape = place.node.shape
    return (*shape[:-1], width) if place.family is Family.DENSE else (shape[0], width, *shape[2:])


def _check_kernel(kernel: int, place: Place) -> None:
    if kernel < 1 or kernel % 2 == 0:
        raise refusal("an odd kernel length", str(kernel), f"deepen behind {place.node}")
