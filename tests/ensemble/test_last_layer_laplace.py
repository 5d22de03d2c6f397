"""Last-layer Laplace: curvature, evidence and draws against autograd, closed forms, sampling and laplace-torch."""

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pluriform as pf
from pluriform.data.data import Split
from pluriform.ensemble.laplace import PRECISIONS, Posterior, full_curvature, kronecker_curvature, likelihood_curvature
from pluriform.ensemble.last_layer import find_last_layer
from pluriform.ensemble.last_layer_laplace import LastLayerLaplace
from pluriform.errors import ConfigError, GraphError
from pluriform.ordinary import Training
from pluriform.training.recipe import Recipe

QUICK = Recipe(epochs=5)


@pytest.fixture(scope="module")
def data():
    return pf.load("digits", seed=0)


@pytest.fixture(scope="module")
def form(data):
    return LastLayerLaplace(members=20, training=QUICK).fit(pf.nets.build("mlp", data, seed=1), data, seed=2)


def problem(bias=True, outputs=3, size=4, samples=60):
    """A softmax regression: layer, inputs, features with the constant, labels."""
    torch.manual_seed(0)
    layer = nn.Linear(size, outputs, bias=bias).double()
    x = torch.randn(samples, size).double() @ torch.randn(size, size).double()
    labels = torch.randint(outputs, (samples,))
    features = torch.cat([x, torch.ones(samples, 1)], 1) if bias else x
    return layer, x, features, labels


def rebuilt(curvature):
    if curvature.basis is not None:
        return curvature.basis @ curvature.values.diag() @ curvature.basis.T
    vectors = torch.kron(curvature.left, curvature.right)
    return vectors @ curvature.values.flatten().diag() @ vectors.T


@pytest.mark.parametrize("bias", [True, False])
def test_full_curvature_is_the_hessian_of_autograd(bias):
    """For a linear softmax model the Gauss-Newton matrix is the Hessian."""
    layer, x, features, labels = problem(bias)
    weights = find_last_layer(layer, x, True).weights

    def loss(flat):
        return F.cross_entropy(features @ flat.view(weights.shape).T, labels, reduction="sum")

    expected = torch.autograd.functional.hessian(loss, weights.flatten())
    found = full_curvature(features.split(25), weights, None)
    assert torch.allclose(rebuilt(found), expected, atol=1e-9)


def test_kronecker_is_exact_where_all_probabilities_are_equal():
    layer, x, features, _ = problem()
    weights = torch.zeros_like(find_last_layer(layer, x, True).weights)
    full = rebuilt(full_curvature([features], weights, None))
    assert torch.allclose(rebuilt(kronecker_curvature(features.split(25), weights, None)), full, atol=1e-9)
    weights = find_last_layer(layer, x, True).weights
    apart = rebuilt(kronecker_curvature([features], weights, None)) - rebuilt(full_curvature([features], weights, None))
    assert apart.norm() > 0.05 * full.norm()


def test_kronecker_is_exact_in_regression():
    layer, x, features, _ = problem()
    weights, noise = find_last_layer(layer, x, False).weights, torch.tensor([0.5, 2.0, 3.0]).double()
    full = rebuilt(full_curvature([features], weights, noise))
    assert torch.allclose(rebuilt(kronecker_curvature(features.split(25), weights, noise)), full, atol=1e-8)
    assert torch.allclose(full, torch.kron(noise.reciprocal().diag(), features.T @ features), atol=1e-8)


def test_evidence_is_that_of_bayesian_linear_regression():
    """There Laplace is exact: N(y; 0, noise I + X X^T / tau), whose integral is known."""
    torch.manual_seed(1)
    x, noise, tau = torch.randn(40, 3).double(), 0.3, 2.5
    y = x @ torch.randn(3).double() + noise**0.5 * torch.randn(40).double()
    mode = torch.linalg.solve(x.T @ x / noise + tau * torch.eye(3), x.T @ y / noise)
    log_likelihood = float(torch.distributions.Normal(x @ mode, noise**0.5).log_prob(y).sum())
    found = kronecker_curvature([x], mode[None], torch.tensor([noise]).double())
    found = dataclasses.replace(found, log_likelihood=log_likelihood)
    marginal = torch.distributions.MultivariateNormal(torch.zeros(40).double(), noise * torch.eye(40) + x @ x.T / tau)
    assert found.log_evidence(mode[None], tau) == pytest.approx(float(marginal.log_prob(y)), abs=1e-6)


def test_best_precision_is_the_top_of_the_grid():
    layer, x, features, _ = problem()
    weights = find_last_layer(layer, x, True).weights
    curvature = full_curvature([features], weights, None)
    hessian = rebuilt(curvature)

    def evidence(tau):
        return -tau / 2 * weights.square().sum() + 7.5 * math.log(tau) - (hessian + tau * torch.eye(15)).logdet() / 2

    best = max(PRECISIONS, key=lambda tau: float(evidence(tau)))
    assert curvature.best_precision(weights) == best
    assert PRECISIONS[0] == pytest.approx(1e-4)
    assert PRECISIONS[-1] == pytest.approx(1e4)


@pytest.mark.parametrize("make", [full_curvature, kronecker_curvature])
def test_draws_have_the_covariance_of_the_posterior(make):
    layer, x, features, _ = problem()
    last = find_last_layer(layer, x, True)
    curvature = make([features], last.weights, None)
    drawn = Posterior(last, curvature, 0.7).draw(range(20_000))
    assert list(drawn) == ["weight", "bias"]
    flat = torch.cat([drawn["weight"], drawn["bias"][..., None]], 2).flatten(1)
    expected = torch.linalg.inv(rebuilt(curvature) + 0.7 * torch.eye(15))
    assert torch.allclose(flat.mean(0), last.weights.flatten(), atol=0.05)
    assert (flat.T.cov() - expected).abs().max() < 0.04 * expected.abs().max()


@pytest.mark.parametrize("make", [full_curvature, kronecker_curvature])
def test_closed_form_of_the_output_covariance(make):
    """Against the weights' covariance, and against drawn outputs."""
    layer, x, features, _ = problem()
    last = find_last_layer(layer, x, True)
    curvature = make([features], last.weights, None)
    posterior = Posterior(last, curvature, 0.7)
    covariance = torch.linalg.inv(rebuilt(curvature) + 0.7 * torch.eye(15))
    for point, found in zip(features[:5], posterior.output_covariance(features[:5]), strict=True):
        jacobian = torch.kron(torch.eye(3).double(), point[None])
        assert torch.allclose(found, jacobian @ covariance @ jacobian.T, atol=1e-9)
    outputs = posterior.outputs(features[:2], range(20_000))
    for i in (0, 1):
        assert torch.allclose(outputs[:, i].T.cov(), posterior.output_covariance(features[:2])[i], rtol=0.08, atol=0.01)


def test_an_infinite_prior_precision_is_the_trained_network(data):
    net = pf.nets.build("mlp", data, seed=1)
    form = LastLayerLaplace(members=2, prior_precision=1e12, training=QUICK).fit(net, data, seed=2)
    plain = Training(epochs=5).fit(net, data, seed=2)
    x = data.test.inputs[:50]
    assert torch.allclose(form.predict(x).mean, plain.predict(x).mean, atol=1e-4)


@pytest.mark.parametrize("hessian", ["full", "kron"])
def test_the_fitted_posterior_is_that_of_the_network(data, hessian):
    """By hand, from features that are taken by cutting the network."""
    small = dataclasses.replace(data, train=Split(*data.train.batch(torch.arange(200))))
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 10))
    form = LastLayerLaplace(members=3, hessian=hessian, prior_precision=2.0, training=QUICK).fit(net, small)
    with torch.no_grad():
        phi = form.template[:3](small.train.inputs).double()
        phi = torch.cat([phi, torch.ones(200, 1)], 1)
        curved = likelihood_curvature(form.template(small.train.inputs).double(), None)
    if hessian == "full":
        expected = sum(torch.kron(a, b.outer(b)) for a, b in zip(curved, phi, strict=True))
    else:
        expected = torch.kron(curved.sum(0), phi.T @ phi / 200)
    covariance = torch.linalg.inv(expected + 2 * torch.eye(130))
    drawn = form.source.draw(range(3000))
    flat = torch.cat([drawn["3.weight"], drawn["3.bias"][..., None]], 2).flatten(1)
    assert torch.allclose(flat.var(0).double(), covariance.diag(), rtol=0.15)


def test_members_share_all_but_the_last_layer(form, data):
    first, second = form.materialize(0), form.materialize(1)
    differ = [name for name, own in first.state_dict().items() if not torch.equal(own, second.state_dict()[name])]
    assert differ == form.source.names
    x = data.test.inputs[:20]
    assert torch.allclose(second(x), form.outputs(x)[1], atol=1e-5)


def test_it_is_less_sure_away_from_the_data(form, data):
    seen = form.predict(data.test.inputs)
    noise = form.predict(torch.rand(300, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert (seen.mean.argmax(-1) == data.test.targets).float().mean() > 0.9
    assert noise.members.var(0).sum(-1).mean() > 2 * seen.members.var(0).sum(-1).mean()


def test_validation_finds_the_precision_of_best_validation_likelihood(data):
    net = pf.nets.build("mlp", data, seed=1)
    x, y = data.validation.inputs, data.validation.targets

    def loss(precision):
        form = LastLayerLaplace(members=10, prior_precision=precision, training=QUICK).fit(net, data, seed=2)
        return float(F.nll_loss(form.predict(x).mean.log(), y)), form.source.precision

    best, chosen = loss("validation")
    assert chosen in PRECISIONS
    for factor in (0.01, 0.1, 10.0):
        assert best <= loss(min(max(chosen * factor, 1e-4), 1e4))[0] + 1e-6
    assert loss(chosen / 1000)[0] > best + 0.01


def test_without_a_validation_split_it_is_the_evidence(data):
    bare = dataclasses.replace(data, validation=Split(data.train.inputs[:0], data.train.targets[:0]))
    net = pf.nets.build("mlp", data, seed=1)
    precisions = [
        LastLayerLaplace(members=2, prior_precision=asked, training=QUICK).fit(net, bare, seed=2).source.precision
        for asked in ("validation", "marginal-likelihood")
    ]
    assert precisions[0] == precisions[1]


def test_regression_bands_are_those_of_bayesian_linear_regression(shared_data):
    """On a toy where the last layer does the whole work: variance phi^T (Phi^T Phi / noise + tau)^-1 phi."""
    table = pf.load("uci-regression:yacht")
    form = LastLayerLaplace(members=2000, prior_precision=1.0, training=Recipe(epochs=20)).fit(
        nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1)), table
    )
    with torch.no_grad():
        residual = (form.template(table.validation.inputs) - table.validation.targets).square().mean().double()
        phi, at = (
            torch.cat([form.template[:2](x).double(), torch.ones(len(x), 1)], 1)
            for x in (table.train.inputs, table.test.inputs)
        )
    expected = ((at @ torch.linalg.inv(phi.T @ phi / residual + torch.eye(9))) * at).sum(1)
    found = form.predict(table.test.inputs)
    assert torch.allclose(found.members.var(0)[:, 0].double(), expected, rtol=0.15)
    assert torch.allclose(found.variance, found.members.var(0, correction=0) + form.noise, rtol=1e-3)


@pytest.mark.parametrize("name", ["lenet", "convnet", "myrtle5-bn", "resnet20", "wrn-16-4"])
def test_the_last_layer_of_the_standard_networks(data, name):
    net = pf.nets.build(name, data).eval()
    last = find_last_layer(net, data.train.inputs[:4], True)
    assert torch.allclose(last.features(data.test.inputs[:9]) @ last.weights.T, net(data.test.inputs[:9]), atol=1e-4)


class Ending(nn.Module):
    """A convolution of size 1, averaged over positions; a linear layer of the same width that is not the last."""

    def __init__(self, end=lambda x: x):
        super().__init__()
        self.body, self.side = nn.Conv2d(1, 5, 3), nn.Linear(5, 10)
        self.head, self.end = nn.Conv2d(5, 10, 1), end

    def forward(self, x):
        h = self.body(x).relu()
        self.side(h.mean((2, 3)))
        return self.end(self.head(h).mean((2, 3)))


def test_layers_are_found_by_what_they_give(data):
    x = data.train.inputs[:6]
    for end in (lambda h: h, lambda h: h.log_softmax(-1)):
        last = find_last_layer(Ending(end), x, True)
        assert last.name == "head"
        drawn = Posterior(last, full_curvature([last.features(x)], last.weights, None), 1.0).draw([3])
        assert {name: tuple(own.shape) for name, own in drawn.items()} == {
            "head.weight": (1, 10, 5, 1, 1),
            "head.bias": (1, 10),
        }
    with pytest.raises(GraphError, match=r"body, side, head gives it|side, head.*torch\.nn\.Linear"):
        find_last_layer(Ending(lambda h: 2 * h), x, True)
    with pytest.raises(GraphError, match="one linear layer"):
        find_last_layer(Ending(lambda h: h.log_softmax(-1)), x, False)


def test_a_shared_weight_is_refused(data):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(64, 10, bias=False), nn.Linear(10, 10, bias=False)
            self.other = nn.Linear(10, 10, bias=False)
            self.other.weight = self.head.weight

        def forward(self, x):
            return self.head(self.other(self.first(x.flatten(1))).relu())

    with pytest.raises(GraphError, match=r"head\.weight, other\.weight.*untie"):
        LastLayerLaplace(training=QUICK).fit(Tied(), data)


def test_wrong_settings_are_refused(data):
    for wrong in ({"members": 0}, {"prior_precision": 0}, {"prior_precision": math.inf}):
        with pytest.raises(ConfigError, match="prior precision above 0"):
            LastLayerLaplace(**wrong)
    wide = nn.Sequential(nn.Flatten(), nn.Linear(64, 2000), nn.ReLU(), nn.Linear(2000, 10))
    with pytest.raises(ConfigError, match=r"at most 16384 weights.*20010 \(3 GB\).*hessian='kron'"):
        LastLayerLaplace(hessian="full", training=QUICK).fit(wide, data)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bias", [True, False])
def test_laplace_torch_agrees(bias):
    laplace = pytest.importorskip("laplace")
    layer, x, features, labels = problem(bias)
    net = nn.Sequential(nn.Identity(), layer)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, labels), batch_size=20)
    weights = find_last_layer(net, x, True).weights
    log_likelihood = -float(F.cross_entropy(layer(x), labels, reduction="sum"))
    kinds = {"full": full_curvature} if bias else {"full": full_curvature, "kron": kronecker_curvature}
    for kind, make in kinds.items():  # With a bias their product has a block for it alone.
        theirs = laplace.Laplace(net, "classification", subset_of_weights="last_layer", hessian_structure=kind)
        theirs.fit(loader)
        ours = make([features], weights, None, log_likelihood)
        for tau in (0.01, 1.0, 50.0):
            evidence = float(theirs.log_marginal_likelihood(prior_precision=torch.tensor(tau).double()))
            assert ours.log_evidence(weights, tau) == pytest.approx(evidence, rel=1e-5)
        covariance = Posterior(find_last_layer(net, x, True), ours, 50.0).output_covariance(features[:7])
        _, expected = theirs._glm_predictive_distribution(x[:7])
        assert torch.allclose(covariance, expected.to(covariance), rtol=1e-4, atol=1e-7)
