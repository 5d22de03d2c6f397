"""The infinitely wide form: closed-form kernels of an ordinary module, and what its trained ensemble predicts."""

from pluriform.infinite.kernel_function import kernel_of
from pluriform.infinite.precision import precision_of
from pluriform.infinite.store import kernel_store, open_kernel

__all__ = ["kernel_of", "kernel_store", "open_kernel", "precision_of"]
