import dataclasses
import json

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.encoding import record_from_json
from pluriform.errors import ConfigError, CorruptFileError, RunError, ShapeError
from pluriform.ordinary import Network, Training
from pluriform.runs import Run
from pluriform.training import loop as loop_file
from pluriform.training.augmentation import Augmentation


@pytest.fixture(scope="module")
def digits() -> Data:
    return pf.load("digits", seed=0)


def mlp(data, seed=0):
    return pf.nets.build("mlp", data, seed=seed)


def line(task_targets, count=60):
    x = torch.linspace(-1, 1, count)[:, None]
    noise = 0.3 * torch.randn(count, 1, generator=torch.Generator().manual_seed(0))
    return x, task_targets(x) + noise


@pytest.fixture
def regression() -> Data:
    x, y = line(lambda x: 2 * x)
    parts = [Split(x[i::3], y[i::3]) for i in range(3)]
    return Data("line", "regression", *parts)


def equal(first, second):
    first, second = first.state_dict(), second.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def test_defaults_reach_97_percent_on_digits(digits):
    form = Training().fit(mlp(digits), digits, seed=0)
    assert (form.predict(digits.test.inputs).mean.argmax(1) == digits.test.targets).float().mean() >= 0.97
    assert type(form.module).__name__ == "MLP"
    assert form.cost["epochs"] == 60
    assert form.cost["training_seconds"] > 0


@pytest.mark.parametrize(
    "method",
    [
        Training(optimizer="sgd", learning_rate=0.05, schedule="one-cycle"),
        Training(schedule="step", warmup=0.0, ema=0.99),
        Training(schedule="constant", patience=3, label_smoothing=0.1, class_weights="balanced"),
        Training(augmentation=Augmentation(shift=1), clip_norm=1.0, precision="bf16", batch_size=32),
    ],
    ids=["sgd one-cycle", "step ema", "patience", "augmented bf16"],
)
def test_every_option_learns(digits, method):
    method = dataclasses.replace(method, epochs=8)
    form = method.fit(mlp(digits), digits, seed=0)
    assert (form.predict(digits.test.inputs).mean.argmax(1) == digits.test.targets).float().mean() > 0.9
    assert all(parameter.dtype == torch.float32 for parameter in form.parameters())


def test_seeds_decide(digits):
    method = Training(epochs=1)
    forms = [method.fit(mlp(digits), digits, seed=seed) for seed in (1, 1, 2)]
    assert equal(forms[0], forms[1])
    assert not equal(forms[0], forms[2])


def test_it_starts_from_the_given_weights_unless_reinitialised(digits):
    first, second = mlp(digits, seed=0), mlp(digits, seed=1)
    given = [Training(epochs=1).fit(net, digits) for net in (first, second)]
    drawn = [Training(epochs=1, reinitialise=True).fit(net, digits) for net in (first, second)]
    assert not equal(*given)
    assert equal(*drawn)


def test_regression_has_a_constant_noise_variance(regression):
    net = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
    form = Training(epochs=300, learning_rate=0.01).fit(net, regression, seed=0)
    prediction = form.predict(regression.test.inputs)
    residual = form.predict(regression.validation.inputs).mean - regression.validation.targets
    assert torch.allclose(prediction.variance, residual.square().mean(0).expand(20, 1))
    assert 0.03 < form.noise.item() < 0.3
    assert (prediction.mean - 2 * regression.test.inputs).abs().max() < 0.5


def test_regression_without_validation_estimates_the_noise_on_training(regression):
    empty = dataclasses.replace(regression, validation=Split(torch.zeros(0, 1), torch.zeros(0, 1)))
    form = Training(epochs=2, patience=1).fit(nn.Linear(1, 1), empty)
    assert form.noise.item() > 0


def test_forms_come_back_from_disk(regression, digits, tmp_path):
    for data, net in ((regression, nn.Linear(1, 1)), (digits, mlp(digits))):
        form = Training(epochs=1).fit(net, data)
        again = pf.load_form(form.save(tmp_path / data.name))
        assert isinstance(again, Network)
        assert equal(form, again)
        assert again.cost == form.cost


def test_json_and_flags():
    method = Training(epochs=3, augmentation=Augmentation(flip=0.5), class_weights=(1.0, 2.0))
    assert record_from_json(json.loads(json.dumps(method.to_json()))) == method
    assert method.label == "Training(epochs=3, class_weights=(1.0, 2.0), …)"
    assert Training().label == "Training"
    import tyro

    flags = ["--epochs", "3", "--augmentation.flip", "0.5", "--class-weights", "1.0", "2.0", "--optimizer", "sgd"]
    assert tyro.cli(Training, args=flags) == dataclasses.replace(method, optimizer="sgd")
    assert sum(field.type is bool for field in dataclasses.fields(Training)) < 10


def test_augmentation_is_refused_for_tables(regression):
    with pytest.raises(ShapeError, match="leave augmentation off for tables"):
        Training(augmentation=Augmentation(flip=0.5)).fit(nn.Linear(1, 1), regression)


def test_a_frozen_network_is_refused(digits):
    with pytest.raises(ConfigError, match="trainable parameters"):
        Training(epochs=1).fit(mlp(digits).requires_grad_(False), digits)


def test_a_damaged_checkpoint_is_named(digits, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop_file.Loop, "_finish", stop)
    with pytest.raises(KeyboardInterrupt):
        Training(epochs=1).fit(mlp(digits), digits, run=tmp_path / "run")
    monkeypatch.undo()
    file = tmp_path / "run" / "checkpoint" / "training.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CorruptFileError, match=r"training\.safetensors.*delete this file"):
        Training(epochs=1).fit(mlp(digits), digits, run=tmp_path / "run")


def test_a_full_disk_stops_the_training_and_it_goes_on_later(digits, tmp_path, monkeypatch):
    expected = Training(epochs=3).fit(mlp(digits), digits)
    monkeypatch.setattr(loop_file, "CHECKPOINT_SHARE", float("inf"))
    real, writes = Run.write_tensors, []

    def full(self, *args, **kwargs):
        writes.append(1)
        if len(writes) == 2:
            raise OSError(28, "No space left on device")
        real(self, *args, **kwargs)

    monkeypatch.setattr(Run, "write_tensors", full)
    with pytest.raises(RunError, match=r"expected room for a checkpoint; got .*No space left.*intact"):
        Training(epochs=3).fit(mlp(digits), digits, run=tmp_path / "run")
    assert equal(expected, Training(epochs=3).fit(mlp(digits), digits, run=tmp_path / "run"))
