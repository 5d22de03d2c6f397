"""The infinitely wide form on real digits and on a curve."""

import dataclasses

import psutil
import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.errors import ConfigError, MemoryBudgetError, SingularKernelError, UnsupportedOpError
from pluriform.forms import load_form
from pluriform.infinite import solve
from pluriform.infinite.fit import InfiniteWidth
from pluriform.infinite.latent_variance import DenseVariance, TiledVariance


@pytest.fixture(scope="module")
def digits():
    return pf.load("digits", seed=0)


@pytest.fixture(scope="module")
def mlp(digits):
    return pf.nets.build("mlp", digits)


@pytest.fixture(scope="module")
def form(digits, mlp):
    return InfiniteWidth().fit(mlp, digits, seed=0)


def curve(n=60, noise=0.1):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n + 400, 1, generator=generator) * 4 - 2
    y = 30 + 20 * torch.sin(2 * x) + 20 * noise * torch.randn(n + 400, 1, generator=generator)
    parts = [Split(x[a:b], y[a:b]) for a, b in ((0, n), (n, n + 100), (n + 100, n + 400))]
    return Data("curve", "regression", *parts)


def curve_net():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(1, 32), nn.Linear(32, 32), nn.Linear(32, 1)

        def forward(self, x):
            return self.c(torch.erf(self.b(torch.erf(self.a(x)))))

    return Net()


def ece(probabilities, labels):
    confidence, guess = probabilities.max(1)
    bins = (confidence * 15).long().clamp_max(14)
    hit = (guess == labels).float()
    gaps = [(confidence[bins == b] - hit[bins == b]).sum().abs() for b in range(15)]
    return float(sum(gaps)) / len(labels)


def test_digits_are_classified_well_and_honestly(form, digits):
    labels, prediction = digits.test.targets, form.predict(digits.test.inputs)
    assert (prediction.mean.argmax(1) == labels).float().mean() >= 0.98
    assert torch.nn.functional.nll_loss(prediction.mean.log(), labels) < 0.1
    assert ece(prediction.mean, labels) < 0.03
    assert form.cost["training_seconds"] > 0


def test_predictions_are_the_softmax_of_forward(form, digits):
    x = digits.test.inputs[:20]
    assert torch.equal(form.predict(x).mean, form(x).softmax(-1))
    assert torch.allclose(form(x).exp().sum(1), torch.ones(20))


def test_score_and_variance_know_what_is_new(form, digits):
    noise = torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    inside, outside = form.predict(digits.test.inputs[:50]), form.predict(noise)
    assert inside.score.min() > outside.score.median()
    assert outside.variance.mean() > 3 * inside.variance.mean()


def test_saved_forms_predict_the_same(form, digits, tmp_path):
    again = load_form(form.save(tmp_path / "form"))
    x = digits.test.inputs[:20]
    assert torch.equal(again.predict(x).mean, form.predict(x).mean)
    assert torch.equal(again.predict(x).variance, form.predict(x).variance)
    assert again.method == form.method
    assert again.cost == form.cost


def test_gradients_follow_finite_differences(form, digits):
    x = digits.test.inputs[:1].double()
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(form(x)[0, 3], x)
    with torch.no_grad():
        numeric = (form(x + 1e-5 * direction)[0, 3] - form(x - 1e-5 * direction)[0, 3]) / 2e-5
    assert float((gradient * direction).sum()) == pytest.approx(float(numeric), rel=1e-6)


@pytest.mark.parametrize(
    "method",
    [
        InfiniteWidth(kernel="nngp"),
        InfiniteWidth(time=30_000),
        InfiniteWidth(kernel="nngp", time=30000.0, samples=300),
    ],
)
def test_other_kernels_and_times_are_calibrated_too(method, digits, mlp):
    small = dataclasses.replace(digits, train=Split(*digits.train.batch(torch.arange(500))))
    form = method.fit(mlp, small, seed=0)
    labels, prediction = digits.test.targets, form.predict(digits.test.inputs)
    assert (prediction.mean.argmax(1) == labels).float().mean() > 0.85
    assert ece(prediction.mean, labels) < 0.08
    assert len(form.train_inputs) == (method.samples or 500)


def test_more_time_fits_the_training_set_better(digits, mlp):
    small = dataclasses.replace(digits, train=Split(*digits.train.batch(torch.arange(200))))
    errors = []
    for time in (0.0, 1e3, 1e5, None):
        form = InfiniteWidth(time=time, ridge=0.0).fit(mlp, small)
        latent = form.latent(small.train.inputs, variance=False).mean
        errors.append(float((latent - torch.nn.functional.one_hot(small.train.targets, 10) + 0.1).norm()))
    assert errors[0] == pytest.approx((200 * 0.9) ** 0.5)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-5


@pytest.mark.parametrize("kernel", ["ntk", "nngp"])
def test_regression_intervals_cover_what_they_say(kernel):
    data = curve()
    form = InfiniteWidth(kernel=kernel, weight_var=4.0, bias_var=0.3).fit(curve_net(), data)
    prediction, truth = form.predict(data.test.inputs), data.test.targets
    assert ((prediction.mean - truth) ** 2).mean().sqrt() < 3.0
    inside = ((prediction.mean - truth).abs() < 1.96 * prediction.variance.sqrt()).float().mean()
    assert 0.85 < inside <= 1.0
    far = form.predict(torch.tensor([[9.0], [0.0]]))
    assert far.variance[0] > 2 * far.variance[1]
    assert far.score[0] < far.score[1]


def test_too_many_samples_are_refused_before_any_kernel(digits, mlp, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 2**26})())
    with pytest.raises(
        MemoryBudgetError, match=r"9 float64 matrices of 1,294 x 1,294.*fit on at most 9\d\d samples: InfiniteWidth"
    ):
        InfiniteWidth(solver="dense").fit(mlp, digits)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 2**23})())
    with pytest.raises(MemoryBudgetError, match=r"1 float64 matrices of 1,294 x 1,294.*solver='nystrom'"):
        InfiniteWidth().fit(mlp, digits)
    with pytest.raises(MemoryBudgetError, match=r"9 float64 matrices"):
        InfiniteWidth(time=10.0).fit(mlp, digits)


def test_duplicates_without_a_ridge_are_named(digits, mlp):
    x, y = digits.train.batch(torch.tensor([*range(40), 7]))
    data = dataclasses.replace(digits, train=Split(x, y))
    with pytest.raises(SingularKernelError, match="equal inputs, samples 7 and 40, with ridge 0"):
        InfiniteWidth(ridge=0.0, kernel="nngp").fit(mlp, data)
    assert InfiniteWidth(kernel="nngp").fit(mlp, data).ridge > 0


def test_wrong_settings_and_networks_are_refused(digits, mlp):
    with pytest.raises(ConfigError, match="ridge of 0 or more; got -1"):
        InfiniteWidth(ridge=-1.0).fit(mlp, digits)
    with pytest.raises(ConfigError, match="samples of 1 or more; got 0"):
        InfiniteWidth(samples=0).fit(mlp, digits)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 10))
    with pytest.raises(UnsupportedOpError, match="use average pooling"):
        InfiniteWidth().fit(net, digits)


def test_a_small_convolutional_network_fits(digits):
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 10))
    form = InfiniteWidth(samples=60, kernel="nngp").fit(net, digits)
    assert (form.predict(digits.test.inputs[:60]).mean.argmax(1) == digits.test.targets[:60]).float().mean() > 0.6


def few(data, count):
    return dataclasses.replace(data, train=Split(*data.train.batch(torch.arange(count))))


@pytest.mark.parametrize("kernel", ["ntk", "nngp"])
def test_tiles_give_what_whole_matrices_give(digits, mlp, kernel, monkeypatch, tmp_path):
    monkeypatch.setattr(solve, "SIDE", 64)
    small, x = few(digits, 200), digits.test.inputs[:30]
    dense, tiled = (InfiniteWidth(kernel=kernel, solver=solver).fit(mlp, small) for solver in ("dense", "tiled"))
    assert tiled.ridge == dense.ridge
    assert tiled.scale == pytest.approx(dense.scale, rel=1e-6)
    assert torch.allclose(tiled.predict(x).mean, dense.predict(x).mean, atol=1e-6)
    assert torch.allclose(tiled.predict(x).variance, dense.predict(x).variance, rtol=1e-4, atol=1e-7)
    again = load_form(tiled.save(tmp_path / "form"))
    assert torch.equal(again.predict(x).variance, tiled.predict(x).variance)
    assert tiled.latent_variance.factor.numel() < 0.7 * 200**2


def test_tiles_are_taken_where_whole_matrices_do_not_fit(digits, mlp, monkeypatch):
    small = few(digits, 200)
    assert isinstance(InfiniteWidth().fit(mlp, small).latent_variance, DenseVariance)
    monkeypatch.setattr(solve, "SIDE", 64)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 2**20})())
    assert isinstance(InfiniteWidth().fit(mlp, small).latent_variance, TiledVariance)


@pytest.mark.parametrize("method", [
    InfiniteWidth(ridge=0.01), InfiniteWidth(ridge=0.01, kernel="nngp"), InfiniteWidth(ridge=0.01, time=3e4),
])  # fmt: skip
def test_with_all_samples_inducing_nystrom_is_exact(digits, mlp, method):
    small, x = few(digits, 120), digits.test.inputs[:30]
    exact = method.fit(mlp, small)
    nystrom = dataclasses.replace(method, solver="nystrom").fit(mlp, small)
    assert torch.allclose(nystrom.latent(x).mean, exact.latent(x).mean, atol=1e-5)
    wanted = exact.latent(x, variance=True).variance
    assert torch.allclose(nystrom.latent(x, variance=True).variance, wanted, rtol=1e-3, atol=1e-5)
    if method.time is None:
        assert nystrom.scale == pytest.approx(exact.scale, rel=1e-3)


def test_a_quarter_of_the_samples_inducing_classifies_nearly_as_well(form, digits, mlp):
    labels = digits.test.targets
    nystrom = InfiniteWidth(solver="nystrom", inducing=300).fit(mlp, digits, seed=0)
    prediction = nystrom.predict(digits.test.inputs)
    assert nystrom.train_inputs.shape == (300, 1, 8, 8)
    assert (prediction.mean.argmax(1) == labels).float().mean() >= 0.96
    assert ece(prediction.mean, labels) < 0.04
    noise = torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert nystrom.predict(noise).score.median() < prediction.score.min()


@pytest.mark.parametrize("kernel", ["ntk", "nngp"])
def test_nystrom_intervals_cover_what_they_say(kernel):
    data = curve(300)
    method = InfiniteWidth(kernel=kernel, weight_var=4.0, bias_var=0.3, solver="nystrom", inducing=30)
    prediction, truth = (form := method.fit(curve_net(), data)).predict(data.test.inputs), data.test.targets
    assert ((prediction.mean - truth) ** 2).mean().sqrt() < 3.0
    inside = ((prediction.mean - truth).abs() < 1.96 * prediction.variance.sqrt()).float().mean()
    assert 0.85 < inside <= 1.0
    far = form.predict(torch.tensor([[9.0], [0.0]]))
    assert far.variance[0] > 2 * far.variance[1]


def test_the_marginal_likelihood_chooses_variances_that_predict_better(tmp_path):
    data, net = curve(), curve_net()
    given, chosen = (
        InfiniteWidth(kernel="nngp", select=select).fit(net, data) for select in ("given", "marginal-likelihood")
    )
    assert (given.weight_var, given.bias_var) == (2.0, 0.0)
    assert chosen.bias_var < 0.01  # The curve is odd, as networks of erf units without biases are.
    assert 1e-4 < chosen.ridge < 0.1

    def nll(form):
        prediction = form.predict(data.test.inputs)
        normal = torch.distributions.Normal(prediction.mean, prediction.variance.sqrt())
        return float(-normal.log_prob(data.test.targets).mean())

    assert nll(chosen) < nll(given) - 0.05
    x = data.test.inputs[:5]
    again = load_form(chosen.save(tmp_path / "form"), module=net)
    assert torch.equal(again.predict(x).mean, chosen.predict(x).mean)


def test_what_a_solver_cannot_do_is_refused(digits, mlp):
    with pytest.raises(ConfigError, match=r"end of training.*got time=5.*solver='dense' or 'nystrom'"):
        InfiniteWidth(solver="tiled", time=5).fit(mlp, digits)
    with pytest.raises(ConfigError, match="tiled solver"):
        InfiniteWidth(solver="tiled").fit(curve_net(), curve())
    with pytest.raises(ConfigError, match="inducing of 1 or more; got 0"):
        InfiniteWidth(inducing=0)


@pytest.mark.parametrize("solver", ["dense", "tiled", "nystrom"])
def test_kernels_in_single_precision_classify_the_same(digits, mlp, solver):
    small, x = few(digits, 300), digits.test.inputs[:60]
    method = InfiniteWidth(solver=solver, inducing=100)
    double, single = (dataclasses.replace(method, precision=p).fit(mlp, small) for p in ("float64", "float32"))
    assert single.ridge >= 5e-6
    same = dataclasses.replace(method, ridge=single.ridge, precision="float64").fit(mlp, small)
    assert torch.allclose(single.predict(x).mean, same.predict(x).mean, atol=2e-3)
    assert torch.allclose(single.predict(x).variance, same.predict(x).variance, rtol=2e-2)
    assert (single.predict(x).mean.argmax(1) == double.predict(x).mean.argmax(1)).float().mean() > 0.96
    x.requires_grad_(True)
    assert torch.autograd.grad(single(x).sum(), x)[0].isfinite().all()


def test_automatic_precision_follows_the_network_and_the_ridge(digits):
    small = few(digits, 60)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    perceptron = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    for method, module, precision in (
        (InfiniteWidth(), net, "float32"),
        (InfiniteWidth(ridge=1e-12), net, "float64"),
        (InfiniteWidth(time=10), net, "float64"),
        (InfiniteWidth(precision="float64"), net, "float64"),
        (InfiniteWidth(), perceptron, "float64"),
    ):
        assert method.fit(module, small).method.precision == precision
