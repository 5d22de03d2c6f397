"""`NarrowPlan`: the units in which a thin network imitates a wide one, and where linear maps between them can go."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pluriform.errors import GraphError, explain
from pluriform.graph.blocks import blocks, passages
from pluriform.graph.channels import ChannelGroups, channel_groups
from pluriform.graph.graph import Graph, Shape
from pluriform.graph.ops import Op
from pluriform.narrow.channel_axis import channel_axis
from pluriform.narrow.fold import foldable

__all__ = ["NarrowPlan", "Unit", "block_ends", "inner_groups", "plan_units"]

Lift = Literal["pair", "side", "none"]


@dataclass(frozen=True)
class Unit:
    """A stretch of the thin network that imitates the same stretch of the wide one.

    Attributes:
        end: Node whose output is compared; the last unit ends with the output of the network.
        thin: Its shape in the thin network, the batch axis left out.
        wide: Its shape in the wide one.
        lift: `pair` where a lift and a reducing map lie behind the unit and are multiplied away in the end; `side`
            where the lift serves the comparison alone; `none` where both are equally wide, and for the last unit.
        reason: Why there is no pair; empty where there is one.
        axis: Of the channels, the batch axis counted.
    """

    end: str
    thin: Shape
    wide: Shape
    lift: Lift
    reason: str = ""
    axis: int = 1


@dataclass(frozen=True)
class NarrowPlan:
    """The units from the inputs to the outputs.

    Attributes:
        units: At least one; the last is compared by its logits.
    """

    units: tuple[Unit, ...]

    @property
    def ends(self) -> tuple[str, ...]:
        """Ends of all units but the last."""
        return tuple(unit.end for unit in self.units[:-1])

    def __str__(self) -> str:
        rows = [("unit", "ends with", "thin", "wide", "map")]
        for place, unit in enumerate(self.units, 1):
            what = unit.lift if not unit.reason else f"{unit.lift}: {unit.reason}"
            rows.append((str(place), unit.end, _text(unit.thin), _text(unit.wide), what))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "\n".join(
            "  ".join(part.ljust(width) for part, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )


def plan_units(thin: Graph, wide: Graph, units: int = 6, ends: Sequence[str] = ()) -> NarrowPlan:
    """Cut both networks at the same nodes.

    A unit ends where everything passes: behind a residual block, or behind a layer with its norm and activation. Places
    where a map can be multiplied away come first; of more than `units` allow, evenly spaced ones are taken.

    Args:
        thin: The user's network.
        wide: The same architecture with more channels.
        units: At most so many.
        ends: Names of the nodes that end units, instead; all that everything passes are allowed. The name of a module
            stands for its last such node, with what follows without weights.

    Raises:
        GraphError: A named node that not everything passes, or a wide network that does not line up with the thin one.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from pluriform.graph.gather import widen
        >>> from pluriform.graph.trace import trace
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> graph = trace(net, torch.zeros(1, 3))
        >>> print(plan_units(graph, widen(graph, 2)))
        unit  ends with  thin  wide  map
        1     1          4     8     pair
        2     3          4     8     pair
        3     output     2     2     none
    """
    found = _named(thin, ends) if ends else block_ends(thin)
    planned = [_unit(thin, wide, end) for end in found]
    if not ends:
        pairs = [unit for unit in planned if unit.lift == "pair"]
        planned = _spread(pairs or planned, units - 1)
    last = Unit("output", _shape(thin, "output"), _lined_up(thin, wide, "output"), "none")
    if last.thin != last.wide:
        raise _misfit(thin, "output", last.thin, last.wide)
    return NarrowPlan((*planned, last))


def inner_groups(graph: Graph) -> tuple[str, ...]:
    """Free channel groups that no block shows to the outside: wide inside, as wide as before between the blocks."""
    found = ChannelGroups.of(graph)
    shown = {
        span.channels
        for name in passages(graph)
        for layout in found.flow.axes.get(name, ())
        for span in found.flow.ties.resolve(layout)
    }
    return tuple(
        group.name for group in channel_groups(graph) if not group.fixed and found.sets[group.name] not in shown
    )


def block_ends(graph: Graph) -> list[str]:
    """The last node that everything passes of each block but the last."""
    through = passages(graph)
    found = []
    for block in blocks(graph)[:-1]:
        inside = [name for name in through if name in block.nodes]
        found += inside[-1:]
    return found


def _named(graph: Graph, ends: Sequence[str]) -> list[str]:
    through = passages(graph)
    found = {_end_of(graph, end, through) for end in ends}
    for end in sorted(found.difference(through)):
        expected, got = "nodes that everything passes", f"{graph[end]}, which a branch leads around"
        if graph[end].op in (Op.INPUT, Op.OUTPUT):
            got = f"the {end} of the network" if end == graph.output.name else f"the input {end}"
        raise GraphError(explain(expected, got, "ends of units", f"choose among {', '.join(through)}"))
    return sorted(found, key=through.index)


def _end_of(graph: Graph, name: str, through: Sequence[str]) -> str:
    """The node of that name; of a module with several, the last that everything passes before the next module.

    Raises:
        GraphError: No such node or module.
    """
    inside = [place for place, node in enumerate(graph.nodes) if node.name.startswith(f"{name}.")]
    if name in graph or not inside:
        return graph[name].name
    end = inside[-1]
    behind = graph.nodes[end + 1 :]
    stop = next((place for place, node in enumerate(behind, end + 1) if node.module or node is graph.output), end + 1)
    passed = [node.name for node in graph.nodes[end:stop] if node.name in through]
    return passed[-1] if passed else graph.nodes[end].name


def _unit(thin: Graph, wide: Graph, end: str) -> Unit:
    own, other = _shape(thin, end), _lined_up(thin, wide, end)
    axis = next((k for k, (a, b) in enumerate(zip(own, other, strict=True), 1) if a != b), None)
    if axis is None:
        return Unit(end, own, other, "none", "as wide as before", channel_axis(thin, end) if own else 1)
    found = foldable(thin, end, axis)
    if isinstance(found, str):
        return Unit(end, own, other, "side", found, axis)
    return Unit(end, own, other, "pair", axis=axis)


def _lined_up(thin: Graph, wide: Graph, end: str) -> Shape:
    """Shape of the same node in the wide network.

    Raises:
        GraphError: There is none, or it differs in more than its channels, or has fewer.
    """
    own = _shape(thin, end)
    if end not in wide:
        expected = f"a node {end!r} in the wide network, of shape {_text(own)} but for its channels"
        got = f"none in {type(wide.root).__name__}"
        raise GraphError(explain(expected, got, "wide network", "take a wide network of the same blocks"))
    if end != wide.output.name and end not in passages(wide):
        expected, got = f"a wide network in which everything passes {end} too", "one in which branches lead around it"
        where = f"wide network {type(wide.root).__name__}"
        raise GraphError(explain(expected, got, where, "take one network of the same blocks, no ensemble"))
    other = _shape(wide, end)
    if len(own) != len(other) or sum(a != b for a, b in zip(own, other, strict=True)) > 1:
        raise _misfit(thin, end, own, other)
    if any(a > b for a, b in zip(own, other, strict=True)):
        expected, where = f"at least as many channels as in {_text(own)} at {end}", "wide network"
        raise GraphError(explain(expected, _text(other), where, "take a wide network of the same blocks"))
    return other


def _misfit(thin: Graph, end: str, own: Shape, other: Shape) -> GraphError:
    expected = f"the shape {_text(own)} at {end} but for its channels"
    where = f"wide partner of {type(thin.root).__name__}"
    return GraphError(explain(expected, _text(other), where, "take a wide network of the same blocks"))


def _shape(graph: Graph, name: str) -> Shape:
    node = graph[name]
    return tuple(graph[node.inputs[0]].shape[1:] if name == graph.output.name else node.shape[1:])


def _spread(units: list[Unit], most: int) -> list[Unit]:
    """At most so many, evenly spaced, the last among them."""
    if len(units) <= most:
        return units
    return [units[round((k + 1) * len(units) / most) - 1] for k in range(most)]


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))
