"""Attacks noticed: the AUROC of every form over eps, for each score and threat."""

from dataclasses import replace

import pytest

from pluriform.report.figures.detection import detection
from pluriform.report.row import rows_of
from pluriform.result import Measure


def rows(results):
    return [row for row in rows_of(results) if row.ok]


def test_one_line_a_form_and_the_scores_that_it_has(results):
    section = detection(rows(results))
    lines = {view.chosen: [trace["name"] for trace in view.plots[0].data] for view in section.views}
    assert len(lines["entropy",]) == 4
    assert lines["mutual information",] == ["DeepEnsemble"]
    trace = section.views[0].plots[0].data[0]
    assert trace["x"] == [0.025, 0.05, 0.1, 0.15, 0.2]
    assert trace["y"][0] == pytest.approx(0.853, abs=1e-3)
    assert all(bar > 0 for bar in trace["error_y"]["array"])
    assert [choice.label for choice in section.choices] == ["Score"]


def test_two_threats_are_a_second_choice_and_low_figures_stay_inside(results):
    below = Measure("auroc", 0.1, condition={"adversarial": "pgd", "threat": "l2", "eps": 1.0, "score": "entropy"})
    section = detection(rows([replace(results[0], measures=(*results[0].measures, below))]))
    assert [choice.label for choice in section.choices] == ["Score", "Threat"]
    chosen = {view.chosen: view.plots[0] for view in section.views}
    assert set(chosen) == {("max probability", "linf"), ("entropy", "linf"), ("entropy", "l2")}
    assert chosen["entropy", "l2"].layout["yaxis"]["range"][0] < 0.1
    assert "error_y" not in chosen["entropy", "l2"].data[0]
    (line,) = [line for line in section.table.rows if line[1] == "l2"]
    assert line[-1] == "0.100"
    assert line[3] == "–"


def test_outliers_are_another_matter(results):
    only = [m for m in results[0].measures if "adversarial" not in m.condition]
    assert detection(rows([replace(results[0], measures=tuple(only))])) is None
