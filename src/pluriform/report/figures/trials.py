"""The trials of an architecture search as figures need them, read from the facts in a result, and said in words."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pluriform.report.digits import prefixed, share, significant
from pluriform.report.row import Row, number

__all__ = ["SearchTrials", "TrialFacts", "kendall_tau", "search_words", "searches"]

WORDS = {"deepen_branch": "branch", "add_skip": "add skip", "concat_skip": "concat skip", "grow_kernel": "kernel"}
NAMES = {"parameters": "number of parameters", "macs": "multiply-accumulates"}
FEWEST = 5
"""Trials below which ranks say nothing."""


@dataclass(frozen=True)
class TrialFacts:
    """One trial.

    Attributes:
        number: In the order asked for.
        parent: Number of the trial whose weights it inherited; `None` for the start.
        operation: What made it from its parent.
        moves: The same in full.
        state: `done`, `failed`, `running`, or `unfinished` where the search ended before it.
        score: Higher is better; `None` where there is none.
        predicted: Score that was expected before it ran.
        deviation: Standard deviation of that.
        parameters: Of its network.
        latency: In ms.
        seconds: That it took.
        clock: Seconds of the search after which it ended.
        reason: Why it failed.
        zero_cost: What was known of it without training, by name.
    """

    number: int
    parent: int | None
    operation: str
    moves: tuple[str, ...]
    state: str
    score: float | None
    predicted: float | None
    deviation: float | None
    parameters: float | None
    latency: float | None
    seconds: float | None
    clock: float | None
    reason: str
    zero_cost: Mapping[str, float]


@dataclass(frozen=True)
class SearchTrials:
    """A search.

    Attributes:
        row: The form that came out.
        trials: By number.
        best: Number of the one that came out; `None` before the first score.
        facts: Everything else.
    """

    row: Row
    trials: tuple[TrialFacts, ...]
    best: int | None
    facts: Mapping[str, Any]

    @property
    def scored(self) -> list[TrialFacts]:
        """Trials with a score."""
        return [trial for trial in self.trials if trial.score is not None]

    @property
    def objective(self) -> str:
        """`accuracy`, `rmse` or the name of a metric."""
        return str(self.facts.get("objective", "accuracy"))

    @property
    def axis(self) -> str:
        """Title of an axis of scores."""
        names = {"accuracy": "validation accuracy, %", "rmse": "validation RMSE"}
        return names.get(self.objective, f"{self.objective.replace('_', ' ')} (validation)")

    @property
    def high(self) -> bool:
        """Whether more of what is shown is better."""
        return self.objective != "rmse"

    def shown(self, score: float) -> float:
        """A score as it is shown: per cent, or the error."""
        return 100 * score if self.objective == "accuracy" else -score if self.objective == "rmse" else score

    def spread(self, trial: TrialFacts) -> float:
        """Standard deviation of the score that was expected, as it is shown: with that of measuring an accuracy."""
        deviation, mean = trial.deviation or 0.0, min(1.0, max(0.0, trial.predicted or 0.0))
        samples = number(self.facts.get("validation")) or math.inf
        measured = mean * (1.0 - mean) / samples if self.objective == "accuracy" else 0.0
        return abs(self.shown(math.sqrt(deviation**2 + measured)))

    def said(self, score: float | None) -> str:
        """A score in words."""
        if score is None:
            return "–"
        return f"{share(score)}\u202f%" if self.objective == "accuracy" else significant(abs(score))

    def trial(self, which: int | None) -> TrialFacts | None:
        """The trial of that number."""
        return next((trial for trial in self.trials if trial.number == which), None)

    def lineage(self, which: int | None) -> list[TrialFacts]:
        """A trial after its ancestors, the start first."""
        found: list[TrialFacts] = []
        while (trial := self.trial(which)) is not None and trial not in found:
            found.append(trial)
            which = trial.parent
        return found[::-1]


def searches(rows: Sequence[Row]) -> list[SearchTrials]:
    """The search of every row that tells of one."""
    return [found for row in rows if (found := _search(row)) is not None]


def _search(row: Row) -> SearchTrials | None:
    facts = row.result.protocol.get("search")
    if not isinstance(facts, Mapping) or not facts.get("trials"):
        return None
    clock = list(facts.get("clock") or [])
    clock += [None] * (len(facts["trials"]) - len(clock))
    left = "running" if facts.get("state") == "running" else "unfinished"
    trials = [_trial(told, ended, left) for told, ended in zip(facts["trials"], clock, strict=False)]
    return SearchTrials(row, tuple(trials), facts.get("best"), facts)


def _trial(told: Mapping[str, Any], ended: Any, left: str) -> TrialFacts:
    kinds = Counter(WORDS.get(kind, kind.replace("_", " ")) for kind in str(told.get("operation", "")).split(" + "))
    numbers = ("score", "predicted", "deviation", "parameters", "latency", "seconds")
    figures: dict[str, Any] = {name: number(told.get(name)) for name in numbers}
    return TrialFacts(
        number=int(told["number"]),
        parent=told.get("parent"),
        operation=" + ".join(f"{kind} ×{times}" if times > 1 else kind for kind, times in kinds.items()),
        moves=tuple(map(str, told.get("moves", ()))),
        state=left if told.get("state") == "running" else str(told.get("state", "")),
        clock=number(ended),
        reason=str(told.get("reason", "")),
        zero_cost=told.get("zero_cost") or {},
        **figures,
    )


def search_words(row: Row) -> list[str]:
    """What a search found, in two or three sentences; none where the row tells of none."""
    search = _search(row)
    if search is None:
        return []
    running = search.facts.get("state") == "running"
    failed = sum(trial.state == "failed" for trial in search.trials)
    ended = sum(trial.state in ("done", "failed") for trial in search.trials)
    seconds = number(search.facts.get("seconds")) or 0.0
    count = f"{ended} network{'' if ended == 1 else 's'}" + (f" ({failed} failed)" if failed else "")
    sentences = []
    if running:
        sentences.append(_running(search, seconds))
    sentences.append(
        f"{row.label} has {'so far ' if running else ''}tried {count} in {minutes(seconds)}{_best(search)}."
    )
    sentences += _untrained(search)
    if search.facts.get("state") == "interrupted":
        sentences.append(f"The search of {row.label} was stopped by hand; the same call goes on with it.")
    if search.facts.get("state") == "failed":
        sentences.append(f"The search of {row.label} ended with an error, which the terminal told.")
    return sentences


def _untrained(search: SearchTrials) -> list[str]:
    """How well what is known without training ranks the networks that were tried."""
    rows = [trial for trial in search.scored if trial.zero_cost]
    scores = [trial.score or 0.0 for trial in rows]
    names = [name for name in (rows[0].zero_cost if rows else ()) if all(name in trial.zero_cost for trial in rows)]
    taus = {name: kendall_tau([trial.zero_cost[name] for trial in rows], scores) for name in names}
    said = [f"{NAMES.get(name, name)} {tau:.2f}" for name, tau in taus.items() if tau is not None]
    if len(rows) < FEWEST or not said:
        return []
    return [f"Kendall's tau of the scores with what is known before training: {', '.join(said)}."]


def _running(search: SearchTrials, seconds: float) -> str:
    budget, most = number(search.facts.get("minutes")), search.facts.get("most_trials")
    left = [f"{minutes(max(0.0, 60 * budget - seconds))} left"] if budget else []
    left += [f"{max(0, most - len(search.trials))} more networks to come"] if most else []
    now = [f"{t.number} ({t.operation}{'' if t.parent is None else f' of {t.parent}'})" for t in search.trials]
    now = [said for said, trial in zip(now, search.trials, strict=True) if trial.state == "running"]
    trials = f"trial{'' if len(now) == 1 else 's'} {', '.join(now)}" if now else "between two trials"
    return f"This search is running: {'; '.join([trials, *left])}."


def _best(search: SearchTrials) -> str:
    best, start = search.trial(search.best), search.trial(0)
    if best is None or best.score is None:
        return ""
    samples = search.facts.get("validation")
    where = f" on {samples} validation samples" if samples else ""
    name = {"accuracy": "an accuracy", "rmse": "an RMSE"}.get(search.objective, f"a {search.objective}")
    said = f"; the best, trial {best.number}, has {name} of {search.said(best.score)}{where}"
    if start is None or start.score is None or best is start:
        return said + (" and is the start itself" if best is start else "")
    grown = [trial.operation for trial in search.lineage(search.best)[1:]]
    path = ", then ".join(grown) if len(grown) <= 5 else f"{len(grown)} steps"
    size = (best.parameters or 0.0) / (start.parameters or math.inf)
    times = f" and has {prefixed(best.parameters or 0)} parameters, {significant(size)} times as many" if size else ""
    return f"{said}. The start had {search.said(start.score)}; the best came from it by {path}{times}"


def minutes(seconds: float) -> str:
    """A span of time in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def kendall_tau(first: Sequence[float | int], second: Sequence[float | int]) -> float | None:
    """Kendall's tau-b of two sequences, ties taken into account; `None` where one of them is constant.

    tau = (concordant - discordant) / sqrt((pairs - ties of one) (pairs - ties of the other))

    Example:
        >>> kendall_tau([1, 2, 3, 4], [1, 3, 2, 4])
        0.6666666666666666
    """
    signs = [
        (math.copysign(1, a - c) if a != c else 0.0, math.copysign(1, b - d) if b != d else 0.0)
        for i, (a, b) in enumerate(zip(first, second, strict=True))
        for c, d in list(zip(first, second, strict=True))[:i]
    ]
    left, right = sum(a != 0 for a, _ in signs), sum(b != 0 for _, b in signs)
    return sum(a * b for a, b in signs) / math.sqrt(left * right) if left and right else None
