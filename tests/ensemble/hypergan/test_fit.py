"""HyperGAN as a user calls it: every head, every diversity, every kind of network, files, and wrong arguments."""

import copy
import dataclasses
import json
import math

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.ensemble.hypergan.fit import HyperGAN
from pluriform.errors import ConfigError
from pluriform.training import loop as loop_file
from pluriform.training.recipe import Recipe

SHORT = Recipe(epochs=2, batch_size=50, learning_rate=1e-3)
SMALL = {"members": 4, "networks": 3, "noise_size": 8, "code_size": 4, "hidden": 12, "training": SHORT}


def part(whole, train=120, test=20):
    counts = {"train": train, "validation": 30, "test": test}
    return dataclasses.replace(
        whole, **{name: Split(*getattr(whole, name).batch(torch.arange(n))) for name, n in counts.items()}
    )


@pytest.fixture(scope="module")
def digits() -> Data:
    return part(pf.load("digits", seed=0))


@pytest.fixture(scope="module")
def line() -> Data:
    draws = torch.Generator().manual_seed(0)
    splits = []
    for count in (100, 30, 30):
        x = 4 * torch.rand(count, 1, generator=draws) - 2
        y = torch.cat([torch.sin(2 * x), 3 * x], 1)
        splits.append(Split(x, y + 0.1 * torch.randn(count, 2, generator=draws)))
    return Data("line", "regression", *splits)


class Spiral(nn.Module):
    """A forward pass that no tracer follows, with a tied weight."""

    def __init__(self):
        super().__init__()
        self.inside, self.middle, self.again = nn.Linear(64, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.again.weight = self.middle.weight
        self.out = nn.Linear(6, 10)

    def forward(self, x):
        x = self.inside(x.flatten(1)).tanh()
        for _ in range(2 if float(x.detach().mean()) > 100 else 1):
            x = self.again(self.middle(x).tanh()).tanh()
        return self.out(x)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.out = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 10)

    def forward(self, x):
        return self.out(self.lstm(x.reshape(len(x), 8, 8))[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.out = nn.Linear(8, 10)

    def forward(self, x):
        return self.out(self.layer(x.reshape(len(x), 8, 8)).mean(1))


class Spare(nn.Module):
    """Some parameters that no output depends on."""

    def __init__(self):
        super().__init__()
        self.out, self.unused = nn.Linear(64, 10), nn.Linear(3, 3)

    def forward(self, x):
        return self.out(x.flatten(1))


def mlp(outputs=10, inputs=64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, outputs))


def norms():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(144, 10)
    )


def check(form, net, data, members=4):
    """Sane predictions, members that differ, and each of them as a plain module of the user's class."""
    found = form.predict(data.test.inputs)
    assert found.members.shape == (members, len(data.test), data.outputs)
    assert found.members.isfinite().all()
    assert found.members.std(0).max() > 1e-4
    state = form.materialize(1).state_dict()
    plain = copy.deepcopy(net).eval()
    plain.load_state_dict(state, strict=True)
    with torch.no_grad():
        outputs = plain(data.test.inputs)
    outputs = outputs.softmax(-1) if data.task == "classification" else outputs
    torch.testing.assert_close(outputs, found.members[1], rtol=1e-4, atol=2e-6)
    assert all(len(column) == len(form.history["loss"]) for column in form.history.values())
    assert all(torch.tensor(column).isfinite().all() for column in form.history.values())
    assert form.cost["steps"] > 0
    json.dumps(form.choices)


@pytest.mark.parametrize("head", ["full", "chunked", "low-rank", "rank-one", "last-layer"])
def test_every_head(digits, head):
    form = HyperGAN(head=head, **SMALL).fit(mlp(), digits)
    check(form, mlp(), digits)
    assert form.choices["head"]["mode"] == head
    assert (set(form.source.names) == {"3.weight", "3.bias"}) == (head == "last-layer")


@pytest.mark.parametrize("diversity", ["latent-gan", "svgd", "function-svgd", "gpvi", "none"])
@pytest.mark.parametrize(("head", "make"), [("full", mlp), ("last-layer", norms)])
def test_every_diversity(digits, diversity, head, make):
    form = HyperGAN(diversity=diversity, head=head, **SMALL).fit(make(), digits)
    check(form, make(), digits)


@pytest.mark.parametrize("make", [Spiral, Recurrent, Attention], ids=["untraceable", "lstm", "attention"])
@pytest.mark.parametrize("diversity", ["latent-gan", "function-svgd"])
def test_every_kind_of_network(digits, make, diversity):
    torch.manual_seed(0)
    net = make()
    form = HyperGAN(diversity=diversity, **SMALL).fit(net, digits)
    check(form, net, digits)
    if make is not Attention:
        assert form.choices["calling"]["way"] == "loop"
        assert form.calling(digits.test.inputs).way == "loop"


@pytest.mark.parametrize("name", ["mlp-bn", "lenet-bn", "resnet20"])
def test_networks_of_the_zoo(digits, name):
    data = part(digits, 40)
    net = pf.nets.build(name, data, seed=0)
    recipe = Recipe(epochs=1, batch_size=20)
    form = HyperGAN(**SMALL | {"members": 2, "networks": 2, "training": recipe}).fit(net, data)
    check(form, net, data, 2)


@pytest.mark.parametrize("diversity", ["latent-gan", "svgd", "function-svgd", "gpvi", "none"])
def test_regression(line, diversity):
    """Inputs of a table have no bounds."""
    assert line.bounds is None
    form = HyperGAN(diversity=diversity, **SMALL).fit(mlp(2, 1), line)
    check(form, mlp(2, 1), line)
    found = form.predict(line.test.inputs)
    assert form.noise.shape == (2,)
    assert (found.variance >= form.noise).all()
    assert form.draw(2, 1).predict(line.test.inputs).variance.shape == (30, 2)


@pytest.mark.parametrize("diversity", ["latent-gan", "gpvi"])
def test_without_a_mixer(digits, diversity):
    form = HyperGAN(mixer=False, diversity=diversity, **SMALL).fit(mlp(), digits)
    check(form, mlp(), digits)


def test_full_rank_noise_of_a_network_smaller_than_the_noise(line):
    """The mixer gets the first part of noise that has the size of the weights."""
    net = nn.Linear(1, 2)
    form = HyperGAN(diversity="gpvi", **SMALL).fit(net, line)
    assert form.source.mixer.noise_size == 4
    check(form, net, line)
    with pytest.raises(ConfigError, match=r"code_size: at most 5; got 8"):
        HyperGAN(diversity="gpvi", mixer=False, **SMALL | {"code_size": 8}).fit(
            nn.Sequential(net, nn.Linear(2, 2)), line
        )


@pytest.mark.parametrize(
    ("initialisation", "shared"), [("hyperfan-in", 0.7), ("hyperfan-out", 0.0), ("given", 0.0), ("given", 0.7)]
)
def test_every_initialisation(digits, initialisation, shared):
    form = HyperGAN(initialisation=initialisation, shared_fraction=shared, **SMALL).fit(mlp(), digits)
    check(form, mlp(), digits)


@pytest.mark.parametrize("initialisation", ["hyperfan-in", "given"])
@pytest.mark.parametrize("head", ["full", "last-layer"])
def test_frozen_weights_stay_to_the_bit(digits, head, initialisation):
    net = norms()
    net[0].weight.requires_grad_(False)
    net[1].requires_grad_(False)
    form = HyperGAN(head=head, initialisation=initialisation, **SMALL).fit(net, digits)
    member = form.materialize(2)
    assert torch.equal(member[0].weight, net[0].weight)
    assert torch.equal(member[1].weight, net[1].weight)
    assert not member[0].weight.requires_grad
    assert not torch.equal(member[5].weight, net[5].weight)
    assert "0.weight" not in form.source.names


def test_layers_that_are_not_drawn_are_trained(digits):
    net = mlp()
    form = HyperGAN(head="last-layer", initialisation="given", **SMALL).fit(net, digits)
    first, second = form.materialize(0), form.materialize(1)
    assert torch.equal(first[1].weight, second[1].weight)
    assert not torch.equal(first[1].weight, net[1].weight)


def test_module_and_random_numbers_of_the_user_stay(digits):
    net = norms()
    before, random = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    HyperGAN(**SMALL).fit(net, digits)
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in before.items())
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("way", ["vmap", "chunk", "loop"])
def test_every_way_of_calling_trains_the_same(digits, way):
    methods = [HyperGAN(calling=calling, **SMALL | {"networks": 5}) for calling in ("loop", way)]
    expected, found = (method.fit(mlp(), digits, seed=1) for method in methods)
    assert found.choices["calling"]["way"] == way
    torch.testing.assert_close(
        found.predict(digits.test.inputs).members, expected.predict(digits.test.inputs).members, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(("batches", "diversity"), [("shared", "latent-gan"), ("own", "svgd")])
def test_batches_shared_or_own(digits, batches, diversity):
    form = HyperGAN(batches=batches, diversity=diversity, **SMALL).fit(mlp(), digits)
    check(form, mlp(), digits)


def test_a_fit_is_its_seed(digits):
    method = HyperGAN(calling="loop", **SMALL)
    states = [method.fit(mlp(), digits, seed=seed).state_dict() for seed in (1, 1, 2)]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert any(not torch.equal(tensor, states[2][name]) for name, tensor in states[0].items())


def test_save_and_load(digits, tmp_path):
    form = HyperGAN(**SMALL).fit(norms(), digits)
    again = pf.load_form(form.save(tmp_path / "form"))
    x = digits.test.inputs
    assert torch.equal(again.predict(x).members, form.predict(x).members)
    torch.testing.assert_close(again.draw(9, 3).predict(x).members, form.draw(9, 3).predict(x).members)
    assert again.choices == form.choices
    assert again.history == form.history
    assert set(again.choices) == {"head", "pretraining", "calling"}
    assert again.choices["pretraining"]["error"] <= 2 * again.choices["pretraining"]["floor"]
    torch.testing.assert_close(form.draw(9, 3).draw(4, 3).predict(x).mean, form.draw(4, 3).predict(x).mean)


def test_statistics_of_members_equal_a_recalibration_by_hand(digits):
    form = HyperGAN(**SMALL).fit(norms(), digits)
    for i in (0, 3):
        member = form.materialize(i)
        with torch.no_grad():
            before = torch.cat([member[0](row[None]) for row in form.calibration])
        assert len(before) == 120  # All training samples, one batch.
        torch.testing.assert_close(member[1].running_mean, before.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
        variance = before.transpose(0, 1).flatten(1).var(1)
        torch.testing.assert_close(member[1].running_var, variance, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("diversity", ["latent-gan", "gpvi"])
def test_a_killed_fit_goes_on_bit_for_bit_with_the_same_calling(digits, tmp_path, monkeypatch, diversity):
    method, net = HyperGAN(diversity=diversity, **SMALL), norms()
    monkeypatch.setattr(loop_file, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop_file, "CHECKPOINT_SHARE", 1e9)
    write, count = loop_file.Checkpoint.write, []

    def stop(self, *args):
        write(self, *args)
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop_file.Checkpoint, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        method.fit(net, digits, seed=4, run=tmp_path / "run")
    kept = json.loads((tmp_path / "run" / "calling.json").read_text())
    form = method.fit(net, digits, seed=4, run=tmp_path / "run")
    assert form.choices["calling"] == kept
    assert len(form.history["loss"]) == 2
    straight = dataclasses.replace(method, calling=kept["way"]).fit(net, digits, seed=4)
    if straight.choices["calling"]["channels_last"] != kept["channels_last"]:
        return
    for name, tensor in straight.state_dict().items():
        torch.testing.assert_close(form.state_dict()[name], tensor, rtol=0, atol=0, msg=name)


def test_a_fit_stopped_between_training_and_the_form_keeps_its_history(digits, tmp_path, monkeypatch):
    """The checkpoint says finished: nothing is trained again, and the curves are those of the first sitting."""
    from pluriform.ensemble.hypergan import fit as fit_file

    method = HyperGAN(calling="loop", **SMALL)
    monkeypatch.setattr(fit_file, "fitted_noise", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        method.fit(mlp(), digits, run=tmp_path / "run")
    monkeypatch.undo()
    form = method.fit(mlp(), digits, run=tmp_path / "run")
    expected = method.fit(mlp(), digits)
    assert len(form.history["loss"]) == len(expected.history["loss"]) == 2
    assert all(torch.equal(tensor, form.state_dict()[name]) for name, tensor in expected.state_dict().items())
    check(form, mlp(), digits)


def test_low_precision(digits):
    recipe = dataclasses.replace(SHORT, precision="bf16")
    for diversity in ("latent-gan", "function-svgd", "gpvi"):
        form = HyperGAN(diversity=diversity, calling="vmap", **SMALL | {"training": recipe}).fit(mlp(), digits)
        assert form.predict(digits.test.inputs).members.isfinite().all()
        assert all(p.dtype == torch.float32 for p in form.parameters())


def test_moving_average_clipping_and_no_validation(digits):
    recipe = dataclasses.replace(SHORT, ema=0.9, clip_norm=1.0)
    check(HyperGAN(**SMALL | {"training": recipe}).fit(mlp(), digits), mlp(), digits)
    blind = dataclasses.replace(digits, validation=Split(*digits.validation.batch(torch.arange(0))))
    form = HyperGAN(**SMALL).fit(mlp(), blind)
    check(form, mlp(), blind)
    assert "validation_loss" not in form.history
    assert form.history["kept"] == [0.0] * (len(form.history["epoch"]) - 1) + [1.0]


def test_only_biases_are_drawn_where_nothing_else_is_trained(digits):
    net = mlp()
    for weight in net.parameters():
        weight.requires_grad_(weight.dim() == 1)
    form = HyperGAN(**SMALL).fit(net, digits)
    drawn = form.materialize(0).state_dict()
    assert all(torch.equal(drawn[name], value) == (value.dim() > 1) for name, value in net.state_dict().items())
    assert all(math.isfinite(spread) for spread in form.history["weight_spread"])


@pytest.mark.parametrize("head", ["full", "last-layer"])
def test_weights_that_no_output_depends_on(digits, head):
    net = Spare()
    check(HyperGAN(head=head, **SMALL).fit(net, digits), net, digits)


def test_weights_that_no_output_depends_on_in_function_space(digits):
    """The calling is given: to measure one goes through the gradients that the test above is about."""
    net = Spare()
    check(HyperGAN(diversity="function-svgd", calling="vmap", **SMALL).fit(net, digits), net, digits)


def test_digits_are_learned_and_members_differ():
    data = pf.load("digits", seed=0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    method = HyperGAN(
        members=8, networks=4, noise_size=32, code_size=8, hidden=32, training=Recipe(epochs=12, learning_rate=3e-3)
    )
    form = method.fit(net, data)
    found = form.predict(data.test.inputs)
    assert (found.mean.argmax(-1) == data.test.targets).float().mean() > 0.88
    assert (found.members.argmax(-1) == data.test.targets).float().mean(1).min() > 0.8
    assert form.history["disagreement"][-1] > 0.005
    wide = form.draw(20, 1).predict(data.test.inputs)
    assert (wide.mean.argmax(-1) == data.test.targets).float().mean() > 0.88


@pytest.mark.slow
def test_what_keeps_draws_apart_does():
    """Without it the generator ends in one network; the figures are those of the last epoch."""
    data = pf.load("digits", seed=0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    recipe = Recipe(epochs=15, learning_rate=3e-3)
    spreads = {}
    for diversity in ("none", "latent-gan", "svgd", "function-svgd"):
        method = HyperGAN(
            diversity=diversity, members=10, noise_size=64, code_size=16, hidden=64, calling="vmap", training=recipe
        )
        form = method.fit(net, data)
        spreads[diversity] = form.history["weight_spread"][-1], form.history["disagreement"][-1]
        assert (form.predict(data.test.inputs).mean.argmax(-1) == data.test.targets).float().mean() > 0.95
    for diversity in ("latent-gan", "svgd", "function-svgd"):
        assert spreads[diversity][0] > 4 * spreads["none"][0]
        assert spreads[diversity][1] > 1.5 * spreads["none"][1]


def test_no_gradients_are_left_in_the_form(digits):
    form = HyperGAN(head="last-layer", **SMALL).fit(mlp(), digits)
    assert all(parameter.grad is None for parameter in form.parameters())
