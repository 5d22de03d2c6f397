"""`map_tasks`: one function over many tasks, in this process, in local processes, or on a Ray cluster.

A task that fails, even by killing its process, is an `Outcome` with the traceback and does not sink the others.
"""

import multiprocessing
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Literal

from pluriform.errors import ConfigError, MissingExtraError, TaskError, explain

__all__ = ["Outcome", "map_tasks"]


@dataclass(frozen=True)
class Outcome:
    """What became of one task.

    Attributes:
        task: As it was given.
        result: What the function returned.
        traceback: Where the task failed: the text of the exception and its traceback; empty where it did not.
    """

    task: Any
    result: Any = None
    traceback: str = ""

    @property
    def ok(self) -> bool:
        """Whether the task ended well."""
        return not self.traceback

    def value(self) -> Any:
        """The result.

        Raises:
            TaskError: The task failed; the message holds its traceback.
        """
        if self.ok:
            return self.result
        summary = self.traceback.strip().splitlines()[-1]
        raise TaskError(
            explain("a task that ends well", summary, f"task {self.task!r:.200}", "see its traceback below")
            + f"\n{self.traceback}"
        )


def map_tasks(
    function: Callable[[Any], Any],
    tasks: Iterable[Any],
    *,
    workers: Literal["serial", "processes", "ray"] = "serial",
    processes: int = 2,
) -> list[Outcome]:
    """Call `function` on every task.

    Args:
        function: Takes one task. Local processes are spawned anew, so function, tasks and results must be picklable;
            scripts that use them need an `if __name__ == "__main__":` guard.
        tasks: Any values.
        workers: `"serial"` in this process, `"processes"` on this machine, `"ray"` on the cluster that Ray finds, or
            one that it starts here (extra `ray`).
        processes: How many tasks run at once in local processes.

    Returns:
        One outcome for each task, in the order of the tasks.

    Raises:
        ConfigError: Unknown workers, or fewer than one process.
        MissingExtraError: Ray is not installed.
        KeyboardInterrupt: Ctrl-C; tasks that are running are cancelled.
    """
    if workers == "serial":
        return [_attempt(function, task) for task in tasks]
    if workers == "ray":
        return _map_on_ray(function, list(tasks))
    if workers != "processes" or processes < 1:
        raise ConfigError(
            explain(
                'workers "serial", "processes" or "ray", and at least 1 process',
                f"workers={workers!r}, processes={processes}",
                "map_tasks",
                "name one of them",
            )
        )
    return _map_in_processes(function, list(tasks), processes)


def _attempt(function: Callable[[Any], Any], task: Any) -> Outcome:
    try:
        return Outcome(task, function(task))
    except Exception:
        return Outcome(task, traceback=traceback.format_exc())


def _map_in_processes(function: Callable[[Any], Any], tasks: list[Any], processes: int) -> list[Outcome]:
    """At most `processes` tasks at once; those that shared a pool with a dying worker are tried again alone.

    A pool cannot tell which of its workers died, so every task that it had begun is suspect. Run one at a time, the
    one that dies again is the one to report.
    """
    outcomes: dict[int, Outcome] = {}
    suspects = _run_pool(function, tasks, list(range(len(tasks))), processes, outcomes)
    while suspects:
        first, *others = suspects
        if _run_pool(function, tasks, [first], 1, outcomes):
            outcomes[first] = Outcome(
                tasks[first], traceback="TaskError: the worker process died (killed, out of memory, or os._exit)"
            )
        suspects = _run_pool(function, tasks, others, processes, outcomes) if others else []
    return [outcomes[position] for position in range(len(tasks))]


def _run_pool(
    function: Callable[[Any], Any], tasks: list[Any], positions: list[int], processes: int, outcomes: dict[int, Outcome]
) -> list[int]:
    """Fill in the outcomes; return the positions left over when a worker died, those that were running first."""
    pool = ProcessPoolExecutor(min(processes, len(positions)) or 1, multiprocessing.get_context("spawn"))
    waiting, running = list(positions), {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                running[pool.submit(_attempt, function, tasks[waiting[0]])] = waiting.pop(0)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                _collect(future, tasks, running[future], outcomes)
                del running[future]
    except BrokenProcessPool:
        return [*sorted(running.values()), *waiting]
    except KeyboardInterrupt:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return []


def _collect(future: Future, tasks: list[Any], position: int, outcomes: dict[int, Outcome]) -> None:
    try:
        outcomes[position] = future.result()
    except BrokenProcessPool:
        raise
    except Exception as error:  # The task or its result cannot be pickled.
        text = "".join(traceback.format_exception(error))
        outcomes[position] = Outcome(tasks[position], traceback=text)


def _map_on_ray(function: Callable[[Any], Any], tasks: list[Any]) -> list[Outcome]:
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError(
            explain(
                "the package ray",
                "no such package",
                'map_tasks(workers="ray")',
                'pip install "pluriform[ray]", or use workers="processes"',
            )
        ) from error
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, include_dashboard=False)
    try:
        remote = ray.remote(max_retries=0)(_attempt)
        return _collected_from_ray(ray, [remote.remote(function, task) for task in tasks], tasks)
    finally:
        if started:
            ray.shutdown()


def _collected_from_ray(ray: Any, references: list[Any], tasks: list[Any]) -> list[Outcome]:
    outcomes = []
    try:
        for reference, task in zip(references, tasks, strict=True):
            try:
                outcomes.append(ray.get(reference))
            except ray.exceptions.RayError as error:
                outcomes.append(Outcome(task, traceback=f"TaskError: the worker failed: {error}"))
    except KeyboardInterrupt:
        for reference in references:
            ray.cancel(reference, force=True)
        raise
    return outcomes
