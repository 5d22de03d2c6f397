"""Gaussian posteriors over the weights of a last layer, from the curvature of the loss at its trained weights."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pluriform.axes import Members
from pluriform.ensemble.last_layer import LastLayer

__all__ = ["Curvature", "PRECISIONS", "Posterior", "full_curvature", "kronecker_curvature", "likelihood_curvature"]

PRECISIONS = tuple(10 ** (k / 10) for k in range(-40, 41))
"""Prior precisions that are tried: 1e-4 to 1e4, ten a decade."""

Features = Float[Tensor, "batch features"]
Weights = Float[Tensor, "outputs features"]


@dataclass(frozen=True, eq=False)
class Curvature:
    """Generalised Gauss-Newton matrix H of the negative log-likelihood in the weights W, by its eigenvectors.

    Either `basis` holds those of H as columns, W flattened row by row; or H = G kron A, `left` those of G and `right`
    those of A.

    Attributes:
        values: Eigenvalues of H; of the shape of W where it is a product, else flat.
        log_likelihood: Of all samples at the trained weights, in nats.
        basis: Eigenvectors of H.
        left: Eigenvectors of G, `(outputs, outputs)`.
        right: Eigenvectors of A, `(features, features)`.
    """

    values: Tensor
    log_likelihood: float
    basis: Tensor | None = None
    left: Tensor | None = None
    right: Tensor | None = None

    def log_evidence(self, weights: Weights, precision: float) -> float:
        """Laplace's approximation of log p(data) under a prior N(0, 1 / precision) on every weight.

        log p(data | W) - precision |W|^2 / 2 + P log(precision) / 2 - log det(H + precision) / 2, P weights.
        """
        penalty = precision * float(weights.double().square().sum()) - weights.numel() * math.log(precision)
        return self.log_likelihood - (penalty + float((self.values + precision).log().sum())) / 2

    def best_precision(self, weights: Weights) -> float:
        """The prior precision among `PRECISIONS` of greatest evidence."""
        return max(PRECISIONS, key=lambda precision: self.log_evidence(weights, precision))


def likelihood_curvature(outputs: Tensor, noise: Tensor | None) -> Float[Tensor, "batch outputs outputs"]:
    """Second derivative of the negative log-likelihood in the outputs: diag(p) - p p^T, or 1 / noise variance."""
    if noise is not None:
        return noise.reciprocal().diag().expand(len(outputs), -1, -1)
    p = outputs.softmax(-1)
    return p.diag_embed() - p[:, :, None] * p[:, None, :]


def full_curvature(
    batches: Iterable[Tensor], weights: Weights, noise: Tensor | None, log_likelihood: float = 0.0
) -> Curvature:
    """H = sum_n Lambda_n kron phi_n phi_n^T, exactly, Lambda from `likelihood_curvature`; P x P numbers for P weights.

    Args:
        batches: Features of all samples, `(batch, features)` each.
        weights: Trained ones.
        noise: Noise variance of each output in regression, else `None`.
        log_likelihood: Kept for the evidence.
    """
    outputs, size = weights.shape
    weights = weights.double()
    total = weights.new_zeros(outputs, outputs, size, size)
    for features in batches:
        phi = features.double()
        curvature = likelihood_curvature(phi @ weights.T, noise)
        for row in range(outputs):
            for column in range(row + 1):
                total[row, column] += (phi * curvature[:, row, column, None]).T @ phi
    for row in range(outputs):
        for column in range(row):
            total[column, row] = total[row, column]
    values, basis = torch.linalg.eigh(total.transpose(1, 2).reshape(outputs * size, outputs * size))
    return Curvature(values.clamp(min=0), log_likelihood, basis=basis)


def kronecker_curvature(
    batches: Iterable[Tensor], weights: Weights, noise: Tensor | None, log_likelihood: float = 0.0
) -> Curvature:
    """H = G kron A, A = mean_n phi_n phi_n^T, G = sum_n Lambda_n: exact where all Lambda are equal, as in regression.

    Args:
        batches: Features of all samples, `(batch, features)` each.
        weights: Trained ones.
        noise: Noise variance of each output in regression, else `None`.
        log_likelihood: Kept for the evidence.
    """
    outputs, size = weights.shape
    weights = weights.double()
    inner, outer, samples = weights.new_zeros(size, size), weights.new_zeros(outputs, outputs), 0
    for features in batches:
        phi = features.double()
        inner += phi.T @ phi
        outer += likelihood_curvature(phi @ weights.T, noise).sum(0)
        samples += len(phi)
    a, right = torch.linalg.eigh(inner / samples)
    g, left = torch.linalg.eigh(outer)
    return Curvature(torch.outer(g.clamp(min=0), a.clamp(min=0)), log_likelihood, left=left, right=right)


class Posterior(nn.Module):
    """N(W, (H + precision I)^-1) over the weights of a last layer; the source of a `Drawn`.

    Args:
        last: The layer with its trained weights.
        curvature: H.
        precision: Of the prior.
    """

    mean: Tensor
    deviations: Tensor
    basis: Tensor | None
    left: Tensor | None
    right: Tensor | None

    def __init__(self, last: LastLayer, curvature: Curvature, precision: float) -> None:
        super().__init__()
        self.names = last.names
        self.shape = tuple(last.layer.weight.shape)
        self.precision = precision
        self.register_buffer("mean", last.weights.clone())
        self.register_buffer("deviations", (curvature.values + precision).rsqrt().to(self.mean))
        for name in ("basis", "left", "right"):
            vectors = getattr(curvature, name)
            self.register_buffer(name, None if vectors is None else vectors.to(self.mean))

    def draw(self, seeds: Sequence[int]) -> dict[str, Tensor]:
        """Weight and bias of the layer by name, each `(member, *shape)`."""
        return self._split(self._draw(seeds))

    def outputs(self, features: Features, seeds: Sequence[int]) -> Members:
        """Outputs of the drawn members for features of the layer, the constant included."""
        return features @ self._draw(seeds).transpose(1, 2)

    def _draw(self, seeds: Sequence[int]) -> Tensor:
        noise = [torch.randn(self.mean.shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return self.mean + self._coloured(torch.stack(noise).to(self.mean))

    def _coloured(self, noise: Tensor) -> Tensor:
        """Standard normal numbers `(member, outputs, features)` with the covariance of the posterior."""
        if self.basis is not None:
            return ((noise.flatten(1) * self.deviations) @ self.basis.T).view_as(noise)
        left, right = self.left, self.right
        return noise if left is None or right is None else left @ (noise * self.deviations) @ right.T

    def _split(self, weights: Tensor) -> dict[str, Tensor]:
        size = math.prod(self.shape[1:])
        parts = [weights[..., :size].reshape(len(weights), *self.shape), *weights[..., size:].unbind(-1)]
        return dict(zip(self.names, parts, strict=True))

    def output_covariance(self, features: Features) -> Float[Tensor, "batch outputs outputs"]:
        """Covariance of the outputs for these features, in closed form.

        Args:
            features: With the constant where the layer has a bias.
        """
        if self.basis is not None:
            outputs = len(self.mean)
            rows = self.basis.view(outputs, -1, self.basis.shape[1])
            spread = torch.einsum("bi,oik->bok", features, rows) * self.deviations
            return spread @ spread.transpose(1, 2)
        left: Any = self.left
        right: Any = self.right
        variances = (features @ right).square() @ self.deviations.square().T
        return left @ variances.diag_embed() @ left.T
