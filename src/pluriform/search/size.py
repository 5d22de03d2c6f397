"""How large a network is, from its outline alone: parameters, multiply-accumulates, what training keeps in memory.

What autograd keeps for the backward pass is counted by what each operation needs of it: its input (convolutions, dense
layers, norms, products), its output (ReLU, tanh, softmax) or something of its own (places of maxima, masks). A tensor
that several operations need is kept once, and a view is the tensor that it shows.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from pluriform.graph.graph import Graph, Node, Shape
from pluriform.graph.ops import Op
from pluriform.search.outline import Outline

__all__ = ["Size", "size_of", "step_work", "work_of"]

VIEWS = frozenset({
    Op.FLATTEN, Op.RESHAPE, Op.PERMUTE, Op.EXPAND, Op.SLICE, Op.SPLIT, Op.ITEM, Op.IDENTITY,
})  # fmt: skip
KEEPS_INPUT = frozenset({
    Op.CONV, Op.CONV_TRANSPOSE, Op.LINEAR, Op.BATCH_NORM, Op.INSTANCE_NORM, Op.GROUP_NORM, Op.LAYER_NORM, Op.RMS_NORM,
    Op.MAX_POOL, Op.AVG_POOL, Op.ADAPTIVE_MAX_POOL, Op.ADAPTIVE_AVG_POOL, Op.MULTIPLY, Op.DIVIDE, Op.MATMUL,
    Op.EINSUM, Op.ATTENTION, Op.BILINEAR, Op.GLU, Op.LOCAL_RESPONSE_NORM, Op.OPAQUE,
})  # fmt: skip
KEEPS_OUTPUT = frozenset({Op.SOFTMAX, Op.ATTENTION, Op.OPAQUE})
OUTPUT_FUNCTIONS = frozenset({"relu", "tanh", "sigmoid", "exp", "sqrt", "rsqrt", "reciprocal"})
ELEMENTWISE = 16
"""Multiply-accumulates that take as long as the norms and activations of one number."""
UPDATED, BESIDE = 128, 6e6
"""Multiply-accumulates that take as long as the update of one parameter, and as all calls of a step of small layers."""
FREE_FUNCTIONS = frozenset({"neg", "positive"})


@dataclass(frozen=True)
class Size:
    """Size of a network.

    Attributes:
        parameters: Their number; shared ones count once.
        parameter_bytes: Their memory, in bytes.
        macs: Multiply-accumulates of convolutions, dense layers and products, for one sample.
        activations: Numbers in the outputs of all operations that are no views, for one sample.
        saved_bytes: Memory that a training step keeps for the backward pass, for one sample, in bytes.
    """

    parameters: int
    parameter_bytes: int
    macs: int
    activations: int
    saved_bytes: int


def size_of(network: Graph | Outline) -> Size:
    """The size of a network.

    Args:
        network: With weights or without.

    Example:
        >>> from torch import nn
        >>> from pluriform.graph.trace import trace
        >>> size_of(trace(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.zeros(2, 4)))
        Size(parameters=23, parameter_bytes=92, macs=18, activations=8, saved_bytes=28)
    """
    outline = network if isinstance(network, Outline) else Outline.of(network)
    macs, activations = _products(outline)
    found = {id(p): p for layer in outline.layers.values() for p in layer.parameters()}
    found |= {id(p): p for p in outline.tensors.values() if isinstance(p, torch.nn.Parameter)}
    batch = _batch(outline)
    by_name = {node.name: node for node in outline.nodes}
    return Size(
        sum(p.numel() for p in found.values()),
        sum(p.numel() * p.element_size() for p in found.values()),
        macs,
        activations,
        _saved(outline, by_name) // batch,
    )


def work_of(network: Outline) -> float:
    """What one sample costs in a training step: multiply-accumulates, and what numbers between layers take."""
    macs, activations = _products(network)
    return float(macs + ELEMENTWISE * activations)


def step_work(sample: float | int, parameters: int, batch_size: int) -> float:
    """What a training step costs, in multiply-accumulates.

    Args:
        sample: Work for one sample.
        parameters: Each is updated once, however many samples there are.
        batch_size: Samples of a step.
    """
    return float(BESIDE + batch_size * sample + UPDATED * parameters)


def _products(outline: Outline) -> tuple[int, int]:
    """Multiply-accumulates and numbers between layers, for one sample."""
    by_name, batch = {node.name: node for node in outline.nodes}, _batch(outline)
    outputs = [node for node in outline.nodes if node.op not in (*VIEWS, Op.INPUT, Op.OUTPUT, Op.PARAMETER)]
    return (
        sum(_macs(node, by_name) for node in outputs) // batch,
        sum(_count(node.shape) for node in outputs) // batch,
    )


def _batch(outline: Outline) -> int:
    return next((int(node.shape[0]) for node in outline.nodes if node.op is Op.INPUT and node.shape), 1) or 1


def _macs(node: Node, nodes: Mapping[str, Node]) -> int:
    facts, shape = node.attributes, node.shape
    if node.op is Op.LINEAR:
        return _count(shape) * facts["in_features"]
    if node.op is Op.CONV:
        return _count(shape) * facts["in_channels"] // facts["groups"] * math.prod(facts["kernel_size"])
    if node.op is Op.CONV_TRANSPOSE:
        before = _count(nodes[node.inputs[0]].shape)
        return before * facts["out_channels"] // facts["groups"] * math.prod(facts["kernel_size"])
    if node.op is Op.MATMUL:
        return _count(shape) * nodes[node.inputs[0]].shape[-1]
    if node.op is Op.ATTENTION and len(node.inputs) >= 3:
        return _attention_macs(node, nodes)
    return 0


def _attention_macs(node: Node, nodes: Mapping[str, Node]) -> int:
    query, key, value = (nodes[name].shape for name in node.inputs[:3])
    if node.module is None:
        return _count(query) * key[-2] + _count(query[:-1]) * key[-2] * value[-1]
    products = _count(query) * key[-2] * 2
    return products + (2 * _count(query) + _count(key) + _count(value)) * query[-1]


def _saved(outline: Outline, nodes: Mapping[str, Node]) -> int:
    """Bytes of the tensors that some operation keeps, each once, and of what it keeps of its own."""
    shown: dict[str, str] = {}
    kept: set[str] = set()
    own = 0
    for node in outline.nodes:
        inputs = [shown.get(name, name) for name in node.inputs if nodes[name].op is not Op.PARAMETER]
        if (node.op in VIEWS or _does_nothing(node)) and inputs:
            shown[node.name] = inputs[0]
            continue
        function = node.attributes.get("function") if node.op is Op.ACTIVATION else None
        scaled = node.op in (Op.MULTIPLY, Op.DIVIDE) and len(inputs) < 2 and "scalar" in node.attributes
        if (node.op in KEEPS_INPUT and not scaled) or (function and function not in OUTPUT_FUNCTIONS | FREE_FUNCTIONS):
            kept.update(inputs)
        if node.op in KEEPS_OUTPUT or function in OUTPUT_FUNCTIONS:
            kept.add(node.name)
        own += _own(node)
    return own + sum(_bytes(nodes[name]) for name in kept)


def _own(node: Node) -> int:
    """Bytes that an operation keeps beside its input and output."""
    if node.op in (Op.MAX_POOL, Op.ADAPTIVE_MAX_POOL):
        return 8 * _count(node.shape)
    return _bytes(node) if node.op is Op.DROPOUT else 0


def _does_nothing(node: Node) -> bool:
    return node.op is Op.DROPOUT and node.attributes["p"] == 0


def _bytes(node: Node) -> int:
    return _count(node.shape) * (node.dtype.itemsize if node.dtype is not None else 4)


def _count(shape: Shape) -> int:
    if any(isinstance(length, tuple) for length in shape):
        return sum(_count(part) for part in shape if isinstance(part, tuple))
    return math.prod(shape)
