"""`kernel_of`: an ordinary module as the kernel of its infinitely wide limit."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pluriform.axes import Inputs
from pluriform.errors import ConfigError, ShapeError, UnsupportedOpError, explain
from pluriform.infinite.kernel import Kernel
from pluriform.infinite.plan import Plan, dry_run, propagate
from pluriform.infinite.rules import Variances, plan_of

__all__ = ["KernelFunction", "kernel_of"]

TILE_MIB = 256
TENSORS = 8


@dataclass(frozen=True, eq=False)
class KernelFunction:
    """Closed-form kernels of an infinitely wide network, in float64, differentiable in the inputs.

    Attributes:
        plan: The rules in order.
        input_shape: Shape of one input.
        entries: Most kernel entries that one pair of inputs needs at any node.
    """

    plan: Plan
    input_shape: tuple[int, ...]
    entries: int

    def __call__(
        self,
        x1: Inputs,
        x2: Inputs | None = None,
        *,
        nngp: bool = True,
        ntk: bool = True,
        dtype: torch.dtype = torch.float64,
    ) -> Kernel:
        """Kernels of every pair, computed in tiles that fit memory.

        Args:
            x1: First inputs, `(n1, *input_shape)`.
            x2: Second inputs, `(n2, *input_shape)`; `None` takes `x1`, and computes each pair once.
            nngp: Always part of the record, since the NTK stands on it.
            ntk: `False` leaves the NTK out, at about half the work.
            dtype: Of all computations.

        Returns:
            The record with `.nngp` and `.ntk`, `(n1, n2)`, and the variances of both sides.

        Raises:
            ShapeError: The inputs have another shape than the example.
            ConfigError: Neither kernel was asked for.
        """
        if not (nngp or ntk):
            raise ConfigError(explain("nngp or ntk", "neither", "kernel function", "ask for at least one"))
        for inputs in (x1, x2):
            if inputs is not None and (tuple(inputs.shape[1:]) != self.input_shape or len(inputs) == 0):
                raise ShapeError(
                    explain(
                        f"inputs of shape (n, {', '.join(map(str, self.input_shape))}), n at least 1",
                        f"{tuple(inputs.shape)}",
                        "kernel function",
                        "pass inputs like the example that kernel_of was given",
                    )
                )
        side = max(1, int(math.sqrt(TILE_MIB * 2**20 / (8 * TENSORS * self.entries))))
        first = [part.to(dtype) for part in x1.split(side)]
        if x2 is None:
            return self._symmetric(first, ntk)
        second = [part.to(dtype) for part in x2.split(side)]
        rows = [[propagate(self.plan, a, b, same=False, ntk=ntk) for b in second] for a in first]
        return _assembled(rows, same=False)

    def _symmetric(self, parts: list[Tensor], ntk: bool) -> Kernel:
        rows: list[list[Kernel]] = []
        for i, a in enumerate(parts):
            mirrored = [_transposed(rows[j][i]) for j in range(i)]
            own = propagate(self.plan, a, a, same=True, ntk=ntk)
            later = [propagate(self.plan, a, b, same=False, ntk=ntk) for b in parts[i + 1 :]]
            rows.append([*mirrored, own, *later])
        return _assembled(rows, same=True)


def _transposed(kernel: Kernel) -> Kernel:
    ntk = None if kernel.ntk is None else kernel.ntk.T
    return kernel.replace(nngp=kernel.nngp.T, ntk=ntk, variance1=kernel.variance2, variance2=kernel.variance1)


def _assembled(rows: list[list[Kernel]], *, same: bool) -> Kernel:
    if len(rows) == 1 and len(rows[0]) == 1:
        return rows[0][0]
    nngp = torch.cat([torch.cat([tile.nngp for tile in row], 1) for row in rows])
    tiles = [[tile.ntk for tile in row if tile.ntk is not None] for row in rows]
    ntk = torch.cat([torch.cat(row, 1) for row in tiles]) if tiles[0] else None
    variance1 = torch.cat([row[0].variance1 for row in rows])
    variance2 = variance1 if same else torch.cat([tile.variance2 for tile in rows[0]])
    return rows[0][0].replace(nngp=nngp, ntk=ntk, variance1=variance1, variance2=variance2, same=same)


def kernel_of(
    module: nn.Module,
    example: Inputs,
    *,
    weight_var: float = 2.0,
    bias_var: float = 0.0,
    overrides: Mapping[str, tuple[float, float]] | None = None,
    parameterization: Literal["ntk", "standard"] = "ntk",
) -> KernelFunction:
    """The NNGP and NTK of a module in the limit of infinite width.

    The module is traced; its weights are not used, only its layers. Weights of a layer with fan-in n have variance
    `weight_var / n`, biases `bias_var`; a layer without bias has none, and frozen parameters (`requires_grad=False`) add
    nothing to the NTK. Batch norm and dropout follow the training flags of the module at this moment. What comes before
    the first layer with weights is computed as it is; the second moment of those features is their mean over channels.

    Args:
        module: Any module that the tracer reads.
        example: A few inputs, `(n, *input_shape)`.
        weight_var: Variance of a weight times the fan-in, for every layer.
        bias_var: Variance of a bias, for every layer.
        overrides: `(weight_var, bias_var)` of single layers by dotted module path.
        parameterization: `"ntk"`; or `"standard"`, plain PyTorch parameters at the widths of the module and one
            learning rate for all.

    Returns:
        A function of one or two batches of inputs.

    Raises:
        UnsupportedOpError: A node has no limit, or no rule here; the message says what would do instead.
        ConfigError: A variance is negative, an override names no layer, or the parameterisation is unknown.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 1))
        >>> x = torch.eye(3)
        >>> kernel_of(net, x)(x).nngp.diagonal()
        tensor([0.6667, 0.6667, 0.6667], dtype=torch.float64)
    """
    if parameterization not in ("ntk", "standard"):
        raise ConfigError(
            explain("parameterization 'ntk' or 'standard'", repr(parameterization), "kernel_of", "choose one")
        )
    variances = Variances(weight_var, bias_var, dict(overrides or {}), parameterization)
    plan = plan_of(module, example[:2], variances)
    plan.check_branches()
    tried = dry_run(plan, example[:2])
    if tried.output.spatial:
        raise UnsupportedOpError(
            explain(
                "a network whose output is a vector",
                f"an output with positions {tried.output.spatial}",
                plan.steps[-1].where,
                "end the network in a flatten or a global average pooling, and a linear layer",
            )
        )
    return KernelFunction(plan, tuple(example.shape[1:]), tried.entries)
