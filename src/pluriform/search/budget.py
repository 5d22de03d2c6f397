"""The budget of a search: trials, minutes, or both; what is spent is kept in the journal over all sittings."""

import math
import time
from dataclasses import dataclass, field

from pluriform.errors import ConfigError, explain

__all__ = ["Budget"]

USUAL_TRIALS = 20


@dataclass(frozen=True)
class Budget:
    """How long a search goes on.

    Args:
        trials: Candidates in all, failed ones included; `None` for as many as there is time for (20 without a time).
        minutes: Wall time in the search over all sittings; `None` for no limit.
        earlier: Seconds of earlier sittings.

    Attributes:
        begin: When this sitting began, on a steady clock.
        wall: The same on the clock that machines share.

    Raises:
        ConfigError: A budget of nothing.
    """

    trials: int | None = None
    minutes: float | int | None = None
    earlier: float | int = 0.0
    begin: float = field(default_factory=time.monotonic)
    wall: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        for name in ("trials", "minutes"):
            value = getattr(self, name)
            if value is not None and not (0 < value < math.inf):
                expected = f"{name}: a number above 0, or None"
                remedy = "give the search some time or at least one trial"
                raise ConfigError(explain(expected, repr(value), "budget of a search", remedy))

    @property
    def most_trials(self) -> float | int:
        """Candidates in all; infinity where time alone ends the search."""
        if self.trials is not None:
            return self.trials
        return USUAL_TRIALS if self.minutes is None else math.inf

    @property
    def seconds(self) -> float:
        """Spent so far, in s; the time that the machine slept counts too, as deadlines are on the clock of the wall."""
        return float(self.earlier) + max(time.monotonic() - self.begin, time.time() - self.wall)

    @property
    def left(self) -> float:
        """Seconds that are left; infinity without a limit."""
        return math.inf if self.minutes is None else 60.0 * self.minutes - self.seconds

    def deadline(self, reserved: float | int = 0.0) -> float | None:
        """Unix time at which the minutes are spent but for `reserved` seconds."""
        return None if self.minutes is None else self.wall + 60.0 * self.minutes - float(self.earlier) - reserved

    def spent(self, begun: int) -> bool:
        """Whether no further trial may begin where so many did."""
        return begun >= self.most_trials or self.left <= 0
