"""Moves of the search: all morphs that a network allows, drawing some of them, and making them.

    places      legal_moves(outline)             every morph, in a fixed order, no weights drawn
    chance      draw_moves(outline, count, ...)  uniform over kinds, then places, then numbers
    shapes      predict(outline, morph)          the outline of the child, without weights
    weights     apply(graph, morph)              the child; replay(graph, morphs) several at once

A move is a transaction: it is planned on the outline, made on a copy, and the copy is traced and compared with the plan
node by node; where anything differs, nothing has happened.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from torch import fx

from pluriform.errors import GraphError, ShapeError, explain
from pluriform.graph.graph import Graph, Node
from pluriform.graph.ops import Op
from pluriform.graph.rewrite import retrace
from pluriform.search.add_skip import add_skip, add_skip_moves
from pluriform.search.concat_skip import concat_skip, concat_skip_moves
from pluriform.search.deepen import branch_moves, deepen, deepen_branch, deepen_moves
from pluriform.search.edit import write
from pluriform.search.grow_kernel import grow_kernel, grow_kernel_moves
from pluriform.search.morphism import Change, Morph, refusal
from pluriform.search.outline import Outline
from pluriform.search.widen import widen, widen_moves

__all__ = ["OPERATIONS", "Operation", "apply", "draw_moves", "legal_moves", "predict", "replay"]


@dataclass(frozen=True)
class Operation:
    """A kind of morph.

    Attributes:
        family: Under which chance finds it: first a family is drawn, then a place.
        moves: All morphs of it that a network allows.
        plan: The change that a morph of it makes.
    """

    family: str
    moves: Callable[[Outline], Iterator[Morph]]
    plan: Callable[[Outline, Morph], Change]


OPERATIONS: Mapping[str, Operation] = MappingProxyType(
    {
        "deepen": Operation("deepen", deepen_moves, deepen),
        "deepen_branch": Operation("deepen", branch_moves, deepen_branch),
        "widen": Operation("widen", widen_moves, widen),
        "add_skip": Operation("skip", add_skip_moves, add_skip),
        "concat_skip": Operation("skip", concat_skip_moves, concat_skip),
        "grow_kernel": Operation("kernel", grow_kernel_moves, grow_kernel),
    }
)
"""Every operation, by name."""


def legal_moves(network: Graph | Outline, operations: Iterable[str] = tuple(OPERATIONS)) -> list[Morph]:
    """Every morph that a network allows, in a fixed order, with seed 0.

    Args:
        network: With weights or without.
        operations: Names of those to look at.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from pluriform.search.start import morphable
        >>> graph = morphable(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(2, 4))
        >>> for morph in legal_moves(graph):
        ...     print(morph)
        deepen 1 1
        deepen_branch 1 8x1
        widen 0 2
        widen 0 4
        widen 0 8
    """
    outline = network if isinstance(network, Outline) else Outline.of(network)
    return [morph for name in operations for morph in _operation(name).moves(outline)]


def draw_moves(network: Graph | Outline, count: int, generator: np.random.Generator) -> list[Morph]:
    """Different morphs by chance: uniform over families, then over places, then over numbers; seeds are drawn too.

    Args:
        network: With weights or without.
        count: Of morphs, at most; fewer where the network allows fewer.
        generator: Of all draws.
    """
    families: dict[str, dict[tuple[str, tuple[str, ...]], list[Morph]]] = {}
    for morph in legal_moves(network):
        places = families.setdefault(OPERATIONS[morph.operation].family, {})
        places.setdefault((morph.operation, morph.place), []).append(morph)
    drawn: list[Morph] = []
    while families and len(drawn) < count:
        family = [*families][generator.integers(len(families))]
        places = families[family]
        place = [*places][generator.integers(len(places))]
        morphs = places[place]
        morph = morphs.pop(generator.integers(len(morphs)))
        drawn.append(Morph(morph.operation, morph.place, morph.numbers, int(generator.integers(2**31))))
        if not morphs:
            del places[place]
        if not places:
            del families[family]
    return drawn


def plan(outline: Outline, morph: Morph) -> Change:
    """What a morph does to a network.

    Raises:
        GraphError: The network does not allow it; names the node and the reason.
    """
    try:
        return _operation(morph.operation).plan(outline, morph)
    except (IndexError, ValueError, TypeError) as error:
        if isinstance(error, GraphError):
            raise
        got = f"place {morph.place} and numbers {morph.numbers}"
        raise refusal("places and numbers as the operation has them", got, str(morph)) from error


def predict(outline: Outline, morph: Morph) -> Outline:
    """The outline of the child, in which no weight is made.

    Raises:
        GraphError: The network does not allow the morph; names the node and the reason.
    """
    return outline.after(plan(outline, morph))


def apply(graph: Graph, morph: Morph) -> Graph:
    """The child of a network: a plain module that computes the same, in evaluation and in training mode.

    Args:
        graph: Of `morphable(module, example)`, or a child; left as it is.
        morph: One of `legal_moves(graph)`.

    Returns:
        The graph of the child, with weights of its own; `graph.module` is the child.

    Raises:
        GraphError: The network does not allow the morph; names the node and the reason.
    """
    return replay(graph, [morph])


def replay(graph: Graph, morphs: Sequence[Morph]) -> Graph:
    """The descendant of a network by several morphs one after another, equal to that of as many calls of `apply`.

    Args:
        graph: Usually the nearest trained ancestor; left as it is.
        morphs: In order.

    Raises:
        GraphError: One of the networks does not allow its morph.
    """
    outline, network = Outline.of(graph), copy.deepcopy(graph.module)
    names = dict(graph.names)
    for morph in morphs:
        change = plan(outline, morph)
        write(network, names, outline, change, morph.seed)
        outline = outline.after(change)
    return _checked(network, graph, outline, " then ".join(map(str, morphs)))


def _checked(network: fx.GraphModule, graph: Graph, outline: Outline, where: str) -> Graph:
    """The traced network, compared with its outline."""
    try:
        made = retrace(network, graph, where)
    except ShapeError as error:
        raise refusal("layers that fit together", str(error), where) from error
    for planned, found in zip(outline.nodes, made.nodes, strict=False):
        if _facts(planned) != _facts(found):
            raise _differs(planned, found, where)
    if len(made) != len(outline):
        raise _differs(outline.nodes[-1], made.nodes[-1], where)
    return made


def _facts(node: Node) -> tuple[object, ...]:
    attributes = {} if node.op is Op.EXPAND else dict(node.attributes)
    return (node.name, node.op, node.inputs, node.shape, node.module, attributes)


def _differs(planned: Node, found: Node, where: str) -> GraphError:
    return GraphError(
        explain(
            f"{planned} of shape {planned.shape}, {dict(planned.attributes)}",
            f"{found} of shape {found.shape}, {dict(found.attributes)}",
            where,
            "write -1 or x.shape in place of lengths in the code of the network, or leave this move out",
        )
    )


def _operation(name: str) -> Operation:
    if name not in OPERATIONS:
        raise refusal(f"one of {', '.join(OPERATIONS)}", repr(name), "operation of a morph")
    return OPERATIONS[name]
