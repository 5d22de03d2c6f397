"""Search strategies on NAS-Bench-Macro and NAS-Bench-201 (12 epochs), all from the same initial networks of each seed.

    python benchmarks/search_tables.py [--seeds 100] [--model-seeds 20] [--only ours random] [--tables macro]
        [--peers .venv-peers]

Writes search_tables.json beside this file. Every ten seeds of a strategy on a table are a part below
runs/search_tables; parts that are there and of these settings are not run again. Regret is how far the incumbent, by
the score that the search sees, is from the best of the table: by true score (three-run mean on Macro, where a search
sees run `seed % 3`; test accuracy on NAS-Bench-201) and by the score seen. A network that was met before is free.
Seconds are those of the process, with other work on the machine. Intervals are 95 % bootstrap intervals over seeds.

True regret has a part that no search can choose. On CIFAR-100 of NAS-Bench-201 two cells share the best score told; of
equals the first that was met is the incumbent, and their true regrets are 0.14 and 0.54 points.

Models are judged by themselves: after 50, 100 and 150 observations of a search, on 300 networks of the table that it
has not seen: Kendall's tau of predicted against told scores, mean log-likelihood (deviation of the prediction and noise
of the kernel together; scores lifted as the model lifts them) and how many lie within 95 % intervals; and tau of what
was proposed, each predicted before it was told.
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
from scipy import stats

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
MODELS = ("ours", "one-hot")
MODEL_SEEDS, HELD, MODEL_STEPS = 20, 300, (50, 100, 150)
RESAMPLES = 2000
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


def run_model(name: str, table_name: str, seed: int) -> dict:
    """How good the predictions of one search are."""
    table = table_of(table_name, seed)
    strategy: Any = STRATEGIES[name][1](table, seed)
    generator = np.random.default_rng([seed, 4])
    keys, predicted, observed, rows = sorted(table.guide), [], [], []
    for count in range(1, EVALUATIONS + 1):
        candidate = strategy.ask()
        score = table.guide[candidate]
        if count > INITIAL:
            predicted.append(float(strategy.predict([candidate]).mean[0]))
            observed.append(score)
        strategy.tell(candidate, score)
        if count in MODEL_STEPS:
            unseen = [key for key in keys if key not in strategy.trials]
            drawn = [unseen[int(i)] for i in generator.permutation(len(unseen))[:HELD]]
            rows.append(_quality(strategy, drawn, np.array([table.guide[key] for key in drawn])))
    tau = stats.kendalltau(predicted, observed).statistic
    return {"seed": seed, "held out": rows, "tau of proposals": float(tau)}


def _quality(strategy: Any, drawn: list[Choices], scores: np.ndarray) -> list[float]:
    """Tau, log-likelihood and share within 95 % intervals."""
    belief, model = strategy.predict(drawn), strategy.model
    tau = stats.kendalltau(belief.mean, scores).statistic
    middle, upper = np.quantile([one.gain for one in strategy.trials.observed], [0.5, 0.75])
    scores = np.maximum(scores, middle - model.tail * (upper - middle))
    noise = model.scales.noise * model.scales.amplitude * model.standardised.spread**2
    deviation = np.sqrt(belief.deviation**2 + noise)
    apart = (scores - belief.mean) / deviation
    likelihood = np.mean(-0.5 * apart**2 - np.log(deviation) - 0.5 * np.log(2 * np.pi))
    return [float(tau), float(likelihood), float(np.mean(np.abs(apart) < 1.96))]


def run_models(args: argparse.Namespace, folder: Path) -> None:
    """What is missing of the models."""
    for seed in range(args.model_seeds):
        for table_name in args.tables:
            for name in set(MODELS) & set(args.only):
                key = {"model": name, "table": table_name, "seed": seed, "version": VERSIONS.get(name, 1)}
                path = folder / "models" / "parts" / f"{table_name}_{name}_{seed}.json"
                if not part_is_current(path, key):
                    write_part(path, {"key": key, **run_model(name, table_name, seed)})
                    print("model", table_name, name, seed, flush=True)


def models(folder: Path) -> dict:
    """Means over seeds, with intervals, of what models are worth."""
    found: dict[str, dict[str, list[dict]]] = {}
    for part in read_parts(folder / "models"):
        if part["key"]["version"] == VERSIONS.get(part["key"]["model"], 1):
            found.setdefault(part["key"]["table"], {}).setdefault(part["key"]["model"], []).append(part)
    return {name: {model: _model(rows) for model, rows in found[name].items()} for name in TABLES if name in found}


def _model(rows: list[dict]) -> dict:
    held = np.array([row["held out"] for row in rows])
    names = ("tau", "log-likelihood", "within 95 %")
    return {
        "seeds": len(rows),
        "tau of proposals": _means(np.array([[row["tau of proposals"]] for row in rows])),
        **{name: _means(held[:, :, place]) for place, name in enumerate(names)},
    }


def summary(folder: Path) -> dict:
    """Means with standard errors of all parts on disk."""
    found: dict[str, dict[str, list[dict]]] = {}
    for part in read_parts(folder):
        if "strategy" in part["key"] and part["key"]["version"] == VERSIONS.get(part["key"]["strategy"], 1):
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


def _means(values: np.ndarray) -> dict[str, list]:
    """Means over seeds, `(seeds, steps)`, their standard errors and 95 % bootstrap intervals."""
    count, steps = values.shape
    found = {"mean": _rounded(values.mean(axis=0)), "error": [0.0] * steps}
    if count > 1:
        drawn = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
        ends = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975], axis=0)
        found |= {"error": _rounded(values.std(axis=0, ddof=1) / np.sqrt(count))}
        found |= {"low": _rounded(ends[0]), "high": _rounded(ends[1])}
    return found


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]


def table_lines(record: dict) -> list[str]:
    """The record for the terminal: regret with its interval, and tau of held-out networks."""
    steps, lines = record["evaluations"], []
    for name, strategies in record["tables"].items():
        lines.append(f"{name}: true regret after {', '.join(map(str, steps))} evaluations (95 % interval)")
        for strategy, figures in strategies.items():
            found = figures["true regret"]
            ends = zip(found["mean"], found.get("low", found["mean"]), found.get("high", found["mean"]), strict=True)
            cells = "  ".join(f"{mean:.3f} ({low:.3f} to {high:.3f})" for mean, low, high in ends)
            lines.append(f"  {strategy:22}{figures['seeds']:4} seeds  {cells}")
        for model, figures in record["models"].get(name, {}).items():
            tau = "  ".join(f"{mean:.2f}" for mean in figures["tau"]["mean"])
            within = "  ".join(f"{100 * mean:.0f} %" for mean in figures["within 95 %"]["mean"])
            proposed = figures["tau of proposals"]["mean"][0]
            steps_said = ", ".join(map(str, MODEL_STEPS))
            lines.append(
                f"  model of {model}: tau at {steps_said}: {tau}; within 95 %: {within}; proposals {proposed:.2f}"
            )
    return lines


def main() -> None:
    """Run what is missing, then write the record of all parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--model-seeds", type=int, default=MODEL_SEEDS, help="searches whose models are judged")
    parser.add_argument("--only", nargs="+", default=list(ORDER), choices=ORDER)
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=TABLES)
    parser.add_argument("--peers", type=Path, default=ROOT / ".venv-peers", help="environment with optuna")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/search_tables")
    args = parser.parse_args()
    run_parts(args, args.runs)
    run_models(args, args.runs)
    record = {
        "what": "regret in points of accuracy after 25, 50, 100 and 150 evaluations; error is the standard error, "
        "low and high are ends of a 95 % bootstrap interval over seeds",
        "evaluations": list(STEPS),
        "initial": INITIAL,
        "strategies": {**{name: text for name, (text, _) in STRATEGIES.items()}, "tpe": "TPE of Optuna 5.0.0"},
        "tables": summary(args.runs),
        "model steps": list(MODEL_STEPS),
        "models": models(args.runs),
        **environment(),
    }
    print("\n".join(table_lines(record)))
    write_record(Path(__file__).with_suffix(".json"), record)


if __name__ == "__main__":
    main()
