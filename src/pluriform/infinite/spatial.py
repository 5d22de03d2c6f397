"""Rules that mix positions: convolution, average pooling, padding, flatten.

Every map here is linear in the moments and separates over the spatial axes. A convolution draws one weight for one
offset, so both sides move together; a pooling adds cells of each side on their own.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pluriform.errors import UnsupportedOpError, explain
from pluriform.infinite.kernel import Kernel
from pluriform.infinite.linear import LayerVariances, linear

__all__ = [
    "Window",
    "adaptive_matrix",
    "convolution",
    "flatten",
    "flatten_axes",
    "mapped",
    "pad",
    "permute",
    "pooling",
    "pooling_matrix",
    "respatial",
    "select",
    "transpose",
    "unflatten",
]


@dataclass(frozen=True)
class Window:
    """A sliding window on one spatial axis.

    Attributes:
        size: Cells.
        stride: Step.
        dilation: Distance of neighbouring cells.
        padding: Cells added before and after.
        mode: `"zeros"`, `"circular"`, `"reflect"` or `"replicate"`.
    """

    size: int
    stride: int = 1
    dilation: int = 1
    padding: tuple[int, int] = (0, 0)
    mode: str = "zeros"


def convolution(kernel: Kernel, windows: tuple[Window, ...], layer: LayerVariances, *, alike: bool = True) -> Kernel:
    """A convolution with shared weights and infinitely many channels (per group).

        A[K](o, o') = 1/|F| sum over offsets d of K(s o + d, s o' + d)      then the rule of a linear layer

    Args:
        kernel: Of the input.
        windows: One for each spatial axis.
        layer: Variances.
        alike: Channels are alike, and so Gaussian; not after a depthwise convolution.

    References:
        Novak et al. 2019, Bayesian Deep Convolutional Networks with Many Channels are Gaussian Processes,
        arXiv:1810.05148.
        Arora et al. 2019, On Exact Computation with an Infinitely Wide Neural Net, arXiv:1904.11955.
    """
    full, axes = kernel.layout == "full", len(kernel.spatial)

    def moved(part: Tensor, samples: int) -> Tensor:
        for axis, window in enumerate(windows):
            where = (samples + axis, samples + axes + axis) if full else (samples + axis,)
            part = _slide(part, where, window)
        return part

    spatial = tuple(
        (size + sum(window.padding) - window.dilation * (window.size - 1) - 1) // window.stride + 1
        for size, window in zip(kernel.spatial, windows, strict=True)
    )
    return linear(mapped(kernel, moved, spatial), layer).replace(gaussian=alike)


def _slide(part: Tensor, where: tuple[int, ...], window: Window) -> Tensor:
    """Mean over the offsets of one axis, the same offset on every axis of `where`."""
    for axis in where:
        part = _padded(part, axis, window.padding, window.mode)
    reach = window.dilation * (window.size - 1)
    total = None
    for offset in range(0, reach + 1, window.dilation):
        piece = part
        for axis in where:
            stop = offset + part.shape[axis] - reach
            piece = piece[(slice(None),) * axis + (slice(offset, stop, window.stride),)]
        total = piece if total is None else total + piece
    return (part if total is None else total) / window.size


def _padded(part: Tensor, axis: int, padding: tuple[int, int], mode: str) -> Tensor:
    low, high = padding
    if low == 0 and high == 0:
        return part
    size = part.shape[axis]
    if mode == "zeros":
        sides = [part.new_zeros((*part.shape[:axis], extra, *part.shape[axis + 1 :])) for extra in (low, high)]
        return torch.cat([sides[0], part, sides[1]], axis)
    index = torch.arange(-low, size + high, device=part.device)
    if mode == "circular":
        index = index % size
    elif mode == "replicate":
        index = index.clamp(0, size - 1)
    else:
        index = index.abs()
        index = (size - 1) - ((size - 1) - index).abs()
    return part.index_select(axis, index)


def pad(kernel: Kernel, padding: tuple[tuple[int, int], ...], mode: str) -> Kernel:
    """Padding as a layer of its own; zeros stay zeros in every moment."""
    full, axes = kernel.layout == "full", len(kernel.spatial)

    def padded(part: Tensor, samples: int) -> Tensor:
        for axis, sides in enumerate(padding):
            for at in (samples + axis, samples + axes + axis) if full else (samples + axis,):
                part = _padded(part, at, sides, mode)
        return part

    spatial = tuple(size + sum(sides) for size, sides in zip(kernel.spatial, padding, strict=True))
    return mapped(kernel, padded, spatial)


def pooling(kernel: Kernel, matrices: tuple[Tensor, ...], spatial: tuple[int, ...] | None = None) -> Kernel:
    """A linear map of positions, one matrix `(out, in)` an axis: average and sum pooling, slicing, resizing.

        K'(o, o') = sum over p, p' of D(o, p) K(p, p') D(o', p')

    Args:
        kernel: In the full layout.
        matrices: One for each spatial axis.
        spatial: Spatial axes of the output where some of length one are dropped.
    """
    axes = len(kernel.spatial)

    def averaged(part: Tensor, samples: int) -> Tensor:
        for axis, matrix in enumerate(matrices):
            for at in (samples + axis, samples + axes + axis):
                part = torch.movedim(torch.movedim(part, at, -1) @ matrix.to(part).T, -1, at)
        return part

    pooled = mapped(kernel, averaged, tuple(len(matrix) for matrix in matrices))
    return pooled if spatial is None else respatial(pooled, spatial)


def pooling_matrix(size: int, window: Window, *, ceil: bool = False, count_padding: bool = True) -> Tensor:
    """Average pooling of one axis as a matrix `(out, size)`, with PyTorch's rules for the edges."""
    low, high = window.padding
    span = size + low + high - window.size
    steps = -(-span // window.stride) if ceil else span // window.stride
    if ceil and steps * window.stride >= size + low:
        steps -= 1
    matrix = torch.zeros(steps + 1, size, dtype=torch.float64)
    for row in range(steps + 1):
        start = row * window.stride - low
        stop = min(start + window.size, size + high)
        real = range(max(start, 0), min(stop, size))
        matrix[row, real.start : real.stop] = 1.0 / ((stop - start) if count_padding else len(real))
    return matrix


def adaptive_matrix(size: int, out: int) -> Tensor:
    """Adaptive average pooling of one axis as a matrix `(out, size)`."""
    matrix = torch.zeros(out, size, dtype=torch.float64)
    edges = [(row * size // out, -(-(row + 1) * size // out)) for row in range(out)]
    for row, (start, stop) in enumerate(edges):
        matrix[row, start:stop] = 1.0 / (stop - start)
    return matrix


def flatten(kernel: Kernel) -> Kernel:
    """Channels and positions become one axis of features: the mean over equal positions."""
    kernel = kernel.diagonal()

    def mean(part: Tensor, samples: int) -> Tensor:
        return part.flatten(samples).mean(-1) if kernel.spatial else part

    return mapped(kernel, mean, ()).replace(gaussian=kernel.gaussian and set(kernel.spatial) <= {1}, channel_axis=1)


def respatial(kernel: Kernel, spatial: tuple[int, ...], channel_axis: int | None = None) -> Kernel:
    """The same positions in the same order on other axes: merged, split, or with axes of length one."""
    twice = spatial if kernel.layout == "full" else ()

    def reshaped(part: Tensor, samples: int) -> Tensor:
        return part.reshape(*part.shape[:samples], *spatial, *twice)

    return mapped(kernel, reshaped, spatial).replace(channel_axis=channel_axis or kernel.channel_axis)


def flatten_axes(kernel: Kernel, axes: tuple[int, ...]) -> Kernel:
    """Some positions join the channels: the mean over equal positions of these axes; units are no longer alike."""
    count = len(kernel.spatial)
    kept = [axis for axis in range(count) if axis not in axes]

    def mean(part: Tensor, samples: int) -> Tensor:
        if kernel.layout == "full":
            for axis in sorted(axes, reverse=True):
                left = (part.ndim - samples) // 2
                part = torch.diagonal(part, 0, samples + axis, samples + left + axis).mean(-1)
            return part
        return part.mean([samples + axis for axis in axes])

    spatial = tuple(kernel.spatial[axis] for axis in kept)
    return mapped(kernel, mean, spatial).replace(gaussian=False)


def select(kernel: Kernel, indices: tuple[tuple[int, ...] | None, ...], spatial: tuple[int, ...]) -> Kernel:
    """Some positions in a given order: slicing, reading one token, rolling.

    Args:
        kernel: Of the input.
        indices: For each spatial axis what to take, or `None` for all.
        spatial: Extent of the output, with axes of length one dropped or added.
    """
    full, axes = kernel.layout == "full", len(kernel.spatial)

    def taken(part: Tensor, samples: int) -> Tensor:
        for axis, index in enumerate(indices):
            for at in (samples + axis, samples + axes + axis) if full else (samples + axis,):
                if index is not None:
                    part = part.index_select(at, torch.tensor(index, device=part.device))
        return part.reshape(*part.shape[:samples], *spatial, *(spatial if full else ()))

    return mapped(kernel, taken, spatial)


def unflatten(kernel: Kernel, spatial: tuple[int, ...], channel_axis: int, where: str) -> Kernel:
    """Units of a vector spread over positions: independent ones, so that moments of unequal positions vanish.

    Raises:
        UnsupportedOpError: Units are not Gaussian with mean zero.
    """
    if not (kernel.gaussian and kernel.zero_mean):
        expected, got = "a reshape of Gaussian units to channels and positions", "units after something else"
        raise UnsupportedOpError(explain(expected, got, where, "reshape right after the linear layer"))

    def spread(part: Tensor, _: int) -> Tensor:
        ones = (1,) * len(spatial)
        if kernel.layout == "diagonal":
            return part.reshape(*part.shape, *ones).expand(*part.shape, *spatial)
        count = torch.Size(spatial).numel()
        eye = torch.eye(count, dtype=part.dtype, device=part.device).reshape(*spatial, *spatial)
        return part.reshape(*part.shape, *ones, *ones) * eye

    return mapped(kernel, spread, spatial).replace(channel_axis=channel_axis)


def transpose(kernel: Kernel, dims: tuple[int, ...], where: str) -> Kernel:
    """Axes of the tensor in another order: channels first to channels last and back, and spatial axes in any order.

    Raises:
        UnsupportedOpError: Samples do not stay first, or channels come between positions.
    """
    last = len(dims) - 1
    channel = last if kernel.channel_axis == -1 else 1
    place = dims.index(channel)
    if dims[0] != 0 or place not in (1, last):
        expected, remedy = "the batch axis first, and channels second or last", "keep channels second or last"
        raise UnsupportedOpError(explain(expected, f"axes {dims}", where, remedy))
    order = tuple(dim - 1 - (dim > channel) for dim in dims[1:] if dim != channel)
    return permute(kernel, order, -1 if place == last else 1)


def permute(kernel: Kernel, order: tuple[int, ...], channel_axis: int) -> Kernel:
    """Spatial axes in another order, and channels at another place, 1 or -1."""
    axes = len(order)

    def reordered(part: Tensor, samples: int) -> Tensor:
        places = [samples + axis for axis in order]
        places += [place + axes for place in places] if kernel.layout == "full" else []
        return part.permute(*range(samples), *places)

    spatial = tuple(kernel.spatial[axis] for axis in order)
    return mapped(kernel, reordered, spatial).replace(channel_axis=channel_axis)


def mapped(kernel: Kernel, change: Callable[[Tensor, int], Tensor], spatial: tuple[int, ...]) -> Kernel:
    """Apply one map of positions to every tensor; `change` is told how many axes of samples come first."""
    first = change(kernel.variance1, 1)
    return kernel.replace(
        nngp=change(kernel.nngp, 2),
        ntk=None if kernel.ntk is None else change(kernel.ntk, 2),
        variance1=first,
        variance2=first if kernel.same else change(kernel.variance2, 1),
        spatial=spatial,
        layout=kernel.layout if spatial else "full",
    )
