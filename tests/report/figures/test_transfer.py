"""Transfer: accuracy on the target by the radius of the source, one line a way of transfer."""

from dataclasses import replace

import pytest

from pluriform.report.figures.transfer import transfer
from pluriform.report.page import render
from pluriform.report.row import rows_of
from pluriform.result import Measure

LADDER = {0.0: 0.70, 0.1: 0.75, 0.5: 0.72}


def transferred(result, mode, eps, accuracy, norm="l2"):
    """The result as that of a form transferred from a source of this radius."""
    method = {"class": "adversarial", "threat": {"norm": norm, "eps": eps}} if eps else {"class": "training"}
    measures = (Measure("accuracy", accuracy, "", "higher", accuracy - 0.02, accuracy + 0.02, 400),)
    return replace(
        result,
        form=f"Transfer(mode={mode!r})",
        method={"class": "transfer", "mode": mode},
        measures=measures,
        protocol={"source": {"label": "source", "method": method}},
    )


@pytest.fixture
def ladders(results):
    made = [transferred(results[0], "full-network", eps, value) for eps, value in LADDER.items()]
    return made + [transferred(results[0], "linear-probe", eps, value - 0.1) for eps, value in LADDER.items()]


def test_every_way_of_transfer_is_a_line_over_the_radius(ladders):
    section = transfer(rows_of(ladders[::-1]))
    (plot,) = section.views[0].plots
    assert {trace["name"]: (trace["x"], [round(y, 6) for y in trace["y"]]) for trace in plot.data} == {
        "full network": ([0.0, 0.1, 0.5], [70.0, 75.0, 72.0]),
        "linear probe": ([0.0, 0.1, 0.5], [60.0, 65.0, 62.0]),
    }
    assert plot.data[0]["error_y"]["array"] == pytest.approx([2.0] * 3)
    assert "l₂" in plot.layout["xaxis"]["title"]["text"]
    assert [(line[0], *line[2:4]) for line in section.table.rows][:3] == [
        ("linear probe", "0", "–"), ("linear probe", "0.1", "l₂"), ("linear probe", "0.5", "l₂"),
    ]  # fmt: skip


def test_it_is_in_the_page(ladders):
    page = render(ladders)
    assert "Which source transfers best?" in page
    assert page.count("&#34;source&#34;: {") == len(ladders)  # With the method of each.


def test_without_sources_of_two_radii_there_is_no_section(results, ladders):
    assert transfer(rows_of(results)) is None
    assert transfer(rows_of([ladders[0], ladders[3]])) is None
    assert transfer(rows_of([replace(ladders[0], protocol={"source": {"label": "x"}}), ladders[1]])) is None
