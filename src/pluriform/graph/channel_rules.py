"""What each operation does to the channels that pass it; here those with weights, and those that leave channels apart.

A rule maps a node to the layouts of its output, or to None where it cannot follow the channels: then all that the node
reads and writes is fixed. The same happens where the lengths of a rule do not add up to the traced shape.
"""

from collections.abc import Mapping
from types import MappingProxyType

from torch import nn

from pluriform.graph.channel_attention import ATTENTION_RULES
from pluriform.graph.channel_shapes import SHAPE_RULES
from pluriform.graph.flow import Axes, ChannelFlow, GroupedConv, NormGroups, Role, Rule, Slot
from pluriform.graph.graph import Node
from pluriform.graph.layout import Span
from pluriform.graph.ops import Op

__all__ = ["RULES"]

LAYERS = frozenset({Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE})


def _input(flow: ChannelFlow, node: Node) -> Axes:
    return flow.constant(node.shape, "an input of the network")


def _output(flow: ChannelFlow, node: Node) -> None:
    for position in range(len(node.inputs)):
        flow.freeze(flow.read(node, position), "an output of the network")


def _same(flow: ChannelFlow, node: Node) -> Axes | None:
    return flow.read(node) if len(node.inputs) == 1 else None


def _activation(flow: ChannelFlow, node: Node) -> Axes | None:
    axes = _same(flow, node)
    module = flow.module(node)
    if isinstance(module, nn.PReLU) and axes is not None and module.num_parameters > 1:
        flow.follow(node, "weight", 0, axes[1], Role.CARRIER)
        flow.keep(node, "num_parameters", axes[1])
    return axes


def _functional(flow: ChannelFlow, node: Node) -> bool:
    """Whether a function was called with an input and parameters alone."""
    return node.module is None and all(flow.graph[name].op is Op.PARAMETER for name in node.inputs[1:])


def _parameter(flow: ChannelFlow, node: Node) -> Axes:
    """A parameter read by the code; where only linear and convolution functions take it, they register it."""
    weight = flow.parameter(node)
    if not flow.owned(weight):
        return flow.constant(node.shape, f"{node} is no parameter of the network")
    axes = tuple(flow.ties.fresh(length) for length in node.shape)
    readers = flow.graph.consumers(node.name)
    if all(reader.op in LAYERS and _functional(flow, reader) and reader.inputs[0] != node.name for reader in readers):
        return flow.constant(node.shape, f"{node} belongs to its readers")
    for axis, layout in enumerate(axes):
        flow.slots.append(Slot(node, weight, axis, layout, Role.CARRIER))
    return axes


def _linear(flow: ChannelFlow, node: Node) -> Axes | None:
    if not isinstance(flow.module(node), nn.Linear) and not _functional(flow, node):
        return None
    axes, out = flow.read(node), flow.ties.fresh(node.shape[-1])
    flow.follow(node, "weight", 1, axes[-1], Role.CONSUMER)
    flow.follow(node, "weight", 0, out, Role.PRODUCER)
    flow.follow(node, "bias", 0, out, Role.PRODUCER)
    flow.keep(node, "in_features", axes[-1])
    flow.keep(node, "out_features", out)
    return (*axes[:-1], out)


def _embedding(flow: ChannelFlow, node: Node) -> Axes | None:
    module = flow.module(node)
    if not isinstance(module, nn.Embedding) or module.max_norm is not None:
        return None
    words, out = flow.ties.fresh(module.num_embeddings, "the rows of an embedding"), flow.ties.fresh(node.shape[-1])
    flow.follow(node, "weight", 0, words, Role.CARRIER)
    flow.follow(node, "weight", 1, out, Role.PRODUCER)
    flow.keep(node, "embedding_dim", out)
    return (*flow.read(node), out)


def _conv(flow: ChannelFlow, node: Node) -> Axes | None:
    module, facts = flow.module(node), node.attributes
    if not _functional(flow, node) if module is None else not isinstance(module, nn.modules.conv._ConvNd):
        return None
    axes, transposed, groups = flow.read(node), node.op is Op.CONV_TRANSPOSE, facts["groups"]
    channel = len(axes) - 1 - len(facts["kernel_size"])
    inputs, each = axes[channel], facts["out_channels"] // groups
    if groups > 1 and module is None:
        return None
    if groups == 1:
        outputs = flow.ties.fresh(facts["out_channels"])
        flow.follow(node, "weight", 0 if transposed else 1, inputs, Role.CONSUMER)
        flow.follow(node, "weight", 1 if transposed else 0, outputs, Role.PRODUCER)
    elif groups == facts["in_channels"]:
        outputs = tuple(Span(span.channels, span.size, span.repeat * each) for span in inputs)
        flow.follow(node, "weight", 0, inputs if transposed else outputs, Role.CARRIER)
        flow.keep(node, "groups", inputs)
    else:
        outputs = flow.ties.fresh(facts["out_channels"])
        flow.follow_grouped(GroupedConv(node, getattr(module, "weight"), inputs, outputs, groups, transposed))  # noqa: B009
    flow.follow(node, "bias", 0, outputs, Role.CARRIER if 1 < groups == facts["in_channels"] else Role.PRODUCER)
    flow.keep(node, "in_channels", inputs)
    flow.keep(node, "out_channels", outputs)
    flow.freeze(axes[channel + 1 :], f"{node} slides over it")
    return (*axes[:channel], outputs, *flow.constant(node.shape[channel + 1 :], "a spatial axis"))


def _batch_norm(flow: ChannelFlow, node: Node) -> Axes | None:
    """Batch and instance normalisation: each channel apart."""
    if flow.module(node) is None or len(node.inputs) > 1:
        return None
    axes = flow.read(node)
    for name in ("weight", "bias", "running_mean", "running_var"):
        flow.follow(node, name, 0, axes[1], Role.CARRIER)
    flow.keep(node, "num_features", axes[1])
    flow.freeze(axes[2:], f"{node} averages over it")
    return axes


def _group_norm(flow: ChannelFlow, node: Node) -> Axes | None:
    module = flow.module(node)
    if not isinstance(module, nn.GroupNorm):
        return None
    axes = flow.read(node)
    flow.freeze(axes[2:], f"{node} averages over it")
    flow.follow(node, "weight", 0, axes[1], Role.CARRIER)
    flow.follow(node, "bias", 0, axes[1], Role.CARRIER)
    flow.keep(node, "num_channels", axes[1])
    flow.norms.append(NormGroups(node, axes[1], module.num_groups))
    return axes


def _layer_norm(flow: ChannelFlow, node: Node) -> Axes | None:
    """Layer and RMS normalisation over the last axes."""
    module = flow.module(node)
    if not isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return None
    axes = flow.read(node)
    normed = axes[-len(module.normalized_shape) :]
    for axis, layout in enumerate(normed):
        flow.follow(node, "weight", axis, layout, Role.CARRIER)
        flow.follow(node, "bias", axis, layout, Role.CARRIER)
        flow.norms.append(NormGroups(node, layout, 1))
    flow.keep(node, "normalized_shape", *normed, many=True)
    return axes


def _pool(flow: ChannelFlow, node: Node) -> Axes | None:
    """Pooling, resizing, padding without channels: what follows the channel axis is spatial."""
    axes = flow.read(node)
    flow.freeze(axes[2:], f"{node} slides over it")
    return (*axes[:2], *flow.constant(node.shape[2:], "a spatial axis")) if len(node.inputs) == 1 else None


RULES: Mapping[Op, Rule] = MappingProxyType(
    {
        **SHAPE_RULES,
        **ATTENTION_RULES,
        **dict.fromkeys((Op.CONV, Op.CONV_TRANSPOSE), _conv),
        **dict.fromkeys((Op.BATCH_NORM, Op.INSTANCE_NORM), _batch_norm),
        **dict.fromkeys((Op.LAYER_NORM, Op.RMS_NORM), _layer_norm),
        **dict.fromkeys((Op.MAX_POOL, Op.AVG_POOL, Op.LP_POOL, Op.ADAPTIVE_AVG_POOL), _pool),
        **dict.fromkeys((Op.ADAPTIVE_MAX_POOL, Op.UPSAMPLE), _pool),
        Op.INPUT: _input,
        Op.OUTPUT: _output,
        Op.PARAMETER: _parameter,
        Op.LINEAR: _linear,
        Op.EMBEDDING: _embedding,
        Op.GROUP_NORM: _group_norm,
        Op.ACTIVATION: _activation,
        Op.DROPOUT: _same,
        Op.IDENTITY: lambda flow, node: flow.read(node),
    }
)
