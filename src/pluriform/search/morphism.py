"""`Morph`: one function-preserving edit as a record, and `Change`: what it does to a network.

An operation reads an `Outline` and plans a `Change`; a `Change` is made on an outline (shapes alone) and on a network
with weights alike, so both always agree.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pluriform.errors import ConfigError, GraphError, explain
from pluriform.graph.graph import Node, Shape

__all__ = ["Change", "Insertion", "Morph", "NewLayer", "Setting", "WeightEdit", "refusal"]


@dataclass(frozen=True, order=True)
class Morph:
    """One edit of a network that keeps its function.

    Attributes:
        operation: `deepen`, `deepen_branch`, `widen`, `add_skip`, `concat_skip` or `grow_kernel`.
        place: Names of the nodes that it is about.
        numbers: Widths, kernel lengths: what the operation says.
        seed: Of the new weights that are drawn by chance.

    Example:
        >>> Morph.from_json(Morph("widen", ("conv1",), (8,)).to_json())
        Morph(operation='widen', place=('conv1',), numbers=(8,), seed=0)
    """

    operation: str
    place: tuple[str, ...]
    numbers: tuple[int, ...] = ()
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON."""
        return {
            "operation": self.operation,
            "place": list(self.place),
            "numbers": list(self.numbers),
            "seed": self.seed,
        }

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> "Morph":
        """The morph that `to_json` wrote.

        Raises:
            ConfigError: The record is no morph.
        """
        try:
            place, numbers = tuple(map(str, record["place"])), tuple(map(int, record["numbers"]))
            return Morph(str(record["operation"]), place, numbers, int(record["seed"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                explain(
                    "operation, place, numbers and seed", str(record), "record of a morph", "pass what to_json wrote"
                )
            ) from error

    def __str__(self) -> str:
        numbers = f" {'x'.join(map(str, self.numbers))}" if self.numbers else ""
        return f"{self.operation} {' -> '.join(self.place)}{numbers}"


@dataclass(frozen=True, eq=False)
class NewLayer:
    """A layer to be added.

    Attributes:
        path: Dotted path in the network.
        module: On the meta device.
        weights: How it begins: `fresh` (the usual draw), `zero`, `identity` (its first outputs are its inputs).
    """

    path: str
    module: nn.Module
    weights: str = "fresh"


@dataclass(frozen=True, eq=False)
class Insertion:
    """Nodes put behind a node; what read that node reads their result instead.

    Attributes:
        after: Name of the node.
        nodes: In execution order, the result last.
    """

    after: str
    nodes: tuple[Node, ...]

    @property
    def result(self) -> Node:
        """The node that is read in place of the old one."""
        return self.nodes[-1]


@dataclass(frozen=True, eq=False)
class WeightEdit:
    """A parameter or buffer that is exchanged, in all its places.

    Attributes:
        addresses: Dotted paths of the tensor; several where it is shared.
        shape: Of the new tensor.
        make: The new numbers from the old ones, with a generator on the CPU.
    """

    addresses: tuple[str, ...]
    shape: tuple[int, ...]
    make: Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True, eq=False)
class Setting:
    """An attribute of a layer that changes."""

    path: str
    attribute: str
    value: Any


@dataclass(frozen=True, eq=False)
class Change:
    """What a morph does to a network.

    Attributes:
        layers: Added.
        insertion: Nodes that call them.
        weights: Exchanged.
        settings: Attributes of layers that go with the new weights.
        shapes: New shapes of old nodes, by name.
    """

    layers: tuple[NewLayer, ...] = ()
    insertion: Insertion | None = None
    weights: tuple[WeightEdit, ...] = ()
    settings: tuple[Setting, ...] = ()
    shapes: Mapping[str, Shape] = field(default_factory=dict)


def refusal(expected: str, got: str, where: str, remedy: str = "choose one of legal_moves(graph)") -> GraphError:
    """The error of a morph that a network does not allow."""
    return GraphError(explain(expected, got, where, remedy))
