"""What attention does to channels: whole heads are followed, the numbers that a head sums over stay.

Rules as in `channel_rules`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from pluriform.graph.channel_shapes import broadcast
from pluriform.graph.flow import Axes, ChannelFlow, Role, Rule, Setting, Slot
from pluriform.graph.graph import Node
from pluriform.graph.layout import Layout, Span, length_of
from pluriform.graph.ops import Op

__all__ = ["ATTENTION_RULES"]


def _attention(flow: ChannelFlow, node: Node) -> Axes | None:
    module = flow.module(node)
    if module is None:
        return _dot_product(flow, node)
    if isinstance(module, nn.MultiheadAttention):
        _multihead(flow, node, module)
    return None


def _dot_product(flow: ChannelFlow, node: Node) -> Axes | None:
    """softmax(q k^T / sqrt(d) + mask) v for each head apart."""
    if not 3 <= len(node.inputs) <= 4:
        return None
    queries, keys, values, *masks = (flow.read(node, position) for position in range(len(node.inputs)))
    if min(len(axes) for axes in (queries, keys, values)) < 3 or any(len(mask) < 2 for mask in masks):
        return None
    flow.freeze((queries[-1], keys[-1], keys[-2], values[-2]), f"{node} sums over it")
    if node.attributes.get("enable_gqa"):
        times = length_of(queries[-3]) // length_of(keys[-3])
        shared = tuple(Span(span.channels, span.size, span.repeat * times) for span in keys[-3])
        flow.ties.tie(queries[-3], shared, f"it is not aligned with the keys of {node}")
        flow.ties.tie(values[-3], keys[-3], f"it is not aligned with the keys of {node}")
        heads = broadcast(flow, [queries[:-2], *(mask[:-2] for mask in masks)], node)
    else:
        heads = broadcast(flow, [axes[:-2] for axes in (queries, keys, values, *masks)], node)
    for mask in masks:
        broadcast(flow, [mask[-2:], (queries[-2], keys[-2])], node)
    return (*heads, queries[-2], values[-1])


def _multihead(flow: ChannelFlow, node: Node, module: nn.MultiheadAttention) -> None:
    """`nn.MultiheadAttention`: its embedding changes by whole heads, since it is as wide as all heads together."""
    code = flow.graph.fx_node(node.name)
    if {"query", "key", "value"} & set(code.kwargs) or parametrize.is_parametrized(module) or len(node.inputs) < 3:
        return
    heads = flow.ties.fresh(module.num_heads)
    embedding = (Span(heads[0].channels, module.num_heads, module.head_dim),)
    query, key, value = (flow.read(node, position) for position in range(3))
    reason = f"{node} has heads that fill its embedding"
    flow.ties.tie(query[-1], embedding, reason)
    flow.freeze((*key[:-1], *value[:-1]), f"{node} sums over it")
    for position in range(3, len(node.inputs)):
        mask = flow.read(node, position)
        flow.freeze(mask, f"{node} reads it as a mask")
        if len(mask) > 2:
            flow.freeze((heads,), f"{node} has a mask for each head")
    if any(reader.attributes.get("index") != 0 for reader in flow.graph.consumers(node.name)):
        flow.freeze((heads,), f"the weights of {node} are read too")
    _follow_projections(flow, node, module, embedding, key[-1], value[-1])
    for name, layout in (("embed_dim", embedding), ("num_heads", heads), ("kdim", key[-1]), ("vdim", value[-1])):
        flow.keep(node, name, layout)
    for name in ("in_features", "out_features"):
        flow.settings.append(Setting(f"{node.module}.out_proj", name, (embedding,)))
    shape: Any = node.shape[1]
    flow.parts[node.name] = ((*query[:-1], embedding), flow.constant(shape, "weights of attention"))


def _follow_projections(
    flow: ChannelFlow, node: Node, module: nn.MultiheadAttention, embedding: Layout, key: Layout, value: Layout
) -> None:
    if module.in_proj_weight is not None:
        for layout in (key, value):
            flow.ties.tie(layout, embedding, f"{node} has heads that fill its embedding")
        _slot(flow, node, module.in_proj_weight, 0, embedding * 3, Role.PRODUCER)
        _slot(flow, node, module.in_proj_weight, 1, embedding, Role.CONSUMER)
    else:
        weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
        for weight, layout in zip(weights, (embedding, key, value), strict=True):
            _slot(flow, node, weight, 0, embedding, Role.PRODUCER)
            _slot(flow, node, weight, 1, layout, Role.CONSUMER)
    _slot(flow, node, module.in_proj_bias, 0, embedding * 3, Role.PRODUCER)
    _slot(flow, node, module.bias_k, 2, embedding, Role.PRODUCER)
    _slot(flow, node, module.bias_v, 2, embedding, Role.PRODUCER)
    if parametrize.is_parametrized(module.out_proj):
        flow.freeze((embedding,), f"the output projection of {node} is computed from other weights")
    else:
        _slot(flow, node, module.out_proj.weight, 1, embedding, Role.CONSUMER)
        _slot(flow, node, module.out_proj.weight, 0, embedding, Role.PRODUCER)
        _slot(flow, node, module.out_proj.bias, 0, embedding, Role.PRODUCER)


def _slot(flow: ChannelFlow, node: Node, weight: Tensor | None, axis: int, layout: Layout, role: Role) -> None:
    if weight is not None:
        flow.slots.append(Slot(node, weight, axis, layout, role))


def _einsum(flow: ChannelFlow, node: Node) -> Axes | None:
    """Letters tie axes; those that are summed over are fixed."""
    inputs, arrow, output = str(node.attributes.get("equation", "")).replace(" ", "").partition("->")
    terms = inputs.split(",")
    if not arrow or "." in inputs + output or len(terms) != len(node.inputs):
        return None
    letters: dict[str, Layout] = {}
    for position, term in enumerate(terms):
        axes = flow.read(node, position)
        if len(set(term)) < len(term) or len(term) != len(axes):
            return None
        for letter, layout in zip(term, axes, strict=True):
            other = letters.setdefault(letter, layout)
            if length_of(other) != length_of(layout):
                return None
            flow.ties.tie(layout, other, f"it is not aligned with another operand of {node}")
            if letter not in output:
                flow.ties.freeze(layout, f"{node} sums over it")
    return tuple(flow.ties.resolve(letters[letter]) for letter in output)


ATTENTION_RULES: Mapping[Op, Rule] = MappingProxyType({Op.ATTENTION: _attention, Op.EINSUM: _einsum})
