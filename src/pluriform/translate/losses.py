"""Losses of translators: adversarial ones, feature matching, perceptual, L1, KL and the R1 penalty, all in float32.

A discriminator of several scales gives for each a list: features of every layer, then the map of scores. Adversarial
losses are means over each map, then over scales.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pluriform.errors import ShapeError, explain
from pluriform.translate.encoder import Posterior

__all__ = [
    "Outputs",
    "cross_entropy_discriminator",
    "cross_entropy_generator",
    "feature_matching",
    "gaussian_kl",
    "hinge_discriminator",
    "hinge_generator",
    "l1",
    "least_squares_discriminator",
    "least_squares_generator",
    "perceptual",
    "r1_penalty",
]

Outputs = Sequence[Sequence[Tensor]]


def hinge_discriminator(real: Outputs, fake: Outputs) -> Tensor:
    """`mean(max(0, 1 - real)) + mean(max(0, 1 + fake))`; 2 where all scores are 0.

    References:
        Lim, Ye 2017, Geometric GAN, arXiv:1705.02894.

    Example:
        >>> hinge_discriminator([[torch.zeros(1, 1, 2, 2)]], [[torch.zeros(1, 1, 2, 2)]])
        tensor(2.)
    """
    return _over_scales(real, lambda s: F.relu(1 - s).mean()) + _over_scales(fake, lambda s: F.relu(1 + s).mean())


def hinge_generator(fake: Outputs) -> Tensor:
    """`-mean(fake)`."""
    return _over_scales(fake, lambda s: -s.mean())


def least_squares_discriminator(real: Outputs, fake: Outputs) -> Tensor:
    """`(mean((real - 1)^2) + mean(fake^2)) / 2`.

    References:
        Mao et al. 2017, Least Squares Generative Adversarial Networks, arXiv:1611.04076, as CycleGAN uses it.
    """
    return (_over_scales(real, lambda s: (s - 1).square().mean()) + _over_scales(fake, lambda s: s.square().mean())) / 2


def least_squares_generator(fake: Outputs) -> Tensor:
    """`mean((fake - 1)^2)`."""
    return _over_scales(fake, lambda s: (s - 1).square().mean())


def cross_entropy_discriminator(real: Outputs, fake: Outputs) -> Tensor:
    """`(mean(-log sigmoid(real)) + mean(-log(1 - sigmoid(fake)))) / 2`, the halves as pix2pix has them.

    References:
        Isola et al. 2017, arXiv:1611.07004.
    """
    return (
        _over_scales(real, lambda s: F.softplus(-s).mean()) + _over_scales(fake, lambda s: F.softplus(s).mean())
    ) / 2


def cross_entropy_generator(fake: Outputs) -> Tensor:
    """`mean(-log sigmoid(fake))`."""
    return _over_scales(fake, lambda s: F.softplus(-s).mean())


def _over_scales(outputs: Outputs, loss: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.stack([loss(scale[-1].float()) for scale in outputs]).mean()


def feature_matching(real: Outputs, fake: Outputs) -> Tensor:
    """Sum over layers but the last of the mean absolute difference, mean over scales; no gradient into the real side.

    References:
        Wang et al. 2018, pix2pixHD, arXiv:1711.11585.
    """
    terms = [
        torch.stack([l1(f, r.detach()) for r, f in zip(ours[:-1], theirs[:-1], strict=True)]).sum()
        for ours, theirs in zip(real, fake, strict=True)
    ]
    return torch.stack(terms).mean()


def perceptual(
    extractor: Callable[[Tensor], Sequence[Tensor]], output: Tensor, target: Tensor, weights: Sequence[float | int]
) -> Tensor:
    """`sum_k w_k * mean |phi_k(output) - phi_k(target)|`; no gradient into the target.

    Args:
        extractor: Images in [-1, 1] to features of several layers.
        output: What the translator made.
        target: The truth in paired work, the content image in unpaired work.
        weights: One a layer.

    Raises:
        ShapeError: Another number of layers.

    References:
        Johnson, Alahi, Fei-Fei 2016, Perceptual Losses for Real-Time Style Transfer and Super-Resolution,
        arXiv:1603.08155.
    """
    with torch.no_grad():
        wanted = extractor(target)
    found = extractor(output)
    if not len(found) == len(wanted) == len(weights):
        remedy = "pass the extractor's own weights"
        raise ShapeError(explain(f"{len(found)} weights, one a layer", f"{len(weights)}", "perceptual loss", remedy))
    terms = [float(weight) * l1(f, t) for weight, f, t in zip(weights, found, wanted, strict=True)]
    return torch.stack(terms).sum()


def l1(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference.

    Raises:
        ShapeError: The shapes differ, which would broadcast silently.
    """
    if output.shape != target.shape:
        remedy = "compare images of one size"
        raise ShapeError(explain(f"two tensors of {tuple(output.shape)}", str(tuple(target.shape)), "L1", remedy))
    return F.l1_loss(output.float(), target.float())


def gaussian_kl(posterior: Posterior) -> Tensor:
    """`-1/2 sum(1 + log s^2 - mu^2 - s^2)`, summed over batch and dimensions; 0 for the standard normal.

    References:
        Kingma, Welling 2014, Auto-Encoding Variational Bayes, arXiv:1312.6114, appendix B.
    """
    mean, log_variance = posterior.mean.float(), posterior.log_variance.float()
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()


def r1_penalty(discriminator: Callable[[Tensor], Outputs], real: Tensor) -> Tensor:
    """`1/2 * mean over samples of |d sum(scores) / d real|^2`, differentiable in the discriminator's weights.

    Args:
        discriminator: Images to outputs of every scale.
        real: Real images `(batch, channels, height, width)`.

    References:
        Mescheder, Geiger, Nowozin 2018, Which Training Methods for GANs do actually Converge?, arXiv:1801.04406.
    """
    real = real.detach().requires_grad_(True)
    scores = torch.stack([scale[-1].float().sum() for scale in discriminator(real)]).sum()
    (slope,) = torch.autograd.grad(scores, real, create_graph=True)
    return slope.square().flatten(1).sum(1).mean() / 2
