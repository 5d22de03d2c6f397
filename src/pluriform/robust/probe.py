"""`Probe`: notices catastrophic overfitting, where a crude attack is learned and a better one breaks everything."""

import math

import torch
from torch import Tensor, nn

from pluriform.attacks.threat import Threat
from pluriform.data.data import Split
from pluriform.robust.accuracy import robust_accuracy

__all__ = ["Probe", "fallen"]

DROP = 0.2
STEPS = 5


def fallen(before: float, now: float) -> bool:
    """Whether robust accuracy fell by more than 0.2; never where nothing was known before."""
    return before - now > DROP


class Probe:
    """Accuracy of some training samples under PGD of five steps, every `every` updates.

    While the radius of the training grows, the accuracy at a new radius is held against what the earlier weights had
    there, so that only the weights can make it fall.

    Args:
        network: What is trained.
        samples: Always the same ones.
        every: Updates between two looks.

    Attributes:
        accuracy: At the last look, NaN before the first; changed in place.
        before: What that look found at the radius of the next one; changed in place.
        since: Updates since the last look, or -1 before the first and after a roll-back; changed in place.

    References:
        Wong, Rice, Kolter 2020, Fast is better than free, arXiv:2001.03994, section 5.4.
    """

    def __init__(self, network: nn.Module, samples: Split, every: int) -> None:
        self.network, self.samples, self.every = network, samples, every
        self.accuracy = torch.full((), math.nan, dtype=torch.float64)
        self.before = torch.full((), math.nan, dtype=torch.float64)
        self.since = torch.full((), -1, dtype=torch.int64)

    @property
    def state(self) -> dict[str, Tensor]:
        """Everything that changes, for a checkpoint."""
        return {"accuracy": self.accuracy, "before": self.before, "since": self.since}

    @property
    def due(self) -> bool:
        """Whether the next call looks."""
        return int(self.since) in (-1, self.every - 1)

    def forwards(self, looks: int = 1) -> int:
        """Forward passes of so many looks, at most."""
        return looks * len(self.samples) * (2 * STEPS + 3)

    def look(self, now: Threat, following: Threat) -> str | None:
        """Called before every update; what is wrong, in words, where it is time to look.

        Args:
            now: The threat of this update.
            following: That of the next look.
        """
        if not self.due:
            self.since += 1
            return None
        self.since.zero_()
        found = robust_accuracy(self.network, self.samples, now, STEPS)
        known = float(self.before)
        self.accuracy.fill_(found)
        self.before.fill_(found if now == following else robust_accuracy(self.network, self.samples, following, STEPS))
        if not fallen(known, found):
            return None
        return f"catastrophic overfitting: accuracy under PGD-{STEPS} fell from {known:.2f} to {found:.2f}"

    def forget(self) -> None:
        """Look again at once and compare with nothing, as after a roll-back."""
        self.before.fill_(math.nan)
        self.since.fill_(-1)
