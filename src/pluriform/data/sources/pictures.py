"""Picture files to one tensor."""

import io
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pluriform.errors import CorruptFileError, ShapeError, explain

__all__ = ["SUFFIXES", "Size", "read_pictures", "sides"]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

Size = int | tuple[int, int] | None


def read_pictures(
    names: Sequence[str], read: Callable[[str], bytes], size: Size = None, *, deep: bool = False
) -> Tensor:
    """Decode pictures: grey ones to one channel where all are grey, to three channels otherwise.

    A camera's note of how it was held (EXIF) is obeyed; transparent pictures are put on white, with a line in the log.

    Args:
        names: Which pictures.
        read: Gives the content of the file of a name.
        size: Side in pixels to resize to (square, antialiased), or height and width; `None` keeps the pictures as they
            are.
        deep: Keep 16 bits a channel, and take `.npy` arrays `(height, width[, channels])` of any number of channels,
            uint8, uint16 or floating point in [0, 1].

    Returns:
        Pixels, uint8, shape `(N, channels, height, width)`; where `deep` and any has more than 8 bits float32 in
        [0, 1].

    Raises:
        CorruptFileError: A file is not a picture or is damaged; names it.
        ShapeError: The pictures differ in size and no `size` is given, or in their channels; names two of them.
    """
    found = [_decode(name, read(name), size, deep) for name in names]
    if not found:
        return torch.zeros(0, 1, *(sides(size) or (1, 1)), dtype=torch.uint8)
    pixels = [picture for picture, _ in found]
    transparent = [name for name, (_, clear) in zip(names, found, strict=True) if clear]
    if transparent:
        logging.getLogger("pluriform").warning(
            "%d pictures with transparent parts were put on white, the first is %s", len(transparent), transparent[0]
        )
    channels = max(len(picture) for picture in pixels)
    _check_alike(names, pixels, channels)
    if any(picture.dtype != np.uint8 for picture in pixels):
        pixels = [picture / np.float32(255) if picture.dtype == np.uint8 else picture for picture in pixels]
    stack = np.empty((len(pixels), channels, *pixels[0].shape[1:]), dtype=pixels[0].dtype)
    for row, picture in zip(stack, pixels, strict=True):
        row[:] = picture  # A grey picture among coloured ones fills all three channels.
    return torch.from_numpy(stack)


def sides(size: Size) -> tuple[int, int] | None:
    """Height and width that `size` asks for."""
    return (size, size) if isinstance(size, int) else size


def _check_alike(names: Sequence[str], pixels: Sequence[np.ndarray], channels: int) -> None:
    odd = next((at for at, picture in enumerate(pixels) if picture.shape[1:] != pixels[0].shape[1:]), None)
    if odd is not None:
        first, other = ("x".join(map(str, pixels[at].shape[1:])) for at in (0, odd))
        raise ShapeError(
            explain(
                f"pictures of {first} pixels", other, f"{names[odd]} beside {names[0]}", "give size=, for instance 32"
            )
        )
    odd = next((at for at, picture in enumerate(pixels) if len(picture) not in {1, channels}), None)
    if odd is not None or (channels > 3 and any(len(picture) == 1 for picture in pixels)):
        odd = odd or next(at for at, picture in enumerate(pixels) if len(picture) == 1)
        most = next(at for at, picture in enumerate(pixels) if len(picture) == channels)
        place = f"{names[odd]} beside {names[most]}"
        expected, got = f"pictures of {channels} channels", f"{len(pixels[odd])}"
        raise ShapeError(explain(expected, got, place, "give all of them the same channels"))


def _decode(name: str, content: bytes, size: Size, deep: bool) -> tuple[np.ndarray, bool]:
    """Channels first, uint8 or (deep) float32, and whether something was transparent."""
    from PIL import Image, ImageOps

    if deep and name.endswith(".npy"):
        return _resized(_array(name, content), size), False
    try:
        with Image.open(io.BytesIO(content)) as file:
            turned: Any = ImageOps.exif_transpose(file)
            if turned.mode.startswith("I") and deep:
                values = np.asarray(turned).clip(0, 65535).astype(np.float32) / 65535
                return _resized(values[None], size), False
            picture, clear = _eight_bits(turned)
        wanted = sides(size)
        if wanted is not None and picture.size != wanted[::-1]:
            picture = picture.resize(wanted[::-1], Image.Resampling.LANCZOS)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise CorruptFileError(explain("a picture", f"{error}", name, "remove the file or replace it")) from error
    values = np.asarray(picture)
    return (values[None] if values.ndim == 2 else values.transpose(2, 0, 1)), clear


def _array(name: str, content: bytes) -> np.ndarray:
    """The picture in a `.npy` file, channels first."""
    try:
        values = np.load(io.BytesIO(content), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CorruptFileError(explain("an array", f"{error}", name, "remove the file or replace it")) from error
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3 or values.dtype not in (np.uint8, np.uint16, np.float16, np.float32, np.float64):
        expected = "an array (height, width) or (height, width, channels) of uint8, uint16 or floating point"
        got = f"{values.dtype} of shape {values.shape}"
        raise ShapeError(explain(expected, got, name, "convert it, channels last"))
    values = values.transpose(2, 0, 1)
    if values.dtype == np.uint8:
        return values
    values = values.astype(np.float32) / (65535 if values.dtype == np.uint16 else 1)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        got = f"values from {values.min():g} to {values.max():g}"
        raise CorruptFileError(explain("floating-point pixels in [0, 1]", got, name, "scale them"))
    return values


def _resized(values: np.ndarray, size: Size) -> np.ndarray:
    wanted = sides(size)
    if wanted is None or values.shape[1:] == wanted:
        return values
    floating = torch.from_numpy(values.astype(np.float32))[None]
    changed = torch.nn.functional.interpolate(floating, wanted, mode="bicubic", antialias=True)[0]
    if values.dtype == np.uint8:
        return changed.round().clamp(0, 255).to(torch.uint8).numpy()
    return changed.clamp(0, 1).numpy()


def _eight_bits(picture: Any) -> tuple[Any, bool]:
    """Grey or red, green, blue with 8 bits each, transparent parts put on white, and whether there were any."""
    from PIL import Image

    if picture.mode.startswith("I"):
        return Image.fromarray((np.asarray(picture).clip(0, 65535) // 256).astype(np.uint8)), False
    grey = picture.mode in ("1", "L", "LA")
    clear = False
    if picture.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in picture.info:
        whole = picture.convert("RGBA")
        clear = whole.getchannel("A").getextrema()[0] < 255
        if clear:
            white = Image.new("RGBA", whole.size, (255, 255, 255, 255))
            picture = Image.alpha_composite(white, whole)
    return picture.convert("L" if grey else "RGB"), clear
