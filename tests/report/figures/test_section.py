from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from pluriform.report.figures.section import end_labels, text
from pluriform.report.row import Row
from pluriform.result import Result


@settings(max_examples=80, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=10))
def test_end_labels_keep_apart_and_inside(ends):
    rows = [(Row(Result(f"F{i}", {}, "", {}, 0), f"F{i}", i), y) for i, y in enumerate(ends)]
    labels = end_labels(rows, 0.0, 100.0, 420)
    places = [label["y"] * 360 for label in labels]
    assert all(after - before > 16.99 for before, after in pairwise(places))
    assert max(places) <= 360.001
    assert min(places) >= -0.001
    order = [int(label["text"][1:]) for label in labels]
    assert [ends[i] for i in order] == sorted(ends)


def test_text_is_escaped_and_cut():
    assert text("<b>x</b>") == "&lt;b&gt;x&lt;/b&gt;"
    assert text("a" * 50 + "xyz", 10) == "aaaaaa…xyz"
