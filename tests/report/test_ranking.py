import pytest

from pluriform.report.ranking import columns_of, leading, marks_of, score_name
from pluriform.report.row import rows_of
from pluriform.result import Measure, Result


def measures(*triples):
    rows = [None if t is None else [None if v is None else float(v) for v in t] for t in triples]
    return [None if t is None else Measure("nll", t[0], low=t[1], high=t[2]) for t in rows]


def test_the_best_and_those_whose_interval_overlaps_it_are_marked():
    cells = measures((0.30, 0.25, 0.35), (0.36, 0.34, 0.40), (0.50, 0.45, 0.55), None)
    assert marks_of(cells, "lower") == ("best", "level", "", "")
    assert marks_of(cells, "higher") == ("", "", "best", "")


def test_equal_figures_are_all_best_unless_nothing_is_left():
    assert marks_of(measures((1, 1, 1), (1, 1, 1), (2, 2, 2)), "lower") == ("best", "best", "")
    assert marks_of(measures((1, 1, 1), (1, 1, 1)), "lower") == ("", "")


def test_nothing_is_marked_alone_without_direction_or_without_numbers():
    assert marks_of(measures((1, 0, 2), None), "lower") == ("", "")
    assert marks_of(measures((1, 0, 2), (2, 1, 3)), None) == ("", "")
    assert marks_of(measures((float("nan"), None, None), (2, 1, 3)), "lower") == ("", "")


def test_missing_intervals_never_overlap():
    assert marks_of(measures((1, None, None), (1.01, 0, 2)), "lower") == ("best", "")


def test_a_cost_of_zero_is_not_ranked():
    cells = [Measure("parameters", 0.0), Measure("parameters", 10.0), Measure("parameters", 20.0)]
    assert marks_of(cells, "lower") == ("", "best", "")


def test_columns_of_the_comparison(results):
    columns = {(c.title, c.note): c for c in columns_of(rows_of(results))}
    assert columns["Accuracy", ""].marks == ("level", "level", "best", "level", "")
    assert columns["ECE", ""].marks == ("level", "best", "", "", "")
    assert columns["Robust", "PGD, linf 0.1"].marks == ("", "", "", "best", "")
    assert columns["AUROC", "mnist, max probability"].winners() == [2]
    assert columns["Latency", "batch 1"].unit == "ms"
    corrupted = columns["Corrupted", "mean of all"].cells[0]
    mine = [m.value for m in results[0].measures if m.name == "corrupted_accuracy"]
    assert corrupted.value == pytest.approx(sum(mine) / len(mine))
    assert [c.cost for c in columns.values()] == sorted(c.cost for c in columns.values())


def test_very_small_scores_say_so_in_the_heading():
    rows = rows_of(
        [Result(n, {}, "", {}, 0, measures=(Measure("aurc", v),)) for n, v in (("A", 0.0002), ("B", 0.0001))]
    )
    (column,) = columns_of(rows)
    assert (column.unit, column.format(0.0002)) == ("10⁻³", "0.20")


def test_a_corruption_listed_twice_counts_once():
    conditions = [("blur", 1), ("noise", 1), ("blur", 1)]
    found = tuple(
        Measure("corrupted_accuracy", v, condition={"corruption": name, "severity": severity})
        for v, (name, severity) in zip((0.8, 0.4, 0.8), conditions, strict=True)
    )
    (column,) = columns_of(rows_of([Result("A", {}, "", {}, 0, measures=found)]))
    assert column.cells[0].value == pytest.approx(0.6)


def test_the_least_important_columns_give_way(results):
    columns = [c for c in columns_of(rows_of(results)) if not c.cost]
    assert len(columns) == 10
    assert leading(columns, 20) == columns
    assert [c.title for c in leading(columns, 4)] == ["Accuracy", "NLL", "ECE", "AUROC"]


def test_regression_has_its_own_columns(regression_results):
    titles = [(c.title, c.note, c.better) for c in columns_of(rows_of(regression_results))]
    assert titles[:3] == [("RMSE", "", "lower"), ("NLL", "", "lower"), ("Coverage", "aim: 95 %", None)]


def test_outlier_score_is_one_that_most_forms_have():
    def form(name, *scores):
        found = tuple(Measure("auroc", 0.9, condition={"outliers": "mnist", "score": s}) for s in scores)
        return Result(name, {}, "mlp", {"name": "digits"}, 0, measures=found)

    (column,) = columns_of(
        rows_of([form("A", "score", "entropy"), form("B", "entropy"), form("C", "score", "entropy")])
    )
    assert column.note == "mnist, entropy"
    assert all(column.cells)


def test_a_forms_own_score_has_its_name_where_all_agree_on_it(synthetic):
    drawer, other = rows_of([synthetic.drawer(), *synthetic.classification()[2:3]])
    assert score_name("approximate_mass", [drawer]) == "approximate mass"
    assert score_name("score", [drawer]) == "log p(x)"
    assert score_name("score", [drawer, other]) == "own score"
    assert score_name("score") == "own score"
