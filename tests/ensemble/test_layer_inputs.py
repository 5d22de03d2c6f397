"""What layers are called with."""

import pytest
import torch
from torch import nn

from pluriform.ensemble.layer_inputs import layer_inputs


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unused, self.last, self.first = nn.Linear(3, 3), nn.Linear(3, 2), nn.Linear(3, 3)

    def forward(self, x):
        return self.last(self.first(self.first(x).relu()))


def test_calls_come_in_order_with_their_inputs():
    torch.manual_seed(0)
    net, x = Twice(), torch.randn(4, 3)
    calls = layer_inputs(net, dict(net.named_children()), x)
    assert list(calls) == ["first", "last"]
    hidden = net.first(x).relu()
    assert [len(tensors) for tensors in calls.values()] == [2, 1]
    for found, expected in zip(calls["first"] + calls["last"], (x, hidden, net.first(hidden)), strict=True):
        assert torch.equal(found, expected)
    assert not any(layer._forward_pre_hooks for layer in net.modules())


def test_the_network_is_left_without_hooks_after_an_error():
    net = Twice()
    with pytest.raises(RuntimeError, match="shapes"):
        layer_inputs(net, {"first": net.first}, torch.randn(4, 5))
    assert not net.first._forward_pre_hooks
