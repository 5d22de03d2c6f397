import dataclasses

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.ensemble.apd.fit import APD
from pluriform.ensemble.apd.vectors import Distilled, Stored
from pluriform.ensemble.drawn import draw_seeds
from pluriform.errors import ConfigError, DivergenceError
from pluriform.training import iterations as iterations_file
from pluriform.training.recipe import Recipe

QUICK = APD(members=4, samples=10, thin=2, burn_in=5, iterations=20, training=Recipe(epochs=2))


@pytest.fixture(scope="module")
def digits() -> Data:
    whole = pf.load("digits", seed=0)
    counts = {"train": 300, "validation": 50, "test": 100}
    return dataclasses.replace(
        whole, **{name: Split(*getattr(whole, name).batch(torch.arange(n))) for name, n in counts.items()}
    )


def line() -> Data:
    draws = torch.Generator().manual_seed(0)
    splits = []
    for count in (200, 60, 60):
        x = 4 * torch.rand(count, 1, generator=draws) - 2
        splits.append(Split(x, torch.sin(2 * x) + 0.1 * torch.randn(count, 1, generator=draws)))
    return Data("sine", "regression", *splits)


@pytest.mark.parametrize("distil", [True, False])
def test_digits(digits, distil):
    method = APD(members=10, distil=distil, samples=60, thin=5, burn_in=100, iterations=150)
    form = method.fit(pf.nets.build("mlp", digits, seed=0), digits)
    prediction = form.predict(digits.test.inputs)
    assert (prediction.mean.argmax(-1) == digits.test.targets).float().mean() > 0.85
    assert prediction.members.std(0).max() > 0.05
    assert (len(form.history["wasserstein"]) == 50) if distil else form.history == {}


@pytest.mark.parametrize("name", ["lenet-bn", "resnet20"])
def test_networks_of_the_zoo(digits, name):
    net = pf.nets.build(name, digits, seed=0)
    form = dataclasses.replace(QUICK, samples=4, members=2).fit(net, digits)
    member = form.materialize(1)
    assert type(member) is type(net)
    outputs = member(digits.test.inputs).softmax(-1)
    assert torch.allclose(outputs, form.predict(digits.test.inputs).members[1], atol=1e-4)


def test_samples_are_states_of_the_chain_and_members_distinct(digits):
    net = pf.nets.build("mlp", digits, seed=0)
    form = dataclasses.replace(QUICK, distil=False, members=10).fit(net, digits)
    assert sorted(form.source.index(seed) for seed in form.seeds) == list(range(10))
    last = torch.cat([parameter.flatten() for parameter in form.template.parameters()])
    assert torch.equal(form.source.samples[-1], last)
    steps = form.source.samples.diff(dim=0).std(1)
    assert (steps > 0.5 * (2 * 0.05 / 300) ** 0.5).all()
    assert torch.equal(
        form.member_weights()["layers.1.weight"][0].flatten()[:5], form.materialize(0).layers[1].weight.flatten()[:5]
    )


def test_frozen_parameters_stay(digits):
    net = pf.nets.build("mlp", digits, seed=0)
    net.layers[1].requires_grad_(False)
    form = QUICK.fit(net, digits)
    assert torch.equal(form.materialize(2).layers[1].weight, net.layers[1].weight)
    assert not torch.equal(form.materialize(2).layers[3].weight, form.materialize(1).layers[3].weight)


def test_sources_draw_by_seed():
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    samples = torch.randn(6, 13)
    stored, distilled = Stored(net, samples), Distilled(net, nn.Linear(4, 13), 4)
    seeds = draw_seeds(200, 0)
    counts = torch.bincount(torch.tensor([stored.index(seed) for seed in seeds]), minlength=6)
    assert (counts > 15).all()
    state = torch.get_rng_state()
    for source in (stored, distilled):
        whole, part = source.draw(seeds[:5]), source.draw(seeds[4:5])
        assert {name: tuple(tensor.shape[1:]) for name, tensor in whole.items()} == {
            name: tuple(parameter.shape) for name, parameter in net.named_parameters()
        }
        assert all(torch.equal(tensor[4], part[name][0]) for name, tensor in whole.items())
    assert torch.equal(state, torch.get_rng_state())
    flat = torch.cat([tensor[0].flatten() for tensor in stored.draw(seeds[:1]).values()])
    assert torch.equal(flat, samples[stored.index(seeds[0])])


def test_regression():
    net = nn.Sequential(nn.Linear(1, 30), nn.Tanh(), nn.Linear(30, 1))
    data = line()
    method = APD(samples=50, thin=5, burn_in=200, iterations=100, training=Recipe(epochs=100, learning_rate=1e-2))
    prediction = method.fit(net, data).predict(data.test.inputs)
    assert (prediction.mean - data.test.targets).square().mean() < 0.05
    assert 0.005 < float(prediction.variance.mean()) < 0.05
    with pytest.raises(ConfigError, match=r"trained network in regression.*training=None"):
        APD(training=None).fit(net, data)


@pytest.mark.parametrize("writes", [4, 13, 27, 40])
def test_a_fit_killed_in_the_middle_goes_on_bit_for_bit(digits, tmp_path, monkeypatch, writes):
    net = pf.nets.build("lenet-bn", digits, seed=0)
    method = dataclasses.replace(QUICK, training=None)
    whole = method.fit(net, digits, seed=4)
    monkeypatch.setattr(iterations_file, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(iterations_file, "CHECKPOINT_SHARE", 1e9)
    write, count = iterations_file.Checkpoint.write, []

    def stop(self, *args):
        write(self, *args)
        count.append(1)
        if len(count) == writes:
            raise KeyboardInterrupt

    monkeypatch.setattr(iterations_file.Checkpoint, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        method.fit(net, digits, seed=4, run=tmp_path / "run")
    again = method.fit(net, digits, seed=4, run=tmp_path / "run")
    assert len(count) == 45
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in whole.state_dict().items())
    assert again.history == whole.history


def test_what_cannot_be_done_is_said(digits):
    net = pf.nets.build("mlp", digits, seed=0)
    with pytest.raises(ConfigError, match=r"at most 4 GiB.*set samples to at most \d+"):
        APD(samples=1_000_000).fit(net, digits)
    with pytest.raises(ConfigError, match="trainable parameters"):
        QUICK.fit(pf.nets.build("mlp", digits, seed=0).requires_grad_(False), digits)
    with pytest.raises(DivergenceError, match="lower step_size"):
        dataclasses.replace(QUICK, step_size=1e9, training=None, burn_in=50).fit(net, digits)
    with pytest.raises(ConfigError, match="at most as many as samples"):
        APD(distil=False, members=20, samples=10)


@pytest.mark.parametrize("name", ["members", "samples", "thin", "batch_size", "iterations", "noise", "step_size"])
def test_wrong_arguments(name):
    with pytest.raises(ConfigError, match=name):
        APD(**{name: 0})
