"""From a kernel function and coded targets to a solved ensemble: dense, in tiles, or through inducing samples."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from pluriform.gaussian_process.exact import absolute_ridge, spectrum
from pluriform.gaussian_process.nystrom import InducingProcess
from pluriform.gaussian_process.tiled_cholesky import condition_tiled
from pluriform.gaussian_process.tiles import PackedTiles
from pluriform.infinite.calibration import FOLDS, RIDGES, HeldOut, choose_ridge, held_out_in_folds, held_out_scale
from pluriform.infinite.kernel import Kernel
from pluriform.infinite.kernel_function import KernelFunction
from pluriform.infinite.predict.gradient_flow import GradientFlow, gradient_flow
from pluriform.infinite.predict.inducing_flow import InducingFlow, inducing_flow
from pluriform.infinite.predict.tiled_flow import TiledFlow
from pluriform.progress import progress

if TYPE_CHECKING:
    from pluriform.infinite.fit import InfiniteWidth

__all__ = ["Problem", "Solved", "kernel_in", "rounding", "solve_dense", "solve_nystrom", "solve_tiled"]

SIDE = 1024  # Samples on a side of a tile: the bar moves, and half of a large symmetric kernel is saved.
RIDGE_SAMPLES = 3000  # A dense spectrum of that many takes seconds.


@dataclass(frozen=True, eq=False)
class Problem:
    """What is solved.

    Attributes:
        method: Kernel, time, learning rate and ridge.
        function: Kernels of the network.
        inputs: Training inputs, `(n, *input_shape)`.
        values: Coded targets, `(n, outputs)`.
        labels: Classes, `(n,)`; `None` for regression.
        ridge: Relative ridge; `None` to be chosen.
        seed: Deals samples to folds and draws inducing ones.
    """

    method: "InfiniteWidth"
    function: KernelFunction
    inputs: Tensor
    values: Tensor
    labels: Tensor | None
    ridge: float | None
    seed: int

    @property
    def ntk(self) -> bool:
        """Whether all layers train."""
        return self.method.kernel == "ntk"

    def kernel(self, left: Tensor, right: Tensor | None = None) -> Kernel:
        """Kernels in the precision of the method, as float64."""
        return kernel_in(self.method.precision, self.function, left, right, ntk=self.ntk)

    @property
    def ridges(self) -> tuple[float, ...]:
        """Candidates that rise above the rounding of the kernel."""
        least = 0.0 if self.method.precision == "float64" else rounding(len(self.inputs))
        return tuple(ridge for ridge in RIDGES if ridge >= least)

    @property
    def closed_form(self) -> bool:
        """Whether leaving each sample out has a closed form: at the end of training, for all that is asked of it."""
        return self.method.time is None and (self.labels is not None or not self.ntk)


@dataclass(frozen=True, eq=False)
class Solved:
    """A solved ensemble.

    Attributes:
        flow: Mean and variance at new points, from kernels with `inputs`.
        inputs: Samples that new points are compared with.
        ridge: Relative ridge.
        noise: Variance of the noise on the coded targets.
        held_out: Predictions of training samples by ensembles that have not seen them.
    """

    flow: GradientFlow | TiledFlow
    inputs: Tensor
    ridge: float
    noise: float
    held_out: HeldOut


def rounding(samples: int) -> float:
    """Relative ridge that hides the rounding of a float32 kernel: about `1e-7 sqrt(n)` of its diagonal, three times."""
    return 3e-7 * samples**0.5


def kernel_in(
    precision: Literal["auto", "float32", "float64"],
    function: KernelFunction,
    left: Tensor,
    right: Tensor | None,
    *,
    ntk: bool,
) -> Kernel:
    """Kernels computed in one precision and given in float64."""
    record = function(left, right, ntk=ntk, dtype=torch.float32 if precision == "float32" else torch.float64)
    if precision == "float64":
        return record
    nngp, flowing, variance1, variance2 = (None if part is None else part.double() for part in record.tensors)
    return record.replace(nngp=nngp, ntk=flowing, variance1=variance1, variance2=variance2)


def solve_dense(problem: Problem) -> Solved:
    """Whole matrices, any time; about nine of `n x n`."""
    nngp, ntk = _whole(problem)
    flowing = nngp if ntk is None else ntk
    relative, mean = problem.ridge, float(flowing.diagonal().mean())
    if relative is None:
        relative = choose_ridge(spectrum(flowing, problem.values), mean, problem.labels, problem.ridges)
    train = partial(
        gradient_flow,
        time=problem.method.time,
        learning_rate=problem.method.learning_rate,
        ridge=absolute_ridge(flowing, relative),
        kernel=problem.method.kernel,
    )
    flow, noise = train(nngp, ntk, problem.values), relative * float(nngp.diagonal().mean())
    if problem.closed_form:
        held_out = HeldOut(flow.leave_one_out(problem.values), 1.0 / flow.gain.diagonal())
    else:
        held_out = held_out_in_folds(nngp, ntk, problem.values, train, noise, problem.seed)
    return Solved(flow, problem.inputs, relative, noise, held_out)


def solve_tiled(problem: Problem) -> Solved:
    """Packed triangles, the end of training: half a matrix for the NNGP, one for the NTK, and one tile beside."""
    relative = problem.ridge
    if relative is None:
        relative = _ridge_of_some(problem)
    count, device = len(problem.inputs), problem.inputs.device
    nngp = PackedTiles.empty(count, SIDE, device=device)
    ntk = PackedTiles.empty(count, SIDE, device=device) if problem.ntk else None
    for i, j, part in _triangle(problem):
        nngp.set(i, j, part.nngp.T)
        if ntk is not None and part.ntk is not None:
            ntk.set(i, j, part.ntk.T)
    noise = relative * _mean_diagonal(nngp)
    flowing = nngp if ntk is None else ntk
    process = condition_tiled(flowing, problem.values, relative * _mean_diagonal(flowing))
    inverse = process.inverse_diagonal()
    values = process.targets - process.weights / inverse[:, None]
    held_out = HeldOut(values, 1.0 / inverse)
    flow = TiledFlow(process.weights, flowing, None if ntk is None else nngp)
    return Solved(flow, problem.inputs, relative, noise, held_out)


def solve_nystrom(problem: Problem) -> Solved:
    """Through inducing samples drawn from the training samples: memory `n x inducing`, any time."""
    count = len(problem.inputs)
    generator = torch.Generator().manual_seed(problem.seed)
    index = torch.randperm(count, generator=generator)[: problem.method.inducing].sort().values
    chosen = problem.inputs[index.to(problem.inputs.device)]
    own, cross = problem.kernel(chosen), _against(problem, chosen)
    flowing = cross.nngp if cross.ntk is None else cross.ntk
    mean = float((own.nngp if own.ntk is None else own.ntk).diagonal().mean())

    def solved(rows: Tensor | slice) -> InducingFlow:
        block = cross.nngp[rows], None if cross.ntk is None else cross.ntk[rows], problem.values[rows]
        return inducing_flow(own.nngp, own.ntk, [block], kernel=problem.method.kernel)

    whole, relative = solved(slice(None)), problem.ridge
    if relative is None:
        candidates = {r: _left_out(whole.process, flowing, cross, problem, r * mean) for r in problem.ridges}
        relative = min(candidates, key=lambda r: held_out_scale(candidates[r], problem.values, problem.labels).loss)
    settings = {"ridge": relative * mean, "time": problem.method.time, "learning_rate": problem.method.learning_rate}
    noise = relative * float(own.nngp.diagonal().mean())
    if problem.closed_form and relative > 0:
        held_out = _left_out(whole.process, flowing, cross, problem, relative * mean)
    else:
        held = torch.randperm(count, generator=generator).to(flowing.device) % FOLDS == 0
        part = solved(~held).at(**settings)
        variances = part.variance(flowing[held], cross.nngp[held], cross.variance1[held]) + noise
        held_out = HeldOut(part.mean(flowing[held]), variances, held)
    return Solved(whole.at(**settings), chosen, relative, noise, held_out)


def _left_out(process: InducingProcess, flowing: Tensor, cross: Kernel, problem: Problem, ridge: float) -> HeldOut:
    """Leave-one-out predictions and, where the NNGP flows, their variances."""
    features = flowing @ process.projection
    leverage = ((features**2) @ (1.0 / (process.strengths + ridge))).clamp_max(1 - 1e-12)
    unexplained = (cross.variance1 - (features**2).sum(1)).clamp_min(0.0)
    means = process.leave_one_out(flowing, problem.values, ridge)
    return HeldOut(means, ridge / (1 - leverage) + (0.0 if problem.ntk else unexplained))


def _ridge_of_some(problem: Problem) -> float:
    """The ridge by leave-one-out likelihood on a part of the samples that is solved at once."""
    generator = torch.Generator().manual_seed(problem.seed)
    index = torch.randperm(len(problem.inputs), generator=generator)[:RIDGE_SAMPLES].to(problem.inputs.device)
    kernel = problem.kernel(problem.inputs[index])
    flowing = kernel.nngp if kernel.ntk is None else kernel.ntk
    labels = None if problem.labels is None else problem.labels[index]
    mean = float(flowing.diagonal().mean())
    return choose_ridge(spectrum(flowing, problem.values[index]), mean, labels, problem.ridges)


def _mean_diagonal(tiles: PackedTiles) -> float:
    count = tiles.tiling.count
    return sum(float(tiles.get(i, i).diagonal().sum()) for i in range(count)) / tiles.tiling.samples


def _triangle(problem: Problem) -> Iterator[tuple[int, int, Kernel]]:
    """Kernels of block `j` with block `i`, `j <= i`; their transposes fill the lower triangle."""
    parts = problem.inputs.split(SIDE)
    with progress("kernel", len(problem.inputs) ** 2 / 2) as advance:
        for i, right in enumerate(parts):
            for j, left in enumerate(parts[: i + 1]):
                yield i, j, problem.kernel(left, None if i == j else right)
                advance(len(left) * len(right) / (2 if i == j else 1))


def _whole(problem: Problem) -> tuple[Tensor, Tensor | None]:
    count = len(problem.inputs)
    nngp = torch.empty(count, count, dtype=torch.float64, device=problem.inputs.device)
    ntk = torch.empty_like(nngp) if problem.ntk else None
    for i, j, part in _triangle(problem):
        below, left = (slice(k * SIDE, (k + 1) * SIDE) for k in (i, j))
        for whole, block in ((nngp, part.nngp), (ntk, part.ntk)):
            if whole is not None and block is not None:
                whole[left, below], whole[below, left] = block, block.T
    return nngp, ntk


def _against(problem: Problem, chosen: Tensor) -> Kernel:
    """Kernels of all training samples with the chosen ones."""
    parts = []
    with progress("kernel", len(problem.inputs)) as advance:
        for block in problem.inputs.split(SIDE):
            parts.append(problem.kernel(block, chosen))
            advance(len(block))
    ntk = None if parts[0].ntk is None else torch.cat([part.ntk for part in parts])
    return parts[0].replace(
        nngp=torch.cat([part.nngp for part in parts]),
        ntk=ntk,
        variance1=torch.cat([part.variance1 for part in parts]),
    )
