"""The figure of the members: what is drawn on the test set and through training, and what is said of a collapse."""

from dataclasses import replace

import pytest

from pluriform.report.figures.diversity import diversity, verdict
from pluriform.report.headline import summary
from pluriform.report.ranking import columns_of
from pluriform.report.row import rows_of
from pluriform.result import Curve, Measure


def rows(results):
    return [row for row in rows_of(results) if row.ok]


def views(section):
    return {view.chosen: {plot.title: plot for plot in view.plots} for view in section.views}


def collapsed(result, value=1.0, **facts):
    measures = [m for m in result.measures if m.name != "collapsed"]
    words = "collapsed: the 5 members are one network for all purposes (0.1 % of the predictive entropy)"
    return replace(
        result,
        measures=(*measures, Measure("collapsed", value, better="lower", **facts)),
        protocol={**result.protocol, "diversity": {"members": 5, "verdict": words}},
    )


def test_members_beside_the_ensemble_on_the_test_set(results):
    shown = rows(results)
    section = diversity(shown)
    assert [row.label for row in section.legend] == ["DeepEnsemble"]
    plots = views(section)["on the test set",]
    joined, member, ensemble = plots["Accuracy"].data
    assert (member["x"], ensemble["x"]) == ([pytest.approx(96.8)], [pytest.approx(97.8)])
    assert joined["x"] == [*member["x"], *ensemble["x"]]
    assert (member["marker"]["symbol"], ensemble["marker"]["symbol"]) == ("square-open", "square")
    (alone,) = plots["Disagreement"].data
    assert alone["x"] == [pytest.approx(3.0)]
    assert alone["error_x"]["array"][0] == pytest.approx(100 * (shown[1].measure("disagreement").high - 0.03))
    assert "error_x" not in plots["Error correlation"].data[0]


def test_the_course_through_training_and_the_epoch_that_was_kept(results):
    plots = views(diversity(rows(results)))["through training",]
    assert list(plots) == ["Validation NLL", "Disagreement", "Mutual information", "Spread of weight norms"]
    ensemble, ring, member = plots["Validation NLL"].data
    assert (ensemble["line"]["dash"], member["line"]["dash"]) == ("solid", "dash")
    assert ensemble["x"] == list(range(20))
    assert ring["x"] == [15]
    assert ring["y"] == [ensemble["y"][15]]
    assert plots["Disagreement"].data[0]["y"][0] == pytest.approx(32)


def test_without_a_kept_epoch_nothing_is_ringed_and_other_figures_are_left_out(results):
    history = Curve("diversity_history", {"epoch": [0.0, 1.0], "disagreement": [0.2, 0.1], "unheard_of": [1.0, 2.0]})
    only = replace(results[0], curves=(history,))
    section = diversity(rows([only]))
    assert [plot.title for view in section.views for plot in view.plots] == ["Disagreement"]
    assert len(section.views[0].plots[0].data) == 1
    assert section.choices == ()


def test_a_long_fall_is_drawn_on_a_logarithmic_axis(results):
    columns = {"epoch": [0.0, 1.0], "validation_nll": [2.3, 0.02], "weight_spread": [0.5, 0.0]}
    section = diversity(rows([replace(results[0], curves=(Curve("diversity_history", columns),))]))
    nll, spread = section.views[0].plots
    assert nll.layout["yaxis"]["type"] == "log"
    assert nll.layout["yaxis"]["ticktext"] == ["0.1", "1"]
    assert spread.layout["yaxis"]["rangemode"] == "tozero"


@pytest.mark.parametrize(
    ("least", "most", "ticks"),
    [
        (0.13, 2.1, ["0.2", "0.5", "1", "2"]),
        (2e-6, 0.3, ["10⁻⁴", "0.01"]),
        (1e-7, 0.1, ["10⁻⁷", "10⁻⁵", "0.001", "0.1"]),
    ],
)
def test_ticks_of_a_logarithmic_axis_are_round_and_few(results, least, most, ticks):
    columns = {"epoch": [0.0, 1.0], "mutual_information": [most, least]}
    section = diversity(rows([replace(results[0], curves=(Curve("diversity_history", columns),))]))
    frame = section.views[0].plots[0].layout["yaxis"]
    assert frame["ticktext"] == ticks
    assert len(frame["tickvals"]) == len(ticks)


def test_a_single_network_has_no_such_figure(results):
    assert diversity(rows([results[0]])) is None


def test_a_collapse_is_said_in_the_caption_and_at_the_top(results):
    mixed = [results[0], collapsed(results[1])]
    caption = diversity(rows(mixed)).caption
    assert caption.endswith("DeepEnsemble has collapsed: the 5 members are one network for all purposes.")
    assert "collapsed:" not in diversity(rows(results)).caption
    said = summary(rows_of(mixed), columns_of(rows_of(mixed)))
    assert "DeepEnsemble has collapsed: its members are one network for all purposes." in said
    assert not any("collapsed" in sentence for sentence in summary(rows_of(results), columns_of(rows_of(results))))


def test_a_collapse_of_some_seeds_is_counted(results):
    found = [results[0], collapsed(results[1], 1 / 3, count=3, interval="over 3 seeds")]
    said = summary(rows_of(found), columns_of(rows_of(found)))
    assert "DeepEnsemble has collapsed for 1 of 3 seeds: its members are one network for all purposes." in said


def test_the_table_holds_the_figures_and_the_verdict(results):
    table = diversity(rows(results)).table
    cells = dict(zip(table.header, table.rows[0], strict=True))
    assert cells["Members"] == "5"
    assert cells["Disagreement"] == "3.0\u202f%"
    assert cells["Effective rank"] == "3.6"
    assert cells["Kept epoch"] == "15"
    assert cells["Verdict"] == "diverse"
    assert verdict(rows(results)[1]) == "diverse: the 5 members differ"
    assert "Member RMSE" not in cells


def test_regression_shows_error_and_spread(regression_results):
    (view,) = diversity(rows(regression_results)).views
    assert [plot.title for plot in view.plots] == ["RMSE", "Spread of the members"]
