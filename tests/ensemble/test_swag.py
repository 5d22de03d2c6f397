"""SWAG: moments of known iterates, the Gaussian of its draws, and training that collects them."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.data.data import Split
from pluriform.ensemble.iterates import Collector, IterateSource
from pluriform.ensemble.swag import SWAG
from pluriform.errors import ConfigError
from pluriform.ordinary import Training
from pluriform.runs import Run
from pluriform.training.recipe import Recipe

SGD = Recipe(epochs=4, optimizer="sgd", learning_rate=0.05)


@pytest.fixture(scope="module")
def data():
    digits = pf.load("digits", seed=0)
    return dataclasses.replace(digits, train=Split(*digits.train.batch(torch.arange(640))))


@pytest.fixture(scope="module")
def form(data):
    return SWAG(members=8, rank=4, training=SGD).fit(pf.nets.build("mlp-bn", data, seed=1), data, seed=3)


def iterates(count):
    """Correlated weights of a layer 3 -> 2 with bias: 8 numbers each."""
    generator = torch.Generator().manual_seed(count)
    mixing = torch.randn(8, 8, generator=generator)
    return 5 + torch.randn(count, 8, generator=generator) @ mixing


def collected(weights, rank):
    layer = nn.Linear(3, 2)
    collector = Collector(layer, rank, 1)
    for row in weights:
        with torch.no_grad():
            layer.weight.copy_(row[:6].view(2, 3))
            layer.bias.copy_(row[6:])
        collector.collect()
    return collector


@pytest.mark.parametrize(("count", "rank"), [(12, 5), (4, 6), (5, 5), (40, 3)])
def test_moments_of_known_iterates(count, rank):
    """The running figures against the definitions, written out over all iterates at once."""
    weights = iterates(count)
    source = collected(weights, rank).source(0.5)
    means = weights.cumsum(0) / torch.arange(1, count + 1)[:, None]
    deviations = (weights - means)[-min(rank, count) :]
    assert torch.allclose(source.mean, weights.mean(0), atol=1e-5)
    assert torch.allclose(source.variance, weights.var(0, correction=0), rtol=1e-4)
    assert source.columns.shape == deviations.shape
    assert torch.allclose(source.columns.T @ source.columns, deviations.T @ deviations, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("count", "rank", "scale"), [(12, 5, 0.5), (4, 6, 0.5), (12, 5, 1.0), (9, 0, 1.0)])
def test_draws_have_mean_and_covariance_of_the_formula(count, rank, scale):
    """Not scaled by s instead of its root, no variance instead of standard deviation, R the number stored."""
    weights = iterates(count)
    source = collected(weights, rank).source(scale)
    drawn = source.draw(range(20_000))
    flat = torch.cat([drawn["weight"].flatten(1), drawn["bias"]], 1).double()
    deviations = (
        (weights - weights.cumsum(0) / torch.arange(1, count + 1)[:, None])[-min(rank, count) :] if rank else None
    )
    expected = weights.var(0, correction=0).diag().double()
    if deviations is not None:
        expected += (deviations.T @ deviations).double() / (min(rank, count) - 1)
    expected *= scale
    assert torch.allclose(
        flat.mean(0), weights.mean(0).double(), atol=5 * (expected.diag().max() / 20_000).sqrt().item()
    )
    error = flat.T.cov() - expected
    assert error.abs().max() < 0.05 * expected.diag().max()
    assert torch.allclose(flat.var(0), expected.diag(), rtol=0.06)


def test_no_scale_is_the_average_of_the_iterates():
    weights = iterates(7)
    drawn = collected(weights, 3).source(0.0).draw([1, 2])
    assert torch.allclose(drawn["weight"], weights.mean(0)[:6].view(1, 2, 3).expand(2, -1, -1), atol=1e-5)


def test_small_spread_around_large_weights_is_not_lost():
    """A mean of squares minus the square of the mean is rounding error here."""
    generator = torch.Generator().manual_seed(0)
    weights = 100 + 1e-3 * torch.randn(60, 8, generator=generator)
    source = collected(weights, 2).source(0.5)
    assert torch.allclose(source.variance, weights.double().var(0, correction=0).float(), rtol=0.05)


def test_draw_depends_on_its_seed_alone():
    source = collected(iterates(9), 4).source(0.5)
    whole = source.draw([5, 6, 7])
    alone = source.draw([7])
    for name in whole:
        assert torch.equal(whole[name][2], alone[name][0])
        assert not torch.equal(whole[name][0], whole[name][1])


def test_frozen_parameters_stay(data):
    net = pf.nets.build("mlp", data, seed=1)
    first = next(net.parameters()).requires_grad_(False)
    form = SWAG(members=2, training=SGD).fit(net, data)
    assert all(torch.equal(next(form.materialize(i).parameters()), first) for i in range(2))
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"trainable parameters.*requires_grad_"):
        SWAG(training=SGD).fit(net, data)


def test_enough_iterates_are_taken_of_a_short_training(data):
    """10 steps an epoch; 4 epochs of which one collects."""
    for rank, columns in ((4, 4), (6, 6), (20, 10)):
        form = SWAG(members=2, rank=rank, training=SGD).fit(pf.nets.build("mlp", data, seed=1), data)
        assert form.source.columns.shape[0] == columns


def test_long_training_collects_once_an_epoch(data, monkeypatch):
    taken, steps = [], []
    real = Collector.collect
    monkeypatch.setattr(Collector, "collect", lambda self: (taken.append(int(self.steps)), real(self))[1])
    recipe = dataclasses.replace(SGD, epochs=40, batch_size=320)
    SWAG(members=2, rank=4, training=recipe).fit(pf.nets.build("mlp", data, seed=1), data)
    steps = list(range(2, 21, 2))
    assert taken == steps


def test_before_iterates_are_taken_it_is_ordinary_training(data, monkeypatch):
    started = []
    real = Collector.__init__

    def keep(self, network, *args):
        started.append(copy.deepcopy(network))
        real(self, network, *args)

    monkeypatch.setattr(Collector, "__init__", keep)
    net = pf.nets.build("mlp", data, seed=1)
    SWAG(members=2, training=SGD).fit(net, data, seed=3)
    plain = Training(epochs=3, optimizer="sgd", learning_rate=0.05).fit(net, data, seed=3).module
    for one, other in zip(started[0].parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)


def test_running_statistics_are_those_of_the_drawn_weights(form, data):
    """By hand: pass the calibration inputs through the member in training mode, as one cumulative average."""
    member = form.materialize(2)
    again = copy.deepcopy(member)
    norms = [layer for layer in again.modules() if isinstance(layer, nn.BatchNorm1d)]
    assert norms
    with torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        again.train()
        for part in form.calibration.split(128):
            again(part)
    own = [layer for layer in member.modules() if isinstance(layer, nn.BatchNorm1d)]
    for one, other in zip(own, norms, strict=True):
        assert torch.allclose(one.running_mean, other.running_mean, atol=1e-5)
        assert torch.allclose(one.running_var, other.running_var, rtol=1e-4)


def test_members_classify_and_differ(form, data):
    seen = form.predict(data.test.inputs)
    hits = (seen.members.argmax(-1) == data.test.targets).float().mean(1)
    assert (hits > 0.8).all()
    assert (seen.members.std(0).sum(-1) > 0).all()


def test_a_higher_rate_spreads_the_draws(data):
    net = pf.nets.build("mlp", data, seed=1)
    spreads = []
    for rate in (0.005, 0.05):
        form = SWAG(members=2, rank=4, swag_learning_rate=rate, training=SGD).fit(net, data)
        spreads.append(float(form.source.variance.sum()))
    assert spreads[1] > 4 * spreads[0]


@pytest.mark.parametrize("stop", [2, 9, 13])
def test_a_killed_fit_goes_on_in_the_middle_of_collecting(data, tmp_path, monkeypatch, stop):
    """Bit for bit, wherever it was stopped: moments and columns are in the checkpoint."""
    method = SWAG(members=3, rank=4, collect_from=0.5, training=dataclasses.replace(SGD, epochs=2))
    net = pf.nets.build("mlp-bn", data, seed=1)
    straight = method.fit(net, data, seed=2)
    monkeypatch.setattr("pluriform.training.loop.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("pluriform.training.loop.CHECKPOINT_SHARE", math.inf)
    real, count = Run.write_tensors, []

    def stop_after(self, *args, **kwargs):
        real(self, *args, **kwargs)
        count.append(1)
        if len(count) == stop:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "write_tensors", stop_after)
    with pytest.raises(KeyboardInterrupt):
        method.fit(net, data, seed=2, run=tmp_path / "run")
    monkeypatch.setattr(Run, "write_tensors", real)
    resumed = method.fit(net, data, seed=2, run=tmp_path / "run")
    first, second = straight.state_dict(), resumed.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_regression_has_noise_and_spread():
    table = pf.load("uci-regression:yacht")
    form = SWAG(members=4, training=dataclasses.replace(SGD, epochs=40, clip_norm=1.0)).fit(
        pf.nets.build("mlp", table), table
    )
    found = form.predict(table.test.inputs)
    assert (found.variance > form.noise).all()
    error = (found.mean - table.test.targets).square().mean()
    assert error < 0.3 * table.test.targets.var()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"rank": 1}, "rank: at least 2, or 0"),
        ({"members": 0}, "members: at least 1"),
        ({"collect_from": 1.0}, r"collect_from: a share in \[0, 1\)"),
        ({"scale": -1}, "scale: 0 or more"),
        ({"swag_learning_rate": 0}, "swag_learning_rate: a number above 0"),
    ],
)
def test_wrong_settings_are_refused(wrong, words):
    with pytest.raises(ConfigError, match=words):
        SWAG(**wrong)


def test_one_column_is_no_low_rank_part():
    """Divided by R - 1 = 0 it would be infinite."""
    source = IterateSource({"w": (3,)}, torch.zeros(3), torch.ones(3), torch.ones(1, 3), 0.5)
    assert source.draw([1])["w"].isfinite().all()
