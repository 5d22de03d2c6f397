"""What reproductions share: data sets of a paper, parts on disk, and the form of the final JSON."""

import json
import math
import platform
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.data.split import holdout
from pluriform.evaluation.subject import stratified_index

VALIDATION = {"mnist-5000": 1000, "mnist": 2000, "fashion-mnist": 2000}
SMALL = 5000


def load_data(name: str, seed: int, tiny: int | None = None) -> Data:
    """A data set of the table; training and validation images are drawn by class share and seed, test is the official.

    Args:
        name: `mnist-5000` (5,000 training images, 1,000 others for validation), `mnist` or `fashion-mnist` (58,000
            training images, 2,000 for validation).
        seed: Of the draw.
        tiny: Cut every split to that many images, to try the script out.
    """
    if name != "mnist-5000":
        return _cut(pf.load(name, validation=VALIDATION[name], seed=seed), tiny)
    whole = pf.load("mnist", validation=0, seed=seed)
    inputs, targets = whole.train.inputs, whole.train.targets
    rest, train = holdout(len(targets), targets, SMALL, seed)
    _, held = holdout(len(rest), targets[rest], VALIDATION[name], seed)
    splits = [Split(inputs[index], targets[index]) for index in (train, rest[held])]
    return _cut(Data(name, whole.task, *splits, whole.test, whole.classes, whole.bounds), tiny)


def _cut(data: Data, size: int | None) -> Data:
    if size is None:
        return data
    index = [stratified_index(split.targets, size, 0) for split in (data.train, data.validation, data.test)]
    splits = [Split(*s.batch(i)) for s, i in zip((data.train, data.validation, data.test), index, strict=True)]
    return Data(data.name, data.task, *splits, data.classes, data.bounds)


def part_is_current(path: Path, key: Mapping[str, Any]) -> bool:
    """Whether the part on disk is of this key (settings, seed); a part of other settings counts as missing."""
    try:
        return json.loads(path.read_text())["key"] == json.loads(json.dumps(key))
    except (OSError, ValueError, KeyError):
        return False


def write_part(path: Path, part: Mapping[str, Any]) -> None:
    """Write one result at once, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".fresh")
    fresh.write_text(json.dumps(part) + "\n")
    fresh.replace(path)


def read_parts(folder: Path) -> list[dict]:
    """All parts of the folder, by path."""
    return [json.loads(path.read_text()) for path in sorted((folder / "parts").glob("*.json"))]


def interval_of_mean(values: Sequence[float]) -> list[float] | None:
    """95 % interval of the mean by Student's t; `None` for one value."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    mean, sd = statistics.fmean(values), statistics.stdev(values)
    half = float(t.ppf(0.975, len(values) - 1)) * sd / math.sqrt(len(values))
    return [mean - half, mean + half]


def mean_and_sd(values: Iterable[float]) -> dict[str, float | int | None]:
    """Mean, standard deviation over seeds (`None` for one) and number of values; NaN and `None` are left out."""
    numbers = [float(value) for value in values if value is not None and math.isfinite(value)]
    if not numbers:
        return {"mean": None, "sd": None, "seeds": 0}
    mean = sum(numbers) / len(numbers)
    spread = None
    if len(numbers) > 1:
        spread = math.sqrt(sum((number - mean) ** 2 for number in numbers) / (len(numbers) - 1))
    return {"mean": _short(mean), "sd": None if spread is None else _short(spread), "seeds": len(numbers)}


def rounded(value: Any, digits: int = 5) -> Any:
    """Plain JSON with its numbers rounded to so many significant digits; NaN and infinity become `None`."""
    if isinstance(value, Mapping):
        return {str(name): rounded(item, digits) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item, digits) for item in value]
    if isinstance(value, float):
        return _short(value, digits) if math.isfinite(value) else None
    return value


def _short(value: float, digits: int = 5) -> float:
    return float(f"{value:.{digits}g}")


def environment() -> dict[str, str]:
    """Where it ran."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    where = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"
    machine = f"{platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, {where}"
    return {"machine": machine, "commit": commit}


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write the JSON that is committed: lists of numbers, and rows, on one line each."""
    path.write_text(_lines(rounded(record), 0) + "\n")


def _lines(value: Any, depth: int) -> str:
    inner = " " * (depth + 1)
    flat = json.dumps(value)
    if isinstance(value, dict) and len(flat) > 100:
        items = [f"{inner}{json.dumps(name)}: {_lines(item, depth + 1)}" for name, item in value.items()]
        return "{\n" + ",\n".join(items) + "\n" + " " * depth + "}"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "[\n" + ",\n".join(inner + json.dumps(item) for item in value) + "\n" + " " * depth + "]"
    return flat
