"""Kernels of finite networks: empirical NTK and NNGP, linearised networks, and means over random initialisations."""

from pluriform.infinite.empirical.cost import Costs, count_cost
from pluriform.infinite.empirical.monte_carlo import MonteCarloKernel, monte_carlo_kernel, monte_carlo_kernels
from pluriform.infinite.empirical.nngp import empirical_nngp
from pluriform.infinite.empirical.ntk import empirical_ntk
from pluriform.infinite.empirical.taylor import TaylorExpansion, linearize, taylor

__all__ = [
    "Costs",
    "MonteCarloKernel",
    "TaylorExpansion",
    "count_cost",
    "empirical_nngp",
    "empirical_ntk",
    "linearize",
    "monte_carlo_kernel",
    "monte_carlo_kernels",
    "taylor",
]
