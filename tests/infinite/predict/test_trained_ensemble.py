"""Finite networks trained by gradient descent beside the closed form."""

import itertools

import pytest
import torch
from torch import nn

from pluriform.infinite.kernel_function import kernel_of
from pluriform.infinite.predict.gradient_flow import gradient_flow, max_learning_rate

WIDTH, NETWORKS, WEIGHT_VAR, BIAS_VAR = 256, 60, 1.5, 0.1


def forward(parameters, x):
    """All networks at once, in the NTK parameterisation: (member, n, 1)."""
    x = x.expand(NETWORKS, *x.shape)
    for layer, (weight, bias) in enumerate(parameters):
        x = (WEIGHT_VAR / weight.shape[1]) ** 0.5 * x @ weight + BIAS_VAR**0.5 * bias
        x = torch.erf(x) if layer < 2 else x
    return x


@pytest.mark.slow
def test_mean_and_spread_of_trained_networks_at_two_times():
    generator = torch.Generator().manual_seed(0)
    x, new = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (8, 6))
    y = torch.sin(x.sum(1, keepdim=True))
    widths = (3, WIDTH, WIDTH, 1)
    parameters = [
        tuple(torch.randn(NETWORKS, *shape, generator=generator) for shape in ((a, b), (1, b)))
        for a, b in itertools.pairwise(widths)
    ]

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 1)

        def forward(self, x):
            return self.c(torch.erf(self.b(torch.erf(self.a(x)))))

    function = kernel_of(Network(), x, weight_var=WEIGHT_VAR, bias_var=BIAS_VAR)
    train, cross, own = function(x), function(new, x), function(new)
    rate = 0.2 * max_learning_rate(train.ntk, 1)
    for steps in (10, 90):
        for _ in range(steps):
            for pair in parameters:
                for tensor in pair:
                    tensor.requires_grad_(True)
            loss = ((forward(parameters, x.float()) - y.float()) ** 2).sum() / (2 * y.numel())
            gradients = iter(torch.autograd.grad(loss, [tensor for pair in parameters for tensor in pair]))
            parameters = [tuple((t - rate * next(gradients)).detach() for t in pair) for pair in parameters]
        outputs = forward(parameters, new.float())[..., 0].double()
        flow = gradient_flow(train.nngp, train.ntk, y, time=rate * (10 if steps == 10 else 100))
        mean = flow.mean(cross.ntk)[:, 0]
        spread = flow.variance(cross.ntk, cross.nngp, own.variance1).sqrt()
        assert ((outputs.mean(0) - mean).abs() < 4 * spread / NETWORKS**0.5 + 0.03).all()
        assert ((outputs.std(0) / spread - 1).abs() < 0.3).all()
