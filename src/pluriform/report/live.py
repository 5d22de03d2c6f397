"""`LivePage`: the page of a search while it runs."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pluriform.report.page import render, write_page
from pluriform.result import Result

__all__ = ["LivePage"]

SHARE = 0.02
"""Of the time, at most, goes into pages; the cost of one is that of the processor."""
LEAST, MOST = 2, 30
"""Seconds between loads in the browser."""


class LivePage(logging.Handler):
    """Writes the page of a running search whenever a trial begins or ends; the browser loads it anew by itself.

    Where trials are so short that pages would take more than 2 % of the time, some are left out; `end` writes the last.

    Args:
        path: The HTML file; each page replaces it in one step.
        form: Name of the row.
        network: That the search starts from.
        data: Facts of the data as in a result: at least `name`.
        method: The method's JSON.
        seed: Of the search.

    Example:
        >>> import tempfile
        >>> page = LivePage(Path(tempfile.mkdtemp()) / "live.html", "MorphismSearch()", "mlp", {"name": "digits"})
        >>> logger = logging.getLogger("pluriform.search")
        >>> logger.addHandler(page)
        >>> logger.removeHandler(page)
    """

    def __init__(
        self,
        path: str | Path,
        form: str,
        network: str,
        data: Mapping[str, Any],
        method: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(logging.DEBUG)
        self.path = Path(path)
        self.result = Result(form, method or {}, network, data, seed)
        self.facts: Mapping[str, Any] | None = None
        self.written, self.cost, self.begin = 0.0, 0.0, time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the page where the record comes with facts, and is the last or finds the page old enough."""
        facts, last = getattr(record, "facts", None), getattr(record, "last", False)
        if facts is None or not (last or time.monotonic() - self.written >= self.cost / SHARE):
            return
        try:
            self.facts = told = facts()
            self._write(told, refresh=True)
        except Exception:  # What goes wrong with a page is no reason to end a search.
            self.handleError(record)

    def end(self, state: str = "interrupted") -> None:
        """Write the last page: the search as it stands, without further loads.

        Args:
            state: Of the search from now on.
        """
        if self.facts is not None:
            self._write({**self.facts, "state": state}, refresh=False)

    def _write(self, facts: Mapping[str, Any], *, refresh: bool) -> None:
        begin = time.thread_time()
        trials = [trial for trial in facts["trials"] if trial["state"] != "running"]
        pace = (time.monotonic() - self.begin) / max(1, 2 * len(trials))  # Twice as often as trials end.
        seconds = round(min(MOST, max(LEAST, pace)))
        result = Result(**{**vars(self.result), "protocol": {"search": dict(facts)}})
        write_page(render([result], refresh=seconds if refresh else None), self.path)
        self.written, self.cost = time.monotonic(), time.thread_time() - begin
