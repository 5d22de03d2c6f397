"""What a file of weights is read into: storages, tensors that still lie in it, and placeholders for everything else."""

from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["DamageError", "Placeholder", "Storage", "StoredTensor", "is_count", "printable"]

MAX_COUNT = 2**61 - 1
MAX_NAME = 120


class DamageError(ValueError):
    """What is wrong inside a file; the door of the reader turns it into a `CorruptFileError` that names the file."""


@dataclass(frozen=True)
class Placeholder:
    """Stands where the file names a class or function that is no tensor and no container; it does nothing.

    Attributes:
        name: `module.name`, as the file spells it.
    """

    name: str


@dataclass(frozen=True)
class Storage:
    """A run of numbers in the file.

    Attributes:
        key: Name of the record that holds them.
        dtype: Their type.
        numel: How many.
        start: First of them within the record, for views of a part.
    """

    key: str | int
    dtype: torch.dtype
    numel: int
    start: int = 0


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in the file; nothing of it is read yet.

    Attributes:
        storage: The numbers.
        offset: Its first number.
        shape: Its shape.
        stride: Steps between neighbours, in numbers.
        dtype: Type of its numbers.

    Raises:
        DamageError: It reaches beyond its storage.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def __post_init__(self) -> None:
        if self.numel and self.last >= self.room:
            raise DamageError(f"a tensor of shape {self.shape} that reaches beyond its storage of {self.room} numbers")

    @property
    def numel(self) -> int:
        """How many numbers its shape has."""
        count = 1
        for n in self.shape:
            count *= n
        return count

    @property
    def last(self) -> int:
        """Place of its last number in the storage, for a tensor that has any."""
        return self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))

    @property
    def room(self) -> int:
        """How many numbers of its type the storage holds."""
        return self.storage.numel * self.storage.dtype.itemsize // self.dtype.itemsize


def printable(text: str) -> str:
    """`text` short and without control characters: it comes from the file and goes to a terminal."""
    shown = "".join(c if c.isprintable() else "?" for c in text[: MAX_NAME + 1])
    return shown if len(shown) <= MAX_NAME else f"{shown[:MAX_NAME]}..."


def is_count(value: Any) -> bool:
    """Whether it is a whole number that can count things in a file."""
    return type(value) is int and 0 <= value < MAX_COUNT
