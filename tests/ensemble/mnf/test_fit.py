import dataclasses

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.ensemble.mnf.fit import MNF, Posterior
from pluriform.errors import ConfigError
from pluriform.method import FitContext
from pluriform.training import loop as loop_file
from pluriform.training.recipe import Recipe

SHORT = Recipe(epochs=3, batch_size=50, learning_rate=3e-3)


def part(whole: Data, train: int = 300, test: int = 100) -> Data:
    counts = {"train": train, "validation": 50, "test": test}
    return dataclasses.replace(
        whole, **{name: Split(*getattr(whole, name).batch(torch.arange(n))) for name, n in counts.items()}
    )


@pytest.fixture(scope="module")
def digits() -> Data:
    return part(pf.load("digits", seed=0))


def line(samples: int = 200) -> Data:
    draws = torch.Generator().manual_seed(0)
    splits = []
    for count in (samples, 60, 60):
        x = 4 * torch.rand(count, 1, generator=draws) - 2
        splits.append(Split(x, torch.sin(2 * x) + 0.1 * torch.randn(count, 1, generator=draws)))
    return Data("sine", "regression", *splits)


def tensors(form: nn.Module) -> dict[str, torch.Tensor]:
    return dict(form.state_dict())


def test_digits():
    data = pf.load("digits", seed=0)
    form = MNF(members=10, training=Recipe(epochs=12, batch_size=100, learning_rate=3e-3)).fit(
        pf.nets.build("mlp", data, seed=0), data
    )
    prediction = form.predict(data.test.inputs)
    hits = (prediction.mean.argmax(-1) == data.test.targets).float().mean()
    members = (prediction.members.argmax(-1) == data.test.targets).float().mean()
    assert hits > 0.94
    assert members > 0.9
    assert prediction.members.std(0).max() > 0.05
    assert form.history["nll"][-1] < 0.5 * form.history["nll"][0]
    assert form.history["divergence"][-1] < form.history["divergence"][0]


@pytest.mark.parametrize("name", ["lenet", "lenet-bn", "resnet20"])
def test_networks_of_the_zoo(digits, name):
    data = part(digits, 60, 20)
    form = MNF(members=2, training=Recipe(epochs=1, batch_size=30)).fit(pf.nets.build(name, data, seed=0), data)
    assert form.predict(data.test.inputs).members.shape == (2, 20, 10)
    member = form.materialize(1)
    assert type(member) is type(pf.nets.build(name, data))
    assert torch.allclose(member(data.test.inputs).softmax(-1), form.predict(data.test.inputs).members[1], atol=1e-5)


def test_regression_learns_the_noise_and_widens_outside():
    data = line()
    net = nn.Sequential(nn.Linear(1, 50), nn.Tanh(), nn.Linear(50, 1))
    form = MNF(training=Recipe(epochs=80, batch_size=50, learning_rate=1e-2)).fit(net, data)
    prediction = form.predict(data.test.inputs)
    assert (prediction.mean - data.test.targets).square().mean() < 0.05
    assert 0.005 < float(prediction.variance.mean()) < 0.05
    assert 0 < float(form.noise) < 0.02
    spread = form.predict(torch.tensor([[0.0], [6.0]])).members.std(0)
    assert spread[1] > 2 * spread[0]


def test_points_are_trained_and_belong_to_the_template(digits):
    net = pf.nets.build("lenet-bn", digits, seed=0)
    form = MNF(members=2, training=SHORT).fit(net, digits)
    own = dict(net.named_parameters())
    drawn = form.source.draw([0])
    points = [name for name, _ in form.template.named_parameters() if name not in drawn]
    assert points
    for name in points:
        assert not torch.equal(own[name], dict(form.template.named_parameters())[name])


def test_warm_up_and_weight_decay(digits):
    net = pf.nets.build("mlp", digits, seed=0)
    losses = {
        warmup: MNF(members=2, training=SHORT, warmup=warmup).fit(net, digits).history["loss"] for warmup in (0, 1)
    }
    assert losses[1][0] < 0.3 * losses[0][0]
    short = dataclasses.replace(SHORT, epochs=1)
    decays = [MNF(members=2, training=dataclasses.replace(short, weight_decay=decay)) for decay in (0.0, 0.5)]
    first, second = (tensors(method.fit(net, digits)) for method in decays)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_fit_killed_in_the_middle_goes_on_bit_for_bit(digits, tmp_path, monkeypatch):
    net, digits = pf.nets.build("lenet-bn", digits, seed=0), part(digits, 200, 50)
    method = MNF(members=2, training=SHORT, warmup=0.5)
    whole = method.fit(net, digits, seed=4)
    monkeypatch.setattr(loop_file, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop_file, "CHECKPOINT_SHARE", 1e9)
    write, count = loop_file.Checkpoint.write, []

    def stop(self, *args):
        write(self, *args)
        count.append(1)
        if len(count) == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop_file.Checkpoint, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        method.fit(net, digits, seed=4, run=tmp_path / "run")
    again = tensors(method.fit(net, digits, seed=4, run=tmp_path / "run"))
    assert len(count) > 7
    assert all(torch.equal(tensor, again[name]) for name, tensor in tensors(whole).items())


def test_the_bound_counts_every_layer_and_the_samples_once(digits):
    net = pf.nets.build("mlp", digits, seed=0)
    posterior = Posterior(net, 0, digits, FitContext(0, None, torch.device("cpu")))
    count = sum(parameter.numel() for parameter in net.parameters())
    squares = sum(float(parameter.detach().square().sum()) for parameter in net.parameters())
    floor = count * (9 - 0.5) + squares / 2  # z = 1 without noise, r = q: what the Gaussians alone cost.
    assert 0.97 * floor < posterior.divergence().item() < 1.03 * floor


@pytest.mark.parametrize("wrong", [{"members": 0}, {"flows": -1}, {"warmup": 1.5}])
def test_wrong_arguments(wrong):
    with pytest.raises(ConfigError, match=str(next(iter(wrong.values())))):
        MNF(**wrong)
