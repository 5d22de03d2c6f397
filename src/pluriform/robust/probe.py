"""`Probe`: notices catastrophic overfitting, where a crude attack is learned and a better one breaks everything."""

import math

import torch
from torch import Tensor, nn

from pluriform.attacks.threat import Threat
from pluriform.data.data import Split
from pluriform.robust.accuracy import fgsm_accuracy, robust_accuracy

__all__ = ["Probe", "fallen", "masked"]

DROP = 0.2
GAP, SHARE = 0.4, 0.25
STEPS = 5


def fallen(before: float, now: float) -> bool:
    """Whether robust accuracy fell by more than 0.2; never where nothing was known before."""
    return before - now > DROP


def masked(crude: float, now: float) -> bool:
    """Whether one step of FGSM leaves over 0.4 more than PGD does, and PGD less than a quarter of that.

    Plain networks are below this: at radii where PGD leaves little, FGSM leaves less than a half.
    """
    return crude - now > GAP and now < SHARE * crude


class Probe:
    """Accuracy of some training samples under PGD of five steps, every `every` updates.

    It must not fall, and not be far below that under FGSM: where a network never was robust, nothing falls. While the
    radius of the training grows, the accuracy at a new radius is held against what the earlier weights had there, so
    that only the weights can make it fall.

    Args:
        network: What is trained.
        samples: Always the same ones.
        every: Updates between two looks.

    Attributes:
        accuracy: At the last look, NaN before the first; changed in place.
        before: What that look found at the radius of the next one, NaN after a roll-back; changed in place.
        since: Updates since the last look or roll-back; changed in place.

    References:
        Wong, Rice, Kolter 2020, Fast is better than free, arXiv:2001.03994, section 5.4.
    """

    def __init__(self, network: nn.Module, samples: Split, every: int) -> None:
        self.network, self.samples, self.every = network, samples, every
        self.accuracy = torch.full((), math.nan, dtype=torch.float64)
        self.before = torch.full((), math.nan, dtype=torch.float64)
        self.since = torch.full((), every, dtype=torch.int64)  # The first call looks.

    @property
    def state(self) -> dict[str, Tensor]:
        """Everything that changes, for a checkpoint."""
        return {"accuracy": self.accuracy, "before": self.before, "since": self.since}

    @property
    def due(self) -> bool:
        """Whether the next call looks."""
        return int(self.since) >= self.every

    def forwards(self, radii: int = 1) -> int:
        """Forward passes of a look at one or two radii, at most."""
        return len(self.samples) * (radii * (2 * STEPS + 3) + 3)

    def look(self, now: Threat, following: Threat) -> str | None:
        """Called before every update; what is wrong, in words, where it is time to look.

        Args:
            now: The threat of this update.
            following: That of the next look.
        """
        if not self.due:
            self.since += 1
            return None
        self.since.fill_(1)
        known, found = float(self.before), robust_accuracy(self.network, self.samples, now, STEPS)
        crude = fgsm_accuracy(self.network, self.samples, now)
        ahead = found if now == following else robust_accuracy(self.network, self.samples, following, STEPS)
        self.accuracy.fill_(found)
        self.before.fill_(ahead)
        if fallen(known, found):
            return f"catastrophic overfitting: accuracy under PGD-{STEPS} fell from {known:.2f} to {found:.2f}"
        if masked(crude, found):
            return f"catastrophic overfitting: PGD-{STEPS} leaves {found:.2f}, FGSM {crude:.2f}"
        return None

    def forget(self) -> None:
        """Give the gentler setting after a roll-back as many updates before the next look; compare with nothing."""
        self.before.fill_(math.nan)
        self.since.zero_()
