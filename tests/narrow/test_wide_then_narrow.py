"""The whole method: what comes out is the user's own network, it learned, and sittings do not matter."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.data.data import Split
from pluriform.errors import ConfigError, GraphError, MemoryBudgetError
from pluriform.narrow import fold
from pluriform.narrow.fold import merge
from pluriform.narrow.wide_then_narrow import WideThenNarrow
from pluriform.training.augmentation import Augmentation

CLASSES = 10


def short(epochs=1, rate=3e-3):
    return pf.Training(epochs=epochs, learning_rate=rate)


def method(widen=2, **more):
    stages = {name: short() for name in ("wide_training", "imitation", "logits", "training")}
    return WideThenNarrow(widen, **(stages | more))


@pytest.fixture(scope="module")
def data():
    return pf.load("digits")


@pytest.fixture(scope="module")
def few(data):
    """Enough to run every stage."""
    return replace(data, train=Split(*data.train.batch(torch.arange(130))))


def deep_thin(width=12, layers=8):
    torch.manual_seed(0)
    parts = [nn.Flatten(), nn.Linear(64, width), nn.ReLU()]
    for _ in range(layers - 2):
        parts += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(width, CLASSES))


class Attending(nn.Module):
    """Rows of an image as tokens, two blocks of attention and MLP."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(8, 12)
        self.norms = nn.ModuleList(nn.LayerNorm(12) for _ in range(4))
        self.joined = nn.ModuleList(nn.Linear(12, 36) for _ in range(2))
        self.mixed = nn.ModuleList(nn.Linear(12, 12) for _ in range(2))
        self.mlps = nn.ModuleList(nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 12)) for _ in range(2))
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x):
        x = self.embed(x.squeeze(1))
        for k in range(2):
            q, key, v = self.joined[k](self.norms[2 * k](x)).chunk(3, -1)
            x = x + self.mixed[k](nn.functional.scaled_dot_product_attention(q, key, v))
            x = x + self.mlps[k](self.norms[2 * k + 1](x))
        return self.head(x.mean(1))


@pytest.mark.parametrize("name", ["lenet", "convnet-bn", "resnet8", "wrn-10-1"])
def test_the_users_own_network_comes_out(name, few):
    data = few
    net = pf.nets.build(name, data)
    form = method().fit(net, data)
    stock = pf.nets.build(name, data)
    stock.load_state_dict(form.module.state_dict(), strict=True)
    x = data.test.inputs[:20]
    assert type(form.module) is type(net)
    assert torch.allclose(stock.eval()(x), form(x), atol=1e-6)
    assert form.cost["thin_macs"] * 2 < form.cost["wide_macs"]
    assert set(form.facts["explained"]) > {"output"}


def test_a_transformer_is_widened_inside_its_blocks(few):
    data = few
    net = Attending()
    plan = method().plan(net, data)
    assert {unit.lift for unit in plan.units} == {"none"}
    form = method(4).fit(net, data)
    Attending().load_state_dict(form.module.state_dict(), strict=True)
    assert form.cost["thin_macs"] < form.cost["wide_macs"]


def test_a_deep_thin_network_learns_what_it_does_not_learn_alone(data):
    alone = pf.Training(epochs=40, learning_rate=3e-3).fit(deep_thin(), data)
    taught = WideThenNarrow(
        4, wide_training=short(20), imitation=short(25, 5e-3), logits=short(10), training=short(5, 1e-3)
    ).fit(deep_thin(), data)
    hits = [float((form(data.test.inputs).argmax(1) == data.test.targets).float().mean()) for form in (alone, taught)]
    assert hits[1] > hits[0] + 0.02


def test_the_merged_network_is_the_one_with_maps(few, monkeypatch):
    seen, x = [], few.test.inputs[:50]

    def watched(graph, maps, batches):
        made = merge(graph, maps, batches)
        passed = x.flatten(1)
        for name, layer in graph.root.named_children():
            passed = passed if name == "0" else layer(passed)
            passed = passed @ maps[name].T if name in maps else passed
        seen.append((set(maps), passed, made.network(x)))
        return made

    monkeypatch.setattr("pluriform.narrow.wide_then_narrow.merge", watched)
    form = method(inputs="forced").fit(deep_thin(), few)
    ((maps, right, found),) = seen
    assert maps == {unit.split()[1] for unit in form.facts["plan"].splitlines()[1:-1]}
    assert (found - right).abs().max() < 1e-5 * right.abs().max()
    assert [name for name, _ in form.module.named_parameters()] == [name for name, _ in deep_thin().named_parameters()]


def test_what_a_fit_took_and_what_came_of_it_is_told(few):
    form = method(4, units=3).fit(deep_thin(), few)
    facts = form.facts
    assert json.loads(json.dumps(facts)) == facts
    merged = facts["merge"]
    ends = [row.split()[1] for row in facts["plan"].splitlines()[1:-1]]
    assert list(merged["places"]) == ends
    assert list(facts["explained"]) == [*ends, "output"]
    assert merged["places"][ends[0]] == f"forward into {int(ends[0]) + 1}"
    assert 0 < merged["evaluation"] <= merged["tolerance"] == 1e-5
    assert 0 < merged["training"] <= 1e-5
    thin, wide = facts["networks"]["thin"], facts["networks"]["wide"]
    hidden = 6 * (12 * 12 + 12) + 64 * 12 + 12 + 12 * 10 + 10
    assert thin["parameters"] == hidden == sum(p.numel() for p in form.module.parameters())
    assert wide["macs"] == 64 * 48 + 6 * 48 * 48 + 48 * 10
    assert wide["memory"] > thin["memory"] > 0
    assert all(found["latency"].keys() == {"1", "128"} and min(found["latency"].values()) > 0 for found in (thin, wide))


def test_passes_are_shares_of_the_thin_network(few):
    cost = method(4, units=3).fit(deep_thin(), few).facts["cost"]
    samples, held = 3 * 64, len(few.train) + len(few.validation)  # Three steps of a batch.
    whole, lifted = 64 * 12 + 6 * 144 + 120, 48 * 12
    products = 2 * 12 * 12 * 48 / short().batch_size  # Of a lift and a reducing map, once a batch.
    units = whole + 2 * lifted + 2 * 144 + products
    assert cost["thin_passes"]["imitation"] == pytest.approx(samples * units / whole)
    assert cost["thin_passes"]["logits"] == cost["thin_passes"]["labels"] == cost["wide_passes"] == samples
    assert cost["wide_forward_passes"] == pytest.approx(held + len(few.train))
    assert 0 < cost["thin_forward_passes"] < held
    streamed = method(4, units=3, cache_bytes=0).fit(deep_thin(), few).facts["cost"]
    assert streamed["thin_passes"] == cost["thin_passes"]
    assert streamed["wide_forward_passes"] > samples + samples


def test_the_plan_is_told_before_anything_is_trained(few, caplog, monkeypatch):
    def refused(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pluriform.training.loop.Loop.run", refused)
    with caplog.at_level("INFO", "pluriform"), pytest.raises(KeyboardInterrupt):
        method(3).fit(deep_thin(), few)
    assert str(method(3).plan(deep_thin(), few)) in caplog.text
    assert "12    36    pair" in caplog.text


def test_regression_ends_with_a_noise_variance():
    x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    data = pf.load(x, (x[:, :2] * x[:, 2:4]).sum(1, keepdim=True), task="regression")
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 1))
    form = method().fit(net, data)
    assert form.predict(data.test.inputs).variance.shape == (len(data.test), 1)


def test_a_saved_wide_network_is_taken_as_it_is(data, tmp_path):
    torch.manual_seed(1)
    wide = pf.Training(epochs=2).fit(deep_thin(48), data)
    wide.save(tmp_path / "wide")
    form = method(wide=str(tmp_path / "wide")).fit(deep_thin(), data)
    assert form.cost["wide_seconds"] == 0
    assert "48" in str(method(wide=str(tmp_path / "wide")).plan(deep_thin(), data))
    pf.Training(epochs=1).fit(deep_thin(48, layers=5), data).save(tmp_path / "other")
    with pytest.raises(GraphError, match="a node '10' in the wide network, of shape 12 but for its channels; got none"):
        method(wide=str(tmp_path / "other")).fit(deep_thin(), data)


@pytest.mark.parametrize("label", ["unit-2", "labels"])
def test_a_killed_fit_goes_on_to_the_same_bits(label, few, tmp_path, monkeypatch):
    from pluriform.training.loop import Loop

    whole = method(units=3).fit(deep_thin(), few)
    run, killed = Loop.run, []

    def interrupted(self):
        if self.label == label and not killed:
            killed.append(label)
            raise KeyboardInterrupt
        return run(self)

    monkeypatch.setattr(Loop, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        method(units=3).fit(deep_thin(), few, run=tmp_path / "run")
    again = method(units=3).fit(deep_thin(), few, run=tmp_path / "run")
    assert killed
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    assert again.facts["explained"] == whole.facts["explained"]


def test_the_given_network_and_data_stay_as_they_are(data):
    net, twin, inputs = deep_thin(), deep_thin(), data.train.inputs.clone()
    method().fit(net, data)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    assert torch.equal(data.train.inputs, inputs)


def test_a_form_is_saved_and_loaded(data, tmp_path):
    form = method().fit(deep_thin(), data)
    form.save(tmp_path / "form")
    again = pf.load_form(tmp_path / "form")
    assert torch.equal(again(data.test.inputs[:5]), form(data.test.inputs[:5]))
    assert again.facts == form.facts


def test_an_ensemble_is_no_wide_network(few, tmp_path):
    class Called(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.first, self.head = nn.Linear(64, width), nn.Linear(width, CLASSES)

        def forward(self, x):
            return self.head(torch.relu(self.first(x.flatten(1))))

    pf.DeepEnsemble(members=2, training=short()).fit(Called(8), few).save(tmp_path / "wide")
    with pytest.raises(GraphError, match="everything passes relu too; got one in which branches.*no ensemble"):
        method(wide=str(tmp_path / "wide")).plan(Called(4), few)


def test_bad_settings_say_what_to_do(data):
    with pytest.raises(ConfigError, match="widen: a factor above 1; got 1"):
        WideThenNarrow(1)
    with pytest.raises(ConfigError, match="units: at least 1; got 0"):
        WideThenNarrow(units=0)
    with pytest.raises(ConfigError, match="channels that stay inside a block"):
        method(widening="inner").fit(deep_thin(), data)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    with pytest.raises(GraphError, match="at least one group of channels that can be widened; got"):
        method().fit(linear, data)


def test_the_plan_refuses_what_the_fit_refuses(few):
    norms = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, CLASSES))
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    refused = [
        (linear, 2, GraphError, "at least one group of channels that can be widened; got"),
        (Wilful(), 2, GraphError, "got only fixed ones .the code could not be followed."),
        (
            deep_thin(),
            1.01,
            ConfigError,
            "adds a channel to some group; got 1.01 for groups of at most 12",
        ),
        (norms, 1.5, ConfigError, "copies all channels of a norm equally often; got 1.5.*use a whole number"),
    ]
    for net, factor, error, words in refused:
        with pytest.raises(error, match=words):
            method(factor).plan(net, few)
        with pytest.raises(error, match=words):
            method(factor).fit(net, few)
    with pytest.raises(ConfigError, match="widen: a factor above 1; got inf"):
        method(float("inf"))


class Wilful(nn.Module):
    """Control flow on values."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(64, 8), nn.Linear(8, CLASSES)

    def forward(self, x):
        x = torch.relu(self.first(x.flatten(1)))
        return self.second(x if x.sum() > 0 else -x)


def test_outputs_that_do_not_fit_the_cache_are_said_before_anything_is_trained(few, monkeypatch):
    shifted = pf.Training(epochs=1, augmentation=Augmentation(shift=1))  # Units hold nothing then.
    monkeypatch.setattr("pluriform.training.loop.Loop.run", lambda _: pytest.fail("trained"))
    with pytest.raises(MemoryBudgetError, match="at most 1,000 bytes .*; got outputs for 130 samples, 5,200"):
        method(imitation=shifted, cache_bytes=1000).fit(deep_thin(), few)


def test_outputs_that_are_large_are_computed_with_each_batch_by_default(few, monkeypatch):
    monkeypatch.setattr("pluriform.narrow.wide_then_narrow.CACHE_BYTES", 1000)
    cost = method(units=2).fit(deep_thin(), few).facts["cost"]
    assert cost["wide_forward_passes"] == pytest.approx(len(few.train) + len(few.validation) + 3 * 64)


def test_a_wide_network_of_other_shapes_is_named_by_block_and_shape(data, tmp_path):
    def convolutions(stride):
        first = nn.Conv2d(1, 4, 3, padding=1, stride=stride)
        return nn.Sequential(first, nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                             nn.Flatten(), nn.Linear(4, CLASSES))  # fmt: skip

    pf.Training(epochs=1).fit(convolutions(2), data).save(tmp_path / "wide")
    with pytest.raises(GraphError, match="the shape 4x8x8 at 1 but for its channels; got 4x4x4"):
        method(wide=str(tmp_path / "wide")).fit(convolutions(1), data)


def test_what_cannot_work_is_said_before_anything_is_trained(few, monkeypatch):
    monkeypatch.setattr("pluriform.training.loop.Loop.run", lambda _: pytest.fail("trained"))
    with pytest.raises(MemoryBudgetError, match="at most 1,000 bytes for the cache; got activations of 6 units for"):
        method(cache_bytes=1000).fit(deep_thin(), few)
    with pytest.raises(GraphError, match="nowhere"):
        method(ends=("nowhere",)).fit(deep_thin(), few)


def test_a_merge_that_is_not_exact_is_refused_and_names_the_path(few, monkeypatch):
    def inexact(root, folds, maps):
        made = multiplied(root, folds, maps)
        made.get_submodule(folds[0].layers[0].layer).weight.data[0] += 0.1
        return made

    multiplied = fold._multiplied
    monkeypatch.setattr(fold, "_multiplied", inexact)
    with pytest.raises(GraphError, match=r"apart.*map behind \d+, multiplied forward into \d+"):
        method().fit(deep_thin(), few)
