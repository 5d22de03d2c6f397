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


def small_convnet():
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 5)
    return nn.Sequential(*layers).eval()


PIXELS = (torch.tensor(0.5), torch.tensor(0.5), (0.0, 1.0))


@pytest.mark.parametrize("setting", [Langevin(3, 5.0, 0), Langevin(3, 50.0, 0, 0.01), Langevin(3, 5.0, 0, None, False)])
@pytest.mark.parametrize("by_class", [False, True])
def test_fused_kernels_run_the_same_chains(setting, by_class):
    score = Score(small_convnet(), torch.arange(12) % 5 if by_class else None)
    start = torch.rand(12, 1, 8, 8, generator=seeded())
    kept = start.clone()
    plain, fused = (langevin(score, start, setting, Space(*PIXELS), fused=way) for way in (False, True))
    assert torch.allclose(plain.inputs, fused.inputs, atol=1e-5)
    assert float(plain.gradient) == pytest.approx(float(fused.gradient), rel=1e-4)
    assert float(plain.reach) == pytest.approx(float(fused.reach), rel=1e-4)
    assert torch.equal(start, kept)


def test_noise_of_fused_kernels_has_its_deviation_and_its_seed():
    network = small_convnet()
    for parameter in network.parameters():
        parameter.data.zero_()
    start = torch.full((400, 1, 8, 8), 0.5)
    setting = Langevin(4, 1.0, 0.1, clamp_inputs=False)
    first, again, other = (
        langevin(Score(network), start, setting, Space(*PIXELS), seeded(seed), fused=True).inputs for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float((first - 0.5).std()) == pytest.approx(0.5 * 0.1 * 2, rel=0.02)
    assert float((first - 0.5).mean()) == pytest.approx(0, abs=0.003)


@pytest.mark.parametrize("where", ["chain", "weight"])
@pytest.mark.parametrize(
    "setting", [Langevin(2, 1.0, 0.1), Langevin(2, 1.0, 0.0, 0.01), Langevin(2, clamp_inputs=False)]
)
def test_fused_kernels_do_not_hide_lost_chains(where, setting):
    network, start = small_convnet(), torch.rand(12, 1, 8, 8)
    if where == "chain":
        start[5, 0, 2, 3] = math.nan
    else:
        network[0].weight.data[1, 0, 1, 1] = math.nan
    assert not torch.isfinite(langevin(Score(network), start, setting, Space(*PIXELS), fused=True).reach)
