import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm

import pluriform as pf
from pluriform.training.average import MovingAverage


def test_it_follows_the_formula_and_gives_the_weights_back():
    net = nn.BatchNorm1d(2)
    average = MovingAverage(net, 0.5)
    expected = torch.zeros(2)
    net.bias.data.zero_()
    for step in range(6):
        net.bias.data.fill_(step + 1.0)
        net.num_batches_tracked.fill_(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step + 1.0)
        average.update(step)
    with average.applied() as weights:
        assert torch.allclose(net.bias, expected)
        assert torch.allclose(weights["bias"], expected)
        assert net.num_batches_tracked == 5
    assert net.bias.tolist() == [6.0, 6.0]


@pytest.mark.parametrize("norm", [parametrizations.spectral_norm, spectral_norm])
def test_averaged_weights_under_a_spectral_norm_have_norm_one(digits, norm):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), norm(nn.Linear(64, 64)), nn.ReLU(), norm(nn.Linear(64, 10)))
    form = pf.Training(epochs=20, batch_size=20, ema=0.999, learning_rate=1e-2).fit(net, digits)
    weights = [layer.weight for layer in form.module.modules() if isinstance(layer, nn.Linear)]
    assert [float(torch.linalg.matrix_norm(weight.detach(), 2)) for weight in weights] == pytest.approx(
        [1, 1], abs=0.05
    )
