"""Picture files to one tensor."""

import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pluriform.errors import CorruptFileError, ShapeError, explain

__all__ = ["Half", "SUFFIXES", "Size", "read_pictures", "sides"]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

Size = int | tuple[int, int] | None
Half = Literal["left", "right"]
DEEPEST = 65535


@dataclass(frozen=True, eq=False)
class _Picture:
    """Channels first, uint8 or float32 in [0, 1], and what was lost: something transparent, or 8 of 16 bits."""

    pixels: np.ndarray
    transparent: bool = False
    shortened: bool = False


def read_pictures(
    names: Sequence[str],
    read: Callable[[str], bytes],
    size: Size = None,
    *,
    deep: bool = False,
    half: Half | None = None,
) -> Tensor:
    """Decode pictures: grey ones to one channel where all are grey, to three channels otherwise.

    A camera's note of how it was held (EXIF) is obeyed; transparent pictures are put on white, with a line in the log.
    Floating-point pictures (TIFF) lie in [0, 1]. Coloured files of 16 bits a channel are read with 8, with a line in
    the log.

    Args:
        names: Which pictures.
        read: Gives the content of the file of a name.
        size: Side in pixels to resize to (square, antialiased), or height and width; `None` keeps the pictures as they
            are.
        deep: Keep the 16 bits of grey pictures, and take `.npy` arrays `(height, width[, channels])` of any number of
            channels, uint8, uint16 or floating point in [0, 1].
        half: Only this half of every picture, before it is resized.

    Returns:
        Pixels, uint8, shape `(N, channels, height, width)`; where `deep` and any has more than 8 bits float32 in
        [0, 1].

    Raises:
        CorruptFileError: A file is not a picture or is damaged, or its values lie elsewhere; names it.
        ShapeError: The pictures differ in size and no `size` is given, or in their channels; names two of them. Or one
            of an odd width has no halves.
    """
    found = [_decode(name, read(name), size, deep, half) for name in names]
    if not found:
        return torch.zeros(0, 1, *(sides(size) or (1, 1)), dtype=torch.uint8)
    pixels = [picture.pixels for picture in found]
    _tell(
        "with transparent parts were put on white",
        [name for name, picture in zip(names, found, strict=True) if picture.transparent],
    )
    _tell(
        "of 16 bits a channel were read with 8 (save them as uint16 in .npy files to keep all)",
        [name for name, picture in zip(names, found, strict=True) if picture.shortened and deep],
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


def _tell(what: str, names: Sequence[str]) -> None:
    if names:
        logging.getLogger("pluriform").warning("%d pictures %s, the first is %s", len(names), what, names[0])


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


def _decode(name: str, content: bytes, size: Size, deep: bool, half: Half | None) -> _Picture:
    from PIL import Image, ImageOps

    if deep and name.endswith(".npy"):
        return _Picture(_resized(_halved(name, _array(name, content), half), size))
    clear = shortened = False
    try:
        with Image.open(io.BytesIO(content)) as file:
            tiles: Any = getattr(file, "tile", ())  # Gone once the pixels are read.
            stored = [str(tile[-1]) for tile in tiles]
            turned: Any = ImageOps.exif_transpose(file)
            wide = turned.mode == "F" or turned.mode.startswith("I")
            if not wide:
                shortened = any(";16" in raw for raw in stored)
                turned, clear = _eight_bits(turned)
            values = np.asarray(turned)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise CorruptFileError(explain("a picture", f"{error}", name, "remove the file or replace it")) from error
    values = _halved(name, values[None] if values.ndim == 2 else values.transpose(2, 0, 1), half)
    if wide:
        values = _resized(_in_bounds(name, values), size)
        return _Picture(values if deep else (values * 256).clip(0, 255).astype(np.uint8))
    return _Picture(_lanczos(values, size), clear, shortened)


def _halved(name: str, values: np.ndarray, half: Half | None) -> np.ndarray:
    """One half of a picture, channels first."""
    width = values.shape[-1]
    if half is None:
        return values
    if width % 2:
        raise ShapeError(explain("two pictures side by side", f"an odd width of {width}", name, "use two folders"))
    return values[..., : width // 2] if half == "left" else values[..., width // 2 :]


def _in_bounds(name: str, values: np.ndarray) -> np.ndarray:
    """Integers of 16 bits, or floating-point pixels, as float32 in [0, 1]."""
    most = 1 if values.dtype.kind == "f" else DEEPEST
    least, greatest = float(values.min()), float(values.max())
    if not (least >= 0 and greatest <= most):
        expected = "floating-point pixels in [0, 1]" if most == 1 else f"integers in 0..{DEEPEST}"
        remedy = "scale them, or save them as uint16 or float32 in a .npy file"
        raise CorruptFileError(explain(expected, f"values from {least:g} to {greatest:g}", name, remedy))
    return values.astype(np.float32) / most


def _lanczos(values: np.ndarray, size: Size) -> np.ndarray:
    """Eight-bit pixels resized, channels first."""
    from PIL import Image

    wanted = sides(size)
    if wanted is None or values.shape[1:] == wanted:
        return values
    picture = Image.fromarray(np.ascontiguousarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0)))
    resized = np.asarray(picture.resize((wanted[1], wanted[0]), Image.Resampling.LANCZOS))
    return resized[None] if resized.ndim == 2 else resized.transpose(2, 0, 1)


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
    return _in_bounds(name, values)


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

    grey = picture.mode in ("1", "L", "LA")
    clear = False
    if picture.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in picture.info:
        whole = picture.convert("RGBA")
        clear = whole.getchannel("A").getextrema()[0] < 255
        if clear:
            white = Image.new("RGBA", whole.size, (255, 255, 255, 255))
            picture = Image.alpha_composite(white, whole)
    return picture.convert("L" if grey else "RGB"), clear
