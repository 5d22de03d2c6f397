"""`Graph`: the frozen view of a traced module."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from pluriform.errors import GraphError, explain
from pluriform.graph.ops import Op

__all__ = ["Graph", "Node", "Shape"]

Shape = tuple[Any, ...]
"""Lengths of all axes, the batch first; a tuple of shapes where the node gives a tuple of tensors."""


@dataclass(frozen=True)
class Node:
    """One operation of the network.

    Attributes:
        name: Dotted path of the submodule for module calls (`features.0`, the second call `features.0@1`), else the
            name in the code of `Graph.module`.
        op: What it does.
        inputs: Names of the nodes it reads, in argument order.
        shape: Of its output on the traced example, the batch axis included.
        dtype: Of its output; `None` for tuples.
        module: Dotted path of the submodule it calls, or `None`.
        attributes: The normalised facts: `kernel_size`, `stride`, `padding` ...; of a parameter its `path`.
        source: `file.py:12` of the line that called it, where there is one.
        calls: How often its submodule is called in the graph.
    """

    name: str
    op: Op
    inputs: tuple[str, ...]
    shape: Shape
    dtype: torch.dtype | None = None
    module: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    source: str | None = None
    calls: int = 1

    def __str__(self) -> str:
        return f"{self.name} ({self.op.value}{f', {self.source}' if self.source else ''})"


@dataclass(frozen=True, eq=False)
class Graph:
    """A traced network: nodes in execution order, and the module that runs them.

    Attributes:
        nodes: In execution order, inputs first, the output last.
        root: The module that was traced, of the user's own class.
        module: A module that runs the graph and shares its submodules and parameters with `root`.
        examples: Inputs that it was traced with, as tensors without data.
        names: Name of the node in the code of `module`, by `Node.name`.
    """

    nodes: tuple[Node, ...]
    root: nn.Module
    module: fx.GraphModule
    examples: tuple[Tensor, ...]
    names: Mapping[str, str]

    def __getitem__(self, name: str) -> Node:
        if name not in self._by_name:
            close = difflib.get_close_matches(name, self._by_name, 3)
            raise GraphError(
                explain(
                    "the name of a node",
                    repr(name),
                    f"graph of {type(self.root).__name__}",
                    f"did you mean {', '.join(close)}" if close else f"the nodes are {', '.join(self._by_name)}",
                )
            )
        return self._by_name[name]

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The input nodes."""
        return tuple(node for node in self.nodes if node.op is Op.INPUT)

    @property
    def output(self) -> Node:
        """The output node; its single input is the node that computes the result."""
        return self.nodes[-1]

    def consumers(self, name: str) -> tuple[Node, ...]:
        """Nodes that read the node of that name."""
        return tuple(self._by_name[consumer] for consumer in self._consumers[self[name].name])

    def submodule(self, node: Node) -> nn.Module:
        """The submodule that a node calls.

        Raises:
            GraphError: The node calls a function or a method.
        """
        if node.module is None:
            raise GraphError(explain("a node that calls a module", str(node), "graph", "read node.attributes instead"))
        return self.module.get_submodule(node.module)

    def fx_node(self, name: str) -> fx.Node:
        """The node of that name in the code of `module`."""
        wanted = self.names[self[name].name]
        return next(node for node in self.module.graph.nodes if node.name == wanted)

    def __str__(self) -> str:
        rows = [("node", "op", "inputs", "shape")]
        rows += [(node.name, node.op.value, ", ".join(node.inputs), _shape_text(node.shape)) for node in self.nodes]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        return "\n".join(
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def _consumers(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                found[name].append(node.name)
        return found


def _shape_text(shape: Shape) -> str:
    if any(isinstance(length, tuple) for length in shape):
        return ", ".join(_shape_text(part) for part in shape if isinstance(part, tuple))
    return "x".join(map(str, shape)) or "scalar"
