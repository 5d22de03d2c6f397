import copy
import os
import signal

import pytest
import torch
from torch import nn

from pluriform.data.data import Data, Split
from pluriform.graph.parameters import weights_of
from pluriform.runs import Run
from pluriform.training import step as step_file
from pluriform.training.augmentation import Augmentation
from pluriform.training.feed import Batch, Feed
from pluriform.training.loop import Loop
from pluriform.training.loss import Loss
from pluriform.training.recipe import Recipe
from pluriform.training.step import training_step

CPU = torch.device("cpu")
LOSS = Loss("classification")
RECIPE = Recipe(batch_size=64, clip_norm=1.0)


@pytest.fixture(params=["fused", "library"])
def way(request, monkeypatch):
    monkeypatch.setattr(step_file, "LEAST_MULTIPLICATIONS", 0 if request.param == "fused" else float("inf"))
    return request.param


@pytest.fixture
def fused(monkeypatch):
    monkeypatch.setattr(step_file, "LEAST_MULTIPLICATIONS", 0)


def chain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(96, 10))


def feed_of(data, batch_size=64):
    return Feed(data, batch_size, 0, Augmentation(), CPU)


def is_fused(net, data, loss=LOSS, recipe=RECIPE):
    feed = feed_of(data)
    found = training_step(net, loss, feed, recipe, 1)(next(feed.batches(0)))
    return type(found.grad_fn).__name__.startswith("_FusedLoss")


def gradients(net, loss):
    net.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in net.parameters() if parameter.requires_grad]


@pytest.mark.parametrize("samples", [2, 31, 64, 96, 100])
def test_loss_and_gradients_are_those_of_the_library(digits, fused, samples):
    net, feed = chain().train(), feed_of(digits)
    net[0].bias.requires_grad_(False)
    batch = Batch(digits.train.inputs[:samples], digits.train.targets[:samples])
    loss, expected = training_step(net, LOSS, feed, RECIPE, 1)(batch), LOSS(net(batch.inputs), batch.targets)
    assert type(loss.grad_fn).__name__.startswith("_FusedLoss")
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for ours, theirs in zip(gradients(net, loss), gradients(net, expected), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    assert net[0].bias.grad is None


def test_regression_too(fused):
    generator = torch.Generator().manual_seed(0)
    split = Split(torch.randn(64, 1, 6, 6, generator=generator), torch.randn(64, 3, generator=generator))
    data, loss = Data("noise", "regression", split, split, split), Loss("regression")
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3))
    feed = feed_of(data)
    batch = next(feed.batches(0))
    found = training_step(net, loss, feed, RECIPE, 1)(batch)
    assert type(found.grad_fn).__name__.startswith("_FusedLoss")
    assert found.item() == pytest.approx(loss(net(batch.inputs), batch.targets).item(), rel=1e-5)


def test_targets_of_another_type_go_to_the_library(fused):
    split = Split(torch.randn(64, 1, 6, 6), torch.randn(64, 3, dtype=torch.float64))
    data, loss = Data("noise", "regression", split, split, split), Loss("regression")
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3))
    assert not is_fused(net, data, loss)


def test_what_the_kernels_do_not_compute_goes_to_the_library(digits, fused):
    assert is_fused(chain(), digits)
    assert not is_fused(chain(), digits, Loss("classification", smoothing=0.1))
    assert not is_fused(chain(), digits, Loss("classification", weights=torch.ones(10)))
    assert not is_fused(chain(), digits, recipe=Recipe(precision="bf16"))
    assert not is_fused(nn.Sequential(*chain()[:2], nn.BatchNorm2d(4), *chain()[2:]), digits)
    assert not is_fused(nn.Sequential(*chain()[:2], nn.Dropout(0.5), *chain()[2:]), digits)
    assert not is_fused(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), digits)


def test_a_short_training_or_a_large_network_goes_to_the_library(digits, monkeypatch):
    assert not is_fused(chain(), digits)
    monkeypatch.setattr(step_file, "LEAST_MULTIPLICATIONS", 0)
    monkeypatch.setattr(step_file, "MOST_MULTIPLICATIONS", 1000)
    assert not is_fused(chain(), digits)


def test_modes_are_restored_and_the_library_gets_channels_last(digits, way):
    net, feed = chain(), feed_of(digits)
    net[1].eval()
    modes = [part.training for part in net.modules()]
    training_step(net, LOSS, feed, RECIPE, 1)
    assert [part.training for part in net.modules()] == modes
    last = net[2].weight.is_contiguous(memory_format=torch.channels_last)
    assert last == (way == "library") == (feed.memory_format == torch.channels_last)


def loop_of(net, data, run=None, kill_at=None):
    feed, left = feed_of(data, 32), [kill_at]
    inner = training_step(net, LOSS, feed, RECIPE, 3)

    def step(batch):
        if left[0] is not None:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGINT)
        return inner(batch)

    return Loop(net, step, feed, RECIPE, seed=0, epochs=3, run=run)


def test_a_convolutional_training_goes_on_bit_for_bit(digits, tmp_path, way):
    whole, stopped, resumed = (copy.deepcopy(chain()) for _ in range(3))
    loop_of(whole, digits).run()
    assert all(tensor.is_contiguous() for tensor in weights_of(whole).values())
    with Run(tmp_path / "run", {}) as run:
        with pytest.raises(KeyboardInterrupt):
            loop_of(stopped, digits, run, kill_at=10).run()
        loop_of(resumed, digits, run).run()
    expected, found = weights_of(whole), weights_of(resumed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
