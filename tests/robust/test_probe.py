"""The probe for catastrophic overfitting: what trips it, when it looks, and that a training comes back from it."""

import dataclasses
import math

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.attacks.threat import Threat
from pluriform.data.data import Data, Split
from pluriform.robust import probe as probe_file
from pluriform.robust.accuracy import drawn, robust_accuracy
from pluriform.robust.attacked import Attacked
from pluriform.robust.probe import Probe, fallen
from pluriform.training.guard import Guard

FULL = Threat("linf", 0.1, (0, 1))


@pytest.fixture(scope="module")
def data() -> Data:
    return pf.load("digits")


def probe(
    monkeypatch: pytest.MonkeyPatch, series: dict[float, list[float]], every: int = 1, crude: float = 0.0
) -> Probe:
    """A probe that reads its accuracies, by radius, from lists."""
    monkeypatch.setattr(probe_file, "fgsm_accuracy", lambda *_: crude)
    monkeypatch.setattr(probe_file, "robust_accuracy", lambda *given: series[float(given[2].eps)].pop(0))
    return Probe(nn.Identity(), Split(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64)), every)


@pytest.mark.parametrize(("series", "trips"), [([0.45, 0.46, 0.20], True), ([0.45, 0.40, 0.30], False)])
def test_series_that_trip_and_that_do_not(monkeypatch, series, trips):
    looking = probe(monkeypatch, {0.1: list(series)})
    said = [looking.look(FULL, FULL) for _ in series]
    assert said[:2] == [None, None]
    assert (said[2] is not None) == trips
    if trips:
        assert said[2] == "catastrophic overfitting: accuracy under PGD-5 fell from 0.46 to 0.20"


@pytest.mark.parametrize(("crude", "found", "trips"), [(0.9, 0.02, True), (0.57, 0.22, False), (0.38, 0.0, False)])
def test_a_network_that_only_fgsm_cannot_break(monkeypatch, crude, found, trips):
    """The second pair is that of a plain network for MNIST at 0.1."""
    said = probe(monkeypatch, {0.1: [found]}, crude=crude).look(FULL, FULL)
    assert said == ("catastrophic overfitting: PGD-5 leaves 0.02, FGSM 0.90" if trips else None)


def test_nothing_is_compared_at_first():
    assert not fallen(math.nan, 0.0)


def test_a_growing_radius_is_no_fall_of_the_network(monkeypatch):
    small, large = FULL.scaled(0.5), FULL
    looking = probe(monkeypatch, {0.05: [0.9], 0.1: [0.5, 0.45, 0.2]})
    assert looking.look(small, large) is None  # 0.9 here, 0.5 where it looks next.
    assert looking.look(large, large) is None
    assert "from 0.45 to 0.20" in looking.look(large, large)


def test_it_looks_every_so_often_and_gives_time_after_a_roll_back(monkeypatch):
    looking = probe(monkeypatch, {0.1: [0.9, 0.8, 0.1, 0.1]}, every=3)
    seen = []
    for call in range(11):
        if looking.due:
            seen.append(call)
        if looking.look(FULL, FULL):
            looking.forget()
    assert seen == [0, 3, 6, 10]


def test_states_are_kept_just_before_the_looks(data, monkeypatch):
    """A training that forgets its robustness comes back, bit for bit, with the last state that passed a look."""
    monkeypatch.setattr("pluriform.robust.adversarial_training.LEAST_EVERY", 20)
    looked, kept, restored, spoilt = [], {}, {}, []

    class Spy(Guard):
        def keep(self, step, live):
            kept[step] = {name: tensor.clone() for name, tensor in live.items()}
            super().keep(step, live)

        def restore(self, step, live, reason):
            trip = super().restore(step, live, reason)
            restored[trip.restored] = {name: tensor.clone() for name, tensor in live.items()}
            return trip

    real_look, real_step = Probe.look, Attacked.__call__

    def look(self, now, following):
        if self.due:
            looked.append(next(self.network.parameters()).detach().clone())
        return real_look(self, now, following)

    def step(self, batch, setting):
        """Past the ramp, twenty steps away from what was learned."""
        loss = real_step(self, batch, setting)
        if len(looked) == 16 and len(spoilt) < 20:
            spoilt.append(loss)
            return -loss.clamp(max=8)
        return loss

    monkeypatch.setattr("pluriform.robust.adversarial_training.Guard", Spy)
    monkeypatch.setattr(Probe, "look", look)
    monkeypatch.setattr(Attacked, "__call__", step)
    small = dataclasses.replace(data, train=Split(*data.train.batch(torch.arange(640))))
    method = pf.AdversarialTraining("fgsm-rs", FULL, pf.Training(epochs=20, batch_size=32, schedule="constant"))
    form = method.fit(pf.nets.build("mlp", data), small)
    (event,) = form.events
    assert (event["step"], event["restored"]) == (320, 300)
    assert event["reason"].startswith("catastrophic overfitting: accuracy under PGD-5 fell from 0.")
    assert event["change"] == "learning rate halved, attacks of 2 steps of half the length"
    assert all(torch.equal(kept[300][name], tensor) for name, tensor in restored[300].items())
    first = next(name for name in kept[300] if name.startswith("weights/"))
    assert torch.equal(looked[15], kept[300][first])  # What is restored passed a look as it is.
    assert torch.equal(looked[17], kept[341][first])
    assert form.history["validation_robust_accuracy"][-1] > 0.5


def test_robust_accuracy_is_that_of_the_attack(data):
    net = pf.Training(epochs=5).fit(pf.nets.build("mlp", data), data)
    samples = Split(*data.test.batch(torch.arange(300)))
    found = robust_accuracy(net, samples, FULL, 10, 3)
    moved = pf.attack(net, samples.inputs, samples.targets, FULL, steps=10, seed=3)
    assert found == float((net.predict(moved).mean.argmax(-1) == samples.targets).double().mean())
    assert 0 < found < 0.9


def test_samples_are_drawn_from_all_over_a_sorted_file(data):
    order = data.train.targets.argsort()
    found = drawn(Split(data.train.inputs[order], data.train.targets[order]), 100, 0, torch.device("cpu"))
    assert len(found) == 100
    assert len(found.targets.unique()) == 10
    assert len(drawn(found, 1000, 0, torch.device("cpu"))) == 100


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fgsm_from_the_inputs_themselves_overfits_and_is_caught(shared_data):
    """FGSM of zero start on MNIST at eps 0.3."""
    data = pf.load("mnist")
    data = dataclasses.replace(data, train=Split(*data.train.batch(torch.arange(10_000))))
    method = pf.AdversarialTraining(
        "grad-align", Threat("linf", 0.3), pf.Training(epochs=6, learning_rate=5e-3), weight=0, step_size=0.6
    )
    form = method.fit(pf.nets.build("lenet", data), data)
    assert any("catastrophic overfitting" in event["reason"] for event in form.events)
