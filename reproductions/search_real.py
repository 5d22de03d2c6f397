"""Real searches of some minutes on one core: ours, its simple rivals, the start trained all the time, AutoKeras 3.

    PLURIFORM_DATA=... OMP_NUM_THREADS=1 python reproductions/search_real.py
        [--minutes 15] [--data digits fashion-mnist uci:letter] [--arms ours random mutate start autokeras]
        [--seeds 0 1 2] [--longest fashion-mnist:60] [--out runs/search_real] [--kept FOLDER] [--peers .venv-peers]
        [--assemble]

All begin with the network of the paper: three layers of 64 (3x3 convolutions with batch norm, ReLU and pooling, then a
dense layer, for images; dense layers with dropout for the table). `ours` is `MorphismSearch` at its defaults, `random`
and `mutate` are the same with moves by chance from the start and from the best. `start` trains the first network for
the whole time: where there is time for three trainings of 200 epochs, one after the other with rates in turn and fresh
weights, the best on validation comes out; else three rates are tried for a twentieth of the time each, and the best has
the rest. `autokeras` searches its own space (`ImageClassifier`, `StructuredDataClassifier`) until the time is over.

All choices are made on one validation split (a fifth of the training samples, at most 10,000); test samples are looked
at once. Time is wall time in one process with one thread; `cpu share` says how much of a core it had, so that runs that
others disturbed are seen. All together take eleven hours of a core. Two processes with different `--data` can work side
by side on two cores; parts by (data, arm, seed, minutes) lie in `--kept`, by default reproductions/search_real, and are
run once, on whichever machine; a search that was killed goes on.

References:
    Jin, Song, Hu 2019, Auto-Keras, arXiv:1806.10282: 7.42 % error on Fashion-MNIST in 12 hours of a GPU.
"""

import argparse
import itertools
import json
import resource
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from records import environment, mean_and_sd, part_is_current, read_parts, rounded, write_part, write_record
from torch import nn

import pluriform as pf
from pluriform.data.data import Data
from pluriform.metrics.classification import accuracy
from pluriform.report.figures.trials import kendall_tau
from pluriform.search.pace import measured_step
from pluriform.search.trial import WEIGHTS, Common, Task, network_of, run_trial
from pluriform.search.validation_split import with_validation
from pluriform.training.recipe import Recipe

DATA = ("digits", "fashion-mnist", "uci:letter")
ARMS = ("ours", "random", "mutate", "start", "autokeras")
STRATEGIES = {"ours": "bayesian", "random": "random", "mutate": "mutate"}
RATES = (2e-3, 1e-3, 5e-3)
LONG, PILOT = 200, 0.05
ROOT = Path(__file__).parents[1]
VERSION = 1


def start_of(data: Data, seed: int) -> nn.Module:
    """Three layers."""
    torch.manual_seed(seed)
    if len(data.input_shape) == 1:
        width, parts = data.input_shape[0], []
        for _ in range(3):
            parts += [nn.Linear(width, 64), nn.Dropout(0.25), nn.ReLU()]
            width = 64
        return nn.Sequential(*parts, nn.Linear(64, data.outputs))
    channels, parts = data.input_shape[0], []
    for _ in range(3):
        parts += [nn.Conv2d(channels, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)]
        channels = 64
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.25), nn.Linear(64, 64), nn.ReLU()]
    return nn.Sequential(*parts, *head, nn.Linear(64, data.outputs))


def error_of(network: nn.Module, data: Data) -> float:
    """Test error in per cent."""
    network.eval()
    with torch.no_grad():
        outputs = torch.cat([network(part) for part in data.test.inputs.split(1000)])
    return 100 * (1 - accuracy(outputs.softmax(1), data.test.targets))


def searched(arm: str, data: Data, seed: int, minutes: float, folder: Path) -> dict[str, Any]:
    """A search of ours."""
    method = pf.MorphismSearch(minutes=minutes, strategy=STRATEGIES[arm])
    form: Any = method.fit(start_of(data, seed), data, seed=seed, run=folder)
    facts = form.facts
    trials, best = facts["trials"], facts["trials"][facts["best"]]
    done = [trial for trial in trials if trial["state"] == "done"]
    told = [trial for trial in done if trial["predicted"] is not None]
    tau = kendall_tau([trial["predicted"] for trial in told], [trial["score"] for trial in told])
    return {
        "error": error_of(form.module, data),
        "validation": 100 * best["score"],
        "held": facts["validation"],
        "trials": len(done),
        "failed": sum(trial["state"] == "failed" for trial in trials),
        "unfinished": sum(trial["state"] == "running" for trial in trials),
        "parameters": best["parameters"],
        "start parameters": trials[0]["parameters"],
        "start validation": 100 * trials[0]["score"],
        "seconds": facts["seconds"],
        "seconds in trials": sum(trial["seconds"] for trial in done),
        "seconds of trials": [round(trial["seconds"], 2) for trial in done],
        "epochs of trials": [round(trial["epochs"], 2) for trial in done],
        "scores": [round(trial["score"], 5) for trial in done],
        "lineage": [trial["operation"] for trial in lineage(trials, facts["best"])],
        "epochs of the lineage": best["total_epochs"],
        "tau of predictions": tau,
    }


def lineage(trials: list[dict], number: int | None) -> list[dict]:
    """A trial after its ancestors."""
    found: list[dict] = []
    while number is not None:
        found.insert(0, trials[number])
        number = trials[number]["parent"]
    return found


def trained(data: Data, seed: int, minutes: float) -> dict[str, Any]:
    """The start, trained for all the time."""
    begin, end = time.perf_counter(), time.time() + 60 * minutes
    whole = with_validation(data, seed)
    step = measured_step(start_of(data, seed), whole, Recipe(), torch.device("cpu"))
    steps = max(1, len(whole.train) // Recipe().batch_size)
    with tempfile.TemporaryDirectory() as folder:
        runs: list[tuple[Any, Common, Task]] = []

        def train(rate: float, epochs: int, part: int | None, deadline: float, most: int = 0) -> float:
            """Seconds that a step took."""
            place = len(runs)
            common = Common(start_of(data, seed + 1000 * place), whole, Recipe(learning_rate=rate), "cpu")
            task = Task(place, f"{folder}/{place}", seed=seed + place, epochs=epochs, steps=part, deadline=deadline)
            clock = time.perf_counter()
            found = run_trial(replace(task, checkpoint=False, most=most), common)
            runs.append((found, common, task))
            return (time.perf_counter() - clock) / max(1, found.figures.get("steps", 1))

        if 60 * minutes > 3 * LONG * steps * step:
            for rate in itertools.cycle(RATES):
                left = end - time.time()
                if left < 0.25 * LONG * steps * step:
                    break
                step = train(rate, min(LONG, max(1, int(0.95 * left / (steps * step)))), None, end)
        else:
            for rate in RATES:
                count = max(1, int(PILOT * 60 * minutes / step))
                part = (max(1, count // steps), None) if count >= steps else (1, count)
                step = max(step, train(rate, *part, end))
            rate = max(zip(runs, RATES, strict=True), key=lambda pair: merit(pair[0][0]))[1]
            left = 0.95 * (end - time.time()) / (steps * step)
            train(rate, max(1, int(left)), None if left >= 1 else int(left * steps), end, LONG)
        found, common, task = max((run for run in runs if run[0].score is not None), key=lambda run: merit(run[0]))
        network = network_of(replace(task, weights=f"{task.folder}/{WEIGHTS}"), common).module
        return {
            "error": error_of(network, data),
            "validation": 100 * found.score,
            "held": len(whole.validation),
            "trials": len(runs),
            "parameters": found.figures["parameters"],
            "rate": common.recipe.learning_rate,
            "epochs of the lineage": found.figures["epochs"],
            "epochs of trials": [round(run[0].figures.get("epochs", 0), 2) for run in runs],
            "scores": [run[0].score for run in runs],
            "seconds": time.perf_counter() - begin,
        }


def merit(measured: Any) -> float:
    """What trainings are ranked by."""
    return -1e9 if measured.score is None else measured.figures.get("merit", measured.score)


def auto_keras(data: Data, seed: int, minutes: float, peers: Path) -> dict[str, Any] | None:
    """AutoKeras in an environment of its own; `None` and a line where there is none."""
    python = peers / "bin/python"
    known = [str(python), "-c", "import autokeras"]
    if not python.exists() or subprocess.run(known, capture_output=True).returncode:
        print(f"autokeras cannot be imported in {peers}: left out", flush=True)
        return None
    whole = with_validation(data, seed)
    with tempfile.TemporaryDirectory() as folder:
        arrays = {}
        for name in ("train", "validation", "test"):
            split: Any = getattr(whole, name)
            arrays |= {f"{name}_inputs": split.inputs.numpy(), f"{name}_targets": split.targets.numpy()}
        np.savez(f"{folder}/task.npz", seed=np.array(seed), minutes=np.array(minutes), **arrays)
        script = ROOT / "benchmarks/peers/autokeras_search.py"
        subprocess.run([python, script, f"{folder}/task.npz", f"{folder}/found.json"], check=True)
        return json.loads(Path(f"{folder}/found.json").read_text())


def compute(name: str, arm: str, seed: int, minutes: float, chosen: argparse.Namespace) -> None:
    """Run one arm and write its part."""
    key = {"data": name, "arm": arm, "seed": seed, "minutes": minutes, "version": VERSION}
    label = f"{name}-{arm}-{seed}-{minutes:g}".replace(":", "-")
    path = chosen.kept / "parts" / f"{label}.json"
    if part_is_current(path, key):
        return
    data = pf.load(name, seed=seed)
    wall, spent = time.perf_counter(), cpu_seconds()
    if arm in STRATEGIES:
        found: dict[str, Any] | None = searched(arm, data, seed, minutes, chosen.out / "searches" / label)
    elif arm == "start":
        found = trained(data, seed, minutes)
    else:
        found = auto_keras(data, seed, minutes, chosen.peers)
    if found is None:
        return
    wall = time.perf_counter() - wall
    figures = {"wall seconds": wall, "cpu share": (cpu_seconds() - spent) / wall}
    write_part(path, rounded({"key": key, **found, **figures, **environment()}))
    shown = {item: found.get(item) for item in ("error", "validation", "trials", "parameters")}
    print(name, arm, seed, f"{minutes:g} min", rounded({**shown, **figures}), flush=True)


def cpu_seconds() -> float:
    """Of this process and of those that it started."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def outcome(parts: list[dict]) -> dict[str, Any]:
    """The JSON that is committed."""
    places: dict[str, dict[str, dict[int, dict]]] = {}
    for part in parts:
        key = part["key"]
        if key["version"] == VERSION:
            place = places.setdefault(f"{key['data']}, {key['minutes']:g} min", {})
            place.setdefault(key["arm"], {})[key["seed"]] = part
    return {
        "what": __doc__.splitlines()[0],
        "protocol": {
            "time": "wall time of one process with one thread, start-up of the search and its end included",
            "error": "per cent of the official test samples (a fold of the UCI table), looked at once",
            "validation": "a fifth of the training samples, at most 10,000: all choices are made there",
            "spread": "sd over seeds, n - 1",
            "less": "error minus that of ours, paired by seed",
            "published": {"fashion-mnist, 12 h of a GPU": 7.42, "random there": 11.36, "without morphism": 7.99},
        },
        "data": {place: {arm: row(arms, arm) for arm in ARMS if arm in arms} for place, arms in places.items()},
        "left out": {} if any("autokeras" in arms for arms in places.values()) else {"autokeras": "not installed"},
        **environment(),
    }


def row(arms: dict[str, dict[int, dict]], arm: str) -> dict[str, Any]:
    """Figures of an arm."""
    own = arms[arm]
    seeds = sorted(own)
    found: dict[str, Any] = {"seeds": seeds, "errors": [own[seed]["error"] for seed in seeds]}
    for name in ("error", "validation", "trials", "parameters", "seconds", "cpu share", "tau of predictions"):
        found[name] = mean_and_sd(own[seed].get(name) for seed in seeds)
    shared = [seed for seed in seeds if seed in arms.get("ours", {})]
    if arm != "ours" and shared:
        found["less ours"] = mean_and_sd(own[seed]["error"] - arms["ours"][seed]["error"] for seed in shared)
    return found


def main() -> None:
    """Run what is missing, then write the record of all parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--data", nargs="+", default=list(DATA))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--longest", help="one more search of ours, seed 0: DATA:MINUTES")
    parser.add_argument("--out", type=Path, default=ROOT / "runs/search_real")
    parser.add_argument("--kept", type=Path, default=Path(__file__).with_suffix(""), help="where parts lie")
    parser.add_argument("--peers", type=Path, default=ROOT / ".venv-peers", help="environment with autokeras")
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--assemble", action="store_true", help="only write the JSON from the parts")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if not chosen.assemble:
        for seed, name, arm in itertools.product(chosen.seeds, chosen.data, chosen.arms):
            compute(name, arm, seed, chosen.minutes, chosen)
        if chosen.longest:
            name, _, minutes = chosen.longest.rpartition(":")
            compute(name, "ours", 0, float(minutes), chosen)
    write_record(chosen.json, outcome(read_parts(chosen.kept)))


if __name__ == "__main__":
    main()
