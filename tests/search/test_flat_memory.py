"""Host memory over many trials."""

import ctypes
import ctypes.util
import gc
import sys

import psutil
import pytest
import torch

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.search.trials import Search

TRIALS = 40


@pytest.mark.skipif(sys.platform != "linux", reason="asks the allocator of glibc")
@pytest.mark.parametrize("trials", [TRIALS, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_memory_stays_flat(trials, monkeypatch):
    """From the first half of the trials to the last, less is added for each than half of what its training held.

    Over many trials, where the allocator's own changes count less, less than a quarter of its weights.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(96, 6, generator=generator)
    split = Split(inputs, (inputs.sum(1) > 0).long())
    data = Data("made", "classification", split, split, split, classes=("a", "b"))
    net = torch.nn.Sequential(torch.nn.Linear(6, 400), torch.nn.ReLU(), torch.nn.Linear(400, 400), torch.nn.ReLU(),
                              torch.nn.Linear(400, 2))  # fmt: skip
    held: list[int] = []
    libc = ctypes.CDLL(ctypes.util.find_library("c"))
    real = Search._tell

    def watched(self, outcome):
        real(self, outcome)
        gc.collect()
        libc.malloc_trim(0)  # What the allocator keeps after the largest network is no leak.
        held.append(psutil.Process().memory_info().rss)

    monkeypatch.setattr("pluriform.search.trials.Search._tell", watched)
    method = pf.MorphismSearch(trials=trials, epochs=1, final=0, strategy="random")
    form = method.fit(net, data)
    assert len(held) == trials
    assert all(trial["state"] == "done" for trial in form.facts["trials"])
    weights = 4 * sum(weight.numel() for weight in net.parameters())  # Of the smallest of the networks, in bytes.
    most = weights / 4 if trials > TRIALS else 4 * weights / 2  # A training holds gradients and states as well.
    early, late = (sorted(part)[len(part) // 2] for part in (held[trials // 4 : trials // 2], held[-trials // 4 :]))
    assert (late - early) / (trials / 2) < most
