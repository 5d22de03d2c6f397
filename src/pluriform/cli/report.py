"""`pluriform report RESULT...`."""

from collections.abc import Sequence
from dataclasses import dataclass

import tyro
from rich.console import Console

from pluriform.report.page import write_report

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
    """result files, or folders of runs and comparisons"""
    out: str = "report.html"
    """where the page goes"""


def run(words: Sequence[str]) -> None:
    """Read the results and write the page."""
    chosen = tyro.cli(Report, args=list(words), prog="pluriform report", description=DESCRIPTION)
    Console(highlight=False).print(f"page: {write_report(chosen.results, chosen.out)}")
