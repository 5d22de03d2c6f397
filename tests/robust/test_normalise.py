"""The layer in front of a network that wants normalised inputs."""

import pytest
import torch

from pluriform.errors import ConfigError
from pluriform.robust.normalise import IMAGENET_MEAN, IMAGENET_STD, Normalise


def test_each_channel_is_shifted_and_scaled_by_its_own():
    x = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    y = Normalise()(x)
    for channel in range(3):
        expected = (x[:, channel] - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
        torch.testing.assert_close(y[:, channel], expected)
    assert torch.equal(Normalise([0.5], [0.5])(x), 2 * x - 1)


def test_inputs_at_the_edge_of_the_box_keep_their_gradient():
    x = torch.tensor([0.0, 1.0, -0.1]).view(1, 3, 1, 1).requires_grad_()
    Normalise([0.5], [0.25])(x).sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [4.0, 4.0, 4.0]


def test_it_has_nothing_to_train():
    assert not list(Normalise().parameters())
    assert list(Normalise().state_dict()) == ["mean", "std"]


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ([123.7, 116.3, 103.5], [58.4, 57.1, 57.4]),
        ([0.5, 0.5], [0.5]),
        ([], []),
        ([0.5], [0.0]),
        ([0.5], [-1.0]),
        ([float("nan")], [1.0]),
        ([0.5], [float("inf")]),
    ],
)
def test_figures_of_other_inputs_are_refused(mean, std):
    with pytest.raises(ConfigError, match=r"inputs in \[0, 1\]"):
        Normalise(mean, std)
