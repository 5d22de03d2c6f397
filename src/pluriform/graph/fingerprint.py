"""Hashes that tell networks and tensors apart."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["fingerprint", "tensor_fingerprint"]


def fingerprint(module: nn.Module | None) -> str:
    """A hash of class, parameters and buffers, which tells two networks apart."""
    return tensor_fingerprint(module.state_dict() if module is not None else {}, str(module))


def tensor_fingerprint(tensors: Mapping[str, Tensor], words: str = "") -> str:
    """A hash of names, shapes, types and values, and of words that belong to them."""
    digest = hashlib.sha256(words.encode())
    for name, tensor in tensors.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
