import dataclasses

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.errors import ConfigError, MemoryBudgetError, ShapeError
from pluriform.graph.fingerprint import fingerprint
from pluriform.narrow.distillation import Distillation
from pluriform.runs import Run
from pluriform.training.augmentation import Augmentation

SHORT = pf.Training(epochs=3, batch_size=20)


@pytest.fixture(scope="module")
def digits() -> Data:
    data = pf.load("digits", seed=0)
    cut = {name: Split(*getattr(data, name).batch(torch.arange(120))) for name in ("train", "validation", "test")}
    return dataclasses.replace(data, **cut)


@pytest.fixture(scope="module")
def wide(digits, tmp_path_factory) -> str:
    """A wide network that is trained."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 60), nn.ReLU(), nn.Linear(60, 10))
    form = pf.Training(epochs=20, batch_size=20).fit(net, digits, seed=1)
    return str(form.save(tmp_path_factory.mktemp("wide") / "form"))


def thin(norm: bool = False, drop: bool = False) -> nn.Module:
    torch.manual_seed(2)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4) if norm else nn.Identity(), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2 if drop else 0.0), nn.Linear(36, 10))


def shuffled(data: Data) -> Data:
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    return dataclasses.replace(data, train=Split(data.train.inputs, data.train.targets[order]))


@pytest.mark.parametrize("training", [SHORT, dataclasses.replace(SHORT, ema=0.9, label_smoothing=0.1, clip_norm=1.0)])
def test_without_a_share_it_is_plain_training_bit_for_bit(digits, wide, training):
    net = thin(norm=True, drop=True)
    plain = training.fit(net, digits, seed=4)
    form = Distillation(wide=wide, alpha=0, training=training).fit(net, digits, seed=4)
    assert fingerprint(form.module) == fingerprint(plain.module)
    tiny = Distillation(wide=wide, alpha=1e-30, training=training).fit(net, digits, seed=4)  # The general step.
    assert fingerprint(tiny.module) == fingerprint(plain.module)
    much = Distillation(wide=wide, alpha=0.9, training=training).fit(net, digits, seed=4)
    assert fingerprint(much.module) != fingerprint(plain.module)


def test_with_the_whole_share_labels_do_not_matter(digits, wide):
    method = Distillation(wide=wide, alpha=1, training=SHORT)
    right, wrong = method.fit(thin(), digits, seed=1), method.fit(thin(), shuffled(digits), seed=1)
    assert fingerprint(right.module) == fingerprint(wrong.module)
    half = dataclasses.replace(method, alpha=0.5)
    right, wrong = half.fit(thin(), digits, seed=1), half.fit(thin(), shuffled(digits), seed=1)
    assert fingerprint(right.module) != fingerprint(wrong.module)


def test_one_step_is_a_step_down_the_gradient_of_the_mixture(digits, wide):
    net, few = thin(), dataclasses.replace(digits, train=Split(*digits.train.batch(torch.arange(40))))
    training = pf.Training(
        epochs=1, batch_size=40, optimizer="sgd", learning_rate=0.1, weight_decay=0, schedule="constant", warmup=0
    )
    form = Distillation(wide=wide, alpha=0.7, temperature=3, training=training).fit(net, few)
    x, y = few.train.inputs, few.train.targets
    z, target = net(x), pf.load_form(wide)(x).detach()
    p, q = (target / 3).softmax(1), (z / 3).softmax(1)
    divergence = (p * (p.log() - q.log())).sum(1).mean()
    loss = 0.3 * nn.functional.cross_entropy(z, y) + 0.7 * 9 * divergence
    for own, gradient, new in zip(
        net.parameters(), torch.autograd.grad(loss, list(net.parameters())), form.module.parameters(), strict=True
    ):
        assert torch.allclose(own - 0.1 * gradient, new, atol=1e-6)


def test_it_ends_near_the_wide_network(digits, wide):
    target = pf.load_form(wide)(digits.train.inputs).softmax(1).detach()

    def far(form: nn.Module) -> float:
        own = form(digits.train.inputs).log_softmax(1).detach()
        return float(nn.functional.kl_div(own, target, reduction="batchmean"))

    training = dataclasses.replace(SHORT, epochs=30)
    taught = Distillation(wide=wide, alpha=1, temperature=1, training=training).fit(thin(), shuffled(digits))
    assert far(taught) < 0.25 * far(thin())


def test_a_network_is_widened_trained_and_learned_from(digits, monkeypatch):
    wides = []
    real = Distillation._trained_wide
    monkeypatch.setattr(Distillation, "_trained_wide", lambda *args: wides.append(real(*args)) or wides[-1])
    steps = []
    step = Distillation._step

    def marked(self, module, network, *args):
        steps.append(fingerprint(network))
        return step(self, module, network, *args)

    monkeypatch.setattr(Distillation, "_step", marked)
    net = pf.nets.build("lenet-bn", digits, seed=2)
    form = Distillation(2, training=SHORT, wide_training=dataclasses.replace(SHORT, epochs=2)).fit(net, digits)
    assert fingerprint(wides[0].network) == steps[0]  # Batch norms and weights of the wide one stay.
    assert type(form.module) is type(net)
    pf.nets.build("lenet-bn", digits).load_state_dict(form.module.state_dict(), strict=True)
    assert form.cost["sample_passes"] == 360
    assert form.cost["wide_sample_passes"] == 240
    assert form.cost["wide_macs"] > 2 * form.cost["thin_macs"]
    assert form.cost["training_seconds"] > form.cost["wide_seconds"] > 0
    assert len(form.history["validation_accuracy"]) == 3


@pytest.mark.parametrize(("writes", "facts"), [(1, {}), (3, {"cache_bytes": 0}), (5, {}), (7, {})])
def test_an_interrupted_fit_goes_on(digits, tmp_path, monkeypatch, writes, facts):
    monkeypatch.setattr("pluriform.training.loop.CHECKPOINT_SECONDS", 0.0)  # After every step.
    monkeypatch.setattr("pluriform.training.loop.CHECKPOINT_SHARE", 1e9)
    short = dataclasses.replace(SHORT, epochs=2, batch_size=60)
    method = Distillation(training=short, wide_training=short, **facts)
    whole = method.fit(thin(norm=True, drop=True), digits, seed=1)
    real, count = Run.write_tensors, []

    def stop(self, *args, **kwargs):
        real(self, *args, **kwargs)
        count.append(1)
        if len(count) == writes:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "write_tensors", stop)
    with pytest.raises(KeyboardInterrupt):
        method.fit(thin(norm=True, drop=True), digits, seed=1, run=tmp_path / "run")
    monkeypatch.setattr(Run, "write_tensors", real)
    again = method.fit(thin(norm=True, drop=True), digits, seed=1, run=tmp_path / "run")
    assert fingerprint(again) == fingerprint(whole)
    assert again.cost["sample_passes"] == 240


def test_cached_outputs_give_the_same_network_up_to_rounding(digits, wide):
    held, fresh = (Distillation(wide=wide, training=SHORT, cache_bytes=size).fit(thin(), digits) for size in (2**20, 0))
    for a, b in zip(held.parameters(), fresh.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4)
    with pytest.raises(MemoryBudgetError, match=r"at most 100 bytes.*set cache_bytes to 4800"):
        Distillation(wide=wide, training=SHORT, cache_bytes=100).fit(thin(), digits)
    shifted = dataclasses.replace(SHORT, augmentation=Augmentation(shift=1))
    Distillation(wide=wide, training=shifted, cache_bytes=100).fit(thin(), digits)  # Computed anew.


def test_regression_learns_values_and_variance(digits, tmp_path):
    splits = {name: getattr(digits, name) for name in ("train", "validation", "test")}
    values = {n: Split(s.inputs, (s.targets[:, None] - 4.5) / torch.tensor([3.0, -3.0])) for n, s in splits.items()}
    table = dataclasses.replace(digits, task="regression", classes=(), **values)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 2))
    long = dataclasses.replace(SHORT, epochs=30, learning_rate=0.01)
    form = Distillation(training=long, wide_training=long).fit(net, table)
    prediction = form.predict(table.validation.inputs)
    squares = (prediction.mean - table.validation.targets).square().mean(0)
    assert torch.allclose(prediction.variance[0], squares, rtol=1e-4)
    assert (squares < 0.75 * table.validation.targets.var(0)).all()
    wide = str(form.save(tmp_path / "wide"))  # A form of this kind is a source too.
    one = Distillation(wide=wide, alpha=1, training=SHORT).fit(net, table)
    splits = {n: Split(s.inputs, s.targets * 3) for n, s in values.items()}
    other = dataclasses.replace(table, **splits)
    assert fingerprint(Distillation(wide=wide, alpha=1, training=SHORT).fit(net, other).module) == fingerprint(
        one.module
    )
    with pytest.raises(ShapeError, match="task classification"):
        Distillation(wide=wide, training=SHORT).fit(thin(), digits)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"widen": 1}, "widen: a factor above 1; got 1"),
        ({"alpha": 1.5}, r"alpha: a share in \[0, 1\]"),
        ({"temperature": 0}, "temperature: a number above 0"),
        ({"cache_bytes": -1}, "cache_bytes: 0 or more"),
    ],
)
def test_wrong_settings_are_said(facts, words):
    with pytest.raises(ConfigError, match=words):
        Distillation(**facts)


def test_new_initial_weights_come_from_the_seed(digits, wide):
    method = Distillation(wide=wide, training=SHORT, reinitialise=True)
    first, second = thin(), thin()
    with torch.no_grad():
        second[0].weight.add_(1)
    assert fingerprint(method.fit(first, digits).module) == fingerprint(method.fit(second, digits).module)
