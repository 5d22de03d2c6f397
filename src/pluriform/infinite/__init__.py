"""The infinitely wide form: closed-form kernels of an ordinary module, and what its trained ensemble predicts."""

from pluriform.infinite.empirical.cost import count_cost
from pluriform.infinite.empirical.monte_carlo import monte_carlo_kernel, monte_carlo_kernels
from pluriform.infinite.empirical.nngp import empirical_nngp
from pluriform.infinite.empirical.ntk import empirical_ntk
from pluriform.infinite.empirical.taylor import linearize, taylor
from pluriform.infinite.kernel_function import kernel_of
from pluriform.infinite.precision import precision_of
from pluriform.infinite.predict.function_space import descend, evolve
from pluriform.infinite.predict.gradient_flow import gradient_flow, max_learning_rate
from pluriform.infinite.self_attention import GlobalSelfAttention
from pluriform.infinite.store import kernel_store, open_kernel

__all__ = [
    "GlobalSelfAttention",
    "count_cost",
    "descend",
    "empirical_nngp",
    "empirical_ntk",
    "evolve",
    "gradient_flow",
    "kernel_of",
    "kernel_store",
    "linearize",
    "max_learning_rate",
    "monte_carlo_kernel",
    "monte_carlo_kernels",
    "open_kernel",
    "precision_of",
    "taylor",
]
