"""`InfiniteWidth`: the ensemble of all infinitely wide networks of one architecture, trained in closed form."""

import dataclasses
import time as clock
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pluriform.data.data import Data
from pluriform.errors import ConfigError, explain
from pluriform.gaussian_process.exact import check_memory, fits_memory
from pluriform.infinite.calibration import held_out_scale
from pluriform.infinite.kernel_function import KernelFunction, kernel_of
from pluriform.infinite.network import InfiniteNetwork
from pluriform.infinite.predict.hyperparameters import maximise_evidence
from pluriform.infinite.solve import Problem, Solved, rounding, solve_dense, solve_nystrom, solve_tiled
from pluriform.method import FitContext, Method

__all__ = ["InfiniteWidth"]

MATRICES = 9
EVIDENCE_SAMPLES = 500
FEWER = "InfiniteWidth(samples=...), or on all through inducing ones: InfiniteWidth(solver='nystrom')"
CHOICES = {
    "kernel": ("ntk", "nngp"),
    "parameterization": ("ntk", "standard"),
    "precision": ("auto", "float32", "float64"),
    "select": ("given", "marginal-likelihood"),
    "solver": ("auto", "dense", "tiled", "nystrom"),
}


@dataclass(frozen=True)
class InfiniteWidth(Method):
    """The infinitely wide form of a network: Gaussian-process or gradient-flow regression on its limit kernels.

    Class targets are regressed as centred one-hot vectors, and class probabilities are the softmax of the latent means
    times one number, fitted to held-out predictions of the training split (see `infinite.calibration`). The
    weights of the given network are not used, only its layers; batch norm takes its stored statistics and dropout is
    off. Time is `O(n^2)` kernel entries and `O(n^3)` for the solve; for memory see `solver`.

    Attributes:
        weight_var: Variance of a weight times its fan-in; 2 for ReLU (He initialisation).
        bias_var: Variance of a bias.
        kernel: `"ntk"`: the ensemble with all layers trained; `"nngp"`: the last layer trained, which at the end of
            training is the Bayesian posterior.
        time: Training time of gradient flow on mean squared error; `None` trains to the end.
        learning_rate: Speed of the flow.
        ridge: Added to the kernel's diagonal, relative to its mean; `None` takes the best of eleven by
            leave-one-out likelihood where training ends, and 0 at a finite time.
        parameterization: `"ntk"`, or `"standard"` with the widths of the network.
        samples: Fit on that many training samples, drawn with the seed; `None` takes all.
        select: `"given"`: the variances above; `"marginal-likelihood"`: those, and the ridge where it is `None`, that
            make the coded targets of at most 500 training samples most likely, searched from `weight_var`; about 20
            to 50 kernels of that size, forwards and backwards.
        solver: `"dense"`: exact, about nine `n x n` float64 matrices. `"tiled"`: exact at the end of training, one
            such matrix (`"ntk"`) or half of one (`"nngp"`), and a ridge chosen on 3,000 samples; for classification,
            or the NNGP. `"nystrom"`: approximate, through `inducing` samples: memory and time linear in the training
            samples. `"auto"`: dense where it fits the memory, else tiled.
        inducing: Training samples, drawn with the seed, that `"nystrom"` sees all others through.
        precision: Of kernel entries; solves are float64 always. `"float32"` is many times faster, above all with
            convolutions, and holds where the ridge is above its rounding, about 1e-7 times the root of the samples.
            `"auto"` takes it for networks with positions that the fused engine serves, trained to the end with such
            a ridge or one to be chosen, else float64.

    References:
        Lee, Bahri, et al. 2018, Deep Neural Networks as Gaussian Processes, arXiv:1711.00165.
        Jacot, Gabriel, Hongler 2018, Neural Tangent Kernel, arXiv:1806.07572.
        Lee, Schoenholz, et al. 2020, Finite Versus Infinite Neural Networks, arXiv:2007.15801.

    Example:
        >>> import pluriform as pf
        >>> data = pf.load("digits")
        >>> form = pf.InfiniteWidth(kernel="nngp").fit(pf.nets.build("mlp", data), data, seed=0)
        >>> form.predict(data.test.inputs[:2]).mean.shape
        torch.Size([2, 10])
    """

    weight_var: float | int = 2.0
    bias_var: float | int = 0.0
    kernel: Literal["ntk", "nngp"] = "ntk"
    time: float | int | None = None
    learning_rate: float | int = 1.0
    ridge: float | int | None = None
    parameterization: Literal["ntk", "standard"] = "ntk"
    samples: int | None = None
    select: Literal["given", "marginal-likelihood"] = "given"
    solver: Literal["auto", "dense", "tiled", "nystrom"] = "auto"
    inducing: int = 2000
    precision: Literal["auto", "float32", "float64"] = "auto"

    def __post_init__(self) -> None:
        for name in ("weight_var", "bias_var", "time", "learning_rate", "ridge"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ConfigError(explain(f"{name} of 0 or more", f"{value}", "InfiniteWidth", f"give another {name}"))
        if self.inducing < 1:
            raise ConfigError(
                explain("inducing of 1 or more", f"{self.inducing}", "InfiniteWidth", "give another number")
            )
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                got = f"{name}={getattr(self, name)!r}"
                raise ConfigError(explain(f"{name} {' or '.join(known)}", got, "InfiniteWidth", "choose one"))

    def _fit(self, module: nn.Module, data: Data, context: FitContext) -> InfiniteNetwork:
        started = clock.perf_counter()
        index = _chosen(len(data.train), self.samples, context.seed)
        solve = self._solver(len(index), data)
        inputs, targets = (part.to(context.device) for part in data.train.batch(index))
        coded = _Coded.of(targets, data)
        module = module.to(context.device).eval()
        weight_var, bias_var, ridge = self._hyperparameters(module, inputs, coded, context.seed)
        function = kernel_of(
            module, inputs[:2], weight_var=weight_var, bias_var=bias_var, parameterization=self.parameterization
        )
        with torch.no_grad():
            method = dataclasses.replace(self, precision=self._precision(function, len(inputs), ridge))
            solved = solve(Problem(method, function, inputs, coded.values, coded.labels, ridge, context.seed))
            form = InfiniteNetwork(
                data.signature, module, method, solved.inputs, solved.flow, coded.offset, coded.spread
            )
            form.weight_var, form.bias_var = weight_var, bias_var
            form.ridge, form.noise = solved.ridge, solved.noise
            form.scale = held_out_scale(solved.held_out, coded.values, coded.labels).scale
        form.cost = {"training_seconds": clock.perf_counter() - started}
        return form

    def _precision(
        self, function: KernelFunction, samples: int, ridge: float | None
    ) -> Literal["auto", "float32", "float64"]:
        """What `"auto"` stands for."""
        if self.precision != "auto":
            return self.precision
        chosen = self.time is None and (ridge is None or ridge >= rounding(samples))
        return "float32" if chosen and function.entries > 1 and function.fused is not None else "float64"

    def _solver(self, samples: int, data: Data) -> Callable[[Problem], Solved]:
        """The first way that fits the memory and can do what is asked; refuses before any kernel is computed."""
        what = f"InfiniteWidth on {samples:,} samples of {data.name}"
        if self.solver == "nystrom":
            return solve_nystrom
        exact = self.time is None and (data.task == "classification" or self.kernel == "nngp")
        if self.solver == "tiled" and not exact:
            got = f"time={self.time}, kernel={self.kernel!r} for {data.task}"
            remedy = "use solver='dense' or 'nystrom', or kernel='nngp'"
            raise ConfigError(explain("the end of training, of classifiers or the NNGP", got, "tiled solver", remedy))
        if self.solver == "tiled" or (self.solver == "auto" and exact and not fits_memory(samples, MATRICES)):
            check_memory(samples, 1 if self.kernel == "ntk" else 0.5, what, f": {FEWER}")
            return solve_tiled
        check_memory(samples, MATRICES, what, f": {FEWER}")
        return solve_dense

    def _hyperparameters(
        self, module: nn.Module, inputs: Tensor, coded: "_Coded", seed: int
    ) -> tuple[float, float, float | None]:
        """Weight variance, bias variance and relative ridge (`None` where the solver chooses it)."""
        ridge = None if self.ridge is None else float(self.ridge)
        if self.time is not None and ridge is None:
            ridge = 0.0
        if self.select == "given":
            return float(self.weight_var), float(self.bias_var), ridge
        some = _chosen(len(inputs), EVIDENCE_SAMPLES, seed).to(inputs.device)
        best = maximise_evidence(
            module,
            inputs[some],
            coded.values[some],
            weight_var=self.weight_var,
            kernel=self.kernel,
            parameterization=self.parameterization,
        )
        return best.weight_var, best.bias_var, best.ridge if ridge is None else ridge


@dataclass(frozen=True, eq=False)
class _Coded:
    """Targets as the regression sees them: `values = (targets - offset) / spread`."""

    values: Tensor
    offset: Tensor
    spread: Tensor
    labels: Tensor | None

    @staticmethod
    def of(targets: Tensor, data: Data) -> "_Coded":
        if data.task == "classification":
            hot = torch.nn.functional.one_hot(targets, data.outputs).double()
            ones = torch.ones(data.outputs, dtype=torch.float64, device=targets.device)
            return _Coded(hot - 1 / data.outputs, ones / data.outputs, ones, targets)
        table = targets.reshape(len(targets), -1).double()
        offset, spread = table.mean(0), table.std(0, correction=0)
        spread = torch.where(spread > 0, spread, 1.0)
        return _Coded((table - offset) / spread, offset, spread, None)


def _chosen(count: int, samples: int | None, seed: int) -> Tensor:
    if samples is None or samples >= count:
        return torch.arange(count)
    if samples < 1:
        raise ConfigError(explain("samples of 1 or more", f"{samples}", "InfiniteWidth", "give another number"))
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)[:samples].sort().values
