"""Stein variational gradient descent on what networks compute instead of on their weights."""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from pluriform.ensemble.particles.svgd import check_scores, svgd_direction
from pluriform.errors import BoundsError, ConfigError, ShapeError, explain

__all__ = ["cross_entropy_scores", "extra_inputs", "function_prior_scores", "function_svgd_direction"]


@torch.no_grad()
def function_svgd_direction(
    outputs: Float[Tensor, "member points classes"],
    scores: Float[Tensor, "member points classes"],
    bandwidth: float | int | None = None,
    entropy: float | int = 1.0,
    own: bool = True,
) -> Float[Tensor, "member points classes"]:
    """Direction of Stein variational gradient descent for outputs at a minibatch, each member's a single particle.

    φ_i = (1/B) Σ_j [ k(f_j, f_i) ∇_{f_j} log p(f_j) + ∇_{f_j} k(f_j, f_i) ],  f_j = all outputs of member j

    Repulsion acts on what the networks do: two weight vectors that compute the same count as one. Give the direction to
    `particle_loss` with the outputs, whose graph carries it to the weights.

    Args:
        outputs: Logits (or regression outputs) at labelled and extra inputs, stacked over members.
        scores: Gradients of log likelihood plus log prior by the outputs, as from `cross_entropy_scores` and
            `function_prior_scores`.
        bandwidth: h of the kernel, in squared units of the outputs; None is the median heuristic.
        entropy: Weight of the second term; divide by what the scores were divided by.
        own: Whether a member counts in its own expectation, as in `svgd_direction`.

    Raises:
        ShapeError: Scores of another shape than the outputs.
        ConfigError: One member that may not count itself.

    References:
        Wang, Ren, Zhu, Zhang: Function space particle optimization for Bayesian neural networks. 2019,
        arXiv:1902.09754, section 3.

    Example:
        >>> outputs = torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]]])
        >>> function_svgd_direction(outputs, torch.zeros(2, 1, 2))[:, 0, 0]
        tensor([-0.3662,  0.3662])
    """
    check_scores(outputs, scores, "function_svgd_direction")
    flat = svgd_direction(outputs.flatten(1), scores.flatten(1), bandwidth, entropy, own=own)
    return flat.reshape(outputs.shape)


@torch.no_grad()
def cross_entropy_scores(
    outputs: Float[Tensor, "member points classes"], labels: Int[Tensor, "labelled"], samples: int | None = None
) -> Float[Tensor, "member points classes"]:
    """Gradient of the log likelihood of labels by the logits: (n / b) (onehot − softmax), zero at extra inputs.

    Args:
        outputs: Logits; the labelled inputs come first.
        labels: Classes of the first b inputs.
        samples: n, size of the training set; None is b, the minibatch taken for all there is.

    Raises:
        ShapeError: More labels than points.

    Example:
        >>> cross_entropy_scores(torch.zeros(1, 2, 2), torch.tensor([1]))
        tensor([[[-0.5000,  0.5000],
                 [ 0.0000,  0.0000]]])
    """
    labelled, (_, points, classes) = len(labels), outputs.shape
    if not 0 < labelled <= points:
        got = f"{labelled} labels for {points} points"
        raise ShapeError(explain("labels of the first points", got, "cross_entropy_scores", "put extra inputs last"))
    scores = torch.zeros_like(outputs)
    truth = torch.nn.functional.one_hot(labels.long(), classes)
    scores[:, :labelled] = truth - outputs[:, :labelled].softmax(dim=2)
    return scores if samples is None else scores * (samples / labelled)


@torch.no_grad()
def function_prior_scores(
    outputs: Float[Tensor, "member points classes"],
    prior_draws: Float[Tensor, "draw points classes"],
    ridge: float | int = 1e-2,
) -> Float[Tensor, "member points classes"]:
    """Gradient of a Gaussian log prior over functions, its moments those of networks drawn from the prior.

    ∇ log p(f) = −(C + ridge · c̄ I)⁻¹ (f − m), class by class; m and C are the mean over draws and the covariance
    between points over draws and classes, c̄ the mean variance. Cost O(points³ + member · points² · classes).

    Args:
        outputs: f, at labelled and extra inputs.
        prior_draws: Outputs at the same inputs of networks with weights from their prior; two or more, and the more
            points the more of them. Analytic draws of an infinite-width kernel do as well.
        ridge: Added to the diagonal, as a share of the mean variance; it carries the directions that the draws miss.

    Raises:
        ConfigError: Fewer than two draws, draws that are all the same, or a ridge that is not positive.

    References:
        Wang, Ren, Zhu, Zhang: Function space particle optimization for Bayesian neural networks. 2019,
        arXiv:1902.09754, section 3.2.

    Example:
        >>> draws = torch.tensor([-1.0, 0.0, 1.0]).reshape(3, 1, 1)
        >>> function_prior_scores(torch.full((1, 1, 1), 2.0), draws, ridge=1).item()
        -1.0
    """
    if len(prior_draws) < 2 or not ridge > 0:
        got = f"{len(prior_draws)} draws and ridge {ridge}"
        raise ConfigError(explain("two draws or more, and a positive ridge", got, "function_prior_scores", "draw more"))
    mean = prior_draws.mean(dim=0)
    spread = (prior_draws - mean).transpose(1, 2).flatten(0, 1)
    covariance = spread.T @ spread / ((len(prior_draws) - 1) * prior_draws.shape[2])
    variance = covariance.diagonal().mean()
    if not variance > 0:
        remedy = "draw the weights anew for each"
        raise ConfigError(explain("prior draws that differ", "equal ones", "function_prior_scores", remedy))
    covariance.diagonal().add_(ridge * variance)
    columns = (outputs - mean).transpose(0, 1).flatten(1)
    solved = torch.linalg.solve(covariance, columns)
    return -solved.reshape(outputs.shape[1], outputs.shape[0], outputs.shape[2]).transpose(0, 1)


def extra_inputs(
    inputs: Shaped[Tensor, "batch *features"],
    bounds: tuple[float | int, float | int],
    share: float | int,
    generator: torch.Generator,
) -> Float[Tensor, "points *features"]:
    """The minibatch followed by uniform noise inputs, where members should disagree.

    Batch normalisation in training mode would mix the noise into the statistics of the data: compute its outputs apart.

    Args:
        inputs: Minibatch, floating point.
        bounds: Lowest and highest input; noise is uniform between them.
        share: Noise inputs as a share of the minibatch, 0.1 for one in ten; rounded, at least one unless it is 0.
        generator: On the CPU, so that the noise is the same on every device.

    Returns:
        Inputs, labelled first.

    Raises:
        ConfigError: A negative share, or inputs that are not floating point.
        BoundsError: Bounds that are not finite, or not in order.

    Example:
        >>> extra_inputs(torch.zeros(20, 3), (0, 1), 0.1, torch.Generator().manual_seed(0)).shape
        torch.Size([22, 3])
    """
    low, high = bounds
    if not 0 < high - low < float("inf"):
        remedy = "give the lowest and the highest input"
        raise BoundsError(explain("finite bounds, low before high", f"{bounds}", "extra_inputs", remedy))
    if not share >= 0 or not inputs.is_floating_point():
        got = f"share {share} of inputs {inputs.dtype}"
        remedy = "set share=0 for other inputs"
        raise ConfigError(explain("a share of floating point inputs, 0 or more", got, "extra_inputs", remedy))
    count = max(1, round(share * len(inputs))) if share > 0 else 0
    noise = torch.rand(count, *inputs.shape[1:], generator=generator) * (high - low) + low
    return torch.cat([inputs, noise.to(inputs)])
