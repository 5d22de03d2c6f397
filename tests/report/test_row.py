from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from pluriform.report.row import rows_of
from pluriform.result import Measure, Result


def result(form="A()", network="mlp", seed=0, status="ok", **more):
    return Result(form, {}, network, {"name": "digits"}, seed, status, **more)


def test_labels_are_the_shortest_that_differ():
    rows = rows_of([result("A(x=1)"), result("A(x=2)"), result("B(y=3)")])
    assert [row.label for row in rows] == ["A(x=1)", "A(x=2)", "B"]
    assert [row.arguments for row in rows] == ["(x=1)", "(x=2)", "(y=3)"]
    rows = rows_of([result("A()", seed=1), result("A()", seed=2)])
    assert [row.label for row in rows] == ["A(), mlp, seed 1", "A(), mlp, seed 2"]
    assert [(row.name, row.arguments) for row in rows] == [("A", "(), mlp, seed 1"), ("A", "(), mlp, seed 2")]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["A", "A(1)", "B(", "", " "]), st.sampled_from(["m", "n"]), st.integers(0, 1)))
)
def test_labels_never_clash(parts):
    rows = rows_of([result(form, network, seed) for form, network, seed in parts])
    assert len({row.label for row in rows}) == len(rows) == len({row.index for row in rows})


def test_colours_go_to_rows_with_figures_first():
    rows = rows_of([result("A", status="failed"), result("B"), result("C")])
    assert [row.index for row in rows] == [2, 0, 1]


def test_the_same_form_keeps_its_colour_on_another_data_set():
    other = replace(result("B"), data={"name": "mnist"})
    rows = rows_of([result("A"), result("B"), other])
    assert [row.index for row in rows] == [0, 1, 1]


def test_figures_that_are_not_finite_are_not_figures():
    measures = (Measure("nll", float("nan")), Measure("nll", 0.5, condition={"temperature": 2.0}))
    (row,) = rows_of([result(measures=measures)])
    assert row.measure("nll") is None
    assert [m.value for m in row.measures("nll", "temperature")] == [0.5]
