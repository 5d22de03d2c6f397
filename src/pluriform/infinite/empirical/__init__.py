"""Kernels of finite networks: empirical NTK and NNGP, linearised networks, and means over random initialisations."""

from pluriform.infinite.empirical.cost import Costs, count_cost
from pluriform.infinite.empirical.nngp import empirical_nngp
from pluriform.infinite.empirical.ntk import empirical_ntk

__all__ = ["Costs", "count_cost", "empirical_nngp", "empirical_ntk"]
