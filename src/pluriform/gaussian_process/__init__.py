"""Gaussian-process regression on Gram matrices: exact, tile by tile, by conjugate gradients, on inducing points."""

from pluriform.gaussian_process.exact import (
    Cross,
    GaussianProcess,
    Outputs,
    Spectrum,
    Square,
    absolute_ridge,
    check_memory,
    condition,
    fits_memory,
    spectrum,
)

__all__ = [
    "Cross",
    "GaussianProcess",
    "Outputs",
    "Spectrum",
    "Square",
    "absolute_ridge",
    "check_memory",
    "condition",
    "fits_memory",
    "spectrum",
]
