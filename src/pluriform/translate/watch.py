"""`Watch`: notices in the figures of a game that one side has won, or that it runs away."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Event", "Watch"]

SMOOTHING = 0.98
LEAST = 100  # Updates before anything is said.
WON = 0.995  # Share of patches that the discriminator tells right.
TIMES = 10.0  # The generator's loss, over its usual size, of a game that runs away.

_REMEDIES = (
    "the discriminator has won",
    "the generator's loss runs away",
)
_ADVICE = (
    "lower discriminator_rate, give r1=10, or a larger batch",
    "lower both rates, or give r1=10",
)


@dataclass(frozen=True)
class Event:
    """Something that was noticed.

    Attributes:
        update: Updates done.
        what: In words.
        advice: What to do.
    """

    update: int
    what: str
    advice: str

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"update": self.update, "what": self.what, "advice": self.advice}


class Watch:
    """Moving averages of two figures of a game, with a line in the log when one of them leaves its range.

    The discriminator has won where over the last hundred updates or so it tells 99.5 % of the patches right: the
    generator then gets hardly any direction. A game runs away where the generator's loss grows to ten times its usual
    size. Each is told once, and again only after it was over.

    Args:
        label: Names the game in the log.

    Attributes:
        state: All that is remembered, one tensor, part of a checkpoint: both averages, the usual size of the loss, and
            the update of each event, -1 where there was none.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.state = torch.tensor([0.0, 0.0, 0.0, -1.0, -1.0, 0.0, 0.0], dtype=torch.float64)

    def see(self, update: int, figures: Mapping[str, float]) -> None:
        """Take in `generator`, its loss, and `told_apart`, the share of patches that the discriminator tells right.

        Args:
            update: Updates done before this one.
            figures: Of one update.
        """
        apart, loss = figures.get("told_apart", 0.0), abs(figures.get("generator", 0.0))
        if not math.isfinite(loss + apart):
            return  # The loop raises the error.
        state = self.state
        state[0] += (1 - SMOOTHING) * (apart - state[0])
        state[1] += (1 - SMOOTHING) * (loss - state[1])
        if update < LEAST:
            state[2] += (loss - state[2]) / (update + 1)
            return
        corrected = 1 - SMOOTHING ** (update + 1)
        signs = (float(state[0]) / corrected > WON, float(state[1]) / corrected > TIMES * (float(state[2]) + 0.1))
        for place, sign in enumerate(signs):
            if sign and not state[5 + place]:
                self._tell(place, update)
            state[5 + place] = float(sign)

    @property
    def events(self) -> tuple[Event, ...]:
        """The first time of each."""
        steps = self.state[3:5].tolist()
        return tuple(Event(int(step), _REMEDIES[i], _ADVICE[i]) for i, step in enumerate(steps) if step >= 0)

    def _tell(self, place: int, update: int) -> None:
        if self.state[3 + place] < 0:
            self.state[3 + place] = update
        logging.getLogger("pluriform").warning(
            "%s, update %d: %s; %s", self.label, update, _REMEDIES[place], _ADVICE[place]
        )
