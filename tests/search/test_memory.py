from types import SimpleNamespace

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.errors import MemoryBudgetError
from pluriform.search.memory import (
    MemoryModel,
    check_shared_memory,
    free_memory,
    measured_bytes,
    predicted_bytes,
    ran_out_of_memory,
)
from pluriform.training.loss import Loss
from pluriform.training.recipe import Recipe

LOSS = Loss("classification")
SIZES = (16, 64, 200)
slow = pytest.mark.slow
NETS = (
    *((name, SIZES) for name in ("mlp", "lenet", "convnet", "convnet-bn")),
    *(pytest.param(name, SIZES, marks=slow) for name in ("myrtle5", "myrtle5-bn", "resnet20", "resnet20-nonorm")),
)


@pytest.fixture(scope="module")
def data():
    return pf.load("digits")


def batch(data, size):
    rows = torch.arange(size) % len(data.train)
    return data.train.inputs[rows], data.train.targets[rows]


@pytest.mark.parametrize(("name", "sizes"), NETS)
def test_the_prediction_is_within_15_percent_of_the_measured_peak(name, sizes, data):
    net = pf.nets.build(name, data)
    for optimizer in ("adamw", "sgd"):
        recipe = Recipe(optimizer=optimizer)
        for size in sizes:
            inputs, targets = batch(data, size)
            predicted = predicted_bytes(net, *batch(data, 3), recipe, LOSS, size)
            assert predicted == pytest.approx(measured_bytes(net, inputs, targets, recipe, LOSS), rel=0.15)


def test_it_is_the_sum_that_one_counts_by_hand(data):
    """One linear layer: weights, gradients, two states, inputs, and outputs with what the loss makes of them."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 1000, bias=False))
    parameters, inputs, outputs = 4 * 64000, 4 * 64 * 500, 4 * 1000 * 500
    found = predicted_bytes(net, *batch(data, 2), Recipe(), LOSS, 500)
    assert 4 * parameters < found < 4 * parameters + inputs + 4 * outputs
    assert found > 3 * parameters + inputs + 2 * outputs


def test_a_network_that_looks_at_numbers_is_computed_instead(data):
    class Looking(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, x):
            return self.layer(x.flatten(1)) * (2.0 if x.mean().item() > 0 else 1.0)

    net = Looking()
    before = {name: part.clone() for name, part in net.state_dict().items()}
    predicted = predicted_bytes(net, *batch(data, 3), Recipe(), LOSS, 128)
    assert predicted == pytest.approx(measured_bytes(net, *batch(data, 128), Recipe(), LOSS), rel=0.15)
    assert all(torch.equal(before[name], part) for name, part in net.state_dict().items())
    assert all(part.grad is None for part in net.parameters())


def test_what_does_not_fit_is_refused_in_words(data):
    model = MemoryModel.calibrated(pf.nets.build("mlp", data), *batch(data, 32), Recipe(), LOSS)
    assert model.scale == pytest.approx(1.0, abs=0.15)
    assert 0.5 * free_memory(torch.device("cpu")) < model.cap < free_memory(torch.device("cpu"))
    assert model.refusal(1e6) == ""
    assert MemoryModel(2**20).refusal(2**20) == ""
    refused = MemoryModel(2**20).refusal(2**24)
    assert "about 16 MiB to train, of 1 MiB" in refused
    assert ran_out_of_memory(refused)
    assert MemoryModel(2**20, 1.5).refusal(2**20)


def test_data_that_processes_cannot_share_are_refused(data, monkeypatch):
    check_shared_memory(data)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**18))
    with pytest.raises(MemoryBudgetError, match=r"of shared memory; got 0 MiB in /dev/shm .*--shm-size"):
        check_shared_memory(data)


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", True),
        (
            "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes",
            True,
        ),
        ("MemoryError", True),
        ("the worker process died by signal SIGKILL; out of memory is a common cause", True),
        ("the worker process died by signal SIGSEGV", False),
        ("ValueError: boom", False),
    ],
)
def test_words_of_failures(failure, told):
    assert ran_out_of_memory(failure) is told
