"""The page of a search while it runs: written by records, not too often, and never the end of the search."""

import logging
import re

import pytest

from pluriform.report import live as live_file
from pluriform.report.live import LivePage


@pytest.fixture
def logger():
    found = logging.getLogger("test_live")
    found.setLevel(logging.DEBUG)
    found.propagate = False
    yield found
    found.handlers.clear()


def page(path, logger):
    made = LivePage(path, "MorphismSearch(minutes=2)", "mlp", {"name": "digits"})
    logger.addHandler(made)
    return made


def test_each_record_with_facts_replaces_the_page(tmp_path, logger, monkeypatch, searched):
    monkeypatch.setattr(live_file, "SHARE", 1e9)
    path = tmp_path / "deep" / "live.html"
    made = page(path, logger)
    logger.info("something else")
    assert not path.exists()
    logger.debug("trial 0 begins", extra={"facts": lambda: searched.told([(None, "start", "running", None)])})
    first = path.read_text()
    assert "trial 0 (start)" in first
    assert re.search(r'http-equiv="refresh" content="\d+"', first)
    logger.info("trial 6", extra={"facts": searched.told})
    assert "trial 6 (deepen of 4)" in path.read_text()
    assert [file.name for file in path.parent.iterdir()] == ["live.html"]
    made.end()
    last = path.read_text()
    assert 'http-equiv="refresh"' not in last
    assert "was stopped by hand" in last


def test_short_trials_do_not_write_a_page_each(tmp_path, logger, searched):
    made, asked = page(tmp_path / "live.html", logger), []

    def facts():
        asked.append(1)
        return searched.told(searched.TREE)

    for _ in range(50):
        logger.info("a trial", extra={"facts": facts})
    assert 1 <= len(asked) <= 3
    made.end("finished")
    assert "is running" not in (tmp_path / "live.html").read_text()


def test_a_page_that_cannot_be_written_is_no_end_of_a_search(tmp_path, logger, monkeypatch, searched):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    (tmp_path / "file").write_text("")
    page(tmp_path / "file" / "live.html", logger)
    logger.info("a trial", extra={"facts": searched.told})
    assert (tmp_path / "file").read_text() == ""
