"""Masked affine normalizing flow (masked RealNVP with the gates of a GRU), for multiplicative noise."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Flow", "FlowStep", "Flowed"]

GATE_BIAS = 2.0  # sigmoid(2) = 0.88: a step starts near the identity.
SPREAD = 0.01


@dataclass(frozen=True, eq=False)
class Flowed:
    """Where a flow took its inputs.

    Attributes:
        z: Shape `(..., size)`.
        log_det: Logarithm of the absolute determinant of dz / dz0, shape `(...)`.
    """

    z: Tensor
    log_det: Tensor


class FlowStep(nn.Module):
    """One invertible step: half of the entries moves, steered by the other half.

    With the mask b, h = tanh(A (b z)), g = sigmoid(G h), t = T h:
    z' = b z + (1 - b) (g z + (1 - g) t), log det = sum (1 - b) log g.

    Args:
        mask: 1 where an entry stays, shape `(size,)`.
        hidden: Width of h.
        start: Value of t before training.
    """

    mask: Tensor

    def __init__(self, mask: Tensor, hidden: int, start: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.inner = nn.Linear(len(mask), hidden)
        self.gate, self.shift = nn.Linear(hidden, len(mask)), nn.Linear(hidden, len(mask))
        for layer, bias in ((self.gate, GATE_BIAS), (self.shift, start)):
            nn.init.normal_(layer.weight, std=SPREAD)
            nn.init.constant_(layer.bias, bias)

    def forward(self, z: Tensor) -> Flowed:
        """Take `(..., size)` one step further."""
        hidden = torch.tanh(self.inner(self.mask * z))
        log_gate = F.logsigmoid(self.gate(hidden))
        gate, free = log_gate.exp(), 1 - self.mask
        moved = gate * z + (1 - gate) * self.shift(hidden)
        return Flowed(self.mask * z + free * moved, (free * log_gate).sum(-1))


class Flow(nn.Module):
    """Steps one after the other; the mask of an odd step is the complement of the mask before it.

    A mask keeps a random half of the entries (torch's default generator), drawn once, so that two steps move every
    entry; the released code draws each entry by itself, anew in every pass.

    Args:
        size: Entries of z.
        steps: How many; 0 is the identity.
        hidden: Width inside each.
        start: Value that the steps pull towards before training.
    """

    def __init__(self, size: int, steps: int, hidden: int, start: float = 0.0) -> None:
        super().__init__()
        self.steps = nn.ModuleList()
        mask = torch.zeros(size)
        for step in range(steps):
            mask = 1 - mask if step % 2 else _half(size)
            self.steps.append(FlowStep(mask, hidden, start))

    def forward(self, z: Tensor) -> Flowed:
        """Take `(..., size)` through all steps."""
        log_det = z.new_zeros(z.shape[:-1])
        for step in self.steps:
            flowed = step(z)
            z, log_det = flowed.z, log_det + flowed.log_det
        return Flowed(z, log_det)


def _half(size: int) -> Tensor:
    return (torch.randperm(size) < size // 2).float()
