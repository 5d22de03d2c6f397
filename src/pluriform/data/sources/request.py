"""What a named source is asked for."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Request"]


@dataclass(frozen=True)
class Request:
    """One call of `load` by name.

    Attributes:
        name: The name asked for, for instance `mnist` or `uci:iris`.
        path: Folder to look in before all others.
        size: Side of the pictures in pixels, or height and width; `None` for that of the source.
        split: Which of the published splits, where there are several.
    """

    name: str
    path: Path | None = None
    size: int | tuple[int, int] | None = None
    split: int = 0

    @property
    def member(self) -> str:
        """What follows the colon of the name: the set in a collection."""
        return self.name.partition(":")[2]
