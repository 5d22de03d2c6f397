"""A module that is the same after its code has run."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["left_as_it_was"]


@contextmanager
def left_as_it_was(module: nn.Module) -> Iterator[None]:
    """Undo what happens inside to the attributes, parameters, buffers, modes and containers of a module and its parts.

    Numbers inside tensors are not copied.
    """
    saved = [(holder, copy.copy(holder)) for part in module.modules() for holder in _holders(part)]
    try:
        yield
    finally:
        for holder, before in saved:
            _restore(holder, before)


def _holders(part: nn.Module) -> list[dict | list | set]:
    return [vars(part), *(value for value in vars(part).values() if isinstance(value, dict | list | set))]


def _restore(holder: dict | list | set, before: dict | list | set) -> None:
    if isinstance(holder, list):
        holder[:] = before
    elif not _same(holder, before):
        holder.clear()
        holder.update(before)  # type: ignore[arg-type]


def _same(holder: dict | set, before: dict | list | set) -> bool:
    """Whether both hold the very same objects, in the same order."""
    return [*map(id, _flat(holder))] == [*map(id, _flat(before))]


def _flat(holder: dict | list | set) -> list:
    return [*holder, *holder.values()] if isinstance(holder, dict) else [*holder]
