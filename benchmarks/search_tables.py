"""Search strategies on NAS-Bench-Macro and NAS-Bench-201 (12 epochs), all from the same initial networks of each seed.

    python benchmarks/search_tables.py [--seeds 100] [--only ours random] [--tables macro] [--peers .venv-peers]

Writes search_tables.json beside this file. Every ten seeds of a strategy on a table are a part below
runs/search_tables; parts that are there and of these settings are not run again. Regret is how far the incumbent, by
the score that the search sees, is from the best of the table: by true score (three-run mean on Macro, where a search
sees run `seed % 3`; test accuracy on NAS-Bench-201) and by the score seen. A network that was met before is free.
Seconds are those of the process, with other work on the machine.
"""

import argparse
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pluriform.search.annealed_search import Annealing
from pluriform.search.auto_keras import AutoKeras
from pluriform.search.bayesian_search import BayesianSearch
from pluriform.search.benchmark_tables import nas_bench_201, nas_bench_macro
from pluriform.search.local_search import LocalSearch
from pluriform.search.mutate_incumbent import MutateIncumbent
from pluriform.search.random_search import RandomSearch
from pluriform.search.regularised_evolution import RegularisedEvolution
from pluriform.search.strategy import Strategy
from pluriform.search.table import Choices, Table, replay

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "reproductions"))

from records import environment, part_is_current, read_parts, write_part, write_record  # noqa: E402

EVALUATIONS, INITIAL, BLOCK = 150, 10, 10
STEPS = (25, 50, 100, 150)
TABLES = ("cifar10", "cifar100", "macro")
VERSIONS = {"ours": 2, "one-hot": 2}
"""1 for the others; raised when a strategy changes, so that its older parts are run again."""

STRATEGIES: dict[str, tuple[str, Callable[[Table, int], Strategy]]] = {
    "random": ("random search", lambda table, seed: RandomSearch(table, seed=seed)),
    "evolution": ("regularised evolution, population 30, sample 5", lambda t, s: RegularisedEvolution(t, seed=s)),
    "local": ("local search, first improvement, restarts", lambda t, s: LocalSearch(t, seed=s)),
    "mutate": ("mutate the incumbent", lambda t, s: MutateIncumbent(t, seed=s)),
    "one-hot": (
        "one-hot RBF Gaussian process, the optimiser of ours",
        lambda t, s: BayesianSearch(t, seed=s, kernel="one-hot", linear=False),
    ),
    "auto-keras": ("Auto-Keras as published", lambda t, s: _auto_keras(t, s, repaired=False)),
    "auto-keras-corrected": ("Auto-Keras corrected", lambda t, s: _auto_keras(t, s, repaired=True)),
    "ours": ("BayesianSearch at its defaults", lambda t, s: BayesianSearch(t, seed=s)),
}
ORDER = ("ours", "random", "evolution", "local", "mutate", "tpe", "one-hot", "auto-keras", "auto-keras-corrected")


def _auto_keras(table: Table, seed: int, *, repaired: bool) -> AutoKeras:
    annealing = Annealing(acceptance="key" if repaired else "popped", lookahead=16)
    return AutoKeras(table, seed=seed, repaired=repaired, annealing=annealing, cost=lambda gain: 1.0 - gain / 100.0)


@functools.cache
def table_of(name: str, seed: int) -> Table:
    """What the search of this seed sees."""
    return nas_bench_macro(seed % 3) if name == "macro" else nas_bench_201(name)


class Listed:
    """Proposals made elsewhere."""

    def __init__(self, candidates: list[Choices]) -> None:
        self.left = candidates[::-1]

    def ask(self) -> Choices:
        """The next of the list."""
        return self.left.pop()

    def tell(self, candidate: Any, score: float) -> None:
        """Not needed."""


class Timed:
    """A strategy with the seconds that its last proposals took."""

    def __init__(self, strategy: Strategy) -> None:
        self.strategy, self.seconds = strategy, []

    def ask(self) -> Any:
        """Timed, by the clock of the process."""
        begin = time.process_time()
        candidate = self.strategy.ask()
        self.seconds.append(time.process_time() - begin)
        return candidate

    def tell(self, candidate: Any, score: float) -> None:
        """Not timed: nothing is computed there."""
        self.strategy.tell(candidate, score)


def run_one(name: str, table_name: str, seed: int) -> dict:
    """One search of a strategy of ours."""
    table = table_of(table_name, seed)
    timed = Timed(STRATEGIES[name][1](table, seed))
    found = replay(timed, table, EVALUATIONS)
    return _row(seed, found, statistics.median(timed.seconds[-10:]))


def _row(seed: int, found: Any, seconds: float) -> dict:
    steps = [min(step, len(found.regret)) - 1 for step in STEPS]
    return {
        "seed": seed,
        "true": [found.regret[i] for i in steps],
        "seen": [found.guide_regret[i] for i in steps],
        "asked": found.asked,
        "seconds": seconds,
    }


def run_tpe(table_name: str, seeds: list[int], python: Path) -> list[dict]:
    """Optuna's TPE in its own environment, block by block of seeds that see the same scores."""
    rows = []
    for column in sorted({seed % 3 for seed in seeds} if table_name == "macro" else {0}):
        mine = [seed for seed in seeds if table_name != "macro" or seed % 3 == column]
        table = table_of(table_name, mine[0])
        keys = sorted(table.guide)
        number = {key: i for i, key in enumerate(keys)}
        canonical = np.zeros(table.sizes, dtype=np.int64)
        for key in keys:
            for same in table.equivalents(key) if table.equivalents else (key,):
                canonical[same] = number[key]
        task = {
            "sizes": np.array(table.sizes),
            "canonical": canonical,
            "scores": np.array([table.guide[key] for key in keys]),
            "initial": np.array([_initial(table, seed) for seed in mine]),
            "seeds": np.array(mine),
            "evaluations": np.array(EVALUATIONS),
        }
        with tempfile.TemporaryDirectory() as folder:
            np.savez(f"{folder}/task.npz", **task)
            script = [python, ROOT / "benchmarks/peers/optuna_tables.py", f"{folder}/task.npz", f"{folder}/found.json"]
            subprocess.run(script, check=True)
            runs = json.loads(Path(f"{folder}/found.json").read_text())["runs"]
        for seed, run in zip(mine, runs, strict=True):
            found = replay(Listed([keys[i] for i in run["met"]]), table, len(run["met"]))
            rows.append({**_row(seed, found, run["seconds"]), "asked": run["asked"]})
    return rows


def _initial(table: Table, seed: int) -> list[Choices]:
    strategy = RandomSearch(table, seed=seed)
    return [strategy.ask() for _ in range(INITIAL)]


def run_parts(args: argparse.Namespace, folder: Path) -> None:
    """What is missing."""
    for first in range(0, args.seeds, BLOCK):
        seeds = list(range(first, min(first + BLOCK, args.seeds)))
        for table_name in args.tables:
            for name in args.only:
                key = {"strategy": name, "table": table_name, "seeds": seeds, "version": VERSIONS.get(name, 1)}
                path = folder / "parts" / f"{table_name}_{name}_{first}.json"
                if part_is_current(path, key):
                    continue
                if name == "tpe":
                    python = args.peers / "bin/python"
                    if not python.exists():
                        continue
                    rows = run_tpe(table_name, seeds, python)
                else:
                    rows = [run_one(name, table_name, seed) for seed in seeds]
                write_part(path, {"key": key, "rows": rows})
                print(table_name, name, seeds[0], "to", seeds[-1], flush=True)


def summary(folder: Path) -> dict:
    """Means with standard errors of all parts on disk."""
    found: dict[str, dict[str, list[dict]]] = {}
    for part in read_parts(folder):
        if part["key"]["version"] == VERSIONS.get(part["key"]["strategy"], 1):
            rows = found.setdefault(part["key"]["table"], {}).setdefault(part["key"]["strategy"], [])
            rows += part["rows"]
    return {table: _table(found[table]) for table in TABLES if table in found}


def _table(strategies: dict[str, list[dict]]) -> dict:
    made = {name: _strategy(strategies[name]) for name in ORDER if name in strategies}
    ours = {row["seed"]: row for row in strategies.get("ours", [])}
    for name, rows in strategies.items():
        pairs = [(row, ours[row["seed"]]) for row in rows if row["seed"] in ours]
        if name != "ours" and len(pairs) > 1:
            gaps = np.array([np.subtract(row["true"], own["true"]) for row, own in pairs])
            made[name]["true regret minus ours, paired"] = _means(gaps)
    return made


def _strategy(rows: list[dict]) -> dict:
    return {
        "seeds": len(rows),
        "true regret": _means(np.array([row["true"] for row in rows])),
        "seen regret": _means(np.array([row["seen"] for row in rows])),
        "proposals": float(np.mean([row["asked"] for row in rows])),
        "seconds per proposal, last ten": float(np.median([row["seconds"] for row in rows])),
    }


def _means(values: np.ndarray) -> dict[str, list[float]]:
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.zeros(values.shape[1])
    return {"mean": [round(float(v), 4) for v in values.mean(axis=0)], "error": [round(float(v), 4) for v in error]}


def main() -> None:
    """Run what is missing, then write the record of all parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--only", nargs="+", default=list(ORDER), choices=ORDER)
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=TABLES)
    parser.add_argument("--peers", type=Path, default=ROOT / ".venv-peers", help="environment with optuna")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/search_tables")
    args = parser.parse_args()
    run_parts(args, args.runs)
    record = {
        "what": "regret in points of accuracy after 25, 50, 100 and 150 evaluations; error is the standard error",
        "evaluations": list(STEPS),
        "initial": INITIAL,
        "strategies": {**{name: text for name, (text, _) in STRATEGIES.items()}, "tpe": "TPE of Optuna 5.0.0"},
        "tables": summary(args.runs),
        **environment(),
    }
    write_record(Path(__file__).with_suffix(".json"), record)


if __name__ == "__main__":
    main()
