"""Bourgain's embedding: contraction, kept anchors, and the kernel that it makes positive."""

import numpy as np
import pytest

from pluriform.errors import ConfigError
from pluriform.search.embedding import DistanceRows, anchor_sets, landmarks, space_parts
from pluriform.search.kernel import EmbeddedDistance
from pluriform.search.layer_distance import layer_distance


class Chains:
    """Chains of widths, by layer distance; counts how many distances were asked for."""

    def __init__(self):
        self.asked = 0

    def random(self, generator):
        return tuple(int(2 ** generator.integers(3, 9)) for _ in range(generator.integers(1, 7)))

    def neighbours(self, candidate):
        return [(*candidate[:i], 2 * width, *candidate[i + 1 :]) for i, width in enumerate(candidate)]

    def distance(self, a, b):
        self.asked += 1
        return layer_distance(a, b)


def euclidean_squared(a, b):
    """`rho^2` between all pairs of two sets of coordinates."""
    return ((a[:, None] - b[None]) ** 2).mean(-1)


def some(count, seed=0):
    generator = np.random.default_rng(seed)
    return list(dict.fromkeys(Chains().random(generator) for _ in range(2 * count)))[:count]


def test_embedded_distance_is_at_most_the_distance_new_points_included():
    nets, new = some(40), some(70)[40:]
    kernel = EmbeddedDistance(Chains(), marks=10)
    kernel.observe(nets)
    (z,) = kernel.features([*nets, *new], 40)
    rho = np.sqrt(euclidean_squared(z, z))
    d = space_parts(Chains(), [*nets, *new], [*nets, *new])[0]
    assert (rho <= d + 1e-9).all()
    assert (rho[:40, :40][~np.eye(40, dtype=bool)] > 0).all()


def test_observed_as_candidate_has_the_same_coordinates():
    nets = some(30)
    kernel = EmbeddedDistance(Chains(), marks=5)
    kernel.observe(nets)
    together, alone = kernel.features(nets, 30)[0], kernel.features([nets[7]], 30)[0]
    assert np.array_equal(together[7], alone[0])


def test_earlier_coordinates_do_not_depend_on_later_observations():
    nets = some(40)
    first, second = EmbeddedDistance(Chains(), marks=5), EmbeddedDistance(Chains(), marks=5)
    first.observe(nets[:20])
    second.observe(nets)
    assert np.array_equal(first.features(nets[:10], 20)[0], second.features(nets[:10], 20)[0])


@pytest.mark.parametrize(("count", "sizes"), [(1, []), (2, [2]), (9, [2] * 3 + [4] * 3 + [8] * 3)])
def test_sets_double_in_size_and_hold_no_anchor_twice(count, sizes):
    sets = anchor_sets(count, first=3)
    members = np.split(sets.members, sets.starts[1:]) if len(sets.starts) else []
    assert [len(one) for one in members] == sizes
    assert sets.alone == count + 3
    assert all(len(set(one)) == len(one) and min(one) >= 3 and max(one) < 3 + count for one in members)


def test_sets_are_drawn_anew_only_when_the_number_doubles():
    same = [anchor_sets(count, seed=4).members for count in range(16, 32)]
    assert all(np.array_equal(one, same[0]) for one in same)
    assert len(anchor_sets(32, seed=4).members) > len(same[0])
    assert not np.array_equal(anchor_sets(16, seed=5).members, same[0])


def test_coordinates_are_least_distances_to_sets():
    d = np.random.default_rng(0).random((5, 9))
    sets = anchor_sets(9)
    found = sets.coordinates(d)
    members = np.split(sets.members, sets.starts[1:])
    assert np.array_equal(found[:, :9], d)
    assert np.array_equal(found[:, 9:], np.stack([d[:, one].min(1) for one in members], axis=1))


def test_every_distance_is_computed_once():
    space, nets = Chains(), some(30)
    rows = DistanceRows(space, nets[:10])
    first = rows.rows(nets[:20])
    assert space.asked == 1 + 200  # One to see how many parts a distance has.
    rows.anchors += nets[10:15]
    second = rows.rows(nets[5:25])
    assert space.asked == 1 + 200 + 15 * 5 + 5 * 15
    whole = space_parts(Chains(), nets, nets)
    assert np.array_equal(first, whole[:, :20, :10])
    assert np.array_equal(second, whole[:, 5:25, :15])


def test_raw_kernel_of_edit_distances_is_not_positive_and_the_embedded_one_is():
    generator = np.random.default_rng(0)
    nets = list({tuple(int(x) for x in generator.integers(1, 3, size=generator.integers(1, 7))) for _ in range(200)})
    d = np.array([[layer_distance(a, b) for b in nets] for a in nets])
    raw = np.linalg.eigvalsh(np.exp(-((d / 2) ** 2)))
    assert raw[0] < -0.01
    kernel = EmbeddedDistance(Chains(), marks=0)
    kernel.observe(nets)
    squared = euclidean_squared(*kernel.features(nets, len(nets)) * 2)
    for length in (0.05, 0.5, 2.0):
        values = np.linalg.eigvalsh(np.exp(-squared / (2 * length**2)))
        assert values[0] >= -1e-10 * values[-1]


def test_landmarks_are_different_and_repeatable():
    assert landmarks(Chains(), 30, 1) == landmarks(Chains(), 30, 1)
    assert len(set(landmarks(Chains(), 30, 1))) == len(landmarks(Chains(), 30, 1)) > 20


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -1.0])
def test_a_distance_that_cannot_be_names_its_candidates(wrong):
    class Broken(Chains):
        def distance(self, a, b):
            return 0.0 if a == b else wrong

    with pytest.raises(ConfigError, match=rf"all finite; got \[{wrong}\] from 1 to 2 \(distance of Broken\)"):
        space_parts(Broken(), [1], [1, 2])
