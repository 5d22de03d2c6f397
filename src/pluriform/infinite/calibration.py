"""Class probabilities from the latent means of Gaussian regression, and the choice of the ridge.

Regression on centred one-hot targets gives latent means `m_c(x)`; class probabilities are `softmax(scale * m(x))`. The
one number `scale` minimises the negative log-likelihood of held-out predictions on the training split, and so does the
ridge where it is not given: no test sample and no validation sample is touched. Held out means leave-one-out where that
has a closed form (the end of training), else five folds.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pluriform.axes import Labels, Logits
from pluriform.errors import EmptySplitError, explain
from pluriform.gaussian_process.exact import Spectrum
from pluriform.infinite.predict.gradient_flow import GradientFlow

__all__ = [
    "Calibration",
    "FOLDS",
    "HeldOut",
    "RIDGES",
    "choose_ridge",
    "fit_scale",
    "held_out_in_folds",
    "held_out_scale",
    "regression_loss",
]

FOLDS = 5

RIDGES = (1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)


@dataclass(frozen=True)
class Calibration:
    """A fitted number and what it costs.

    Attributes:
        scale: Inverse temperature of the latent means (classification), or amplitude of the prior (regression).
        loss: Mean negative log-likelihood of the leave-one-out predictions at that scale.
    """

    scale: float
    loss: float


def fit_scale(latent: Logits, labels: Labels) -> Calibration:
    """The scale of `softmax(scale * latent)` with the least negative log-likelihood, by golden-section search.

    The likelihood is convex in the scale; the search covers 0.1 to 1,000 on a logarithmic axis. One imaginary sample
    of unknown class is added, so that separable samples give no infinite scale (the rule of succession).

    Args:
        latent: Held-out latent means, `(n, classes)`.
        labels: Their classes, `(n,)`.
    """

    def loss(logarithm: float) -> float:
        scaled = latent * 10.0**logarithm
        return float(torch.nn.functional.cross_entropy(scaled, labels, label_smoothing=1 / (len(labels) + 1)))

    low, high, golden = -1.0, 3.0, (5**0.5 - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = loss(left), loss(right)
    for _ in range(40):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = loss(right)
    best = (low + high) / 2
    return Calibration(10.0**best, loss(best))


def regression_loss(residuals: Tensor, variances: Float[Tensor, "n1"]) -> Calibration:
    """Gaussian negative log-likelihood of held-out residuals with the amplitude of the prior concentrated out.

        amplitude = mean(residual^2 / variance)

    Args:
        residuals: Held-out target minus prediction, `(n, outputs)`.
        variances: Predictive variances at amplitude 1, noise included, `(n,)`.

    References:
        Rasmussen & Williams 2006, section 5.4.2.
    """
    amplitude = float((residuals**2 / variances[:, None]).mean().clamp_min(1e-30))
    logarithms = float(variances.log().mean()) + math.log(2 * math.pi * amplitude)
    return Calibration(amplitude, 0.5 * (logarithms + 1.0))


def choose_ridge(
    basis: Spectrum, mean_variance: float, labels: Labels | None, ridges: Sequence[float] = RIDGES
) -> float:
    """The relative ridge among the given ones with the least leave-one-out negative log-likelihood.

    Args:
        basis: Spectrum of the kernel that is inverted, with the centred targets.
        mean_variance: `trace(K) / n`, the unit of a relative ridge.
        labels: Classes; `None` for regression.
        ridges: Candidates.
    """

    def loss(relative: float) -> float:
        ridge = relative * mean_variance
        held_out = basis.leave_one_out(ridge)
        if labels is not None:
            return fit_scale(held_out, labels).loss
        inverse = (basis.vectors**2) @ (1.0 / (basis.values + ridge))
        return regression_loss(basis.targets - held_out, 1.0 / inverse).loss

    return min(ridges, key=loss)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Predictions of training samples by networks that have not seen them, in units of the coded targets.

    Attributes:
        means: `(n, outputs)`.
        variances: Noise included, `(n,)`.
        rows: Which training samples these are; `None` for all, in order.
    """

    means: Tensor
    variances: Tensor
    rows: Tensor | None = None


def held_out_scale(held_out: HeldOut, values: Tensor, labels: Labels | None) -> Calibration:
    """Inverse temperature (classification) or amplitude of the prior (regression), with the loss that it leaves.

    Args:
        held_out: Predictions.
        values: Coded targets of all training samples, `(n, outputs)`.
        labels: Classes of all; `None` for regression.
    """
    rows = slice(None) if held_out.rows is None else held_out.rows
    if labels is not None:
        return fit_scale(held_out.means, labels[rows])
    return regression_loss(values[rows] - held_out.means, held_out.variances)


def held_out_in_folds(
    nngp: Tensor,
    ntk: Tensor | None,
    targets: Tensor,
    train: Callable[[Tensor, Tensor | None, Tensor], GradientFlow],
    noise: float,
    seed: int,
) -> HeldOut:
    """Train on four fifths, predict the last, five times.

    Args:
        nngp: `K` of the training inputs, `(n, n)`.
        ntk: `Theta`; `None` where `K` flows.
        targets: `(n, outputs)`.
        train: Solves the dynamics for a part of the kernels and targets.
        noise: Variance of the noise.
        seed: Deals samples to folds.

    Raises:
        EmptySplitError: One sample only: nothing would be left to train on.
    """
    count = len(targets)
    if count < 2:
        remedy = "give more training samples, or leave time out and take the NNGP, which needs no held-out ones"
        raise EmptySplitError(explain("at least two training samples", f"{count}", "InfiniteWidth", remedy))
    dealt = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).to(targets.device) % FOLDS
    means, variances = torch.empty_like(targets), targets.new_empty(count)
    flowing = nngp if ntk is None else ntk
    for fold in range(min(FOLDS, count)):
        held, rest = (dealt == fold).nonzero()[:, 0], (dealt != fold).nonzero()[:, 0]
        flow = train(nngp[rest][:, rest], None if ntk is None else ntk[rest][:, rest], targets[rest])
        cross, prior = flowing[held][:, rest], nngp[held][:, rest]
        means[held] = flow.mean(cross)
        variances[held] = flow.variance(cross, prior, nngp.diagonal()[held]) + noise
    return HeldOut(means, variances)
