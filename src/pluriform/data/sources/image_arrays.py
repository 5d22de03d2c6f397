"""Arrays of images of two domains, for translation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pluriform.data.data import Split
from pluriform.data.label_maps import check_ids
from pluriform.data.parts import Parts
from pluriform.data.signature import Bounds
from pluriform.data.sources.arrays import guess_bounds
from pluriform.errors import ConfigError, ShapeError, explain

__all__ = ["image_parts"]

CHANNELS = (1, 3, 4)


def image_parts(
    inputs: Any,
    targets: Any,
    name: str,
    classes: Sequence[str] | None = None,
    bounds: Bounds | None = None,
    paired: bool | None = None,
) -> Parts:
    """Content and target images.

    Integers of 8 and 16 bits are scaled to [0, 1]; floating-point images stay as they are.

    Args:
        inputs: `(N, channels, height, width)`, channels last or left out; with `classes` label maps of ids.
        targets: Likewise.
        name: Name of the data set.
        classes: Names in id order.
        bounds: Lowest and highest legal pixel; `None` gives [0, 1] to what lies in it.
        paired: Whether they are pairs; `None` where there are as many of one as of the other.

    Raises:
        ShapeError: No images, or pairs of different numbers.
        ConfigError: Label maps that are not paired.
        LabelError: An id of no class.
        BoundsError: Floating-point images that look like 0..255.
    """
    second = _images(targets, f"targets of {name}")
    if classes is None:
        first = _images(inputs, f"inputs of {name}")
    else:
        first = _stacked(inputs, f"inputs of {name}").astype(np.float32)
        first = torch.from_numpy(first)
        for row, ids in enumerate(first):
            check_ids(ids, classes, f"inputs of {name}, sample {row}")
    if bounds is None:
        found = [guess_bounds(side, name) for side in ((second,) if classes is not None else (first, second))]
        bounds = None if None in found else found[0]
    equal = len(first) == len(second)
    paired = equal if paired is None else paired
    if paired and not equal:
        got = f"{len(first)} and {len(second)} images"
        raise ShapeError(explain("as many inputs as targets", got, name, "leave paired out, or pass both of each pair"))
    if classes is not None and not paired:
        got, remedy = "sides that are no pairs", "pass the photograph of every map"
        raise ConfigError(explain("pairs where classes are given", got, name, remedy))
    return Parts(name, "translation", Split(first, second), None, None, tuple(classes or ()), bounds, paired=paired)


def _images(values: Any, where: str) -> Tensor:
    array = _stacked(values, where)
    if array.dtype in (np.uint8, np.uint16):
        return torch.from_numpy(array.astype(np.float32) / np.iinfo(array.dtype).max)
    return torch.from_numpy(array.astype(np.float32))


def _stacked(values: Any, where: str) -> np.ndarray:
    """Channels first."""
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype.kind not in "fiub" or array.ndim not in (3, 4) or 0 in array.shape:
        expected = "images (samples, channels, height, width)"
        raise ShapeError(explain(expected, f"{array.dtype} of shape {array.shape}", where, "stack them into one array"))
    if array.ndim == 3:
        return np.array(array[:, None])
    last = array.shape[-1] in CHANNELS and array.shape[1] not in CHANNELS
    return np.array(array.transpose(0, 3, 1, 2) if last else array)
