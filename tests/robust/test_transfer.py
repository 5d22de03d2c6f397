import dataclasses

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.data.reshape import reshaped
from pluriform.errors import ConfigError, GraphError, MemoryBudgetError, ShapeError
from pluriform.robust import linear_probe
from pluriform.robust.head import with_new_head
from pluriform.runs import Run

SHORT = pf.Training(epochs=2, batch_size=20, learning_rate=1e-3)


@pytest.fixture(scope="module")
def digits() -> Data:
    data = pf.load("digits", seed=0)
    cut = {name: Split(*getattr(data, name).batch(torch.arange(60))) for name in ("train", "validation", "test")}
    return dataclasses.replace(data, **cut)


@pytest.fixture(scope="module")
def parity(digits) -> Data:
    """The same digits in three classes."""
    splits = {name: getattr(digits, name) for name in ("train", "validation", "test")}
    thirds = {name: Split(split.inputs, split.targets % 3) for name, split in splits.items()}
    return dataclasses.replace(digits, name="thirds", classes=("0", "1", "2"), **thirds)


@pytest.fixture(scope="module")
def source(digits) -> nn.Module:
    return pf.Training(epochs=1, batch_size=20).fit(pf.nets.build("lenet-bn", digits), digits)


class Dropping(nn.Module):
    """Ends with an averaged 1 x 1 convolution, behind dropout as a module and as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Conv2d(6, 10, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.dropout(self.trunk(x), 0.5, training=self.training)
        return self.head(y).relu().mean((2, 3))


class Branches(nn.Module):
    """Two layers give the output together."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU())
        self.left, self.right = nn.Linear(8, 10), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.trunk(x)
        return self.left(y) + self.right(y)


class Bare(nn.Module):
    """Multiplies by a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(64, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.weight


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_only_the_head_is_new_and_drawn_as_torch_does(source, parity):
    before = state(source.module)
    made = with_new_head(source, parity, None, 5)
    head = {"classifier.4.weight", "classifier.4.bias"}
    assert (
        changed(
            {k: v for k, v in before.items() if k not in head}, {k: v for k, v in state(made).items() if k not in head}
        )
        == set()
    )
    assert before.keys() == state(made).keys()
    assert type(made) is type(source.module)
    weight = made.classifier[4].weight
    assert weight.shape == (3, 84)
    assert 0.97 * 84**-0.5 < weight.abs().max() <= 84**-0.5
    assert float(weight.detach().std()) == pytest.approx(float(nn.Linear(84, 300).weight.detach().std()), rel=0.15)
    assert torch.equal(weight, with_new_head(source, parity, None, 5).classifier[4].weight)
    assert changed(before, state(source.module)) == set()


@pytest.mark.parametrize("mode", ["linear-probe", "fixed-feature"])
def test_frozen_weights_and_statistics_are_the_sources_bit_for_bit(source, parity, mode):
    form = pf.Transfer(mode, training=SHORT).fit(source, parity)
    head = {"classifier.4.weight", "classifier.4.bias"}
    old = {k: v for k, v in state(source.module).items() if k not in head}
    assert changed(old, {k: v for k, v in state(form.module).items() if k not in head}) == set()
    start = with_new_head(source, parity, None, 0).classifier[4].weight
    assert form.module.classifier[4].weight.shape == start.shape
    assert set(form.trained) == head
    assert form.head == "classifier.4"
    assert all(parameter.requires_grad for parameter in form.module.parameters())  # Flags come back.


def test_statistics_follow_the_target_where_they_may(source, parity):
    form = pf.Transfer("fixed-feature", bn="adapt", training=SHORT).fit(source, parity)
    old, new = state(source.module), state(form.module)
    head = ("classifier.4.weight", "classifier.4.bias")
    moved = changed(*({k: v for k, v in found.items() if k not in head} for found in (old, new)))
    layers = [name for name, part in source.module.named_modules() if isinstance(part, nn.BatchNorm2d)]
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert moved == {f"{layer}.{statistic}" for layer in layers for statistic in statistics}


def test_last_blocks_train_with_the_head(parity):
    net = pf.nets.build("resnet8", parity)
    before = state(net)
    form = pf.Transfer("last-n", blocks=1, training=SHORT).fit(net, parity)
    moved = changed(before, state(form.module))
    assert {name.split(".")[0] for name in moved} == {"blocks", "classifier"}
    assert all(name.startswith(("blocks.2.", "classifier.")) for name in moved)
    assert moved >= {name for name, _ in net.named_parameters() if name.startswith("blocks.2.")}
    assert "blocks.2.norm1.running_mean" in moved  # What trains normalises by its batches.
    with pytest.raises(ConfigError, match=r"at most 4 blocks .* got 5 .*full-network"):
        pf.Transfer("last-n", blocks=5, training=SHORT).fit(net, parity)


def test_the_full_network_trains_with_a_rate_of_its_own_for_the_head(source, parity):
    form = pf.Transfer(training=SHORT).fit(source, parity)
    assert changed(state(source.module), state(form.module)) == set(state(source.module))
    start = dict(pf.Transfer(head_rate=1e-6, training=SHORT)._copied(source, parity, 3).named_parameters())
    slow = dict(pf.Transfer(head_rate=1e-6, training=SHORT).fit(source, parity, seed=3).module.named_parameters())
    moves = {name: float((slow[name] - start[name]).detach().abs().max()) for name in slow}
    assert max(moves["classifier.4.weight"], moves["classifier.4.bias"]) < 1e-7
    assert min(move for name, move in moves.items() if "classifier.4" not in name) > 1e-5


@pytest.mark.parametrize("net", ["lenet-bn", "resnet8", "dropping"])
def test_a_linear_probe_on_cached_features_equals_the_uncached_one(parity, net):
    torch.manual_seed(0)
    network = Dropping() if net == "dropping" else pf.nets.build(net, parity)
    cached = pf.Transfer("linear-probe", training=SHORT).fit(network, parity, seed=2)
    plain = pf.Transfer("fixed-feature", training=SHORT).fit(network, parity, seed=2)
    head = cached.module.get_submodule(cached.head).weight
    assert (head - plain.module.get_submodule(cached.head).weight).abs().max() < 1e-5
    x = parity.test.inputs
    assert torch.allclose(cached(x), plain(x), atol=1e-4)
    assert torch.allclose(torch.tensor(cached.history["loss"]), torch.tensor(plain.history["loss"]), atol=1e-4)
    assert not torch.equal(
        head, pf.Transfer("linear-probe")._copied(network, parity, 2).get_submodule(cached.head).weight
    )


def test_features_are_computed_once(parity, monkeypatch):
    passes = []
    net = pf.nets.build("lenet", parity)
    forward = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: passes.append(len(x)) or forward(self, x))
    training = dataclasses.replace(SHORT, epochs=6)
    pf.Transfer("linear-probe", training=training).fit(net, parity)
    once = sum(passes)
    pf.Transfer("fixed-feature", training=training).fit(net, parity)
    assert once < 2 * (len(parity.train) + len(parity.validation)) + 40  # Two convolutions, and a few trials.
    assert sum(passes) - once > 2 * 6 * len(parity.train)


@pytest.mark.parametrize("mode", ["linear-probe", "last-n"])
def test_a_form_and_its_network_are_the_same_source(source, parity, mode):
    method = pf.Transfer(mode, training=dataclasses.replace(SHORT, epochs=1))
    one, other = method.fit(source, parity, seed=4), method.fit(source.module, parity, seed=4)
    assert changed(state(one), state(other)) == set()
    again = method.fit(one, parity, seed=4)  # A transferred form is a source too.
    assert again.predict(parity.test.inputs[:3]).mean.shape == (3, 3)


def test_a_linear_probe_goes_on_where_it_was_interrupted(source, parity, tmp_path, monkeypatch):
    method = pf.Transfer("linear-probe", training=dataclasses.replace(SHORT, epochs=4))
    whole = method.fit(source, parity, seed=1)
    real, count = Run.write_tensors, []

    def stop(self, *args, **kwargs):
        real(self, *args, **kwargs)
        count.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "write_tensors", stop)
    with pytest.raises(KeyboardInterrupt):
        method.fit(source, parity, seed=1, run=tmp_path / "run")
    monkeypatch.setattr(Run, "write_tensors", real)
    assert count
    assert changed(state(whole), state(method.fit(source, parity, seed=1, run=tmp_path / "run"))) == set()


def test_a_network_without_a_clear_head_is_refused_and_a_named_one_taken(parity):
    with pytest.raises(GraphError, match=r"one linear layer.*head='trunk.1' or 'left' or 'right'"):
        pf.Transfer(training=SHORT).fit(Branches(), parity)
    with pytest.raises(GraphError, match=r"one linear layer or 1 x 1 convolution before the output"):
        pf.Transfer(training=SHORT).fit(Bare(), parity)
    with pytest.raises(GraphError, match=r"got 'middle'.*trunk.1 or left or right"):
        pf.Transfer(head="middle", training=SHORT).fit(Branches(), parity)
    with pytest.raises(ShapeError, match=r"left|10"):  # The other branch keeps its ten outputs.
        pf.Transfer(head="left", training=SHORT).fit(Branches(), parity)
    named = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10), nn.LogSoftmax(-1))
    with pytest.raises(GraphError, match=r"got '2', ReLU .*head='1' or '3'"):
        pf.Transfer(head="2", training=SHORT).fit(named, parity)
    assert pf.Transfer(head="3", training=SHORT).fit(named, parity).head == "3"


def test_inputs_of_another_shape_are_refused_with_a_remedy(source, digits):
    large = reshaped(digits, (3, 8, 8))
    with pytest.raises(ShapeError, match=r"shape \(1, 8, 8\), as of digits.*reshaped\(data, \(1, 8, 8\)\)"):
        pf.Transfer(training=SHORT).fit(source, large)
    with pytest.raises(ShapeError, match=r"inputs of shape \(batch, 3, 8, 8\)"):
        pf.Transfer(training=SHORT).fit(source.module, large)
    back = reshaped(large, (1, 8, 8))
    assert pf.Transfer("linear-probe", training=SHORT).fit(source, back).signature.input_shape == (1, 8, 8)
    with pytest.raises(ConfigError, match=r"within \(0.0, 1.0\).*\(-1.0, 1.0\)"):
        pf.Transfer(training=SHORT).fit(source, dataclasses.replace(digits, bounds=(-1.0, 1.0)))


def test_other_sources_and_targets_are_refused(digits):
    ensemble = pf.DeepEnsemble(members=2, training=pf.Training(epochs=1)).fit(pf.nets.build("mlp", digits), digits)
    with pytest.raises(ConfigError, match=r"a form of one network.*got"):
        pf.Transfer(training=SHORT).fit(ensemble, digits)
    splits = {name: getattr(digits, name) for name in ("train", "validation", "test")}
    values = {name: Split(split.inputs, split.targets[:, None].float()) for name, split in splits.items()}
    table = dataclasses.replace(digits, task="regression", classes=(), **values)
    with pytest.raises(ConfigError, match="expected classification; got regression"):
        pf.Transfer(training=SHORT).fit(nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), table)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"mode": "linear-probe", "bn": "adapt"}, "features are computed once.*fixed-feature"),
        (
            {
                "mode": "linear-probe",
                "training": pf.Training(augmentation=pf.Training().augmentation.__class__(shift=1)),
            },
            "no augmentation.*fixed-feature",
        ),
        ({"mode": "last-n", "blocks": 0}, "blocks: at least 1"),
        ({"head_rate": 0}, "head_rate"),
    ],
)
def test_wrong_settings_are_said(facts, words):
    with pytest.raises(ConfigError, match=words):
        pf.Transfer(**facts)


def test_features_that_do_not_fit_are_told_before_they_are_computed(source, parity, monkeypatch):
    monkeypatch.setattr(linear_probe, "ROOM", 0.0)
    with pytest.raises(MemoryBudgetError, match=r"features of at most .* mode='fixed-feature'"):
        pf.Transfer("linear-probe", training=SHORT).fit(source, parity)


def test_what_the_source_learned_comes_over():
    """The same digits under other names, two labels of each."""
    whole = pf.load("digits", seed=0)
    teacher = pf.Training(epochs=8).fit(pf.nets.build("mlp", whole), whole)
    splits = {name: getattr(whole, name) for name in ("train", "validation", "test")}
    renamed = {name: Split(split.inputs, (split.targets + 3) % 10) for name, split in splits.items()}
    few = dataclasses.replace(dataclasses.replace(whole, name="renamed", **renamed).with_labels(20), unlabelled=None)
    training = pf.Training(epochs=150, learning_rate=1e-3)

    def accuracy(form: nn.Module) -> float:
        hits = form.predict(few.test.inputs).mean.argmax(1) == few.test.targets
        return float(hits.float().mean())

    scratch = accuracy(pf.Training(epochs=150).fit(pf.nets.build("mlp", few, seed=1), few))
    probe, full = (
        accuracy(pf.Transfer(mode, training=training).fit(teacher, few)) for mode in ("linear-probe", "full-network")
    )
    assert probe > 0.9 > scratch + 0.05
    assert full > scratch + 0.08


def test_the_source_is_remembered_and_told(source, parity, tmp_path):
    form = pf.Transfer("linear-probe", training=SHORT).fit(source, parity)
    form.save(tmp_path / "form")
    kept = pf.load_form(tmp_path / "form")
    assert kept.origin["source"] == source.origin
    assert kept.origin["source"]["method"]["epochs"] == 1
    result = pf.evaluate(kept, parity, corruptions=())
    assert result.protocol["source"] == source.origin
    assert "source" not in pf.Transfer("linear-probe", training=SHORT).fit(source.module, parity).origin


def test_a_network_that_counts_its_calls_is_left_as_it_was():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return x.flatten(1)

    data, net, state = pf.load("digits"), nn.Sequential(Counting(), nn.Linear(64, 10)), torch.get_rng_state()
    pf.Transfer("full-network", training=pf.Training(epochs=1)).fit(net, data)
    assert float(net[0].calls) == 0
    assert torch.equal(torch.get_rng_state(), state)
