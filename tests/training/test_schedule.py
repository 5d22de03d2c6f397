import pytest
import torch

from pluriform.training.schedule import learning_rate_factor


def factors(schedule, steps=100, warmup=0.0):
    return [learning_rate_factor(schedule, step, steps, warmup) for step in range(steps)]


def test_cosine_agrees_with_torch():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    oracle = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    expected = []
    for _ in range(100):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        oracle.step()
    assert factors("cosine") == pytest.approx(expected, abs=1e-9)


def test_step_and_constant():
    assert factors("step")[::25] == pytest.approx([1, 1, 0.1, 0.01])
    assert set(factors("constant")) == {1.0}


def test_warmup_rises_linearly_to_the_peak():
    found = factors("cosine", 100, 0.1)
    assert found[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert found[10] == 1.0
    assert found[-1] < 0.01


def test_one_cycle_rises_and_falls():
    found = factors("one-cycle")
    assert found[0] == pytest.approx(0.04)
    assert found[30] == 1.0
    assert all(0 < value <= 1 for value in found)
    assert found[:31] == sorted(found[:31])
    assert found[30:] == sorted(found[30:], reverse=True)


@pytest.mark.parametrize("schedule", ["cosine", "step", "constant", "one-cycle"])
def test_a_single_step_moves(schedule):
    assert learning_rate_factor(schedule, 0, 1, 0.05) > 0
