"""Pictures packed as mosaics: many small tiles in one losslessly compressed picture."""

from pathlib import Path

import numpy as np

from pluriform.errors import CorruptFileError, explain

__all__ = ["read_mosaic"]


def read_mosaic(path: Path, side: int = 32) -> np.ndarray:
    """The tiles of one mosaic, row by row.

    Args:
        path: A picture file whose height and width are multiples of `side`.
        side: Side of one tile in pixels.

    Returns:
        Pixels, uint8, shape `(tiles, 3, side, side)`.

    Raises:
        CorruptFileError: Not a picture, damaged, or not made of whole tiles.
    """
    from PIL import Image

    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise CorruptFileError(explain("a picture", f"{error}", str(path), "delete it and fetch it again")) from error
    height, width = pixels.shape[:2]
    if height % side or width % side:
        raise CorruptFileError(
            explain(f"a mosaic of {side}x{side} tiles", f"{width}x{height} pixels", str(path), "fetch it again")
        )
    tiles = pixels.reshape(height // side, side, width // side, side, 3)
    return tiles.transpose(0, 2, 4, 1, 3).reshape(-1, 3, side, side)
