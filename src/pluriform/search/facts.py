"""How a network was found, as plain JSON: the tree of trials, the front of trade-offs, the budget."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pluriform.search.choice import feasible, score_of
from pluriform.search.journal import Journal, Trial
from pluriform.search.morphism import Morph
from pluriform.search.plan import Plan

__all__ = ["accumulated_figures", "pareto_front", "search_facts", "trial_facts"]

SHOWN = ("seconds", "epochs", "total_seconds", "total_epochs", "latency", "scores", "ended", "untrained")


def search_facts(
    journal: Journal,
    plan: Plan,
    *,
    objective: str,
    validation: int,
    best: Trial | None = None,
    state: Literal["running", "finished", "interrupted"] = "finished",
) -> dict[str, Any]:
    """Facts of a search.

    Args:
        journal: Of the search.
        plan: How it goes.
        objective: What scores are: `accuracy`, `rmse` (scores are its negative) or the name of a metric.
        validation: Samples that scores were measured on.
        best: What came out; while it runs, the trial with the best score so far.
        state: Of the search.

    Returns:
        `trials` (see `trial_facts`), `best` and `front` (numbers of trials), `clock` (seconds of the search after which
        each trial ended), `seconds` (wall time of all sittings), the budget as `minutes` and `most_trials`, and what
        was given, by name.
    """
    trials = journal.trials()
    done = [trial for trial in trials if trial.state == "done"]
    if best is None:
        best = max(feasible(done, plan.max_latency), key=score_of, default=None)
    most = plan.budget.most_trials
    return {
        "trials": [trial_facts(trial) for trial in trials],
        "best": None if best is None else best.number,
        "front": pareto_front(done),
        "clock": [trial.figures.get("told_seconds") for trial in trials],
        "objective": objective,
        "validation": validation,
        "strategy": plan.strategy,
        "seconds": round(plan.budget.seconds if state == "running" else float(journal.fact("seconds", 0.0)), 3),
        "minutes": plan.budget.minutes,
        "most_trials": int(most) if math.isfinite(most) else None,
        "state": state,
        "interrupted": state == "interrupted",
    }


def trial_facts(trial: Trial) -> dict[str, Any]:
    """One trial: `number`, `parent`, `operation`, `state`, `score`, `predicted`, `deviation`, `failure`, its cost.

    `zero_cost` has what was told of the network before its training, by name.
    """
    figures = {name: trial.figures[name] for name in SHOWN if name in trial.figures}
    return {
        "number": trial.number,
        "parent": trial.parent,
        "operation": operation(trial),
        "moves": [str(Morph.from_json(move)) for move in trial.moves],
        "state": trial.state,
        "told": trial.told,
        "score": trial.score,
        "predicted": trial.plan.get("predicted"),
        "deviation": trial.plan.get("deviation"),
        "zero_cost": trial.plan.get("zero_cost"),
        "parameters": trial.figures.get("parameters", trial.plan.get("parameters")),
        "failure": trial.failure,
        "reason": trial.reason,
        **figures,
    }


def accumulated_figures(trial: Trial, parent: Trial | None, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of a trial, with what its ancestors spent before it, whose weights it had."""
    before = {} if parent is None or trial.plan.get("scratch") else parent.figures
    totals = {f"total_{name}": figures[name] + before.get(f"total_{name}", 0.0) for name in ("epochs", "seconds")}
    return {**figures, **totals}


def operation(trial: Trial) -> str:
    """`start`, `train on`, `from scratch`, or the kinds of its moves."""
    if trial.parent is None and not trial.moves:
        return "start"
    if trial.plan.get("final"):
        return "from scratch" if trial.plan.get("scratch") else "train on"
    return " + ".join(move["operation"] for move in trial.moves)


def pareto_front(trials: Sequence[Trial]) -> list[int]:
    """Numbers of the trials that no other one beats in score, parameters and latency at once, the best score first."""
    found = [(t.number, (-(t.score or 0.0), t.figures["parameters"], t.figures["latency"])) for t in trials]

    def beaten(mine: tuple[Any, ...]) -> bool:
        return any(all(a <= b for a, b in zip(other, mine, strict=True)) and other != mine for _, other in found)

    return [number for number, mine in sorted(found, key=lambda pair: pair[1]) if not beaten(mine)]
