"""What a thin network is held to by a wide one: distillation of outputs, imitation of activations."""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["distillation", "imitation", "softened_divergence", "target_variance"]


def softened_divergence(outputs: Tensor, wide: Tensor, temperature: float | int = 1.0) -> Tensor:
    """T^2 KL(softmax(wide / T) || softmax(outputs / T)), averaged over the batch, in nats.

    T^2 keeps the size of the gradients at all temperatures.

    Args:
        outputs: Logits of the network that learns, `(batch, classes)`.
        wide: Logits of the one it learns from, likewise.
        temperature: T, above 0.

    References:
        Hinton, Vinyals, Dean 2015, Distilling the Knowledge in a Neural Network, arXiv:1503.02531.
    """
    own, target = (F.log_softmax(logits / temperature, -1) for logits in (outputs, wide))
    return temperature**2 * F.kl_div(own, target, reduction="batchmean", log_target=True)


def distillation(
    outputs: Tensor,
    wide: Tensor,
    loss: Tensor,
    *,
    alpha: float | int,
    temperature: float | int,
    classification: bool = True,
) -> Tensor:
    """(1 - alpha) * loss + alpha * divergence from the outputs of the wide network.

    The divergence is `softened_divergence` in classification, the mean squared error in regression.

    Args:
        outputs: Of the network that learns, `(batch, outputs)`.
        wide: Of the one it learns from, likewise.
        loss: Of the outputs on the labels or targets, a scalar.
        alpha: Share of the divergence, in [0, 1].
        temperature: Of the softmax.
        classification: Whether outputs are logits.
    """
    far = softened_divergence(outputs, wide, temperature) if classification else F.mse_loss(outputs, wide)
    return (1 - alpha) * loss + alpha * far


def imitation(own: Tensor, wide: Tensor, *, axis: int = 1, variance: Tensor | float | None = None) -> Tensor:
    """Mean squared error over the variance of the target, so that one minus it is the explained variance.

    Args:
        own: Activations, lifted to the width of the target.
        wide: Activations to imitate, of the same shape.
        axis: Of the channels; each varies about its own mean over the batch and all other axes.
        variance: Mean over channels of the variance of the target; of this batch by default.

    Returns:
        A scalar: 0 where all is explained, 1 for the mean of each channel.
    """
    found = (
        target_variance(wide, axis)
        if variance is None
        else torch.as_tensor(variance, dtype=wide.dtype, device=wide.device)
    )
    least = torch.finfo(wide.dtype).tiny  # Of a target that never varies.
    return F.mse_loss(own, wide) / found.clamp(min=least)


def target_variance(wide: Tensor, axis: int = 1) -> Tensor:
    """Mean over channels of the variance of each over the batch and all other axes, a scalar."""
    others = [place for place in range(wide.dim()) if place != axis % wide.dim()]
    return wide.detach().var(others, correction=0).mean()
