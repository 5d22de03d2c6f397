import copy
import dataclasses
import json

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.encoding import record_from_json
from pluriform.ensemble import deep_ensemble as deep_ensemble_file
from pluriform.ensemble.deep_ensemble import DeepEnsemble, Ensemble
from pluriform.ensemble.together import Choice, choose
from pluriform.errors import ConfigError
from pluriform.training import loop as loop_file
from pluriform.training.augmentation import Augmentation
from pluriform.training.feed import Batch
from pluriform.training.recipe import Recipe

SHORT = Recipe(epochs=2, batch_size=32)


@pytest.fixture(scope="module")
def digits() -> Data:
    whole = pf.load("digits", seed=0)
    counts = {"train": 300, "validation": 100, "test": 100}
    return dataclasses.replace(
        whole, **{name: Split(*getattr(whole, name).batch(torch.arange(n))) for name, n in counts.items()}
    )


@pytest.fixture(scope="module")
def net(digits) -> nn.Module:
    return pf.nets.build("mlp", digits, seed=0)


def largest_difference(first, second):
    first, second = first.state_dict(), second.state_dict()
    assert first.keys() == second.keys()
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


def test_probabilities_are_those_of_the_members_averaged(digits, net):
    form = DeepEnsemble(members=3, training=SHORT).fit(net, digits)
    x = digits.test.inputs
    prediction = form.predict(x)
    oracle = torch.stack([member(x).softmax(-1) for member in form.members])
    assert torch.allclose(prediction.members, oracle, atol=1e-6)
    assert torch.allclose(prediction.mean, oracle.mean(0), atol=1e-6)
    assert torch.allclose(form(x).exp(), oracle.mean(0), atol=1e-6)
    assert torch.allclose(form(x).softmax(-1), oracle.mean(0), atol=1e-6)
    assert all(type(member) is type(net) for member in form.members)
    assert prediction.members.std(0).max() > 0.01


@pytest.mark.parametrize("name", ["mlp", "lenet"])
@pytest.mark.parametrize(
    "recipe",
    [
        SHORT,
        Recipe(epochs=3, batch_size=32, clip_norm=0.5, ema=0.9, augmentation=Augmentation(shift=1)),
        Recipe(epochs=8, batch_size=32, patience=1, learning_rate=0.02, optimizer="sgd", class_weights="balanced"),
    ],
    ids=["plain", "clipped, averaged, augmented", "early stopping, weighted"],
)
def test_together_equals_one_by_one(digits, name, recipe):
    net = pf.nets.build(name, digits, seed=0)
    forms = [DeepEnsemble(members=3, training=recipe, together=t).fit(net, digits, seed=4) for t in ("yes", "no")]
    assert largest_difference(*forms) < 2e-3
    predictions = [form.predict(digits.test.inputs).members for form in forms]
    assert torch.allclose(*predictions, atol=1e-3)
    assert (predictions[0].argmax(-1) == predictions[1].argmax(-1)).float().mean() > 0.99


@pytest.mark.parametrize("together", ["yes", "no"])
def test_seeds_decide_and_given_weights_do_not(digits, net, together):
    method = DeepEnsemble(members=2, training=SHORT, together=together)
    first, again, other = (method.fit(net, digits, seed=seed) for seed in (1, 1, 2))
    assert largest_difference(first, again) == 0
    assert largest_difference(first, other) > 0
    assert largest_difference(first, method.fit(pf.nets.build("mlp", digits, seed=9), digits, seed=1)) == 0


def test_one_member_is_plain_training(digits, net):
    ensemble = DeepEnsemble(members=1, training=SHORT).fit(net, digits, seed=3)
    plain = pf.Training(epochs=2, batch_size=32, reinitialise=True).fit(net, digits, seed=3)
    assert largest_difference(ensemble.members[0], plain.module) == 0
    assert ensemble.cost["steps"] == plain.cost["steps"]


def test_more_members_keep_the_first_ones(digits, net):
    two, three = (DeepEnsemble(m, training=SHORT, together="no").fit(net, digits, seed=3) for m in (2, 3))
    assert all(largest_difference(a, b) == 0 for a, b in zip(two.members, three.members, strict=False))


def test_cost_counts_all_members(digits, net):
    for together in ("yes", "no"):
        cost = DeepEnsemble(members=3, training=SHORT, together=together).fit(net, digits).cost
        assert cost["sample_passes"] == 3 * 2 * 10 * 32
        assert cost["epochs"] == 2


@pytest.mark.parametrize("together", ["yes", "no"])
def test_a_stopped_fit_goes_on_bit_for_bit(digits, net, tmp_path, monkeypatch, together):
    method = DeepEnsemble(members=2, training=Recipe(epochs=3, batch_size=32, patience=2), together=together)
    expected = method.fit(net, digits, seed=1)
    monkeypatch.setattr(loop_file, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop_file, "CHECKPOINT_SHARE", float("inf"))
    real, left = loop_file.Loop._step, [47 if together == "no" else 17]

    def step(self, batch):
        if left[0] == 0:
            raise RuntimeError("plug")
        left[0] -= 1
        return real(self, batch)

    monkeypatch.setattr(loop_file.Loop, "_step", step)
    with pytest.raises(RuntimeError, match="plug"):
        method.fit(net, digits, seed=1, run=tmp_path / "run")
    monkeypatch.undo()
    found = method.fit(net, digits, seed=1, run=tmp_path / "run")
    assert largest_difference(expected, found) == 0
    assert found.cost["epochs"] == 3


@pytest.mark.parametrize("together", [True, False])
def test_auto_records_its_choice_and_keeps_it(digits, net, tmp_path, monkeypatch, together):
    monkeypatch.setattr(deep_ensemble_file, "choose", lambda *_: Choice(together, "as the test says"))
    DeepEnsemble(members=2, training=SHORT).fit(net, digits, run=tmp_path / "run")
    record = json.loads((tmp_path / "run" / "together.json").read_text())
    assert record == {"together": together, "reason": "as the test says"}
    files = {path.name for path in (tmp_path / "run" / "checkpoint").iterdir()}
    assert files == ({"members.safetensors"} if together else {"member-0.safetensors", "member-1.safetensors"})

    def choose_again(*_):
        raise AssertionError("chosen although recorded")

    monkeypatch.setattr(deep_ensemble_file, "choose", choose_again)
    (tmp_path / "run" / "done").unlink()
    DeepEnsemble(members=2, training=SHORT).fit(net, digits, run=tmp_path / "run")


def choice_for(net, digits, samples=32):
    batch = Batch(digits.train.inputs[:samples].expand(2, -1, -1, -1, -1), digits.train.targets[:samples].expand(2, -1))
    return choose([copy.deepcopy(net), copy.deepcopy(net)], batch)


def test_auto_leaves_the_fit_as_it_is(digits):
    net = pf.nets.build("mlp", digits)
    chosen = "yes" if choice_for(net, digits, SHORT.batch_size).together else "no"
    auto = DeepEnsemble(members=2, training=SHORT).fit(net, digits, seed=5)
    asked = DeepEnsemble(members=2, training=SHORT, together=chosen).fit(net, digits, seed=5)
    assert largest_difference(auto, asked) == 0


def test_small_linear_networks_train_together_and_others_one_by_one(digits):
    small = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    large = nn.Sequential(nn.Flatten(), nn.Linear(64, 1000), nn.ReLU(), nn.Linear(1000, 10))
    assert choice_for(small, digits).together
    assert "multiplications, which fill" in choice_for(large, digits).reason
    assert "stacked convolutions" in choice_for(pf.nets.build("lenet", digits), digits).reason
    assert choice_for(small, digits) == choice_for(small, digits)


@pytest.mark.parametrize(
    ("layer", "words"), [(nn.Dropout(0.5), "random layers"), (nn.BatchNorm1d(64), "batch normalisation")]
)
def test_auto_trains_one_by_one_where_stacking_changes_the_result(digits, layer, words):
    choice = choice_for(nn.Sequential(nn.Flatten(), layer, nn.Linear(64, 10)), digits)
    assert not choice.together
    assert words in choice.reason


class Branching(nn.Module):
    """Decides by a value, which stacked members cannot."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        outputs = self.linear(x.flatten(1))
        return outputs if outputs.sum() > 0 else 2 * outputs


def test_networks_that_cannot_be_stacked(digits):
    form = DeepEnsemble(members=2, training=SHORT).fit(Branching(), digits)
    assert "cannot be stacked" in choice_for(Branching(), digits).reason
    assert len(form.members) == 2
    with pytest.raises(ValueError, match="several members at once"):
        DeepEnsemble(members=2, training=SHORT, together="yes").fit(Branching(), digits)


def test_regression_adds_the_noise_to_the_spread_of_the_members(tmp_path):
    x = torch.linspace(-1, 1, 90)[:, None]
    y = 2 * x + 0.3 * torch.randn(90, 1, generator=torch.Generator().manual_seed(0))
    data = Data("line", "regression", *(Split(x[i::3], y[i::3]) for i in range(3)))
    net = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
    form = DeepEnsemble(members=3, training=Recipe(epochs=200, learning_rate=0.01)).fit(net, data)
    prediction = form.predict(data.test.inputs)
    outputs = torch.stack([member(data.test.inputs) for member in form.members]).detach()
    assert torch.allclose(prediction.mean, outputs.mean(0), atol=1e-6)
    assert torch.allclose(prediction.variance, outputs.var(0, correction=0) + form.noise, atol=1e-6)
    residual = (form.predict(data.validation.inputs).mean - data.validation.targets).square().mean()
    assert 0.5 * residual < form.noise.item() <= 1.01 * residual
    again = pf.load_form(form.save(tmp_path / "form"))
    assert isinstance(again, Ensemble)
    assert torch.equal(again.predict(data.test.inputs).variance, prediction.variance)


def test_json_and_bad_values():
    method = DeepEnsemble(members=10, training=pf.Training(epochs=3))
    assert record_from_json(json.loads(json.dumps(method.to_json()))) == method
    assert DeepEnsemble(members=10).label == "DeepEnsemble(members=10)"
    with pytest.raises(ConfigError, match="at least one member.*got members=0"):
        DeepEnsemble(members=0)
