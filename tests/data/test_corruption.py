import pytest
import torch

from pluriform.data.corruption import CORRUPTIONS, TABLE_CORRUPTIONS, corrupt
from pluriform.data.load import load
from pluriform.errors import BoundsError, ConfigError, ShapeError


@pytest.fixture(scope="module")
def pictures():
    digits = load("digits").test.inputs[:200]
    return torch.nn.functional.interpolate(digits, (28, 28), mode="bilinear")


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_distance_grows_with_severity(pictures, name):
    spoiled = [corrupt(pictures, name, severity, bounds=(0.0, 1.0), seed=1) for severity in range(1, 6)]
    distances = [float((one - pictures).flatten(1).norm(dim=1).mean()) for one in spoiled]
    assert distances[0] > 0
    assert distances == sorted(distances)
    assert distances[4] > 1.2 * distances[0]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_outputs_stay_in_bounds_in_other_units_and_leave_the_input(pictures, name):
    scaled = pictures * 6 - 3
    before = scaled.clone()
    spoiled = corrupt(scaled, name, 3, bounds=(-3.0, 3.0), seed=2)
    assert spoiled.shape == scaled.shape
    assert spoiled.dtype == scaled.dtype
    assert spoiled.min() >= -3
    assert spoiled.max() <= 3
    assert torch.equal(scaled, before)
    same = corrupt(pictures, name, 3, bounds=(0.0, 1.0), seed=2) * 6 - 3
    assert (spoiled - same).abs().mean() < 1e-2  # Rounding may tip a photon or a coded pixel.


@pytest.mark.parametrize("name", ["fog", "gaussian_noise", "impulse_noise", "rotate", "shift", "shot_noise"])
def test_the_seed_decides(pictures, name):
    first = corrupt(pictures, name, 2, bounds=(0.0, 1.0), seed=0)
    assert torch.equal(first, corrupt(pictures, name, 2, bounds=(0.0, 1.0), seed=0))
    assert not torch.equal(first, corrupt(pictures, name, 2, bounds=(0.0, 1.0), seed=1))


def test_the_global_generator_is_left_alone(pictures):
    before = torch.get_rng_state()
    for name in CORRUPTIONS:
        corrupt(pictures[:2], name, 1, bounds=(0.0, 1.0))
    assert torch.equal(before, torch.get_rng_state())


def test_noise_has_the_deviation_that_is_stated():
    grey = torch.full((50, 1, 32, 32), 0.5)
    assert float(corrupt(grey, "gaussian_noise", 1, bounds=(0.0, 1.0)).std()) == pytest.approx(0.08, rel=0.02)
    flipped = corrupt(grey, "impulse_noise", 5, bounds=(0.0, 1.0))
    assert float((flipped != 0.5).float().mean()) == pytest.approx(0.27, abs=0.01)
    shots = corrupt(grey, "shot_noise", 1, bounds=(0.0, 1.0))
    assert float(shots.std()) == pytest.approx((0.5 / 60) ** 0.5, rel=0.03)


def test_a_blur_spreads_a_point_by_its_deviation():
    point = torch.zeros(1, 1, 65, 65)
    point[..., 32, 32] = 1
    blurred = corrupt(point, "gaussian_blur", 2, bounds=(0.0, 1.0))[0, 0]
    squares = (torch.arange(65) - 32.0) ** 2
    assert float(blurred.sum()) == pytest.approx(1, abs=1e-4)
    assert float((blurred.sum(0) * squares).sum()) == pytest.approx((0.2 * 65**0.5) ** 2, rel=0.05)


def test_shifts_move_the_centre_of_mass_by_their_share():
    point = torch.zeros(20, 1, 50, 50)
    point[..., 24:26, 24:26] = 0.25
    moved = corrupt(point, "shift", 3, bounds=(0.0, 1.0))[:, 0]
    axis = torch.arange(50.0) - 24.5
    centre = torch.stack([(moved.sum(1) * axis).sum(1), (moved.sum(2) * axis).sum(1)], 1)
    torch.testing.assert_close(centre.norm(dim=1), torch.full((20,), 0.12 * 50), atol=0.05, rtol=0)


@pytest.mark.parametrize("name", TABLE_CORRUPTIONS)
def test_tables_have_their_own(name):
    rows = torch.randn(500, 4) * torch.tensor([1.0, 10.0, 100.0, 0.0])
    distances = [float((corrupt(rows, name, severity) - rows).abs().mean()) for severity in range(1, 6)]
    assert distances == sorted(distances)
    assert distances[0] > 0
    assert torch.equal(corrupt(rows, name, 5)[:, 3], rows[:, 3])


def test_bad_requests_by_their_words(pictures):
    with pytest.raises(ConfigError, match="expected one of brightness, contrast, .* for pictures; got 'snow'"):
        corrupt(pictures, "snow", 1, bounds=(0.0, 1.0))
    with pytest.raises(ConfigError, match="expected one of feature_dropout, gaussian_noise for tables; got 'fog'"):
        corrupt(torch.zeros(3, 2), "fog", 1)
    with pytest.raises(ConfigError, match="expected a severity of 1, 2, 3, 4 or 5; got 6"):
        corrupt(pictures, "fog", 6, bounds=(0.0, 1.0))
    with pytest.raises(BoundsError, match=r"got none \(fog\)"):
        corrupt(pictures, "fog", 1)
    with pytest.raises(ShapeError, match=r"got shape \(2, 3, 4\)"):
        corrupt(torch.zeros(2, 3, 4), "fog", 1, bounds=(0.0, 1.0))
    with pytest.raises(ShapeError, match="expected 1 or 3 channels; got 2"):
        corrupt(torch.zeros(1, 2, 8, 8), "jpeg", 1, bounds=(0.0, 1.0))
