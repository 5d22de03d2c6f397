"""Safetensors, in which timm publishes: they hold nothing but tensors."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from pluriform.robust.stored_values import Placeholder, Storage, StoredTensor
from pluriform.robust.torch_parts import TorchFile, sound

__all__ = ["open_safetensors"]

SAFETENSORS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@contextmanager
def open_safetensors(stream: BinaryIO, _: int) -> Iterator[TorchFile]:
    """Open a file of safetensors.

    Args:
        stream: The file.
        _: Its size in bytes.

    Yields:
        Its content.

    Raises:
        DamageError: It is damaged.
    """
    with sound():
        archive = safe_open(stream.name, "pt")
    with archive:
        with sound():
            content = {name: _described(name, archive.get_slice(name)) for name in archive.keys()}  # noqa: SIM118

        def read(stored: StoredTensor) -> Tensor:
            with sound():
                return archive.get_tensor(str(stored.storage.key))

        yield TorchFile("safetensors", content, (), read)


def _described(name: str, entry: Any) -> StoredTensor | Placeholder:
    shape, dtype = tuple(entry.get_shape()), SAFETENSORS.get(entry.get_dtype())
    if dtype is None:
        return Placeholder(f"numbers of type {entry.get_dtype()}")
    stride = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return StoredTensor(Storage(name, dtype, math.prod(shape)), 0, shape, stride, dtype)
