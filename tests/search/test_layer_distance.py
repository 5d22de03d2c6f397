"""The layer distance against all alignments by brute force."""

import itertools

import numpy as np
import pytest

from pluriform.search.layer_distance import alignment_cost, attribute_distance, layer_distance


def by_all_alignments(a, b):
    """The least cost over all ways to match some layers in order; unmatched ones cost 1."""
    best = float(len(a) + len(b))
    for count in range(1, min(len(a), len(b)) + 1):
        for rows in itertools.combinations(range(len(a)), count):
            for columns in itertools.combinations(range(len(b)), count):
                matched = sum(attribute_distance(a[i], b[j]) for i, j in zip(rows, columns, strict=True))
                best = min(best, matched + len(a) + len(b) - 2 * count)
    return best


def closed_form(a, b):
    """The paper's: every layer of the shorter chain is matched, in order, plus the difference in length."""
    short, long = sorted((a, b), key=len)
    ways = itertools.combinations(range(len(long)), len(short))
    matched = (sum(attribute_distance(x, long[j]) for x, j in zip(short, way, strict=True)) for way in ways)
    return min(matched) + len(long) - len(short)


def chain(generator, most=6):
    return tuple(int(2 ** generator.integers(3, 9)) for _ in range(generator.integers(0, most + 1)))


def test_recursion_is_the_cheapest_alignment():
    generator = np.random.default_rng(0)
    for _ in range(60):
        a, b = chain(generator, 5), chain(generator, 6)
        assert layer_distance(a, b) == pytest.approx(by_all_alignments(a, b), abs=1e-12)


def test_counterexample_of_the_closed_form():
    a, b, c = (16, 64, 256, 1024), (64, 256, 1024, 16), (16, 64, 256, 1024, 16)
    assert layer_distance(a, b) == 2.0
    assert layer_distance(a, c) == layer_distance(c, b) == 1.0
    assert closed_form(a, b) > closed_form(a, c) + closed_form(c, b)  # No metric; the recursion is one.


def test_is_a_metric_on_ten_thousand_triples():
    generator = np.random.default_rng(1)
    chains = list({chain(generator, 4) for _ in range(60)})
    d = np.array([[layer_distance(a, b) for b in chains] for a in chains])
    i, j, k = generator.integers(len(chains), size=(3, 10_000))
    assert (d[i, j] <= d[i, k] + d[k, j] + 1e-12).all()
    assert np.allclose(d, d.T, atol=1e-12)
    assert ((d < 1e-12) == np.eye(len(chains), dtype=bool)).all()


def test_many_pairs_at_once_equal_one_by_one():
    generator = np.random.default_rng(2)
    costs = generator.random((20, 4, 6))
    assert np.allclose(alignment_cost(costs), [alignment_cost(one[None])[0] for one in costs])


def test_empty_chains_cost_their_partner():
    assert layer_distance((), ()) == 0.0
    assert layer_distance((), (3, 4)) == layer_distance((3, 4), ()) == 2.0


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (("conv", 64, 3), ("conv", 64, 3), 0.0),
        (("conv", 64, 3), ("conv", 64, 5), 0.4 / 3),
        (("conv", 64, 3), ("linear", 64, 3), 1 / 3),
        (("conv", 64), ("relu",), 1.0),
        (("conv", True), ("conv", False), 0.5),
        (("drop", 0.0), ("drop", 0.5), 0.5),
    ],
)
def test_every_attribute_counts(a, b, expected):
    assert attribute_distance(a, b) == pytest.approx(expected)
