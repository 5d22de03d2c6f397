import copy
import math

import pytest
import torch
from torch import nn

from pluriform.energy.langevin import Langevin, langevin
from pluriform.energy.score import Score
from pluriform.energy.space import Space
from pluriform.graph.parameters import frozen


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def free(unit=1.0, middle=0.0):
    return Space(torch.tensor(middle), torch.tensor(unit), None)


def gaussian(state):
    """The standard one in two dimensions, up to a constant."""
    return -state.square().sum(1) / 2


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_a_gaussian_has_the_moments_of_its_temperature(temperature):
    step = 0.05
    setting = Langevin.at_temperature(step, temperature, steps=400)
    assert setting.temperature == pytest.approx(temperature)
    found = langevin(gaussian, torch.zeros(4000, 2), setting, free(), seeded()).inputs
    # x <- (1 - step) x + noise has the variance noise^2 / (1 - (1 - step)^2), which is T / (1 - step / 2).
    variance = temperature / (1 - step / 2)
    assert found.var(correction=0).item() == pytest.approx(variance, rel=5 * (2 / 8000) ** 0.5)
    assert found.mean().abs().item() < 5 * (variance / 8000) ** 0.5
    kurtosis = (found**4).mean() / variance**2
    assert kurtosis.item() == pytest.approx(3, rel=0.12)


def test_other_units_give_the_same_chain():
    network = nn.Sequential(nn.Linear(5, 16), nn.SiLU(), nn.Linear(16, 3))
    setting = Langevin(30, 0.7, 0.1, clamp_gradient=0.2)
    signed, pixels = (
        Space(torch.tensor(0.0), torch.tensor(1.0), (-1.0, 1.0)),
        Space(torch.tensor(0.5), torch.tensor(0.5), (0.0, 1.0)),
    )
    start = torch.rand(8, 5, generator=seeded()) * 2 - 1
    first = langevin(Score(network), start, setting, signed, seeded(3))
    score = Score(nn.Sequential(Shift(2.0, -1.0), network))
    second = langevin(score, (start + 1) / 2, setting, pixels, seeded(3))
    assert torch.allclose(second.inputs * 2 - 1, first.inputs, atol=1e-5)
    assert torch.allclose(second.gradient, first.gradient, rtol=1e-4)
    assert torch.allclose(second.reach, first.reach, atol=1e-5)


class Shift(nn.Module):
    """x to scale x + offset."""

    def __init__(self, scale, offset):
        super().__init__()
        self.scale, self.offset = scale, offset

    def forward(self, inputs):
        return inputs * self.scale + self.offset


def test_units_of_each_feature():
    unit = torch.tensor([1.0, 100.0])
    space = Space(torch.tensor([0.0, 7.0]), unit, None)
    setting, start = Langevin(20, 0.1, 0.3), torch.randn(6, 2, generator=seeded())
    first = langevin(gaussian, start, setting, free(), seeded(1)).inputs
    second = langevin(
        lambda x: gaussian((x - 7 * unit.gt(1)) / unit), start * unit + 7 * unit.gt(1), setting, space, seeded(1)
    )
    assert torch.allclose((second.inputs - 7 * unit.gt(1)) / unit, first, atol=1e-4)


def test_one_step_by_hand():
    start = torch.tensor([[0.5, -0.25], [1.0, 2.0]])
    found = langevin(gaussian, start, Langevin(1, 0.1, 0.0), free(unit=3.0))
    assert torch.allclose(found.inputs, start - 0.1 * 9 * start)
    assert float(found.gradient) == pytest.approx(3 * 5**0.5)
    assert float(found.reach) == pytest.approx(float((start - 0.9 * start).abs().max() / 3))
    clamped = langevin(gaussian, start, Langevin(1, 0.1, 0.0, clamp_gradient=0.6), free())
    assert torch.allclose(clamped.inputs, torch.tensor([[0.45, -0.225], [0.94, 1.94]]))


def test_no_steps_give_the_start():
    start = torch.randn(3, 2)
    found = langevin(gaussian, start, Langevin(0), free())
    assert torch.equal(found.inputs, start)
    assert found.inputs.data_ptr() != start.data_ptr()


def test_inputs_end_within_bounds_unless_that_is_off():
    space = Space(torch.tensor(0.5), torch.tensor(0.5), (0.0, 1.0))
    start = torch.full((4, 3), 0.9)
    climbing = langevin(lambda x: x.sum(1), start, Langevin(5, 1.0, 0.0), space)
    assert (climbing.inputs == 1).all()
    freely = langevin(lambda x: x.sum(1), start, Langevin(5, 1.0, 0.0, clamp_inputs=False), space)
    assert torch.allclose(freely.inputs, start + 5 * 0.25)


def test_the_start_weights_and_the_graph_stay_as_they_are():
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)).eval()
    network[0].weight.requires_grad_(False)
    network[3].weight.grad = torch.ones(3, 8)
    before, start = copy.deepcopy(network), torch.randn(5, 4)
    kept = start.clone()
    with frozen(network):
        found = langevin(Score(network), start, Langevin(3), free())
    assert torch.equal(start, kept)
    assert not start.requires_grad
    assert not found.inputs.requires_grad
    assert found.inputs.grad_fn is None
    assert [p.requires_grad for p in network.parameters()] == [False, True, True, True]
    assert [p.grad is None for p in network.parameters()] == [True, True, False, True]
    assert torch.equal(network[3].weight.grad, torch.ones(3, 8))
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), network.parameters(), strict=True))


def test_it_samples_inside_no_grad():
    network = nn.Linear(4, 3)
    with torch.no_grad():
        inside = langevin(Score(network), torch.ones(2, 4), Langevin(3, noise=0), free()).inputs
    outside = langevin(Score(network), torch.ones(2, 4), Langevin(3, noise=0), free()).inputs
    assert torch.equal(inside, outside)


def test_a_chain_does_not_depend_on_its_neighbours():
    network, start = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 3)), torch.randn(6, 4)
    setting = Langevin(10, 0.5, 0.0)
    together = langevin(Score(network), start, setting, free()).inputs
    alone = torch.cat([langevin(Score(network), part, setting, free()).inputs for part in start.split(1)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_lost_chains_are_told():
    start = torch.zeros(4, 2)
    start[2, 1] = math.nan
    found = langevin(gaussian, start, Langevin(1), Space(torch.tensor(0.0), torch.tensor(1.0), (-1.0, 1.0)))
    assert not torch.isfinite(found.gradient)
    assert not torch.isfinite(found.reach)


def test_the_largest_gradient_is_that_of_all_steps():
    found = langevin(gaussian, torch.full((1, 2), 10.0), Langevin(50, 0.1, 0.0), free())
    assert float(found.gradient) == pytest.approx(10 * 2**0.5)


def test_double_precision_stays_so():
    space = Space(torch.tensor(0.0).double(), torch.tensor(1.0).double(), (-1.0, 1.0))
    network = nn.Linear(4, 3).double()
    found = langevin(Score(network), torch.zeros(2, 4).double(), Langevin(4), space, seeded())
    assert found.inputs.dtype == torch.float64


@pytest.mark.parametrize(
    "change",
    [{"steps": -1}, {"step": 0.0}, {"step": math.nan}, {"noise": -0.1}, {"noise": math.inf}, {"clamp_gradient": 0.0}],
)
def test_settings_that_cannot_be(change):
    name = next(iter(change))
    with pytest.raises(ValueError, match=name):
        Langevin(**change)
