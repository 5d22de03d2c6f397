import dataclasses

import pytest
import torch

from pluriform.data.data import Data, Split
from pluriform.energy import start as start_file
from pluriform.energy.space import Space
from pluriform.energy.start import UniformStart, fitted_start


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def of(inputs, targets, classes, bounds=None):
    part = Split(inputs, targets)
    return Data("toy", "classification", part, part, part, tuple("abcdef"[:classes]), bounds)


def covariance(start, label):
    """That of the fitted Gaussian, from its factor and the rest."""
    return start.factors[label].T @ start.factors[label] + torch.diag(start.rest[label].square())


def test_uniform_draws_fill_the_bounds():
    space = Space(torch.tensor(2.0), torch.tensor(3.0), (-1.0, 5.0))
    drawn = UniformStart(space, (2, 3)).draw(torch.zeros(5000, dtype=torch.int64), seeded())
    assert drawn.shape == (5000, 2, 3)
    assert drawn.min() >= -1
    assert drawn.max() <= 5
    assert float(drawn.mean()) == pytest.approx(2, abs=5 * 3 / 3**0.5 / 30000**0.5)
    assert float(drawn.var()) == pytest.approx(3, rel=0.03)


def test_draws_repeat_by_generator_and_leave_the_default_one_alone(table):
    labels, state = torch.arange(3), torch.get_rng_state()
    for start in (UniformStart(Space.of(table), (2,)), fitted_start(table, Space.of(table))):
        assert torch.equal(start.draw(labels, seeded(4)), start.draw(labels, seeded(4)))
        assert not torch.equal(start.draw(labels, seeded(4)), start.draw(labels, seeded(5)))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_gaussian_of_a_class_has_its_moments(table):
    space = Space.of(table)
    start = fitted_start(table, space)
    for label in range(3):
        own = table.train.inputs[table.train.targets == label].double()
        assert torch.allclose(start.means[label].double(), own.mean(0), rtol=1e-4)
        wanted = torch.cov(own.T, correction=0) + 1e-4 * torch.diag(space.unit.double().square())
        assert torch.allclose(covariance(start, label).double(), wanted, rtol=1e-3, atol=1e-3 * float(wanted.max()))
        drawn = start.draw(torch.full((20000,), label), seeded()).double()
        deviations = wanted.diagonal().sqrt()
        assert ((drawn.mean(0) - own.mean(0)).abs() < 5 * deviations / 20000**0.5).all()
        correlation = torch.corrcoef(drawn.T)[0, 1]
        assert float(correlation) == pytest.approx(float(wanted[0, 1] / deviations.prod()), abs=0.03)


@pytest.mark.parametrize(("samples", "features"), [(40, 300), (7, 20), (300, 200), (1, 5)])
def test_variances_are_kept_whatever_the_rank(samples, features):
    inputs = torch.randn(samples, features, generator=seeded()) @ torch.randn(features, features, generator=seeded(1))
    targets = torch.zeros(samples, dtype=torch.int64)
    space = Space(torch.tensor(0.0), torch.tensor(1.0), None)
    start = fitted_start(of(inputs, targets, 1), space)
    variance = inputs.double().var(0, correction=0) + 1e-4
    assert start.factors.shape == (1, min(128, features), features)
    assert torch.allclose(covariance(start, 0).diagonal().double(), variance, rtol=1e-3, atol=1e-3)


def test_the_axes_are_the_principal_ones_of_numpy():
    inputs = torch.randn(60, 200, generator=seeded()).double()
    axes = start_file._principal_axes((inputs - inputs.mean(0)).float()).double()
    wanted = torch.cov(inputs.T, correction=0)  # Rank 59, below the 128 that are kept.
    assert torch.allclose(axes.T @ axes, wanted, atol=1e-4)


def test_draws_of_classes_do_not_mix_and_keep_their_places(table):
    start = fitted_start(table, Space.of(table))
    labels = torch.tensor([2, 0, 1, 2, 0, 1] * 50)
    drawn = start.draw(labels, seeded())
    unit = torch.tensor([1.0, 100.0])
    distances = ((drawn[:, None] - start.means) / unit).norm(dim=2)
    assert (distances.gather(1, labels[:, None]).squeeze(1) < 5).all()
    assert float((distances.argmin(1) == labels).float().mean()) > 0.95


def test_draws_stay_within_bounds():
    inputs = torch.rand(50, 1, 3, 3, generator=seeded()).round()
    data = of(inputs, torch.zeros(50, dtype=torch.int64), 1, (0.0, 1.0))
    drawn = fitted_start(data, Space.of(data)).draw(torch.zeros(500, dtype=torch.int64), seeded())
    assert drawn.shape == (500, 1, 3, 3)
    assert drawn.min() == 0
    assert drawn.max() == 1


def test_a_class_without_samples_takes_those_of_all(table):
    data = dataclasses.replace(table, classes=("a", "b", "c", "d"))
    start = fitted_start(data, Space.of(data))
    assert torch.allclose(start.means[3], table.train.inputs.mean(0), rtol=1e-4)


def test_draws_have_the_type_of_the_data(table):
    double = Split(table.train.inputs.double(), table.train.targets)
    data = dataclasses.replace(table, train=double)
    labels = torch.tensor([0, 1])
    assert fitted_start(data, Space.of(data)).draw(labels).dtype == torch.float64
    bounded = Space.of(dataclasses.replace(data, bounds=(-1e4, 1e4)))
    assert UniformStart(bounded, (2,)).draw(labels).dtype == torch.float64
