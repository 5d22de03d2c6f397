import torch
from torch import nn

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
