"""Ask and tell: what holds for every strategy over any space."""

import math
from random import Random  # noqa: TID251
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pluriform.errors import ConfigError
from pluriform.search.bayesian_search import BayesianSearch
from pluriform.search.local_search import LocalSearch
from pluriform.search.mutate_incumbent import MutateIncumbent
from pluriform.search.random_search import RandomSearch
from pluriform.search.regularised_evolution import RegularisedEvolution
from pluriform.search.space import check_space, draw
from pluriform.search.strategy import Strategy, Trials, check_score

STRATEGIES = [RandomSearch, MutateIncumbent, RegularisedEvolution, LocalSearch]


class Grid:
    """A space with the three methods and nothing else: points of a square, one step a move."""

    side = 12

    def random(self, generator):
        return (int(generator.integers(self.side)), int(generator.integers(self.side)))

    def neighbours(self, candidate):
        x, y = candidate
        steps = [(x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)]
        return [(a, b) for a, b in steps if 0 <= a < self.side and 0 <= b < self.side]

    def distance(self, a, b):
        return abs(a[0] - b[0]) + abs(a[1] - b[1])


def height(candidate):
    x, y = candidate
    return -((x - 8) ** 2) - 0.5 * (y - 3) ** 2


def search(strategy, evaluations, score=height):
    asked = []
    for _ in range(evaluations):
        candidate = strategy.ask()
        asked.append(candidate)
        strategy.tell(candidate, score(candidate))
    return asked


@pytest.mark.parametrize("cls", STRATEGIES)
def test_same_seed_same_proposals_and_no_repeats(cls):
    first, second, other = (search(cls(Grid(), seed=seed), 40) for seed in (3, 3, 4))
    assert first == second
    assert first != other
    assert len(set(first)) == 40
    assert isinstance(cls(Grid()), Strategy)


@pytest.mark.parametrize("cls", STRATEGIES)
def test_initial_candidates_are_the_same_for_every_strategy(cls):
    assert search(cls(Grid(), seed=5), 10) == search(RandomSearch(Grid(), seed=5), 10)


@pytest.mark.parametrize("cls", STRATEGIES)
@pytest.mark.parametrize("cut", [0, 4, 10, 23])
def test_told_an_old_history_anew_it_goes_on_as_before(cls, cut):
    whole = cls(Grid(), seed=1)
    asked = search(whole, 30)
    resumed = cls(Grid(), seed=1)
    for candidate in asked[:cut]:
        resumed.tell(candidate, height(candidate))
    assert search(resumed, 30 - cut) == asked[cut:]


@pytest.mark.parametrize("cls", STRATEGIES)
def test_pending_candidates_are_not_proposed_again_and_survive_a_resume(cls):
    lived = cls(Grid(), seed=2)
    search(lived, 14)
    waiting = [lived.ask() for _ in range(3)]
    assert len({*waiting}) == 3
    resumed = cls(Grid(), seed=2)
    for one in lived.trials.observed:
        resumed.tell(one.candidate, one.score)
    for candidate in waiting:
        resumed.trials.expect(candidate)
    lived.tell(waiting[1], height(waiting[1]))
    resumed.tell(waiting[1], height(waiting[1]))
    assert [lived.ask() for _ in range(2)] == [resumed.ask() for _ in range(2)]


@pytest.mark.parametrize("cls", STRATEGIES)
def test_minimising_is_maximising_the_negative(cls):
    up = search(cls(Grid(), seed=7), 40)
    down = search(cls(Grid(), seed=7, direction="minimize"), 40, lambda candidate: -height(candidate))
    assert up == down


@pytest.mark.parametrize("cls", STRATEGIES[1:])
def test_climbs_to_the_summit(cls):
    strategy = cls(Grid(), seed=0)
    search(strategy, 80)
    assert strategy.trials.best.candidate == (8, 3)


@pytest.mark.parametrize("cls", STRATEGIES)
def test_failures_are_no_end_and_no_scores(cls):
    strategy = cls(Grid(), seed=0)
    asked = search(strategy, 60, lambda c: float("nan") if c[0] < 6 else height(c))
    assert len(set(asked)) == 60
    assert {one.candidate for one in strategy.trials.observed} | set(strategy.trials.failed) == set(asked)
    assert all(one.candidate[0] >= 6 for one in strategy.trials.observed)


@pytest.mark.parametrize("cls", STRATEGIES)
def test_starts_with_what_it_is_given(cls):
    assert search(cls(Grid(), seed=0, start=[(0, 0), (1, 1)], initial=1), 2) == [(0, 0), (1, 1)]


@pytest.mark.parametrize("cls", STRATEGIES)
def test_global_generators_are_left_alone(cls):
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    search(cls(Grid(), seed=0), 30)
    assert (np.random.get_state()[1] == before[0]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize("cls", STRATEGIES)
def test_an_exhausted_space_repeats_instead_of_hanging(cls):
    class Two(Grid):
        side = 2

    strategy = cls(Two(), seed=0)
    assert len(set(search(strategy, 12))) == 4


class Lonely:
    """Sixty candidates without neighbours: only chance finds them."""

    def random(self, generator):
        return int(generator.integers(60))

    def neighbours(self, candidate):
        return []

    def distance(self, a, b):
        return abs(a - b)


@pytest.mark.parametrize("cls", STRATEGIES)
@pytest.mark.parametrize("seed", range(3))
def test_a_strategy_whose_draws_are_all_known_draws_others_the_next_time(cls, seed):
    strategy = cls(Lonely(), seed=seed)
    asked = search(strategy, 150, float)
    assert len(set(asked)) == 60
    new = list(dict.fromkeys(asked))
    resumed = cls(Lonely(), seed=seed)
    for candidate in new[:40]:
        resumed.tell(candidate, float(candidate))
    assert [one for one in dict.fromkeys(search(resumed, 110, float)) if one not in new[:40]] == new[40:]


class Skewed(Lonely):
    """A ring of thirty, of which chance finds one candidate nearly always."""

    def random(self, generator):
        return int(generator.integers(30)) if generator.random() < 0.01 else 0

    def neighbours(self, candidate):
        return [(candidate + 1) % 30, (candidate - 1) % 30]


@pytest.mark.parametrize(
    "cls", [*STRATEGIES, lambda space, **given: BayesianSearch(space, patience=1, marks=0, **given)]
)
def test_nothing_is_proposed_twice_while_a_neighbour_is_unknown(cls):
    assert len(set(search(cls(Skewed(), seed=0, initial=1), 30, lambda one: -float(one)))) == 30


@pytest.mark.parametrize("cls", STRATEGIES)
def test_any_object_with_the_three_methods_is_a_space(cls):
    grid = Grid()
    space = SimpleNamespace(random=grid.random, neighbours=lambda c: iter(grid.neighbours(c)), distance=grid.distance)
    assert search(cls(space, seed=3), 40) == search(cls(grid, seed=3), 40)


def test_local_search_climbs_anew_from_where_it_fell_when_the_last_neighbour_failed():
    strategy = LocalSearch(Grid(), seed=1, initial=1, start=[(0, 0)])
    assert strategy.ask() == (0, 0)
    for candidate, score in {(0, 0): 5.0, (1, 0): 1.0, (0, 1): math.nan}.items():
        strategy.tell(candidate, score)
    elsewhere = strategy.ask()
    strategy.tell(elsewhere, 2.0)
    assert strategy.ask() in Grid().neighbours(elsewhere)


@pytest.mark.parametrize("cls", STRATEGIES)
def test_candidates_and_scores_that_cannot_be_are_explained(cls):
    class Lists(Grid):
        def random(self, generator):
            return [1, 2]

    with pytest.raises(ConfigError, match=r"a candidate that is hashable; got \[1, 2\] .*use tuples"):
        cls(Lists()).ask()
    strategy = cls(Grid())
    with pytest.raises(ConfigError, match=r"hashable; got \[3\]"):
        strategy.tell([3], 1.0)
    for variance in (-1.0, math.nan):
        with pytest.raises(ConfigError, match=rf"a variance of 0 or more; got 0.9 and {variance} \(tell of \(1, 1\)\)"):
            strategy.tell((1, 1), 0.9, variance)
    assert len(strategy.trials) == 0


@pytest.mark.parametrize("score", [None, "0.9"])
def test_a_score_that_is_no_number_is_explained(score):
    with pytest.raises(ConfigError, match=rf"a number as score .* got {score!r} and .*math.nan for a failure"):
        check_score((1, 1), score, 0.0)


def test_a_candidate_told_twice_keeps_its_first_score():
    trials = Trials(Grid())
    trials.tell((1, 1), 3.0)
    trials.tell((1, 1), 5.0)
    assert [one.score for one in trials.observed] == [3.0]


def test_refuses_what_cannot_be():
    with pytest.raises(ConfigError, match=r"FlatSpace without neighbours, distance"):
        check_space(type("FlatSpace", (), {"random": lambda self, generator: 0})())
    with pytest.raises(ConfigError, match=r'"maximize" or "minimize"'):
        RandomSearch(Grid(), direction="up")
    with pytest.raises(ConfigError, match="sample <= population"):
        RegularisedEvolution(Grid(), population=3, sample=5)
    with pytest.raises(ConfigError, match="one parent"):
        MutateIncumbent(Grid(), top=0)


def test_a_space_gets_the_kind_of_generator_that_it_asks_for():
    class OfTorch(Grid):
        def random(self, generator: torch.Generator):
            return int(torch.randint(12, (1,), generator=generator))

    class OfPython(Grid):
        def random(self, generator: Random):
            return generator.choice(range(12))

    for space in (OfTorch(), OfPython()):
        drawn = [draw(space, np.random.default_rng(seed)) for seed in (0, 0, 1, 2, 3)]
        assert drawn[0] == drawn[1]
        assert len(set(drawn)) > 1
