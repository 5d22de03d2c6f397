"""Search a table with Optuna's TPE; run in an environment that has optuna and NumPy.

    .venv-peers/bin/python benchmarks/peers/optuna_tables.py TASK.npz FOUND.json

The task holds `sizes`, the canonical number of every raw candidate (`canonical`, of shape `sizes`), a score for every
canonical number (`scores`), the first candidates of every seed (`initial`, `(seeds, count, positions)`), the seeds and
the number of `evaluations`. A canonical candidate that was met before is free: its score is told again. Writes the
canonical numbers in the order met, and what a proposal took in seconds of the process.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import optuna

MOST_ASKED = 3000


def search(task: dict[str, np.ndarray], index: int) -> dict:
    """One seed."""
    sizes, canonical, scores = task["sizes"], task["canonical"], task["scores"]
    sampler = optuna.samplers.TPESampler(seed=int(task["seeds"][index]), n_startup_trials=len(task["initial"][index]))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for row in task["initial"][index]:
        study.enqueue_trial({f"x{i}": int(choice) for i, choice in enumerate(row)})
    met: dict[int, None] = {}
    begin, asked = time.process_time(), 0
    while len(met) < int(task["evaluations"]) and asked < MOST_ASKED:
        trial = study.ask()
        place = tuple(trial.suggest_categorical(f"x{i}", range(int(size))) for i, size in enumerate(sizes))
        number = int(canonical[place])
        met.setdefault(number, None)
        study.tell(trial, float(scores[number]))
        asked += 1
    return {"met": list(met), "asked": asked, "seconds": (time.process_time() - begin) / asked}


def main() -> None:
    """All seeds of the task."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    task = dict(np.load(sys.argv[1]))
    runs = [search(task, index) for index in range(len(task["seeds"]))]
    Path(sys.argv[2]).write_text(json.dumps({"optuna": optuna.__version__, "runs": runs}))


if __name__ == "__main__":
    main()
