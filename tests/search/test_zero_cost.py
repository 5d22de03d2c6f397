"""Numbers of networks that are not trained: against sums by hand, in searches, and beside the number of parameters."""

import math
import re

import numpy as np
import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.errors import ConfigError
from pluriform.report.figures.trials import search_words
from pluriform.report.row import Row
from pluriform.search.morph_space import MorphSpace
from pluriform.search.moves import replay
from pluriform.search.size import size_of
from pluriform.search.start import morphable
from pluriform.search.zero_cost import ZeroCost, synflow


@pytest.fixture(scope="module")
def data():
    return pf.load("digits")


@pytest.fixture(scope="module")
def start(data):
    return morphable(pf.nets.build("mlp", data), data.train.inputs[:2])


def width(network, inputs):
    """A function of mine."""
    assert not network.training
    return sum(float(p.detach().abs().sum()) for p in network.parameters()) / len(inputs)


def test_synflow_is_the_sum_over_paths():
    """For two dense layers every path counts once for each of its weights: 2 sum |W2| |W1| 1."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False))
    paths = float((net[2].weight.detach().abs().double() @ net[0].weight.detach().abs().double()).sum())
    before = {name: part.clone() for name, part in net.state_dict().items()}
    assert math.exp(synflow(net, torch.rand(5, 3))) == pytest.approx(2 * paths, rel=1e-9)
    assert all(torch.equal(part, before[name]) for name, part in net.state_dict().items())


@pytest.mark.parametrize("prior", ["parameters", "macs", "synflow", width])
def test_numbers_of_a_candidate(prior, start, data):
    space, zero_cost = MorphSpace(start), ZeroCost(prior, start, data, seed=3)
    one = space.random(np.random.default_rng(0))
    found = zero_cost.told(one)
    assert found["parameters"] == math.log(sum(p.numel() for p in replay(start, one.moves).module.parameters()))
    assert list(found) == ["parameters", *([] if prior == "parameters" else [zero_cost.name])]
    assert zero_cost(one) == ZeroCost(prior, start, data, seed=3)(one)
    if prior == "macs":
        assert found["macs"] == math.log(size_of(one.outline).macs)


def test_a_prior_that_is_no_number_names_the_network(start, data):
    zero_cost = ZeroCost(lambda network, inputs: "much", start, data, seed=0)
    with pytest.raises(ConfigError, match=r"a finite number; got 'much' \(prior <lambda> of the start\)"):
        zero_cost(MorphSpace(start).start)


@pytest.mark.parametrize("prior", ["synflow", width])
def test_a_search_tells_it_beside_the_number_of_parameters(prior, data):
    net = pf.nets.build("mlp", data)
    form = pf.MorphismSearch(trials=6, epochs=1, final=0, prior=prior).fit(net, data, seed=1)
    name = prior if isinstance(prior, str) else "width"
    assert all(list(trial["zero_cost"]) == ["parameters", name] for trial in form.facts["trials"])
    assert form.facts["trials"][5]["predicted"] is not None
    words = " ".join(search_words(Row(pf.evaluate(form, data, corruptions=(), samples=10), "search", 0)))
    assert re.search(rf"before training: number of parameters -?[01]\.\d\d, {name} -?[01]\.\d\d\.", words)


def test_names_and_functions(data):
    net = pf.nets.build("mlp", data)
    quick = {"trials": 2, "epochs": 1, "final": 0}
    with pytest.raises(ConfigError, match=r"one of parameters, macs, synflow; got 'synflo'"):
        pf.MorphismSearch(prior="synflo", **quick).fit(net, data)
    named = pf.MorphismSearch(prior="math:isfinite", **quick)
    assert named.to_json()["prior"] == "math:isfinite"
    assert pf.MorphismSearch(prior=width).to_json()["prior"].endswith(":width")
    assert "width" in pf.MorphismSearch(prior=width).label


def test_where_a_prior_fails_for_a_child_the_number_of_the_start_stands_in(start, data, caplog):
    size = sum(p.numel() for p in start.module.parameters())

    def fragile(network, inputs):
        if sum(p.numel() for p in network.parameters()) > size:
            raise ZeroDivisionError("too large for me")
        return 7.0

    space, zero_cost = MorphSpace(start), ZeroCost(fragile, start, data, seed=0)
    child = space.random(np.random.default_rng(0))
    assert child.parameters > size
    assert zero_cost.told(child)["fragile"] == 7.0
    assert "prior fragile of" in caplog.text
    assert "too large for me" in caplog.text
