"""Units that are trained at once: losses against plain algebra; memory, sittings, shared layers do not matter."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pluriform as pf
from pluriform.data.data import Split
from pluriform.errors import MemoryBudgetError
from pluriform.graph.gather import widen
from pluriform.graph.trace import trace
from pluriform.method import FitContext
from pluriform.narrow.imitation import bytes_held
from pluriform.narrow.joint import JointImitation, Units
from pluriform.narrow.plan import plan_units
from pluriform.narrow.unit import UnitNetwork
from pluriform.runs import Run
from pluriform.training.recipe import Recipe

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=2, learning_rate=5e-3)


def chain(width):
    parts = [nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)]
    return nn.Sequential(*parts)


@pytest.fixture(scope="module")
def data():
    whole = pf.load("digits")
    few = Split(*whole.validation.batch(torch.arange(100)))
    return replace(whole, train=Split(*whole.train.batch(torch.arange(600))), validation=few)


@pytest.fixture(scope="module")
def graphs(data):
    torch.manual_seed(0)
    thin = trace(chain(8).eval(), data.train.inputs[:2])
    wide = pf.Training(epochs=5, reinitialise=True).fit(widen(thin, 4).root, data).module
    return thin, trace(wide.eval(), data.train.inputs[:2])


def imitated(graphs, data, recipe=RECIPE, run=None, **more):
    return JointImitation(*graphs, plan_units(*graphs), recipe, **more).run(data, FitContext(0, run, CPU))


@pytest.mark.parametrize("forced", [False, True])
def test_units_read_each_other_or_the_wide_network(forced):
    torch.manual_seed(0)
    one, two = nn.Linear(5, 3), nn.Linear(3, 2)
    lift, reduce, x, wide = torch.randn(7, 3), torch.randn(3, 7), torch.randn(4, 5), torch.randn(4, 7)
    parts = [UnitNetwork(one, None, None, lift, (1, 1)), UnitNetwork(two, None, reduce, None, (1, 1))]
    first, second = Units(parts, forced)(x, [wide, torch.zeros(4, 2)])
    lifted = one(x) @ lift.T
    assert torch.allclose(first, lifted, atol=1e-6)
    assert torch.allclose(second, two((wide if forced else lifted) @ reduce.T), atol=1e-5)
    second.square().sum().backward()
    assert (one.weight.grad is None) == forced


@pytest.mark.parametrize("inputs", ["own", "forced"])
def test_it_explains_more_than_the_untrained_network(graphs, data, inputs):
    long = imitated(graphs, data, Recipe(epochs=25, learning_rate=5e-3), inputs=inputs)
    short = imitated(graphs, data, Recipe(epochs=1, learning_rate=1e-9), inputs=inputs)
    assert set(long.maps) == {"2", "4"}
    assert all(a > b for a, b in zip(long.explained, short.explained, strict=True))
    assert min(long.explained) > 0.4


def test_what_is_told_is_the_loss_of_the_network_with_its_maps(graphs, data):
    found = imitated(graphs, data)
    thin, wide = chain(8), graphs[1].root
    thin.load_state_dict(found.weights)
    x, passed = data.validation.inputs, data.validation.inputs
    with torch.no_grad():
        for name, layer in thin.named_children():
            passed = layer(passed)
            passed = passed @ found.maps[name].T if name in found.maps else passed
        divergence = F.kl_div(passed.log_softmax(1), wide(x).log_softmax(1), log_target=True, reduction="batchmean")
    assert found.explained[-1] == pytest.approx(1 - float(divergence), abs=1e-4)
    assert found.cost[0].steps == 2 * 10


def test_imitating_oneself_leaves_nothing_to_learn(graphs, data):
    thin = graphs[0]
    found = imitated((thin, thin), data, Recipe(epochs=1, learning_rate=1e-12))
    assert min(found.explained) > 1 - 1e-6


def test_memory_does_not_matter_and_is_stated(graphs, data):
    held, streamed = imitated(graphs, data), imitated(graphs, data, cache_bytes=0)
    assert held.explained == pytest.approx(streamed.explained, abs=2e-3)
    needed = 4 * 700 * (64 + 32 + 32 + 10)
    assert bytes_held(plan_units(*graphs), data, jointly=True) == needed
    with pytest.raises(MemoryBudgetError, match=f"set cache_bytes to {needed}"):
        imitated(graphs, data, cache_bytes=needed - 1)


def test_it_goes_on_after_a_kill_to_the_same_bits(graphs, data, tmp_path, monkeypatch):
    from pluriform.training.loop import Loop

    whole, run = imitated(graphs, data), Loop._run_epoch

    def killed(self, *rest):
        run(self, *rest)
        self._save()
        raise KeyboardInterrupt

    with Run(tmp_path / "run", {}) as opened:
        monkeypatch.setattr(Loop, "_run_epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            imitated(graphs, data, run=opened)
        monkeypatch.setattr(Loop, "_run_epoch", run)
        again = imitated(graphs, data, run=opened)
    assert all(torch.equal(again.weights[name], weight) for name, weight in whole.weights.items())
    assert all(torch.equal(again.maps[name], matrix) for name, matrix in whole.maps.items())


class Twice(nn.Module):
    """One layer in two units, with statistics."""

    def __init__(self, width):
        super().__init__()
        self.first, self.again, self.norm = nn.Linear(64, width), nn.Linear(width, width), nn.BatchNorm1d(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = torch.relu(self.again(torch.relu(self.first(x.flatten(1)))))
        return self.head(torch.relu(self.norm(self.again(x))))


def test_a_layer_in_two_units_stays_one(data):
    torch.manual_seed(0)
    thin, wide = (trace(Twice(width).eval(), data.train.inputs[:2]) for width in (8, 16))
    plan = plan_units(thin, wide, ends=("relu_1", "relu_2"))
    imitation = JointImitation(thin, wide, plan, RECIPE)
    found = imitation.run(data, FitContext(0, None, CPU))
    first, second = (part.get_submodule("again") for part in imitation.thin[:2])
    assert first.weight is second.weight
    assert torch.equal(found.weights["again.weight"], first.weight)
    assert int(found.weights["norm.num_batches_tracked"]) == found.cost[0].steps


def test_the_users_own_network_comes_out(data):
    name, data = "resnet8", replace(data, train=Split(*data.train.batch(torch.arange(130))))
    stages = {stage: Recipe(epochs=1) for stage in ("wide_training", "imitation", "logits", "training")}
    net = pf.nets.build(name, data)
    form = pf.WideThenNarrow(2, jointly=True, **stages).fit(net, data)
    stock = pf.nets.build(name, data)
    stock.load_state_dict(form.module.state_dict(), strict=True)
    x = data.test.inputs[:20]
    assert torch.allclose(stock.eval()(x), form(x), atol=1e-6)
    assert max(form.facts["merge"]["evaluation"], form.facts["merge"]["training"]) <= 1e-5
    assert len(form.facts["merge"]["places"]) > 0
