"""`Curriculum`: contrastive samples climb further once the network tells them from data."""

import torch
from torch import Tensor

from pluriform.axes import Scores
from pluriform.metrics.detection import auroc

__all__ = ["Curriculum"]

WINDOW = 1000


class Curriculum:
    """The number of steps T: it begins at 0 and grows by one when the AUROC of data against samples is high enough.

    The AUROC is that of the last 1,000 data and the last 1,000 samples of the current T; after each growth the window
    fills anew.

    Args:
        threshold: Least AUROC that lets T grow.
        most: Largest T.
        window: Images of either kind that the AUROC is taken over.

    Attributes:
        steps: T, int64; changed in place.
        scores: The last scores in a ring, `(2, window)`: of data, of samples; changed in place.
        seen: Scores of either kind taken in at the current T, int64; changed in place.
        area: The last AUROC, NaN before the first; changed in place.

    References:
        Yin et al. 2026, Joint discriminative-generative modeling via dual adversarial training, arXiv:2510.13872.
    """

    def __init__(self, threshold: float, most: int, window: int = WINDOW) -> None:
        self.threshold, self.most = threshold, most
        self.steps = torch.zeros((), dtype=torch.int64)
        self.seen = torch.zeros((), dtype=torch.int64)
        self.scores = torch.zeros(2, window)
        self.area = torch.full((), torch.nan, dtype=torch.float64)

    def __int__(self) -> int:
        return int(self.steps)

    @property
    def state(self) -> dict[str, Tensor]:
        """Everything that changes, for a checkpoint."""
        return {"steps": self.steps, "seen": self.seen, "scores": self.scores, "area": self.area}

    def update(self, data: Scores, samples: Scores) -> None:
        """Take in the scores of a batch of data and of as many samples of the current T; T may grow.

        Args:
            data: The logit of its class for each datum.
            samples: That of the same classes for each sample.
        """
        window = self.scores.shape[1]
        pair = torch.stack([data.detach(), samples.detach()]).float().cpu()[:, -window:]
        self.scores[:, (int(self.seen) + torch.arange(pair.shape[1])) % window] = pair
        self.seen += pair.shape[1]
        if int(self.seen) < window:
            return
        self.area.fill_(auroc(self.scores[0], self.scores[1]))
        if float(self.area) >= self.threshold and int(self.steps) < self.most:
            self.steps += 1
            self.seen.zero_()

    def forget(self) -> None:
        """Fill the window anew, as after a roll-back."""
        self.seen.zero_()
