import errno

import pytest
import torch
from torch import nn

from pluriform.errors import CorruptFileError, RunError
from pluriform.runs import Run
from pluriform.training.checkpoint import (
    Checkpoint,
    load_weights,
    optimizer_tensors,
    random_state,
    restore_optimizer,
    restore_random_state,
)

FILE = "checkpoint/training.safetensors"


@pytest.fixture
def run(tmp_path):
    with Run(tmp_path / "run", {}) as opened:
        yield opened


@pytest.fixture
def checkpoint():
    return Checkpoint({"weights/0.bias": torch.ones(3), "random/cpu": torch.zeros(2)}, {"epoch": 4, "sum": 0.1})


def test_it_comes_back(run, checkpoint):
    checkpoint.write(run, FILE)
    again = Checkpoint.read(run, FILE)
    assert again.state == checkpoint.state
    assert torch.equal(again.part("weights")["0.bias"], torch.ones(3))
    assert again.part("weights").keys() == {"0.bias"}


def test_a_full_disk_leaves_the_last_good_one(run, checkpoint, monkeypatch):
    checkpoint.write(run, FILE)

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pluriform.runs.save_file", full)
    with pytest.raises(RunError, match=r"No space left.*last good checkpoint is intact"):
        Checkpoint({"weights/0.bias": torch.zeros(3)}, {"epoch": 5}).write(run, FILE)
    assert Checkpoint.read(run, FILE).state["epoch"] == 4
    assert [path.name for path in (run.path / "checkpoint").iterdir()] == ["training.safetensors"]


def test_damage_is_reported(run, checkpoint):
    checkpoint.write(run, FILE)
    path = run.path / FILE
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CorruptFileError, match=r"training\.safetensors.*delete this file"):
        Checkpoint.read(run, FILE)
    run.write_tensors(FILE, {"a": torch.ones(1)})
    with pytest.raises(CorruptFileError, match=r"expected a checkpoint of this training.*delete this file"):
        Checkpoint.read(run, FILE)


def test_weights_must_be_those_of_the_network():
    net = nn.Linear(2, 2)
    load_weights(net, {"weight": torch.ones(2, 2), "bias": torch.ones(2)})
    assert (net.weight == 1).all()
    with pytest.raises(KeyError, match="bias"):
        load_weights(net, {"weight": torch.ones(2, 2)})


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_an_optimizer_goes_on_where_it_was(kind):
    def made():
        net = nn.Linear(3, 3)
        nn.init.ones_(net.weight)
        nn.init.ones_(net.bias)
        if kind == "sgd":
            return net, torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        return net, torch.optim.AdamW(net.parameters(), lr=0.1, fused=True)

    def step(net, optimizer):
        optimizer.zero_grad()
        net(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()

    (net, optimizer), (other, fresh) = made(), made()
    step(net, optimizer)
    step(net, optimizer)
    load_weights(other, dict(net.named_parameters()))
    restore_optimizer(fresh, {name: t.clone() for name, t in optimizer_tensors(optimizer).items()})
    step(net, optimizer)
    step(other, fresh)
    assert torch.equal(net.weight, other.weight)


def test_random_draws_go_on_where_they_were():
    cpu = torch.device("cpu")
    with torch.random.fork_rng(devices=[]):
        state = random_state(cpu)
        first = torch.rand(3)
        restore_random_state(cpu, state)
        assert torch.equal(first, torch.rand(3))
