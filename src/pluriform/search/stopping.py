"""Early stopping of hopeless children, fair to inherited weights.

A child begins where its parent ended, a network from scratch at chance. So children are compared with children alone,
at equal epochs of their own since the morph, not before a grace period is over. The least scores travel with a trial
when it is asked for: what it does is then a function of the trial alone, also where it is run again.
"""

from collections.abc import Sequence

import numpy as np

__all__ = ["hopeless", "least_scores"]

FEWEST = 4
"""Finished children below which none is stopped."""


def least_scores(
    histories: Sequence[Sequence[float]], epochs: int, grace: int = 1, share: float | int = 0.25
) -> tuple[float, ...]:
    """The score that a child must have reached after each of its own epochs to go on.

    After epoch e it is the `share`-quantile of the best scores that earlier children had by their own epoch e.

    Args:
        histories: Scores of earlier children after each of their own epochs; stopped ones are shorter.
        epochs: Own epochs of the child.
        grace: Epochs after which nothing is asked for yet.
        share: Of earlier children that would be stopped; 0 stops none.

    Returns:
        One number an epoch; minus infinity where everything may go on.

    Example:
        >>> least_scores([[0.5, 0.6], [0.7, 0.7], [0.6, 0.8], [0.8, 0.9]], epochs=3, grace=1, share=0.5)
        (-inf, 0.75, -inf)
    """
    found = []
    for epoch in range(1, epochs + 1):
        best = [max(history[:epoch]) for history in histories if len(history) >= epoch]
        wanted = epoch > grace and epoch < epochs and len(best) >= FEWEST and share > 0
        found.append(float(np.quantile(best, share)) if wanted else float("-inf"))
    return tuple(found)


def hopeless(scores: Sequence[float], least: Sequence[float]) -> bool:
    """Whether a child with these scores after its own epochs ends now."""
    epoch = len(scores)
    return 0 < epoch <= len(least) and max(scores) < least[epoch - 1]
