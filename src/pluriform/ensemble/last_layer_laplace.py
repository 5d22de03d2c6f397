"""`LastLayerLaplace`: a trained network with a Gaussian over the weights of its last layer."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pluriform.axes import Members
from pluriform.data.data import Data, Split, StreamSplit
from pluriform.ensemble.drawn import Drawn, draw_seeds
from pluriform.ensemble.fitting import fitted_noise, training_loop
from pluriform.ensemble.laplace import PRECISIONS, Curvature, Posterior, full_curvature, kronecker_curvature
from pluriform.ensemble.last_layer import LastLayer, find_last_layer
from pluriform.errors import ConfigError, explain
from pluriform.method import FitContext, Method
from pluriform.metrics.regression import fit_noise, gaussian_nll_terms
from pluriform.training.feed import resident, take
from pluriform.training.loss import Loss
from pluriform.training.recipe import Recipe
from pluriform.training.validation import residual_variance

__all__ = ["LastLayerLaplace"]

BATCH = 1000
CHECKED = 2000  # Validation samples for the prior precision.
FULL_BY_DEFAULT = 1500  # Weights of the layer; the eigenvectors of its whole curvature then take 9 MB.
MOST_FULL = 16_384


@dataclass(frozen=True)
class LastLayerLaplace(Method):
    """Train as usual, then draw the last layer from its Laplace approximation; the layers before it are shared.

    W ~ N(W_trained, (H + tau I)^-1), H = sum_n (diag p_n - p_n p_n^T) kron phi_n phi_n^T over the training split: the
    Gauss-Newton matrix of the cross-entropy in the last weights (bias as a constant feature), p_n the predicted
    probabilities and phi_n the inputs of the layer. In regression 1 / noise variance stands for diag p - p p^T. The
    predictive distribution is the mean over the draws. The likelihood is the plain one: weight decay, label smoothing,
    class weights and augmentation act in training only.

    The last layer is found by its numbers, in any network that ends with a linear layer or an averaged 1 x 1
    convolution.

    Args:
        members: Number of draws.
        hessian: `full` is H itself; `kron` is [sum_n (diag p_n - p_n p_n^T)] kron [mean_n phi_n phi_n^T], for layers
            with many weights, and exact in regression; `auto` is full up to 1,500 weights.
        prior_precision: tau, or how it is found in a grid from 1e-4 to 1e4: of the best likelihood of the validation
            split under these draws (`validation`; without such a split as the other), or of greatest evidence
            (`marginal-likelihood`), which takes tau too small for networks that fit the training split without error.
        training: How the network is trained; a `Training` serves.

    References:
        Daxberger, Kristiadi, Immer, Eschenhagen, Bauer, Hennig 2021, Laplace Redux, arXiv:2106.14806; Ritter, Botev,
        Barber 2018, A Scalable Laplace Approximation for Neural Networks, ICLR; MacKay 1992, The Evidence Framework
        Applied to Classification Networks.

    Example:
        >>> import pluriform as pf
        >>> data = pf.load("digits")
        >>> method = pf.LastLayerLaplace(members=10, training=pf.Training(epochs=1))
        >>> method.fit(pf.nets.build("mlp", data), data).predict(data.test.inputs[:3]).members.shape
        torch.Size([10, 3, 10])
    """

    members: int = 30
    hessian: Literal["auto", "full", "kron"] = "auto"
    prior_precision: Literal["validation", "marginal-likelihood"] | float | int = "validation"
    training: Recipe = field(default_factory=Recipe)

    def __post_init__(self) -> None:
        tau = self.prior_precision
        given = tau in ("validation", "marginal-likelihood") if isinstance(tau, str) else 0 < tau < math.inf
        if self.members < 1 or self.hessian not in ("auto", "full", "kron") or not given:
            got = f"members={self.members}, hessian={self.hessian!r}, prior_precision={tau!r}"
            expected = "members of 1 or more, hessian 'auto', 'full' or 'kron', and a prior precision above 0"
            remedy = "leave prior_precision at 'validation' if in doubt"
            raise ConfigError(explain(expected, got, "LastLayerLaplace", remedy))

    def _fit(self, module: Any, data: Data, context: FitContext) -> Drawn:
        network = module.to(context.device)
        trial = take(data.train, torch.arange(min(8, len(data.train))))[0].to(context.device)
        last = find_last_layer(network, trial, data.task == "classification")
        self._check_size(last)
        epochs = self.training.epochs_for(len(data.train))
        cost = training_loop(network, data, self.training, context, epochs=epochs).run()
        seeds = draw_seeds(self.members, context.seed)
        curvature = self._curvature(last, data, context)
        source = Posterior(last, curvature, self._precision(last, curvature, data, seeds, context))
        form = Drawn(network.eval(), source, seeds, data.signature, norms="shared", cost=cost.to_json()).eval()
        form.noise = fitted_noise(form, data)
        return form

    def _check_size(self, last: LastLayer) -> None:
        size = last.weights.numel()
        if self.hessian == "full" and size > MOST_FULL:
            expected, got = (
                f"at most {MOST_FULL} weights for a full Hessian",
                f"{size} ({size * size * 8 / 1e9:.0f} GB)",
            )
            raise ConfigError(explain(expected, got, f"last layer {last.name}", "set hessian='kron'"))

    def _precision(
        self, last: LastLayer, curvature: Curvature, data: Data, seeds: Sequence[int], context: FitContext
    ) -> float:
        """The prior precision that the method asks for."""
        if not isinstance(self.prior_precision, str):
            return float(self.prior_precision)
        if self.prior_precision == "marginal-likelihood" or not len(data.validation):
            return curvature.best_precision(last.weights)
        inputs, targets = (part.to(context.device) for part in take(data.validation, _first(data.validation)))
        features = last.features(inputs)

        def loss(precision: float) -> float:
            outputs = Posterior(last, curvature, precision).outputs(features, seeds)
            return _predictive_nll(outputs, targets, data.task)

        return min(PRECISIONS, key=loss)

    def _curvature(self, last: LastLayer, data: Data, context: FitContext) -> Curvature:
        split, noise = resident(data.train, context.device), None
        if data.task == "regression":
            checked = data.validation if len(data.validation) else data.train
            noise = residual_variance(last.network, checked, context.device).double()
        full = self.hessian == "full" or (self.hessian == "auto" and last.weights.numel() <= FULL_BY_DEFAULT)
        log_likelihood, loss = [], Loss(data.task)

        def batches() -> Iterator[Tensor]:
            for index in torch.arange(len(split)).split(BATCH):
                inputs, targets = (part.to(context.device) for part in take(split, index))
                features = last.features(inputs)
                outputs = (features @ last.weights.T).double()
                log_likelihood.append(_log_likelihood(loss, outputs, targets, noise))
                yield features

        made = (full_curvature if full and noise is None else kronecker_curvature)(batches(), last.weights, noise)
        return replace(made, log_likelihood=sum(log_likelihood))


def _first(split: Split | StreamSplit) -> Tensor:
    return torch.arange(min(CHECKED, len(split)))


def _predictive_nll(outputs: Members, targets: Tensor, task: str) -> float:
    """Mean negative log-likelihood of what the members predict together, in nats."""
    if task == "classification":
        mixed = outputs.log_softmax(-1).logsumexp(0) - math.log(len(outputs))
        return float(F.nll_loss(mixed, targets))
    mean, variance = outputs.mean(0).cpu(), outputs.var(0, correction=0).cpu()
    total = 0.0
    for column in range(mean.shape[1]):
        m, v, y = (part[:, [column]] for part in (mean, variance, targets.cpu()))
        total += float(gaussian_nll_terms(m, v + fit_noise(m, v, y), y).mean())
    return total


def _log_likelihood(loss: Loss, outputs: Tensor, targets: Tensor, noise: Tensor | None) -> float:
    """Of a batch, in nats."""
    if noise is None:
        return -float(loss(outputs, targets)) * len(outputs)
    return -float(((outputs - targets).square() / noise + (2 * math.pi * noise).log()).sum()) / 2
