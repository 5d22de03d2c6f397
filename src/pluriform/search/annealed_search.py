"""A* with simulated annealing: look for a candidate of low acquisition in the tree of moves from what is observed.

    queue <- observed, by cost;  T <- 1
    while T > lowest:  T <- decay T;  f <- pop the best;  for each drawn move f' of f:
        push f' with key alpha(f') with probability min(1, exp((least - alpha(f')) / T));  the least new alpha wins

Costs and acquisition are lower-is-better here, as published. At the defaults a search pops 88 candidates at most, and
looks at 704 children.
"""

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pluriform.errors import ConfigError, explain

__all__ = ["Annealing", "Found", "Step", "annealed_search"]

Scorer = Callable[[Sequence[Any]], NDArray[np.float64]]
"""Acquisition of candidates, lower is better."""


@dataclass(frozen=True)
class Annealing:
    """How the search cools down.

    Attributes:
        start: First temperature.
        decay: Factor of the temperature at every pop.
        lowest: Temperature at which the search ends.
        children: Moves drawn of every popped candidate; `None` for all.
        acceptance: `"key"`: a child is pushed by its own key, as in the paper. `"popped"`: every child is pushed, and
            a popped candidate is looked at by its key, as in the published code.
        lookahead: Children of so many candidates at the head of the queue are drawn and scored together, for speed.

    Raises:
        ConfigError: Values that cannot be.
    """

    start: float = 1.0
    decay: float = 0.9
    lowest: float = 1e-4
    children: int | None = 8
    acceptance: str = "key"
    lookahead: int = 1

    def __post_init__(self) -> None:
        if not (0 < self.decay < 1 and self.lowest > 0 and self.start > 0):
            got = f"start {self.start}, decay {self.decay}, lowest {self.lowest}"
            raise ConfigError(
                explain("temperatures above 0, a decay in (0, 1)", got, "Annealing", "give other numbers")
            )
        if self.acceptance not in ("key", "popped") or self.lookahead < 1 or (self.children or 1) < 1:
            got = f"acceptance {self.acceptance!r}, lookahead {self.lookahead}, children {self.children}"
            raise ConfigError(explain('acceptance "key" or "popped", numbers of 1 or more', got, "Annealing", "change"))


@dataclass(frozen=True)
class Step:
    """A candidate that was looked at.

    Attributes:
        candidate: The child.
        parent: What it is a move away from.
        key: Its acquisition.
        accepted: Whether it entered the queue.
    """

    candidate: Any
    parent: Any
    key: float
    accepted: bool


@dataclass(frozen=True)
class Found:
    """What a search brought.

    Attributes:
        best: New candidates with the least acquisition, the least first.
        steps: All candidates looked at, in order.
        pops: Candidates taken from the queue.
    """

    best: tuple[Any, ...]
    steps: tuple[Step, ...]
    pops: int


@dataclass
class _Search:
    """The state of one search."""

    neighbours: Callable[[Any], Sequence[Any]]
    score: Scorer
    annealing: Annealing
    generator: np.random.Generator
    keys: dict[Any, float]
    drawn: dict[Any, list[Any]] = field(default_factory=dict)
    queue: list[tuple[float, int, Any]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    least: float = math.inf

    def push(self, candidate: Any, key: float) -> None:
        heapq.heappush(self.queue, (key, len(self.keys) + len(self.steps), candidate))

    def children(self, parent: Any) -> list[Any]:
        """Different moves of a candidate, drawn once and without replacement."""
        if parent not in self.drawn:
            found, most = list(self.neighbours(parent)), self.annealing.children
            if most is not None and len(found) > most:
                found = [found[int(i)] for i in self.generator.permutation(len(found))[:most]]
            self.drawn[parent] = found
        return self.drawn[parent]

    def look(self, children: Sequence[Any]) -> None:
        """Score the children that have no key yet, and with them those that are likely to be next."""
        if all(child in self.keys for child in children):
            return
        wanted = dict.fromkeys(children)
        for _, _, ahead in heapq.nsmallest(self.annealing.lookahead - 1, self.queue):
            wanted.update(dict.fromkeys(self.children(ahead)))
        new = [one for one in wanted if one not in self.keys]
        self.keys.update(zip(new, map(float, self.score(new)), strict=True))

    def expand(self, parent: Any, parent_key: float, temperature: float, seen: dict[Any, None]) -> None:
        """Look at the children of a popped candidate."""
        popped = self.annealing.acceptance == "popped"
        if popped and self.generator.random() > _chance(self.least - parent_key, temperature):
            return
        children = self.children(parent)
        self.look(children)
        for child in children:
            if child in seen:
                continue
            seen[child] = None
            key = self.keys[child]
            accepted = popped or self.generator.random() <= _chance(self.least - key, temperature)
            self.steps.append(Step(child, parent, key, accepted))
            if accepted:
                self.push(child, key)
            self.least = min(self.least, key)


def annealed_search(
    observed: Mapping[Any, float],
    neighbours: Callable[[Any], Sequence[Any]],
    score: Scorer,
    generator: np.random.Generator,
    *,
    annealing: Annealing | None = None,
    count: int = 1,
    known: Callable[[Any], bool] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Found:
    """Search the tree of moves for new candidates of low acquisition.

    Args:
        observed: Costs of scored candidates, lower is better, in the units of the acquisition.
        neighbours: Moves of a candidate.
        score: Acquisition of candidates, lower is better; called with several at once.
        generator: Of moves and acceptance.
        annealing: How it cools down.
        count: New candidates wanted, one for every worker.
        known: Which candidates are not new; those observed by default. They are walked through, and never brought back.
        stop: Asked before every pop.

    References:
        Jin, Song, Hu 2019, Auto-Keras: An Efficient Neural Architecture Search System, arXiv:1806.10282, algorithm 1.

    Example:
        >>> def score(numbers): return np.array([(number - 3.0) ** 2 for number in numbers])
        >>> found = annealed_search({0: 9.0}, lambda n: [n - 1, n + 1], score, np.random.default_rng(0))
        >>> found.best, found.pops <= 88
        ((3,), True)
    """
    annealing = annealing or Annealing()
    known = known or (lambda candidate: candidate in observed)
    search = _Search(neighbours, score, annealing, generator, {})
    for candidate, cost in observed.items():
        search.push(candidate, cost)
        search.keys[candidate] = cost
    search.least = min(observed.values(), default=math.inf)
    if annealing.acceptance == "popped":
        search.least = math.inf
    seen, temperature, pops = dict.fromkeys(observed), annealing.start, 0
    while search.queue and temperature > annealing.lowest and not stop():
        temperature *= annealing.decay
        key, _, parent = heapq.heappop(search.queue)
        pops += 1
        search.expand(parent, key, temperature, seen)
    new = [step for step in search.steps if not known(step.candidate)]
    new.sort(key=lambda step: step.key)
    return Found(tuple(step.candidate for step in new[:count]), tuple(search.steps), pops)


def _chance(gain: float, temperature: float) -> float:
    """`min(1, exp(gain / T))`."""
    return 1.0 if gain >= 0 else math.exp(gain / temperature)
