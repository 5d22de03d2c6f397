"""The skip distance against all permutations."""

import itertools

import numpy as np
import pytest

from pluriform.search.architecture import Skip
from pluriform.search.skip_distance import pair_costs, skip_distance


def one_pair(a, b):
    if a.kind != b.kind:
        return 1.0
    return (abs(a.start - b.start) + abs(a.span - b.span)) / (max(a.start, b.start) + max(a.span, b.span))


def by_all_permutations(a, b):
    short, long = sorted((a, b), key=len)
    ways = itertools.permutations(range(len(long)), len(short))
    return (
        min(sum(one_pair(x, long[j]) for x, j in zip(short, way, strict=True)) for way in ways) + len(long) - len(short)
    )


def skips(generator, most):
    found = set()
    for _ in range(generator.integers(0, most + 1)):
        start, span = int(generator.integers(0, 8)), int(generator.integers(1, 6))
        found.add(Skip(start, start + span, str(generator.choice(["add", "concat"]))))
    return tuple(sorted(found))


def test_assignment_is_the_cheapest_permutation():
    generator = np.random.default_rng(0)
    for _ in range(80):
        a, b = skips(generator, 5), skips(generator, 5)
        assert skip_distance(a, b) == pytest.approx(by_all_permutations(a, b), abs=1e-12)


def test_is_a_metric_on_ten_thousand_triples():
    generator = np.random.default_rng(1)
    sets = list({skips(generator, 4) for _ in range(60)})
    d = np.array([[skip_distance(a, b) for b in sets] for a in sets])
    i, j, k = generator.integers(len(sets), size=(3, 10_000))
    assert (d[i, j] <= d[i, k] + d[k, j] + 1e-12).all()
    assert np.allclose(d, d.T, atol=1e-12)
    assert ((d < 1e-12) == np.eye(len(sets), dtype=bool)).all()


def test_order_of_skips_does_not_matter():
    a = (Skip(1, 3, "add"), Skip(2, 6, "concat"), Skip(0, 4, "add"))
    assert skip_distance(a, a[::-1]) == 0.0


def test_kinds_do_not_mix():
    assert pair_costs([Skip(1, 3, "add")], [Skip(1, 3, "concat"), Skip(1, 3, "add")]).tolist() == [[1.0, 0.0]]
    assert skip_distance([Skip(1, 3, "add")], [Skip(1, 3, "concat")]) == 1.0
