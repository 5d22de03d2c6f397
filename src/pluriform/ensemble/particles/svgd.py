"""Stein variational gradient descent on flat particles, and its amortised form for a generator of particles."""

import torch
from jaxtyping import Float
from torch import Tensor

from pluriform.ensemble.particles.kernel import rbf
from pluriform.errors import ConfigError, ShapeError, explain

__all__ = ["log_posterior_scores", "particle_loss", "svgd_direction"]


@torch.no_grad()
def svgd_direction(
    particles: Float[Tensor, "member size"],
    scores: Float[Tensor, "member size"],
    bandwidth: float | int | None = None,
    entropy: float | int = 1.0,
    at: Float[Tensor, "place _"] | None = None,
    own: bool = True,
) -> Float[Tensor, "place size"]:
    """Direction that lowers KL(q ‖ p) fastest in the kernel's function space.

    φ_i = (1/B) Σ_j [ k(θ_j, θ_i) ∇ log p(θ_j) + ∇_{θ_j} k(θ_j, θ_i) ]

    Cost O(member² · size), memory O(member · size): closed form by matmuls. With one particle it is `scores`.

    Args:
        particles: θ_j, one a row.
        scores: ∇ log p(θ_j), in inverse units of the particles.
        bandwidth: h of the kernel, in squared units of the particles; None is the median heuristic.
        entropy: Weight of the second term. 1 is the target p; 1/n goes with scores divided by n (see
            `log_posterior_scores`); 0 pulls all particles to the modes.
        at: Places θ_i where the direction is wanted, when the expectation is over other particles than those to be
            moved (the other half of the batch, or a second draw); None is the particles themselves.
        own: Whether θ_i counts in its own expectation. True for particles that live on. A generator's particles are
            independent draws, whose own pair is no estimate of the expectation and pulls each to the mode: the
            covariance of a Gaussian in the plane comes out 14 % too small with 100 of them. False leaves it out
            (unbiased), at a price in many dimensions: there the kernel of two particles is about 1 / (member + 1)
            whatever their distance, and without its own score a particle moves as the others' mean.

    Returns:
        φ, detached, in the precision of the particles.

    Raises:
        ShapeError: Scores of another shape than the particles.
        ConfigError: One particle that may not count itself.

    References:
        Liu, Wang: Stein variational gradient descent: a general purpose Bayesian inference algorithm. 2016,
        arXiv:1608.04471, equation 8.

    Example:
        >>> particles = torch.tensor([[-0.5], [0.5]])
        >>> svgd_direction(particles, -particles).squeeze()  # Towards N(0, 1) from too small a spread: apart.
        tensor([-0.1995,  0.1995])
    """
    check_scores(particles, scores, "svgd_direction")
    kernel = rbf(particles, bandwidth, at)
    direction = kernel.attract(scores) + entropy * kernel.repulsion()
    if at is None and not own:
        direction = direction - scores
    return (direction / pairs_each(len(particles), own or at is not None)).to(particles.dtype)


def particle_loss(
    particles: Float[Tensor, "member *shape"], direction: Float[Tensor, "member *shape"]
) -> Float[Tensor, ""]:
    """Loss whose descent moves a generator's particles along a direction: −(1/B) Σ_i ⟨θ_i, stopgrad φ_i⟩.

    Only its gradient means anything: ∂/∂θ_i = −φ_i / B, so that a generator's parameters η move by
    (1/B) Σ_i (∂θ_i/∂η)ᵀ φ_i. The value itself is neither bounded nor expected to fall.

    Args:
        particles: θ_i with their graph back to the generator (or outputs, in function space).
        direction: φ_i, of any of the particle methods.

    Raises:
        ShapeError: A direction of another shape.

    References:
        Feng, Wang, Liu: Learning to draw samples with amortized Stein variational gradient descent. 2017,
        arXiv:1707.06626, section 3.

    Example:
        >>> theta = torch.ones(2, 3, requires_grad=True)
        >>> particle_loss(theta, torch.full((2, 3), 4.0)).backward()
        >>> theta.grad[0]
        tensor([-2., -2., -2.])
    """
    check_scores(particles, direction, "particle_loss")
    return -(particles * direction.detach()).sum() / len(particles)


@torch.no_grad()
def log_posterior_scores(
    loss_gradients: Float[Tensor, "member size"],
    particles: Float[Tensor, "member size"],
    samples: int,
    prior_variance: float | int,
    temperature: float | int = 1.0,
    normalise: bool = True,
) -> Float[Tensor, "member size"]:
    """Gradients of the log posterior at each particle, from gradients of the mean loss.

    ∇ log p(θ | data) = −(n / T) ∇ mean NLL(θ) − θ / σ², divided by n / T when normalised.

    T tempers the likelihood only: T = 1 is Bayes, T < 1 a colder posterior, as with n / T samples. Divided by n / T the
    scores have the size of ordinary loss gradients, and learning rates keep their meaning; the repulsion must then
    carry the same factor, `entropy = temperature / samples`, or the target is not this posterior.

    Args:
        loss_gradients: ∇ of the mean negative log likelihood, in nats per sample, at each particle; a minibatch mean is
            an unbiased estimate of it.
        particles: θ.
        samples: n, size of the whole training set, not of the minibatch.
        prior_variance: σ² of the prior N(0, σ² I), in squared units of the particles; infinity is a flat prior.
        temperature: T.
        normalise: Divide by n / T.

    Raises:
        ShapeError: Gradients of another shape than the particles.
        ConfigError: Samples, prior variance or temperature that are not positive.

    References:
        Wenzel et al.: How good is the Bayes posterior in deep neural networks really? 2020, arXiv:2002.02405, section
        2.3 (tempering of the likelihood alone).

    Example:
        >>> log_posterior_scores(torch.ones(1, 1), torch.ones(1, 1), samples=10, prior_variance=2)
        tensor([[-1.0500]])
    """
    check_scores(particles, loss_gradients, "log_posterior_scores")
    for name, value in {"samples": samples, "prior_variance": prior_variance, "temperature": temperature}.items():
        if not value > 0:
            raise ConfigError(explain(f"a positive {name}", f"{value}", "log_posterior_scores", "give one above zero"))
    strength = samples / temperature
    scores = -loss_gradients - particles / (prior_variance * strength)
    return scores if normalise else strength * scores


def pairs_each(member: int, own: bool) -> int:
    """Number of pairs in each expectation."""
    if member == 1 and not own:
        got = "one that may not count itself"
        raise ConfigError(explain("two particles or more", got, "particle method", "draw more, or let own=True"))
    return member if own else member - 1


def check_scores(particles: Tensor, scores: Tensor, where: str) -> None:
    """Refuse scores of another shape, which broadcasting would let through."""
    if particles.shape != scores.shape:
        got = f"{tuple(scores.shape)} beside particles {tuple(particles.shape)}"
        raise ShapeError(explain("one score for each entry of the particles", got, where, "give both the same shape"))
