"""Picture files to one tensor."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pluriform.errors import CorruptFileError, ShapeError, explain

__all__ = ["SUFFIXES", "read_pictures"]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def read_pictures(names: Sequence[str], read: Callable[[str], bytes], size: int | None = None) -> Tensor:
    """Decode pictures: grey ones to one channel where all are grey, to three channels otherwise.

    Args:
        names: Which pictures.
        read: Gives the content of the file of a name.
        size: Side in pixels to resize to (square, antialiased); `None` keeps the pictures as they are.

    Returns:
        Pixels, uint8, shape `(N, channels, height, width)`.

    Raises:
        CorruptFileError: A file is not a picture or is damaged; names it.
        ShapeError: The pictures differ in size and no `size` is given; names two of them.
    """
    pixels = [_decode(name, read(name), size) for name in names]
    if not pixels:
        return torch.zeros(0, 1, size or 1, size or 1, dtype=torch.uint8)
    channels = max(len(picture) for picture in pixels)
    odd = next((at for at, picture in enumerate(pixels) if picture.shape[1:] != pixels[0].shape[1:]), None)
    if odd is not None:
        first, other = ("x".join(map(str, pixels[at].shape[1:])) for at in (0, odd))
        raise ShapeError(
            explain(
                f"pictures of {first} pixels", other, f"{names[odd]} beside {names[0]}", "give size=, for instance 32"
            )
        )
    stack = np.empty((len(pixels), channels, *pixels[0].shape[1:]), dtype=np.uint8)
    for row, picture in zip(stack, pixels, strict=True):
        row[:] = picture  # A grey picture among coloured ones fills all three channels.
    return torch.from_numpy(stack)


def _decode(name: str, content: bytes, size: int | None) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as file:
            picture = _eight_bits(file)
        if size is not None and picture.size != (size, size):
            picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    except (OSError, SyntaxError, ValueError) as error:
        raise CorruptFileError(explain("a picture", f"{error}", name, "remove the file or replace it")) from error
    values = np.asarray(picture)
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)


def _eight_bits(picture: Any) -> Any:
    """Grey or red, green, blue with 8 bits each; transparency is dropped."""
    from PIL import Image

    if picture.mode.startswith("I;16") or picture.mode == "I":
        return Image.fromarray((np.asarray(picture).clip(0, 65535) // 256).astype(np.uint8))
    return picture.convert("L" if picture.mode in ("1", "L", "LA") else "RGB")
