"""`Place`: a node where it stands, with what a rule asks of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pluriform.errors import UnsupportedOpError, explain
from pluriform.graph.graph import Graph, Node
from pluriform.graph.ops import Op
from pluriform.infinite.kernel import Kernel
from pluriform.infinite.plan import Step

__all__ = ["Place", "WEIGHTED", "channel_axes"]

WEIGHTED = frozenset({Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE, Op.BILINEAR, Op.EMBEDDING, Op.ATTENTION})


@dataclass(frozen=True, eq=False)
class Place:
    """A node where it stands.

    Attributes:
        graph: The traced network.
        node: The node.
        inputs: Names of the nodes that it reads, parameters left out.
        fixed: Names of all deterministic nodes.
        axes: Where nodes have their channels, 1 or -1.
    """

    graph: Graph
    node: Node
    inputs: tuple[str, ...]
    fixed: frozenset[str]
    axes: Mapping[str, int]

    def fact(self, name: str, default: Any = None) -> Any:
        """An attribute of the node."""
        return self.node.attributes.get(name, default)

    @property
    def where(self) -> str:
        """For messages."""
        return str(self.node)

    @property
    def parameters(self) -> list[Tensor]:
        """Weight, and bias where there is one."""
        if self.node.module is not None:
            layer = self.graph.submodule(self.node)
            found = [getattr(layer, "weight", None), getattr(layer, "bias", None)]
            return [tensor for tensor in found if isinstance(tensor, Tensor)]
        names = [name for name in self.node.inputs if self.graph[name].op is Op.PARAMETER]
        return sorted((Place.tensor(self.graph, self.graph[name]) for name in names), key=lambda t: -t.ndim)

    @staticmethod
    def tensor(graph: Graph, node: Node) -> Tensor:
        """The parameter, buffer or constant that a node reads."""
        found: Any = graph.module
        for part in str(node.attributes["path"]).split("."):
            found = getattr(found, part)
        return found

    def shape(self, position: int = 0) -> tuple[int, ...]:
        """Shape of an input on the traced example."""
        return tuple(self.graph[self.inputs[position]].shape)

    @property
    def channel_axis(self) -> int:
        """Where the inputs that are not deterministic have their channels, 1 or -1."""
        return next((self.axes[name] for name in self.inputs if name not in self.fixed), 1)

    @property
    def channel(self) -> int:
        """The same as an axis of the first input."""
        return self.channel_axis % len(self.shape())

    @property
    def positions(self) -> tuple[int, ...]:
        """Axes of the first input that are neither samples nor channels."""
        return tuple(axis for axis in range(1, len(self.shape())) if axis != self.channel)

    def spatial(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Extent of positions of a shape with channels where the first input has them."""
        return shape[2:] if self.channel_axis == 1 else shape[1:-1]

    def step(self, rule: Callable[..., Kernel], **facts: Any) -> Step:
        """The step of this node."""
        return Step(self.node.name, self.inputs, rule, self.where, **facts)

    def refuse(self, expected: str, got: str, remedy: str) -> UnsupportedOpError:
        """The error for a variant of an operation without a rule."""
        return UnsupportedOpError(explain(expected, got, self.where, remedy))


CHANNELS_LAST = frozenset({Op.LINEAR, Op.EMBEDDING, Op.ATTENTION, Op.BILINEAR})
CHANNELS_FIRST = frozenset({Op.CONV, Op.CONV_TRANSPOSE, Op.AVG_POOL, Op.ADAPTIVE_AVG_POOL, Op.UPSAMPLE})


def channel_axes(graph: Graph, fixed: frozenset[str]) -> dict[str, int]:
    """Where every node that is not deterministic has its channels: 1, or -1 for the last axis."""
    axes: dict[str, int] = {}
    for node in graph.nodes:
        before = next((axes[name] for name in node.inputs if name in axes and name not in fixed), 1)
        rank = len(node.shape)
        if node.op is Op.SPLIT:
            axes[node.name] = before
        elif rank <= 2 or node.op in CHANNELS_FIRST:
            axes[node.name] = 1
        elif node.op in CHANNELS_LAST or node.op is Op.OPAQUE:
            axes[node.name] = -1
        elif node.op is Op.PERMUTE:
            place = tuple(node.attributes["dims"]).index(before % rank)
            axes[node.name] = -1 if place == rank - 1 else 1
        elif node.op is Op.RESHAPE and len(graph[node.inputs[0]].shape) == 2:
            axes[node.name] = 1 if node.shape[1] != 1 else -1
        else:
            axes[node.name] = before
    return axes
