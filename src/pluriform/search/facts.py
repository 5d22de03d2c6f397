"""How a network was found, as plain JSON: the tree of trials, the front of trade-offs, the budget."""

from collections.abc import Sequence
from typing import Any

from pluriform.search.journal import Trial
from pluriform.search.morphism import Morph
from pluriform.search.trials import Search

__all__ = ["pareto_front", "search_facts", "trial_facts"]

SHOWN = ("seconds", "epochs", "total_seconds", "total_epochs", "latency", "scores", "ended", "untrained")


def search_facts(search: Search, best: Trial) -> dict[str, Any]:
    """Facts of a search.

    Returns:
        `trials` (see `trial_facts`), `best` and `front` (numbers of trials), `validation` (samples that scores were
        measured on), `strategy`, `seconds` (wall time of all sittings), `interrupted`.
    """
    trials = search.journal.trials()
    return {
        "trials": [trial_facts(trial) for trial in trials],
        "best": best.number,
        "front": pareto_front(search.done),
        "validation": len(search.common.data.validation),
        "strategy": search.plan.strategy,
        "seconds": round(float(search.journal.fact("seconds", 0.0)), 3),
        "interrupted": search.interrupted,
    }


def trial_facts(trial: Trial) -> dict[str, Any]:
    """One trial: `number`, `parent`, `operation`, `state`, `score`, `predicted`, `deviation`, `failure`, its cost."""
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
        "parameters": trial.figures.get("parameters", trial.plan.get("parameters")),
        "failure": trial.failure,
        "reason": trial.reason,
        **figures,
    }


def operation(trial: Trial) -> str:
    """`start`, `train on`, or the kinds of its moves."""
    if trial.parent is None and not trial.moves:
        return "start"
    if trial.plan.get("final"):
        return "train on"
    return " + ".join(move["operation"] for move in trial.moves)


def pareto_front(trials: Sequence[Trial]) -> list[int]:
    """Numbers of the trials that no other one beats in score, parameters and latency at once, the best score first."""
    found = [(t.number, (-(t.score or 0.0), t.figures["parameters"], t.figures["latency"])) for t in trials]

    def beaten(mine: tuple[Any, ...]) -> bool:
        return any(all(a <= b for a, b in zip(other, mine, strict=True)) and other != mine for _, other in found)

    return [number for number, mine in sorted(found, key=lambda pair: pair[1]) if not beaten(mine)]
