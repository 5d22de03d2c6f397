"""Progress of a search: best so far, predictions, fronts, against figures that were worked out by hand."""

import math

import numpy as np
import pytest
from scipy.stats import kendalltau

from pluriform.report.figures.search_progress import search_progress
from pluriform.report.figures.trials import kendall_tau
from pluriform.report.row import rows_of
from pluriform.result import Result


@pytest.fixture
def plots_of(searched):
    def plots(facts):
        section = search_progress(rows_of([searched.result(facts)]))
        return {plot.title: plot for plot in section.views[0].plots}

    return plots


def test_the_best_score_so_far_by_trials_and_by_time(searched, plots_of):
    plots = plots_of(searched.told())
    steps, dots, crosses = plots["By trials"].data
    assert steps["x"] == [0.0, 1.0, 2.0, 4.0, 5.0]
    assert steps["y"] == [80.0, 90.0, 90.0, 97.0, 97.0]
    assert dots["y"] == [80.0, 90.0, 85.0, 97.0, 70.0]
    assert crosses["x"] == [3.0]
    assert "MemoryBudgetError: &lt;b&gt;" in crosses["hovertext"][0]
    assert plots["By time"].data[0]["x"] == [10.0, 20.0, 30.0, 50.0, 60.0]
    assert plots["By time"].layout["xaxis"]["title"]["text"] == "seconds"
    assert plots["By trials"].note == "best 97.0\u202f%"


def test_what_lies_far_below_stands_on_the_edge(searched, plots_of):
    tree = [(None, "start", "done", 0.05)] + [(0, "widen", "done", 0.95 + 0.001 * i) for i in range(9)]
    plot = plots_of(searched.told(tree))["By trials"]
    low, _ = plot.layout["yaxis"]["range"]
    assert 93 < low < 95
    assert plot.data[1]["y"][0] == low
    assert plot.data[0]["y"][0] == low


def test_predictions_with_their_deviations(searched, plots_of):
    plot = plots_of(searched.told())["Predicted and observed"]
    diagonal, dots = plot.data
    assert diagonal["x"] == diagonal["y"]
    assert dots["x"] == [90.0, 90.0, 90.0]
    assert dots["y"] == [85.0, 97.0, 70.0]
    assert dots["error_x"]["array"] == pytest.approx([100 * math.sqrt(0.05**2 + 0.9 * 0.1 / 400)] * 3)
    assert plot.note == "1 of 3 within 1 sd"  # One prediction for all has no order.
    wild = searched.told()
    wild["trials"][2]["predicted"] = 3.0
    clipped = plots_of(wild)["Predicted and observed"]
    assert max(clipped.data[1]["x"]) == 97.0 + 27.0
    assert "Kendall τ 0.00" in clipped.note


def test_the_front_by_parameters_and_by_latency(searched, plots_of):
    plots = plots_of(searched.told())
    assert plots["Parameters"].data[0]["x"] == [1000.0, 2000.0, 5000.0]
    assert plots["Parameters"].data[0]["y"] == [80.0, 90.0, 97.0]
    assert plots["Latency"].data[0]["x"] == [0.5, 1.5, 4.5]
    assert plots["Latency"].note == "3 on the front"


def test_errors_fall(searched, plots_of):
    tree = [(parent, operation, state, score and score - 1.0) for parent, operation, state, score in searched.TREE]
    plots = plots_of(searched.told(tree, objective="rmse"))
    assert plots["By trials"].data[0]["y"] == pytest.approx([0.2, 0.1, 0.1, 0.03, 0.03])
    assert plots["Parameters"].data[0]["y"] == pytest.approx([0.2, 0.1, 0.03])


@pytest.mark.parametrize("missing", ["clock", "front"])
def test_older_facts_are_shown_without_what_they_lack(missing, searched, plots_of):
    facts = searched.told()
    del facts[missing]
    assert ("By time" in plots_of(facts)) is (missing == "front")


def test_one_score_is_no_progress(searched):
    assert search_progress(rows_of([searched.result(searched.told(searched.TREE[:1]))])) is None
    assert search_progress(rows_of([Result("Training()", {}, "mlp", {"name": "digits"}, 0)])) is None


def test_tau_is_that_of_scipy():
    generator = np.random.default_rng(0)
    for count in (2, 5, 30):
        a, b = generator.integers(0, 4, (2, count)).tolist()
        expected = kendalltau(a, b).statistic
        assert kendall_tau(a, b) == (None if np.isnan(expected) else pytest.approx(expected))
