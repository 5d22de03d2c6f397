"""What a store belongs to: the kernel function, told by its values on fixed noise, and the samples, told by a hash."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pluriform.errors import RunConflictError, explain
from pluriform.infinite.kernel import Kernel

__all__ = ["check_identity", "hash_of", "identity", "probe"]

TOLERANCE = {"float32": 1e-4, "float64": 1e-6}  # Engines of one precision may differ by as much.
CHUNK = 256
WORDS = {
    "inputs1": "the first samples",
    "inputs2": "the second samples",
    "shape": "the number of samples",
    "input_shape": "the shape of a sample",
    "kernels": "which kernels",
    "dtype": "the precision",
    "mirrored": "whether both halves are stored",
}


def identity(
    function: Callable[..., Kernel], x1: Tensor, x2: Tensor | None, *, kernels: tuple[str, ...], dtype: torch.dtype
) -> dict[str, Any]:
    """Everything that the entries of a store depend on, as JSON.

    The initial weights of a network do not count, since its kernel does not depend on them; variances,
    parameterisation, architecture and statistics of normalisation do.
    """
    return {
        "probe": probe(function, x1, dtype),
        "inputs1": hash_of(x1),
        "inputs2": None if x2 is None else hash_of(x2),
        "shape": [len(x1), len(x1 if x2 is None else x2)],
        "input_shape": list(x1.shape[1:]),
        "kernels": list(kernels),
        "dtype": str(dtype).removeprefix("torch."),
    }


def probe(function: Callable[..., Kernel], x1: Tensor, dtype: torch.dtype) -> list[float]:
    """NNGP and NTK of two fixed samples of noise: two functions that agree here are the same kernel."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, *x1.shape[1:], generator=generator).to(x1.device, dtype)
    with torch.no_grad():
        found = function(noise, dtype=dtype)
    parts = [part.flatten() for part in (found.nngp, found.ntk) if part is not None]
    return [float(value) for value in torch.cat(parts)]


def hash_of(x: Tensor) -> str:
    """A hash of samples: shape, type and every bit."""
    digest = hashlib.sha256(f"{tuple(x.shape)} {x.dtype}".encode())
    for part in x.split(CHUNK):
        digest.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def check_identity(
    stored: Mapping[str, Any], wanted: Mapping[str, Any], facts: tuple[Mapping[str, Any], Mapping[str, Any]], where: str
) -> None:
    """Refuse to go on with a store of something else.

    Args:
        stored: What the store says it belongs to.
        wanted: What is being computed.
        facts: Stored and given descriptions in the user's words, for the message.
        where: Path of the store.

    Raises:
        RunConflictError: They differ; names how.
    """
    differs = [words for key, words in WORDS.items() if stored.get(key) != wanted.get(key)]
    if "the shape of a sample" not in differs and not _same_probe(stored, wanted):
        differs.insert(0, "the network or its variances")
    if not differs:
        return
    was, now = facts
    changed = [key for key in sorted(was.keys() | now.keys()) if was.get(key) != now.get(key)]
    told = "".join(f"; {key} was {was.get(key)!r} and is {now.get(key)!r}" for key in changed)
    raise RunConflictError(
        explain(
            "the store of this network and these samples",
            f"another fingerprint: {' and '.join(differs)} differ{told}",
            where,
            "name another store, or delete this one; nothing was overwritten",
        )
    )


def _same_probe(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    if len(stored["probe"]) != len(wanted["probe"]):
        return False
    a, b = torch.tensor([stored["probe"], wanted["probe"]], dtype=torch.float64).reshape(2, 2, -1)  # NNGP, then NTK.
    tolerance = max(TOLERANCE[stored["dtype"]], TOLERANCE[wanted["dtype"]])
    return bool(((a - b).abs() <= tolerance * b.abs().amax(-1, keepdim=True)).all())
