import pytest
import torch
from torch import nn

from pluriform.errors import ConfigError, ShapeError
from pluriform.translate.fadain import fadain
from pluriform.translate.normalisation import NORMS, InstanceNorm, JointNorm, recommended_norm, trunk_norm


@pytest.mark.parametrize(("norm", "axes"), [(InstanceNorm(), (2, 3)), (JointNorm(), (1, 2, 3))])
def test_against_the_definition(norm, axes):
    x = torch.randn(3, 4, 5, 6, dtype=torch.double) * 2 + torch.arange(4.0).view(4, 1, 1)
    centred = x - x.mean(axes, keepdim=True)
    torch.testing.assert_close(norm(x), centred / (centred.square().mean(axes, keepdim=True) + 1e-5).sqrt())


@pytest.mark.parametrize("kind", NORMS)
def test_none_has_parameters(kind):
    assert not list(trunk_norm(kind, 4).parameters())


def style_swap(kind):
    """How much of the output of a norm after FAdaIN changes with the style, at batch 1."""
    generator = torch.Generator().manual_seed(0)
    x, one, two = torch.randn(3, 1, 8, 16, 16, generator=generator).unbind()
    two = two * torch.linspace(0.3, 3, 8).view(8, 1, 1) + torch.linspace(-2, 2, 8).view(8, 1, 1)
    norm = trunk_norm(kind, 8)
    first, second = norm(fadain(x, one)), norm(fadain(x, two))
    return float((first - second).norm() / first.norm())


def test_at_batch_one_only_the_joint_norm_keeps_the_style():
    assert style_swap("batch") < 1e-3
    assert style_swap("instance") < 1e-3
    assert style_swap("joint") > 0.5
    assert [recommended_norm(batch) for batch in (1, 3, 4)] == ["joint", "joint", "batch"]


def test_joint_norm_of_a_sample_does_not_depend_on_the_batch_or_the_mode():
    norm, x = JointNorm(), torch.randn(4, 3, 5, 5)
    torch.testing.assert_close(norm(x)[:1], norm.eval()(x[:1]))


def test_batch_norm_can_span_devices():
    spanning = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(trunk_norm("batch", 4)))
    assert isinstance(spanning[0], nn.SyncBatchNorm)


def test_one_position_and_other_kinds_are_refused():
    with pytest.raises(ShapeError, match="at least 2 positions a channel for instance norm; got 1x1"):
        InstanceNorm()(torch.zeros(2, 3, 1, 1))
    with pytest.raises(ConfigError, match="batch, instance, joint; got 'layer'"):
        trunk_norm("layer", 3)
