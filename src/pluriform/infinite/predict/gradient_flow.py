"""Gradient flow on squared error: the trained ensemble of all infinitely wide networks, at any time, in closed form.

With train kernels `K` (NNGP) and `Theta` (NTK), targets `Y` of `N` samples and `O` outputs, and the loss
`|f - Y|^2 / (2 N O)`:

    A_t = Theta_*X M_t,   M_t = Theta^-1 (I - exp(-rate Theta t / (N O)))
    mean = A_t Y,         covariance = K_** + A_t K A_t' - A_t K_X* - (A_t K_X*)'

`t = None` is the end of training, `t = 0` the prior. Training the last layer alone follows the same formulas with
`K` for `Theta`, where the covariance becomes `K_** - K_*X K^-1 (I - exp(-2 rate K t / (N O))) K_X*`; at the end of
training that is the posterior of the Gaussian process.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pluriform.errors import ConfigError, explain
from pluriform.gaussian_process.exact import Cross, Outputs, Square, condition, spectrum

__all__ = ["Decay", "GradientFlow", "flow_variance", "gradient_flow", "max_learning_rate"]


@dataclass(frozen=True, eq=False)
class GradientFlow:
    """What is needed to predict at new points.

    Attributes:
        weights: `M_t Y`, `(n, outputs)`.
        gain: `M_t`, `(n, n)`.
        spread: `B` of `covariance = K_** + T B T' - ...`, `(n, n)`: `M_t K M_t` where all layers train, `-M_2t` where
            only the last one does.
        all_layers: Whether the NTK flows; then `T M_t K_X*` and its transpose are subtracted.
    """

    weights: Outputs
    gain: Square
    spread: Square
    all_layers: bool

    def mean(self, cross: Cross) -> Float[Tensor, "m outputs"]:
        """Ensemble mean; `cross` is `Theta_*X` (or `K_*X` where that flows), `(m, n)`."""
        return cross @ self.weights

    def variance(self, cross: Cross, nngp: Cross, own: Float[Tensor, "m"]) -> Float[Tensor, "m"]:
        """Ensemble variance of each output; `nngp` is `K_*X`, `(m, n)`, and `own` the diagonal of `K_**`, `(m,)`."""
        return flow_variance(cross, nngp, own, self.spread, self.gain if self.all_layers else None)

    def covariance(self, cross: Cross, nngp: Cross, own: Float[Tensor, "m m"]) -> Float[Tensor, "m m"]:
        """Ensemble covariance between new points; `own` is `K_**`, `(m, m)`."""
        covariance = own + cross @ self.spread @ cross.T
        if not self.all_layers:
            return covariance
        mixed = cross @ self.gain @ nngp.T
        return covariance - mixed - mixed.T

    def leave_one_out(self, targets: Outputs) -> Outputs:
        """Predictions of every training sample without itself, at the end of training."""
        return targets - self.weights / self.gain.diagonal()[:, None]


def flow_variance(cross: Tensor, nngp: Tensor, own: Tensor, spread: Tensor, gain: Tensor | None) -> Tensor:
    """`diag(K_** + T B T' - 2 T M_t K_X*)`, not below 0; without `gain` the last term is absent."""
    variance = own + ((cross @ spread) * cross).sum(1)
    if gain is not None:
        variance = variance - 2 * ((cross @ gain) * nngp).sum(1)
    return variance.clamp_min(0.0)


def gradient_flow(
    nngp: Square,
    ntk: Square | None,
    targets: Outputs,
    *,
    time: float | int | None = None,
    learning_rate: float | int = 1.0,
    ridge: float | int = 0.0,
    kernel: Literal["ntk", "nngp"] = "ntk",
    discrete: bool = False,
) -> GradientFlow:
    """Solve the training dynamics of the infinite ensemble.

    Args:
        nngp: `K` of the training inputs, `(n, n)`.
        ntk: `Theta` of the training inputs; not needed for `kernel="nngp"`.
        targets: `(n, outputs)`; networks start with mean zero, so centre them first.
        time: Training time; `None` is infinity.
        learning_rate: Speed of the flow.
        ridge: Absolute ridge on the flowing kernel, in the inverse and in the exponential; the covariance terms keep
            the plain `K`.
        kernel: `"ntk"` trains all layers; `"nngp"` the last one, which at the end is the Bayesian posterior.
        discrete: `time` counts whole steps of gradient descent: `(1 - rate lambda / (N O))^time` takes the place of
            the exponential, which is its limit for small steps.

    Returns:
        Coefficients of mean and covariance, float64.

    Raises:
        ConfigError: A negative time, learning rate or ridge; discrete steps that are no whole number, or so large that
            they diverge.
        SingularKernelError: The kernel cannot be inverted.

    References:
        Lee, Xiao, et al. 2019, Wide Neural Networks of Any Depth Evolve as Linear Models, arXiv:1902.06720.
        Jacot, Gabriel, Hongler 2018, arXiv:1806.07572.
    """
    for name, value in (("time", time), ("learning_rate", learning_rate), ("ridge", ridge)):
        if value is not None and not value >= 0:
            raise ConfigError(explain(f"{name} of 0 or more", f"{value}", "gradient flow", f"give another {name}"))
    flowing = nngp if kernel == "nngp" or ntk is None else ntk
    decay = Decay.of(time, learning_rate / targets.numel(), discrete)
    inverse, twice = _solved(flowing, targets, ridge, decay)
    covariance = nngp.double()
    targets = targets.double()
    if kernel == "nngp":
        return GradientFlow(inverse @ targets, inverse, -twice, False)
    return GradientFlow(inverse @ targets, inverse, inverse @ covariance @ inverse, True)


@dataclass(frozen=True)
class Decay:
    """How errors decay along an eigenvector: by `exp(-rate lambda t)`, or `(1 - rate lambda)^t` in discrete steps.

    Attributes:
        time: `t`; `None` is infinity.
        rate: Learning rate over the number of targets.
        discrete: Whole steps.
    """

    time: float | None
    rate: float
    discrete: bool = False

    @staticmethod
    def of(time: float | int | None, rate: float, discrete: bool = False) -> "Decay":
        """Checked.

        Raises:
            ConfigError: Discrete steps that are no whole number.
        """
        if discrete and time is not None and time != int(time):
            remedy = "give whole steps, or discrete=False"
            raise ConfigError(explain("a whole number of steps", f"{time}", "gradient flow", remedy))
        return Decay(None if time is None else float(time), rate, discrete)

    def twice(self) -> "Decay":
        """The same at twice the time."""
        return Decay(None if self.time is None else 2 * self.time, self.rate, self.discrete)

    def gain(self, values: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """`(1 - decay) / lambda` for each eigenvalue, with its limit `rate t` at 0 (0 at infinite time).

        Raises:
            ConfigError: Steps so large that they diverge.
        """
        positive = values > 1e-14 * values.max()
        divisor = torch.where(positive, values, 1.0)
        if self.time is None:
            return torch.where(positive, 1.0 / divisor, 0.0)
        exponent = -self.rate * self.time * values
        if not self.discrete:
            return torch.where(positive, -torch.expm1(exponent) / divisor, self.rate * self.time)
        share = self.rate * values
        if float(share.max()) >= 2:
            got = f"{float(share.max()) / 2:.3g} times that"
            raise ConfigError(
                explain(
                    "a learning rate below the largest that converges", got, "gradient descent", "take a smaller one"
                )
            )
        small = -torch.expm1(self.time * torch.log1p(-share.clamp_max(0.5)))
        lost = torch.where(share < 0.5, small, 1 - (1 - share) ** int(self.time))
        return torch.where(positive, lost / divisor, self.rate * self.time)


def _solved(gram: Tensor, targets: Tensor, ridge: float, decay: Decay) -> tuple[Tensor, Tensor]:
    """`M_t` at the given and at twice the time; at infinity both are the inverse."""
    if decay.time is None:
        inverse = torch.cholesky_inverse(condition(gram, targets, ridge).factor)
        return inverse, inverse
    basis = spectrum(gram, targets)
    shifted = basis.values + ridge
    gains = [(basis.vectors * part.gain(shifted)) @ basis.vectors.T for part in (decay, decay.twice())]
    return gains[0], gains[1]


def max_learning_rate(ntk: Square, outputs: int, momentum: float = 0.0) -> float:
    """Largest step of gradient descent that converges: `2 (1 + momentum) N O / lambda_max(Theta)`.

    Args:
        ntk: `Theta` of the training inputs, `(n, n)`.
        outputs: Number of network outputs.
        momentum: Heavy-ball coefficient.
    """
    largest = float(torch.linalg.eigvalsh(ntk.double())[-1])
    return 2 * (1 + momentum) * len(ntk) * outputs / largest
