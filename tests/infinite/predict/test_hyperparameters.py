"""Gradients of the marginal likelihood against finite differences; chosen values against a grid and against truth."""

import itertools
import math

import pytest
import torch
from torch import nn

from pluriform.errors import ConfigError, SingularKernelError, UnsupportedOpError
from pluriform.gaussian_process.evidence import log_evidence
from pluriform.infinite.kernel_function import kernel_of
from pluriform.infinite.predict import hyperparameters
from pluriform.infinite.predict.hyperparameters import evidence_of, maximise_evidence


class Mlp(nn.Module):
    def __init__(self, inputs=2):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(inputs, 8), nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, x):
        return self.c(torch.relu(self.b(torch.erf(self.a(x)))))


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 3), nn.GELU(), nn.Flatten(),
        nn.Linear(4, 1, bias=False),
    )  # fmt: skip


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("net", "parameterization", "kernel"),
    [("mlp", "ntk", "nngp"), ("mlp", "ntk", "ntk"), ("mlp", "standard", "ntk"), ("convolutional", "ntk", "ntk")],
)
def test_gradients_are_finite_differences_of_kernels_of_plain_numbers(net, kernel, parameterization, monkeypatch):
    monkeypatch.setattr(hyperparameters, "TILE_ENTRIES", 16 if net == "mlp" else 21_000)  # Ragged tiles of side 4.
    module, x = (Mlp(), draw(11, 2)) if net == "mlp" else (convolutional(), draw(11, 1, 6, 6))
    y = torch.stack([x.flatten(1).sum(1).sin(), x.flatten(1)[:, 0]], 1)
    point = {"weight_var": 1.7, "bias_var": 0.3, "ridge": 0.05}

    def value(weight_var, bias_var, ridge):
        function = kernel_of(module, x, weight_var=weight_var, bias_var=bias_var, parameterization=parameterization)
        record = function(x)
        return float(log_evidence(getattr(record, kernel), y, ridge, free_amplitude=True))

    found = evidence_of(module, x, y, kernel=kernel, parameterization=parameterization, **point)
    assert found.value == pytest.approx(value(**point), rel=1e-10)
    for name, at in point.items():
        up, down = ({**point, name: at * (1 + step)} for step in (1e-5, -1e-5))
        numeric = (value(**up) - value(**down)) / (2e-5 * at)
        assert getattr(found, name) == pytest.approx(numeric, rel=1e-5, abs=1e-6)


def test_the_slope_in_the_bias_is_right_at_no_bias():
    x = draw(9, 2)
    y = x.sum(1, keepdim=True).sin()
    found = evidence_of(Mlp(), x, y, bias_var=0.0)
    step = 1e-6
    values = [evidence_of(Mlp(), x, y, bias_var=at).value for at in (0.0, step, 2 * step)]
    assert found.bias_var == pytest.approx((4 * values[1] - 3 * values[0] - values[2]) / (2 * step), rel=1e-3)


def test_the_maximum_beats_a_grid():
    x = draw(40, 2)
    y = (2 * x[:, :1]).sin() + 0.1 * draw(40, 1, seed=1)
    y = y - y.mean()
    best = maximise_evidence(Mlp(), x, y, evaluations=20)
    grid = [
        evidence_of(Mlp(), x, y, weight_var=w, bias_var=b, ridge=r).value
        for w, b, r in itertools.product((0.5, 8.0), (1e-3, 2.0), (1e-3, 0.3))
    ]
    assert best.log_marginal_likelihood > max(grid)
    assert best.evaluations <= 25
    chosen = {"weight_var": best.weight_var, "bias_var": best.bias_var, "ridge": best.ridge}
    assert evidence_of(Mlp(), x, y, **chosen).value == pytest.approx(best.log_marginal_likelihood)


def test_the_noise_of_targets_drawn_from_the_process_is_found():
    x = draw(150, 2)
    gram = kernel_of(Mlp(), x, weight_var=3.0, bias_var=0.5)(x, ntk=False).nngp
    noise = 0.1 * float(gram.diagonal().mean())
    factor = torch.linalg.cholesky(gram + noise * torch.eye(150))
    y = factor @ draw(150, 5, seed=2)
    best = maximise_evidence(Mlp(), x, y, weight_var=3.0, evaluations=15)
    truth = evidence_of(Mlp(), x, y, weight_var=3.0, bias_var=0.5, ridge=0.1)
    assert best.log_marginal_likelihood >= truth.value - 0.01
    assert abs(math.log(best.ridge / 0.1)) < 0.25


def test_bad_input_is_refused():
    x, y = draw(6, 2), draw(6, 1)
    with pytest.raises(ConfigError, match="finite variances of 0 or more"):
        evidence_of(Mlp(), x, y, weight_var=-1.0)
    with pytest.raises(ConfigError, match="1 evaluation or more; got 0"):
        maximise_evidence(Mlp(), x, y, evaluations=0)
    with pytest.raises(SingularKernelError, match="relative ridge 0"):
        evidence_of(Mlp(), x[[0, 0, 1]], y[:3], ridge=0.0)
    with pytest.raises(UnsupportedOpError):
        evidence_of(nn.Sequential(nn.Linear(2, 4), nn.Softmax(1), nn.Linear(4, 1)), x, y)
