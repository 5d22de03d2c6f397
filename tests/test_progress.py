"""A bar only on a terminal, only for long work, and never left behind."""

import io
import sys

import pytest

from pluriform import progress as module
from pluriform.progress import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("patience", "shown"), [(0.0, True), (60.0, False)])
def test_a_bar_appears_after_the_patience_has_run_out(monkeypatch, patience, shown):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(module, "PATIENCE", patience)
    monkeypatch.setattr(module, "REFRESH", 0.0)
    with progress("kernel of ten", 10) as advance:
        for _ in range(10):
            advance(1)
    assert ("kernel of ten" in sys.stderr.getvalue()) == shown
    assert ("100%" in sys.stderr.getvalue()) == shown


def test_nothing_is_written_where_nobody_looks(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    with progress("kernel", 2) as advance:
        advance(2)
    assert not sys.stderr.getvalue()


def test_errors_end_the_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    monkeypatch.setattr(module, "REFRESH", 0.0)
    with pytest.raises(ZeroDivisionError), progress("kernel", 2) as advance:
        advance(1)
        1 / 0  # noqa: B018
    with progress("next", 2) as advance:
        advance(1)
