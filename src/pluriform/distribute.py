"""`map_tasks`: one function over many tasks, in this process, in local processes, or on a Ray cluster."""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Final, Generic, Literal, TypeVar

from pluriform.errors import ConfigError, MissingExtraError, TaskError, explain
from pluriform.freed_memory import keep_freed_memory

__all__ = ["LATER", "Outcome", "Workers", "map_tasks"]

T = TypeVar("T")
Workers = Literal["serial", "processes", "ray"]


class _Later:
    """The type of `LATER`."""

    def __repr__(self) -> str:
        return "LATER"


LATER: Final = _Later()
"""In place of a task: there is none before another outcome was told."""


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
    function: Callable[..., T],
    tasks: Iterable[Any],
    *,
    workers: Workers = "serial",
    processes: int = 2,
    tell: Callable[[Outcome[T]], None] | None = None,
    shared: Any = None,
    devices: Sequence[int] = (),
) -> list[Outcome[T]]:
    """Call `function` on every task; a task that fails, or kills its worker, does not sink the others.

    An iterator is asked for its next task only when a worker is free, after all outcomes known by then were told: so it
    may decide by them what comes next. It may yield `LATER` while tasks are under way. Ctrl-C ends all workers and is
    raised on; workers end with this process, however it ends.

    Args:
        function: Of one argument, or two where something is shared; for processes and Ray one that pickle can name
            (defined in a module).
        tasks: The arguments.
        workers: `serial` calls one after the other here; `processes` in fresh local processes, which share the cores;
            `ray` on the Ray cluster that this program is connected to, or a local one, with the extra `ray`.
        processes: Number of local processes. On Ray, as many tasks are under way as the cluster has GPUs, or CPUs.
        tell: Called here with each outcome as it comes in; what it raises ends the work, and is raised on.
        shared: Second argument of every call, sent to a worker once; tensors in it lie in memory that all local
            processes read.
        devices: Numbers of the GPUs, as this process counts them, that local processes see, one each, in turn; empty
            leaves all to all.

    Returns:
        One outcome a task, in the order of the tasks.

    Raises:
        ConfigError: Unknown workers, no processes, or a function that cannot be sent to another process.
        MissingExtraError: Ray is not installed.
    """
    if workers not in ("serial", "processes", "ray") or processes < 1:
        expected, got = "workers 'serial', 'processes' or 'ray', processes at least 1", f"{workers!r}, {processes}"
        raise ConfigError(explain(expected, got, "map_tasks", "change the argument"))
    source = _Source(tasks)
    if workers == "serial":
        return _in_turn(function, source, tell, shared)
    if workers == "ray":
        return _on_ray(function, source, tell, shared)
    return _Pool(function, source, processes, tell, shared, devices).run()


class _Source:
    """Tasks with their positions, one at a time."""

    def __init__(self, tasks: Iterable[Any]) -> None:
        self.known = len(tasks) if isinstance(tasks, Sequence) else None
        self.tasks: Iterator[Any] = iter(tasks)
        self.again: deque[tuple[int, Any]] = deque()
        self.count = 0

    def next(self, under_way: int) -> tuple[int, Any] | None:
        """The next task, or `None` where there is none (now)."""
        if self.again:
            return self.again.popleft()
        task = next(self.tasks, self)
        if task is self:
            return None
        if task is LATER:
            if not under_way:
                got = "LATER with none under way, so that nothing can come in"
                raise TaskError(explain("a task", got, "map_tasks", "let the iterator end instead"))
            return None
        self.count += 1
        return self.count - 1, task


def _told(outcome: Outcome[T], tell: Callable[[Outcome[T]], None] | None) -> Outcome[T]:
    if tell is not None:
        tell(outcome)
    return outcome


def _guarded(function: Callable[..., T], task: Any, position: int, shared: Any = None) -> Outcome[T]:
    try:
        with keep_freed_memory():
            return Outcome(position, function(task) if shared is None else function(task, shared))
    except Exception:
        return Outcome(position, None, traceback.format_exc())


def _in_turn(function: Callable[..., T], source: _Source, tell: Any, shared: Any) -> list[Outcome[T]]:
    outcomes: list[Outcome[T]] = []
    while (found := source.next(0)) is not None:
        outcomes.append(_told(_guarded(function, found[1], found[0], shared), tell))
    return outcomes


class _Pool:
    """Local processes, each on one task at a time; one that dies is replaced while tasks are waiting."""

    def __init__(
        self,
        function: Callable[..., Any],
        source: _Source,
        processes: int,
        tell: Callable[[Outcome], None] | None,
        shared: Any,
        devices: Sequence[int],
    ) -> None:
        self.source, self.tell, self.shared = source, tell, shared
        self.outcomes: dict[int, Outcome] = {}
        self.count = processes if source.known is None else min(processes, source.known)
        self.busy: dict[Connection, tuple[BaseProcess, int]] = {}
        self.idle: dict[Connection, BaseProcess] = {}
        self.seats: dict[BaseProcess, int] = {}
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        self.devices = [seen[number] if any(seen) else str(number) for number in devices]
        try:
            self.code = pickle.dumps(function)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            remedy = "define the function at the top of a module, or use workers='serial'"
            raise ConfigError(explain("a function that pickle can name", str(error), "map_tasks", remedy)) from error

    def run(self) -> list[Outcome]:
        try:
            self._occupy()
            while self.busy:
                for connection in wait(list(self.busy)):
                    self._collect(connection)  # type: ignore[arg-type]
                self._occupy()
        finally:
            for connection in self.idle:
                connection.close()
            for process, _ in self.busy.values():
                process.kill()
            for process in self.seats:
                process.join()
        return [self.outcomes[position] for position in sorted(self.outcomes)]

    def _occupy(self) -> None:
        """Give every free worker a task while there are any; hire where seats are empty."""
        while len(self.busy) < self.count and (found := self.source.next(len(self.busy))) is not None:
            connection, process = self.idle.popitem() if self.idle else self._hire()
            self._assign(connection, process, *found)

    def _hire(self) -> tuple[Connection, BaseProcess]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        threads = max(1, (os.cpu_count() or 1) // self.count)
        seat = next(number for number in range(self.count) if number not in self.seats.values())
        device = self.devices[seat % len(self.devices)] if self.devices else None
        process = context.Process(target=_work, args=(theirs, self.code, threads, self.shared, device), daemon=True)
        try:
            process.start()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            remedy = "define its classes and functions at the top of a module, or use workers='serial'"
            raise ConfigError(explain("shared things that pickle can name", str(error), "map_tasks", remedy)) from error
        theirs.close()
        self.seats[process] = seat
        return ours, process

    def _dismiss(self, connection: Connection, process: BaseProcess) -> None:
        connection.close()
        process.join()
        self.seats.pop(process, None)

    def _assign(self, connection: Connection, process: BaseProcess, position: int, task: Any) -> None:
        """Send a task; what cannot be sent fails, and a worker that is gone does not take it along."""
        try:
            connection.send((position, task))
        except (BrokenPipeError, ConnectionError):
            self.source.again.appendleft((position, task))
            self._dismiss(connection, process)
        except Exception:
            self.idle[connection] = process
            self._record(Outcome(position, None, traceback.format_exc()))
        else:
            self.busy[connection] = (process, position)

    def _collect(self, connection: Connection) -> None:
        process, position = self.busy.pop(connection)
        try:
            outcome = connection.recv()
        except (EOFError, ConnectionError):
            self._dismiss(connection, process)
            outcome = Outcome(position, None, f"the worker process died {_words(process.exitcode)}")
        except Exception:  # A result whose class cannot be imported here.
            self.idle[connection] = process
            outcome = Outcome(position, None, traceback.format_exc())
        else:
            self.idle[connection] = process
            if self.source.known is not None:  # Known tasks need not wait until this outcome is told.
                self._occupy()
        self._record(outcome)

    def _record(self, outcome: Outcome) -> None:
        self.outcomes[outcome.position] = _told(outcome, self.tell)


def _words(code: int | None) -> str:
    if code is not None and code < 0:
        killed = "; out of memory is a common cause" if code == -signal.SIGKILL else ""
        return f"by signal {signal.Signals(-code).name}{killed}"
    return f"with exit code {code}"


def _work(connection: Connection, code: bytes, threads: int, shared: Any, device: str | None) -> None:
    """A worker's life; Ctrl-C is the parent's affair."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = str(threads)  # Read by torch where it is not imported yet.
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # Read at the first use of a GPU.
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    function: Callable[..., Any] | None = None
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
        outcome = _guarded(function, task, position, shared)  # type: ignore[arg-type]
        try:
            connection.send(outcome)
        except Exception:
            connection.send(Outcome(position, None, traceback.format_exc()))


def _end_with_parent() -> None:
    """End this process where its parent was killed: nobody would read what it computes, or may write its files."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _on_ray(function: Callable[..., T], source: _Source, tell: Any, shared: Any) -> list[Outcome[T]]:
    try:
        import ray  # type: ignore[import-not-found]
    except ImportError as error:
        remedy = "pip install 'pluriform[ray]', or use workers='processes'"
        raise MissingExtraError(explain("the package ray", "it is not installed", "workers='ray'", remedy)) from error
    own = not ray.is_initialized()
    if own:
        ray.init(log_to_driver=False, include_dashboard=False)
    try:
        return _through_ray(ray, function, source, tell, shared)
    finally:
        if own:
            ray.shutdown()


def _through_ray(ray: Any, function: Callable[..., T], source: _Source, tell: Any, shared: Any) -> list[Outcome[T]]:
    """As many tasks under way as the cluster has GPUs, or CPUs; each takes one."""
    gpus, cpus = (int(ray.cluster_resources().get(kind, 0)) for kind in ("GPU", "CPU"))
    remote = ray.remote(max_retries=0, num_gpus=1 if gpus else 0)(_guarded)
    stored = None if shared is None else ray.put(shared)
    room, under_way, outcomes = max(1, gpus or cpus), {}, {}
    try:
        while True:
            while len(under_way) < room and (found := source.next(len(under_way))) is not None:
                under_way[remote.remote(function, found[1], found[0], stored)] = found[0]
            if not under_way:
                return [outcomes[position] for position in sorted(outcomes)]
            for future in ray.wait(list(under_way))[0]:
                position = under_way.pop(future)
                outcomes[position] = _told(_fetched(ray, future, position), tell)
    finally:  # On a cluster of somebody else they would go on.
        for future in under_way:
            ray.cancel(future, force=True)


def _fetched(ray: Any, future: Any, position: int) -> Outcome:
    try:
        return ray.get(future)
    except ray.exceptions.RayError as error:
        return Outcome(position, None, f"{type(error).__name__}: {error}")
