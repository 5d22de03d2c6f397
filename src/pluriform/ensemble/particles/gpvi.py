"""Generative particle variational inference: the functional gradient of KL(q ‖ p) for a generator of particles."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pluriform.ensemble.particles.inverse_jacobian import InverseJacobian, Solver
from pluriform.ensemble.particles.jacobian import Jacobian
from pluriform.ensemble.particles.kernel import rbf
from pluriform.ensemble.particles.svgd import check_scores, pairs_each, particle_loss
from pluriform.errors import ConfigError, ShapeError, explain

__all__ = ["GPVI", "GPVILosses", "gpvi_direction"]

Inverse = Callable[[Tensor], Tensor]


@torch.no_grad()
def gpvi_direction(
    full_noise: Float[Tensor, "member size"],
    scores: Float[Tensor, "member size"],
    inverse: Inverse,
    bandwidth: float | int | None = None,
    entropy: float | int = 1.0,
    own: bool = True,
) -> Float[Tensor, "member size"]:
    """Direction in which each particle θ_i = f(z_i) lowers KL(q_f ‖ p) fastest, in the function space of a kernel on z.

    φ_i = (1/B) Σ_j [ k(z_j, z_i) ∇ log p(f(z_j)) + J_f(z_j)⁻ᵀ ∇_{z_j} k(z_j, z_i) ]

    It is minus the functional gradient of the KL: log q(f(z)) = log N(z) − log |det J_f(z)|, and moving f by ε φ
    changes E log |det J_f| by ε E tr(J_f⁻¹ ∂φ/∂z). The pairs go in B − 1 rounds, so that memory is O(member · size).

    Args:
        full_noise: z, of the particles' size.
        scores: ∇ log p(f(z_j)), in inverse units of the particles.
        inverse: Maps (member, size) vectors, row j belonging to z_j, to J_f(z_j)⁻ᵀ v_j; called B − 1 times.
        bandwidth: h of the kernel on z; None is the median heuristic.
        entropy: Weight of the second term, as in `svgd_direction`.
        own: Whether the pairs i = j count, as in `svgd_direction`.

    Raises:
        ShapeError: Scores of another shape than the noise.
        ConfigError: One particle that may not count itself.

    References:
        Ratzlaff, Bai, Fuxin, Xu: Generative particle variational inference via estimation of functional gradients.
        2021, arXiv:2103.01291, section 3.

    Example:
        >>> z = torch.tensor([[-1.0], [1.0]])
        >>> gpvi_direction(z, -0.5 * z, inverse=lambda v: v / 0.5).squeeze()  # f(z) = z / 2 is too narrow for N(0, 1).
        tensor([-0.1995,  0.1995])
    """
    check_scores(full_noise, scores, "gpvi_direction")
    count = pairs_each(len(full_noise), own)
    kernel = rbf(full_noise, bandwidth)
    entropic = torch.zeros_like(full_noise)
    for shift in range(1, len(full_noise)):  # Row j of a round meets the place i = j + shift.
        towards = full_noise.roll(-shift, 0) - full_noise
        values = kernel.matrix.diagonal(shift), kernel.matrix.diagonal(shift - len(full_noise))
        gradients = torch.cat(values)[:, None].to(towards) * towards * (2 / kernel.bandwidth).to(towards)
        entropic += inverse(gradients).roll(shift, 0)
    attraction = kernel.attract(scores).to(entropic) - (0 if own else scores)
    return (attraction + entropy * entropic) / count


@dataclass(frozen=True)
class GPVILosses:
    """Losses of one step; one `backward` of their sum serves both, for neither reaches the other's parameters.

    Attributes:
        generator_surrogate: −(1/B) Σ_i ⟨θ_i, stopgrad φ_i⟩; reaches the generator and the scale λ. Only its gradient
            means anything.
        auxiliary: Mean of ‖A y − r‖² over the pairs, every r scaled to length one: 0 is exact, 1 no better than y = 0.
            Reaches the auxiliary network only; zero where the inverse is exact.
    """

    generator_surrogate: Float[Tensor, ""]
    auxiliary: Float[Tensor, ""]


class GPVI(nn.Module):
    """Full-rank generator f(z) = g(z_{1..S}) + λ z, z ~ N(0, I_P), and the inverse of its transposed Jacobian.

    J_f is never formed. With G = ∂g/∂z (P × S), J_fᵀ y = v is λ y + (Gᵀ y, 0) = v, hence exactly

        y_rest = v_rest / λ,    A y_head = r,    A = λ I_S + G_headᵀ,    r = v_head − G_restᵀ v_rest / λ,

    head being the first S entries and rest the others. What is left to an auxiliary network (or to a solve) has S
    unknowns, not P, and its training loss ‖A y_head − r‖² is the paper's ‖J_fᵀ y − v‖². It also shows what the entropy
    term sees: log |det J_f| = (P − S) log λ + log |det A|, that is λ and the first S entries of g only; let those be
    entries that matter.

    Cost of a step with B particles, beside one run of the generator and one backward: vector-Jacobian products of B
    rows each, 2 (B − 1) with "network" and B − 1 + S with "exact"; "network" adds `rounds` Jacobian-vector products, at
    about two of the former each. "exact" is cheaper for S up to about 3 B. Memory is that of one generator graph
    (two with "network") and a few (member, size) tensors.

    The network must keep up with the generator: give it the larger learning rate, and watch `auxiliary`.

    Args:
        noise: S, length of the generator's noise.
        size: P, length of a particle; at least S.
        scale: λ at the start; trained as its logarithm, so that it stays positive.
        inverse: "network" trains `InverseJacobian` beside the generator; "exact" forms and solves A (S × S).
        hidden: Width of the auxiliary network.
        depth: Its number of hidden layers.
        bandwidth: h of the kernel on z; None is the median heuristic.
        own: Whether a particle counts in its own expectation, as in `svgd_direction`.
        rounds: Rounds of B pairs that train the auxiliary network in a step, of B − 1; None is all.

    Raises:
        ConfigError: S greater than P, a scale that is not positive, an unknown inverse.

    References:
        Ratzlaff, Bai, Fuxin, Xu: Generative particle variational inference via estimation of functional gradients.
        2021, arXiv:2103.01291, sections 3 and 4.

    Example:
        >>> gpvi, generator = GPVI(noise=2, size=3, hidden=8), nn.Linear(2, 3)
        >>> z = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
        >>> theta = gpvi.perturb(generator(z[:, :2]), z)
        >>> losses = gpvi.losses(generator, z[:, :2], z, scores=-theta.detach())
        >>> (losses.generator_surrogate + losses.auxiliary).backward()
    """

    def __init__(
        self,
        noise: int,
        size: int,
        scale: float | int = 0.1,
        inverse: str = "network",
        hidden: int = 512,
        depth: int = 3,
        bandwidth: float | int | None = None,
        own: bool = True,
        rounds: int | None = None,
    ) -> None:
        super().__init__()
        _check(noise, size, scale, inverse, rounds)
        self.noise, self.size, self.bandwidth, self.own, self.rounds = noise, size, bandwidth, own, rounds
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.inverse = InverseJacobian(noise, hidden, depth) if inverse == "network" else None

    @property
    def scale(self) -> Float[Tensor, ""]:
        """λ."""
        return self.log_scale.exp()

    def perturb(
        self, theta: Float[Tensor, "member size"], full_noise: Float[Tensor, "member size"]
    ) -> Float[Tensor, "member size"]:
        """Full-rank particles f(z) = g(z_head) + λ z."""
        return theta + self.scale * full_noise

    def losses(
        self,
        generator: Callable[[Tensor], Tensor],
        noise: Float[Tensor, "member noise"],
        full_noise: Float[Tensor, "member size"],
        scores: Float[Tensor, "member size"],
        entropy: float | int = 1.0,
    ) -> GPVILosses:
        """Losses of one step of the generator, λ and the auxiliary network.

        Args:
            generator: g, maps (member, S) noise to (member, P), row by row and the same at each call: no batch
                normalisation, no noise of its own.
            noise: The first S columns of `full_noise`.
            full_noise: z.
            scores: ∇ log p at the particles f(z), that is at `perturb(generator(noise), full_noise)`.
            entropy: Weight of the entropy term: 1, or `temperature / samples` with normalised scores (see
                `log_posterior_scores`).

        Raises:
            ShapeError: Noise that is not the head of the full noise, or scores of another shape.
        """
        if noise.shape[1:] != (self.noise,) or not torch.equal(noise, full_noise[:, : self.noise]):
            expected = f"noise equal to the first {self.noise} columns of the full noise"
            got = f"noise {tuple(noise.shape)} beside {tuple(full_noise.shape)} that differs"
            raise ShapeError(explain(expected, got, "GPVI.losses", "cut the noise from the full noise"))
        jacobian = Jacobian(generator, noise)
        solver = Solver(jacobian, self.scale, self.inverse, self.rounds)
        direction = gpvi_direction(full_noise, scores, solver, self.bandwidth, entropy, self.own)
        return GPVILosses(particle_loss(self.perturb(jacobian.outputs, full_noise), direction), solver.loss())


def _check(noise: int, size: int, scale: float | int, inverse: str, rounds: int | None) -> None:
    if not 1 <= noise <= size:
        remedy = "shorten the noise; it is added to as many entries"
        raise ConfigError(explain(f"noise of length 1 to {size}, the particle's size", f"{noise}", "GPVI", remedy))
    if not scale > 0:
        raise ConfigError(explain("a positive scale", f"{scale}", "GPVI", "0.1 or 0.01 are the paper's"))
    if inverse not in ("network", "exact"):
        raise ConfigError(explain("inverse 'network' or 'exact'", f"{inverse!r}", "GPVI", "choose one of the two"))
    if rounds is not None and rounds < 1:
        raise ConfigError(explain("one round or more", f"{rounds}", "GPVI", "leave it out for all pairs"))
