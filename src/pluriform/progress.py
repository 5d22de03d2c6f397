"""A bar on the terminal for work that lasts longer than two seconds."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Advance", "progress"]

PATIENCE = 2.0
REFRESH = 0.1

Advance = Callable[[float | int], None]


@contextmanager
def progress(label: str, total: float | int) -> Iterator[Advance]:
    """Give a function that says how much work is done; a bar with the time left appears after two seconds.

    Args:
        label: Shown beside the bar.
        total: All of the work, in any unit.

    Example:
        >>> with progress("solve", 3) as advance:
        ...     for _ in range(3):
        ...         advance(1)
    """
    show, start, done = sys.stderr.isatty(), time.perf_counter(), 0.0
    shown, bar = start, None

    def advance(work: float | int) -> None:
        nonlocal done, shown, bar
        done += work
        now = time.perf_counter()
        if not show or now - start < PATIENCE or now - shown < REFRESH:
            return
        shown = now
        bar = bar or _bar(label, total)
        bar.update(bar.task_ids[0], completed=done)

    try:
        yield advance
    finally:
        if bar is not None:
            bar.stop()


def _bar(label: str, total: float | int) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    bar.add_task(label, total=total)
    bar.start()
    return bar
