"""A finite space with a score for every candidate: searches on it cost nothing, so strategies can be compared.

A candidate is a tuple of choices, one per position. Its distance to another is a sum over parts of the positions, each
with a table of costs between joint choices; a table of costs that is a metric makes the sum one.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pluriform.errors import ConfigError, ShapeError, explain
from pluriform.search.strategy import DIRECTIONS, Strategy

__all__ = ["Choices", "Part", "Replay", "Table", "replay"]

Choices = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Part:
    """Positions whose joint choice contributes one cost to the distance.

    Attributes:
        positions: Which ones.
        costs: Cost between joint choices, counted with the last position fastest, `(joint, joint)`; a metric.
    """

    positions: tuple[int, ...]
    costs: NDArray[np.float64]

    @staticmethod
    def ordinal(position: int, values: Sequence[float | int]) -> "Part":
        """One position whose choices are numbers, such as widths: |x - y| over the range of the values.

        Example:
            >>> Part.ordinal(0, [8, 16, 24]).costs[0].tolist()
            [0.0, 0.5, 1.0]
        """
        line = np.asarray(values, dtype=np.float64)
        costs = np.abs(line[:, None] - line)
        return Part((position,), costs / max(costs.max(initial=0.0), np.finfo(np.float64).tiny))


@dataclass(frozen=True, eq=False)
class Table:
    """A search space with known scores.

    Attributes:
        name: Of the benchmark.
        sizes: Number of choices at every position.
        guide: The score that a search is told, by canonical candidate; NaN for a network that fails.
        true: The score by which its result is judged.
        parts: Of the distance; by default one for every position, where any two choices differ by 1. `Part.ordinal` is
            for choices that are numbers.
        equivalents: All candidates that are the same network as this one; by default itself alone. The canonical one
            is the first.
        direction: `"maximize"` or `"minimize"` the scores.

    Raises:
        ShapeError: A candidate or a cost table does not fit the sizes, or a candidate is not the canonical one.

    Example:
        >>> scores = {(i, j): i + j for i in range(3) for j in range(3)}
        >>> table = Table("sum", (3, 3), scores, scores)
        >>> table.neighbours((0, 2)), table.distance((0, 2), (1, 1)), table.best
        ([(1, 2), (2, 2), (0, 0), (0, 1)], 2.0, 4.0)
    """

    name: str
    sizes: Choices
    guide: Mapping[Choices, float | int]
    true: Mapping[Choices, float | int]
    parts: tuple[Part, ...] = ()
    equivalents: Callable[[Choices], Sequence[Choices]] | None = None
    direction: str = "maximize"
    _keys: list[Choices] = field(default_factory=list, init=False, repr=False)
    _neighbours: dict[Choices, list[Choices]] = field(default_factory=dict, repr=False)
    _codes: dict[Choices, NDArray[np.int64]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS:
            raise ConfigError(explain("maximize or minimize", self.direction, f"table {self.name}", "name one"))
        if not self.parts:
            parts = tuple(Part((i,), 1.0 - np.eye(size)) for i, size in enumerate(self.sizes))
            object.__setattr__(self, "parts", parts)
        for part in self.parts:
            if not all(0 <= i < len(self.sizes) for i in part.positions):
                got, remedy = f"{part.positions}", "count positions from 0"
                raise ShapeError(explain(f"positions below {len(self.sizes)}", got, f"table {self.name}", remedy))
            joint = int(np.prod([self.sizes[i] for i in part.positions]))
            if part.costs.shape != (joint, joint):
                got = f"{part.costs.shape} for positions {part.positions}"
                raise ShapeError(explain(f"costs ({joint}, {joint})", got, f"table {self.name}", "give all costs"))
        wrong = next((one for one in self.guide if not self.holds(one)), None)
        if wrong is not None or set(self.guide) != set(self.true):
            got = "other candidates in `true` than in `guide`" if wrong is None else f"the candidate {wrong}"
            remedy = "give one tuple of choices and two scores for every network"
            raise ShapeError(explain(f"choices within {self.sizes}", got, f"table {self.name}", remedy))
        double = next((one for one in self.guide if self.canonical(one) != one), None)
        if double is not None:
            got, remedy = f"{double}, which is {self.canonical(double)}", "give scores to the first of all equivalents"
            raise ShapeError(explain("canonical candidates", got, f"table {self.name}", remedy))
        if all(math.isnan(score) for score in self.true.values()):
            raise ConfigError(explain("a score", "none", f"table {self.name}", "give one that is no NaN"))
        self._keys.extend(sorted(self.guide))

    def holds(self, candidate: object) -> bool:
        """Whether it is a tuple of one choice for every position."""
        if not isinstance(candidate, tuple) or len(candidate) != len(self.sizes):
            return False
        pairs = zip(candidate, self.sizes, strict=True)
        return all(isinstance(c, int | np.integer) and 0 <= c < size for c, size in pairs)

    def __len__(self) -> int:
        """Networks in the table."""
        return len(self.guide)

    @property
    def best(self) -> float:
        """The best true score of all."""
        return float(DIRECTIONS[self.direction] * max(map(self.gain, self.true.values())))

    def gain(self, score: float | int) -> float:
        """A score so that higher is better; minus infinity for NaN."""
        return -math.inf if math.isnan(score) else DIRECTIONS[self.direction] * float(score)

    def canonical(self, candidate: Choices) -> Choices:
        """The candidate that stands for all its equivalents."""
        return candidate if self.equivalents is None else self.equivalents(candidate)[0]

    def random(self, generator: np.random.Generator) -> Choices:
        """Every network of the table with the same probability."""
        return self._keys[int(generator.integers(len(self._keys)))]

    def neighbours(self, candidate: Choices) -> list[Choices]:
        """Networks that differ from the candidate, or from one of its equivalents, in one choice."""
        found = self._neighbours.get(candidate)
        if found is None:
            same = [candidate] if self.equivalents is None else self.equivalents(candidate)
            moved = (self.canonical(one) for start in same for one in _one_changed(start, self.sizes))
            found = [one for one in dict.fromkeys(moved) if one != candidate and one in self.guide]
            self._neighbours[candidate] = found
        return found

    def distance(self, a: Choices, b: Choices) -> float:
        """Sum of the costs of all parts."""
        return float(self.distances([a], [b])[0, 0])

    def distances(self, candidates: Sequence[Choices], others: Sequence[Choices]) -> NDArray[np.float64]:
        """Distances of every candidate to every other, `(candidates, others)`."""
        rows, columns = self._codes_of(candidates), self._codes_of(others)
        total = np.zeros((len(candidates), len(others)))
        for index, part in enumerate(self.parts):
            total += part.costs[rows[:, index, None], columns[None, :, index]]
        return total

    def one_hot(self, candidate: Choices) -> NDArray[np.float64]:
        """One coordinate for every choice at every position, 1 where it is taken."""
        return np.concatenate([np.eye(size)[choice] for size, choice in zip(self.sizes, candidate, strict=True)])

    def _codes_of(self, candidates: Sequence[Choices]) -> NDArray[np.int64]:
        rows = []
        for candidate in candidates:
            code = self._codes.get(candidate)
            if code is None:
                canonical = self.canonical(candidate)
                code = np.array([self._joint(canonical, part.positions) for part in self.parts], dtype=np.int64)
                self._codes[candidate] = code
            rows.append(code)
        return np.array(rows, dtype=np.int64).reshape(len(candidates), len(self.parts))

    def _joint(self, candidate: Choices, positions: tuple[int, ...]) -> int:
        code = 0
        for position in positions:
            code = code * self.sizes[position] + candidate[position]
        return code


def _one_changed(candidate: Choices, sizes: Choices) -> list[Choices]:
    places = range(len(sizes))
    return [(*candidate[:i], c, *candidate[i + 1 :]) for i in places for c in range(sizes[i]) if c != candidate[i]]


@dataclass(frozen=True)
class Replay:
    """One search on a table.

    Attributes:
        guide: The score told at every evaluation.
        regret: How far the true score of the incumbent (by the scores told) is from the best, after every evaluation.
        guide_regret: How far the told score of the incumbent is from the best told score.
        asked: Proposals, repeats counted.
    """

    guide: tuple[float, ...]
    regret: tuple[float, ...]
    guide_regret: tuple[float, ...]
    asked: int


def replay(strategy: Strategy, table: Table, evaluations: int = 150, most_asked: int | None = None) -> Replay:
    """Let a strategy search a table; a candidate that it was told before is free.

    Args:
        strategy: Over the table.
        table: With the scores.
        evaluations: Different candidates to score.
        most_asked: Stop after that many proposals, where a strategy keeps repeating itself; 20 for each evaluation.

    Raises:
        ConfigError: The strategy looks in the other direction, or proposes what is not in the table.
    """
    direction = getattr(getattr(strategy, "trials", None), "direction", table.direction)
    if direction != table.direction:
        remedy = f"give the strategy direction={table.direction!r}"
        raise ConfigError(explain(f"a strategy that {table.direction}s", direction, f"table {table.name}", remedy))
    gain, asked = table.gain, 0
    most_asked = 20 * evaluations if most_asked is None else most_asked
    told: dict[Choices, float | int] = {}
    while len(told) < min(evaluations, len(table)) and asked < most_asked:
        proposed = strategy.ask()
        asked += 1
        candidate = table.canonical(proposed) if table.holds(proposed) else ()
        if candidate not in table.guide:
            remedy = "make the strategy over this table"
            raise ConfigError(explain("candidates of the table", f"{proposed!r}", f"table {table.name}", remedy))
        told.setdefault(candidate, table.guide[candidate])
        strategy.tell(proposed, told[candidate])
    best_told, best = max(map(gain, table.guide.values())), gain(table.best)
    running = list(itertools.accumulate(told, lambda a, b: b if gain(table.guide[b]) > gain(table.guide[a]) else a))
    return Replay(
        tuple(map(float, told.values())),
        tuple(best - gain(table.true[one]) for one in running),
        tuple(best_told - gain(table.guide[one]) for one in running),
        asked,
    )
