"""Results from wherever they are: records, their JSON, files, run folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pluriform.errors import ConfigError, RunError, explain
from pluriform.result import Result

__all__ = ["Source", "read_results"]

Source = Result | Mapping[str, Any] | str | Path
"""A record, its JSON, a JSON file, or a folder: of a run that holds `result.json`, or of a comparison."""


def read_results(results: Source | Sequence[Source]) -> list[Result]:
    """All results of every item.

    Raises:
        ConfigError: There is no item.
        RunError: No such file or folder, or a folder without results.
        CorruptFileError: A file that is not the JSON of one result.
    """
    if isinstance(results, Result | Mapping | str | Path):
        results = [results]
    read = [result for item in results for result in _read(item)]
    if not read:
        raise ConfigError(
            explain("at least one result", "none", "write_report", "evaluate a form first and pass its Result")
        )
    return read


def _read(item: Source) -> list[Result]:
    if isinstance(item, Result):
        return [item]
    if isinstance(item, Mapping):
        return [Result.from_json(item)]
    return [Result.load(path) for path in _files(Path(item))]


def _files(path: Path) -> list[Path]:
    """The file itself, or those of a folder."""
    if not path.is_dir():
        return [path]
    found = sorted((path / "results").glob("*.json")) or sorted(path.glob("result.json"))
    if not found:
        remedy = "evaluate its form, or name the folder of a comparison"
        raise RunError(explain("a folder with result.json or results/", "none of these", str(path), remedy))
    return found
