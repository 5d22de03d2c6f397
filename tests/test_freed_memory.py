"""Freed memory is taken again without the system, goes back in the end, and nothing else changes."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform import freed_memory
from pluriform.freed_memory import keep_freed_memory

MEBIBYTE = 2**20
ENOUGH = 8 * 2 * 24 // 2
"""Half of the pages of eight steps, were they all of 2 MiB, which the system gives where it has them."""
needs_glibc = pytest.mark.skipif(freed_memory._glibc() is None, reason="the allocator is not that of glibc")


def steps(count):
    """Each takes two blocks of 48 MiB, and frees them."""
    for _ in range(count):
        torch.ones(12 * MEBIBYTE).relu()


def faults(call):
    """Pages that the system cleared meanwhile."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    call()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident():
    return psutil.Process().memory_info().rss / MEBIBYTE


def pages():
    """Pages taken usually, and inside once there is room for all that a step takes."""
    usual = faults(lambda: steps(8))
    with keep_freed_memory():
        steps(8)
        return usual, faults(lambda: steps(8))


def sizes():
    """Memory before, inside and after, in MiB, and the pages taken afterwards."""
    steps(1)
    found = [resident()]
    with keep_freed_memory():
        with keep_freed_memory():
            steps(2)
        found.append(resident())
    return [*found, resident(), faults(lambda: steps(8))]


def alone(name):
    """What a function of this file finds in a new process: a heap with holes of this size keeps memory by itself."""
    path = str(Path(__file__).parent)
    code = f"import json, sys; sys.path.insert(0, {path!r}); import {Path(__file__).stem} as own; "
    code += f"print(json.dumps(own.{name}()))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


@needs_glibc
def test_pages_are_taken_once():
    usual, kept = alone("pages")
    assert usual > ENOUGH
    assert kept < usual / 4


@needs_glibc
def test_all_goes_back_at_the_end_of_the_outermost():
    before, inside, after, usual = alone("sizes")
    assert inside > before + 40
    assert after < before + 24
    assert usual > ENOUGH


@needs_glibc
def test_an_error_inside_ends_it_too():
    with pytest.raises(ZeroDivisionError), keep_freed_memory():
        raise ZeroDivisionError
    assert freed_memory._inside == 0


@pytest.mark.parametrize(
    "chosen", [{"MALLOC_TRIM_THRESHOLD_": "1000000"}, {"GLIBC_TUNABLES": "a.b.c=1:glibc.malloc.trim_threshold=1000000"}]
)
def test_what_the_user_chose_is_left_alone(chosen):
    code = "from pluriform import freed_memory; print(freed_memory._glibc())"
    found = subprocess.run([sys.executable, "-c", code], env=chosen, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "None"


def test_another_allocator_is_no_error(monkeypatch):
    monkeypatch.setattr(freed_memory, "_glibc", lambda: None)
    with keep_freed_memory():
        assert freed_memory._inside == 0


class Asks(nn.Module):
    """Notes whether freed memory is kept while it computes."""

    def __init__(self):
        super().__init__()
        self.layer, self.kept = nn.Linear(64, 10), []

    def forward(self, inputs):
        self.kept.append(freed_memory._inside)
        return self.layer(inputs.flatten(1))


@needs_glibc
def test_the_doors_keep_it(monkeypatch):
    """Fitting, judging, attacking, predicting in several batches; not one batch, where there is nothing to reuse."""
    data, seen = pf.load("digits"), []
    monkeypatch.setattr(Asks, "__deepcopy__", lambda self, memo: self, raising=False)
    net = Asks()

    def during(call):
        net.kept.clear()
        found = call()
        seen.append(net.kept[-1])
        return found

    form = during(lambda: pf.Training(epochs=1).fit(net, data))
    during(lambda: pf.attack(form, data.test.inputs[:8], data.test.targets[:8], pf.Threat("linf", 0.1)))
    during(lambda: form.predict(data.test.inputs[:8], batch_size=4))
    during(lambda: pf.evaluate(form, data, corruptions=(), samples=10))
    during(lambda: form.predict(data.test.inputs[:8]))
    assert [count > 0 for count in seen] == [True, True, True, True, False]
