"""Steps in parts give the loss and the gradients of whole ones, and trials fall back on them."""

import itertools

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.search import trial as trial_file
from pluriform.search.accumulation import accumulated
from pluriform.search.trial import Common, Task, run_trial
from pluriform.training.feed import Batch
from pluriform.training.recipe import Recipe


@pytest.mark.parametrize(("samples", "parts"), [(8, 2), (9, 4), (3, 4), (1, 2)])
def test_loss_and_gradients_are_those_of_the_whole_batch(samples, parts):
    torch.manual_seed(0)
    net, unused = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double(), nn.Parameter(torch.ones(2))
    net.register_parameter("unused", unused)
    batch = Batch(torch.randn(samples, 4).double(), torch.randint(3, (samples,)), torch.arange(samples))
    seen = []

    def step(part):
        seen.append(len(part.inputs))
        return {"loss": nn.functional.cross_entropy(net(part.inputs), part.targets)}

    whole = step(batch)["loss"]
    whole.backward()
    expected = [weight.grad.clone() for weight in net.parameters() if weight.grad is not None]
    net.zero_grad()
    found = accumulated(step, net, parts)(batch)
    (2.0 * found).backward()
    assert float(found.detach()) == pytest.approx(float(whole.detach()))
    got = [weight.grad for name, weight in net.named_parameters() if name != "unused"]
    assert all(torch.allclose(2.0 * one, other) for one, other in zip(expected, got, strict=True))
    assert sum(seen[1:]) == samples
    assert len(seen) == 1 + max(1, min(parts, samples // 2))


@pytest.fixture(scope="module")
def common():
    data = pf.load("digits", validation=0.2)
    return Common(pf.nets.build("mlp", data, seed=1), data, Recipe(learning_rate=1e-3), "cpu")


def test_a_batch_that_does_not_fit_is_halved(common, tmp_path, monkeypatch):
    real, tried = trial_file._measured, []

    def small_machine(task, *rest):
        tried.append(task.parts)
        if task.parts < 4:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(task, *rest)

    monkeypatch.setattr(trial_file, "_measured", small_machine)
    measured = run_trial(Task(0, str(tmp_path / "0"), epochs=2, seed=3), common)
    assert tried == [1, 2, 4]
    assert measured.figures["parts"] == 4
    monkeypatch.setattr(trial_file, "_measured", real)
    whole = run_trial(Task(0, str(tmp_path / "1"), epochs=2, seed=3), common)
    assert "parts" not in whole.figures
    assert whole.figures["loss"] == pytest.approx(measured.figures["loss"], rel=1e-4)  # no batch norm in it


def test_after_two_halvings_it_has_failed_and_other_errors_are_not_tried_again(common, tmp_path, monkeypatch):
    tried = []

    def failing(error):
        def never(task, *_):
            tried.append(task.parts)
            raise error

        return never

    monkeypatch.setattr(trial_file, "_measured", failing(torch.OutOfMemoryError("CUDA out of memory")))
    with pytest.raises(torch.OutOfMemoryError):
        run_trial(Task(0, str(tmp_path / "0"), epochs=1), common)
    assert tried == [1, 2, 4]
    tried.clear()
    monkeypatch.setattr(trial_file, "_measured", failing(ZeroDivisionError("a crash")))
    with pytest.raises(ZeroDivisionError):
        run_trial(Task(1, str(tmp_path / "1"), epochs=1), common)
    assert tried == [1]


def test_a_network_that_is_predicted_not_to_fit_is_tried_in_parts(common, tmp_path):
    network = trial_file.network_of(Task(0, ""), common).module
    sizes = [trial_file.bytes_of(network, common, parts) for parts in (1, 2, 4)]
    assert all(small < large for large, small in itertools.pairwise(sizes))
    measured = run_trial(Task(0, str(tmp_path / "0"), epochs=1, cap=(sizes[0] + sizes[1]) / 2), common)
    assert measured.figures["parts"] == 2
    assert measured.figures["bytes"] == sizes[1]
