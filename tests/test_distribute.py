import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from pluriform.distribute import LATER, Outcome, map_tasks
from pluriform.errors import ConfigError, MissingExtraError, TaskError


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A module that a fresh process can import."""
    source = """
        import os
        import time

        def half(task):
            if task == "raise":
                raise ValueError("no half of this")
            if task == "die":
                os._exit(7)
            if task == "killed":
                os.kill(os.getpid(), 9)
            if task == "lambda":
                return lambda: None
            return task / 2

        def where(task):
            time.sleep(0.3)
            return os.getpid()

        def visible(task):
            time.sleep(0.3)
            return os.environ["CUDA_VISIBLE_DEVICES"]

        def add(task, shared):
            shared[task] += 1
            time.sleep(0.3)
            return os.getpid()

        def threads(task):
            import torch
            return torch.get_num_threads()
    """
    (tmp_path / "work_of_the_test.py").write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(tmp_path)
    import work_of_the_test

    yield work_of_the_test
    del sys.modules["work_of_the_test"]


@pytest.mark.parametrize("workers", ["serial", "processes"])
def test_results_come_in_the_order_of_the_tasks_and_a_failure_sinks_no_other(work, workers):
    outcomes = map_tasks(work.half, [4, "raise", 6, 8], workers=workers)
    assert [outcome.position for outcome in outcomes] == [0, 1, 2, 3]
    assert [outcome.result for outcome in outcomes] == [2, None, 3, 4]
    assert [outcome.ok for outcome in outcomes] == [True, False, True, True]
    assert outcomes[0].value() == 2
    with pytest.raises(TaskError, match=r"(?s)got ValueError: no half of this \(task 1\).*Traceback.*in half"):
        outcomes[1].value()


def test_dead_workers_are_reported_and_replaced(work):
    outcomes = map_tasks(work.half, ["die", 2, "killed", 4, 6], workers="processes", processes=2)
    assert [outcome.result for outcome in outcomes] == [None, 1, None, 2, 3]
    with pytest.raises(TaskError, match="worker process died with exit code 7"):
        outcomes[0].value()
    with pytest.raises(TaskError, match="died by signal SIGKILL"):
        outcomes[2].value()


def test_what_cannot_be_sent_is_a_failure_of_its_task_alone(work):
    outcomes = map_tasks(work.half, ["lambda", lambda: None, 4], workers="processes", processes=1)
    assert [outcome.ok for outcome in outcomes] == [False, False, True]
    assert "pickle" in outcomes[0].failure
    assert "pickle" in outcomes[1].failure


def test_processes_work_side_by_side_and_share_the_cores(work):
    pids = {outcome.value() for outcome in map_tasks(work.where, [0, 1], workers="processes", processes=2)}
    assert len(pids) == 2
    assert os.getpid() not in pids
    (outcome,) = map_tasks(work.threads, [0], workers="processes", processes=64)
    assert outcome.value() == os.cpu_count()  # one task, so one worker


def test_no_tasks():
    assert map_tasks(math.sqrt, [], workers="processes") == []
    assert map_tasks(math.sqrt, []) == []


def test_bad_arguments():
    with pytest.raises(ConfigError, match="processes at least 1; got 'processes', 0"):
        map_tasks(math.sqrt, [1.0], workers="processes", processes=0)
    with pytest.raises(ConfigError, match="a function that pickle can name.*top of a module"):
        map_tasks(lambda task: task, [1.0], workers="processes")
    with pytest.raises(ConfigError, match="shared things that pickle can name.*top of a module"):
        map_tasks(math.pow, [1.0], workers="processes", shared=lambda: None)


def test_an_outcome_without_result():
    assert Outcome(0, None).value() is None


def test_ctrl_c_ends_the_workers(tmp_path):
    script = """
        import os, sys, time
        from pathlib import Path
        from pluriform.distribute import map_tasks

        def sleep(path):
            Path(path).write_text(str(os.getpid()))
            time.sleep(60)

        if __name__ == "__main__":
            try:
                map_tasks(sleep, sys.argv[1:], workers="processes")
            except KeyboardInterrupt:
                sys.exit(33)
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    marks = [tmp_path / "a", tmp_path / "b"]
    process = subprocess.Popen([sys.executable, str(tmp_path / "script.py"), *map(str, marks)])
    deadline = time.monotonic() + 60
    while not all(mark.exists() and mark.read_text() for mark in marks):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 33
    for mark in marks:
        with pytest.raises(ProcessLookupError):
            os.kill(int(mark.read_text()), 0)


def test_ray(work):
    try:
        import ray  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtraError, match=r"pluriform\[ray\]"):
            map_tasks(work.half, [4], workers="ray")
        pytest.skip("ray is not installed")

    def half(task):
        if task == "raise":
            raise ValueError("no half of this")
        if task == "die":
            os._exit(7)
        return task / 2

    outcomes = map_tasks(half, [4, "raise", "die", 8], workers="ray")
    assert [outcome.result for outcome in outcomes] == [2, None, None, 4]
    with pytest.raises(TaskError, match="no half of this"):
        outcomes[1].value()
    with pytest.raises(TaskError, match=r"(?i)worker.*(died|crashed)"):
        outcomes[2].value()


@pytest.mark.parametrize("workers", ["serial", "processes"])
def test_outcomes_are_told_as_they_come_and_telling_can_end_the_work(work, workers):
    seen = []
    map_tasks(work.half, [4, "raise", 6], workers=workers, tell=seen.append)
    assert sorted((outcome.position, outcome.result, outcome.ok) for outcome in seen) == [
        (0, 2, True), (1, None, False), (2, 3, True),
    ]  # fmt: skip
    count = []

    def enough(outcome):
        count.append(outcome.position)
        if len(count) == 2:
            raise OSError("no room")

    start = time.perf_counter()
    with pytest.raises(OSError, match="no room"):
        map_tasks(work.where, range(200), workers=workers, tell=enough)
    assert len(count) == 2
    assert time.perf_counter() - start < 30


@pytest.mark.parametrize("workers", ["serial", "processes"])
def test_an_iterator_is_asked_only_after_outcomes_were_told(work, workers):
    told = []

    def tasks():
        yield 2
        for _ in range(4):
            while len(told) < 2 and workers == "processes" and (not told or told[-1] < 1):
                yield LATER
            yield told[-1] * 2 + 2

    outcomes = map_tasks(work.half, tasks(), workers=workers, processes=1, tell=lambda one: told.append(one.result))
    assert [outcome.result for outcome in outcomes] == [1, 2, 3, 4, 5]
    assert told == [1, 2, 3, 4, 5]


def test_later_waits_for_what_is_under_way_and_is_refused_where_nothing_is(work):
    told, asked = [], []

    def tasks():
        yield 4
        while not told:
            asked.append(1)
            yield LATER
        yield 8

    outcomes = map_tasks(work.half, tasks(), workers="processes", processes=2, tell=told.append)
    assert [outcome.result for outcome in outcomes] == [2, 4]
    assert 1 <= len(asked) <= 2  # not a loop that burns the processor
    with pytest.raises(TaskError, match="got LATER with none under way"):
        map_tasks(work.half, iter([LATER]), workers="serial")


def test_shared_tensors_are_one_memory_for_all_processes(work):
    shared = torch.zeros(4)
    outcomes = map_tasks(work.add, [0, 1, 2, 3, 0], workers="processes", processes=2, shared=shared)
    assert all(outcome.ok for outcome in outcomes), outcomes[0].failure
    assert shared.tolist() == [2, 1, 1, 1]
    assert len({outcome.result for outcome in outcomes}) == 2


def test_each_process_sees_its_own_gpu(work):
    outcomes = map_tasks(work.visible, [0, 1], workers="processes", processes=2, devices=(3, 5))
    assert {outcome.value() for outcome in outcomes} == {"3", "5"}


def test_gpus_are_those_that_this_process_was_given(work, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-8932f937")
    outcomes = map_tasks(work.visible, [0, 1], workers="processes", processes=2, devices=(0, 1))
    assert {outcome.value() for outcome in outcomes} == {"2", "GPU-8932f937"}


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = """
        import os, sys, time
        from pathlib import Path
        from pluriform.distribute import map_tasks

        def sleep(path):
            Path(path).write_text(str(os.getpid()))
            time.sleep(60)

        if __name__ == "__main__":
            map_tasks(sleep, sys.argv[1:], workers="processes")
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    mark = tmp_path / "a"
    process = subprocess.Popen([sys.executable, str(tmp_path / "script.py"), str(mark)])
    deadline = time.monotonic() + 60
    while not (mark.exists() and mark.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait(20)
    while _alive(int(mark.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")
