"""The geometry of a threat, and what is said about impossible ones."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pluriform.attacks.threat import Threat, check_scale, resolve_threat
from pluriform.errors import BoundsError, ConfigError


@given(st.sampled_from(["linf", "l2", "l1"]), st.floats(0.001, 2), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_projection_lands_inside_and_keeps_what_is_inside(norm, eps, seed):
    generator = torch.Generator().manual_seed(seed)
    threat = Threat(norm, eps, (0, 1))
    x = torch.rand(5, 3, 4, generator=generator)
    moved = threat.project(x + 3 * torch.randn(5, 3, 4, generator=generator), x)
    threat.check(moved, x)
    torch.testing.assert_close(threat.project(moved, x), moved, atol=1e-6, rtol=0)


def test_l2_projection_is_the_nearest_point_of_the_ball():
    x, far = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])
    assert Threat("l2", 1.0, (-9, 9)).project(far, x)[0].tolist() == pytest.approx([0.6, 0.8])
    assert Threat("linf", 1.0, (-9, 9)).project(far, x)[0].tolist() == [1, 1]


def test_steepest_steps_have_unit_norm_also_for_tiny_gradients():
    gradient = torch.randn(4, 7, generator=torch.Generator().manual_seed(0)) * 1e-30
    assert Threat("l2", 1).steepest(gradient).norm(dim=1).tolist() == pytest.approx([1] * 4)
    assert Threat("l2", 1).steepest(torch.zeros(2, 7)).abs().max() == 0
    assert Threat("linf", 1).steepest(gradient).abs().unique().tolist() == [1]


def test_l1_steps_are_the_largest_hundredth():
    gradient = torch.randn(4, 3, 100, generator=torch.Generator().manual_seed(0))
    step = Threat("l1", 1).steepest(gradient).flatten(1)
    assert step.ne(0).sum(1).tolist() == [3] * 4
    assert step.abs().sum(1).tolist() == pytest.approx([1] * 4)
    assert Threat("l1", 1).steepest(gradient[:, :, :4]).flatten(1).abs().amax(1).tolist() == [1] * 4
    assert Threat("l1", 1).steepest(gradient[:0]).shape == (0, 3, 100)


def test_the_l1_norm_is_held_against_its_radius():
    x = torch.full((1, 4), 0.5)
    threat = Threat("l1", 0.4, (0, 1))
    threat.check(x + 0.1, x)
    with pytest.raises(BoundsError, match=r"within l1 0.4 and bounds 0..1; got l1 0.40004"):
        threat.check(x + 0.10001, x)


@pytest.mark.parametrize("value", [0.7, 0.39, float("nan")])
def test_a_faulty_perturbation_is_refused(value):
    with pytest.raises(BoundsError, match=r"expected perturbed inputs within linf 0.1 and bounds 0..1; got linf"):
        Threat("linf", 0.1, (0, 1)).check(torch.full((1, 4), value), torch.full((1, 4), 0.5))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("l0", 0.1), "expected norm 'linf', 'l2' or 'l1'; got norm 'l0'"),
        (("linf", -0.1), "expected a finite eps of at least 0; got eps -0.1"),
        (("linf", float("nan")), "expected a finite eps of at least 0; got eps nan"),
        (("linf", 0.1, (1, 0)), r"expected bounds \(lowest, highest\); got \(1, 0\)"),
        (("linf", 0.1, (0, float("nan"))), r"expected bounds \(lowest, highest\); got \(0, nan\)"),
    ],
)
def test_impossible_threats(arguments, words):
    with pytest.raises(ConfigError, match=words):
        Threat(*arguments)


@pytest.mark.parametrize(
    ("threat", "words"),
    [
        (Threat("linf", 8, (0, 1)), r"at most 1 for bounds 0..1 in linf; got eps 8 .*8/255 = 0.03137 may be meant"),
        (Threat("l2", 128, (0, 1)), "at most 28 for bounds 0..1 in l2; got eps 128"),
        (Threat("l1", 3060, (0, 1)), "at most 784 for bounds 0..1 in l1; got eps 3060"),
        (Threat("linf", 0.03, (0, 255)), "got eps 0.03, less than half a grey level .* 7.65 may be meant"),
    ],
)
def test_a_radius_in_the_wrong_scale_is_noticed(threat, words):
    with pytest.raises(ConfigError, match=words):
        check_scale(threat, 784)


@pytest.mark.parametrize(
    "threat",
    [
        Threat("linf", 8, (0, 255)),
        Threat("linf", 0.3, (0, 1)),
        Threat("l2", 5.0, (0, 1)),
        Threat("l1", 40, (0, 1)),
        Threat("linf", 0.1, (-100, 100)),
    ],
)
def test_usual_radii_pass(threat):
    check_scale(threat, 784)


def test_bounds_unknown_or_left_are_said():
    x = torch.rand(2, 3)
    with pytest.raises(BoundsError, match=r"expected a threat with bounds; got bounds None .*Threat\(norm"):
        resolve_threat(nn.Linear(3, 2), Threat("linf", 0.1), x)
    with pytest.raises(BoundsError, match=r"expected inputs in the bounds 0..1; got values .*normalisation belongs"):
        resolve_threat(nn.Linear(3, 2), Threat("linf", 0.1, (0, 1)), 255 * x + 1)
    with pytest.raises(BoundsError, match=r"expected finite bounds; got 0..inf .*give the lowest and the highest"):
        resolve_threat(nn.Linear(3, 2), Threat("linf", 0.1, (0, float("inf"))), x)
