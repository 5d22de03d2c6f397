"""Imitation unit by unit: what it trains, what it leaves, and that memory, batches and sittings do not matter."""

import hashlib
from dataclasses import replace

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.data.data import Split
from pluriform.errors import MemoryBudgetError
from pluriform.graph.features import features
from pluriform.graph.gather import widen
from pluriform.graph.trace import trace
from pluriform.method import FitContext
from pluriform.narrow.fused_unit import fused_unit
from pluriform.narrow.imitation import Imitation, Measure, bytes_held
from pluriform.narrow.joint import JointImitation
from pluriform.narrow.plan import plan_units
from pluriform.narrow.unit import UnitNetwork
from pluriform.runs import Run
from pluriform.training.augmentation import Augmentation
from pluriform.training.recipe import Recipe

RECIPE = Recipe(epochs=6, learning_rate=5e-3)
CPU = torch.device("cpu")


def chain(width, layers=4):
    parts = [nn.Flatten(), nn.Linear(64, width), nn.ReLU()]
    for _ in range(layers - 2):
        parts += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(width, 10))


@pytest.fixture(scope="module")
def data():
    return pf.load("digits")


@pytest.fixture(scope="module")
def graphs(data):
    """A thin network and a wide one that was trained."""
    torch.manual_seed(0)
    thin = trace(chain(12).eval(), data.train.inputs[:2])
    wide = pf.Training(epochs=8, reinitialise=True).fit(widen(thin, 4).root, data).module
    return thin, trace(wide.eval(), data.train.inputs[:2])


def imitated(graphs, data, recipe=RECIPE, run=None, seed=0, **more):
    plan = plan_units(*graphs)
    return Imitation(*graphs, plan, recipe, **more).run(data, FitContext(seed, run, CPU))


def digest(module):
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in module.state_dict().values())).hexdigest()


def same(one, two):
    return all(torch.equal(one.weights[name], two.weights[name]) for name in one.weights) and all(
        torch.equal(one.maps[name], two.maps[name]) for name in one.maps
    )


@pytest.mark.parametrize("inputs", ["own", "forced"])
def test_it_explains_more_than_the_untrained_stretches(graphs, data, inputs):
    long = imitated(graphs, data, Recipe(epochs=25, learning_rate=5e-3), inputs=inputs)
    short = imitated(graphs, data, Recipe(epochs=1, learning_rate=1e-9), inputs=inputs)
    assert set(long.maps) == {"2", "4", "6"}
    assert all(matrix.shape == (12, 12) for matrix in long.maps.values())
    assert all(a > b for a, b in zip(long.explained, short.explained, strict=True))
    assert min(long.explained) > 0.7


def test_the_networks_that_were_given_stay_as_they_are(graphs, data):
    before = [digest(graph.root) for graph in graphs]
    imitated(graphs, data)
    assert [digest(graph.root) for graph in graphs] == before
    assert all(weight.grad is None for graph in graphs for weight in graph.root.parameters())


def test_imitating_oneself_leaves_nothing_to_learn(graphs, data):
    thin = graphs[0]
    found = imitated((thin, thin), data, Recipe(epochs=1, learning_rate=1e-12))
    assert found.maps == {}
    assert min(found.explained) > 1 - 1e-6
    assert all(torch.allclose(value, found.weights[name], atol=1e-7) for name, value in thin.root.state_dict().items())


class Repeated(nn.Module):
    """Two layers, one of them called in two units; the weight of the other is that of a third."""

    def __init__(self, width):
        super().__init__()
        self.first, self.again = nn.Linear(64, width), nn.Linear(width, width)
        self.third, self.tied = nn.Linear(width, width), nn.Linear(width, width)
        self.tied.weight, self.head = self.third.weight, nn.Linear(width, 10)

    def forward(self, x):
        x = torch.relu(self.again(torch.relu(self.first(x.flatten(1)))))
        x = torch.relu(self.again(torch.relu(self.third(x))))
        return self.head(torch.relu(self.tied(x)))


def test_units_keep_what_they_learned_where_later_ones_share_their_weights(data):
    torch.manual_seed(0)
    thin, wide = (trace(Repeated(width).eval(), data.train.inputs[:2]) for width in (8, 24))
    plan = plan_units(thin, wide, ends=("relu_1", "relu_3"))
    source = Imitation(thin, wide, plan, RECIPE)
    found = source.run(data, FitContext(0, None, CPU))
    thin.root.load_state_dict(found.weights)
    own, aim = (features(graph, data.train.inputs, "relu_1")["relu_1"].detach() for graph in (thin, wide))
    lift = torch.linalg.lstsq(own, aim).solution
    own, aim = (features(graph, data.validation.inputs, "relu_1")["relu_1"].detach() for graph in (thin, wide))
    unexplained = (own @ lift - aim).square().mean() / aim.var(0).mean()
    assert found.explained[0] == pytest.approx(1 - float(unexplained), abs=0.02)
    assert torch.equal(found.weights["tied.weight"], found.weights["third.weight"])


def test_a_frozen_unit_stays_as_it_is(graphs, data):
    thin = trace(chain(12).requires_grad_(False).eval(), data.train.inputs[:2])
    before = digest(thin.root)
    found = imitated((thin, graphs[0]), data, Recipe(epochs=1))
    assert [cost.steps for cost in found.cost] == [0, 0, 0, 0]
    thin.root.load_state_dict(found.weights)
    assert digest(thin.root) == before


@pytest.mark.parametrize("kind", [Imitation, JointImitation])
def test_a_thin_network_that_is_too_thin_is_told_so(kind, data, caplog):
    torch.manual_seed(0)
    thin, wide = (trace(chain(width, 2).eval(), data.train.inputs[:2]) for width in (2, 32))
    source = Imitation(thin, wide, plan_units(thin, wide), RECIPE)._source(data)
    features = source.drawn(2000)[1].double()
    rest = torch.linalg.svdvals(features).square()[2:].sum() / features.numel()
    share = 1 - float(rest / features.var(0, correction=0).mean())
    assert share < 0.8
    kind(thin, wide, plan_units(thin, wide), Recipe(epochs=1)).run(data, FitContext(0, None, CPU))
    assert f"unit 1 of 2, up to 2: 2 channels can carry no more than {share:.3g} of the wide" in caplog.text


def test_labels_are_not_read(graphs, data):
    shuffled = Split(data.train.inputs, data.train.targets.flip(0))
    assert same(imitated(graphs, data), imitated(graphs, replace(data, train=shuffled)))


def test_held_and_streamed_pairs_give_the_same_up_to_rounding(graphs, data):
    held, streamed = imitated(graphs, data), imitated(graphs, data, cache_bytes=0)
    for name, weight in held.weights.items():
        assert torch.allclose(weight, streamed.weights[name], atol=2e-3)
    assert held.explained == pytest.approx(streamed.explained, abs=2e-3)


def test_augmented_images_are_computed_anew(data):
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
    )
    thin = trace(net.eval(), data.train.inputs[:2])
    wide = trace(widen(thin, 2).root.eval(), data.train.inputs[:2])
    shifted = Recipe(epochs=1, augmentation=Augmentation(shift=1))
    moved, still = imitated((thin, wide), data, shifted), imitated((thin, wide), data, Recipe(epochs=1))
    assert set(moved.maps) == set(still.maps) == {"1", "4"}
    assert not same(moved, still)


def test_it_goes_on_after_a_kill_to_the_same_bits(graphs, data, tmp_path, monkeypatch):
    whole = imitated(graphs, data)
    loop, trained = Imitation._loop, []

    def killed(self, place, *rest):
        if place == 2 and len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(place)
        return loop(self, place, *rest)

    monkeypatch.setattr(Imitation, "_loop", killed)
    with Run(tmp_path / "run", {}) as run, pytest.raises(KeyboardInterrupt):
        imitated(graphs, data, run=run)
    trained.append(None)
    with Run(tmp_path / "run", {}) as run:
        again = imitated(graphs, data, run=run)
    assert same(whole, again)
    assert again.explained == whole.explained


def test_the_room_of_a_cache_is_that_of_its_tensors(graphs, data):
    plan = plan_units(*graphs)
    samples = len(data.train) + len(data.validation)
    # Inputs and targets of the first unit, while those of the second are computed from them.
    assert bytes_held(plan, data) == 4 * samples * (64 + 48 + 12 + 48)


def test_fused_kernels_give_the_same_up_to_rounding(data, monkeypatch):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(),
        nn.AvgPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 10),
    )  # fmt: skip
    thin = trace(net.eval(), data.train.inputs[:2])
    wide = trace(widen(thin, 3).root.eval(), data.train.inputs[:2])
    few = replace(data, train=Split(*data.train.batch(torch.arange(128))))
    plain, taken = imitated((thin, wide), few, Recipe(epochs=2, learning_rate=1e-3)), []

    def watched(network, inputs):
        taken.append(fused_unit(network, inputs))
        return taken[-1]

    monkeypatch.setattr("pluriform.narrow.imitation.LEAST_MULTIPLICATIONS", 0)
    monkeypatch.setattr("pluriform.narrow.imitation.fused_unit", watched)
    fused = imitated((thin, wide), few, Recipe(epochs=2, learning_rate=1e-3))
    assert [found is None for found in taken] == [False, False, False, True]  # The last is a linear layer.
    for name, weight in plain.weights.items():
        assert torch.allclose(fused.weights[name], weight, atol=5e-3)  # Adam turns rounding into steps.
    assert fused.explained == pytest.approx(plain.explained, abs=5e-3)


def test_a_cache_that_is_too_small_is_refused(graphs, data):
    needed = bytes_held(plan_units(*graphs), data)
    words = (
        rf"at most 1,000 bytes for the cache; got activations of 4 units.*{needed:,} bytes.*set cache_bytes to {needed}"
    )
    with pytest.raises(MemoryBudgetError, match=words):
        imitated(graphs, data, cache_bytes=1000)


@pytest.mark.parametrize(("shape", "axis"), [((9, 4, 5, 5), 1), ((9, 4), 1), ((9, 7, 4), 2)])
def test_the_loss_without_lifted_outputs_is_that_with_them(shape, axis):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    wide = torch.randn([12 if place == axis else size for place, size in enumerate(shape)], generator=generator)
    network = UnitNetwork(nn.Tanh(), None, torch.randn(4, 4, generator=generator), torch.randn(12, 4), (axis, axis))
    measure = Measure(axis, torch.tensor(2.5))
    found = []
    for loss in (measure.trained(network, x, wide), measure(network(x), wide)):
        network.zero_grad()
        loss.backward()
        found.append([loss.detach(), *(weight.grad.clone() for weight in network.parameters())])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(*found, strict=True))
