"""The radial basis function kernel of particle methods, with the median bandwidth, in O(member² · size) by matmuls."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pluriform.errors import ConfigError, ShapeError, explain

__all__ = ["Kernel", "rbf"]

RESOLUTION = 8.0  # Distances below so many roundings of the particles themselves count as zero.


@dataclass(frozen=True)
class Kernel:
    """Kernel values k(θ_j, θ_i) = exp(−‖θ_j − θ_i‖² / h) of a set of particles, and their gradients.

    Attributes:
        matrix: Values; row i is the place θ_i, column j the particle θ_j of the expectation.
        bandwidth: h, in squared units of the particles.
        centred: The particles θ_j less their mean, at least single precision.
        at: The places θ_i less the same mean.
    """

    matrix: Float[Tensor, "place member"]
    bandwidth: Float[Tensor, ""]
    centred: Float[Tensor, "member size"]
    at: Float[Tensor, "place size"]

    def attract(self, values: Float[Tensor, "member size"]) -> Float[Tensor, "place size"]:
        """Σ_j k(θ_j, θ_i) v_j, by one matmul."""
        return self.matrix @ values.to(self.matrix.dtype)

    def repulsion(self) -> Float[Tensor, "place size"]:
        """Σ_j ∇_{θ_j} k(θ_j, θ_i) = (2 / h) (θ_i Σ_j k_ij − Σ_j k_ij θ_j); points away from the other particles.

        No (member, member, size) tensor is formed: two matmuls, memory O(member · size).
        """
        return (self.at * self.matrix.sum(dim=1, keepdim=True) - self.matrix @ self.centred) * (2 / self.bandwidth)


@torch.no_grad()
def rbf(
    particles: Float[Tensor, "member size"],
    bandwidth: float | int | None = None,
    at: Float[Tensor, "place _"] | None = None,
) -> Kernel:
    """Radial basis function kernel between particles: k(θ, θ') = exp(−‖θ − θ'‖² / h).

    h = med² / log(member + 1), med the median distance between two particles, so that Σ_j k(θ_j, θ_i) is about one
    beside k(θ_i, θ_i). Where more than half of the distances are zero their mean takes the place of the median, and
    where all are (or there is one particle) h = 1. Particles that are equal stay equal: nothing here separates them.
    Distances are those of the particles less their mean, which keeps them exact for particles that are close together
    and far from the origin.

    Args:
        particles: The particles θ_j.
        bandwidth: h, in squared units of the particles; None is the median heuristic.
        at: The places θ_i where the kernel is wanted; None is the particles themselves.

    Returns:
        Values and gradients, detached, at least single precision.

    Raises:
        ShapeError: Without particles, or with places of another size.
        ConfigError: A bandwidth that is not positive.

    References:
        Liu, Wang: Stein variational gradient descent: a general purpose Bayesian inference algorithm. 2016,
        arXiv:1608.04471, section 5.

    Example:
        >>> kernel = rbf(torch.tensor([[0.0], [1.0]]), bandwidth=1)
        >>> kernel.matrix[0, 1], kernel.repulsion()[1]
        (tensor(0.3679), tensor([0.7358]))
    """
    _check(particles, bandwidth, at)
    work = torch.promote_types(particles.dtype, torch.float32)
    particles = particles.to(work)
    mean = particles.mean(dim=0)
    centred = particles - mean
    places = centred if at is None else at.to(work) - mean
    floor = (RESOLUTION * torch.finfo(work).eps) ** 2 * particles.square().sum(dim=1).mean()
    if bandwidth is None:
        h = _median_bandwidth(_squared_distances(centred, centred, floor))
    else:
        h = torch.tensor(float(bandwidth), dtype=work, device=particles.device)
    return Kernel(torch.exp(-_squared_distances(places, centred, floor) / h), h, centred, places)


def _check(particles: Tensor, bandwidth: float | int | None, at: Tensor | None) -> None:
    if particles.dim() != 2 or len(particles) == 0:
        raise ShapeError(
            explain(
                "particles (member, size), at least one", f"{tuple(particles.shape)}", "rbf", "flatten each particle"
            )
        )
    if at is not None and at.shape[1:] != particles.shape[1:]:
        got = f"{tuple(at.shape)} beside particles {tuple(particles.shape)}"
        raise ShapeError(explain("places of the particles' size", got, "rbf", "flatten both alike"))
    if bandwidth is not None and not (bandwidth > 0 and math.isfinite(bandwidth)):
        remedy = "leave it out for the median heuristic"
        raise ConfigError(explain("a positive bandwidth", f"{bandwidth}", "rbf", remedy))


def _squared_distances(first: Tensor, second: Tensor, floor: Tensor) -> Tensor:
    squares = first.square().sum(dim=1)[:, None] + second.square().sum(dim=1) - 2 * first @ second.T
    return torch.where(squares > floor, squares, torch.zeros_like(squares))


def _median_bandwidth(squares: Tensor) -> Tensor:
    member = len(squares)
    if member == 1:
        return torch.ones((), dtype=squares.dtype, device=squares.device)
    rows, columns = torch.triu_indices(member, member, offset=1, device=squares.device)
    pairs = squares[rows, columns]
    typical = torch.where(pairs.median() > 0, pairs.median(), pairs.mean()) / math.log(member + 1)
    return torch.where(typical > 0, typical, torch.ones_like(typical))
