"""Steps of layers with weights: linear, convolution, transposed convolution."""

from functools import partial
from typing import Any

from torch import nn

from pluriform.infinite.attention import self_attention
from pluriform.infinite.linear import LayerVariances, linear
from pluriform.infinite.plan import Step
from pluriform.infinite.self_attention import GlobalSelfAttention
from pluriform.infinite.spatial import Window, convolution
from pluriform.infinite.translation.place import Place
from pluriform.infinite.transposed import Spread, transposed_convolution

__all__ = ["attention_step", "conv_step", "layer_variances", "linear_step", "transposed_step"]


def layer_variances(place: Place, variances: Any, fan_in: int | None = None) -> LayerVariances:
    """The variances and rates of a layer, by its path and its parameters."""
    if not place.parameters:
        raise place.refuse(
            "weights that are parameters",
            "weights that the network computes",
            "use a layer of torch.nn, whose weights are drawn anew at each place",
        )
    weight, *bias = place.parameters
    if place.node.module is not None and not all(isinstance(tensor, nn.Parameter) for tensor in place.parameters):
        raise place.refuse(
            "weights that are parameters of the layer",
            "weights that it computes from others (a parametrisation)",
            "take it off with torch.nn.utils.parametrize.remove_parametrizations",
        )
    weight_var, bias_var = variances.overrides.get(place.node.module, (variances.weight, variances.bias))
    return LayerVariances.of(
        weight_var,
        bias_var,
        fan_in=weight[0].numel() if fan_in is None else fan_in,
        has_bias=bool(bias),
        parameterization=variances.parameterization,
        train_weight=weight.requires_grad,
        train_bias=bool(bias) and bias[0].requires_grad,
    )


def linear_step(place: Place, variances: Any) -> Step:
    """A linear layer on the last axis."""
    layer = layer_variances(place, variances)
    return place.step(partial(linear, layer=layer), weighted=True, channel_axis=-1)


def conv_step(place: Place, variances: Any) -> Step:
    """A convolution over any number of axes.

    With one channel a group (depthwise), and with groups of the inputs themselves, channels have covariances of their
    own: their mean is right, but no nonlinearity may follow before a layer mixes them.
    """
    layer, weight = layer_variances(place, variances), place.parameters[0]
    mode = place.fact("padding_mode", "zeros")
    facts = tuple(weight.shape[2:]), place.fact("stride"), place.fact("dilation"), place.fact("padding")
    windows = tuple(Window(*fact, mode) for fact in zip(*facts, strict=True))
    if _alike(place, weight.shape[1]):
        return place.step(partial(convolution, windows=windows, layer=layer), weighted=True, channel_axis=1)
    rule = partial(convolution, windows=windows, layer=layer, alike=False)
    return place.step(rule, weighted=True, channel_axis=1)


def transposed_step(place: Place, variances: Any) -> Step:
    """A transposed convolution; its fan-in is that of the convolution with the same window."""
    weight = place.parameters[0]
    sizes, groups = tuple(weight.shape[2:]), int(place.fact("groups", 1))
    layer = layer_variances(place, variances, fan_in=weight[:, 0].numel() // groups)
    names = ("stride", "dilation", "padding", "output_padding")
    facts = zip(sizes, *(place.fact(name) for name in names), strict=True)
    windows = tuple(Spread(size, stride, dilation, sides[0], extra) for size, stride, dilation, sides, extra in facts)
    alike = _alike(place, len(weight) // groups)
    rule = partial(transposed_convolution, windows=windows, layer=layer, alike=alike)
    return place.step(rule, weighted=True, channel_axis=1)


def attention_step(place: Place, variances: Any) -> Step:
    """Our attention layer; other modules that cannot be followed are refused."""
    layer = place.graph.submodule(place.node) if place.node.module else None
    if not isinstance(layer, GlobalSelfAttention):
        raise place.refuse(
            "operations that the tracer can follow",
            f"{place.fact('function')}, which it cannot",
            "write this part with layers and functions of torch; attention as GlobalSelfAttention",
        )
    standard = variances.parameterization == "standard"
    if standard and layer.query.weight.requires_grad:
        raise place.refuse(
            "frozen queries in the standard parameterisation",
            "trainable ones, whose part in the NTK is random",
            "call query.requires_grad_(False), or use parameterization='ntk'",
        )
    query, value, output = (
        _part(f"{place.node.module}.{name}", part, variances)
        for name, part in (("query", layer.query), ("value", layer.value), ("output", layer.output))
    )
    facts = {"normalise": layer.normalise, "position_var": layer.position_var}
    rule = partial(self_attention, query=query.weight, value=value, output=output, **facts)
    return place.step(rule, demand="full", weighted=True, channel_axis=-1)


def _part(path: str, layer: nn.Linear, variances: Any) -> LayerVariances:
    weight_var, bias_var = variances.overrides.get(path, (variances.weight, variances.bias))
    return LayerVariances.of(
        weight_var,
        bias_var,
        fan_in=layer.in_features,
        has_bias=layer.bias is not None,
        parameterization=variances.parameterization,
        train_weight=layer.weight.requires_grad,
        train_bias=layer.bias is not None and layer.bias.requires_grad,
    )


def _alike(place: Place, channels_per_group: int) -> bool:
    """Whether the limit makes all output channels alike."""
    groups = int(place.fact("groups", 1))
    return groups == 1 or (channels_per_group > 1 and place.inputs[0] not in place.fixed)
