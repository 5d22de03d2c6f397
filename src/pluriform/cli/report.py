"""`pluriform report RESULT...`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from pluriform.errors import RunError, explain
from pluriform.report.page import write_report
from pluriform.result import Result

__all__ = ["run"]


DESCRIPTION = """Write one page from stored results.

examples:
  pluriform report result.json other.json --out page.html
  pluriform report runs/compare-digits-mlp-seed0 --out page.html
"""


@dataclass
class Report:
    """The flags of `report`."""

    results: tyro.conf.Positional[tuple[str, ...]]
    """result files, or folders of comparisons"""
    out: str = "report.html"
    """where the page goes"""


def run(words: Sequence[str]) -> None:
    """Read the results and write the page."""
    chosen = tyro.cli(Report, args=list(words), prog="pluriform report", description=DESCRIPTION)
    files = [path for name in chosen.results for path in result_files(Path(name))]
    Console(highlight=False).print(f"page: {write_report([Result.load(path) for path in files], chosen.out)}")


def result_files(path: Path) -> list[Path]:
    """The file itself, or all results of a comparison's folder.

    Raises:
        RunError: There are none.
    """
    found = sorted((path / "results").glob("*.json")) or sorted(path.glob("result.json")) if path.is_dir() else [path]
    if not found or not all(file.is_file() for file in found):
        raise RunError(explain("a result file or the folder of a comparison", "none", str(path), "check the path"))
    return found
