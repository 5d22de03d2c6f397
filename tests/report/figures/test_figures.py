"""Every figure, by plotly's own validator and by what it must show."""

import pytest

from pluriform.report.figures.bands import bands
from pluriform.report.figures.corruption import corruption
from pluriform.report.figures.detection import detection
from pluriform.report.figures.diversity import diversity
from pluriform.report.figures.outliers import outliers
from pluriform.report.figures.pareto import pareto
from pluriform.report.figures.reliability import reliability
from pluriform.report.figures.risk_coverage import risk_coverage
from pluriform.report.figures.robustness import robustness
from pluriform.report.row import rows_of
from pluriform.result import Result

FIGURES = [bands, reliability, diversity, outliers, detection, robustness, corruption, pareto, risk_coverage]


def painted(value, key=""):
    """As the page's script does: colours in place of their names."""
    if isinstance(value, dict):
        return {k: painted(v, k) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [painted(v, key) for v in value]
    return "#123456" if isinstance(value, str) and value.startswith("@") and key.lower().endswith("color") else value


def rows(results):
    return [row for row in rows_of(results) if row.ok]


@pytest.mark.parametrize("figure", FIGURES)
def test_plotly_accepts_every_plot(figure, results, regression_results):
    import plotly.graph_objects as go

    sections = [s for s in (figure(rows(results)), figure(rows(regression_results))) if s]
    assert sections
    for section in sections:
        for view in section.views:
            assert len(view.chosen) == len(section.choices)
            for plot in view.plots:
                go.Figure(painted({"data": list(plot.data), "layout": plot.layout}))
                go.Layout(painted({**plot.layout, **(plot.narrow or {})}))
                assert plot.description
        assert all(len(line) == len(section.table.header) for line in section.table.rows)
        assert section.table.rows


@pytest.mark.parametrize("figure", FIGURES)
def test_nothing_to_draw_is_no_figure(figure):
    assert figure([]) is None
    assert figure(rows_of([Result("A", {}, "mlp", {}, 0)])) is None


def test_every_form_has_its_own_colour_and_marker_in_every_figure(results):
    shown = rows(results)
    for figure in (robustness, corruption, risk_coverage):
        for view in figure(shown).views:
            for plot in view.plots:
                looks = {
                    (t["name"], t["line"]["color"], t["marker"]["symbol"].removesuffix("-open")) for t in plot.data
                }
                assert len(looks) == len(shown) == len({look[1] for look in looks}) == len({look[2] for look in looks})


def test_pgd_is_solid_and_fgsm_dashed(results):
    (view,) = robustness(rows(results)[:1]).views
    dashes = [(t["line"]["dash"], t["marker"]["symbol"]) for t in view.plots[0].data]
    assert dashes == [("solid", "circle"), ("dash", "circle-open")]


def test_reliability_before_and_after_the_temperature(results):
    (view,) = reliability(rows(results)[:1]).views
    diagonal, before, after = view.plots[0].data
    assert (diagonal["x"], diagonal["y"]) == ([0, 100], [0, 100])
    assert (before["line"]["dash"], after["line"]["dash"]) == ("solid", "dash")
    assert view.plots[0].note == "ECE 0.021 → 0.010"


def test_histograms_are_shares(results):
    for view in outliers(rows(results)).views:
        for plot in view.plots:
            for trace in plot.data:
                assert sum(y**2 for y in trace["y"][:-1]) == pytest.approx(100)
                assert sum(trace["customdata"][:-1]) == pytest.approx(100)
                assert len(trace["x"]) == len(trace["y"])


def test_scores_that_one_form_has_show_that_form_only(results):
    chosen = {view.chosen: [plot.title for plot in view.plots] for view in outliers(rows(results)).views}
    assert chosen["mnist", "mutual information"] == ["DeepEnsemble"]
    assert len(chosen["mnist", "max probability"]) == 4


def test_corruption_starts_at_the_clean_accuracy(results):
    mean, *_ = corruption(rows(results)[:1]).views[0].plots
    assert mean.title == "Mean of all"
    assert mean.data[0]["x"] == [0, 1, 2, 3, 4, 5]
    assert mean.data[0]["y"][0] == pytest.approx(96.9)


def test_long_curves_are_thinned_and_keep_their_ends(results):
    (view,) = risk_coverage(rows(results)[:1]).views
    trace = view.plots[0].data[0]
    assert len(trace["x"]) == 150
    assert trace["x"][0] == pytest.approx(1.0)
    assert trace["x"][-1] == pytest.approx(100.0)


def test_bands_share_one_scale(regression_results):
    (view,) = bands(rows(regression_results)).views
    assert len({tuple(plot.layout["yaxis"]["range"]) for plot in view.plots}) == 1
