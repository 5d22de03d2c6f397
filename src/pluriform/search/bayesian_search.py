"""Bayesian optimisation over candidates: propose what the model believes in most, a few moves from the best."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pluriform.errors import ConfigError, explain
from pluriform.search.acquisition import acquisition, thompson
from pluriform.search.candidate_model import CandidateModel, Covariates, feature_map
from pluriform.search.space import Space, draw
from pluriform.search.strategy import Observation, Trials
from pluriform.search.surrogate import Belief

__all__ = ["BayesianSearch"]

FRESH, WIDE = 3, 30
"""Candidates with which a new climb begins, and how many random ones each of them is chosen from."""
SPARSE = 100
"""Random candidates where neighbours are few."""


class BayesianSearch:
    """A Gaussian process on an embedded distance; candidates a few moves from the best compete by expected improvement.

    Neighbours of the best scored candidates are the first competitors; then, for some rounds, neighbours of the leading
    competitors join them. So a proposal is at most `rounds + 1` moves from a scored candidate, or drawn at random.

    Args:
        space: Where candidates live. With `distance_parts(candidates, others)` (an array for each part of the distance)
            the parts get length scales of their own; with `distances(candidates, others)` it is fast.
        seed: Of all draws.
        direction: `"maximize"` or `"minimize"` the score.
        initial: Random candidates first.
        start: Candidates to propose first.
        kernel: `"distance"` (embedded), `"one-hot"` or `"weisfeiler-lehman"`.
        acquisition: `"ei"`, `"thompson"` or `"ucb"`.
        beta: Of the confidence bound.
        parents: Neighbours of at least that many best candidates compete,
        share: and of this share of all scored ones, so that a long search leaves a summit that it has climbed.
        randoms: Together with so many random candidates,
        few: or with 100 where there are fewer neighbours than that: a table that holds few networks of its space.
        rounds: So many times neighbours of the leading competitors join the competition.
        children: At most so many neighbours of one parent, drawn at random.
        patience: Once the best score is that many scores old, every other proposal belongs to climbs that begin anew at
            random candidates, until there is a better one; `None` never begins anew.
        marks: Candidates drawn from the space that serve as anchors of the embedding beside the observations.
        linear: Fit a linear term of the kernel beside the Gaussian one.
        covariates: Numbers of a candidate in which the prior mean is linear, `candidate -> sequence`, in units in which
            1 makes a difference (logarithms of sizes).
        cost: Expected improvement is divided by it, `candidate -> number above 0`; none by default.

    Attributes:
        trials: What was asked and told.
        model: Beliefs about candidates.

    Raises:
        ConfigError: Numbers or names that cannot be.

    References:
        Jin, Song, Hu 2019, Auto-Keras, arXiv:1806.10282. White, Neiswanger, Savani 2021, BANANAS, arXiv:1910.11858
        (mutation of the best).

    Example:
        >>> class Line:
        ...     def random(self, generator): return int(generator.integers(100))
        ...     def neighbours(self, candidate): return [n for n in (candidate - 1, candidate + 1) if 0 <= n < 100]
        ...     def distance(self, a, b): return abs(a - b)
        >>> strategy = BayesianSearch(Line(), seed=0, initial=3)
        >>> for _ in range(30):
        ...     candidate = strategy.ask()
        ...     strategy.tell(candidate, -(candidate - 42) ** 2)
        >>> strategy.trials.best.candidate
        42
    """

    def __init__(
        self,
        space: Space,
        *,
        seed: int = 0,
        direction: str = "maximize",
        initial: int = 10,
        start: Sequence[Any] = (),
        kernel: str = "distance",
        acquisition: str = "ei",
        beta: float | int = 2.576,
        parents: int = 3,
        share: float = 0.08,
        randoms: int = 5,
        few: int = 10,
        rounds: int = 2,
        children: int = 100,
        patience: int | None = 15,
        marks: int = 100,
        linear: bool = True,
        covariates: Covariates | None = None,
        cost: Callable[[Any], float] | None = None,
    ) -> None:
        if cost is not None and acquisition != "ei":
            remedy = 'use acquisition="ei", or leave cost out'
            raise ConfigError(explain("expected improvement where candidates have a cost", acquisition, "cost", remedy))
        if min(parents, children) < 1 or randoms < 0 or beta < 0:
            got = f"parents {parents}, children {children}, randoms {randoms}, beta {beta}"
            raise ConfigError(explain("one parent and child or more", got, "BayesianSearch", "give larger numbers"))
        self.trials = Trials(space, seed=seed, direction=direction, initial=initial, start=start)
        self.model = CandidateModel(
            self.trials, feature_map(kernel, space, seed, marks), linear=linear, covariates=covariates
        )
        self.cost = cost
        self._acquisition, self.patience = _acquisition(acquisition, beta), patience
        self.parents, self.share, self.randoms, self.few = parents, share, randoms, few
        self.children, self.rounds = children, rounds

    def ask(self) -> Any:
        """The candidate to score next."""
        return self.trials.ask(self._propose)

    def tell(self, candidate: Any, score: float | int, variance: float | int = 0.0) -> None:
        """The score of a candidate; NaN says that it failed.

        Args:
            candidate: Asked for or not.
            score: Of it.
            variance: Of the score, where it is known: `p (1 - p) / n` of an accuracy `p` on `n` samples.
        """
        self.trials.tell(candidate, score, variance)

    def predict(self, candidates: Sequence[Any]) -> Belief:
        """What scores are expected, in their own units; needs two scores told.

        Args:
            candidates: Known or not. That they are pending themselves tells nothing about them.
        """
        with self.trials.without(candidates):
            belief = self.model.predict_gain(candidates)
        return belief if self.trials.direction == "maximize" else Belief(-belief.mean, belief.deviation)

    def _propose(self, generator: np.random.Generator) -> Any:
        climb = self._climb()
        if climb is not None and len(climb) < FRESH:
            return self._fresh(generator)
        parents = self.trials.ranked()[: max(self.parents, round(self.share * len(self.trials.observed)))]
        if climb is not None:
            parents = sorted(climb, key=lambda one: -one.gain)[: self.parents]
        values = self._value(self._pool(parents, generator), parents[0], generator)
        for _ in range(self.rounds):
            leaders = sorted(values, key=lambda one: -values[one])[: self.parents]
            moved = (child for leader in leaders for child in self._children(leader, generator))
            new = [child for child in dict.fromkeys(moved) if child not in values]
            values |= self._value(new, parents[0], generator)
        return max(values, key=lambda one: values[one]) if values else self.trials.random_new(generator)

    def _climb(self) -> list[Observation] | None:
        """What the climb under way has scored, or `None` where the search is one of all candidates.

        Once the best score is `patience` scores old, every other one belongs to climbs that begin anew elsewhere, until
        there is a better one. A climb ends when its own best is half as many of its scores old.
        """
        best = self.trials.best
        if self.patience is None or best is None:
            return None
        first = best.place + 1 + self.patience
        if len(self.trials) < first or len(self.trials) % 2 == 0:
            return None
        climb: list[Observation] = []
        for one in [*(one for one in self.trials.observed if one.place >= first and one.place % 2), None]:
            oldest = len(climb) - int(np.argmax([each.gain for each in climb])) if climb else 0
            if oldest > self.patience // 2:
                climb = []
            climb += [one] if one is not None else []
        return climb

    def _fresh(self, generator: np.random.Generator) -> Any:
        """One of some random candidates, drawn by belief."""
        pool = list(dict.fromkeys(self.trials.random_new(generator) for _ in range(WIDE)))
        return pool[int(np.argmax(thompson(self.model.predict(pool), generator)))]

    def _value(self, candidates: list[Any], best: Observation, generator: np.random.Generator) -> dict[Any, float]:
        if not candidates:
            return {}
        scores = self.model.standardised
        found = self._acquisition(self.model.predict(candidates), (best.gain - scores.shift) / scores.spread, generator)
        if self.cost is not None:
            found = found / np.array([self.cost(one) for one in candidates])
        return dict(zip(candidates, map(float, found), strict=True))

    def _children(self, parent: Any, generator: np.random.Generator) -> list[Any]:
        """Unknown neighbours, some of them where they are many."""
        children = self.trials.unknown_neighbours(parent)
        if len(children) <= self.children:
            return children
        return [children[int(i)] for i in sorted(generator.permutation(len(children))[: self.children])]

    def _pool(self, parents: list[Observation], generator: np.random.Generator) -> list[Any]:
        """Unknown neighbours of the parents, and some at random; many of them where neighbours are few."""
        pool: dict[Any, None] = {}
        for parent in parents:
            pool.update(dict.fromkeys(self._children(parent.candidate, generator)))
        for _ in range(self.randoms if len(pool) >= self.few else SPARSE):
            candidate = draw(self.trials.space, generator)
            if candidate not in self.trials:
                pool[candidate] = None
        return list(pool)


_acquisition = acquisition
