"""What a running search says: a line of the log for every trial that begins or ends, with the facts of the search.

Records of the logger `pluriform.search` carry `facts`, a function without arguments that gives the facts of the search
as it stands, for handlers that show more than the line; the last record, `last`, comes when a search stops for any
reason.
"""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

from pluriform.search.budget import Budget
from pluriform.search.choice import feasible, score_of
from pluriform.search.journal import Trial
from pluriform.search.morphism import Morph

__all__ = ["tell_begin", "tell_end", "tell_stop"]

_LOGGER = logging.getLogger("pluriform.search")


def tell_begin(number: int, facts: Callable[[], dict[str, Any]]) -> None:
    """Say, to those who want to know everything, that a trial begins."""
    _LOGGER.debug("trial %d begins", number, extra={"facts": facts})


def tell_stop(facts: Callable[[], dict[str, Any]]) -> None:
    """Say, to those who want to know everything, that the search stops."""
    _LOGGER.debug("the search stops", extra={"facts": facts, "last": True})


def tell_end(
    trial: Trial,
    told: Sequence[Trial],
    max_latency: float | int | None,
    budget: Budget,
    facts: Callable[[], dict[str, Any]],
) -> None:
    """Say what a trial brought, what is best, and what is left.

    Args:
        trial: That ended.
        told: All that ended.
        max_latency: Of what can be the best.
        budget: Of the search.
        facts: Of the search.
    """
    best = max(feasible([one for one in told if one.state == "done"], max_latency), key=score_of, default=None)
    score = f"{trial.score:.4f} in {trial.figures['seconds']:.1f} s" if trial.state == "done" else trial.reason
    left = f"{max(0, budget.most_trials - len(told)):.0f} trials left"
    _LOGGER.info(
        "trial %d%s, %s: %s; best %s; %s",
        trial.number,
        "" if trial.parent is None else f" of {trial.parent}",
        " then ".join(str(Morph.from_json(move)) for move in trial.moves) or "trained",
        score,
        "none yet" if best is None else f"{best.score:.4f} (trial {best.number})",
        f"{max(0.0, budget.left) / 60:.1f} min left" if math.isfinite(budget.left) else left,
        extra={"facts": facts},
    )
