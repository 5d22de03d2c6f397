"""What a training step and a look at the validation split take, each by itself."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Stopwatch"]


class Stopwatch:
    """Means over a training.

    Example:
        >>> watch = Stopwatch()
        >>> for _ in range(3):
        ...     watch.step()
        ...     time.sleep(0.01)
        >>> with watch.look():
        ...     time.sleep(0.1)
        >>> found = watch.figures()
        >>> 0.01 <= found["step_seconds"] < 0.05 < 0.1 <= found["look_seconds"] < 0.2
        True
    """

    def __init__(self) -> None:
        self._steps: list[float] = []
        self._looks: list[float] = []
        self._begin: float | None = None

    def step(self) -> None:
        """A step begins; the one before has ended."""
        now = time.perf_counter()
        if self._begin is not None:
            self._steps.append(now - self._begin)
        self._begin = now

    @contextmanager
    def look(self) -> Iterator[None]:
        """A look at the validation split; the step before has ended."""
        begin = time.perf_counter()
        if self._begin is not None:
            self._steps.append(begin - self._begin)
        self._begin = None
        yield
        self._looks.append(time.perf_counter() - begin)

    def round_seconds(self, steps: int) -> float:
        """What so many steps and a look will take."""
        found = self.figures()
        return steps * found.get("step_seconds", 0.0) + found.get("look_seconds", 0.0)

    def figures(self) -> dict[str, float]:
        """`step_seconds` and `look_seconds`, of what there was."""
        spans = {"step_seconds": self._steps, "look_seconds": self._looks}
        return {name: sum(found) / len(found) for name, found in spans.items() if found}
