"""The rule of transposed convolutions."""

from dataclasses import dataclass

from torch import Tensor

from pluriform.infinite.kernel import Kernel
from pluriform.infinite.linear import LayerVariances
from pluriform.infinite.spatial import Window, convolution, mapped

__all__ = ["Spread", "transposed_convolution"]


@dataclass(frozen=True)
class Spread:
    """The window of a transposed convolution on one spatial axis.

    Attributes:
        size: Cells.
        stride: Distance of neighbouring inputs in the output.
        dilation: Distance of neighbouring cells.
        padding: Cells cut off at either end.
        extra: Cells added at the far end.
    """

    size: int
    stride: int = 1
    dilation: int = 1
    padding: int = 0
    extra: int = 0


def transposed_convolution(
    kernel: Kernel, windows: tuple[Spread, ...], layer: LayerVariances, *, alike: bool = True
) -> Kernel:
    """A transposed convolution: the inputs, `stride` apart with zeros between, under a convolution of stride 1.

        A[K](o, o') = 1/|F| sum over offsets d of K(p, p')  where  o = s p + d - padding and o' = s p' + d - padding

    Args:
        kernel: Of the input.
        windows: One for each spatial axis.
        layer: Variances; the fan-in counts the whole window.
        alike: Channels are alike, and so Gaussian.
    """
    full, axes = kernel.layout == "full", len(kernel.spatial)
    reaches = [w.dilation * (w.size - 1) for w in windows]
    ends = [(reach - w.padding, reach - w.padding + w.extra) for reach, w in zip(reaches, windows, strict=True)]

    def spread(part: Tensor, samples: int) -> Tensor:
        for axis, (window, sides) in enumerate(zip(windows, ends, strict=True)):
            for at in (samples + axis, samples + axes + axis) if full else (samples + axis,):
                part = _framed(part, at, window.stride, sides)
        return part

    spatial = tuple(
        (size - 1) * w.stride + 1 + sum(sides) for size, w, sides in zip(kernel.spatial, windows, ends, strict=True)
    )
    slid = tuple(Window(w.size, 1, w.dilation) for w in windows)
    return convolution(mapped(kernel, spread, spatial), slid, layer, alike=alike)


def _framed(part: Tensor, axis: int, stride: int, sides: tuple[int, int]) -> Tensor:
    """Zeros between the cells of an axis and at its ends; ends below 0 are cut off."""
    size = part.shape[axis]
    low, high = (max(side, 0) for side in sides)
    length = (size - 1) * stride + 1
    wide = part.new_zeros((*part.shape[:axis], low + length + high, *part.shape[axis + 1 :]))
    inside = (slice(None),) * axis
    wide[(*inside, slice(low, low + length, stride))] = part
    return wide[(*inside, slice(max(-sides[0], 0), wide.shape[axis] - max(-sides[1], 0)))]
