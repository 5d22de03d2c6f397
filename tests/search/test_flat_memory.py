"""Host memory over many trials."""

import gc

import psutil
import pytest
import torch

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.search.trials import Search

TRIALS = 40


@pytest.mark.parametrize("trials", [TRIALS, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_memory_stays_flat(trials, monkeypatch):
    """Between the first half of the trials and the end, less than one of them would take is added per trial."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(96, 6, generator=generator)
    split = Split(inputs, (inputs.sum(1) > 0).long())
    data = Data("made", "classification", split, split, split, classes=("a", "b"))
    net = torch.nn.Sequential(torch.nn.Linear(6, 400), torch.nn.ReLU(), torch.nn.Linear(400, 400), torch.nn.ReLU(),
                              torch.nn.Linear(400, 2))  # fmt: skip
    held: list[int] = []
    real = Search._tell

    def watched(self, outcome):
        real(self, outcome)
        gc.collect()
        held.append(psutil.Process().memory_info().rss)

    monkeypatch.setattr("pluriform.search.trials.Search._tell", watched)
    method = pf.MorphismSearch(trials=trials, epochs=1, final=0, strategy="random", max_parameters=400_000)
    form = method.fit(net, data)
    assert len(held) == trials
    assert all(trial["state"] == "done" for trial in form.facts["trials"])
    least = 4 * sum(weight.numel() for weight in net.parameters())  # The smallest of the networks, its weights alone.
    early, late = (sorted(part)[len(part) // 2] for part in (held[trials // 4 : trials // 2], held[-trials // 4 :]))
    assert (late - early) / (trials / 2) < least / 4
