"""The most memory that a computation holds at once."""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Peak", "peak_of"]

MEBIBYTE = 2**20


@dataclass(frozen=True)
class Peak:
    """The most memory in use at once.

    Attributes:
        mebibytes: In MiB, weights and inputs included.
        how: In which way it was measured.
    """

    mebibytes: float
    how: str


class _LiveTensors(TorchDispatchMode):
    """Adds up the storages that operations create, and takes them off as they die."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.now = 0
        self.most = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        known = {_key(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor) and _key(leaf) not in known and _key(leaf) not in self.live:
                self._enter(leaf)
        return made

    def _enter(self, tensor: Tensor) -> None:
        key, storage = _key(tensor), tensor.untyped_storage()
        self.live[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._leave, key)

    def _leave(self, key: int) -> None:
        self.now -= self.live.pop(key, 0)


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def peak_of(call: Callable[[], Any], held: Iterable[Tensor], device: torch.device, what: str) -> Peak:
    """The most memory that `call()` holds at once.

    On a GPU the allocator's own peak; on a CPU the tensors alive at once, which leaves out scratch space inside single
    operations and arrays outside torch, but gives the same figure every time.

    Args:
        call: Computes once.
        held: Weights and inputs, which live through the call; shared storages count once.
        device: Where.
        what: Name of the call for `Peak.how`.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return Peak(torch.cuda.max_memory_allocated(device) / MEBIBYTE, "peak of the CUDA allocator")
    own = {_key(tensor): tensor.untyped_storage().nbytes() for tensor in held}
    with _LiveTensors() as counter:
        call()
    how = f"tensors alive at once during {what}, with weights and inputs"
    return Peak((sum(own.values()) + counter.most) / MEBIBYTE, how)
