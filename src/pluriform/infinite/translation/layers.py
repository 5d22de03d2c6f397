"""Steps of layers with weights: linear, convolution, transposed convolution."""

from functools import partial
from typing import Any

from pluriform.infinite.linear import LayerVariances, linear
from pluriform.infinite.plan import Step
from pluriform.infinite.spatial import Window, convolution
from pluriform.infinite.translation.place import Place
from pluriform.infinite.transposed import Spread, transposed_convolution

__all__ = ["conv_step", "layer_variances", "linear_step", "transposed_step"]


def layer_variances(place: Place, variances: Any, fan_in: int | None = None) -> LayerVariances:
    """The variances and rates of a layer, by its path and its parameters."""
    if not place.parameters:
        raise place.refuse(
            "weights that are parameters",
            "weights that the network computes",
            "use a layer of torch.nn, whose weights are drawn anew at each place",
        )
    weight, *bias = place.parameters
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


def _alike(place: Place, channels_per_group: int) -> bool:
    """Whether the limit makes all output channels alike."""
    groups = int(place.fact("groups", 1))
    return groups == 1 or (channels_per_group > 1 and place.inputs[0] not in place.fixed)
