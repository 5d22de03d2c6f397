"""NumPy archives: one pair of arrays, or one for each split."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from pluriform.errors import ConfigError, CorruptFileError, explain

__all__ = ["npz_pairs", "read_npz"]

INPUT_KEYS = ("inputs", "x", "images", "data", "arr_0")
TARGET_KEYS = ("targets", "y", "labels", "target", "label", "arr_1")
PART_KEYS = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a `.npz` file by name, never unpickling.

    Raises:
        CorruptFileError: Not such a file, damaged, or holding Python objects.
    """
    try:
        # Opened here: on a damaged archive NumPy leaves its own file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise CorruptFileError(
            explain("a .npz file of plain arrays", f"{error}", str(path), "write it again with numpy.savez")
        ) from error


def npz_pairs(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Inputs and targets by split name (`train`, and `validation` and `test` where they are there).

    Keys are `inputs` and `targets`, `x` and `y`, `images` and `labels` and the like, alone or with the name of a split
    before or after (`x_train`, `train_images`).

    Raises:
        ConfigError: No known pair of keys; lists those that are there.
    """
    arrays = {key.lower(): value for key, value in read_npz(path).items()}
    pairs = {}
    for part, words in PART_KEYS.items():
        forms = [form for word in words for form in (f"{{}}_{word}", f"{word}_{{}}")]
        forms += ["{}"] if part == "train" else []
        inputs, targets = (_find(arrays, keys, forms) for keys in (INPUT_KEYS, TARGET_KEYS))
        if inputs is not None and targets is not None:
            pairs[part] = (inputs, targets)
    if "train" not in pairs:
        raise ConfigError(
            explain(
                "arrays named inputs and targets, or x_train and y_train",
                f"{', '.join(arrays) or 'no arrays'}",
                str(path),
                "rename the arrays, or load them yourself and give load(inputs, targets)",
            )
        )
    return pairs


def _find(arrays: dict[str, np.ndarray], keys: tuple[str, ...], forms: list[str]) -> np.ndarray | None:
    names = (form.format(key) for form in forms for key in keys)
    return next((arrays[name] for name in names if name in arrays), None)
