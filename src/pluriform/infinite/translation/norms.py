"""Steps of normalisation layers."""

from functools import partial
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from pluriform.graph.ops import Op
from pluriform.infinite.norm import fixed_affine, layer_norm, trained_affine
from pluriform.infinite.plan import Step
from pluriform.infinite.translation.place import Place

__all__ = ["batch_norm_step", "group_norm_step", "layer_norm_step"]


def batch_norm_step(place: Place, variances: Any) -> Step:
    """Batch norm with its stored statistics: a fixed affine map."""
    layer = place.graph.submodule(place.node) if place.node.module else None
    if not isinstance(layer, _BatchNorm) or layer.running_mean is None or place.fact("batch_statistics"):
        raise place.refuse(
            "batch norm in evaluation mode, a fixed affine map",
            "batch norm in training mode",
            "call module.eval(), or use LayerNorm or no normalisation: batch statistics have no limit here",
        )
    variance = torch.ones_like(layer.running_mean) if layer.running_var is None else layer.running_var
    ratio = (variance.double() + layer.eps).rsqrt()
    weight = ratio if layer.weight is None else ratio * layer.weight.detach().double()
    shift = -layer.running_mean.double() * weight
    shift = shift if layer.bias is None else shift + layer.bias.detach().double()
    rule = fixed_affine(weight, shift)
    rates = _rates(place, variances) if layer.weight is not None else [0.0, 0.0]
    if any(rates):
        normal = float((ratio**2).mean()), float(((layer.running_mean.double() * ratio) ** 2).mean())
        rule = partial(trained_affine, **rule.keywords, normal=normal, weight_rate=rates[0], bias_rate=rates[1])
    return place.step(rule, centres=True)


def layer_norm_step(place: Place, variances: Any) -> Step:
    """Layer norm and RMS norm, over channels or over channels and all positions."""
    normalised, shape = tuple(place.fact("normalized_shape")), place.shape()
    over_positions = len(normalised) > 1
    if over_positions and len(normalised) != len(shape) - 1:
        raise place.refuse(
            "normalisation over channels, with all positions or none",
            f"normalisation over {normalised} of {shape[1:]}",
            "normalise channels alone, or all of it",
        )
    return _norm(place, over_positions, None if over_positions else -1, place.node.op is Op.LAYER_NORM, variances)


def group_norm_step(place: Place, variances: Any) -> Step:
    """Group norm: over all positions, and over enough channels of a group to be the same for all groups."""
    groups, channels = int(place.fact("num_groups")), place.shape()[1]
    if groups == channels and channels > 1:
        raise place.refuse("several channels a group", "one channel a group", "use fewer groups")
    return _norm(place, True, 1, True, variances)


def _norm(place: Place, over_positions: bool, channel_axis: int | None, centres: bool, variances: Any) -> Step:
    """Scale and shift start at 1 and 0; trained, they add to the NTK in the standard parameterisation only."""
    eps = place.fact("eps")
    eps = float(torch.finfo(torch.float32).eps if eps is None else eps)
    rates = _rates(place, variances)
    rule = partial(layer_norm, eps=eps, over_positions=over_positions, weight_rate=rates[0], bias_rate=rates[1])
    return place.step(rule, centres=centres, channel_axis=channel_axis)


def _rates(place: Place, variances: Any) -> list[float]:
    """Of scale and shift in the NTK."""
    standard, none = variances.parameterization == "standard", torch.zeros(())
    return [float(standard and tensor.requires_grad) for tensor in (*place.parameters, none, none)][:2]
