"""The nodes of a traced network as steps of a plan: which rule serves which operation."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, fx, nn

from pluriform.errors import ConfigError, UnsupportedOpError, explain
from pluriform.graph.graph import Graph, Node
from pluriform.graph.ops import Op
from pluriform.graph.trace import trace
from pluriform.infinite.branch import identity
from pluriform.infinite.plan import Plan, Step
from pluriform.infinite.translate import RULES, WEIGHTED, Place
from pluriform.infinite.translation.elementwise import elementwise, elementwise_step
from pluriform.infinite.translation.place import channel_axes
from pluriform.infinite.translation.through_concat import through_concatenations
from pluriform.infinite.translation.trained_scales import with_trained_scales

__all__ = ["Variances", "plan_of"]


@dataclass(frozen=True)
class Variances:
    """Variances of all layers: numbers, or tensors of no axes to which gradients flow.

    Attributes:
        weight: Variance of a weight times the fan-in.
        bias: Variance of a bias.
        overrides: `(weight, bias)` by dotted path of the layer.
        parameterization: `"ntk"` or `"standard"`.
    """

    weight: float | int | Tensor
    bias: float | int | Tensor
    overrides: Mapping[str, tuple[float | int | Tensor, float | int | Tensor]]
    parameterization: str

    def check(self, graph: Graph) -> None:
        """Refuse negative variances and overrides of what is not a layer with weights."""
        for weight, bias in ((self.weight, self.bias), *self.overrides.values()):
            if not (weight >= 0 and bias >= 0 and weight + bias < math.inf):
                raise ConfigError(
                    explain("finite variances of 0 or more", f"({weight}, {bias})", "kernel_of", "give other variances")
                )
        layers = [node.module for node in graph.nodes if node.op in WEIGHTED and node.module]
        layers += [
            f"{node.module}.{name}"
            for node in graph.nodes
            if node.op is Op.OPAQUE and node.module
            for name, part in graph.submodule(node).named_modules()
            if isinstance(part, nn.Linear)
        ]
        if unknown := sorted(set(self.overrides) - set(layers)):
            raise ConfigError(
                explain(
                    f"overrides of the layers {', '.join(layers)}",
                    ", ".join(map(repr, unknown)),
                    "overrides of kernel_of",
                    "name a linear or convolutional layer by its dotted path",
                )
            )


def plan_of(module: nn.Module, example: Tensor, variances: Variances) -> Plan:
    """Trace a module and give every node its rule.

    Raises:
        UnsupportedOpError: A node has none; or parameters are shared between nodes.
    """
    weight = next(module.parameters(), example)
    graph = trace(module, example.detach().to(weight.device, weight.dtype))
    variances.check(graph)
    fixed = _deterministic(graph)
    _refuse_tied(graph)
    _refuse_several_outputs(graph)
    steps = _steps(graph, fixed, variances)
    if not steps or graph.output.inputs[0] in fixed:
        raise UnsupportedOpError(
            explain("a network with weights", "none before the output", "kernel_of", "pass a network with layers")
        )
    needed = tuple(dict.fromkeys(name for step in steps for name in step.inputs if name in fixed))
    _refuse_trained_constants(graph, needed, standard=variances.parameterization == "standard")
    return Plan(tuple(steps), Features.of(graph, needed))


def _steps(graph: Graph, fixed: frozenset[str], variances: Variances) -> list[Step]:
    """The rule of every node that the output depends on."""
    steps, refused, axes, written = [], {}, channel_axes(graph, fixed), elementwise(graph, fixed)
    for node in graph.nodes:
        if node.name in fixed or node.op is Op.OUTPUT:
            continue
        place = Place(graph, node, tuple(n for n in node.inputs if graph[n].op is not Op.PARAMETER), fixed, axes)
        rule = RULES.get(node.op)
        try:
            if rule is None:
                raise unsupported(node)
            steps.append(elementwise_step(place, written) or rule(place, variances))
        except UnsupportedOpError as error:  # an operation within an elementwise function is no node of its own
            refused[node.name] = error
            steps.append(Step(node.name, place.inputs, identity, place.where))
    kept = _reachable(through_concatenations(_reachable(steps, graph.output.inputs[0])), graph.output.inputs[0])
    if wrong := next((refused[step.name] for step in kept if step.name in refused), None):
        raise wrong
    return _reachable(with_trained_scales(kept), graph.output.inputs[0])


def _refuse_several_outputs(graph: Graph) -> None:
    if len(graph.output.inputs) != 1:
        raise UnsupportedOpError(
            explain(
                "a network with one output tensor",
                f"{len(graph.output.inputs)} outputs: {', '.join(graph.output.inputs)}",
                str(graph.output),
                "return one of them, or their concatenation, whose kernel is the mean over all outputs",
            )
        )


def _refuse_trained_constants(graph: Graph, needed: tuple[str, ...], *, standard: bool) -> None:
    """Trainable tensors before the first layer with weights would be missing in the NTK.

    Scales and shifts of norms are missing in the standard parameterisation only: in the other they are not trained.
    """
    wanted = set(needed)
    for node in reversed(graph.nodes):
        if node.name not in wanted:
            continue
        wanted.update(node.inputs)
        trained = ""
        if node.op is Op.PARAMETER and Place.tensor(graph, node).requires_grad:
            trained = str(node.attributes["path"])
        if node.module is not None and (standard or node.op is Op.ACTIVATION):
            owned = graph.submodule(node).named_parameters()
            trained = next((f"{node.module}.{name}" for name, own in owned if own.requires_grad), "")
        if trained:
            raise UnsupportedOpError(
                explain(
                    "tensors before the first layer with weights that are not trained",
                    f"the trainable tensor {trained}",
                    str(node),
                    "call requires_grad_(False) on it, or leave it out",
                )
            )


def _deterministic(graph: Graph) -> frozenset[str]:
    """Nodes that are fixed functions of the input: everything before the first random weights."""
    fixed: set[str] = set()
    for node in graph.nodes:
        known = all(name in fixed for name in node.inputs)
        if node.op in (Op.INPUT, Op.PARAMETER) or (known and node.op not in WEIGHTED and not _random(graph, node)):
            fixed.add(node.name)
    return frozenset(fixed)


def _random(graph: Graph, node: Node) -> bool:
    """Whether a node without weights depends on chance or on the rest of the batch, or hides weights of its own."""
    if node.op is Op.OPAQUE:
        return node.module is None or any(True for _ in graph.submodule(node).parameters())
    return bool(node.attributes.get("active" if node.op is Op.DROPOUT else "batch_statistics", False))


def _refuse_tied(graph: Graph) -> None:
    """The recursions assume fresh weights at each place."""
    seen: dict[int, Node] = {}
    for node in graph.nodes:
        if node.op not in WEIGHTED | {Op.OPAQUE}:
            continue
        owner = graph.submodule(node).parameters() if node.module else _read(graph, node)
        for parameter in owner:
            if (first := seen.setdefault(id(parameter), node)) is not node:
                raise UnsupportedOpError(
                    explain(
                        "weights that are used at one place",
                        f"a parameter shared by {first.name} and {node.name}",
                        str(node),
                        "give each place a layer of its own",
                    )
                )


def _read(graph: Graph, node: Node) -> list[Tensor]:
    return [Place.tensor(graph, graph[name]) for name in node.inputs if graph[name].op is Op.PARAMETER]


def _reachable(steps: list[Step], output: str) -> list[Step]:
    """The steps that the output depends on, in order; the output's own last."""
    wanted, kept = {output}, []
    for step in reversed(steps):
        if step.name in wanted:
            wanted.update(step.inputs)
            kept.append(step)
    return kept[::-1]


@dataclass(frozen=True, eq=False)
class Features:
    """Values of deterministic nodes, by running that part of the network in float64.

    Attributes:
        names: Of the nodes.
        runner: Computes them in this order; `None` where all are the input itself.
    """

    names: tuple[str, ...]
    runner: nn.Module | None

    @staticmethod
    def of(graph: Graph, names: tuple[str, ...]) -> "Features":
        """Of some deterministic nodes."""
        if all(graph[name].op is Op.INPUT for name in names):
            return Features(names, None)
        part, made = fx.Graph(), {}
        wanted = [graph.fx_node(name) for name in names]
        needed = set(wanted)
        for node in reversed(list(graph.module.graph.nodes)):
            if node in needed:
                needed.update(node.all_input_nodes)
        for node in graph.module.graph.nodes:
            if node in needed or node.op == "placeholder":
                made[node] = part.node_copy(node, lambda item: made[item])
        part.output(tuple(made[node] for node in wanted))
        return Features(names, copy.deepcopy(fx.GraphModule(graph.module, part)).double())

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        """Of a batch, in its precision."""
        if self.runner is None:
            return dict.fromkeys(self.names, x)
        values = self.runner.to(x.device)(x.double())
        return {name: value.to(x.dtype) for name, value in zip(self.names, values, strict=True)}


def unsupported(node: Node) -> UnsupportedOpError:
    """The error for a node without a rule: names it, its line, what is supported and what would do instead."""
    instead = INSTEAD.get(node.op, "write this part with supported operations")
    known = ", ".join(sorted({op.value for op in RULES if op is not Op.OPAQUE}))
    return UnsupportedOpError(
        explain(f"an operation with an infinite-width limit here ({known})", node.op.value, str(node), instead)
    )


INSTEAD: dict[Op, str] = {
    Op.MAX_POOL: "use average pooling: the maximum has no closed form",
    Op.ADAPTIVE_MAX_POOL: "use adaptive average pooling: the maximum has no closed form",
    Op.MAX: "use a mean: the maximum has no closed form",
    Op.SOFTMAX: "take the outputs before the softmax",
    Op.INSTANCE_NORM: "use GroupNorm or LayerNorm: statistics of one channel do not settle at infinite width",
    Op.ATTENTION: "use GlobalSelfAttention of pluriform.infinite.self_attention: logits over the root of the width "
    "have no closed form",
    Op.EMBEDDING: "pass tokens as one-hot vectors and use a linear layer",
    Op.MATMUL: "write attention as GlobalSelfAttention of pluriform.infinite.self_attention",
}
