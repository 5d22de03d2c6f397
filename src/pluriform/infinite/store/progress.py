"""What a growing store tells: tiles done, pairs a second, time left."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["StoreProgress", "Tell", "bar", "duration"]

PATIENCE = 2.0


@dataclass(frozen=True)
class StoreProgress:
    """Where a computation stands.

    Attributes:
        tiles_done: Finished tiles, those of earlier runs included.
        tiles: All tiles.
        pairs_done: Pairs in finished tiles.
        pairs: All pairs.
        pairs_per_second: Of this run; 0 before its first tile.
        seconds_left: At that speed; infinite before the first tile.
    """

    tiles_done: int
    tiles: int
    pairs_done: int
    pairs: int
    pairs_per_second: float
    seconds_left: float


Tell = Callable[[StoreProgress], None]


@contextmanager
def bar(label: str, *, always: bool = False) -> Iterator[Tell]:
    """A bar on the terminal, two seconds after the start; nothing where standard error is no terminal.

    Args:
        label: Shown beside the bar.
        always: Show it at once.
    """
    show, start, made = sys.stderr.isatty(), time.perf_counter(), None

    def tell(now: StoreProgress) -> None:
        nonlocal made
        if not show or (not always and time.perf_counter() - start < PATIENCE):
            return
        made = made or _bar(label, now.pairs)
        tiles, rate = f"{now.tiles_done}/{now.tiles} tiles", f"{now.pairs_per_second:,.1f} pairs/s"
        told = f"{tiles}, {rate}, {duration(now.seconds_left)} left" if now.pairs_per_second else tiles
        made.update(made.task_ids[0], completed=now.pairs_done, told=told)

    try:
        yield tell
    finally:
        if made is not None:
            made.stop()


def duration(seconds: float | int) -> str:
    """Seconds in words for a person.

    Example:
        >>> duration(0.4), duration(75), duration(8000), duration(300_000)
        ('0 s', '1 min 15 s', '2 h 13 min', '3 d 11 h')
    """
    for unit, small, word, rest in ((86400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if seconds >= unit:
            return f"{int(seconds // unit)} {word} {int(seconds % unit // small)} {rest}"
    return f"{seconds:.0f} s"


def _bar(label: str, pairs: int) -> Any:
    """Time left is our own, since rich would count the tiles of earlier runs as speed."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"))
    made = Progress(*columns, console=Console(stderr=True), transient=True)
    made.add_task(label, total=pairs, told="")
    made.start()
    return made
