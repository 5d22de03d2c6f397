"""`map_tasks`: one function over many tasks, in this process, in local processes, or on a Ray cluster."""

import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, Literal, TypeVar

from pluriform.errors import ConfigError, MissingExtraError, TaskError, explain

__all__ = ["Outcome", "Workers", "map_tasks"]

T = TypeVar("T")
Workers = Literal["serial", "processes", "ray"]


@dataclass(frozen=True, eq=False)
class Outcome(Generic[T]):
    """What became of one task.

    Attributes:
        position: Of the task, from 0.
        result: What the function returned; `None` where it failed.
        failure: The traceback, or how the worker died; empty where it went well.
    """

    position: int
    result: T | None
    failure: str = ""

    @property
    def ok(self) -> bool:
        """Whether the function returned."""
        return not self.failure

    def value(self) -> T:
        """The result.

        Raises:
            TaskError: The task failed; the message holds its traceback.
        """
        if self.failure:
            last = self.failure.strip().splitlines()[-1]
            remedy = "see the traceback below; the other tasks are not affected\n" + self.failure
            raise TaskError(explain("a result", last, f"task {self.position}", remedy))
        return self.result  # type: ignore[return-value]


def map_tasks(
    function: Callable[[Any], T],
    tasks: Sequence[Any],
    *,
    workers: Workers = "serial",
    processes: int = 2,
    tell: Callable[[Outcome[T]], None] | None = None,
) -> list[Outcome[T]]:
    """Call `function` on every task; a task that fails, or kills its worker, does not sink the others.

    Ctrl-C ends all workers and is raised on.

    Args:
        function: Of one argument; for processes and Ray one that pickle can name (defined in a module).
        tasks: The arguments.
        workers: `serial` calls one after the other here; `processes` in fresh local processes, which share the cores;
            `ray` on the Ray cluster that this program is connected to, or a local one, with the extra `ray`.
        processes: Number of local processes.
        tell: Called here with each outcome as it comes in (on Ray in the order of the tasks); what it raises ends the
            work, and is raised on.

    Returns:
        One outcome a task, in the order of the tasks.

    Raises:
        ConfigError: Unknown workers, no processes, or a function that cannot be sent to another process.
        MissingExtraError: Ray is not installed.
    """
    if workers not in ("serial", "processes", "ray") or processes < 1:
        expected, got = "workers 'serial', 'processes' or 'ray', processes at least 1", f"{workers!r}, {processes}"
        raise ConfigError(explain(expected, got, "map_tasks", "change the argument"))
    if workers == "serial":
        return [_told(_guarded(function, task, position), tell) for position, task in enumerate(tasks)]
    if workers == "ray":
        return _on_ray(function, tasks, tell)
    return _Pool(function, tasks, processes, tell).run()


def _told(outcome: Outcome[T], tell: Callable[[Outcome[T]], None] | None) -> Outcome[T]:
    if tell is not None:
        tell(outcome)
    return outcome


def _guarded(function: Callable[[Any], T], task: Any, position: int) -> Outcome[T]:
    try:
        return Outcome(position, function(task))
    except Exception:
        return Outcome(position, None, traceback.format_exc())


class _Pool:
    """Local processes, each on one task at a time; one that dies is replaced while tasks are waiting."""

    def __init__(
        self,
        function: Callable[[Any], Any],
        tasks: Sequence[Any],
        processes: int,
        tell: Callable[[Outcome], None] | None = None,
    ) -> None:
        self.function, self.waiting, self.tell = function, deque(enumerate(tasks)), tell
        self.outcomes: list[Outcome | None] = [None] * len(tasks)
        self.count = min(processes, len(tasks))
        self.busy: dict[Connection, tuple[BaseProcess, int]] = {}
        try:
            self.code = pickle.dumps(function)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            remedy = "define the function at the top of a module, or use workers='serial'"
            raise ConfigError(explain("a function that pickle can name", str(error), "map_tasks", remedy)) from error

    def run(self) -> list[Outcome]:
        try:
            for _ in range(self.count):
                self._hire()
            while self.busy:
                for connection in wait(list(self.busy)):
                    self._collect(connection)  # type: ignore[arg-type]
        finally:
            for process, _ in self.busy.values():
                process.kill()
                process.join()
        return [outcome for outcome in self.outcomes if outcome is not None]

    def _hire(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        threads = max(1, (os.cpu_count() or 1) // self.count)
        process = context.Process(target=_work, args=(theirs, self.code, threads), daemon=True)
        process.start()
        theirs.close()
        self._assign(ours, process)

    def _assign(self, connection: Connection, process: BaseProcess) -> None:
        """Send the next task that can be sent; without one the worker is let go."""
        while self.waiting:
            position, task = self.waiting.popleft()
            try:
                connection.send((position, task))
            except (BrokenPipeError, ConnectionError):
                self.waiting.appendleft((position, task))
                break
            except Exception:
                self._record(Outcome(position, None, traceback.format_exc()))
                continue
            self.busy[connection] = (process, position)
            return
        connection.close()
        process.join()

    def _collect(self, connection: Connection) -> None:
        process, position = self.busy.pop(connection)
        try:
            outcome = connection.recv()
        except (EOFError, ConnectionError):
            process.join()
            connection.close()
            if self.waiting:
                self._hire()
            self._record(Outcome(position, None, f"the worker process died {_words(process.exitcode)}"))
            return
        except Exception:  # A result whose class cannot be imported here.
            outcome = Outcome(position, None, traceback.format_exc())
        self._assign(connection, process)
        self._record(outcome)

    def _record(self, outcome: Outcome) -> None:
        self.outcomes[outcome.position] = _told(outcome, self.tell)


def _words(code: int | None) -> str:
    if code is not None and code < 0:
        return f"by signal {signal.Signals(-code).name}; out of memory is a common cause"
    return f"with exit code {code}"


def _work(connection: Connection, code: bytes, threads: int) -> None:
    """A worker's life; Ctrl-C is the parent's affair."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # Read by torch where it is not imported yet.
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    function: Callable[[Any], Any] | None = None
    while True:
        try:
            position, task = connection.recv()
        except EOFError:
            return
        try:
            function = function or pickle.loads(code)
        except Exception:
            connection.send(Outcome(position, None, traceback.format_exc()))
            continue
        outcome = _guarded(function, task, position)  # type: ignore[arg-type]
        try:
            connection.send(outcome)
        except Exception:
            connection.send(Outcome(position, None, traceback.format_exc()))


def _on_ray(
    function: Callable[[Any], T], tasks: Sequence[Any], tell: Callable[[Outcome[T]], None] | None
) -> list[Outcome[T]]:
    try:
        import ray  # type: ignore[import-not-found]
    except ImportError as error:
        remedy = "pip install 'pluriform[ray]', or use workers='processes'"
        raise MissingExtraError(explain("the package ray", "it is not installed", "workers='ray'", remedy)) from error
    own = not ray.is_initialized()
    if own:
        ray.init(log_to_driver=False, include_dashboard=False)
    try:
        remote = ray.remote(max_retries=0)(_guarded)
        futures = [remote.remote(function, task, position) for position, task in enumerate(tasks)]
        return [_told(_fetched(ray, future, position), tell) for position, future in enumerate(futures)]
    finally:
        if own:
            ray.shutdown()


def _fetched(ray: Any, future: Any, position: int) -> Outcome:
    try:
        return ray.get(future)
    except ray.exceptions.RayError as error:
        return Outcome(position, None, f"{type(error).__name__}: {error}")
