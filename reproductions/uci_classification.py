"""The 90 UCI sets of Arora et al.: infinitely wide networks, Gaussian SVM and random forest by their protocol.

    PLURIFORM_DATA=... OMP_NUM_THREADS=1 python reproductions/uci_classification.py [--out runs/uci] [--sets iris wine]

Every set: settings are tuned on the two lines of `conxuntos.dat` (train, validation; a later setting wins only with a
strictly greater accuracy), then the best one is scored as the mean accuracy over the four folds of
`conxuntos_kfold.dat`. Kernels come from `kernel_of` of multilayer perceptrons without bias: the first layer has a
weight variance equal to the number of features, so that K = x.x', the others 1, and the first `fix` layers are frozen.

One line of JSON per set goes to OUT as it comes, smallest sets first; a later run goes on where this one was stopped,
without OUT from the JSON beside this file.
Writes reproductions/uci_classification.json from all lines at hand. `--table` only does that.

References:
    Arora, Du, Li, Salakhutdinov, Wang, Yu 2020. Harnessing the Power of Infinitely Wide Deep Nets on Small-data Tasks.
    arXiv:1910.01663.
    Fernandez-Delgado, Cernadas, Barro, Amorim 2014. Do we need hundreds of classifiers to solve real world
    classification problems? JMLR 15 (grids of the Gaussian SVM `svm_C` and the forest `parRF_caret`).
"""

import argparse
import io
import itertools
import json
import os
import platform
import subprocess
import tarfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pluriform.infinite import kernel_of

DEPTHS = range(5)
PENALTIES = tuple(10.0**power for power in range(-2, 5))
RBF_PENALTIES = tuple(2.0**power for power in range(-5, 15, 2))
RBF_GAMMAS = tuple(2.0**power for power in range(-16, 9, 2))
FOREST_FEATURES = (2, 4, 6, 8)
TREES = 500
CLASSIFIERS = ("ntk", "nngp", "rbf_svm", "random_forest")
PUBLISHED = {
    "ntk": {
        "friedman_rank": 28.34,
        "accuracy": 81.95,
        "sd": 14.10,
        "p90": 88.89,
        "p95": 72.22,
        "pma": 95.72,
        "pma_sd": 5.17,
    },
    "rbf_svm": {
        "friedman_rank": 35.76,
        "accuracy": 81.03,
        "sd": 15.09,
        "p90": 85.56,
        "p95": 72.22,
        "pma": 94.56,
        "pma_sd": 8.22,
    },
    "random_forest": {
        "friedman_rank": 33.51,
        "accuracy": 81.56,
        "sd": 13.90,
        "p90": 85.56,
        "p95": 67.78,
        "pma": 95.25,
        "pma_sd": 5.30,
    },
}
MOST_ROWS = 5000
MOST_ITERATIONS = 2_000_000


@dataclass(frozen=True, eq=False)
class Table:
    """One set: standardised features as they come, classes, the tuning split and the four folds (row indices)."""

    name: str
    inputs: np.ndarray
    labels: np.ndarray
    tuning: tuple[np.ndarray, np.ndarray]
    folds: tuple[tuple[np.ndarray, np.ndarray], ...]


def read_tables(archive: Path) -> list[Table]:
    """Sets of at most 5,000 rows without a separate test file, by size."""
    with tarfile.open(archive) as tar:
        texts = {m.name: tar.extractfile(m).read().decode() for m in tar if m.isfile()}  # type: ignore[union-attr]
    tables = []
    for name in sorted({path.split("/")[0] for path in texts}):
        facts = dict(line.split("=", 1) for line in texts[f"{name}/{name}.txt"].splitlines() if "=" in line)
        facts = {key.strip(): value.strip() for key, value in facts.items()}
        if "fich2" not in facts and int(facts["n_patrons1"]) <= MOST_ROWS:
            rows = np.loadtxt(io.StringIO(texts[f"{name}/{facts['fich1']}"]), skiprows=1, ndmin=2)
            tuning, folds = _pairs(texts[f"{name}/conxuntos.dat"]), _pairs(texts[f"{name}/conxuntos_kfold.dat"])
            tables.append(Table(name, rows[:, 1:-1], rows[:, -1].astype(int), tuning[0], tuple(folds)))
    return sorted(tables, key=lambda table: (len(table.labels), table.name))


def _pairs(text: str) -> list[tuple[np.ndarray, np.ndarray]]:
    lines = [np.array(line.split(), dtype=int) for line in text.splitlines() if line.strip()]
    return list(zip(lines[::2], lines[1::2], strict=True))


def perceptron_kernel(inputs: np.ndarray, depth: int, frozen: int) -> np.ndarray:
    """NTK of `depth` ReLU layers and a linear output, the first `frozen` layers not trained, `(n, n)` in float64.

    With `frozen = depth` only the output layer trains, and this is the NNGP.
    """
    features = inputs.shape[1]
    sizes = [features, *[2] * depth, 1]
    layers: list[nn.Module] = []
    for index, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        layers += [nn.ReLU()] * (index > 0)
        layers.append(nn.Linear(fan_in, fan_out, bias=False).requires_grad_(index >= frozen))
    rows = torch.from_numpy(inputs)
    function = kernel_of(nn.Sequential(*layers), rows[:2].float(), weight_var=1.0, overrides={"0": (features, 0.0)})
    ntk = function(rows).ntk
    return ntk.numpy() if ntk is not None else np.empty((0, 0))


@dataclass
class Count:
    """Fits, and the settings of those that the cap on iterations stopped."""

    cap: int = -1
    fits: int = 0
    capped: list = field(default_factory=list)


def svm(
    kernel: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray, setting: tuple, count: Count
) -> float:
    """Accuracy on `test` of a support vector machine on this kernel, fitted on `train`; C is last in `setting`."""
    from sklearn.svm import SVC

    machine = SVC(kernel="precomputed", C=setting[-1], cache_size=1000, max_iter=count.cap)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        machine.fit(kernel[np.ix_(train, train)], labels[train])
    count.fits += 1
    count.capped += [list(setting)] * int(machine.fit_status_ != 0)
    return float((machine.predict(kernel[np.ix_(test, train)]) == labels[test]).mean())


def forest(table: Table, train: np.ndarray, test: np.ndarray, features: int) -> float:
    """Accuracy of a random forest of 500 trees."""
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(TREES, max_features=features, random_state=0)
    model.fit(table.inputs[train], table.labels[train])
    return float((model.predict(table.inputs[test]) == table.labels[test]).mean())


def rbf(inputs: np.ndarray, gamma: float) -> np.ndarray:
    """`exp(-gamma |x - x'|^2)`."""
    square = (inputs**2).sum(1)
    return np.exp(-gamma * np.maximum(square[:, None] + square - 2 * inputs @ inputs.T, 0.0))


@dataclass
class Best:
    """The setting with the greatest validation accuracy; the first one among equals."""

    accuracy: float = -1.0
    setting: tuple = ()

    def offer(self, accuracy: float, *setting: float) -> None:
        """Keep it if it is strictly better."""
        if accuracy > self.accuracy:
            self.accuracy, self.setting = accuracy, setting


def over_folds(table: Table, score: Callable[[np.ndarray, np.ndarray], float]) -> list[float]:
    """The four accuracies."""
    return [score(train, test) for train, test in table.folds]


def row(best: Best, folds: list[float], seconds: float, count: Count | None = None) -> dict:
    """What is kept of one classifier on one set."""
    kept = {
        "accuracy": round(float(np.mean(folds)), 6),
        "folds": [round(value, 6) for value in folds],
        "setting": list(best.setting),
        "validation": round(best.accuracy, 6),
        "seconds": round(seconds, 2),
    }
    return kept | ({"svm_fits": count.fits, "capped_fits": len(count.capped)} if count else {})


def infinite_networks(table: Table, cap: int) -> dict[str, dict]:
    """NTK over all settings of depth, frozen layers and C; NNGP over those where all but the last layer is frozen."""
    begin = time.perf_counter()
    ntk, nngp, count = Best(), Best(), Count(cap)
    for depth in DEPTHS:
        for frozen in range(depth + 1):
            kernel = perceptron_kernel(table.inputs, depth, frozen)
            for penalty in PENALTIES:
                accuracy = svm(kernel, table.labels, *table.tuning, (depth, frozen, penalty), count)
                ntk.offer(accuracy, depth, frozen, penalty)
                if frozen == depth:
                    nngp.offer(accuracy, depth, frozen, penalty)
    found, tuned = {}, time.perf_counter() - begin
    for name, best in (("ntk", ntk), ("nngp", nngp)):
        begin, folds = time.perf_counter(), Count(cap)
        kernel = perceptron_kernel(table.inputs, int(best.setting[0]), int(best.setting[1]))
        scores = over_folds(
            table, lambda train, test, k=kernel, b=best, f=folds: svm(k, table.labels, train, test, b.setting, f)
        )
        found[name] = row(best, scores, time.perf_counter() - begin, folds)
    found["ntk"] |= {"tuning_seconds": round(tuned, 2), "tuning_fits": count.fits, "tuning_capped": count.capped}
    return found


def gaussian_svm(table: Table, cap: int) -> dict:
    """Over C and the width of the Gaussian."""
    begin, best, count = time.perf_counter(), Best(), Count(cap)
    for gamma in RBF_GAMMAS:
        kernel = rbf(table.inputs, gamma)
        for penalty in RBF_PENALTIES:
            best.offer(svm(kernel, table.labels, *table.tuning, (gamma, penalty), count), gamma, penalty)
    tuned = {"tuning_fits": count.fits, "tuning_capped": count.capped}
    kernel, folds = rbf(table.inputs, best.setting[0]), Count(cap)
    scores = over_folds(table, lambda train, test: svm(kernel, table.labels, train, test, best.setting, folds))
    return row(best, scores, time.perf_counter() - begin, folds) | tuned


def random_forest(table: Table) -> dict:
    """Over the features tried at a split: 2, 4, 6, 8, as far as there are so many."""
    begin, best = time.perf_counter(), Best()
    for features in sorted({min(count, table.inputs.shape[1]) for count in FOREST_FEATURES}):
        best.offer(forest(table, *table.tuning, features), features)
    scores = over_folds(table, lambda train, test: forest(table, train, test, int(best.setting[0])))
    return row(best, scores, time.perf_counter() - begin)


def study(table: Table, cap: int) -> dict:
    """All classifiers on one set; `cap` bounds iterations times rows."""
    begin, cap = time.perf_counter(), min(MOST_ITERATIONS, cap // len(table.labels))
    facts = {"set": table.name, "rows": len(table.labels), "features": table.inputs.shape[1]}
    facts["classes"] = int(table.labels.max()) + 1
    rows = infinite_networks(table, cap) | {"rbf_svm": gaussian_svm(table, cap), "random_forest": random_forest(table)}
    return facts | {"svm_iteration_cap": cap, "classifiers": rows, "seconds": round(time.perf_counter() - begin, 2)}


def summary(accuracies: dict[str, np.ndarray]) -> dict[str, dict]:
    """Mean accuracy, share of sets above 0.9 and 0.95 of the best, share of the best, mean rank; in percent.

    Args:
        accuracies: By classifier, one number per set in [0, 1].
    """
    from scipy.stats import rankdata

    table = np.stack(list(accuracies.values()), 1)
    share = table / table.max(1, keepdims=True)
    ranks = rankdata(-table, axis=1).mean(0)
    return {
        name: {
            "accuracy": round(100 * float(table[:, column].mean()), 2),
            "sd": round(100 * float(table[:, column].std(ddof=1)), 2) if len(table) > 1 else None,
            "p90": round(100 * float((share[:, column] > 0.9).mean()), 2),
            "p95": round(100 * float((share[:, column] > 0.95).mean()), 2),
            "pma": round(100 * float(share[:, column].mean()), 2),
            "pma_sd": round(100 * float(share[:, column].std(ddof=1)), 2) if len(table) > 1 else None,
            "friedman_rank": round(float(ranks[column]), 3),
        }
        for column, name in enumerate(accuracies)
    }


def lines(path: Path) -> Iterator[dict]:
    """Sets done so far; a line torn by a kill is left out."""
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            yield {"svm_iteration_cap": MOST_ITERATIONS} | json.loads(line)
        except json.JSONDecodeError:
            continue


def outcome(done: list[dict]) -> dict:
    """The JSON that is committed."""
    import sklearn

    scores = {name: np.array([row["classifiers"][name]["accuracy"] for row in done]) for name in CLASSIFIERS}
    capped = {
        row["set"]: counts
        for row in done
        if any((counts := {n: len(c.get("tuning_capped", [])) + c.get("capped_fits", 0) for n, c in
                           row["classifiers"].items() if n != "random_forest"}).values())
    }  # fmt: skip
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {
        "what": __doc__.splitlines()[0],
        "sets": len(done),
        "protocol": {
            "ntk": "15 kernels (depth 0..4, first 0..depth layers frozen) x C = 1e-2..1e4 (7); nngp: 5 of the kernels",
            "rbf_svm": "C = 2^-5, 2^-3 .. 2^13 (10) x gamma = 2^-16, 2^-14 .. 2^8 (13): every second value of svm_C",
            "random_forest": f"{TREES} trees, features tried at a split 2, 4, 6, 8 (parRF_caret), seed 0",
            "ranks_and_shares": "over the four classifiers run here; the published ones are over 179 and the new one",
            "svm_iteration_cap": "2e6 iterations, or as many as give 1e9 iterations times rows; see the sets",
            "fits_stopped_by_the_cap": capped,
        },
        "summary": summary(scores),
        "published": PUBLISHED,
        "machine": f"{platform.machine()}, one core, torch {torch.__version__}, scikit-learn {sklearn.__version__}",
        "commit": commit,
        "seconds": round(sum(row["seconds"] for row in done), 1),
        "rows": [],
    }


def main() -> None:
    """Go on with the sets that are not done, smallest first."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("runs/uci"))
    parser.add_argument("--sets", nargs="*")
    parser.add_argument("--cap", type=int, default=10**9, help="most iterations times rows of one SVM fit")
    parser.add_argument("--table", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    chosen.out.mkdir(parents=True, exist_ok=True)
    path, kept = chosen.out / "sets.jsonl", Path(__file__).with_suffix(".json")
    if not path.exists() and kept.exists():
        path.write_text("".join(json.dumps(row) + "\n" for row in json.loads(kept.read_text())["rows"]))
    names = {row["set"] for row in lines(path)}
    tables = [] if chosen.table else read_tables(
        Path(os.environ["PLURIFORM_DATA"]) / "uci_classification" / "uci_small.tar.xz"
    )  # fmt: skip
    for table in tables:
        if table.name not in names and table.name in (chosen.sets or [table.name]):
            found = study(table, chosen.cap)
            with path.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(found["seconds"], table.name, {k: v["accuracy"] for k, v in found["classifiers"].items()}, flush=True)
    done = list(lines(path))
    rows = ",\n".join("  " + json.dumps(row) for row in done)  # One line a set: they are many.
    text = json.dumps(outcome(done), indent=1).replace('"rows": []', f'"rows": [\n{rows}\n ]')
    kept.write_text(text + "\n")


if __name__ == "__main__":
    main()
