"""The log marginal likelihood of a Gaussian process as a differentiable function of its kernel and its ridge."""

import math

import torch
from torch import Tensor

from pluriform.errors import SingularKernelError, explain
from pluriform.gaussian_process.exact import Outputs, Square

__all__ = ["log_evidence"]


def log_evidence(
    gram: Square, targets: Outputs, ridge: Tensor | float | int, *, free_amplitude: bool = False
) -> Tensor:
    """Log probability of the targets under `N(0, C)`, `C = K + ridge mean(diag K) I`, summed over outputs.

        -1/2 tr(Y'C^-1 Y) - O/2 log det C - N O/2 log 2 pi

    Args:
        gram: `K` of the training inputs, `(n, n)`, float64.
        targets: `Y`, `(n, outputs)`, centred.
        ridge: Relative ridge, above 0.
        free_amplitude: Take `a C` with the best amplitude `a = tr(Y'C^-1 Y) / (N O)` instead of `C`: the right question
            where predictions do not depend on the scale of the kernel.

    Returns:
        A number, differentiable in the kernel and the ridge.

    Raises:
        SingularKernelError: The matrix is not positive definite.

    References:
        Rasmussen & Williams 2006, Gaussian Processes for Machine Learning, equation 2.30 and section 5.4.1.

    Example:
        >>> k = torch.eye(1, dtype=torch.float64)
        >>> log_evidence(k, torch.zeros(1, 1), 0.0)
        tensor(-0.9189, dtype=torch.float64)
    """
    count, targets = targets.numel(), targets.detach().double()
    shifted = gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor, info = torch.linalg.cholesky_ex(shifted)
    smallest = float((factor.diagonal() ** 2).detach().min())
    if int(info) or not smallest >= 1e-14 * float(gram.diagonal().detach().max()):
        got = f"one that is not, with relative ridge {float(torch.as_tensor(ridge).detach()):.3g}"
        remedy = "remove duplicates or give a larger ridge"
        raise SingularKernelError(
            explain("a positive definite kernel", got, f"evidence of {len(gram)} samples", remedy)
        )
    half = torch.linalg.solve_triangular(factor, targets, upper=False)
    fit, volume = (half**2).sum(), 2 * targets.shape[1] * factor.diagonal().log().sum()
    if free_amplitude:
        volume = volume + count * (fit / count).log()
        fit = torch.full_like(fit, float(count))
    return -0.5 * (fit + volume + count * math.log(2 * math.pi))
