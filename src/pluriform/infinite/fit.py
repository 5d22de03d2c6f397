"""`InfiniteWidth`: the ensemble of all infinitely wide networks of one architecture, trained in closed form."""

import time as clock
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from pluriform.data.data import Data
from pluriform.errors import ConfigError, explain
from pluriform.gaussian_process.exact import absolute_ridge, check_memory, spectrum
from pluriform.infinite.calibration import HeldOut, choose_ridge, fit_scale, held_out_in_folds, regression_loss
from pluriform.infinite.kernel_function import kernel_of
from pluriform.infinite.network import InfiniteNetwork
from pluriform.infinite.predict.gradient_flow import GradientFlow, gradient_flow
from pluriform.method import FitContext, Method

__all__ = ["InfiniteWidth"]

MATRICES = 9


@dataclass(frozen=True)
class InfiniteWidth(Method):
    """The infinitely wide form of a network: Gaussian-process or gradient-flow regression on its limit kernels.

    Class targets are regressed as centred one-hot vectors, and class probabilities are the softmax of the latent means
    times one number, fitted to held-out predictions of the training split (see `infinite.calibration`). The
    weights of the given network are not used, only its layers; batch norm takes its stored statistics and dropout is
    off. Time is `O(n^2)` kernel entries and `O(n^3)` for the solve, memory about nine `n x n` float64 matrices.

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

    def __post_init__(self) -> None:
        for name in ("weight_var", "bias_var", "time", "learning_rate", "ridge"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ConfigError(explain(f"{name} of 0 or more", f"{value}", "InfiniteWidth", f"give another {name}"))
        for name, known in (("kernel", ("ntk", "nngp")), ("parameterization", ("ntk", "standard"))):
            if getattr(self, name) not in known:
                got = f"{name}={getattr(self, name)!r}"
                raise ConfigError(explain(f"{name} {' or '.join(known)}", got, "InfiniteWidth", "choose one"))

    def _fit(self, module: nn.Module, data: Data, context: FitContext) -> InfiniteNetwork:
        started = clock.perf_counter()
        index = _chosen(len(data.train), self.samples, context.seed)
        what = f"InfiniteWidth on {len(index):,} samples of {data.name}"
        check_memory(len(index), MATRICES, what, ": InfiniteWidth(samples=...)")
        inputs, targets = (part.to(context.device) for part in data.train.batch(index))
        function = kernel_of(
            module.to(context.device).eval(),
            inputs[:2],
            weight_var=self.weight_var,
            bias_var=self.bias_var,
            parameterization=self.parameterization,
        )
        with torch.no_grad():
            kernel = function(inputs, ntk=self.kernel == "ntk")
            coded = _Coded.of(targets, data)
            flowing = kernel.nngp if kernel.ntk is None else kernel.ntk
            relative = self._ridge(flowing, coded)
            train = partial(self._train, ridge=absolute_ridge(flowing, relative))
            flow = train(kernel.nngp, kernel.ntk, coded.values)
            form = InfiniteNetwork(data.signature, module, self, inputs, flow, coded.offset, coded.spread)
            form.ridge, form.noise = relative, relative * float(kernel.nngp.diagonal().mean())
            if self.time is None and (coded.labels is not None or self.kernel == "nngp"):
                held_out = HeldOut(flow.leave_one_out(coded.values), 1.0 / flow.gain.diagonal())
            else:
                held_out = held_out_in_folds(kernel.nngp, kernel.ntk, coded.values, train, form.noise, context.seed)
            form.scale = _scale(held_out, coded)
        form.cost = {"training_seconds": clock.perf_counter() - started}
        return form

    def _ridge(self, flowing: Tensor, coded: "_Coded") -> float:
        if self.ridge is not None or self.time is not None:
            return float(self.ridge or 0.0)
        return choose_ridge(spectrum(flowing, coded.values), float(flowing.diagonal().mean()), coded.labels)

    def _train(self, nngp: Tensor, ntk: Tensor | None, values: Tensor, *, ridge: float) -> GradientFlow:
        return gradient_flow(
            nngp, ntk, values, time=self.time, learning_rate=self.learning_rate, ridge=ridge, kernel=self.kernel
        )


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


def _scale(held_out: HeldOut, coded: _Coded) -> float:
    """Inverse temperature (classification) or amplitude of the prior (regression)."""
    if coded.labels is not None:
        return fit_scale(held_out.means, coded.labels).scale
    return regression_loss(coded.values - held_out.means, held_out.variances).scale
