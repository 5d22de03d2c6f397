"""Which trial comes out of a search, and what to say where none can."""

import math
from collections import Counter
from collections.abc import Sequence

from pluriform.errors import ConfigError, TaskError, explain
from pluriform.search.journal import Trial

__all__ = ["best_of", "check_start_latency", "common_cause", "feasible", "score_of"]

SLACK = 2.0
"""Measured latencies of one network differ; a start this many times slower than allowed is too slow for certain."""


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
        raise _too_slow(min(done, key=lambda trial: trial.figures["latency"]), max_latency, "the closest")
    return max(fine, key=lambda trial: (score_of(trial), -trial.number))


def check_start_latency(start: Trial, max_latency: float | int | None) -> None:
    """Raise at once where the start is far too slow: all others are larger.

    Raises:
        ConfigError: With its latency.
    """
    if max_latency is not None and start.figures.get("latency", 0.0) > SLACK * max_latency:
        raise _too_slow(start, max_latency, "the start, the smallest network of the search")


def _too_slow(trial: Trial, max_latency: float | int | None, which: str) -> ConfigError:
    got = f"{trial.figures['latency']:.3g} ms of trial {trial.number}, {which}"
    remedy = "raise max_latency (in another run folder, if there is one), or start from a faster network"
    expected = f"a network of at most {max_latency} ms for one input"
    return ConfigError(explain(expected, got, "constraints of a search", remedy))


def score_of(trial: Trial) -> float:
    """What trials are ranked by: the score, ties decided by the loss; minus infinity where it failed."""
    return -math.inf if trial.score is None else float(trial.figures.get("merit", trial.score))


def common_cause(failed: Sequence[Trial]) -> TaskError:
    """The error of a search whose trials all fail: the reason that most of them have."""
    cause, count = Counter(trial.reason for trial in failed).most_common(1)[0]
    full = next(trial.failure for trial in failed if trial.reason == cause)
    got = f"{len(failed)} that failed, {count} of them with {cause}"
    return TaskError(explain("a trial that can be trained", got, "search", f"mend the cause\n{full}"))
