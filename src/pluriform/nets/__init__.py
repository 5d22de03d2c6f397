"""A few standard networks by name."""

from pluriform.nets.zoo import build

__all__ = ["build"]
