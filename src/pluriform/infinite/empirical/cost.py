"""Counted cost of the algorithms for the empirical NTK: multiplications, and numbers held."""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from pluriform.errors import MemoryBudgetError, explain
from pluriform.graph.graph import Graph, Node
from pluriform.graph.ops import Op
from pluriform.infinite.empirical.contraction import Over
from pluriform.infinite.empirical.layer import Layer
from pluriform.infinite.empirical.layer_ntk import Sizes
from pluriform.infinite.empirical.structured import StructuredDerivatives, layer_sizes
from pluriform.infinite.empirical.subject import Subject, subject_of
from pluriform.infinite.empirical.tiles import TileSize

__all__ = ["Costs", "Numbers", "costs_of", "count_cost", "numbers_of", "tile_size"]


@dataclass(frozen=True)
class Costs:
    """Multiplications of every algorithm for one kernel.

    Attributes:
        jacobian: Of Jacobian contraction.
        ntk_vp: Of NTK-vector products.
        structured: Of structured derivatives.
        layers: For each layer with structure, by node: `"gram"` or `"explicit"`.
    """

    jacobian: int
    ntk_vp: int
    structured: int
    layers: dict[str, str]

    @property
    def algorithm(self) -> str:
        """The cheapest: `"structured"`, `"jacobian"` or `"ntk-vp"`; the first of equals."""
        counts = {"structured": self.structured, "jacobian": self.jacobian, "ntk-vp": self.ntk_vp}
        return min(counts, key=lambda name: counts[name])


@dataclass(frozen=True)
class Numbers:
    """Numbers held by a tile of n inputs and o outputs on a side: `2 n (fixed + o each) + n^2 pairs`.

    Attributes:
        fixed: For each input.
        each: For each input and output.
        pairs: For each pair of inputs.
    """

    fixed: int
    each: int
    pairs: int

    def total(self, inputs: int, outputs: int) -> int:
        """Of one tile."""
        return 2 * inputs * (self.fixed + outputs * self.each) + inputs**2 * self.pairs


def count_cost(
    module: nn.Module,
    x1: Float[Tensor, "n1 *features1"],
    x2: Float[Tensor, "n2 *features2"] | None = None,
    *,
    output: Over = "full",
) -> Costs:
    """Count what `empirical_ntk` would cost, without computing it; `algorithm="auto"` takes the cheapest.

    Args:
        module: The network.
        x1: First inputs.
        x2: Second inputs; `None` takes the first.
        output: Pairs of outputs.

    Returns:
        Multiplications by algorithm. Operations without parameters are not counted.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(3, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 2))
        >>> count_cost(net, torch.zeros(8, 3)).algorithm
        'structured'
    """
    subject = subject_of(module, x1)
    subject.check_inputs(x1, x2)
    return costs_of(StructuredDerivatives(subject, output), len(x1), None if x2 is None else len(x2))


def costs_of(method: StructuredDerivatives, n1: int, n2: int | None) -> Costs:
    """The same for a network that was traced.

    Args:
        method: The structured algorithm on the network.
        n1: First inputs.
        n2: Second inputs, or `None` for the first.
    """
    subject, over = method.subject, method.over
    forward, outputs = _forward(subject.graph), subject.outputs
    second, sides = (n1 if n2 is None else n2), (n1 if n2 is None else n1 + n2)
    pairs = n1 * second * (outputs**2 if over == "full" else outputs)
    weights = {name: parameter.numel() for name, parameter in subject.parameters.items()}
    structured, layers = sides * (1 + outputs) * forward, {}
    for layer in method.layers:
        if layer.weight is not None and layer.kind != "norm":
            sizes = _sizes(subject, layer, n1, second, n2 is None)
            layers[layer.node.name] = sizes.cheaper(over)
            structured += min(sizes.gram(over), sizes.explicit(over))
    if method.others:
        structured += sides * outputs * 2 * forward + pairs * sum(weights[name] for name in method.others)
    return Costs(
        jacobian=sides * (1 + 2 * outputs) * forward + pairs * sum(weights.values()),
        ntk_vp=second * outputs * (3 + 2 * n1) * forward,
        structured=structured,
        layers=layers,
    )


def numbers_of(method: StructuredDerivatives, algorithm: str) -> Numbers:
    """What an algorithm holds for each input.

    Args:
        method: The structured algorithm on the network.
        algorithm: `"jacobian"`, `"ntk-vp"` or `"structured"`.
    """
    subject = method.subject
    parameters = sum(parameter.numel() for parameter in subject.parameters.values())
    activations = sum(_numel(subject.graph, node) for node in subject.graph.nodes)
    if algorithm == "jacobian":
        return Numbers(activations, activations + parameters, 0)
    if algorithm == "ntk-vp":
        return Numbers(16 * (2 * activations + 2 * parameters), 0, 0)
    fixed, each, pairs = 3 * activations, 0, 0
    for layer in method.layers:
        result = _numel(subject.graph, layer.node)
        if layer.weight is None or layer.kind == "norm":
            each += layer.shape[0]
            continue
        sizes = _sizes(subject, layer, 1, 1, False)
        fixed += sizes.groups * sizes.patch * sizes.positions
        each += min(result, sizes.groups * sizes.patch * sizes.width)
        pairs += sizes.groups * sizes.positions**2 if sizes.cheaper(method.over) == "gram" else 0
    others = sum(subject.parameters[name].numel() for name in method.others)
    return Numbers(fixed, each + others + (activations if others else 0), pairs)


def tile_size(method: StructuredDerivatives, algorithm: str, inputs: int, memory: float | int) -> TileSize:
    """The largest tile within a budget.

    Blocks of outputs cost no work where outputs are not paired, so that there outputs are split before inputs.

    Args:
        method: The structured algorithm on the network.
        algorithm: The one that is to run.
        inputs: At most so many inputs.
        memory: Bytes.

    Raises:
        MemoryBudgetError: One input and one output on a side exceed it.
    """
    subject, numbers = method.subject, numbers_of(method, algorithm)
    outputs, budget = subject.outputs, memory / subject.dtype.itemsize
    while outputs > 1 and numbers.total(1 if method.over == "full" else inputs, outputs) > budget:
        outputs = -(-outputs // 2)
    while inputs > 1 and numbers.total(inputs, outputs) > budget:
        inputs = inputs * 3 // 4 if inputs > 4 else inputs - 1
    if numbers.total(inputs, outputs) > budget:
        needed = numbers.total(inputs, outputs) * subject.dtype.itemsize
        raise MemoryBudgetError(
            explain(
                f"a budget of at least {needed / 2**20:.0f} MiB, for one input on either side",
                f"{memory / 2**20:.0f} MiB",
                f"empirical NTK of {type(subject.module).__name__}",
                "raise memory",
            )
        )
    return TileSize(inputs, outputs)


def _numel(graph: Graph, node: Node) -> int:
    """Numbers that a node gives for one input; parameters and tuples count as none."""
    if node.op in (Op.PARAMETER, Op.OUTPUT) or any(isinstance(length, tuple) for length in node.shape):
        return 0
    return math.prod(node.shape) // len(graph.examples[0])


def _sizes(subject: Subject, layer: Layer, n1: int, n2: int, same: bool) -> Sizes:
    read = next(name for name in layer.node.inputs if subject.graph[name].op is not Op.PARAMETER)
    return layer_sizes(layer, tuple(subject.graph[read].shape), n1, n2, subject.outputs, same=same)


def _forward(graph: Graph) -> int:
    """Multiplications of one forward pass of one input, by layers with weights."""
    total = 0
    for node in graph.nodes:
        facts = node.attributes
        if node.op is Op.LINEAR:
            total += _numel(graph, node) * facts["in_features"]
        elif node.op is Op.CONV:
            fan_in = facts["in_channels"] // facts["groups"] * math.prod(facts["kernel_size"])
            total += _numel(graph, node) * fan_in
        elif node.op is Op.CONV_TRANSPOSE:
            fan_out = facts["out_channels"] // facts["groups"] * math.prod(facts["kernel_size"])
            total += _numel(graph, graph[node.inputs[0]]) * fan_out
        elif node.op is Op.OPAQUE and node.module is not None:
            total += sum(parameter.numel() for parameter in graph.submodule(node).parameters())
    return total
