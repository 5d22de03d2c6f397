"""Choice of weight variance, bias variance and ridge by the marginal likelihood of an infinitely wide network.

    maximise log p(Y | weight_var, bias_var, ridge) by L-BFGS in the logarithms of all three

The gradient in the kernel comes from the Cholesky factor; that of the kernel in the variances is taken tile by tile, so
that memory stays that of a few matrices however deep the network.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pluriform.axes import Inputs
from pluriform.errors import ConfigError, explain
from pluriform.gaussian_process.evidence import log_evidence
from pluriform.gaussian_process.exact import Outputs, spectrum
from pluriform.infinite.plan import Plan, dry_run, propagate
from pluriform.infinite.rules import Variances, plan_of

__all__ = ["Evidence", "Hyperparameters", "evidence_of", "maximise_evidence"]

BOUNDS = {"weight_var": (0.05, 20.0), "bias_var": (1e-5, 20.0), "ridge": (1e-6, 10.0)}
BIASES = (1e-3, 0.1, 1.0)
RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.5)
TILE_ENTRIES = 2**20


@dataclass(frozen=True)
class Evidence:
    """Log marginal likelihood at one point, and its slopes.

    Attributes:
        value: Log marginal likelihood, summed over outputs.
        weight_var: Its derivative in the weight variance.
        bias_var: In the bias variance.
        ridge: In the relative ridge.
    """

    value: float
    weight_var: float
    bias_var: float
    ridge: float


@dataclass(frozen=True)
class Hyperparameters:
    """What maximises the marginal likelihood, within bounds.

    Attributes:
        weight_var: Variance of a weight times its fan-in, 0.05 to 20.
        bias_var: Variance of a bias, 1e-5 to 20.
        ridge: Relative to the mean of the kernel's diagonal, 1e-6 to 10.
        log_marginal_likelihood: There.
        evaluations: Kernels computed forwards and backwards on the way.
    """

    weight_var: float
    bias_var: float
    ridge: float
    log_marginal_likelihood: float
    evaluations: int


def evidence_of(
    module: nn.Module,
    inputs: Inputs,
    targets: Outputs,
    *,
    weight_var: float | int = 2.0,
    bias_var: float | int = 0.0,
    ridge: float | int = 1e-2,
    kernel: Literal["ntk", "nngp"] = "nngp",
    parameterization: str = "ntk",
    free_amplitude: bool = True,
) -> Evidence:
    """Log marginal likelihood of targets under the infinitely wide network, with gradients.

    Args:
        module: As for `kernel_of`, in the mode that is meant.
        inputs: Training inputs, `(n, *input_shape)`.
        targets: Centred, `(n, outputs)`.
        weight_var: Variance of a weight times its fan-in, of all layers.
        bias_var: Variance of a bias, of all layers.
        ridge: Relative to the mean of the kernel's diagonal, above 0.
        kernel: Covariance of the process: the NNGP, or the NTK.
        parameterization: As for `kernel_of`.
        free_amplitude: See `log_evidence`.

    Raises:
        ConfigError: A variance below 0.
        SingularKernelError: Duplicate inputs and too small a ridge.
        UnsupportedOpError: As for `kernel_of`.
    """
    variances = [torch.tensor(float(v), dtype=torch.float64, requires_grad=True) for v in (weight_var, bias_var)]
    plan = plan_of(module, inputs[:2], Variances(variances[0], variances[1], {}, parameterization))
    inputs, ntk = inputs.detach().double(), kernel == "ntk"
    gram = _gram(plan, inputs, ntk).requires_grad_(True)
    share = torch.tensor(float(ridge), dtype=torch.float64, requires_grad=True)
    value = log_evidence(gram, targets, share, free_amplitude=free_amplitude)
    sensitivity, in_ridge = torch.autograd.grad(value, (gram, share))
    slopes = torch.zeros(2, dtype=torch.float64)
    for rows, columns, tile in _tiles(plan, inputs, ntk):
        seen = sensitivity[rows, columns] + (sensitivity[columns, rows].T if rows != columns else 0.0)
        found = torch.autograd.grad(tile, variances, seen, allow_unused=True)
        slopes += torch.tensor([0.0 if slope is None else float(slope) for slope in found], dtype=torch.float64)
    return Evidence(float(value.detach()), float(slopes[0]), float(slopes[1]), float(in_ridge))


def _gram(plan: Plan, inputs: Tensor, ntk: bool) -> Tensor:
    gram = inputs.new_empty(len(inputs), len(inputs))
    with torch.no_grad():
        for rows, columns, tile in _tiles(plan, inputs, ntk):
            gram[rows, columns], gram[columns, rows] = tile, tile.T
    return gram


def _tiles(plan: Plan, inputs: Tensor, ntk: bool) -> Iterator[tuple[slice, slice, Tensor]]:
    """Tiles on and above the diagonal of the kernel that is asked for."""
    side = max(math.isqrt(TILE_ENTRIES // dry_run(plan, inputs[:2]).entries), 1)
    for start in range(0, len(inputs), side):
        rows = slice(start, min(start + side, len(inputs)))
        for other in range(start, len(inputs), side):
            columns = slice(other, min(other + side, len(inputs)))
            record = propagate(plan, inputs[rows], inputs[columns], same=rows == columns, ntk=ntk)
            yield rows, columns, record.nngp if record.ntk is None else record.ntk


def maximise_evidence(
    module: nn.Module,
    inputs: Inputs,
    targets: Outputs,
    *,
    weight_var: float | int = 2.0,
    kernel: Literal["ntk", "nngp"] = "nngp",
    parameterization: str = "ntk",
    evaluations: int = 40,
) -> Hyperparameters:
    """Variances and ridge of largest marginal likelihood, the amplitude of the kernel left free.

    Args:
        module: As for `kernel_of`, in the mode that is meant.
        inputs: Training inputs, `(n, *input_shape)`; some hundreds determine three numbers well.
        targets: Centred, `(n, outputs)`.
        weight_var: Middle of the coarse grid that the search starts from: a third of it, itself, three times it, with
            bias variances of 0.001, 0.1 and 1 and seven ridges. The likelihood may have several maxima.
        kernel: Covariance of the process: the NNGP, or the NTK.
        parameterization: As for `kernel_of`.
        evaluations: Most kernels computed after the grid, each forwards and backwards.

    Raises:
        ConfigError: Fewer than one evaluation.
        SingularKernelError: NaN in the kernel.
        UnsupportedOpError: As for `kernel_of`.

    References:
        MacKay 1992, Bayesian Interpolation. Rasmussen & Williams 2006, section 5.4.1.

    Example:
        >>> x = torch.linspace(-2, 2, 20, dtype=torch.float64)[:, None]
        >>> net = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> maximise_evidence(net, x, x.abs() - x.abs().mean()).bias_var < 1
        True
    """
    from scipy.optimize import minimize

    if evaluations < 1:
        remedy = "allow more evaluations"
        raise ConfigError(explain("1 evaluation or more", f"{evaluations}", "maximise_evidence", remedy))
    begin = _coarse(module, inputs, targets, weight_var, kernel, parameterization)
    best: list[Hyperparameters] = []

    def loss(logarithms: Any) -> tuple[float, list[float]]:
        weight, bias, share = (math.exp(float(value)) for value in logarithms)
        found = evidence_of(
            module,
            inputs,
            targets,
            weight_var=weight,
            bias_var=bias,
            ridge=share,
            kernel=kernel,
            parameterization=parameterization,
        )
        best.append(Hyperparameters(weight, bias, share, found.value, len(best) + 1))
        count = targets.numel()
        slopes = (found.weight_var * weight, found.bias_var * bias, found.ridge * share)
        return -found.value / count, [-slope / count for slope in slopes]

    limits = [(math.log(low), math.log(high)) for low, high in BOUNDS.values()]
    minimize(loss, begin, jac=True, method="L-BFGS-B", bounds=limits, options={"maxfun": evaluations, "ftol": 1e-7})
    top = max(best, key=lambda found: found.log_marginal_likelihood)
    return Hyperparameters(top.weight_var, top.bias_var, top.ridge, top.log_marginal_likelihood, len(best))


def _coarse(
    module: nn.Module, inputs: Tensor, targets: Tensor, middle: float | int, kernel: str, parameterization: str
) -> list[float]:
    """Logarithms of the best point of a grid; one eigendecomposition a pair of variances serves all ridges."""
    low, high = BOUNDS["weight_var"]
    found: dict[tuple[float, float, float], float] = {}
    for weight, bias in itertools.product((middle / 3, middle, 3 * middle), BIASES):
        weight = min(max(weight, low), high)
        plan = plan_of(module, inputs[:2], Variances(weight, bias, {}, parameterization))
        basis = spectrum(_gram(plan, inputs.detach().double(), kernel == "ntk"), targets)
        strength, count = ((basis.vectors.T @ basis.targets) ** 2).sum(1), targets.numel()
        for ridge in RIDGES:
            shifted = basis.values + ridge * basis.values.mean()
            fit, volume = float((strength / shifted).sum()), float(shifted.log().sum()) * targets.shape[1]
            found[weight, bias, ridge] = -volume - count * math.log(max(fit, 1e-300) / count)
    return [math.log(value) for value in max(found, key=lambda point: found[point])]
