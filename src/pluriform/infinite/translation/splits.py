"""Steps that take a tensor apart: chunks of channels, which are independent, and of positions; gated linear units."""

from functools import partial
from typing import Any

from pluriform.infinite.branch import gated, identity
from pluriform.infinite.plan import Step
from pluriform.infinite.spatial import select
from pluriform.infinite.translation.place import Place

__all__ = ["glu_step", "item_step", "split_step"]


def split_step(place: Place, _: Any) -> Step:
    """All parts together: the record of the whole."""
    return place.step(identity)


def item_step(place: Place, _: Any) -> Step:
    """One part: other channels of Gaussian units, independent of those of the other parts; or some positions."""
    split = place.graph[place.inputs[0]]
    index, shape = place.fact("index"), tuple(place.graph[split.inputs[0]].shape)
    dim, lengths = split.attributes.get("dim"), tuple(split.attributes.get("lengths", ()))
    channel = place.channel_axis % len(shape)
    if not isinstance(index, int) or dim in (None, 0) or (dim == channel and split.attributes["unbind"]):
        raise place.refuse(
            "one of several parts of channels or of positions",
            f"part {index} of {split.op.value} of axis {dim}",
            "chunk or split channels or positions",
        )
    if dim == channel:
        return place.step(identity, weighted=True, bends=True)
    positions = [axis for axis in range(1, len(shape)) if axis != channel]
    index %= len(lengths)
    start = sum(lengths[:index])
    taken = tuple(range(start, start + lengths[index]))
    indices = tuple(taken if axis == dim else None for axis in positions)
    after = tuple(place.node.shape)
    spatial = after[1:-1] if channel == len(shape) - 1 and len(after) > 2 else after[2:]
    return place.step(partial(select, indices=indices, spatial=spatial), channel_axis=place.channel_axis)


def glu_step(place: Place, _: Any) -> Step:
    """Half of the channels times the logistic function of the other half."""
    dim = int(place.fact("dim", -1)) % len(place.shape())
    if dim != place.channel:
        raise place.refuse("a gate of channels", f"one of axis {dim}", f"pass dim={place.channel}")
    return place.step(gated, bends=True)
