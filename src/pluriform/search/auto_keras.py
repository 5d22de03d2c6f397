"""Auto-Keras as a strategy: its Gaussian process and its acquisition search, as published or with repairs.

Published (version 0.4, by its description): zero mean and unit variance on costs as they are, nothing fitted, noise of
1e-10; the training kernel is `exp(-|z_a - z_b|^2 / m)` of an embedding whose repetitions shrink at every scale, the
cross kernel is `exp(-d^2)` of raw distances; an observation that makes the matrix singular is lost. Repaired: one
kernel of an embedding with kept anchors, standardised scores, fitted scales and noise, acceptance by the key of the
child.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pluriform.search.acquisition import upper_confidence_bound
from pluriform.search.annealed_search import Annealing, annealed_search
from pluriform.search.candidate_model import CandidateModel, feature_map
from pluriform.search.embedding import DistanceRows
from pluriform.search.space import Space
from pluriform.search.strategy import Trials

__all__ = ["AutoKeras", "PublishedProcess", "published_embedding"]

Matrix = NDArray[np.float64]

SEED = 123
"""Of the random anchor sets, in every fit."""


class AutoKeras:
    """Lower confidence bound, minimised by A* with simulated annealing over the tree of moves.

    Args:
        space: Where candidates live.
        seed: Of all draws.
        direction: `"maximize"` or `"minimize"` the score.
        initial: Random candidates first.
        start: Candidates to propose first.
        repaired: Without the faults of the published code.
        beta: Deviations subtracted from the mean cost.
        annealing: How the acquisition search cools down; acceptance follows `repaired` by default.
        cost: Turns a score (higher being better) into a cost; for the published process, which scales nothing.

    Attributes:
        trials: What was asked and told.

    References:
        Jin, Song, Hu 2019, Auto-Keras: An Efficient Neural Architecture Search System, arXiv:1806.10282.
    """

    def __init__(
        self,
        space: Space,
        *,
        seed: int = 0,
        direction: str = "maximize",
        initial: int = 10,
        start: Sequence[Any] = (),
        repaired: bool = True,
        beta: float | int = 2.576,
        annealing: Annealing | None = None,
        cost: Callable[[float], float] = lambda gain: 1.0 - gain,
    ) -> None:
        self.trials = Trials(space, seed=seed, direction=direction, initial=initial, start=start)
        self.repaired, self.beta, self.cost = repaired, beta, cost
        self.annealing = annealing or Annealing(acceptance="key" if repaired else "popped")
        self.model = CandidateModel(self.trials, feature_map("distance", space, seed), linear=False)
        self._rows = DistanceRows(space, whole=True)

    def ask(self) -> Any:
        """The candidate to score next."""
        return self.trials.ask(self._propose)

    def tell(self, candidate: Any, score: float | int, variance: float | int = 0.0) -> None:
        """The score of a candidate; NaN says that it failed."""
        self.trials.tell(candidate, score, variance)

    def _propose(self, generator: np.random.Generator) -> Any:
        observed = [one.candidate for one in self.trials.observed]
        if self.repaired:
            costs, score = -self.model.standardised.values, self._bound
        else:
            costs = np.array([self.cost(one.gain) for one in self.trials.observed])
            process = PublishedProcess(self._distances(observed), costs)
            score = lambda new: process.lower_bound(self._distances(new), self.beta)  # noqa: E731
        found = annealed_search(
            dict(zip(observed, map(float, costs), strict=True)),
            self.trials.space.neighbours,
            score,
            generator,
            annealing=self.annealing,
            known=self.trials.__contains__,
        )
        return found.best[0] if found.best else self.trials.random_new(generator)

    def _bound(self, candidates: Sequence[Any]) -> Matrix:
        return -upper_confidence_bound(self.model.predict(candidates), self.beta)

    def _distances(self, candidates: Sequence[Any]) -> Matrix:
        """Of the space, `(candidates, observed)`."""
        known = len(self._rows.anchors)
        self._rows.anchors += [one.candidate for one in self.trials.observed[known:]]
        return self._rows.rows(candidates)[0]


def published_embedding(distances: Matrix) -> Matrix:
    """Coordinates of observations as the published code makes them.

    Its counter of repetitions is overwritten by its own loop variable, so that every scale has fewer sets than the one
    before; sets are drawn with replacement.

    Args:
        distances: Between observations, `(n, n)`.
    """
    count = len(distances)
    generator = np.random.default_rng(SEED)
    repetitions = math.ceil(math.log(count)) if count > 1 else 0
    columns = []
    for scale in range(math.ceil(math.log2(count)) if count > 1 else 0):
        for _ in range(repetitions):
            members = generator.choice(count, size=2**scale)
            columns.append(distances[:, members].min(axis=1))
        repetitions = max(repetitions - 1, 0)
    return np.stack(columns, axis=1) if columns else np.zeros((count, 0))


class PublishedProcess:
    """The Gaussian process of the published code, with its faults.

    Args:
        distances: Between observations, `(n, n)`.
        costs: Of the observations, `(n,)`.
    """

    def __init__(self, distances: Matrix, costs: Matrix) -> None:
        from scipy.linalg import cholesky

        coordinates = published_embedding(distances)
        squares = (coordinates**2).sum(1)
        apart = np.maximum(squares[:, None] + squares[None] - 2 * coordinates @ coordinates.T, 0.0)
        gram = np.exp(-apart / max(coordinates.shape[1], 1)) if len(costs) > 1 else distances.copy()
        self.kept = list(range(len(costs)))
        while True:
            block = gram[np.ix_(self.kept, self.kept)] + 1e-10 * np.eye(len(self.kept))
            try:
                self.factor = cholesky(block, lower=True)
                break
            except np.linalg.LinAlgError as error:
                self.kept.pop(int(str(error).split("-th")[0]) - 1)
        from scipy.linalg import cho_solve

        self.weights = cho_solve((self.factor, True), costs[self.kept])

    def lower_bound(self, distances: Matrix, beta: float | int) -> Matrix:
        """`mean - beta deviation`; the cross kernel is that of raw distances, and negative variances become 0."""
        from scipy.linalg import solve_triangular

        cross = np.exp(-(distances[:, self.kept] ** 2))
        half = solve_triangular(self.factor, cross.T, lower=True)
        variance = np.maximum(1.0 - (half**2).sum(0), 0.0)
        return cross @ self.weights - beta * np.sqrt(variance)
