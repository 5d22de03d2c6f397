import copy
import dataclasses
import signal

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.errors import BoundsError, ConfigError, NonFiniteError
from pluriform.robust import probe as probe_file
from pluriform.robust.adversary import Adversary
from pluriform.robust.model import RobustModel
from pluriform.robust.schemes import SCHEMES

THREAT = pf.Threat("linf", 0.1)
SHORT = pf.Training(epochs=4, batch_size=32)


@pytest.fixture(scope="module")
def data() -> Data:
    return pf.load("digits")


@pytest.fixture(scope="module")
def few(data) -> Data:
    counts = {"train": 320, "validation": 100}
    return dataclasses.replace(
        data, **{name: Split(*getattr(data, name).batch(torch.arange(count))) for name, count in counts.items()}
    )


@pytest.fixture(scope="module")
def net(data) -> nn.Module:
    return pf.nets.build("mlp", data)


def accuracy(form: nn.Module, data: Data, threat: pf.Threat) -> float:
    inputs, labels = data.test.inputs, data.test.targets
    moved = pf.attack(form, inputs, labels, threat, steps=20)
    return float((form.predict(moved).mean.argmax(-1) == labels).double().mean())


def same(first: nn.Module, second: nn.Module) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def plain(net, data) -> float:
    return accuracy(pf.Training(epochs=15).fit(net, data), data, THREAT)


@pytest.mark.parametrize("scheme", list(SCHEMES))
def test_every_scheme_is_more_robust_than_plain_training(scheme, net, data, plain):
    training = pf.Training(epochs=16 if scheme == "free" else 12)
    form = pf.AdversarialTraining(scheme, THREAT, training, steps=3 if scheme in ("pgd", "trades", "mart") else None)
    fitted = form.fit(net, data)
    assert accuracy(fitted, data, dataclasses.replace(THREAT, eps=0.0)) > 0.88
    assert accuracy(fitted, data, THREAT) > plain + 0.15
    assert isinstance(fitted, RobustModel)
    assert fitted.threat == pf.Threat("linf", 0.1, data.bounds)


@pytest.mark.parametrize("name", ["mlp-bn", "lenet"])
@pytest.mark.parametrize("scheme", ["pgd", "trades", "free"])
def test_without_a_radius_it_is_plain_training_bit_for_bit(scheme, name, few):
    net = pf.nets.build(name, few)
    method = pf.AdversarialTraining(scheme, pf.Threat("linf", 0.0), SHORT)
    fitted, expected = method.fit(net, few, seed=3), SHORT.fit(net, few, seed=3)
    assert same(fitted.module, expected.module)
    assert fitted.cost["sample_passes"] == expected.cost["sample_passes"]


def test_trades_without_its_second_term_is_plain_training_but_for_the_choice_of_the_epoch(net, few):
    without = dataclasses.replace(few, validation=Split(few.validation.inputs[:0], few.validation.targets[:0]))
    fitted = pf.AdversarialTraining("trades", THREAT, SHORT, weight=0).fit(net, without, seed=3)
    assert same(fitted.module, SHORT.fit(net, without, seed=3).module)


def stopping_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ctrl-C in that step."""
    real = Adversary.__call__

    def call(self, batch):
        if int(self.done) == step:
            signal.raise_signal(signal.SIGINT)
        return real(self, batch)

    monkeypatch.setattr(Adversary, "__call__", call)


@pytest.mark.parametrize(("scheme", "step"), [*((scheme, 17) for scheme in SCHEMES), ("free", 0), ("fgsm-rs", 33)])
def test_a_killed_and_resumed_training_equals_an_uninterrupted_one(scheme, net, few, tmp_path, monkeypatch, step):
    monkeypatch.setattr("pluriform.robust.adversarial_training.LEAST_EVERY", 10)
    steps = None if scheme == "free" else 2
    method = pf.AdversarialTraining(scheme, THREAT, dataclasses.replace(SHORT, ema=0.9), steps=steps, replays=2)
    whole = method.fit(net, few, seed=2)
    with monkeypatch.context() as patched:
        stopping_at(patched, step)
        with pytest.raises(KeyboardInterrupt):
            method.fit(net, few, seed=2, run=tmp_path / "run")
    again = method.fit(net, few, seed=2, run=tmp_path / "run")
    assert same(whole, again)
    for figure in ("steps", "epochs", "sample_passes", "chosen_epoch"):
        assert again.cost[figure] == whole.cost[figure]
    kept = [name for name in whole.history if name != "seconds"]
    assert {name: again.history[name] for name in kept} == {name: whole.history[name] for name in kept}


def test_the_epoch_of_most_robust_samples_is_the_result(net, few):
    fitted = pf.AdversarialTraining("fgsm-rs", THREAT, pf.Training(epochs=8, batch_size=32)).fit(net, few)
    robust = fitted.history["validation_robust_accuracy"]
    assert fitted.history["epoch"] == [float(epoch) for epoch in range(1, 9)]
    assert fitted.cost["chosen_epoch"] == robust.index(max(robust)) + 1
    checked = few.validation
    moved = pf.attack(fitted, checked.inputs, checked.targets, THREAT, steps=10)
    found = float((fitted.predict(moved).mean.argmax(-1) == checked.targets).double().mean())
    assert abs(found - max(robust)) < 0.03  # Other random starts.


def test_patience_begins_after_the_ramp(net, few):
    """With one class for everything no sample is robust: nothing gets better, from the first validation on."""
    dull = copy.deepcopy(net)
    list(dull.parameters())[-1].data[0] = 1e4
    training = pf.Training(epochs=12, batch_size=32, learning_rate=1e-6, patience=2)
    history = pf.AdversarialTraining("fgsm-rs", THREAT, training, ramp=0.5).fit(dull, few).history
    assert history["epoch"] == [float(epoch) for epoch in range(1, 10)]  # The first is the best, then 6 and 2.


def test_the_radius_grows_over_the_first_part(net, few):
    history = pf.AdversarialTraining("fgsm-rs", THREAT, SHORT, ramp=0.5).fit(net, few).history
    assert history["eps"] == pytest.approx([0.1 * 5.5 / 20, 0.1 * 15.5 / 20, 0.1, 0.1])
    at_once = pf.AdversarialTraining("fgsm-rs", THREAT, SHORT, ramp=0).fit(net, few).history
    assert at_once["eps"] == pytest.approx([0.1] * 4)


@pytest.mark.parametrize(
    ("scheme", "forwards"),
    [("pgd", 23), ("fgsm-rs", 5), ("n-fgsm", 5), ("free", 3), ("trades", 27), ("mart", 26), ("grad-align", 11)],
)
def test_cost_counts_the_passes_of_attacks_and_probes(scheme, forwards, net, few):
    method = pf.AdversarialTraining(scheme, THREAT, pf.Training(epochs=1, batch_size=32), replays=2, ramp=0)
    steps = 20 if scheme == "free" else 10
    probed = 128 * (2 * probe_file.STEPS + 3 + 3)
    assert method.fit(net, few).cost["sample_passes"] == (steps * 32 * forwards + probed) // 3


def test_a_loss_that_is_no_number_is_rolled_back(net, few, monkeypatch):
    real = Adversary.__call__

    def call(self, batch):
        figures = real(self, batch)
        return figures | ({"loss": figures["loss"] * float("nan")} if int(self.done) == 15 else {})

    monkeypatch.setattr(Adversary, "__call__", call)
    fitted = pf.AdversarialTraining("pgd", THREAT, SHORT, steps=2).fit(net, few)
    assert fitted.events[0]["reason"] == "loss is nan"
    assert "attacks of 4 steps of half the length" in fitted.events[0]["change"]


@pytest.mark.parametrize("scheme", ["pgd", "free", "trades", "grad-align"])
def test_half_precision_and_batch_statistics(scheme, few):
    net = pf.nets.build("mlp-bn", few)
    training = pf.Training(epochs=4, batch_size=32, precision="bf16")
    steps = None if scheme == "free" else 2
    fitted = pf.AdversarialTraining(scheme, THREAT, training, steps=steps, replays=2).fit(net, few)
    assert all(tensor.dtype != torch.bfloat16 for tensor in fitted.state_dict().values())
    assert accuracy(fitted, few, dataclasses.replace(THREAT, eps=0.0)) > 0.5


def test_the_saved_form_is_the_form(net, few, tmp_path):
    fitted = pf.AdversarialTraining("fgsm-rs", pf.Threat("l2", 0.5), SHORT).fit(net, few)
    again = pf.load_form(fitted.save(tmp_path / "form"))
    assert same(fitted, again)
    assert (again.threat, again.history, again.events) == (fitted.threat, fitted.history, fitted.events)


def test_data_that_do_not_serve(net, few):
    with pytest.raises(BoundsError, match=r"bounds.*got bounds None.*give them"):
        pf.AdversarialTraining().fit(net, dataclasses.replace(few, bounds=None))
    table = dataclasses.replace(
        few,
        task="regression",
        classes=(),
        **{
            name: Split(getattr(few, name).inputs, torch.randn(len(getattr(few, name)), 1))
            for name in ("train", "validation", "test")
        },
    )
    with pytest.raises(ConfigError, match="classification; got regression"):
        pf.AdversarialTraining().fit(nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), table)


def test_a_radius_of_another_scale(net, few):
    with pytest.raises(ConfigError, match=r"at most 1 .*got eps 8.*8/255 = 0.03"):
        pf.AdversarialTraining("pgd", pf.Threat("linf", 8)).fit(net, few)


def test_networks_that_return_probabilities(net, few):
    with pytest.raises(ConfigError, match="take the softmax out of the network"):
        pf.AdversarialTraining().fit(nn.Sequential(net, nn.Softmax(-1)), few)


def test_networks_that_return_nan(net, few):
    last = [layer for layer in net.modules() if isinstance(layer, nn.Linear)][-1]
    nn.init.constant_(last.bias, torch.nan)
    with pytest.raises(NonFiniteError, match="expected finite logits; got NaN or infinity .*AdversarialTraining of"):
        pf.AdversarialTraining().fit(net, few)


@pytest.mark.parametrize(
    ("scheme", "options", "words"),
    [
        ("free", {"steps": 3}, "steps: None with scheme 'free', which has replays; got 3"),
        ("pgd", {"weight": 6.0}, "weight: None with scheme 'pgd', whose loss has one term; got 6.0"),
        ("fgsm-rs", {"weight": 0.5}, "weight: None with scheme 'fgsm-rs'"),
    ],
)
def test_numbers_that_a_scheme_would_ignore(scheme, options, words):
    with pytest.raises(ConfigError, match=words):
        pf.AdversarialTraining(scheme, **options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", -1),
        ("step_size", -0.1),
        ("step_size", float("nan")),
        ("weight", -1.0),
        ("replays", 0),
        ("ramp", 1.1),
        ("rollbacks", -1),
    ],
)
def test_settings_out_of_range(name, value):
    with pytest.raises(ConfigError, match=f"{name}: .*got {value!r}.*change {name}"):
        pf.AdversarialTraining(**{name: value})


@pytest.mark.parametrize("scheme", ["pgd", "free"])
def test_inputs_where_the_network_has_no_slope_do_not_end_the_training(scheme, few):
    """The gradient of a root at zero is infinite, as on the background of digits."""

    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = pf.nets.build("mlp", few)

        def forward(self, x):
            return self.inside(x.sqrt())

    method = pf.AdversarialTraining(scheme, pf.Threat("l2", 0.5), pf.Training(epochs=4, batch_size=32), replays=2)
    form = method.fit(Root(), few)
    assert not form.events
    assert all(torch.isfinite(weight).all() for weight in form.parameters())
    assert form.history["loss"][-1] < form.history["loss"][0]
