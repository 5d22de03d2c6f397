"""Kernels of finite networks: empirical NTK and NNGP, linearised networks, and means over random initialisations."""

from pluriform.infinite.empirical.nngp import empirical_nngp
from pluriform.infinite.empirical.ntk import empirical_ntk

__all__ = ["empirical_nngp", "empirical_ntk"]
