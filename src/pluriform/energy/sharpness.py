"""Sharpness-aware minimisation: the gradient is taken where the loss around the weights is highest."""

import torch
from torch import Tensor, nn

__all__ = ["ascent"]

ADAPTIVE = 0.5  # From this radius on, steps scale with the weights.


def ascent(network: nn.Module, loss: Tensor, rho: float) -> dict[str, Tensor]:
    """Weights at a distance `rho` up the gradient; gradients with respect to them reach the network's own.

    e = rho g / ||g||, and from `rho` of 0.5 on e = rho w^2 g / ||w g||. Buffers are copies, so that running statistics
    are not counted twice.

    Args:
        network: Gives the weights.
        loss: At its weights; its graph is used up.
        rho: Radius.

    References:
        Foret et al. 2021, Sharpness-Aware Minimization, arXiv:2010.01412; Kwon et al. 2021, ASAM, arXiv:2102.11600.
    """
    own = {name: p for name, p in network.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss, list(own.values()), materialize_grads=True)
    with torch.no_grad():
        scaled = [p.abs() * g if rho >= ADAPTIVE else g for p, g in zip(own.values(), gradients, strict=True)]
        norm = torch.stack([part.norm() for part in scaled]).norm().clamp(min=1e-12)
        ways = [p.abs() * s if rho >= ADAPTIVE else s for p, s in zip(own.values(), scaled, strict=True)]
        moves = [way * (rho / norm) for way in ways]
    raised = {name: p + move for (name, p), move in zip(own.items(), moves, strict=True)}
    return raised | {name: buffer.clone() for name, buffer in network.named_buffers()}
