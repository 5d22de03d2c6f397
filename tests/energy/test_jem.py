import copy
import dataclasses
import json
import math

import pytest
import torch
import tyro
from torch import nn
from torch.utils.data import TensorDataset

import pluriform as pf
from pluriform.cli.fit import options
from pluriform.data.data import Data, Split, StreamSplit
from pluriform.encoding import record_from_json
from pluriform.energy import jem as jem_file
from pluriform.energy.joint import Terms
from pluriform.energy.langevin import Langevin
from pluriform.errors import BoundsError, ConfigError
from pluriform.graph.parameters import weights_of
from pluriform.training.augmentation import Augmentation
from pluriform.training.guard import Guard
from pluriform.training.recipe import Recipe

SHORT = Langevin(3, 0.5, 0.01)
PLAIN = Terms(density=0.0)


def small(**changes):
    return pf.JEM(
        **({"training": Recipe(epochs=2, learning_rate=1e-3), "sampler": SHORT, "buffer_size": 200} | changes)
    )


def tensors(form):
    return {name: value.clone() for name, value in form.state_dict().items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def with_dropout():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 10))


def convolutional(norm=nn.Identity):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        layers = nn.Conv2d(1, 6, 3), norm(), nn.SiLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(54, 10)
        return nn.Sequential(*layers)


RECIPES = {
    "default": Recipe(epochs=2),
    "rich": Recipe(
        epochs=3, clip_norm=1.0, ema=0.9, patience=2, label_smoothing=0.1, augmentation=Augmentation(shift=1)
    ),
    "sgd": Recipe(epochs=2, optimizer="sgd", learning_rate=0.05, class_weights="balanced"),
}


class TestPlain:
    @pytest.mark.parametrize("make", [with_dropout, convolutional], ids=["dropout", "convolutional"])
    @pytest.mark.parametrize("recipe", RECIPES)
    def test_without_a_density_it_is_plain_training_bit_for_bit(self, digits, make, recipe):
        facts = {field.name: getattr(RECIPES[recipe], field.name) for field in dataclasses.fields(Recipe)}
        method = small(training=RECIPES[recipe], terms=PLAIN, input_noise=0)
        form, plain = method.fit(make(), digits, seed=3), pf.Training(**facts).fit(make(), digits, seed=3)
        assert equal(tensors(form.module), tensors(plain.module))
        assert form.cost["sample_passes"] == plain.cost["sample_passes"]
        assert form.cost["roll_backs"] == 0

    def test_neither_sampler_nor_buffer_is_touched(self, digits, net, monkeypatch):
        monkeypatch.setattr(jem_file, "Joint", None)
        form = small(terms=PLAIN, input_noise=0).fit(net, digits)
        assert bool((form.buffer.touched == -1).all())

    def test_noise_of_inputs_counts_also_without_a_density(self, digits, net):
        quiet, noisy = (small(terms=PLAIN, input_noise=noise).fit(net, digits) for noise in (0, 0.3))
        assert not equal(tensors(quiet.module), tensors(noisy.module))
        again = small(terms=PLAIN, input_noise=0.3).fit(net, digits)
        assert equal(tensors(again.module), tensors(noisy.module))

    def test_the_weight_of_the_classification_counts(self, digits, net):
        def fitted(weight, rate):
            training = Recipe(epochs=1, optimizer="sgd", learning_rate=rate, weight_decay=0.0)
            return tensors(small(training=training, terms=Terms(0, weight), input_noise=0).fit(net, digits).module)

        half, slow = fitted(0.5, 0.02), fitted(1.0, 0.01)
        assert all(torch.allclose(half[name], slow[name], atol=1e-6) for name in half)


class TestPromises:
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"conditional": True, "start": "gaussian"},
            {"sharpness": 0.05},
            {"smooth": True, "augment_density": False, "training": RECIPES["rich"]},
        ],
        ids=lambda changes: "-".join(changes) or "default",
    )
    def test_network_data_and_random_state_stay(self, digits, changes):
        network = with_dropout()
        network[0].eval()
        network[1].bias.requires_grad_(False)
        before, modes = tensors(network), [part.training for part in network.modules()]
        bias = network[1].bias.clone()
        samples, state = digits.train.inputs.clone(), torch.get_rng_state()
        first = small(**changes).fit(network, digits, seed=1)
        assert equal(before, tensors(network))
        assert modes == [part.training for part in network.modules()]
        assert torch.equal(samples, digits.train.inputs)
        assert torch.equal(state, torch.get_rng_state())
        assert [p.requires_grad for p in network.parameters()] == [True, False, True, True]
        torch.manual_seed(99)
        assert equal(tensors(first), tensors(small(**changes).fit(network, digits, seed=1)))
        assert torch.equal(first.module[1].bias, bias)
        assert [p.requires_grad for p in first.module.parameters()] == [True, False, True, True]
        assert not equal(tensors(first), tensors(small(**changes).fit(network, digits, seed=2)))

    def test_it_survives_json(self):
        method = small(terms=Terms(1, 0.5, 0.1, 0.01), conditional=True, sampler=Langevin(7, 0.1, 0, 0.3, False))
        assert record_from_json(json.loads(json.dumps(method.to_json()))) == method

    def test_flags_reach_the_nested_records(self):
        words = ["digits", "--steps", "7", "--step", "0.5", "--penalty", "0.1", "--epochs", "3", "--shift", "2"]
        method = tyro.cli(options("jem"), args=[*words, "--clamp-gradient", "0.03", "--no-clamp-inputs"]).method
        assert method.sampler == Langevin(7, 0.5, 0.01, 0.03, False)
        assert method.terms == Terms(density=0.1, penalty=0.1)
        assert (method.training.epochs, method.training.augmentation.shift) == (3, 2)

    @pytest.mark.parametrize(
        "change",
        [
            {"start": "normal"},
            {"buffer_size": 0},
            {"renewed": 1.5},
            {"input_noise": -1},
            {"input_noise": math.nan},
            {"sharpness": math.inf},
            {"rollbacks": -1},
            {"normalisation": "layer"},
            {"conditional": False, "terms": Terms(joint=0.5)},
        ],
    )
    def test_settings_that_cannot_be(self, change):
        with pytest.raises(Exception, match=next(iter(change))):  # In the test run, types are checked first.
            small(**change)


class TestBadInput:
    @pytest.mark.parametrize("last", [nn.LogSoftmax(-1), nn.Softmax(-1)])
    @pytest.mark.parametrize("terms", [Terms(), PLAIN])
    def test_normalised_outputs(self, digits, net, last, terms):
        with pytest.raises(ConfigError, match="softmax out of the network"):
            small(terms=terms).fit(nn.Sequential(net, last), digits)

    def test_images_without_bounds(self, digits, net):
        with pytest.raises(BoundsError, match="dataclasses.replace"):
            small().fit(net, dataclasses.replace(digits, bounds=None))

    def test_regression(self):
        part = Split(torch.rand(20, 3), torch.rand(20, 1))
        with pytest.raises(ConfigError, match="no logits"):
            small().fit(nn.Linear(3, 1), Data("line", "regression", part, part, part))

    def test_batches_larger_than_the_buffer(self, digits, net):
        with pytest.raises(ConfigError, match="at most 20 chains at once"):
            small(buffer_size=20).fit(net, digits)

    def test_batch_norm_without_a_policy(self, digits):
        with pytest.raises(ConfigError, match="normalisation='group'"):
            small().fit(convolutional(lambda: nn.BatchNorm2d(6)), digits)


class TestNetworksAndData:
    @pytest.mark.parametrize("policy", ["freeze", "group", "train"])
    @pytest.mark.parametrize("sharpness", [0.0, 0.05, 1.0])
    def test_policies_of_batch_norm(self, digits, policy, sharpness):
        network = convolutional(lambda: nn.BatchNorm2d(6))
        network[1].running_mean.fill_(0.3)
        method = small(normalisation=policy, start="gaussian", sharpness=sharpness)
        form = method.fit(network, digits)
        kind = type(form.module[1])
        assert kind is (nn.GroupNorm if policy == "group" else nn.BatchNorm2d)
        if policy == "freeze":
            assert torch.equal(form.module[1].running_mean, torch.full((6,), 0.3))
            assert torch.equal(form.module[1].running_var, torch.ones(6))
        if policy == "train":
            assert not torch.equal(form.module[1].running_mean, torch.full((6,), 0.3))
        x = digits.test.inputs[:20]
        assert torch.allclose(form.predict(x).score[:1], form.predict(x[:1]).score, atol=1e-4)
        assert all(bool(t.isfinite().all()) for t in weights_of(form).values())

    def test_double_precision(self, digits, net):
        def doubled(split):
            return Split(split.inputs.double(), split.targets)

        parts = {name: doubled(getattr(digits, name)) for name in ("train", "validation", "test")}
        data = dataclasses.replace(digits, **parts)
        for start in ("uniform", "gaussian"):
            form = small(start=start).fit(copy.deepcopy(net).double(), data)
            assert form.sample(3).dtype == torch.float64
            assert form.predict(data.test.inputs).score.dtype == torch.float64
        form = small().fit(copy.deepcopy(net).double(), data.with_labels(60))
        assert form.buffer.samples.dtype == torch.float64

    def test_a_network_laid_out_with_the_channels_last(self, digits):
        plain = small().fit(convolutional(), digits)
        moved = convolutional().to(memory_format=torch.channels_last)
        inputs = digits.train.inputs.contiguous(memory_format=torch.channels_last)
        data = dataclasses.replace(digits, train=Split(inputs, digits.train.targets))
        other = small().fit(moved, data)
        found, wanted = tensors(other), tensors(plain)
        assert all(torch.allclose(found[name], wanted[name], atol=1e-3) for name in found)

    def test_data_read_on_demand(self, digits, net):
        dataset = TensorDataset(digits.train.inputs, digits.train.targets)
        stream = dataclasses.replace(digits, train=StreamSplit(dataset, torch.arange(200)))
        for start in ("uniform", "gaussian"):
            method = small(start=start)
            assert equal(tensors(method.fit(net, digits).module), tensors(method.fit(net, stream).module))

    def test_a_stream_with_unlabelled_samples(self, digits, net):
        dataset = TensorDataset(digits.train.inputs, digits.train.targets)
        stream = StreamSplit(dataset, torch.arange(100))
        data = dataclasses.replace(digits, train=stream, unlabelled=digits.train.inputs[100:])
        labelled = Split(digits.train.inputs[:100], digits.train.targets[:100])
        assert equal(
            tensors(small().fit(net, data)),
            tensors(small().fit(net, dataclasses.replace(data, train=labelled))),
        )

    @pytest.mark.parametrize("conditional", [True, False])
    def test_tables_without_bounds_and_with_a_constant_feature(self, table, conditional):
        inputs = torch.cat([table.train.inputs, torch.full((300, 1), 4.0)], 1)
        part = Split(inputs, table.train.targets)
        data = dataclasses.replace(table, train=part, validation=part, test=part)
        network = nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 3))
        form = small(buffer_size=300, sampler=Langevin.at_temperature(0.03), conditional=conditional).fit(network, data)
        drawn = form.sample(90)
        assert bool(drawn.isfinite().all())
        assert form.signature.bounds is None

    def test_classes_that_do_not_divide_the_buffer(self, table):
        network = nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 3))
        assert len(small(buffer_size=1000).fit(network, table).buffer) == 999

    def test_without_validation(self, digits, net):
        none = Split(torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64))
        form = small().fit(net, dataclasses.replace(digits, validation=none))
        assert len(form.history["loss"]) == 2

    def test_unlabelled_samples_are_used(self, digits, net):
        data = digits.with_labels(50)
        with_them, without = small().fit(net, data), small().fit(net, dataclasses.replace(data, unlabelled=None))
        assert with_them.cost["steps"] == 2 * 4  # Epochs are those of all 200 inputs.
        assert without.cost["steps"] == 2
        again = small().fit(net, digits.with_labels(50))
        assert equal(tensors(with_them), tensors(again))

    def test_half_precision(self, digits, net):
        form = small(training=Recipe(epochs=2, precision="bf16")).fit(net, digits)
        assert form.events == []
        assert all(math.isfinite(value) for column in form.history.values() for value in column)

    @pytest.mark.parametrize("terms", [Terms(1, 0), Terms(1, 1, 0.5, 0.1), Terms(0, 1, 0, 0.1)])
    def test_other_weights(self, digits, net, terms):
        form = small(terms=terms, conditional=bool(terms.joint)).fit(net, digits)
        assert form.events == []


class Killed(RuntimeError):  # noqa: N818
    """Stands for the end of the process."""


def kill_at(monkeypatch, step):
    """The process dies after so many steps, right after a checkpoint."""
    Loop = jem_file.Loop

    class Dying(Loop):
        def _due(self, interval):
            if interval and self._done == step:
                self._save()
                raise Killed
            return super()._due(interval)

    monkeypatch.setattr(jem_file, "Loop", Dying)


def trip_at(monkeypatch, *steps, every=4):
    """A guard that also refuses certain steps, told by the loop's own count."""

    class Strict(Guard):
        def __init__(self, check, gentler, **more):
            joint = gentler.__self__
            super().__init__(
                lambda figures: "made to" if int(joint.done) - 1 in steps else check(figures),
                gentler,
                **more | {"every": every},
            )

    monkeypatch.setattr(jem_file, "Guard", Strict)


class TestResume:
    @pytest.mark.parametrize("stop", [4, 7, 12])
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"conditional": True, "start": "gaussian", "sharpness": 0.05},
            {"training": dataclasses.replace(RECIPES["rich"], epochs=4)},
            {"training": dataclasses.replace(RECIPES["sgd"], epochs=4)},
        ],
        ids=["default", "sharp", "rich", "sgd"],
    )
    def test_it_equals_an_uninterrupted_training_with_roll_backs(self, digits, tmp_path, monkeypatch, stop, changes):
        method = small(**({"training": Recipe(epochs=4)} | changes))
        with monkeypatch.context() as patch:
            trip_at(patch, 5, 6, 10)
            whole = method.fit(with_dropout(), digits)
            with patch.context() as killing:
                kill_at(killing, stop)
                with pytest.raises(Killed):
                    method.fit(with_dropout(), digits, run=tmp_path)
            torch.manual_seed(7)
            halves = method.fit(with_dropout(), digits, run=tmp_path)
        assert equal(tensors(whole), tensors(halves))
        assert whole.events == halves.events
        assert [event["step"] for event in whole.events] == [5, 6, 10]
        assert {**whole.cost, "training_seconds": 0, "peak_memory": 0} == {
            **halves.cost,
            "training_seconds": 0,
            "peak_memory": 0,
        }
        assert all(whole.history[name] == halves.history[name] for name in whole.history if name != "seconds")

    def test_the_streams_of_unlabelled_samples_go_on_too(self, digits, net, tmp_path, monkeypatch):
        data, method = digits.with_labels(70), small(training=Recipe(epochs=3))
        whole = method.fit(net, data)
        with monkeypatch.context() as patch:
            kill_at(patch, 6)
            with pytest.raises(Killed):
                method.fit(net, data, run=tmp_path)
        assert equal(tensors(whole), tensors(method.fit(net, data, run=tmp_path)))

    def test_a_finished_run_is_loaded(self, digits, net, tmp_path):
        form = small().fit(net, digits, run=tmp_path)
        again = small().fit(net, digits, run=tmp_path)
        assert equal(tensors(form), tensors(again))
        assert torch.equal(form.sample(5, seed=1), again.sample(5, seed=1))

    def test_a_run_that_was_trained_and_not_yet_saved(self, digits, net, tmp_path):
        form = small().fit(net, digits, run=tmp_path)
        (tmp_path / "done").unlink()
        again = small().fit(net, digits, run=tmp_path)
        assert equal(tensors(form), tensors(again))
        assert again.history == form.history


class TestRollBack:
    @pytest.mark.parametrize("where", ["buffer", "weight"])
    def test_injected_nan_is_caught_and_the_training_finishes(self, digits, net, monkeypatch, where):
        method = small(training=Recipe(epochs=5), buffer_size=70)

        class Spoiling(jem_file.Joint):
            def __call__(self, batch):
                if int(self.done) == 9 and where == "weight":
                    next(self.network.parameters()).data[0, 0] = math.nan
                if int(self.done) == 9 and where == "buffer":
                    self.buffer.samples[:20, 0, 3, 3] = math.nan
                return super().__call__(batch)

        monkeypatch.setattr(jem_file, "Joint", Spoiling)
        form = method.fit(net, digits)
        assert form.events[0]["step"] == 9
        assert "nan" in form.events[0]["reason"]
        assert all(bool(t.isfinite().all()) for t in weights_of(form).values())
        assert form.cost["roll_backs"] == len(form.events) <= 3

    def test_the_buffer_of_an_ended_training_is_good(self, digits, net, monkeypatch):
        trip_at(monkeypatch, 5)
        form = small(rollbacks=0).fit(net, digits)
        assert "ends here" in form.events[0]["change"]
        assert bool(form.buffer.samples.isfinite().all())
        assert form.cost["steps"] == 6

    @pytest.mark.parametrize("recipe", ["default", "rich"])
    def test_training_that_never_works_keeps_what_it_began_with(self, digits, net, monkeypatch, recipe):
        trip_at(monkeypatch, *range(100))
        form = small(training=RECIPES[recipe], rollbacks=3).fit(net, digits)
        assert len(form.events) == 4
        before = tensors(net)
        assert all(torch.equal(before[name], value) for name, value in tensors(form.module).items())
