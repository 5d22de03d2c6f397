"""`Guard`: notices a training that runs away, restores the last good state and goes on more gently."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Guard", "Trip"]

KEPT = 2
RECOVERY = 10


@dataclass(frozen=True)
class Trip:
    """One roll-back.

    Attributes:
        step: Updates done when it was noticed.
        reason: What was noticed, in words.
        restored: The number of updates that the restored state had seen.
        change: What is gentler from here on, in words.
    """

    step: int
    reason: str
    restored: int
    change: str

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


class Guard:
    """Asked before every update with the figures of the step, told after it.

    A state is kept every `every` updates if it is finite, the last two of them, on the device. The older one is
    restored where the newer one may be of a runaway that had begun: it is less than half of `every` updates old, or a
    roll-back came at most `every` updates before, or none is left. Everything is part of the checkpoint, so that a
    resumed training rolls back alike.

    Args:
        check: Says from the figures of a step what is wrong, or `None`.
        gentler: Called after each roll-back; changes the setting further and says what it changed. It is called again
            for every earlier one where a training is resumed.
        afterwards: Called after a roll-back with the number of updates that the restored state had seen.
        every: Updates between kept states.
        most: Trips after which the training ends with the last good state.

    Attributes:
        trips: All roll-backs.
        exhausted: Whether there was one more trip than `most`.
        rate: Factor of the learning rate: halved by a roll-back, and once more often by each that follows within
            `every` updates; doubled again, up to 1, by every ten times `every` updates without one.
    """

    def __init__(
        self,
        check: Callable[[Mapping[str, Tensor]], str | None],
        gentler: Callable[[], str],
        *,
        afterwards: Callable[[int], None] = lambda _: None,
        every: int = 100,
        most: int = 8,
    ) -> None:
        self.check, self.gentler, self.afterwards, self.every, self.most = check, gentler, afterwards, every, most
        self.trips: list[Trip] = []
        self.exhausted = False
        self.rate = 1.0
        self._kept: list[tuple[int, dict[str, Tensor]]] = []
        self._since = 0  # Updates since a state was kept or restored.
        self._good = 0  # Updates since the last roll-back or the last change of the rate.
        self._row = 0  # Roll-backs that followed one another.

    @torch.no_grad()
    def keep(self, step: int, live: Mapping[str, Tensor]) -> None:
        """Take in the state after `step` updates, if it is time to keep one."""
        self._since += 1
        self._good += 1
        if self.rate < 1 and self._good >= RECOVERY * self.every:
            self.rate, self._good = 2 * self.rate, 0
        if self._kept and (self._since < self.every or self._ruined(live)):
            return
        older = self._kept[-KEPT] if len(self._kept) == KEPT else None
        room = older[1] if older else {}
        for name, tensor in live.items():
            room[name] = room[name].copy_(tensor) if name in room else tensor.detach().clone()
        self._kept = [*self._kept[-KEPT + 1 :], (step, room)]
        self._since = 0

    def _ruined(self, live: Mapping[str, Tensor]) -> bool:
        """Whether what was finite is not any more; the figures of a step are those before its update."""
        before = self._kept[-1][1]
        lost = [name for name, tensor in live.items() if not bool(tensor.isfinite().all())]
        return any(name not in before or bool(before[name].isfinite().all()) for name in lost)

    @torch.no_grad()
    def restore(self, step: int, live: Mapping[str, Tensor], reason: str) -> Trip:
        """Put the last good state back in place, change the setting, and note it.

        Args:
            step: Updates done.
            live: The tensors as they are, by the names they were kept under.
            reason: What was noticed.
        """
        self.exhausted = len(self.trips) >= self.most
        again = bool(self.trips) and step - self.trips[-1].step <= self.every
        fresh = step - self._kept[-1][0] < self.every // 2  # The runaway may have begun before it was kept.
        if len(self._kept) > 1 and (again or fresh or self.exhausted):
            self._kept.pop()
        kept, tensors = self._kept[-1]
        for name, tensor in live.items():
            tensor.copy_(tensors[name]) if name in tensors else tensor.zero_()  # An optimiser starts from zeros.
        self._since = self._good = 0
        self._row = self._row + 1 if again else 1
        change = "the training ends here, no roll-back is left" if self.exhausted else self._soften()
        self.afterwards(kept)
        self.trips.append(Trip(step, reason, kept, change))
        return self.trips[-1]

    def state(self) -> dict[str, Any]:
        """Plain JSON for a checkpoint."""
        trips = [trip.to_json() for trip in self.trips]
        kept = [step for step, _ in self._kept]
        counts = {"since": self._since, "good": self._good, "row": self._row, "rate": self.rate}
        return {"trips": trips, "kept": kept, **counts, "out": self.exhausted}

    def tensors(self) -> dict[str, Tensor]:
        """Kept states for a checkpoint."""
        return {f"{i}/{name}": part for i, (_, tensors) in enumerate(self._kept) for name, part in tensors.items()}

    def resume(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Take up what a checkpoint held."""
        self.trips = [Trip(**trip) for trip in state["trips"]]
        self.exhausted, self._since, self._good, self._row = (state[name] for name in ("out", "since", "good", "row"))
        self._kept = []
        for i, step in enumerate(state["kept"]):
            mine = {name.removeprefix(f"{i}/"): t.clone() for name, t in tensors.items() if name.startswith(f"{i}/")}
            self._kept.append((step, mine))
        for _ in range(len(self.trips) - self.exhausted):
            self.gentler()
        self.rate = state["rate"]

    def _soften(self) -> str:
        self.rate /= 2**self._row
        words = "learning rate halved" if self._row == 1 else f"learning rate divided by {2**self._row}"
        return ", ".join([words, *filter(None, [self.gentler()])])
