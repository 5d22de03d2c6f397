"""`Architecture`: what a network is made of, without weights and without names.

Layers stand in a canonical order: depth first from the output, shorter branches before longer ones, equal ones by
their structure. Every layer reads the one before it unless a `Skip` says otherwise, so that layers and skips together
are the whole network, and two networks have equal architectures exactly where one is the other renamed.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from pluriform.graph.graph import Node
from pluriform.graph.ops import Op

__all__ = ["Architecture", "Layer", "Network", "Skip", "Value", "architecture"]

Value = int | float | str | tuple[int, ...]
"""Of an attribute of a layer: a number, a number for each axis, or words."""

COMMUTATIVE = frozenset({Op.ADD, Op.MULTIPLY})
STATELESS = frozenset({
    Op.ACTIVATION, Op.SOFTMAX, Op.MAX_POOL, Op.AVG_POOL, Op.LP_POOL, Op.ADAPTIVE_AVG_POOL, Op.ADAPTIVE_MAX_POOL,
    Op.FLATTEN, Op.RESHAPE, Op.DROPOUT, Op.UPSAMPLE, Op.PAD, Op.PIXEL_SHUFFLE, Op.GLU, Op.UNFOLD, Op.FOLD,
})  # fmt: skip
"""Modules without weights, which may be called many times and share nothing."""
FOLLOWING = frozenset({
    "shape", "sizes", "size", "lengths", "normalized_shape", "num_features", "num_channels", "num_parameters",
    "in_channels", "in_features", "out_channels", "out_features", "embedding_dim", "embed_dim", "path", "function",
    "output_size", "training", "batch_statistics", "active", "batch_first",
})  # fmt: skip
"""Attributes that follow from the layers before, or from the mode; `width`, `kind` and others say the rest."""


@runtime_checkable
class Network(Protocol):
    """Anything with the nodes of a network: a `Graph`, with weights or without."""

    @property
    def nodes(self) -> tuple[Node, ...]:
        """In execution order, inputs first, the output last."""
        ...


@dataclass(frozen=True)
class Layer:
    """One operation that reads one tensor.

    Attributes:
        kind: `conv2d`, `linear`, `batch_norm`, `relu`, `max_pool2d` ...
        attributes: Names and values, sorted by name; the same names for all layers of one kind. `width` is the number
            of channels that a layer with weights makes; `form` holds what is no number (`bias`, `zeros`).
    """

    kind: str
    attributes: tuple[tuple[str, Value], ...] = ()

    def __getitem__(self, name: str) -> Value:
        return dict(self.attributes)[name]


@dataclass(frozen=True, order=True)
class Skip:
    """An edge that does not come from the rank before.

    Attributes:
        start: Rank of the tensor that is read; 0 is the input of the network.
        end: Rank of what reads it.
        kind: `add`, `concat` or another operation that joins tensors; `branch` where a layer reads an earlier tensor;
            `output`, `source` (a tensor from nowhere: a constant or a further input).
    """

    start: int
    end: int
    kind: str

    @property
    def span(self) -> int:
        """How many ranks it passes over, its own end included."""
        return self.end - self.start


@dataclass(frozen=True)
class Architecture:
    """Layers and skips of a network.

    Attributes:
        layers: In canonical order.
        skips: Sorted. Ranks count layers and joins (the ends of skips that are no `branch`), beginning at 1.
    """

    layers: tuple[Layer, ...]
    skips: tuple[Skip, ...] = ()

    @cached_property
    def key(self) -> str:
        """A hash of layers and skips: equal for equal architectures, in every process."""
        return _digest((self.layers, self.skips)).hex()

    def __len__(self) -> int:
        return len(self.layers)

    def __str__(self) -> str:
        rows = [f"{layer.kind} {_words(layer.attributes)}".rstrip() for layer in self.layers]
        return "\n".join([*rows, *(f"{skip.kind} {skip.start} -> {skip.end}" for skip in self.skips)])


def architecture(graph: Network) -> Architecture:
    """The architecture of a network.

    Args:
        graph: The traced network, with weights or without.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from pluriform.graph.trace import trace
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> print(architecture(trace(net, torch.zeros(2, 4))))
        linear form=bias width=3
        relu
        linear form=bias width=2
    """
    elements = _elements(graph.nodes)
    order = _canonical(elements)
    ranks = {name: rank for rank, name in enumerate(order)}
    layers, skips, tied = [], [], {}
    for name, rank in ranks.items():
        element = elements[name]
        if element.kind is not None:
            layers.append(_tied(element, tied))
        if rank:
            skips += _skips(element, rank, ranks)
    return Architecture(tuple(layers), tuple(sorted(skips)))


@dataclass(frozen=True, eq=False)
class _Element:
    """A layer (with a kind) or a join, the input or the output (without)."""

    node: Node
    inputs: tuple[str, ...]
    kind: Layer | None
    depth: int


def _elements(nodes: Sequence[Node]) -> dict[str, _Element]:
    """What is no parameter and no identity, by name, in execution order."""
    found: dict[str, _Element] = {}
    passed: dict[str, str] = {}
    first = next((node.name for node in nodes if node.op is Op.INPUT), None)
    for node in nodes:
        inputs = tuple(passed.get(name, name) for name in node.inputs if passed.get(name, name) in found)
        if node.op is Op.IDENTITY and len(inputs) == 1:
            passed[node.name] = inputs[0]
            continue
        if node.op is Op.PARAMETER:
            continue
        joins = len(inputs) > 1 or node.op is Op.OUTPUT or node.name == first
        layer = None if joins else _layer(node)
        depth = 1 + max((found[name].depth for name in inputs), default=-1)
        found[node.name] = _Element(node, inputs, layer, depth)
    return found


def _digests(elements: Mapping[str, _Element]) -> dict[str, bytes]:
    """A hash of everything that each element is computed from."""
    found: dict[str, bytes] = {}
    for name, element in elements.items():
        below = [found[each] for each in element.inputs]
        ordered = sorted(below) if element.node.op in COMMUTATIVE else below
        found[name] = _digest((element.node.op.value, element.kind, ordered))
    return found


def _canonical(elements: Mapping[str, _Element]) -> list[str]:
    """Names in depth-first order from the output, shorter inputs first."""
    order: dict[str, None] = {}
    digests: dict[str, bytes] = {}
    stack = [([*elements][-1], False)]
    while stack:
        name, read = stack.pop()
        if name in order:
            continue
        if read:
            order[name] = None
            continue
        stack.append((name, True))
        below = list(dict.fromkeys(elements[name].inputs))
        if len({elements[each].depth for each in below}) < len(below):  # only equal depths ask for more
            digests = digests or _digests(elements)
            below.sort(key=digests.__getitem__)
        below.sort(key=lambda each: elements[each].depth, reverse=True)
        stack += [(each, False) for each in below]
    first = next((name for name, each in elements.items() if each.node.op is Op.INPUT), None)
    rest = [name for name in order if name != first]
    return [first, *rest] if first is not None else ["", *rest]


def _skips(element: _Element, rank: int, ranks: Mapping[str, int]) -> list[Skip]:
    """The edges of an element that do not come from the rank before."""
    starts = [ranks[name] for name in element.inputs]
    if not starts:
        return [Skip(rank, rank, "source")]
    main = starts.index(rank - 1) if rank - 1 in starts else None
    if element.kind is not None:
        return [] if main == 0 else [Skip(starts[0], rank, "branch")]
    name = element.node.op.value + (" apart" if main is None and element.node.op is not Op.OUTPUT else "")
    ordered = element.node.op not in COMMUTATIVE and main is not None
    return [
        Skip(start, rank, f"{name} before" if ordered and place < (main or 0) else name)
        for place, start in enumerate(starts)
        if place != main
    ]


def _tied(element: _Element, modules: dict[str, int]) -> Layer:
    """The layer; layers that call one module with weights say so."""
    layer, node = element.kind or Layer(""), element.node
    if node.calls < 2 or node.module is None or node.op in STATELESS:
        return layer
    return Layer(f"{layer.kind} tied {modules.setdefault(node.module, len(modules))}", layer.attributes)


def _layer(node: Node) -> Layer:
    facts, op = node.attributes, node.op
    axes = f"{len(facts['kernel_size'])}d" if "kernel_size" in facts else ""
    kind = str(facts["function"]) if "function" in facts else f"{op.value}{axes}"
    numbers: dict[str, Value] = {}
    words: list[str] = []
    for name, value in facts.items():
        if name in FOLLOWING or value is None:
            continue
        if isinstance(value, bool):
            words += [name] if value else []
        elif isinstance(value, int | float):
            numbers[name] = value
        elif (axis := _by_axis(value)) is not None:
            numbers[name] = axis
        else:
            words.append(str(value))
    width = facts.get("out_channels", facts.get("out_features", facts.get("embedding_dim")))
    if width is not None:
        numbers["width"] = width
    if op in (Op.ADAPTIVE_AVG_POOL, Op.ADAPTIVE_MAX_POOL):
        numbers["output_size"] = tuple(facts["output_size"])
    if op is Op.ATTENTION:
        numbers["num_heads"] = facts.get("num_heads") or (node.shape[1] if len(node.shape) == 4 else 1)
    if op is Op.OPAQUE:
        numbers["width"] = node.shape[-1] if node.shape and isinstance(node.shape[-1], int) else 0
    if words:
        numbers["form"] = " ".join(sorted(words))
    return Layer(kind, tuple(sorted(numbers.items())))


def _by_axis(value: Any) -> tuple[int, ...] | None:
    """Numbers for each axis; pairs (padding before and behind) as their sums, where they are equal."""
    if not isinstance(value, tuple | list) or not value:
        return None
    if all(isinstance(item, int) for item in value):
        return tuple(value)
    pairs = all(isinstance(item, tuple) and len(item) == 2 and item[0] == item[1] for item in value)
    return tuple(int(item[0]) for item in value) if pairs else None


def _digest(thing: object) -> bytes:
    return hashlib.blake2b(repr(thing).encode(), digest_size=12).digest()


def _words(attributes: tuple[tuple[str, Value], ...]) -> str:
    return " ".join(f"{name}={value}" for name, value in attributes)
