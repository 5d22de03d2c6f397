"""Ties against a brute-force union-find over single positions."""

import itertools
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from pluriform.graph.layout import Span, Ties, length_of

REASON = "the test says so"


def expand(ties, layout):
    """Each position as (set, channel, place within the channel)."""
    return [
        (span.channels, channel, place)
        for span in ties.resolve(layout)
        for channel in range(span.size)
        for place in range(span.repeat)
    ]


def test_tie_of_a_concat_splits_the_set():
    ties = Ties()
    a, b, c = ties.fresh(4), ties.fresh(2), ties.fresh(6)
    ties.tie(a + b, c, REASON)
    assert ties.resolve(c) == a + b


def test_tie_of_a_flattened_map_makes_blocks():
    ties = Ties()
    a, c = ties.fresh(4), ties.fresh(36)
    ties.tie((Span(a[0].channels, 4, 9),), c, REASON)
    assert ties.resolve(c) == (Span(a[0].channels, 4, 9),)
    assert ties.free(c)


def test_sets_that_do_not_align_are_fixed():
    ties = Ties()
    a, b = ties.fresh(4), ties.fresh(6)
    ties.tie((Span(a[0].channels, 4, 3),), (Span(b[0].channels, 6, 2),), REASON)
    assert not ties.free(a)
    assert not ties.free(b)
    assert ties.reason(a[0].channels) == REASON


def test_flatten_then_unflatten_gives_the_axes_back():
    ties = Ties()
    channels, height = ties.fresh(4), ties.fresh(5, "spatial")
    for axes in ([channels, height], [height, channels], [height, channels, height]):
        merged = ties.flatten(axes, REASON)
        back = ties.unflatten(merged, [length_of(axis) for axis in axes], REASON)
        assert back[axes.index(channels)] == channels
        assert not ties.free(back[axes.index(height)])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.data())
def test_any_one_of_the_axes_that_one_is_split_into_can_stay_free(sizes, data):
    keep = data.draw(st.integers(0, len(sizes) - 1))
    ties = Ties()
    whole = ties.fresh(math.prod(sizes))
    axes = ties.unflatten(whole, sizes, REASON, keep)
    assert [length_of(axis) for axis in axes] == sizes
    assert [ties.free(axis) for axis in axes] == [axis == keep for axis in range(len(sizes))]
    places = itertools.product(*map(range, sizes))
    assert [channel for _, channel, _ in expand(ties, whole)] == [place[keep] for place in places]


def test_two_free_axes_flattened_keep_the_outer_one_free():
    ties = Ties()
    a, b = ties.fresh(2), ties.fresh(3)
    assert ties.flatten([a, b], REASON) == (Span(a[0].channels, 2, 3),)
    assert not ties.free(b)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_tied_layouts_become_equal_and_no_position_is_lost(data):
    ties = Ties()
    sets = [ties.fresh(data.draw(st.integers(1, 6))) for _ in range(4)]
    layouts = []
    for _ in range(3):
        spans = data.draw(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([1, 1, 2, 3])), min_size=1, max_size=4))
        layouts.append(tuple(Span(sets[k][0].channels, sets[k][0].size, repeat) for k, repeat in spans))
    lengths = [length_of(layout) for layout in layouts]
    equal = [(a, b) for a, b in itertools.combinations(range(3), 2) if lengths[a] == lengths[b]]
    for a, b in equal:
        ties.tie(layouts[a], layouts[b], REASON)
    assert [length_of(ties.resolve(layout)) for layout in layouts] == lengths
    for a, b in equal:
        pairs = zip(expand(ties, layouts[a]), expand(ties, layouts[b]), strict=True)
        assert all(p == q or (ties.reason(p[0]) and ties.reason(q[0])) for p, q in pairs)


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 12), st.data())
def test_split_keeps_lengths_and_order(size, data):
    ties = Ties()
    whole = ties.fresh(size)
    cut = data.draw(st.integers(1, size - 1))
    first, second = ties.split(whole, [cut, size - cut], REASON)
    assert (length_of(first), length_of(second)) == (cut, size - cut)
    assert expand(ties, whole) == expand(ties, first + second)
