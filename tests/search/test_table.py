"""Tables: their figures against the sheet of the benchmarks, and what a replay counts."""

import itertools
from math import exp, lgamma

import numpy as np
import pytest

from pluriform.errors import ConfigError, ShapeError
from pluriform.search.benchmark_tables import macro_equivalents, nas_bench_201, nas_bench_macro
from pluriform.search.random_search import RandomSearch
from pluriform.search.table import Part, Table, replay


def small(scores=None, **given):
    scores = scores or {(i, j): float(10 * i + j) for i in range(3) for j in range(3)}
    return Table("small", (3, 3), scores, scores, **given)


def local_optima(table):
    return [one for one in table.guide if not any(table.guide[n] > table.guide[one] for n in table.neighbours(one))]


def local_optima_of_cells(sizes, scores):
    """Without the table's own moves: a summit is the maximum of every line through it."""
    dense = np.zeros(sizes)
    for one, score in scores.items():
        dense[one] = score
    best = np.ones(sizes, dtype=bool)
    for axis in range(len(sizes)):
        best &= dense == dense.max(axis=axis, keepdims=True)
    return [tuple(int(i) for i in one) for one in np.argwhere(best)]


def expected_of_random_search(table, draws):
    """Mean true score of the incumbent after draws without replacement: P(rank r) = C(N-1-r, n-1) / C(N, n)."""
    ranked = sorted(table.guide, key=lambda one: -table.guide[one])
    size = len(ranked)

    def log_choose(a, b):
        return lgamma(a + 1) - lgamma(b + 1) - lgamma(a - b + 1) if a >= b else -np.inf

    chances = (exp(log_choose(size - 1 - r, draws - 1) - log_choose(size, draws)) for r in range(size))
    return sum(p * table.true[one] for p, one in zip(chances, ranked, strict=True))


@pytest.fixture(scope="module")
def cifar10():
    return nas_bench_201("cifar10")


@pytest.fixture(scope="module")
def cifar100():
    return nas_bench_201("cifar100")


@pytest.fixture(scope="module")
def macro():
    return nas_bench_macro()


def test_macro_has_3969_networks_and_the_published_optimum(macro):
    assert len(macro) == 3969
    assert macro.best == pytest.approx(93.127, abs=5e-4)
    assert len(local_optima(macro)) == 10


def test_macro_written_without_canonical_form_has_15_local_optima(macro):
    strings = {
        key: macro.true[macro_equivalents(key)[0]] for key in itertools.product(range(3), repeat=8)
    }  # The redundant 6,561 strings.
    assert len(strings) == 6561
    assert len(local_optima_of_cells((3,) * 8, strings)) == 15


def test_macro_equivalents_cover_all_strings_once(macro):
    seen = [way for one in macro.guide for way in macro_equivalents(one)]
    assert len(seen) == len(set(seen)) == 6561
    assert all(macro_equivalents(way)[0] == macro_equivalents(one)[0] for one in [(0, 0, 1, 0, 2, 0, 2, 0)]
               for way in macro_equivalents(one))  # fmt: skip


def test_cells_have_the_optima_of_the_sheet(cifar10, cifar100):
    assert (len(cifar10), len(cifar100)) == (15625, 15625)
    assert (max(cifar10.guide.values()), cifar10.best) == (84.892, 89.16)
    assert (max(cifar100.guide.values()), cifar100.best) == (61.32, 61.18)
    assert len(local_optima_of_cells(cifar10.sizes, cifar10.guide)) == 21
    assert len(cifar10.neighbours((0, 1, 2, 3, 4, 0))) == 24
    # Two neighbours share the best figure after rounding to two digits; they are one summit.
    optima = local_optima_of_cells(cifar100.sizes, cifar100.guide)
    assert sum(cifar100.guide[one] == 61.32 for one in optima) == 2
    assert len(optima) - 1 == 34


@pytest.mark.parametrize(
    ("draws", "guide", "true"), [(10, 80.625, 86.080), (50, 83.205, 87.750), (150, 83.895, 88.225)]
)
def test_random_search_on_cells_has_the_expectation_of_the_sheet(cifar10, draws, guide, true):
    assert expected_of_random_search(cifar10, draws) == pytest.approx(true, abs=2e-2)
    seen = Table("seen", cifar10.sizes, cifar10.guide, cifar10.guide)
    assert expected_of_random_search(seen, draws) == pytest.approx(guide, abs=2e-3)


@pytest.mark.parametrize(("draws", "expected"), [(10, 92.450), (50, 92.756), (150, 92.871)])
def test_random_search_on_macro_has_the_expectation_of_the_sheet(draws, expected):
    runs = [expected_of_random_search(nas_bench_macro(seed), draws) for seed in range(3)]
    assert np.mean(runs) == pytest.approx(expected, abs=2e-3)


def test_replayed_random_search_is_within_its_expectation(macro):
    found = [replay(RandomSearch(macro, seed=seed), macro, 25).regret[-1] for seed in range(100)]
    error = np.std(found, ddof=1) / 10
    assert abs(np.mean(found) - (macro.best - expected_of_random_search(macro, 25))) < 3 * error


@pytest.mark.parametrize("name", ["macro", "cifar10"])
def test_distance_is_a_metric_on_random_triples(name, request):
    table = request.getfixturevalue(name)
    generator = np.random.default_rng(0)
    a, b, c = ([table.random(generator) for _ in range(10_000)] for _ in range(3))
    rows = [np.concatenate([np.diag(table.distances(x[i : i + 100], y[i : i + 100])) for i in range(0, 10_000, 100)])
            for x, y in ((a, b), (b, c), (a, c), (b, a))]  # fmt: skip
    assert (rows[2] <= rows[0] + rows[1] + 1e-12).all()
    assert np.array_equal(rows[0], rows[3])
    assert all((x == y) == (d == 0) for x, y, d in zip(a, b, rows[0], strict=True)) or name == "cifar10"
    assert table.distance(a[0], a[0]) == 0


def test_macro_distance_knows_that_a_missing_block_is_an_insertion(macro):
    assert macro.distance((1, 1, 1, 1, 1, 1, 1, 1), (1, 0, 1, 1, 1, 1, 1, 1)) == 1.0
    assert macro.distance((1, 1, 1, 1, 2, 1, 1, 1), (1, 1, 1, 2, 0, 1, 1, 1)) == 1.0
    assert macro.distance((1, 1, 1, 1, 1, 1, 1, 1), (1, 2, 1, 1, 1, 1, 1, 1)) == pytest.approx(0.45)


def test_repeats_are_free_and_regret_follows_the_incumbent():
    class Stubborn:
        def __init__(self):
            self.left = [(0, 1), (0, 1), (2, 2), (1, 0)]
            self.told = []

        def ask(self):
            return self.left[len(self.told)]

        def tell(self, candidate, score):
            self.told.append(score)

    scores = {(i, j): float(10 * i + j) for i in range(3) for j in range(3)}
    true = {one: -score for one, score in scores.items()}
    found = replay(Stubborn(), Table("small", (3, 3), scores, true), 3)
    assert found.asked == 4
    assert found.guide == (1.0, 22.0, 10.0)
    assert found.guide_regret == (21.0, 0.0, 0.0)
    assert found.regret == (1.0, 22.0, 22.0)


def test_minimised_tables_count_regret_upwards():
    table = small(direction="minimize")
    assert table.best == 0.0
    found = replay(RandomSearch(table, seed=0, direction="minimize"), table, 9)
    assert found.regret[-1] == 0.0
    assert min(found.regret) >= 0.0


def test_refuses_what_does_not_fit():
    with pytest.raises(ShapeError, match=r"costs \(9, 9\)"):
        small(parts=(Part((0, 1), np.zeros((3, 3))),))
    with pytest.raises(ShapeError, match=r"the candidate \(0, 3\)"):
        small({(0, 3): 1.0})
    with pytest.raises(ConfigError, match="maximize or minimize"):
        small(direction="higher")
    with pytest.raises(ConfigError, match="cifar10 or cifar100"):
        nas_bench_201("imagenet")
    with pytest.raises(ConfigError, match="seed 0, 1, 2 or None"):
        nas_bench_macro(3)


def test_networks_that_fail_have_no_score_and_are_never_the_incumbent():
    scores = {(i, j): float("nan") if i == 0 else float(10 * i + j) for i in range(3) for j in range(3)}
    table = small(scores)
    assert table.best == 22.0
    found = replay(Listed([(0, 1), (1, 0), (0, 2), (2, 2)]), table, 4)
    assert found.regret == (np.inf, 12.0, 12.0, 0.0)
    assert found.guide_regret == found.regret
    with pytest.raises(ConfigError, match="expected a score; got none"):
        small({(0, 0): float("nan")})


def test_scores_of_what_is_not_canonical_are_refused():
    swap = {(0, 1): ((1, 0), (0, 1)), (1, 0): ((1, 0), (0, 1))}
    scores = {(0, 0): 1.0, (0, 1): 2.0}
    with pytest.raises(ShapeError, match=r"got \(0, 1\), which is \(1, 0\)"):
        Table("twice", (2, 2), scores, scores, equivalents=lambda one: swap.get(one, (one,)))


def test_a_strategy_that_looks_the_other_way_is_refused():
    table = small(direction="minimize")
    with pytest.raises(ConfigError, match=r"a strategy that minimizes; got maximize.*direction='minimize'"):
        replay(RandomSearch(table, seed=0), table)
    assert replay(RandomSearch(table, seed=0, direction="minimize"), table).regret[-1] == 0.0


class Listed:
    """Proposals of a list."""

    def __init__(self, candidates):
        self.left = candidates[::-1]

    def ask(self):
        return self.left.pop()

    def tell(self, candidate, score):
        pass


def test_choices_that_are_numbers_keep_their_order():
    scores = {(i,): 0.0 for i in range(4)}
    table = Table("widths", (4,), scores, scores, parts=(Part.ordinal(0, [8, 16, 24, 40]),))
    assert table.distances([(0,)], [(0,), (1,), (2,), (3,)]).tolist() == [[0.0, 0.25, 0.5, 1.0]]
    assert Part.ordinal(0, [5, 5]).costs.tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("candidate", ["00", 5, (0, "a"), (0, 3), (0,), [0, 0]])
def test_candidates_that_are_no_choices_are_refused(candidate):
    class Other:
        def ask(self):
            return candidate

        def tell(self, *_):
            pytest.fail("told of a candidate that is not in the table")

    with pytest.raises(ConfigError, match="expected candidates of the table; got"):
        replay(Other(), small(), 3)


def test_positions_that_are_none_are_refused():
    with pytest.raises(ShapeError, match=r"expected positions below 2; got \(2,\)"):
        small(parts=(Part((2,), np.zeros((3, 3))),))


def test_a_long_replay_ends_when_all_is_scored():
    scores = {(i, j): float(i * j) for i in range(80) for j in range(50)}
    table = Table("large", (80, 50), scores, scores)
    assert len(replay(RandomSearch(table, seed=0), table, 3500).guide) == 3500
