"""Detection of one kind of sample among another: AUROC, AUPR and the false positive rate at 95 % recall.

All three are functions of how many positives and negatives share each score, from the highest score to the lowest.
Equal scores are thereby one threshold, as they must be, and a bootstrap only has to redraw the counts.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["ScoreCounts", "aupr", "auroc", "fpr95", "score_counts"]

Positives = Float[Tensor, "positive"]
Negatives = Float[Tensor, "negative"]


@dataclass(frozen=True, eq=False)
class ScoreCounts:
    """Samples for every distinct score, highest first; leading axes are resamples.

    Attributes:
        positives: Shape `(..., scores)`.
        negatives: Shape `(..., scores)`.
    """

    positives: Tensor
    negatives: Tensor

    def auroc(self) -> Tensor:
        """Probability that a positive outscores a negative, ties counting one half."""
        below = self.negatives.flip(-1).cumsum(-1).flip(-1) - self.negatives / 2
        pairs = self.positives.sum(-1) * self.negatives.sum(-1)
        return (self.positives * below).sum(-1) / pairs

    def aupr(self) -> Tensor:
        """Average precision: `sum_k (recall_k - recall_{k-1}) precision_k` over distinct thresholds."""
        hits, alarms = self.positives.cumsum(-1), self.negatives.cumsum(-1)
        precision = hits / (hits + alarms).clamp_min(1)
        return (self.positives * precision).sum(-1) / self.positives.sum(-1)

    def fpr_at(self, recall: float) -> Tensor:
        """Share of negatives above the highest threshold that catches at least `recall` of the positives."""
        hits, alarms = self.positives.cumsum(-1), self.negatives.cumsum(-1)
        reached = hits >= recall * hits[..., -1:] - 1e-9
        first = reached.double().argmax(-1, keepdim=True)
        return alarms.gather(-1, first).squeeze(-1) / alarms[..., -1]

    def coarse(self, bins: int) -> "ScoreCounts":
        """Neighbouring scores merged into at most `bins` groups of about equal mass."""
        mass = (self.positives + self.negatives).cumsum(-1)
        group = (mass / mass[-1] * bins).ceil().long().sub(1).clamp(0, bins - 1)
        merged = [torch.bincount(group, column, bins) for column in (self.positives, self.negatives)]
        kept = merged[0] + merged[1] > 0
        return ScoreCounts(merged[0][kept], merged[1][kept])


def score_counts(positives: Positives, negatives: Negatives) -> ScoreCounts:
    """Count positives and negatives at every distinct score; higher scores are read as positive."""
    pooled = torch.cat([positives, negatives]).double()
    values, group = torch.unique(-pooled, return_inverse=True)
    size = len(values)
    return ScoreCounts(
        torch.bincount(group[: len(positives)], minlength=size).double(),
        torch.bincount(group[len(positives) :], minlength=size).double(),
    )


def auroc(positives: Positives, negatives: Negatives) -> float:
    """Area under the ROC curve: the probability that a positive outscores a negative, ties counting one half."""
    return float(score_counts(positives, negatives).auroc())


def aupr(positives: Positives, negatives: Negatives) -> float:
    """Area under the precision-recall curve as average precision; it depends on the numbers of both kinds."""
    return float(score_counts(positives, negatives).aupr())


def fpr95(positives: Positives, negatives: Negatives) -> float:
    """Share of negatives raised as alarms when 95 % of the positives are caught.

    With outliers as positives this is the convention of OpenOOD v1.5 (Zhang et al., 2023, arXiv 2306.09301); with
    in-distribution samples as positives that of ODIN (Liang, Li, Srikant, 2018, arXiv 1706.02690).
    """
    return float(score_counts(positives, negatives).fpr_at(0.95))
