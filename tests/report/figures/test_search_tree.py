"""The tree of trials: places, marks, labels and words of a small search whose shape is known."""

from dataclasses import replace

import pytest

from pluriform.report.figures.search_tree import ALL, BEST, search_tree
from pluriform.report.figures.trials import search_words, searches
from pluriform.report.page import render
from pluriform.report.row import rows_of


@pytest.fixture
def plot_of(searched):
    return lambda facts: search_tree(rows_of([searched.result(facts)])).views[0].plots[0]


def test_every_trial_has_its_line_and_the_way_to_the_best_stands_first(searched, plot_of):
    plot = plot_of(searched.told())
    others, way, scored, failed, running, labels = plot.data
    order = [label.strip().removeprefix("<b>").split(":")[0] for label in labels["text"]]
    places = dict(zip(order, zip(labels["x"], labels["y"], strict=True), strict=True))
    assert places == {"0": (0, 0), "1": (1, 1), "4": (2, 2), "6": (3, 3), "2": (1, 4), "3": (2, 5), "5": (2, 6)}
    assert (way["x"], way["y"]) == ([0, 0, 1, None, 1, 1, 2, None], [0, 1, 1, None, 1, 2, 2, None])
    assert others["x"].count(None) == 4
    assert scored["marker"]["color"] == [80.0, 90.0, 85.0, 97.0, 70.0]
    assert scored["marker"]["size"].index(max(scored["marker"]["size"])) == 3
    assert [(failed["x"], failed["y"]), (running["x"], running["y"])] == [([2], [5]), ([3], [3])]
    assert "4 from 1 by kernel: 97.0" in plot.description


def test_labels_say_score_operation_and_why_it_failed(searched, plot_of):
    labels = {label.strip() for label in plot_of(searched.told()).data[-1]["text"]}
    assert "0: 80.0\u202f%  start" in labels
    assert "1: 90.0\u202f%  widen ×2" in labels
    assert "<b>4: 97.0\u202f%</b>  kernel" in labels
    assert "3: failed: MemoryBudgetError: &lt;b&gt;12 GiB&lt;/b&gt;  branch" in labels
    assert "6: running  deepen" in labels
    assert any("predicted 90 ± 5" in text for text in plot_of(searched.told()).data[2]["hovertext"])
    assert any("6: unfinished" in label for label in plot_of(searched.told(state="finished")).data[-1]["text"])


def test_errors_are_shown_as_they_are_less_being_better(searched, plot_of):
    tree = [(parent, operation, state, score and score - 1.0) for parent, operation, state, score in searched.TREE]
    plot = plot_of(searched.told(tree, objective="rmse"))
    assert plot.data[2]["marker"]["color"] == pytest.approx([0.2, 0.1, 0.15, 0.03, 0.3])
    assert plot.layout["coloraxis"]["reversescale"] is True
    assert plot.layout["coloraxis"]["colorbar"]["title"]["text"] == "validation RMSE"
    assert any("<b>4: 0.0300</b>" in label for label in plot.data[-1]["text"])


def test_of_a_long_search_the_best_and_their_ancestors_come_first(searched):
    tree = [(None, "start", "done", 0.5)] + [(i // 3, "widen", "done", 0.5 + 0.01 * i) for i in range(1, 40)]
    section = search_tree(rows_of([searched.result(searched.told(tree))]))
    assert section.choices[0].options == (BEST, ALL)
    few, every = (len(view.plots[0].data[-1]["text"]) for view in section.views)
    assert every == 40
    assert 10 < few < 40
    assert len(section.table.rows) == 40


def test_two_searches_are_two_choices(searched):
    facts = searched.told()
    section = search_tree(
        rows_of(
            [searched.result(facts, "MorphismSearch(trials=7)"), searched.result(facts, "MorphismSearch(trials=9)")]
        )
    )
    assert [choice.label for choice in section.choices] == ["Search"]
    assert {view.chosen for view in section.views} == {("MorphismSearch(trials=7)",), ("MorphismSearch(trials=9)",)}
    assert search_tree(rows_of([replace(searched.result(facts), protocol={})])) is None


def test_the_search_in_words(searched):
    (row,) = rows_of([searched.result(searched.told())])
    running, found = search_words(row)
    assert running == "This search is running: trial 6 (deepen of 4); 55 s left."
    assert found.startswith("MorphismSearch has so far tried 6 networks (1 failed) in 65 s; the best, trial 4, has an ")
    assert (
        "accuracy of 97.0\u202f% on 400 validation samples. The start had 80.0\u202f%; the best came from it by "
        in found
    )
    assert found.endswith("by widen ×2, then kernel and has 5.00\u202fk parameters, 5.00 times as many.")
    (row,) = rows_of([searched.result(searched.told(state="finished", most_trials=7, minutes=None))])
    assert "running" not in " ".join(search_words(row))
    (row,) = rows_of(
        [searched.result(searched.told([(None, "start", "running", None)], most_trials=5, minutes=None, seconds=200.0))]
    )
    assert search_words(row)[0] == "This search is running: trial 0 (start); 4 more networks to come."
    assert search_words(row)[1] == "MorphismSearch has so far tried 0 networks in 3.3 min."


def test_lineage_ends_where_a_parent_is_missing(searched):
    (search,) = searches(rows_of([searched.result(searched.told())]))
    assert [trial.number for trial in search.lineage(6)] == [0, 1, 4, 6]
    assert search.lineage(None) == []


def test_the_page_of_a_search_begins_with_it_and_loads_itself_anew_only_while_it_runs(results, searched):
    page = render([searched.result(searched.told())], refresh=7)
    assert '<meta http-equiv="refresh" content="7">' in page
    assert "<title>Running: " in page
    assert "This search is running" in page
    assert 'id="c0-table"' not in page  # No figures yet.
    done = render([replace(results[0], protocol={"search": searched.told(state="finished")}), results[1]])
    assert 'http-equiv="refresh"' not in done
    assert (
        done.index("c0-reliability-title") < done.index("c0-search-tree-title") < done.index("c0-search-progress-title")
    )
    alone = render([replace(results[0], protocol={"search": searched.told(state="finished")})])
    assert alone.index("c0-search-tree-title") < alone.index("c0-reliability-title")
    assert "validation</dt><dd>400" in alone
    assert (
        "MemoryBudgetError" not in alone.split("How it was measured</h2>")[1].split("</section>")[0].split("Methods")[0]
    )
