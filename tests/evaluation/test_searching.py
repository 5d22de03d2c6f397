"""What a search tells reaches results and the page, also while it runs."""

import logging

import torch

import pluriform as pf
from pluriform.data.data import Split
from pluriform.report.page import write_report


def test_the_tree_of_trials_is_in_the_result_and_in_the_page(tmp_path):
    whole = pf.load("digits")
    data = pf.Data("digits", whole.task, Split(*whole.train.batch(torch.arange(200))), *(whole.validation, whole.test),
                   whole.classes, whole.bounds)  # fmt: skip
    seen = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.facts())
    logger = logging.getLogger("pluriform.search")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        method = pf.MorphismSearch(trials=3, epochs=1, final=0, strategy="mutate")
        form = method.fit(pf.nets.build("mlp", data), data)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    states = [[trial["state"] for trial in facts["trials"]] for facts in seen]
    assert states[:4] == [["running"], ["done"], ["done", "running"], ["done", "done"]]
    assert [facts["state"] for facts in seen] == ["running"] * 7  # The last one: it stops.
    assert form.facts["state"] == "finished"
    assert len(form.facts["clock"]) == 3
    assert form.facts["clock"] == sorted(form.facts["clock"])
    assert form.facts["most_trials"] == 3

    result = pf.evaluate(form, data, corruptions=())
    assert result.protocol["search"]["trials"] == form.facts["trials"]
    page = write_report(result, tmp_path / "page.html").read_text()
    assert "How was the network found?" in page
    assert "How did the search go?" in page
    assert f"the best, trial {form.facts['best']}, has an accuracy of" in page
    plain = pf.evaluate(pf.nets.build("mlp", data), data, corruptions=())
    assert "search" not in plain.protocol
