"""`kernel_of`: an ordinary module as the kernel of its infinitely wide limit."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pluriform.axes import Inputs
from pluriform.errors import ConfigError, ShapeError, UnsupportedOpError, explain
from pluriform.infinite.kernel import Kernel
from pluriform.infinite.memory import check_kernel_memory
from pluriform.infinite.plan import Plan, dry_run, propagate
from pluriform.infinite.rules import Variances, plan_of

if TYPE_CHECKING:
    from pluriform.infinite.engine.run import Fused

__all__ = ["KernelFunction", "kernel_of"]

TILE_ENTRIES = 2**17
MOST_ENTRIES = 2**24
Engine = Literal["auto", "fused", "plain"]


@dataclass(frozen=True, eq=False)
class KernelFunction:
    """Closed-form kernels of an infinitely wide network.

    Two engines compute the same numbers. The plain one follows the rules in PyTorch: differentiable in the inputs, on
    any device, float64 or float32. The fused one runs all layers of a stage on one displacement of positions at a
    time, in cache, on all cores: float32, on the CPU, tens to hundreds of times faster where positions are many
    (`benchmarks/infinite_kernels.json`).

    Attributes:
        plan: The rules in order.
        example: One input, for shapes.
        entries: Most kernel entries that one pair of inputs needs at any node.
    """

    plan: Plan
    example: Tensor
    entries: int

    def __call__(
        self,
        x1: Float[Tensor, "n1 *features1"],
        x2: Float[Tensor, "n2 *features2"] | None = None,
        *,
        nngp: bool = True,
        ntk: bool = True,
        dtype: torch.dtype = torch.float64,
        engine: Engine = "auto",
    ) -> Kernel:
        """Kernels of every pair, computed in tiles that fit memory.

        Args:
            x1: First inputs, `(n1, *input_shape)`.
            x2: Second inputs, `(n2, *input_shape)`; `None` takes `x1`, and computes each pair once.
            nngp: Always part of the record, since the NTK stands on it.
            ntk: `False` leaves the NTK out, at about half the work.
            dtype: Of all computations. In float32 the relative error is about 1e-7 (Frobenius norm); of
                the NTK of inputs that nearly coincide (correlations above 1 - 1e-6) it is up to 1e-4, and more in
                networks of over 10 layers.
            engine: `"auto"` takes the fused engine for float32 on the CPU where no gradients are asked for and every
                rule is in it, else the plain one.

        Returns:
            The record with `.nngp` and `.ntk`, `(n1, n2)`, and the variances of both sides.

        Raises:
            ShapeError: The inputs have another shape than the example.
            ConfigError: Neither kernel was asked for, or the fused engine cannot serve.
            MemoryBudgetError: The result, or one tile, does not fit.
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
        if engine not in get_args(Engine):
            known = ", ".join(get_args(Engine))
            raise ConfigError(explain(f"one of {known}", repr(engine), "engine", "name one of them"))
        differentiable = torch.is_grad_enabled() and (x1.requires_grad or (x2 is not None and x2.requires_grad))
        fused = None if engine == "plain" else self._fused(x1, dtype, differentiable, required=engine == "fused")
        tile = 0 if fused is not None else self.entries * min(self.side**2, len(x1) * len(x1 if x2 is None else x2))
        size = torch.finfo(dtype).bits // 8
        kernels = 2 if fused is not None else 1 + ntk  # The fused engine computes both.
        check_kernel_memory(len(x1), len(x1 if x2 is None else x2), kernels=kernels, itemsize=size, tile=tile)
        x1, x2 = x1.to(dtype), None if x2 is None else x2.to(dtype)
        if fused is not None:
            return fused.kernel(x1, x2, ntk=ntk)
        tiles = self._tiles(x1, x2, ntk)
        return _joined(tiles) if differentiable else _filled(tiles, len(x1), len(x1 if x2 is None else x2))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.example.shape[1:])

    @cached_property
    def fused(self) -> "Fused | None":
        """The network in the fused engine; `None` where one of its rules is not in it."""
        from pluriform.infinite.engine.run import fused_engine

        return fused_engine(self.plan, self.example)

    def _fused(self, x: Tensor, dtype: torch.dtype, differentiable: bool, *, required: bool) -> "Fused | None":
        fits = dtype == torch.float32 and x.device.type == "cpu" and not differentiable
        if fits and self.fused is not None:
            return self.fused
        if required:
            got = f"{dtype}, device {x.device}, {'with' if differentiable else 'no'} gradients"
            got += "" if not fits or self.fused is not None else ", and a rule that is not in it"
            expected = "float32 on the CPU without gradients, and rules of the fused engine"
            raise ConfigError(explain(expected, got, "kernel function", 'pass engine="auto" or "plain"'))
        return None

    @property
    def side(self) -> int:
        """Samples on a side of a tile: its tensors stay in cache, and variances of single inputs cost little beside."""
        pairs = max(TILE_ENTRIES // self.entries, min(64, MOST_ENTRIES // self.entries), 1)
        return math.isqrt(pairs)

    def _tiles(self, x1: Tensor, x2: Tensor | None, ntk: bool) -> Iterator["_Tile"]:
        """All tiles; of a matrix of `x1` with itself those on and above the diagonal."""
        first = x1.split(self.side)
        second = first if x2 is None else x2.split(self.side)
        for i, a in enumerate(first):
            for j, b in enumerate(second):
                if x2 is not None or i < j:
                    yield _Tile(i, j, i * self.side, j * self.side, propagate(self.plan, a, b, same=False, ntk=ntk))
                elif i == j:
                    kernel = _symmetric(propagate(self.plan, a, a, same=True, ntk=ntk))
                    yield _Tile(i, j, i * self.side, j * self.side, kernel)


@dataclass(frozen=True, eq=False)
class _Tile:
    """A block of the matrix: its place in the grid, its first row and column, its record."""

    i: int
    j: int
    row: int
    column: int
    kernel: Kernel


def _symmetric(kernel: Kernel) -> Kernel:
    """A record of inputs with themselves without the rounding by which its two halves differ."""
    ntk = None if kernel.ntk is None else (kernel.ntk + kernel.ntk.T) / 2
    return kernel.replace(nngp=(kernel.nngp + kernel.nngp.T) / 2, ntk=ntk)


def _filled(tiles: Iterator[_Tile], rows: int, columns: int) -> Kernel:
    """One record from tiles, written in place; tiles below the diagonal are mirrored."""
    first = next(tiles)
    record = first.kernel
    nngp = record.nngp.new_empty(rows, columns)
    ntk = None if record.ntk is None else torch.empty_like(nngp)
    variance1, variance2 = nngp.new_empty(rows), nngp.new_empty(columns)
    for tile in itertools.chain([first], tiles):
        part = tile.kernel
        down, across = slice(tile.row, tile.row + len(part.nngp)), slice(tile.column, tile.column + part.nngp.shape[1])
        for whole, block in ((nngp, part.nngp), (ntk, part.ntk)):
            if whole is None or block is None:
                continue
            whole[down, across] = block
            if record.same and tile.i != tile.j:
                whole[across, down] = block.T
        variance1[down], variance2[across] = part.variance1, part.variance2
    variance2 = variance1 if record.same else variance2
    return record.replace(nngp=nngp, ntk=ntk, variance1=variance1, variance2=variance2)


def _joined(tiles: Iterator[_Tile]) -> Kernel:
    """The same by concatenation, through which gradients flow."""
    grid = {(tile.i, tile.j): tile.kernel for tile in tiles}
    first, symmetric = grid[0, 0], grid[0, 0].same
    last = max(grid)

    def block(i: int, j: int, name: str) -> Tensor:
        part = getattr(grid[(j, i) if symmetric and i > j else (i, j)], name)
        return part.T if symmetric and i > j else part

    def whole(name: str) -> Tensor:
        rows, columns = range(last[0] + 1), range(last[1] + 1)
        return torch.cat([torch.cat([block(i, j, name) for j in columns], 1) for i in rows])

    variance1 = torch.cat([grid[i, i if symmetric else 0].variance1 for i in range(last[0] + 1)])
    variance2 = variance1 if symmetric else torch.cat([grid[0, j].variance2 for j in range(last[1] + 1)])
    ntk = None if first.ntk is None else whole("ntk")
    return first.replace(nngp=whole("nngp"), ntk=ntk, variance1=variance1, variance2=variance2)


def kernel_of(
    module: nn.Module,
    example: Inputs,
    *,
    weight_var: float | int = 2.0,
    bias_var: float | int = 0.0,
    overrides: Mapping[str, tuple[float | int, float | int]] | None = None,
    parameterization: str = "ntk",
) -> KernelFunction:
    """The NNGP and NTK of a module in the limit of infinite width.

    The module is traced; its weights are not used, only its layers. Weights of a layer with fan-in n have variance
    `weight_var / n`, biases `bias_var`; a layer without bias has none, and frozen parameters (`requires_grad=False`)
    add nothing to the NTK. Batch norm and dropout follow the training flags of the module at this moment. What comes
    before the first layer with weights is computed as it is; the second moment of those features is their mean over
    channels.

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
    variances = Variances(weight_var, bias_var, overrides or {}, parameterization)
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
    return KernelFunction(plan, example[:1].detach(), tried.entries)
