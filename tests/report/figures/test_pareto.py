import math

from hypothesis import given, settings
from hypothesis import strategies as st

from pluriform.report.figures.pareto import _ticks, front, pareto
from pluriform.report.row import rows_of


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=12), st.booleans())
def test_the_front_is_what_nobody_beats(points, high):
    kept = [points[i] for i in front([(float(x), float(y)) for x, y in points], high=high)]

    def beaten(point):
        return any(
            other != point and other[0] <= point[0] and (other[1] >= point[1] if high else other[1] <= point[1])
            for other in points
        )

    assert kept == sorted({point for point in points if not beaten(point)})


def test_forms_that_cost_nothing_have_no_place_on_a_log_axis(results):
    section = pareto([row for row in rows_of(results) if row.ok])
    counts = {view.chosen[0]: len(view.plots[0].data) - 1 for view in section.views}
    assert counts == {
        "Latency, batch 1": 4,
        "Latency, batch 128": 4,
        "Training": 4,
        "Parameters": 3,
        "MACs": 3,
        "Peak memory": 4,
    }


@settings(max_examples=200, deadline=None)
@given(st.floats(-6, 6), st.floats(0.3, 6))
def test_every_log_axis_has_ticks_inside(start, width):
    for few in (1.3, 3.0):
        ticks = _ticks([start, start + width], few)
        assert 1 <= len(ticks["tickvals"]) <= 13
        assert len(set(ticks["ticktext"])) == len(ticks["tickvals"])
        assert all(start - 1e-9 <= math.log10(value) <= start + width + 1e-9 for value in ticks["tickvals"])


def test_names_do_not_cover_each_other(results):
    section = pareto([row for row in rows_of(results) if row.ok])
    for view in section.views:
        for layout in (view.plots[0].layout, view.plots[0].narrow):
            places = [(a["x"], a["y"], a["xanchor"], a["yshift"]) for a in layout["annotations"]]
            assert len(places) == len(set(places))
