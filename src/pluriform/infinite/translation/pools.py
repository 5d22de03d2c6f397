"""Steps of linear maps of positions: pooling, means and sums, resizing."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pluriform.graph.ops import Op
from pluriform.infinite.plan import Step
from pluriform.infinite.spatial import Window, adaptive_matrix, pooling, pooling_matrix
from pluriform.infinite.translation.place import Place

__all__ = ["adaptive_step", "avg_pool_step", "reduction_step", "upsample_step"]


def avg_pool_step(place: Place, _: Any) -> Step:
    """Average pooling; with `divisor_override` also sum pooling."""
    facts = place.shape()[2:], place.fact("kernel_size"), place.fact("stride"), place.fact("padding")
    ceil, counted = bool(place.fact("ceil_mode", False)), bool(place.fact("count_include_pad", True))
    divisor = place.fact("divisor_override")
    matrices = [
        pooling_matrix(length, Window(size, step, 1, padding), ceil=ceil, count_padding=counted)
        for length, size, step, padding in zip(*facts, strict=True)
    ]
    if divisor:
        matrices = [(matrix > 0).double() for matrix in matrices]
        matrices[0] = matrices[0] / float(divisor)
    return _pooled(place, matrices)


def adaptive_step(place: Place, _: Any) -> Step:
    """Adaptive average pooling, global pooling among them."""
    shape, out = place.shape()[2:], tuple(place.node.shape)[2:]
    return _pooled(place, [adaptive_matrix(length, size) for length, size in zip(shape, out, strict=True)])


def reduction_step(place: Place, _: Any) -> Step:
    """Mean or sum over positions, of images as of tokens."""
    shape, dims, positions = place.shape(), place.fact("dim"), place.positions
    if not dims or not set(dims) <= set(positions):
        raise place.refuse(
            f"a mean or sum over positions, which are axes {positions}",
            f"one over axes {dims} of {shape}",
            "reduce positions only, and keep channels for a linear layer",
        )
    matrices = []
    for axis in positions:
        ones = torch.ones(1, shape[axis], dtype=torch.float64) / (shape[axis] if place.node.op is Op.MEAN else 1)
        matrices.append(ones if axis in dims else torch.eye(shape[axis], dtype=torch.float64))
    left = tuple(shape[axis] for axis in positions if axis not in dims)
    return _pooled(place, matrices, None if place.fact("keepdim", False) else left)


def upsample_step(place: Place, _: Any) -> Step:
    """Resizing of every axis: nearest, linear, cubic, area; as a matrix an axis, found from a resized identity."""
    mode, align, scales = str(place.fact("mode")), place.fact("align_corners"), place.fact("scale_factor")
    lengths, sizes = place.shape()[2:], tuple(place.node.shape)[2:]
    if place.fact("antialias"):
        raise place.refuse("resizing without antialias", "antialias=True", "leave it out, or pool before resizing")
    scales = scales if isinstance(scales, tuple | list) else (scales,) * len(sizes)
    facts = zip(lengths, sizes, scales, strict=True)
    return _pooled(place, [_resized(length, size, scale, mode, align) for length, size, scale in facts])


def _resized(length: int, size: int, scale: float | int | None, mode: str, align: bool | None) -> Tensor:
    eye = torch.eye(length, dtype=torch.float64)[:, None]
    how = {"bilinear": "linear", "trilinear": "linear"}.get(mode, mode)
    corners = {"align_corners": align} if how in ("linear", "bicubic") else {}
    if how == "bicubic":
        target = {"size": (1, size)} if scale is None else {"scale_factor": (1.0, float(scale))}
        return F.interpolate(eye[:, None], mode=how, **corners, **target)[:, 0, 0].T  # type: ignore[arg-type]
    target = {"size": size} if scale is None else {"scale_factor": float(scale)}
    return F.interpolate(eye, mode=how, **corners, **target)[:, 0].T  # type: ignore[arg-type]


def _pooled(place: Place, matrices: list[Tensor], spatial: tuple[int, ...] | None = None) -> Step:
    rule = partial(pooling, matrices=tuple(matrices), spatial=spatial)
    return place.step(rule, demand="full", channel_axis=place.channel_axis)
