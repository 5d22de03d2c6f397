"""Which trial comes out of a search, and what to say where none can."""

import math
from collections import Counter
from collections.abc import Sequence

from pluriform.errors import ConfigError, TaskError, explain
from pluriform.search.journal import Trial

__all__ = ["best_of", "common_cause", "feasible", "score_of"]


def feasible(done: Sequence[Trial], max_latency: float | int | None) -> list[Trial]:
    """Trials whose networks are fast enough."""
    return [trial for trial in done if max_latency is None or trial.figures["latency"] <= max_latency]


def best_of(told: Sequence[Trial], max_latency: float | int | None = None) -> Trial:
    """The best trial that meets the constraints, the first of equals.

    Raises:
        ConfigError: None does; names the closest.
        TaskError: There is none with a score.
    """
    done = [trial for trial in told if trial.state == "done"]
    if not done:
        if told:
            raise common_cause(told)
        got = "none before the time was up"
        raise TaskError(explain("a trial with a score", got, "search", "give more minutes, or a faster start"))
    fine = feasible(done, max_latency)
    if not fine:
        closest = min(done, key=lambda trial: trial.figures["latency"])
        got = f"{closest.figures['latency']:.3g} ms of trial {closest.number}, the closest"
        expected = f"a network of at most {max_latency} ms for one input"
        remedy = "raise max_latency, or start from a faster network"
        raise ConfigError(explain(expected, got, "constraints of a search", remedy))
    return max(fine, key=lambda trial: (score_of(trial), -trial.number))


def score_of(trial: Trial) -> float:
    """What trials are ranked by: the score, ties decided by the loss; minus infinity where it failed."""
    return -math.inf if trial.score is None else float(trial.figures.get("merit", trial.score))


def common_cause(failed: Sequence[Trial]) -> TaskError:
    """The error of a search whose trials all fail: the reason that most of them have."""
    cause, count = Counter(trial.reason for trial in failed).most_common(1)[0]
    full = next(trial.failure for trial in failed if trial.reason == cause)
    got = f"{len(failed)} that failed, {count} of them with {cause}"
    return TaskError(explain("a trial that can be trained", got, "search", f"mend the cause\n{full}"))
