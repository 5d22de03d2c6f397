"""The infinitely wide form: closed-form kernels of an ordinary module, and what its trained ensemble predicts."""

from pluriform.infinite.kernel_function import kernel_of

__all__ = ["kernel_of"]
