"""Maps between blocks, multiplied into the weights around them: the same function with nothing added.

A map A over the channels of a tensor x, without bias, vanishes where every path from x ends in a layer W x + b with a
full W, and passes only operations P with P(A x) = A P(x): then W A takes the place of W. Else it vanishes where x is
made by such a layer, with A W and A b.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pluriform.errors import GraphError, ShapeError, explain
from pluriform.graph.graph import Graph, Node
from pluriform.graph.ops import Op
from pluriform.graph.parameters import weights_of
from pluriform.graph.trace import trace
from pluriform.narrow.channel_axis import channel_axis
from pluriform.narrow.fold_layers import ABSORBING, Absorber, absorbed
from pluriform.narrow.fold_paths import PASSING, Place, passed
from pluriform.narrow.maps import Agreement, ChannelMap, MergeReport, agreement, with_maps

__all__ = ["Fold", "Merged", "foldable", "merge", "merged", "with_maps"]


@dataclass(frozen=True, eq=False)
class Fold:
    """Where a map behind a node goes.

    Attributes:
        node: Name of the node.
        axis: Axis of the channels of its output.
        direction: `forward` into the layers that read it, `backward` into the layer that makes it.
        layers: What absorbs the map.
        via: Names of the nodes passed on the way.
    """

    node: str
    axis: int
    direction: Literal["forward", "backward"]
    layers: tuple[Absorber, ...]
    via: tuple[str, ...]


def foldable(graph: Graph, node: str, axis: int | None = None) -> Fold | str:
    """Where a bias-free linear map over the channels of a node, felt by all that read it, can be multiplied away.

    Forward where possible, else backward; exact in training and in evaluation.

    Args:
        graph: The traced network.
        node: Name of a node that gives one tensor.
        axis: Of its channels; `channel_axis(graph, node)` by default.

    Returns:
        The fold, or the sentence that says why there is none.

    Raises:
        GraphError: No such node.

    Example:
        >>> from torch import nn
        >>> from pluriform.graph.trace import trace
        >>> graph = trace(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 2, 3)),
        ...     torch.zeros(1, 1, 12, 12))
        >>> found = foldable(graph, "1")
        >>> found.direction, [layer.layer for layer in found.layers], found.via
        ('forward', ['3'], ('2',))
        >>> foldable(graph, "0").direction
        'backward'
    """
    made = graph[node]
    if made.dtype is None or made.op in (Op.OUTPUT, Op.PARAMETER) or len(made.shape) < 2:
        return f"{made}: it gives no tensor with a batch axis and channels"
    if not made.dtype.is_floating_point:
        return f"{made}: it gives no real numbers"
    axis = channel_axis(graph, node) if axis is None else axis
    place = Place(axis, torch.arange(made.shape[axis])[None])
    forward = _forward(graph, made, place)
    if isinstance(forward, Fold):
        return forward
    backward = _backward(graph, made, place)
    return backward if isinstance(backward, Fold) else f"{forward}; backward: {backward}"


def merged(
    graph: Graph,
    maps: Mapping[str, Tensor],
    batches: Sequence[Tensor | tuple[Tensor, ...]] = (),
    tolerance: float | int = 1e-5,
) -> nn.Module:
    """The network with maps behind nodes, as a network of the user's own class: the maps become part of its weights.

    Products are formed in double precision and rounded once. The result is compared with the network that has the maps,
    in evaluation and in training mode; where single precision cannot show that they agree, both are formed and compared
    in double precision.

    Args:
        graph: The network; it stays as it is.
        maps: A of x -> A x, `(channels, channels)`, by the name of the node whose output is x.
        batches: Real inputs to compare on, besides random ones.
        tolerance: On max |difference| / max |output|.

    Returns:
        A copy of `graph.root` with the same names, types and memory formats.

    Raises:
        GraphError: A map that cannot be multiplied away, or networks that differ.
        ShapeError: A map of another size.

    Example:
        >>> from torch import nn
        >>> from pluriform.graph.trace import trace
        >>> net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> made = merged(trace(net, torch.zeros(1, 3)), {"1": 2 * torch.eye(2)})
        >>> torch.equal(made[2].weight, 2 * net[2].weight)
        True
    """
    return merge(graph, maps, batches, tolerance).network


@dataclass(frozen=True, eq=False)
class Merged:
    """A network whose maps are part of its weights.

    Attributes:
        network: Of the user's own class.
        report: Where the maps went, and how far the network lies from the one with maps.
    """

    network: nn.Module
    report: MergeReport


def merge(
    graph: Graph,
    maps: Mapping[str, Tensor],
    batches: Sequence[Tensor | tuple[Tensor, ...]] = (),
    tolerance: float | int = 1e-5,
) -> Merged:
    """As `merged`, with what the comparison found; of double precision where that had to decide."""
    folds = _folds(graph, maps)
    made = _multiplied(graph.root, folds, maps)
    found = _apart(graph, folds, maps, made, batches)
    if found.worst > tolerance:
        precise = _in_double(graph)
        found = _apart(precise, folds, maps, _multiplied(precise.root, folds, maps), batches)
        if found.worst > tolerance:
            raise _disagreement(precise, folds, maps, found.worst, batches)
    places = {fold.node: f"{fold.direction} into {', '.join(each.layer for each in fold.layers)}" for fold in folds}
    return Merged(made, MergeReport(places, found, tolerance))


def _forward(graph: Graph, start: Node, place: Place) -> Fold | str:
    """Follow the map to all layers that read it."""
    places: dict[str, list[Place]] = {start.name: [place]}
    layers: list[Absorber] = []
    order = [each.name for each in graph.nodes]
    for node in graph.nodes[order.index(start.name) + 1 :]:
        found = {position: places[name] for position, name in enumerate(node.inputs) if places.get(name)}
        if not found:
            continue
        if node.op not in ABSORBING:
            outcome = passed(graph, node, found)
            if isinstance(outcome, str):
                return f"{node}: {_shortcut(graph, start, node, found) or outcome}"
            places[node.name] = outcome
            continue
        for each in found.get(0, ()):
            taken = absorbed(graph, node, each)
            if isinstance(taken, str):
                return f"{node}: {taken}"
            layers.append(taken)
        if set(found) != {0}:
            return f"{node}: it is read as a weight"
    via = tuple(name for name in places if name != start.name)
    return Fold(start.name, place.axis, "forward", tuple(layers), via)


def _shortcut(graph: Graph, start: Node, node: Node, found: Mapping[int, list[Place]]) -> str:
    """The sentence for a sum of a node and of what is computed from it."""
    rest = [name for position, name in enumerate(node.inputs) if position not in found]
    if node.op is not Op.ADD or not rest:
        return ""
    behind = {start.name}
    for each in graph.nodes:
        if behind.intersection(each.inputs):
            behind.add(each.name)
    return f"an identity shortcut adds {start.name} itself there" if rest[0] in behind else ""


def _backward(graph: Graph, end: Node, place: Place) -> Fold | str:
    """Follow the only path to the node back to the layer that makes its channels."""
    path = [end]
    while path[-1].op not in ABSORBING:
        node = path[-1]
        if node.op not in PASSING or len(node.inputs) != 1:
            return f"{node} is no layer that could take the map"
        path.append(graph[node.inputs[0]])
        if len(graph.consumers(path[-1].name)) > 1:
            return f"{path[-1]} is read by others too"
    maker = path[-1]
    source = Place(channel_axis(graph, maker.name), torch.arange(maker.shape[channel_axis(graph, maker.name)])[None])
    taken = absorbed(graph, maker, source, forward=False)
    if isinstance(taken, str):
        return f"{maker}: {taken}"
    found = [source]
    for node in reversed(path[:-1]):
        outcome = passed(graph, node, {0: found})
        if isinstance(outcome, str):
            return f"{node}: {outcome}"
        found = outcome
    if len(found) != 1 or not found[0].same(place):
        return f"the channels of {maker} lie otherwise there"
    return Fold(end.name, place.axis, "backward", (taken,), tuple(node.name for node in reversed(path[1:-1])))


def _folds(graph: Graph, maps: Mapping[str, Tensor]) -> list[Fold]:
    """Where all maps go, in the order of the nodes."""
    found = []
    for node in (node for node in graph.nodes if node.name in {graph[name].name for name in maps}):
        fold = foldable(graph, node.name)
        if isinstance(fold, str):
            remedy = "put the map where foldable(graph, node) gives a fold"
            raise GraphError(explain("a map that can be multiplied away", fold, f"map behind {node.name}", remedy))
        channels, shape = node.shape[fold.axis], tuple(maps[node.name].shape)
        if shape != (channels, channels):
            expected, remedy = f"a map of shape {(channels, channels)}", "multiply what reduces by what lifts"
            raise ShapeError(explain(expected, str(shape), f"map behind {node.name}", remedy))
        found.append(fold)
    return found


def _multiplied(root: nn.Module, folds: Sequence[Fold], maps: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the network with the maps in its weights; of several in one weight, those next to it come first."""
    made = copy.deepcopy(root)
    weights = weights_of(made)
    exact: dict[str, Tensor] = {}
    forward = [fold for fold in reversed(folds) if fold.direction == "forward"]
    for fold in (*forward, *(fold for fold in folds if fold.direction == "backward")):
        matrix = maps[fold.node].detach().double()
        matrix = matrix if fold.direction == "forward" else matrix.T
        for layer in fold.layers:
            for name, axis in zip(layer.weights, layer.axes, strict=True):
                old = exact[name] if name in exact else weights[name].detach().double()
                exact[name] = _product(old, axis, layer.positions.to(old.device), matrix.to(old.device))
    with torch.no_grad():
        for name, new in exact.items():
            weights[name].copy_(new)
    return made


def _product(weight: Tensor, axis: int, positions: Tensor, matrix: Tensor) -> Tensor:
    """The weight times a matrix, over the channels at some positions of an axis."""
    made = weight.movedim(axis, -1).clone()
    made[..., positions] = made[..., positions] @ matrix
    return made.movedim(-1, axis)


def _apart(
    graph: Graph,
    folds: Sequence[Fold],
    maps: Mapping[str, Tensor],
    made: nn.Module,
    batches: Sequence[Tensor | tuple[Tensor, ...]],
) -> Agreement:
    where = next((each.device for each in made.parameters()), torch.device("cpu"))
    modules = {
        fold.node: ChannelMap(maps[fold.node].detach().to(where, graph[fold.node].dtype), fold.axis) for fold in folds
    }
    return agreement(graph, modules, made, batches)


def _in_double(graph: Graph) -> Graph:
    examples = tuple(each.double() if each.is_floating_point() else each for each in graph.examples)
    return trace(copy.deepcopy(graph.root).double(), examples)


def _disagreement(
    graph: Graph,
    folds: Sequence[Fold],
    maps: Mapping[str, Tensor],
    apart: float,
    batches: Sequence[Tensor | tuple[Tensor, ...]],
) -> GraphError:
    """Names the map that differs most when it is the only one."""
    alone = [_apart(graph, [fold], maps, _multiplied(graph.root, [fold], maps), batches).worst for fold in folds]
    worst = folds[alone.index(max(alone))]
    into = ", ".join(layer.layer for layer in worst.layers)
    return GraphError(
        explain(
            "a merged network that computes what the network with maps computes",
            f"outputs {apart:.1e} of the greatest apart, {max(alone):.1e} by one map alone",
            f"map behind {worst.node}, multiplied {worst.direction} into {into}",
            "put no map there: code that the graph does not show reads this node or its layers",
        )
    )
