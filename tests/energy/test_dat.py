import dataclasses
import functools
import signal

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.energy import dat
from pluriform.energy.contrast import Contrast
from pluriform.energy.curriculum import Curriculum
from pluriform.energy.support import SupportModel
from pluriform.errors import BoundsError, ConfigError
from pluriform.metrics.detection import auroc
from pluriform.training.recipe import Recipe

JOINT = Recipe(epochs=2, learning_rate=1e-3, schedule="constant", ema=0.999)


@pytest.fixture(scope="module")
def data() -> Data:
    return pf.load("digits")


@pytest.fixture(scope="module")
def few(data) -> Data:
    return dataclasses.replace(data, train=Split(*data.train.batch(torch.arange(320))))


@pytest.fixture(scope="module")
def net(data) -> nn.Module:
    return pf.nets.build("mlp", data)


@pytest.fixture(scope="module")
def form(net, data) -> SupportModel:
    training = dataclasses.replace(JOINT, epochs=10)
    return pf.DAT(training=training, pretraining=10, attack_steps=5, threshold=0.7).fit(net, data)


@pytest.fixture
def quick_curriculum(monkeypatch) -> None:
    monkeypatch.setattr(dat, "Curriculum", functools.partial(Curriculum, window=128))


def accuracy(form: nn.Module, data: Data, eps: float) -> float:
    inputs, labels = data.test.inputs, data.test.targets
    moved = pf.attack(form, inputs, labels, pf.Threat("l2", eps), steps=20) if eps else inputs
    return float((form.predict(moved).mean.argmax(-1) == labels).double().mean())


def test_clean_and_robust_accuracy_beside_plain_training(form, net, data):
    plain = pf.Training(epochs=20).fit(net, data)
    assert accuracy(form, data, 0.0) >= accuracy(plain, data, 0.0) - 0.01
    assert accuracy(form, data, 0.5) > accuracy(plain, data, 0.5) + 0.15


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_longer_training_is_above_plain_training_in_both(net, data):
    plain = pf.Training(epochs=60).fit(net, data)
    long = pf.DAT(training=dataclasses.replace(JOINT, epochs=30), pretraining=30, attack_steps=5).fit(net, data)
    assert accuracy(long, data, 0.0) >= accuracy(plain, data, 0.0)
    assert accuracy(long, data, 0.5) > accuracy(plain, data, 0.5) + 0.2


def test_data_and_what_is_not_data(form, data):
    generator = torch.Generator().manual_seed(0)
    shuffled = data.test.inputs.flatten(1)[:, torch.randperm(64, generator=generator)].view_as(data.test.inputs)
    noise = torch.rand(data.test.inputs.shape, generator=generator)
    own = form.predict(data.test.inputs).score
    for other in (shuffled, noise, 1 - data.test.inputs):
        assert auroc(own, form.predict(other).score) > 0.97


def test_the_length_of_the_climb_is_told(form):
    assert form.cost["climbing_steps"] == form.sampler.steps >= 1
    lengths = form.history["climbing_steps"]
    assert lengths == sorted(lengths)
    assert lengths[0] < 1
    assert form.cost["epochs"] == 20
    assert form.cost["roll_backs"] == 0


def test_cost_counts_attacks_and_climbs(net, few, quick_curriculum):
    method = pf.DAT(training=JOINT, pretraining=1, attack_steps=3, threshold=0.2)
    form = method.fit(net, few)
    climbed = 10 // 2 * sum(form.history["climbing_steps"])  # Five steps an epoch, two epochs.
    assert climbed > 0
    first, second = 5 * 64 * (3 + 2 * 3 + 2), 10 * 64 * (9 + 2 * 3 + 2) + 2 * 64 * climbed
    assert form.cost["sample_passes"] == first // 3 + second // 3
    clean = dataclasses.replace(method, eps=0, pretraining=0, steps=0)
    assert clean.fit(net, few).cost["sample_passes"] == 10 * 64 * 9 // 3


def stopping_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ctrl-C in that step of the second stage."""
    real = Contrast.__call__

    def call(self, batch):
        if int(self.done) == step:
            signal.raise_signal(signal.SIGINT)
        return real(self, batch)

    monkeypatch.setattr(Contrast, "__call__", call)


@pytest.mark.parametrize("step", [0, 7])
def test_a_killed_and_resumed_training_equals_an_uninterrupted_one(
    net, few, tmp_path, monkeypatch, quick_curriculum, step
):
    method = pf.DAT(training=JOINT, pretraining=1, attack_steps=3, threshold=0.2)
    whole = method.fit(net, few, seed=2)
    assert whole.sampler.steps >= 2  # The curriculum is at work.
    with monkeypatch.context() as patched:
        stopping_at(patched, step)
        with pytest.raises(KeyboardInterrupt):
            method.fit(net, few, seed=2, run=tmp_path / "run")
    again = method.fit(net, few, seed=2, run=tmp_path / "run")
    state = again.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.state_dict().items())
    assert again.sampler == whole.sampler
    for figure in ("steps", "epochs", "sample_passes", "climbing_steps"):
        assert again.cost[figure] == whole.cost[figure]
    same = [name for name in whole.history if name != "seconds"]
    assert {name: again.history[name] for name in same} == {name: whole.history[name] for name in same}


def test_batch_statistics_are_those_of_the_first_stage_bit_for_bit(few):
    net = pf.nets.build("mlp-bn", few)
    trained = pf.DAT(training=JOINT, pretraining=2, attack_steps=2).fit(net, few).module
    assert not torch.equal(dict(net.named_buffers())[_means(net)], dict(trained.named_buffers())[_means(net)])
    joint = pf.DAT(training=JOINT, pretraining=0, attack_steps=2).fit(trained, few).module
    assert all(torch.equal(value, dict(joint.named_buffers())[name]) for name, value in trained.named_buffers())
    assert any(not torch.equal(a, b) for a, b in zip(trained.parameters(), joint.parameters(), strict=True))


def _means(net: nn.Module) -> str:
    return next(name for name, _ in net.named_buffers() if name.endswith("running_mean"))


def test_no_first_stage_and_no_steps(net, few):
    form = pf.DAT(training=dataclasses.replace(JOINT, epochs=1), pretraining=0, steps=0).fit(net, few)
    assert form.cost["epochs"] == 1
    assert form.sampler.steps == 0
    assert set(form.history["climbing_steps"]) == {0.0}


def test_lengths_follow_the_bounds(net, few):
    """Inputs in 0..16 with a first layer that divides by 16 are the same training."""
    wide = dataclasses.replace(
        few,
        **{name: Split(16 * getattr(few, name).inputs, getattr(few, name).targets) for name in ("train", "test")},
        validation=Split(16 * few.validation.inputs, few.validation.targets),
        bounds=(0.0, 16.0),
    )

    class Divide(nn.Module):
        def forward(self, x):
            return x / 16

    method = pf.DAT(training=JOINT, pretraining=1, attack_steps=3, threshold=0.2)
    first, second = method.fit(net, few), method.fit(nn.Sequential(Divide(), net), wide)
    assert first.sampler == second.sampler
    one, other = first.predict(few.test.inputs), second.predict(wide.test.inputs)
    assert torch.allclose(one.mean, other.mean, atol=2e-3)
    assert torch.allclose(one.score, other.score, atol=2e-2)


def test_a_runaway_is_rolled_back_and_the_last_good_network_kept(net, few, caplog):
    wild = dataclasses.replace(JOINT, learning_rate=100.0, ema=None)
    form = pf.DAT(training=wild, pretraining=15, attack_steps=3, rollbacks=2).fit(net, few)
    assert 1 <= len(form.events) <= 3
    assert "largest_score" in form.events[0]["reason"] or "loss" in form.events[0]["reason"]
    assert "learning rate halved" in form.events[0]["change"]
    assert "back to step" in caplog.text
    assert accuracy(form, few, 0.0) > 0.8


def test_data_that_do_not_serve(net, data):
    table = dataclasses.replace(data, bounds=None)
    with pytest.raises(BoundsError, match=r"bounds.*got None.*dataclasses.replace"):
        pf.DAT().fit(net, table)
    targets = torch.randn(len(data.train), 1)
    task = dataclasses.replace(
        data,
        task="regression",
        train=Split(data.train.inputs, targets),
        validation=Split(data.validation.inputs, targets[: len(data.validation)]),
        test=Split(data.test.inputs, targets[: len(data.test)]),
        classes=(),
    )
    with pytest.raises(ConfigError, match=r"classification; got regression"):
        pf.DAT().fit(nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), task)


@pytest.mark.parametrize(
    ("eps", "words"), [(127.5, r"below 4 .*eps=127.5.*/255 = 0.5\)"), (0.5 / 255, "one grey level.*take 0.5")]
)
def test_a_radius_of_another_scale(net, data, eps, words):
    with pytest.raises(ConfigError, match=words):
        pf.DAT(eps=eps).fit(net, data)


def test_networks_that_return_probabilities(net, data):
    with pytest.raises(ConfigError, match="log-softmax out of the network"):
        pf.DAT().fit(nn.Sequential(net, nn.LogSoftmax(-1)), data)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pretraining", -1),
        ("pretraining_rate", 0),
        ("eps", -0.5),
        ("eps", float("nan")),
        ("attack_steps", -1),
        ("attack_step", 0.0),
        ("steps", -1),
        ("step", float("inf")),
        ("threshold", 0.0),
        ("threshold", 1.1),
        ("penalty", -1.0),
        ("rollbacks", -1),
    ],
)
def test_settings_out_of_range(name, value):
    with pytest.raises(ConfigError, match=f"{name}: .*got {value!r}.*change {name}"):
        pf.DAT(**{name: value})
