"""`Outline`: a network without weights, on which morphs cost no more than a few records."""

import copy
import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from pluriform.graph.attributes import module_facts, normalise
from pluriform.graph.channel_rules import RULES
from pluriform.graph.flow import ChannelFlow
from pluriform.graph.graph import Graph, Node, Shape
from pluriform.graph.ops import Op
from pluriform.graph.spelling import module_spelling
from pluriform.search.architecture import Architecture, architecture
from pluriform.search.morphism import Change, refusal
from pluriform.search.places import Places, places_of

__all__ = ["Outline", "layer_node"]


@dataclass(frozen=True, eq=False)
class Outline:
    """The nodes of a network, and its layers on the meta device.

    Attributes:
        nodes: In execution order, inputs first, the output last.
        layers: By dotted path, those that nodes call; unchanged ones are shared with the outline before.
        tensors: Parameters, buffers and constants that the code of the network reads itself, by dotted path.
        constants: Which of them are no parameters or buffers.
        examples: Inputs that it was traced with, as tensors without data.
        code: Of the network before any morph, which tells where its lengths come from.
        names: Name in that code, by name of the node.
    """

    nodes: tuple[Node, ...]
    layers: Mapping[str, nn.Module]
    tensors: Mapping[str, Tensor]
    constants: frozenset[str]
    examples: tuple[Any, ...]
    code: fx.Graph
    names: Mapping[str, str]

    @staticmethod
    def of(graph: Graph) -> "Outline":
        """The outline of a traced network."""
        memo: dict[int, Any] = {}
        for tensor in (*graph.module.parameters(), *graph.module.buffers()):
            memo[id(tensor)] = _blank(tensor, tensor.shape)
        paths = dict.fromkeys(node.module for node in graph.nodes if node.module is not None)
        layers = {path: copy.deepcopy(graph.module.get_submodule(path), memo) for path in paths}
        tensors, constants = {}, set()
        for node in graph.nodes:
            if node.op is Op.PARAMETER:
                tensor = operator.attrgetter(path := node.attributes["path"])(graph.module)
                tensors[path] = memo[id(tensor)] if id(tensor) in memo else torch.empty_like(tensor, device="meta")
                constants |= set() if id(tensor) in memo else {path}
        return Outline(
            graph.nodes, layers, tensors, frozenset(constants), graph.examples, graph.module.graph, graph.names
        )

    def __getitem__(self, name: str) -> Node:
        if name not in self._by_name:
            raise refusal("the name of a node", repr(name), "network to morph")
        return self._by_name[name]

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __len__(self) -> int:
        return len(self.nodes)

    def consumers(self, name: str) -> tuple[Node, ...]:
        """Nodes that read the node of that name."""
        return self._consumers.get(name, ())

    def layer(self, node: Node) -> nn.Module | None:
        """The layer that a node calls, or None."""
        return None if node.module is None else self.layers[node.module]

    def fresh_name(self, stem: str) -> str:
        """`stem1`, or with the next number that no node and no layer begins with."""
        taken = {name.partition(".")[0].partition("_")[0] for name in (*self._by_name, *self.layers)}
        return next(name for number in range(1, len(taken) + 2) if (name := f"{stem}{number}") not in taken)

    @cached_property
    def architecture(self) -> Architecture:
        """Layers and skips."""
        return architecture(self)

    @cached_property
    def places(self) -> Places:
        """Where layers may be put."""
        return places_of(self.nodes, self._consumers)

    @cached_property
    def flow(self) -> ChannelFlow:
        """Which channels stand where, and the weights that follow them."""
        shell = fx.GraphModule(nn.Module(), fx.Graph())
        for path, layer in self.layers.items():
            shell.add_submodule(path, layer)
        for path, tensor in self.tensors.items():
            _put(shell, path, tensor, constant=path in self.constants)
        shell._graph = self.code  # only read: compiling it, as the setter does, would take longer than all the rest
        return ChannelFlow(Graph(self.nodes, shell, shell, self.examples, self.names), RULES)

    @cached_property
    def addresses(self) -> Mapping[int, tuple[str, ...]]:
        """Dotted paths of every parameter and buffer, by identity."""
        found: dict[int, dict[str, None]] = {}
        for path, layer in self.layers.items():
            for name, tensor in (*layer.named_parameters(), *layer.named_buffers()):
                found.setdefault(id(tensor), {})[f"{path}.{name}"] = None
        for path, tensor in self.tensors.items():
            found.setdefault(id(tensor), {})[path] = None
        return {key: tuple(paths) for key, paths in found.items()}

    def after(self, change: Change) -> "Outline":
        """The outline of the changed network."""
        layers, tensors = dict(self.layers), dict(self.tensors)
        changed: dict[str, nn.Module] = {}

        def own(path: str) -> nn.Module:
            if path in changed:
                return changed[path]
            if path in layers:
                changed[path] = layers[path] = _copied(layers[path])
            else:  # inside a layer of several parts, such as the projection of an attention layer
                above, _, name = path.rpartition(".")
                changed[path] = own(above)._modules[name] = _copied(getattr(own(above), name))
            return changed[path]

        for edit in change.weights:
            new = None
            for address in edit.addresses:
                path, _, name = address.rpartition(".")
                if address in tensors:
                    new = tensors[address] = _blank(tensors[address], edit.shape) if new is None else new
                if self._in_layer(path):
                    new = _blank(getattr(own(path), name), edit.shape) if new is None else new
                    _put(own(path), name, new)
        for setting in change.settings:
            setattr(own(setting.path), setting.attribute, setting.value)
        layers.update((new.path, new.module) for new in change.layers)
        return replace(self, nodes=self._nodes_after(change, layers, {*changed}), layers=layers, tensors=tensors)

    def _in_layer(self, path: str) -> bool:
        while path and path not in self.layers:
            path = path.rpartition(".")[0]
        return bool(path)

    def _nodes_after(self, change: Change, layers: Mapping[str, nn.Module], changed: set[str]) -> tuple[Node, ...]:
        nodes, insertion = [], change.insertion
        shapes = {**{node.name: node.shape for node in self.nodes}, **change.shapes} if change.shapes else {}
        for node in self.nodes:
            if node.module in changed or node.name in change.shapes:
                shape = change.shapes.get(node.name, node.shape)
                first = shapes[node.inputs[0]] if shapes and node.inputs else ()
                node = _following(node, shape, layers, first or self._first(node))
            if insertion is not None and insertion.after in node.inputs:
                node = replace(
                    node, inputs=tuple(insertion.result.name if n == insertion.after else n for n in node.inputs)
                )
            nodes.append(node)
            if insertion is not None and node.name == insertion.after:
                nodes += insertion.nodes
        return tuple(nodes)

    def _first(self, node: Node) -> Shape:
        return self[node.inputs[0]].shape if node.inputs else ()

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def _consumers(self) -> dict[str, tuple[Node, ...]]:
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                found.setdefault(name, []).append(node)
        return {name: tuple(readers) for name, readers in found.items()}


def layer_node(path: str, layer: nn.Module, before: Node, shape: Shape) -> Node:
    """The node that calls a new layer on another node."""
    spelling = module_spelling(layer)
    if spelling is None:
        raise refusal("a layer of torch.nn", type(layer).__name__, path)
    op, facts = normalise(spelling, module_facts(layer, spelling), _example(shape), _example(before.shape))
    return Node(path, op, (before.name,), shape, before.dtype, path, facts)


def _following(node: Node, shape: Shape, layers: Mapping[str, nn.Module], first: Shape) -> Node:
    """A node with a new shape or a changed layer."""
    facts: Mapping[str, Any] = node.attributes
    spelling = None if node.module is None else module_spelling(layers[node.module])
    if node.module is not None and spelling is not None:
        facts = normalise(spelling, module_facts(layers[node.module], spelling), _example(shape), _example(first))[1]
    elif node.op is Op.RESHAPE and "shape" in facts:
        facts = {**facts, "shape": shape}
    elif node.op is Op.SPLIT and facts.get("lengths"):
        dim = facts["dim"]
        facts = {**facts, "lengths": tuple(part[dim] if not facts.get("unbind") else 1 for part in shape)}
    elif node.op is Op.LINEAR:
        facts = {**facts, "in_features": first[-1], "out_features": shape[-1]}
    elif node.op is Op.CONV:
        channel = len(shape) - 1 - len(facts["kernel_size"])
        facts = {**facts, "in_channels": first[channel], "out_channels": shape[channel]}
    return replace(node, shape=shape, attributes=facts)


def _example(shape: Shape) -> Any:
    if any(isinstance(length, tuple) for length in shape):
        return tuple(_example(part) for part in shape if isinstance(part, tuple))
    return torch.empty(shape, device="meta")


def _blank(old: Tensor, shape: tuple[int, ...]) -> Tensor:
    new = torch.empty(shape, dtype=old.dtype, device="meta")
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new


def _copied(module: nn.Module) -> nn.Module:
    """A module of its own with the same tensors."""
    new = object.__new__(type(module))
    new.__dict__.update(module.__dict__)
    for name in ("_parameters", "_buffers", "_modules"):
        new.__dict__[name] = dict(module.__dict__[name])
    return new


def _put(root: nn.Module, address: str, tensor: Tensor, *, constant: bool = False) -> None:
    """Set a parameter or buffer below a module, making plain modules on the way."""
    path, _, name = address.rpartition(".")
    for part in path.split(".") if path else ():
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    if name in root._parameters or isinstance(tensor, nn.Parameter):
        root._parameters[name] = tensor  # type: ignore[assignment]
    elif constant:
        setattr(root, name, tensor)
    else:
        root._buffers[name] = tensor
