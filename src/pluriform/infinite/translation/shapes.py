"""Steps that move positions and leave numbers alone: reshape, permute, padding, slicing, rolling."""

import math
from functools import partial
from typing import Any

from pluriform.errors import UnsupportedOpError
from pluriform.infinite.plan import Step
from pluriform.infinite.spatial import flatten, flatten_axes, pad, respatial, select, transpose, unflatten
from pluriform.infinite.translation.place import Place

__all__ = ["pad_step", "permute_step", "reshape_step", "roll_step", "slice_step"]


def reshape_step(place: Place, _: Any) -> Step:
    """Flatten, merge or split axes of positions, add or drop axes of length one."""
    before, after = place.shape(), tuple(place.node.shape)
    if before[0] != after[0]:
        raise _no_reshape(place)
    if len(before) == 2:
        return _from_vector(place, before[1], after)
    old, channels = place.spatial(before), before[place.channel]
    if len(after) == 2:
        if math.prod(old) == 1:
            return place.step(partial(respatial, spatial=()))
        return place.step(flatten, demand="diagonal")
    if after[place.channel_axis] == channels:
        spatial = place.spatial(after)
        return place.step(partial(respatial, spatial=spatial), channel_axis=place.channel_axis)
    merged = after[place.channel_axis] // channels
    for count in range(1, len(old)):
        axes = tuple(range(count)) if place.channel_axis == 1 else tuple(range(len(old) - count, len(old)))
        left = tuple(length for axis, length in enumerate(old) if axis not in axes)
        if math.prod(old[axis] for axis in axes) == merged and left == place.spatial(after):
            return place.step(partial(flatten_axes, axes=axes), channel_axis=place.channel_axis)
    raise _no_reshape(place)


def _from_vector(place: Place, channels: int, after: tuple[int, ...]) -> Step:
    """A vector as an image or as tokens."""
    if len(after) == 2:
        return place.step(partial(respatial, spatial=()))
    axis = 1 if after[1] != 1 else -1
    spatial = after[2:] if axis == 1 else after[1:-1]
    if after[axis] == channels:
        return place.step(partial(respatial, spatial=spatial, channel_axis=axis))
    return place.step(partial(unflatten, spatial=spatial, channel_axis=axis, where=place.where))


def _no_reshape(place: Place) -> UnsupportedOpError:
    return place.refuse(
        "a reshape that keeps samples, and keeps channels or merges them with positions",
        f"{place.shape()} to {tuple(place.node.shape)}",
        "flatten instead, or permute channels second or last before",
    )


def permute_step(place: Place, _: Any) -> Step:
    """Channels first to channels last and back, and spatial axes in any order."""
    return place.step(partial(transpose, dims=tuple(place.fact("dims")), where=place.where))


def pad_step(place: Place, _: Any) -> Step:
    """Padding of positions."""
    sides, rank, mode = tuple(place.fact("padding")), len(place.shape()), place.fact("mode")
    if mode == "constant" and place.fact("value") != 0:
        raise place.refuse("padding with zeros", f"padding with {place.fact('value')}", "pad with zeros")
    pairs = ((0, 0),) * (rank - len(sides)) + sides
    outside = [pairs[axis] for axis in range(rank) if axis not in place.positions]
    if any(extra < 0 for pair in pairs for extra in pair) or any(pair != (0, 0) for pair in outside):
        raise place.refuse(
            "padding of positions by 0 or more", f"{sides}", "pad the last axes only, and crop by slicing"
        )
    padding = tuple(pairs[axis] for axis in place.positions)
    name = "zeros" if mode == "constant" else str(mode)
    return place.step(partial(pad, padding=padding, mode=name), channel_axis=place.channel_axis)


def roll_step(place: Place, _: Any) -> Step:
    """Positions moved around."""
    shape, dims, shifts = place.shape(), place.fact("dims"), place.fact("shifts")
    dims, shifts = (item if isinstance(item, tuple | list) else (item,) for item in (dims, shifts))
    moves = {int(dim) % len(shape): int(shift) for dim, shift in zip(dims, shifts, strict=True) if dim is not None}
    if not moves or not set(moves) <= set(place.positions):
        raise place.refuse("a roll of positions", f"one of axes {dims}", "roll positions only")
    indices = tuple(
        tuple((p - moves[axis]) % shape[axis] for p in range(shape[axis])) if axis in moves else None
        for axis in place.positions
    )
    return _selected(place, indices, place.spatial(shape))


def slice_step(place: Place, _: Any) -> Step:
    """Some positions; all samples and all channels."""
    shape = place.shape()
    chosen, dropped, added = _chosen(place, shape)
    if any(chosen[axis] != tuple(range(shape[axis])) or axis in dropped for axis in (0, place.channel)):
        raise place.refuse(
            "slicing of positions",
            f"slicing of samples or channels, axes 0 and {place.channel}",
            "slice positions only; give each half of the channels a layer of its own",
        )
    after = tuple(place.node.shape)
    channel = (
        place.channel - sum(axis < place.channel for axis in dropped) + sum(axis <= place.channel for axis in added)
    )
    if len(after) > 2 and channel != (1 if place.channel_axis == 1 else len(after) - 1):
        raise place.refuse("channels where they were, second or last", f"{shape} to {after}", "add axes at the end")
    spatial = tuple(length for axis, length in enumerate(after) if axis not in (0, channel))
    indices = tuple(None if chosen[axis] == tuple(range(shape[axis])) else chosen[axis] for axis in place.positions)
    return _selected(place, indices, spatial)


def _selected(place: Place, indices: tuple[tuple[int, ...] | None, ...], spatial: tuple[int, ...]) -> Step:
    return place.step(partial(select, indices=indices, spatial=spatial), channel_axis=place.channel_axis)


def _chosen(place: Place, shape: tuple[int, ...]) -> tuple[list[tuple[int, ...]], set[int], list[int]]:
    """What is taken of every axis, which axes are dropped, and before which axes one is added."""
    chosen, dropped, added = [tuple(range(length)) for length in shape], set(), []
    if (dim := place.fact("dim")) is not None:
        axis = int(dim) % len(shape)
        start, length = place.fact("start"), place.fact("length")
        index = slice(start, start + length) if start is not None else place.fact("index")
        items = [(axis, index)]
    else:
        index = place.fact("index")
        items = _by_axis(index if isinstance(index, tuple) else (index,), len(shape))
    for axis, item in items:
        if item is None:
            added.append(axis)
        elif isinstance(item, slice):
            chosen[axis] = chosen[axis][item]
        elif isinstance(item, int) and not isinstance(item, bool):
            chosen[axis] = (chosen[axis][item],)
            dropped.add(axis)
        else:
            raise place.refuse("slices and whole numbers", f"the index {item}", "slice with start, stop and step")
    return chosen, dropped, added


def _by_axis(index: tuple[Any, ...], rank: int) -> list[tuple[int, Any]]:
    """Items with the axes that they speak of; `...` stands for all that are left."""
    named = sum(item is not None and item is not Ellipsis for item in index)
    items: list[tuple[int, Any]] = []
    axis = 0
    for item in index:
        if item is Ellipsis:
            axis += rank - named
            continue
        items.append((axis, item))
        axis += item is not None
    return items
