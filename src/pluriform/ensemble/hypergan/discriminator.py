"""The latent discriminator, which keeps the codes of every layer spread like the prior."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pluriform.ensemble.hypergan.mixer import Codes

__all__ = ["AdversarialLosses", "Discriminator"]


PENALTY = 1.0


class AdversarialLosses(NamedTuple):
    """Both sides of the game on one batch of codes.

    Attributes:
        discriminator: Its gradient reaches the discriminator only; 2 ln 2 where it cannot tell codes from the prior.
        codes: Non-saturating loss of the mixer; its gradient reaches the codes only.
    """

    discriminator: Tensor
    codes: Tensor


class Discriminator(nn.Module):
    """D: one network for all layers, which sees one code at a time and gives a logit, high for samples of N(0, I).

    It matches each code's marginal to the prior and leaves the joint distribution over the layers free.

    Args:
        code_size: Length of a code.
        hidden: Width of its two hidden layers.

    References:
        Ratzlaff, Li 2019, arXiv:1901.11058, Eq. 3, with the non-saturating loss for the mixer.
    """

    def __init__(self, code_size: int, hidden: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(code_size, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1)
        )

    def forward(self, codes: Tensor) -> Tensor:
        """Logits `(...,)` of codes `(..., code)`."""
        return self.body(codes).squeeze(-1)

    def losses(self, codes: Codes) -> AdversarialLosses:
        """The two losses, which share no gradient: one optimiser step over both plays both sides at once.

        The discriminator's has a penalty on its gradient at prior samples (R1), without which it runs away from the
        mixer and the codes flee instead of spreading. Prior samples come from torch's default generator.
        """
        prior = torch.randn_like(codes).requires_grad_()
        true = self(prior)
        (slope,) = torch.autograd.grad(true.sum(), prior, create_graph=True)
        penalty = PENALTY / 2 * slope.square().sum(-1).mean()
        own = F.softplus(-true).mean() + F.softplus(self(codes.detach())).mean() + penalty
        frozen = {name: parameter.detach() for name, parameter in self.named_parameters()}
        judged = torch.func.functional_call(self, frozen, (codes,))
        return AdversarialLosses(own, F.softplus(-judged).mean())
