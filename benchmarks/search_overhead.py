"""Share of the wall time of a search that is not spent in trials.

    python benchmarks/search_overhead.py --trials 40 --out benchmarks/search_overhead.json

A search in one process, on FashionMNIST from LeNet. What the trials themselves took (building the child, training,
scoring, writing its weights) is taken from the journal; the rest of the wall time is bookkeeping: proposing, journal,
reading the start, giving the result back.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import pluriform as pf
from pluriform.search.bayesian_search import BayesianSearch


def timed_search(net: str, trials: int, epochs: int, folder: Path) -> dict[str, Any]:
    """One search with every proposal timed."""
    data = pf.load("fashion-mnist" if net == "lenet" else "digits")
    asked: list[float] = []
    real = BayesianSearch.ask

    def ask(self: BayesianSearch) -> Any:
        begin = time.perf_counter()
        found = real(self)
        asked.append(time.perf_counter() - begin)
        return found

    BayesianSearch.ask = ask
    try:
        module = pf.nets.build(net, data)
        method = pf.MorphismSearch(trials=trials, epochs=epochs, final=0)
        begin = time.perf_counter()
        form: Any = method.fit(module, data, run=folder)
        wall = time.perf_counter() - begin
    finally:
        BayesianSearch.ask = real
    in_trials = sum(trial["seconds"] for trial in form.facts["trials"] if trial["state"] == "done")
    return {
        "data": data.name,
        "net": net,
        "trials": trials,
        "epochs": epochs,
        "wall_seconds": round(wall, 2),
        "seconds_in_trials": round(in_trials, 2),
        "bookkeeping_share": round(1 - in_trials / wall, 4),
        "proposal_seconds": {
            "median": round(statistics.median(asked), 3),
            "largest": round(max(asked), 3),
            "share": round(sum(asked) / wall, 4),
        },
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="lenet")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--out", default="benchmarks/search_overhead.json")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = timed_search(chosen.net, chosen.trials, chosen.epochs, Path(folder) / "run")
    environment = {"processor": platform.machine(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    Path(chosen.out).write_text(json.dumps({**figures, "environment": environment}, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
