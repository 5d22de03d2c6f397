"""Results from wherever they are: records, their JSON, files, run folders."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pluriform.errors import ConfigError, CorruptFileError, RunError, explain
from pluriform.result import Result

__all__ = ["Source", "read_results"]

Source = Result | Mapping[str, Any] | str | Path
"""A record, its JSON, a JSON file, or a run folder that holds `result.json`."""


def read_results(results: Source | Sequence[Source]) -> list[Result]:
    """Every item as a `Result`."""
    if isinstance(results, Result | Mapping | str | Path):
        results = [results]
    read = [_read(item) for item in results]
    if not read:
        raise ConfigError(
            explain("at least one result", "none", "write_report", "evaluate a form first and pass its Result")
        )
    return read


def _read(item: Source) -> Result:
    if isinstance(item, Result):
        return item
    if isinstance(item, Mapping):
        return Result.from_json(item)
    path = Path(item)
    path = path / "result.json" if path.is_dir() else path
    try:
        value = json.loads(path.read_text("utf-8"))
        if not isinstance(value, Mapping):
            raise TypeError(f"a JSON {type(value).__name__}")
        return Result.from_json(value)
    except FileNotFoundError:
        remedy = "name the JSON file that evaluate wrote"
        raise RunError(explain("a result file", "no such file", str(path), remedy)) from None
    except (TypeError, ValueError, CorruptFileError) as error:
        got, remedy = f"one that cannot be read: {error}", "delete it and evaluate again"
        raise CorruptFileError(explain("the JSON of one Result", got, str(path), remedy)) from None
