"""Picture data of one size and number of channels, for a network of another."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from pluriform.data.data import Data, Split, StreamSplit
from pluriform.errors import ConfigError, ShapeError, explain

__all__ = ["reshaped"]

LUMA = (0.299, 0.587, 0.114)
BATCH = 1000


def reshaped(data: Data, shape: tuple[int, ...]) -> Data:
    """The same samples as pictures of another shape: bilinear with antialiasing, grey to RGB or back.

    Down and up again, `reshaped(reshaped(data, (3, 8, 8)), data.input_shape)`, takes the fine detail away.

    Args:
        data: Pictures with one or three channels, in memory.
        shape: `(channels, height, width)`, one or three channels.

    Raises:
        ShapeError: The data are no pictures, or the shape is none of one.
        ConfigError: The data are streamed.

    Example:
        >>> import pluriform as pf
        >>> reshaped(pf.load("digits"), (3, 16, 16)).train.inputs.shape[1:]
        torch.Size([3, 16, 16])
    """
    old = data.input_shape
    if not (len(old) == len(shape) == 3 and {old[0], shape[0]} <= {1, 3} and min(shape) >= 1):
        expected, got = "pictures (channels, height, width) with one or three channels", f"{old} to {shape}"
        raise ShapeError(explain(expected, got, f"reshaped {data.name}", "choose a picture data set and shape"))

    def changed(split: Split | StreamSplit) -> Split:
        if isinstance(split, StreamSplit):
            remedy = "resize the pictures in its dataset"
            raise ConfigError(explain("samples in memory", "a stream", f"reshaped {data.name}", remedy))
        return Split(_pictures(split.inputs, shape, data), split.targets)

    unlabelled = None if data.unlabelled is None else _pictures(data.unlabelled, shape, data)
    splits = {name: changed(getattr(data, name)) for name in ("train", "validation", "test")}
    return replace(data, **splits, unlabelled=unlabelled)


def _pictures(inputs: Tensor, shape: tuple[int, ...], data: Data) -> Tensor:
    if not len(inputs):
        return inputs.new_zeros(0, *shape)
    found = torch.cat([_part(part, shape) for part in inputs.split(BATCH)])
    return found if data.bounds is None else found.clamp(*data.bounds)


def _part(inputs: Tensor, shape: tuple[int, ...]) -> Tensor:
    if inputs.shape[1] > shape[0]:
        inputs = torch.einsum("bchw,c->bhw", inputs, inputs.new_tensor(LUMA))[:, None]
    if inputs.shape[2:] != shape[1:]:
        inputs = F.interpolate(inputs, shape[1:], mode="bilinear", align_corners=False, antialias=True)
    return inputs.expand(-1, shape[0], -1, -1).contiguous()
