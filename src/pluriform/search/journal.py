"""`Journal`: the trials of a search in one SQLite file, each written before it runs, so that a kill loses none.

The proposals of a strategy are a function of its seed and of what it was asked and told, in that order. Both orders are
here: trials are numbered as they were asked for, and `told` counts as their scores came in. A search that was killed
tells its strategy the old scores in the old order, and goes on with what was under way.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pluriform.errors import CorruptFileError, RunError, explain

__all__ = ["Journal", "State", "Trial"]

State = Literal["running", "done", "failed"]
JSON = ("moves", "plan", "figures")


@dataclass(frozen=True)
class Trial:
    """One candidate and what became of it.

    Attributes:
        number: In the order asked for, from 0.
        parent: Number of the trial whose weights it inherits; `None` for the start.
        moves: What is done to the parent's network, one JSON object each.
        key: Hash of its architecture.
        plan: What it was asked for with: prediction of the strategy, thresholds of early stopping, size.
        state: `running` from before it begins.
        told: How many had been told before it; `None` while it runs.
        score: Higher is better; `None` where it failed.
        figures: What was measured: seconds, epochs, loss and accuracy of every epoch.
        failure: Why it failed, with its traceback; empty where it did not.
    """

    number: int
    parent: int | None = None
    moves: tuple[Mapping[str, Any], ...] = ()
    key: str = ""
    plan: Mapping[str, Any] = field(default_factory=dict)
    state: State = "running"
    told: int | None = None
    score: float | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)
    failure: str = ""

    @property
    def reason(self) -> str:
        """The last line of the failure."""
        return self.failure.strip().splitlines()[-1] if self.failure.strip() else ""


class Journal:
    """Trials on disk; every call is one committed transaction.

    Args:
        path: Of the file; made where it is missing.

    Raises:
        CorruptFileError: The file is no journal.
        RunError: It cannot be written.

    Example:
        >>> import tempfile
        >>> with Journal(Path(tempfile.mkdtemp()) / "journal.sqlite") as journal:
        ...     journal.begin(Trial(0, key="a"))
        ...     journal.end(0, score=0.9).state
        'done'
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = sqlite3.connect(path, isolation_level=None)
        except sqlite3.Error as error:
            raise self._unwritable(error) from error
        with self._transaction() as file:
            columns = "parent INTEGER, moves TEXT, key TEXT, plan TEXT, state TEXT, told INTEGER, score REAL"
            file.execute(
                f"CREATE TABLE IF NOT EXISTS trials (number INTEGER PRIMARY KEY, {columns}, figures TEXT, failure TEXT)"
            )
            file.execute("CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT)")

    def begin(self, trial: Trial) -> None:
        """Write a trial that is about to run.

        Raises:
            RunError: There is one of that number, or the disk is full.
        """
        row = {name: json.dumps(value) if name in JSON else value for name, value in asdict(trial).items()}
        with self._transaction() as file:
            file.execute(f"INSERT INTO trials ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", [*row.values()])

    def end(
        self, number: int, *, score: float | None = None, figures: Mapping[str, Any] | None = None, failure: str = ""
    ) -> Trial:
        """Write what became of a running trial; without a score it failed.

        Raises:
            RunError: No such trial is running.
        """
        state = "done" if score is not None else "failed"
        with self._transaction() as file:
            changed = file.execute(
                "UPDATE trials SET state = ?, score = ?, figures = ?, failure = ?, "
                "told = (SELECT COUNT(told) FROM trials) WHERE number = ? AND state = 'running'",
                (state, score, json.dumps(figures or {}), failure, number),
            ).rowcount
            if changed != 1:
                got = f"{changed} of number {number}"
                raise RunError(explain("one running trial", got, str(self.path), "end each trial once"))
        return self.trial(number)

    def trial(self, number: int) -> Trial:
        """The trial of that number.

        Raises:
            RunError: There is none.
        """
        found = self._read("WHERE number = ?", number)
        if not found:
            raise RunError(explain("a trial of the journal", f"number {number}", str(self.path), "count from 0"))
        return found[0]

    def trials(self) -> list[Trial]:
        """All trials in the order asked for."""
        return self._read("ORDER BY number")

    def told(self) -> list[Trial]:
        """Trials that ended, in the order told."""
        return self._read("WHERE told IS NOT NULL ORDER BY told")

    def running(self) -> list[Trial]:
        """Trials that are under way, or were when the search was killed."""
        return self._read("WHERE state = 'running' ORDER BY number")

    def forget_failures(self) -> bool:
        """Forget all trials where some were told and none has a score: what made them fail may be mended by now."""
        with self._transaction() as file:
            told, done = file.execute("SELECT COUNT(told), COUNT(score) FROM trials").fetchone()
            if told and not done:
                file.execute("DELETE FROM trials")
        return bool(told and not done)

    def note(self, name: str, value: Any) -> None:
        """Remember a fact of the search, as JSON."""
        with self._transaction() as file:
            file.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))

    def fact(self, name: str, default: Any = None) -> Any:
        """The fact of that name, or the default."""
        with self._transaction() as file:
            row = file.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return default if row is None else json.loads(row[0])

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._file.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, clause: str, *values: Any) -> list[Trial]:
        with self._transaction() as file:
            cursor = file.execute(f"SELECT * FROM trials {clause}", values)
            names = [column[0] for column in cursor.description]
            rows = [dict(zip(names, row, strict=True)) for row in cursor]
        return [_trial(row) for row in rows]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything inside, or nothing, is on the disk afterwards."""
        try:
            self._file.execute("BEGIN IMMEDIATE")
            try:
                yield self._file
            except BaseException:
                self._file.execute("ROLLBACK")
                raise
            self._file.execute("COMMIT")
        except sqlite3.ProgrammingError:  # Of this code, not of the file.
            raise
        except sqlite3.OperationalError as error:
            raise self._unwritable(error) from error
        except sqlite3.IntegrityError as error:
            raise RunError(explain("a new number", str(error), str(self.path), "begin each trial once")) from error
        except sqlite3.DatabaseError as error:
            remedy = "name another run folder, or delete this file to search from the start"
            raise CorruptFileError(explain("the journal of a search", str(error), str(self.path), remedy)) from error

    def _unwritable(self, error: Exception) -> RunError:
        remedy = "free some space and start the same command again: every finished trial is kept"
        return RunError(explain("a journal that can be written", str(error), str(self.path), remedy))


def _trial(row: Mapping[str, Any]) -> Trial:
    values = {name: json.loads(value) if name in JSON else value for name, value in row.items()}
    return replace(Trial(values["number"]), **{**values, "moves": tuple(values["moves"])})
