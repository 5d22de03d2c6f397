import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.evaluation.images import measure_translator_cost


class Convolution(nn.Module):
    """One 3x3 convolution, zero-padded."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.calls = []

    @torch.no_grad()
    def translate(self, content, style=None, *, seed=0):
        self.calls.append(len(content))
        return self.conv(content)


@pytest.mark.parametrize("count", [6, 60])
def test_costs_are_counted(count):
    images = torch.rand(count, 3, 8, 8)
    data = pf.load(images, images, task="translation", validation=0)
    form = Convolution()
    form.cost = {"training_seconds": 12.5}
    found = {(m.name, m.condition.get("batch")): m for m in measure_translator_cost(form, data).measures}
    assert found["parameters", None].value == 5 * 27 + 5
    assert found["macs", None].value == 8 * 8 * 5 * 27
    assert found["training_seconds", None].value == 12.5
    assert set(form.calls) == {1, 16}  # Also where there are fewer test images.
    for batch in (1, 16):
        assert found["latency", batch].value > 0
        assert found["latency", batch].unit == "ms"
    assert found["latency", 1].count >= 3


def test_without_convolutions_there_are_no_macs():
    images = torch.rand(10, 1, 8, 8)
    data = pf.load(images, images, task="translation", validation=0)
    form = Convolution()
    form.translate = lambda content: 1 - content
    names = {m.name for m in measure_translator_cost(form, data).measures}
    assert names == {"parameters", "latency"}
